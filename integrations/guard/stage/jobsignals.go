package stage

import (
	"syscall"
	"time"
)

// jobSignals tells a signal that only the face got (kill PID) from one that the
// whole job got (Ctrl-C, kill %1, a service manager): the command, being in the
// same process group, has had the second kind already, and must not get it twice,
// since many programs take a second Ctrl-C for impatience.
//
// The init is a member of the group too: what the face reports and the init did
// not see within settleTime was for the face alone.
type jobSignals struct {
	seen    map[syscall.Signal]int // by this process, not yet reported by the face
	at      map[syscall.Signal]time.Time
	waiting []pendingSignal
}

func newJobSignals() jobSignals {
	return jobSignals{seen: make(map[syscall.Signal]int), at: make(map[syscall.Signal]time.Time)}
}

type pendingSignal struct {
	signal syscall.Signal
	until  time.Time
}

const (
	// settleTime is how much later than the face's report our own copy of one
	// group signal may be. The kernel sends both within microseconds.
	settleTime = 25 * time.Millisecond
	// seenTime is how long a copy of ours waits for the face's report: it comes
	// late when the face was stopped together with the job.
	seenTime = time.Second
)

// saw notes our own copy.
func (j *jobSignals) saw(s syscall.Signal) {
	for i, p := range j.waiting {
		if p.signal == s {
			j.waiting = append(j.waiting[:i], j.waiting[i+1:]...)
			return
		}
	}
	j.seen[s]++
	j.at[s] = time.Now()
}

// report takes what the face has got: it is dropped when our own copy was here
// before, and waits for it otherwise.
func (j *jobSignals) report(s syscall.Signal) {
	if time.Since(j.at[s]) > seenTime {
		j.seen[s] = 0
	}
	if j.seen[s] > 0 {
		j.seen[s]--
		return
	}
	j.waiting = append(j.waiting, pendingSignal{signal: s, until: time.Now().Add(settleTime)})
}

// due fires when the oldest report has waited long enough.
func (j *jobSignals) due() <-chan time.Time {
	if len(j.waiting) == 0 {
		return nil
	}
	return time.After(time.Until(j.waiting[0].until))
}

// settle forwards what has waited long enough.
func (j *jobSignals) settle(send func(syscall.Signal)) {
	for len(j.waiting) > 0 && !time.Now().Before(j.waiting[0].until) {
		send(j.waiting[0].signal)
		j.waiting = j.waiting[1:]
	}
}

func (j *jobSignals) forget() { clear(j.seen) }
