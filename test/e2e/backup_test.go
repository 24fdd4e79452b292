package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// A backup of a cluster, taken while it works, becomes a new cluster of three.
func TestBackupAndRestoreIntoANewCluster(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	ctx := bounded(t, 2*time.Minute)
	for _, kv := range []string{"a=1", "b=2", "a=3"} {
		key, value, _ := strings.Cut(kv, "=")
		must(t, c.Agents[0], "kv", "set", key, value)
	}
	must(t, c.Agents[0], "kv", "set", "short", "lived", "--ephemeral")
	must(t, c.Agents[1], "seq", "create", "numbers")
	must(t, c.Agents[1], "seq", "reserve", "numbers", "7")
	must(t, c.Agents[2], "lock", "try", "held", "--owner", "me", "--ttl", "10m")

	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range c.Voters() { // from a follower, or through the leader from one
		file := filepath.Join(c.Dir, a.Name+".kahubackup")
		if s := must(t, a, "backup", file); !strings.Contains(s, "2 keys, 1 sequences") {
			t.Errorf("on %s (leader %s): %s", a.Name, leader.Name, s)
		}
		if s := kahu(t, a, "backup", "verify", file); s.code != 0 {
			t.Errorf("verify: %d, %s", s.code, s.err)
		}
		if s := kahu(t, a, "backup", file); s.code != 1 || !strings.Contains(s.err, "--force") {
			t.Errorf("over a file that exists: %d, %s", s.code, s.err)
		}
	}
	file := filepath.Join(c.Dir, leader.Name+".kahubackup")
	if s := kahu(t, c.Proxies()[0], "backup", filepath.Join(c.Dir, "no")); s.code != 77 || !strings.Contains(s.err, "voter") {
		t.Errorf("on a proxy: %d, %s", s.code, s.err)
	}
	refuseBadRestores(t, c, file)

	// A new cluster: its first voter from the backup, the others empty.
	n, err := cluster.New(ctx, cluster.Options{Binary: binary, Voters: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the new cluster:\n%s", n.Logs(20))
		}
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	first := n.Agents[0]
	if s := must(t, first, "restore", file, "--data-dir", filepath.Join(first.Dir, "data")); !strings.Contains(s, "begin above") {
		t.Error(s)
	}
	for _, a := range n.Agents {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	last := n.Agents[2]
	for key, want := range map[string]string{"a": "3", "b": "2"} {
		if got := must(t, last, "kv", "get", key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if s := kahu(t, last, "kv", "get", "short", "--ephemeral"); s.code != 2 {
		t.Errorf("an ephemeral key came back: %+v", s)
	}
	if s := kahu(t, last, "seq", "next", "numbers"); s.code != 1 || !strings.Contains(s.err, "seq release") {
		t.Errorf("a restored sequence goes on: %+v", s)
	}
	must(t, last, "seq", "release", "numbers", "--margin", "100")
	if got := must(t, last, "seq", "next", "numbers"); got != "108" {
		t.Errorf("the sequence goes on with %s", got)
	}
	if got := must(t, last, "lock", "try", "held", "--owner", "other", "--ttl", "1m", "--output", "json"); !strings.Contains(got, `"fencing_token":1`) || len(got) < 60 {
		t.Errorf("the token did not jump: %s", got)
	}
}

// refuseBadRestores tries what an operator may get wrong.
func refuseBadRestores(t *testing.T, c *cluster.Cluster, file string) {
	t.Helper()
	a := c.Agents[0]
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged, newer := filepath.Join(c.Dir, "damaged"), filepath.Join(c.Dir, "newer")
	other := append([]byte(nil), whole...)
	other[8]++
	cut := append([]byte(nil), whole[:len(whole)-3]...)
	for path, text := range map[string][]byte{damaged: cut, newer: other} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full := filepath.Join(c.Dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(c.Dir, "fresh")
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"a live cluster", []string{file, "--data-dir", fresh}, 1, "stop this agent"},
		{"an agent's directory", []string{file, "--data-dir", filepath.Join(a.Dir, "data"), "--beside-live-agent"}, 78, "new or empty"},
		{"a directory with something in it", []string{file, "--data-dir", full, "--beside-live-agent"}, 78, "not empty"},
		{"a damaged file", []string{damaged, "--data-dir", fresh, "--beside-live-agent"}, 1, "damaged"},
		{"a newer file", []string{newer, "--data-dir", fresh, "--beside-live-agent"}, 1, "newer kahu"},
		{"no file", []string{file + "x", "--data-dir", fresh, "--beside-live-agent"}, 64, "no such file"},
		{"no directory", []string{file}, 64, "--data-dir"},
		{"a low floor", []string{file, "--data-dir", fresh, "--beside-live-agent", "--token-floor", "3"}, 1, "too low"},
	} {
		s := kahu(t, a, append([]string{"restore"}, tc.args...)...)
		if s.code != tc.code || !strings.Contains(s.err, tc.says) || strings.Count(s.err, "\n") != 1 {
			t.Errorf("%s: code %d, want %d; it says %q, want something about %q", tc.name, s.code, tc.code, s.err, tc.says)
		}
		if _, err := os.Stat(fresh); err == nil {
			t.Errorf("%s: the directory was left behind", tc.name)
		}
	}
}

// A voter takes backups by itself, and keeps as many as it was told.
func TestScheduledBackups(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(t.TempDir(), "kahu.yaml")
	if err := os.WriteFile(config, []byte("backup:\n  directory: "+dir+"\n  interval: 1h\n  keep: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCluster(t, cluster.Options{Voters: 1, Args: []string{"--config", config}})
	ctx := bounded(t, time.Minute)
	var names []string
	err := cluster.Wait(ctx, "a backup is there", func(context.Context) (bool, error) {
		var err error
		names, err = filepath.Glob(filepath.Join(dir, "*.kahubackup"))
		return len(names) == 1, err
	})
	if err != nil {
		t.Fatal(err)
	}
	must(t, c.Agents[0], "backup", "verify", names[0])
	// A restart does not take another one: the last is young.
	if err := c.Agents[0].Terminate(); err != nil {
		t.Fatal(err)
	}
	if err := c.Agents[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	if again, _ := filepath.Glob(filepath.Join(dir, "*.kahubackup")); len(again) != 1 {
		t.Errorf("after a restart: %v", again)
	}
}
