package upgrade_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// binary is the kahu under test, built once.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kahu-upgrade-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary, err = cluster.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// bounded is the test's context with a deadline of its own.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("the test's bound of %s is over", d))
	t.Cleanup(cancel)
	return ctx
}

// newCluster makes agents, which end with the test.
func newCluster(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	o.Binary = binary
	c, err := cluster.New(bounded(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the ends of the agents' logs:\n%s", c.Logs(25))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// start starts agents and waits until they serve.
func start(ctx context.Context, t *testing.T, agents ...*cluster.Agent) {
	t.Helper()
	for _, a := range agents {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range agents {
		if err := a.WaitServing(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// says runs kahu against an agent and returns what it prints, both outputs, one
// space for each white space, and whether it ended with 0.
func says(t *testing.T, a *cluster.Agent, args ...string) (text string, ok bool) {
	t.Helper()
	out, err := a.Command(bounded(t, time.Minute), args...).CombinedOutput()
	return strings.Join(strings.Fields(string(out)), " "), err == nil
}
