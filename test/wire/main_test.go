package wire_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// agents are what all tests ask: three voters and a proxy, which trust everybody.
var agents struct {
	*cluster.Cluster
	binary string
	voters []string // their URLs
	proxy  string
}

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set("12") // they mostly wait for leases to end
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "kahu-wire-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, cancel := context.WithTimeoutCause(context.Background(), 3*time.Minute, errors.New("building and starting took too long"))
	defer cancel()
	binary, err := cluster.Build(ctx, dir)
	if err != nil {
		return 1, err
	}
	agents.binary = binary
	agents.Cluster, err = cluster.Start(ctx, cluster.Options{Binary: binary, Voters: 3, Proxies: 1, Args: []string{"--kahuna-listen", "127.0.0.1:0", "--kahuna-insecure"}})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, agents.Stop()) }()
	for _, a := range agents.Agents {
		s, err := a.Status(ctx)
		if err != nil || s.Kahuna == nil || len(s.Kahuna.Listen) != 1 {
			return 1, fmt.Errorf("agent %s has no Kahuna listener: %+v, %w", a.Name, s.Kahuna, err)
		}
		url := "https://" + s.Kahuna.Listen[0]
		if a.Voter {
			agents.voters = append(agents.voters, url)
		} else {
			agents.proxy = url
		}
	}
	code = m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "the ends of the agents' logs:\n%s", agents.Logs(15))
	}
	return code, nil
}

// wait polls until is, and fails the test with what when that takes too long.
func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := cluster.Wait(ctx, what, func(context.Context) (bool, error) { return is(), nil }); err != nil {
		t.Fatal(err)
	}
}

// pause is what a client does between two tries.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
