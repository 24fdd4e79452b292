package wire_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// saturated starts an agent that lets two transactions be open, opens them, and
// returns how the third was refused, over gRPC and REST. The suite does as much when
// a node is started with a ceiling.
func saturated(t *testing.T, timeoutMS int32) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the test's minute is over"))
	defer cancel()
	file := filepath.Join(t.TempDir(), "kahu.yaml")
	if err := os.WriteFile(file, []byte("limits: {transactions: 2}"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(ctx, cluster.Options{Binary: agents.binary, Voters: 1,
		Args: []string{"--config", file, "--kahuna-listen", "127.0.0.1:0", "--kahuna-insecure"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}()
	s, err := c.Agents[0].Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for over, transport := range map[string]transport{"grpc": sharedRPC, "rest": sharedREST} {
		k := &client{transport: transport, urls: []string{"https://" + s.Kahuna.Listen[0]}}
		var open []*session
		for range 2 {
			one, err := k.begin(ctx, sessionOptions{timeoutMS: timeoutMS, admissionMS: 500})
			if err != nil {
				t.Fatal(over, err)
			}
			open = append(open, one)
		}
		_, err := k.begin(ctx, sessionOptions{timeoutMS: timeoutMS, admissionMS: 500})
		var refusal *kahunaError
		if !errors.As(err, &refusal) || refusal.code != refused {
			t.Errorf("%s: the third transaction was answered %v, and %d is expected", over, err, refused)
		}
		for _, one := range open {
			if err := one.rollback(ctx); err != nil {
				t.Error(over, err)
			}
		}
	}
}

// TestSaturatedNodeRefusesAdmissionDistinctly: neither MustRetry, which invites to
// ask again at once, nor Aborted.
func TestSaturatedNodeRefusesAdmissionDistinctly(t *testing.T) {
	t.Parallel()
	saturated(t, 30_000)
}

// TestAdmissionWaitIsHonouredRatherThanTheSessionTimeout: a session of an hour waits
// for as long as it asked to wait at the door, and is refused within this test.
func TestAdmissionWaitIsHonouredRatherThanTheSessionTimeout(t *testing.T) {
	t.Parallel()
	saturated(t, 3_600_000)
}
