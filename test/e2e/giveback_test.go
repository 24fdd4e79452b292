package e2e_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/test/cluster"
)

// An agent that was killed and has lost its lease table does not know its holds. A
// command that ends after that still frees its lock at once, and not by its lease.
func TestGuardGivesBackWhatARestartedAgentForgot(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	ctx := bounded(t, time.Minute)
	home := c.Agents[3] // the proxy: its restart moves no leader
	begun, end := filepath.Join(c.Dir, "begun"), filepath.Join(c.Dir, "end")
	// The command waits for the end of the pipe, without a clock.
	if err := unix.Mkfifo(end, 0o600); err != nil {
		t.Fatal(err)
	}
	guard := home.Command(ctx, "exec", "--lock", "kept", "--ttl", "40s", "--", "sh", "-c", "echo >"+begun+"; read line <"+end)
	if err := guard.Start(); err != nil {
		t.Fatal(err)
	}
	waitForFile(ctx, t, begun)
	if err := home.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(home.Dir, "data", "holds.table")); err != nil {
		t.Fatal(err)
	}
	if err := home.Start(); err != nil {
		t.Fatal(err)
	}
	if err := home.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	asking := c.Agents[0].Dial()
	defer asking.Close()
	if _, err := asking.LockInfo(ctx, "kept", client.LockOptions{}); err != nil {
		t.Fatalf("the lock was not held over the restart: %v", err)
	}
	if err := os.WriteFile(end, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := guard.Wait(); err != nil {
		t.Errorf("the command ended with %v", err)
	}
	// The guard has ended only after the quorum's answer: nothing to wait for.
	if _, err := asking.LockInfo(ctx, "kept", client.LockOptions{}); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("after the command's end: %v, want a free lock", err)
	}
}

func waitForFile(ctx context.Context, t *testing.T, path string) {
	t.Helper()
	err := cluster.Wait(ctx, path+" is there", func(context.Context) (bool, error) {
		_, err := os.Stat(path)
		return err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
