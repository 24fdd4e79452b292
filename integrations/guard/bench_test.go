package guard_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/guard"
)

// BenchmarkTrue is what the guard costs around a command that does nothing, with
// an agent that grants at once; "bare" is the command alone.
func BenchmarkTrue(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			must(b, exec.Command("true").Run())
		}
	})
	for _, rung := range []guard.Containment{guard.PIDNS, guard.PGroup} {
		b.Run(string(rung), func(b *testing.B) {
			a := newAgent(b)
			must(b, a.listener.SetDeadline(time.Time{}))
			go func() { // ends when the listener is closed
				for {
					conn, err := a.listener.AcceptUnix()
					if err != nil {
						return
					}
					go grantAll(conn)
				}
			}()
			text, err := json.Marshal(settings{Agent: a.path, TTL: time.Minute, Wait: -1, Contain: rung, Require: true})
			must(b, err)
			env := append(os.Environ(), settingsVariable+"="+string(text))
			for b.Loop() {
				cmd := exec.Command("/proc/self/exe", "exec", "true")
				cmd.Env = env
				must(b, cmd.Run())
			}
		})
	}
}
