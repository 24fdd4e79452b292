package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard/stage"
	"golang.org/x/sys/unix"
)

const (
	// killLead is how long before the deadline a tree that did not end by itself is
	// killed, so that the keeper outlives it and can say what happened. The kernel's
	// timer, at the deadline itself, is for when this code does not run.
	killLead = 100 * time.Millisecond

	// releaseTime bounds the wait for the quorum to confirm a release. The agent
	// goes on trying, and sees by the witnesses that the tree is gone.
	releaseTime = 5 * time.Second

	// lostReleaseTime is the same for a lease that was lost because nobody
	// answered: another answer is unlikely.
	lostReleaseTime = 500 * time.Millisecond

	// decideTime is how long the agent may need beyond --wait before the guard
	// gives up by itself: an election is a delay, not an answer.
	decideTime = 10 * time.Second
)

// A phase is how far the guard has come; they follow each other, but that a grant
// which was acknowledged too late leads from accepting back to waiting.
type phase int

const (
	waiting   phase = iota // for the grant
	accepting              // acknowledged, not yet confirmed; the timers are armed
	starting               // the init was told to start the command
	running
	ending // the tree was told to end, or the command has ended
)

// keeper is the middle stage. All fields belong to the goroutine of run.
type keeper struct {
	Options
	face *stage.Link
	file string // the command's
	tree *tree
	hold *hold // of the tree, or of the one that is being tried; see ask

	dead *boottime.KillTimer // at the deadline, on this process
	wake *boottime.Timer     // the next of: stopAt, killAt

	phase    phase
	token    int64
	files    stage.Files   // of the command
	deadline time.Duration // boot time; 0 before the grant
	killAt   time.Duration // boot time; 0 until the tree was told to end
	atRisk   bool
	end      *outcome // decided; the guard ends so once the tree is gone
	released bool     // the agent knows that the hold is over

	pending *Event           // a grant to a job that is stopped; see pause.go
	look    <-chan time.Time // at the job again

	speaking atomic.Bool // say is writing
}

func (k *keeper) arm() (err error) {
	if k.dead, err = boottime.NewKillTimer(); err != nil {
		return err
	}
	k.wake, err = boottime.NewTimer()
	return err
}

// run is the life of the keeper, from the tree's empty place to its end.
func (k *keeper) run() outcome {
	defer k.wake.Close()
	stage.RestLater()
	k.tree.watch()
	k.loop(k.patience())

	// Nothing of the tree is left. What follows may take its time.
	_ = k.dead.Stop()
	k.files.Remove()
	go k.hold.ignoreEvents()
	k.release()
	k.hold.stop()
	return *k.end
}

// ask opens the hold for a tree that is being tried. The agent is asked while the
// init starts, where the end of a try is an end that the agent sees by itself: an
// init in a namespace is a witness that says all, and behind the last rung the
// keeper ends too. What it answers is read once the tree is there (loop); nothing is
// acknowledged before. forget undoes it, for a tree that did not come to be.
func (k *keeper) ask(t *tree) (forget func(), err error) {
	w, err := t.witnesses()
	if err != nil {
		return nil, err
	}
	k.hold = newHold(k.Agent, w)
	k.hold.patient = k.waitForAgent
	k.hold.start()
	return k.hold.forget, nil
}

// loop serves everybody until the tree is gone.
func (k *keeper) loop(patience <-chan time.Time) {
	face := k.listen()
	messages, gone := k.tree.messages, k.tree.gone
	for messages != nil || gone != nil {
		select {
		case s, ok := <-face:
			if !ok {
				face = nil
				k.stop(failure(ExitLeaseLost, "")) // nobody is there to hear it
				continue
			}
			k.signal(s)
		case m, ok := <-messages:
			if !ok {
				messages = nil
				continue
			}
			k.heard(m)
		case <-gone:
			gone = nil
		case e := <-k.hold.events:
			k.event(e)
		case err := <-k.hold.failed:
			k.failed(err)
		case <-k.wake.C:
			k.awake()
		case <-k.look:
			k.lookAgain()
		case <-patience:
			patience = nil
			if k.phase <= accepting && k.end == nil {
				k.finish(failure(ExitNotGot, "the lock %s was not got within %v", k.Lock, k.Wait))
			}
		}
	}
	if k.end == nil { // somebody killed the init, and the kernel everything else
		k.end = &outcome{number: int(unix.SIGKILL), bySignal: true}
	}
}

// listen passes on what the face reports. The goroutine ends with the face, or
// with the process.
func (k *keeper) listen() <-chan syscall.Signal {
	c := make(chan syscall.Signal)
	go func() {
		defer close(c)
		for {
			m, err := k.face.Recv()
			if err != nil {
				return
			}
			c <- syscall.Signal(m.Number)
		}
	}()
	return c
}

// patience fires when the agent should have said by itself that the wait is over.
func (k *keeper) patience() <-chan time.Time {
	if k.Wait < 0 {
		return nil
	}
	return time.After(k.Wait + decideTime)
}

// signal is what the user sent to the face.
func (k *keeper) signal(s syscall.Signal) {
	if k.phase >= starting {
		k.tree.forward(s)
		return
	}
	switch s {
	case unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM:
		k.finish(outcome{number: int(s), bySignal: true}) // as a command that waits would end
	}
}

// heard is what the init says.
func (k *keeper) heard(m stage.Message) {
	switch m.Kind {
	case stage.Started:
		if k.phase == starting {
			k.phase = running
		}
	case stage.Failed:
		code := ExitCannotRun
		if syscall.Errno(m.Number) == unix.ENOENT {
			code = ExitNotFound
		}
		k.finish(failure(code, "run %s: %v", k.Command[0], syscall.Errno(m.Number)))
	case stage.Ended:
		// What the command leaves behind ends with it, but may clean up.
		k.stop(outcome{number: m.Number, bySignal: m.BySig})
	}
}

// event is what the agent says.
func (k *keeper) event(e Event) {
	if e.Deadline != 0 && k.end == nil {
		if err := checkDeadline(e, k.TTL); err != nil {
			k.stop(failure(ExitUnavailable, "%v", err))
			return
		}
	}
	switch e.State {
	case Queued:
		k.pending = nil
		if k.phase == accepting {
			k.phase = waiting
			k.disarm()
		}
	case Held:
		k.held(e)
	case Renewed:
		if k.pending != nil {
			k.pending.Deadline = max(k.pending.Deadline, e.Deadline)
			return
		}
		k.extend(e)
		k.atRisk = false
		if k.phase == accepting && k.end == nil {
			k.start()
		}
	case AtRisk:
		if !k.atRisk && k.phase == running {
			k.say("the quorum is silent; the lock %s is safe for another %v", k.Lock,
				(k.stopAt() - boottime.Boottime()).Round(100*time.Millisecond))
		}
		k.atRisk = true
	case Lost:
		k.pending = nil
		if k.phase < starting && k.end == nil {
			k.phase = waiting
			k.disarm()
			k.hold.again <- struct{}{} // one Lost a hold, so there is room
			return
		}
		k.released = true
		k.stop(lost("the lock %s was lost (%s); the command was stopped", k.Lock, e.Reason))
	case Released:
		k.pending = nil
		k.over(e)
	}
}

// held takes a grant, or its repetition on a new connection.
func (k *keeper) held(e Event) {
	if k.phase >= starting {
		if e.Token != k.token {
			k.stop(lost("the lock %s was lost and granted anew; the command was stopped", k.Lock))
			return
		}
		k.extend(e)
		return
	}
	if k.end != nil || k.pause(e) {
		return
	}
	if k.late(e) {
		k.finish(failure(ExitNotGot, "the lock %s was granted with too little of its lease left for a grace of %v; "+
			"use a longer --ttl or a shorter --grace", k.Lock, k.Grace))
		return
	}
	k.token, k.deadline = e.Token, 0
	k.extend(e) // armed before anything runs
	k.phase = accepting
	_ = k.hold.ack() // without a connection the grant is repeated on the next
}

// late says that a grant leaves no time to run anything.
func (k *keeper) late(e Event) bool {
	return e.Deadline-killLead-k.Grace <= boottime.Boottime()
}

// over is the end of a hold that the guard did not ask for, or that came before
// the grant.
func (k *keeper) over(e Event) {
	k.released = true
	if k.phase >= starting && k.tree.ended() {
		return // the agent saw the tree end before we did; how it ended comes from the init
	}
	if k.phase >= starting {
		k.stop(lost("the lock %s was released by somebody else (%s); the command was stopped", k.Lock, e.Reason))
		return
	}
	k.finish(failure(ExitNotGot, "%s", k.notGot(e.Reason)))
}

// failed is the agent's final no, before any command has started.
func (k *keeper) failed(err error) {
	k.released = true
	code := ExitUsage
	var coder ExitCoder
	switch {
	case errors.As(err, &coder):
		code = coder.ExitCode()
	case errors.Is(err, ErrUnavailable):
		code = ExitUnavailable
	}
	k.finish(failure(code, "%v", err))
}

// start has the init start the command: held, acknowledged, deadlines armed.
func (k *keeper) start() {
	k.files = k.Options.files(k.token)
	if err := writeFiles(k.files); err != nil {
		k.finish(failure(ExitOS, "%v", err))
		return
	}
	if k.Verbose {
		k.say("the lock %s is held under token %d; the command is contained by %s", k.Lock, k.token, k.tree.rung)
	}
	k.phase = starting
	// Before the command can run: a face that outlives us then knows that it may have.
	_ = k.face.Send(stage.Message{Kind: stage.Started, Text: k.files.Encode()})
	k.tree.send(stage.Message{Kind: stage.Start, At: k.deadline, Number: len(k.Command), Text: k.file + "\x00" + k.environment(k.token)})
}

// finish ends the guard when nothing runs.
func (k *keeper) finish(o outcome) {
	if k.end == nil {
		k.end = &o
	}
	k.phase = ending
	k.tree.kill()
}

// stop ends the guard and its command: SIGTERM, or what OnLost says, to the whole
// tree now, SIGKILL one grace later, and before the deadline in any case.
func (k *keeper) stop(o outcome) {
	if k.phase < starting {
		k.finish(o)
		return
	}
	if k.end == nil {
		k.end = &o
	}
	if k.phase == ending {
		return
	}
	k.phase = ending
	stop := stage.Message{Kind: stage.Stop}
	if o.lost {
		stop.Number, stop.Text = int(k.OnLost.signal), k.OnLost.run
	}
	if stop.Number == int(unix.SIGKILL) {
		k.tree.kill()
	}
	k.tree.send(stop)
	k.killAt = min(boottime.Boottime()+k.Grace, k.deadline-killLead)
	k.schedule()
}

// stopAt is when the tree has to be told to end, so that it has its grace.
func (k *keeper) stopAt() time.Duration { return k.deadline - killLead - k.Grace }

// extend moves the deadline. It never moves it back: each is derived from a
// renewal that the quorum has acknowledged, and the latest is what counts.
func (k *keeper) extend(e Event) {
	if e.Deadline <= k.deadline {
		return
	}
	k.deadline = e.Deadline
	if err := k.dead.Set(k.deadline); err != nil {
		k.stop(failure(ExitOS, "%v", err))
		return
	}
	if !k.tree.rung.namespaced() { // there the init has no timer: the kernel ends it with the keeper
		k.tree.send(stage.Message{Kind: stage.Deadline, At: k.deadline})
	}
	k.schedule()
}

// disarm goes with a grant that went to the next.
func (k *keeper) disarm() {
	k.deadline = 0
	_ = k.dead.Stop()
	_ = k.wake.Stop()
}

func (k *keeper) schedule() {
	at := k.stopAt()
	if k.phase == ending {
		at = k.killAt
	}
	if err := k.wake.Set(at); err != nil {
		k.tree.kill() // nothing would wake us
	}
}

// awake looks at the clock again: a wake-up may be older than the last renewal.
func (k *keeper) awake() {
	now := boottime.Boottime()
	switch {
	case k.deadline == 0:
	case k.phase == ending:
		if k.killAt != 0 && now >= k.killAt {
			k.tree.kill()
		}
	case now >= k.stopAt():
		k.stop(lost("no renewal of the lock %s in time; the command was stopped", k.Lock))
	}
}

// release gives the lock back, now that the tree is gone.
func (k *keeper) release() {
	if k.released {
		return
	}
	wait := releaseTime
	if k.end.number == ExitLeaseLost && !k.end.bySignal {
		wait = lostReleaseTime
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := k.hold.release(ctx); err != nil && k.deadline != 0 && !errors.Is(err, errNotConnected) {
		fmt.Fprintf(k.Stderr, "kahu exec: %v; the agent goes on trying\n", err)
	}
}

// waitForAgent decides what to do when no agent answers at the start.
func (k *keeper) waitForAgent(err error) bool {
	if k.Standby {
		k.say("%v; waiting for it", err)
	}
	return k.Standby
}

// say tells the user what happens while the command runs. It never blocks, or a
// pipe that nobody reads would cost the lock: what comes while the last line is
// still being written is dropped. Its goroutine ends with the write, or with the
// process.
func (k *keeper) say(format string, a ...any) {
	if !k.speaking.CompareAndSwap(false, true) {
		return
	}
	line := fmt.Sprintf("kahu exec: "+format+"\n", a...)
	go func() {
		defer k.speaking.Store(false)
		_, _ = io.WriteString(k.Stderr, line) // there is nobody else to tell
	}()
}
