package guard

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"github.com/kahu-sh/kahu/integrations/guard/stage"
)

// A job that is stopped while it waits (Ctrl-Z) does not go on when its turn comes. The
// keeper, which nobody's job control stops, must not accept for it: the command would
// start in a job that its user has stopped, or the lock be held for nothing. A grant
// that is not acknowledged goes to the next, and the guard stands in line anew.

// lookEvery is how often the job is looked at while a grant waits for it. The agent
// waits for some seconds (agent/holds: the time to acknowledge).
const lookEvery = 50 * time.Millisecond

// pause keeps a grant that comes while the job is stopped.
func (k *keeper) pause(e Event) bool {
	if k.pending = nil; !stopped(stage.FacePID()) {
		return false
	}
	k.pending, k.look = &e, time.After(lookEvery)
	return true
}

// lookAgain takes a grant that was kept, if it is still there and the job goes on.
func (k *keeper) lookAgain() {
	k.look = nil
	switch e := k.pending; {
	case e == nil:
	case k.late(*e): // the agent will say what became of it
		k.pending = nil
	default:
		k.held(*e)
	}
}

// stopped says whether a process is stopped, by a signal and not by a debugger.
func stopped(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false // it is gone, and its link says so
	}
	return bytes.HasPrefix(b[bytes.LastIndexByte(b, ')')+1:], []byte(" T"))
}
