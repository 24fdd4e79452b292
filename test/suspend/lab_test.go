package suspend_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// The one network: the agents outside live on this side of the tap device, the
// machine at its other end.
const (
	tap            = "tap0"
	ourAddress     = "10.88.0.1"
	machineAddress = "10.88.0.2"
	machinePort    = "7350"
)

// binary is the kahu under test, built once, for outside and inside.
var binary string

func TestMain(m *testing.M) {
	if work := os.Getenv(workerVariable); work != "" {
		os.Exit(worker(work))
	}
	if os.Getenv("KAHU_SUSPEND") == "" {
		fmt.Println("SKIPPED: a machine is suspended by `make suspend` only")
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kahu-suspend-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "kahu")
	if err := program(context.Background(), binary); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// A lab is a namespace with a tap device and three places for voters: on this
// side of it, or the last of them in the machine.
type lab struct {
	t     *testing.T
	netns string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, netns: fmt.Sprintf("kahus%d", os.Getpid())}
	run(t, "ip", "netns", "add", l.netns)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", l.netns).CombinedOutput(); err != nil {
			t.Errorf("removing the namespace %s: %v: %s", l.netns, err, out)
		}
	})
	run(t, "ip", "-n", l.netns, "link", "set", "lo", "up")
	run(t, "ip", "-n", l.netns, "tuntap", "add", tap, "mode", "tap")
	run(t, "ip", "-n", l.netns, "addr", "add", ourAddress+"/24", "dev", tap)
	run(t, "ip", "-n", l.netns, "link", "set", tap, "up")
	return l
}

// voters makes three voters and starts those that run outside: all, or the first two.
func (l *lab) voters(ctx context.Context, outside int) *cluster.Cluster {
	l.t.Helper()
	places := make([]cluster.Place, 3)
	for i := range places {
		places[i] = cluster.Place{Bind: fmt.Sprintf("%s:%d", ourAddress, 7351+i), Namespace: l.netns}
		if i >= outside {
			places[i].Bind = machineAddress + ":" + machinePort
		}
	}
	c, err := cluster.New(ctx, cluster.Options{Binary: binary, Voters: 3, Places: places})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Logf("the ends of the agents' logs:\n%s", c.Logs(30))
		}
		if err := c.Stop(); err != nil {
			l.t.Error(err)
		}
	})
	for _, a := range c.Voters()[:outside] {
		if err := a.Start(); err != nil {
			l.t.Fatal(err)
		}
	}
	return c
}

// agentLog is the machine's file to which its agent logs.
const agentLog = "/tmp/agent.log"

// machine boots the machine with kahu, the worker and the secret in it, and starts
// its agent.
func (l *lab) machine(ctx context.Context, c *cluster.Cluster, name string, args ...string) *machine {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	k := findKernel(l.t)
	m := boot(ctx, l.t, l, k, image(l.t, k, map[string]string{
		"/bin/kahu": binary, "/bin/worker": self, "/etc/secret": c.SecretFile(),
	}))
	var joins []string
	for _, a := range c.Voters() {
		if a.Running() {
			joins = append(joins, a.Bind)
		}
	}
	line := append([]string{
		"kahu", "agent", "--node-name", name, "--data-dir", "/var/kahu", "--socket", "/run/kahu.sock",
		"--bind", machineAddress + ":" + machinePort, "--secret-file", "/etc/secret", "--join", strings.Join(joins, ","),
	}, args...)
	m.do(ctx, "chmod 0600 /etc/secret; mkdir -m 0700 /var/kahu; "+strings.Join(line, " ")+" >"+agentLog+" 2>&1 & echo $! >/run/agent.pid")
	m.do(ctx, "export KAHU_SOCKET=/run/kahu.sock; until kahu status >/dev/null 2>&1; do sleep 1; done")
	return m
}

// bounded is the test's context with a deadline of its own.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("the test's bound of %s is over", d))
	t.Cleanup(cancel)
	return ctx
}
