package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
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
	dir, err := os.MkdirTemp("", "kahu-e2e-")
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

// soak reports whether the long tests shall be long.
func soak() bool { return os.Getenv("KAHU_SOAK") != "" }

// bounded is the test's context with a deadline of its own.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("the test's bound of %s is over", d))
	t.Cleanup(cancel)
	return ctx
}

// startCluster starts agents that end with the test. When the test fails, the
// ends of their logs are shown.
func startCluster(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	o.Binary = binary
	c, err := cluster.Start(bounded(t, time.Minute), o)
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

// A said is what a command said.
type said struct {
	out, err string
	code     int
}

// kahu runs the binary against an agent and returns what it said.
func kahu(t *testing.T, a *cluster.Agent, args ...string) said {
	t.Helper()
	return finish(t, a.Command(bounded(t, time.Minute), args...))
}

// finish runs cmd to its end.
func finish(t *testing.T, cmd *exec.Cmd) said {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", cmd, err)
	}
	return said{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs the binary, which must succeed, and returns its output without the
// last line's end.
func must(t *testing.T, a *cluster.Agent, args ...string) string {
	t.Helper()
	s := kahu(t, a, args...)
	if s.code != 0 {
		t.Fatalf("on %s: kahu %s: exit code %d: %s", a.Name, strings.Join(args, " "), s.code, s.err)
	}
	return strings.TrimSuffix(s.out, "\n")
}
