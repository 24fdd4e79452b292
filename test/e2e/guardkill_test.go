package e2e_test

import (
	"bufio"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// kill -9 of all stages of a guard at once leaves nobody of it who could end the
// command's tree. In a pid namespace the kernel does it, and for a control group
// the agent: the lock is free well within its lease, and nothing of the tree is
// left by then. Whoever asks meanwhile sees which of the two it is.
func TestKilledGuardLeavesNothingBehind(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	a := c.Agents[0]
	for _, rung := range []string{"pidns", "cgroup"} {
		t.Run(rung, func(t *testing.T) {
			ctx := bounded(t, 20*time.Second) // the lease is longer
			probe := finish(t, a.Command(ctx, "exec", "--lock", "probe", "--contain", rung, "--require-contain", "--", "true"))
			if probe.code == 71 {
				t.Skipf("not on this host: %s", probe.err)
			}
			cmd := a.Command(ctx, "exec", "--lock", rung, "--ttl", "1m", "--contain", rung, "--require-contain", "--reason", "why", "--name", "the job", "--",
				"sh", "-c", `(trap "" TERM HUP; setsid sh -c 'while :; do sleep 600; done') & echo on; while :; do sleep 600; done`)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				t.Fatalf("the command did not start: %v", err)
			}
			stages, command := split(t, append([]int{cmd.Process.Pid}, descendants(t, cmd.Process.Pid)...))
			if len(stages) != 3 || len(command) < 2 {
				t.Fatalf("%d stages, %d processes of the command", len(stages), len(command))
			}

			var lock wire.Lock
			if err := json.Unmarshal([]byte(must(t, a, "lock", "info", rung, "--output", "json")), &lock); err != nil {
				t.Fatal(err)
			}
			if h := lock.Holder; h.Contain != rung || h.Reason != "why" || h.Command != "the job" {
				t.Errorf("the holder is shown as %+v", h)
			}
			if text := must(t, a, "status"); !strings.Contains(text, rung+" 1") {
				t.Errorf("kahu status does not tell what contains the command:\n%s", text)
			}

			other := a.Dial()
			defer other.Close()
			next, err := other.OpenHold(ctx, client.HoldOptions{Lock: rung, TTL: 30 * time.Second, Wait: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer next.Close()
			waitQueued(ctx, t, next)
			signalAll(stages, unix.SIGSTOP) // so that none of them acts before all are dead
			signalAll(stages, unix.SIGKILL)
			select {
			case <-next.Held():
			case <-ctx.Done():
				t.Fatal("the lock of the killed guard was not free long before its lease ends")
			}
			for _, fd := range command {
				if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil || n == 0 {
					t.Error("a process of the command lives while the next has the lock")
				}
			}
			_ = cmd.Wait() // killed
		})
	}
}
