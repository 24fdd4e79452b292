package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// A restart of any agent, orderly or by kill -9, disturbs no guarded command and
// changes no token: the next agent takes its host's holds up, and the guards come
// back. Nor does it cost a place in line, or a hold of the Go client.
func TestRestartsUnderGuards(t *testing.T) {
	guards, restarts := 12, 8 // each agent twice: once killed, once ended
	if soak() {
		guards, restarts = 200, 200 // each 50 times
	}
	if testing.Short() {
		guards, restarts = 4, 2
	}
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	ctx := bounded(t, 2*time.Minute+time.Duration(restarts)*10*time.Second)
	crew := newCrew(ctx, t, c, guards)
	waiter := crew.wait("guard0")
	var own []*client.Hold
	for i, a := range c.Agents {
		cl := a.Dial()
		defer cl.Close()
		hold, err := cl.Hold(ctx, client.HoldOptions{Lock: fmt.Sprintf("client%d", i), TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer hold.Close()
		own = append(own, hold)
	}
	before := crew.locks()
	if len(before) != guards+len(own) {
		t.Fatalf("%d locks are held, want %d", len(before), guards+len(own))
	}
	for i := range restarts {
		a, end, how := c.Agents[i%len(c.Agents)], (*cluster.Agent).Kill, "kill -9"
		if i/len(c.Agents)%2 == 1 {
			end, how = (*cluster.Agent).Terminate, "SIGTERM"
		}
		if err := end(a); err != nil {
			t.Fatal(err)
		}
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitServing(ctx); err != nil {
			t.Fatal(err)
		}
		crew.waitConnected(a)
		if after := crew.locks(); !maps.Equal(before, after) {
			t.Fatalf("restart %d, %s by %s: the locks were\n%v\nand are\n%v", i, a.Name, how, before, after)
		}
		for j, hold := range own {
			if s := hold.State(); s != wire.HoldHeld && s != wire.HoldAtRisk {
				t.Fatalf("restart %d, %s by %s: the client's hold on agent %d is %s: %v", i, a.Name, how, j, s, hold.Err())
			}
		}
		waitForLine(ctx, t, c.Agents[0], "guard0", 1)
	}
	crew.finish()
	if err := waiter.Wait(); err != nil {
		t.Errorf("the waiter: %v", err)
	}
	for j, hold := range own {
		if err := hold.Release(ctx); err != nil {
			t.Errorf("the client's hold on agent %d: %v", j, err)
		}
	}
	if left := crew.locks(); len(left) != 0 {
		t.Errorf("still held at the end: %v", left)
	}
}

// crew are guarded commands that wait for the end of a pipe.
type crew struct {
	t      *testing.T
	ctx    context.Context
	c      *cluster.Cluster
	end    string // fifo
	guards []*exec.Cmd
	said   []*bytes.Buffer
	of     map[string]int // how many guards and waiters an agent has
}

// newCrew starts n guards and blocks until all their commands run.
func newCrew(ctx context.Context, t *testing.T, c *cluster.Cluster, n int) *crew {
	t.Helper()
	w := &crew{t: t, ctx: ctx, c: c, end: filepath.Join(c.Dir, "end"), of: map[string]int{}}
	if err := unix.Mkfifo(w.end, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		w.start(c.Agents[i%len(c.Agents)], fmt.Sprintf("guard%d", i),
			fmt.Sprintf("echo $KAHU_FENCING_TOKEN >%s; read line <%s; true", w.file(i), w.end))
	}
	for i := range n {
		waitForFile(ctx, t, w.file(i))
	}
	return w
}

func (w *crew) file(i int) string { return filepath.Join(w.c.Dir, fmt.Sprintf("token%d", i)) }

func (w *crew) start(a *cluster.Agent, lock, command string) *exec.Cmd {
	w.t.Helper()
	cmd := a.Command(w.ctx, "exec", "--lock", lock, "--ttl", "60s", "--", "sh", "-c", command)
	said := &bytes.Buffer{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.guards, w.said = append(w.guards, cmd), append(w.said, said)
	w.of[a.Name]++
	return cmd
}

// wait has one more guard stand in line, on the second agent.
func (w *crew) wait(lock string) *exec.Cmd {
	w.t.Helper()
	cmd := w.start(w.c.Agents[1], lock, "true")
	w.guards, w.said = w.guards[:len(w.guards)-1], w.said[:len(w.said)-1]
	waitForLine(w.ctx, w.t, w.c.Agents[0], lock, 1)
	return cmd
}

// locks are the owners and tokens of all held locks.
func (w *crew) locks() map[string]string {
	w.t.Helper()
	asking := w.c.Agents[0].Dial()
	defer asking.Close()
	list, err := asking.LockList(w.ctx, "", client.Page{Limit: 1000}, client.LockOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for _, l := range list.Locks {
		out[l.Name] = fmt.Sprintf("%s token %d", l.Owner, l.Token)
	}
	return out
}

// waitConnected blocks until every guard of an agent has come back to it.
func (w *crew) waitConnected(a *cluster.Agent) {
	w.t.Helper()
	asking := a.Dial()
	defer asking.Close()
	err := cluster.Wait(w.ctx, "the guards are back at "+a.Name, func(ctx context.Context) (bool, error) {
		list, err := asking.Holds(ctx)
		if err != nil {
			return false, err
		}
		connected := slices.DeleteFunc(list.Holds, func(h wire.HoldInfo) bool { return !h.Connected || h.Witness != wire.WitnessProcess })
		return len(connected) == w.of[a.Name], nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// finish lets the commands end, and checks each.
func (w *crew) finish() {
	w.t.Helper()
	f, err := os.OpenFile(w.end, os.O_WRONLY, 0) // the readers go on together
	if err != nil {
		w.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		w.t.Fatal(err)
	}
	for i, g := range w.guards {
		if err := g.Wait(); err != nil {
			w.t.Errorf("guard %d: %v", i, err)
		}
		text, err := os.ReadFile(w.file(i))
		if err != nil || strings.TrimSpace(string(text)) != "0" {
			w.t.Errorf("guard %d ran with token %q, %v", i, text, err)
		}
		if said := w.said[i].String(); strings.Contains(said, "lost") || strings.Contains(said, "stopped") {
			w.t.Errorf("guard %d says %q", i, said)
		}
	}
}
