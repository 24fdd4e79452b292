package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
)

// roles asks an agent by the program itself: "voter1=voter …", the leader with a star.
func roles(t *testing.T, a *cluster.Agent) string {
	t.Helper()
	var all wire.ClusterMembers
	out := must(t, a, "cluster", "members", "--output", "json")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	var list []string
	for _, m := range all.Members {
		text := m.Host + "=" + m.Role
		if m.Leader {
			text += "*"
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// An operator moves leadership, takes and gives votes, and removes who is gone;
// then two of three voters are lost for good, and the last one goes on alone.
func TestOperatorsChangeWhoVotes(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	proxy := c.Proxies()[0]
	ctx := bounded(t, 2*time.Minute)
	await := func(what string, a *cluster.Agent, want string) {
		t.Helper()
		deadline := time.Now().Add(40 * time.Second)
		for got := roles(t, a); got != want; got = roles(t, a) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s, want %s", what, got, want)
			}
			time.Sleep(100 * time.Millisecond) // a poll, bounded by its condition
		}
	}
	one, two, three := c.Agents[0], c.Agents[1], c.Agents[2]
	must(t, one, "kv", "set", "k", "v")
	must(t, two, "cluster", "transfer-leadership", "voter1")
	await("voter1 leads, which the proxy knows", proxy, "proxy1=proxy voter1=voter* voter2=voter voter3=voter")

	if s := kahu(t, proxy, "cluster", "demote", "voter2"); s.code != 1 || !strings.Contains(s.err, "is a proxy") {
		t.Errorf("at a proxy it ends with %d: %s", s.code, s.err)
	}
	must(t, three, "cluster", "demote", "voter2")
	await("voter2 stands by", one, "proxy1=proxy voter1=voter* voter2=standby voter3=voter")
	if got := must(t, two, "kv", "get", "k"); got != "v" {
		t.Errorf("at a standby: %q", got)
	}
	// It has no state of its own, and gives that of the voters.
	file := filepath.Join(t.TempDir(), "backup")
	must(t, two, "kv", "set", "since", "it stands by")
	must(t, two, "backup", file)
	if got := must(t, two, "backup", "verify", file); !strings.Contains(got, "has         2 keys") {
		t.Errorf("a backup at a standby: %q", got)
	}
	if s := kahu(t, one, "cluster", "demote", "voter2"); s.code != 1 || !strings.Contains(s.err, "has no vote") {
		t.Errorf("twice it ends with %d: %s", s.code, s.err)
	}
	must(t, one, "cluster", "promote", "voter2")
	await("voter2 votes", one, "proxy1=proxy voter1=voter* voter2=voter voter3=voter")

	id := func(a *cluster.Agent) string {
		t.Helper()
		s, err := a.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s.ClusterID
	}
	before, proxyClient := id(one), proxy.Dial()
	defer proxyClient.Close()
	tokenOf := func(lock string) int64 {
		t.Helper()
		g, err := proxyClient.LockTry(ctx, lock, []byte(lock), time.Minute, client.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return g.Token
	}
	if token := tokenOf("first"); token != 0 {
		t.Errorf("the first token is %d", token)
	}

	// Two are lost.
	for _, a := range []*cluster.Agent{two, three} {
		if err := a.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if s := kahu(t, one, "kv", "set", "k", "lost", "--timeout", "1s"); s.code == 0 {
		t.Fatal("one of three voters decides")
	}
	if err := one.Kill(); err != nil {
		t.Fatal(err)
	}
	recoverOne := func(args ...string) (string, int) {
		t.Helper()
		cmd := one.Command(ctx, append([]string{"cluster", "peers-recover", "--data-dir", filepath.Join(one.Dir, "data"),
			"--secret-file", c.SecretFile(), "--storage", "sqlite", "--role", "voter"}, args...)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return string(out), exit.ExitCode()
		}
		return string(out), 0
	}
	if out, code := recoverOne(); code != 64 || !strings.Contains(out, "--dry-run") {
		t.Errorf("without a word it ends with %d: %s", code, out)
	}
	if out, code := recoverOne("--dry-run"); code != 0 || strings.Count(out, "given up") != 2 || !strings.Contains(out, "nothing was written") {
		t.Fatalf("a dry run ends with %d: %s", code, out)
	}
	if out, code := recoverOne("--yes"); code != 0 || !strings.Contains(out, "alone now") {
		t.Fatalf("it ends with %d: %s", code, out)
	}
	if err := one.Start(); err != nil {
		t.Fatal(err)
	}
	if err := one.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	if got := must(t, one, "kv", "get", "k"); got != "v" && got != "lost" { // the outcome was unknown
		t.Errorf("after recovery: %q", got)
	}
	must(t, proxy, "kv", "set", "k", "after")
	// Under a new id, which the proxy follows, and with tokens above all before.
	after := id(one)
	if after == before {
		t.Error("the recovered cluster has the id of the lost one")
	}
	if err := cluster.Wait(ctx, "the proxy follows", func(context.Context) (bool, error) {
		return id(proxy) == after, fmt.Errorf("it belongs to %s", id(proxy))
	}); err != nil {
		t.Error(err)
	}
	for _, a := range []*cluster.Agent{one, proxy} {
		if err := cluster.Wait(ctx, "gossip follows on "+a.Name, func(context.Context) (bool, error) {
			const both = `kahu_gossip_members{state="alive"} 2`
			code, page := send(t, a, "GET", "/metrics", "")
			lines := slices.DeleteFunc(strings.Split(page, "\n"), func(line string) bool { return !strings.HasPrefix(line, "kahu_gossip_members") })
			return strings.Contains(page, both), fmt.Errorf("%d: %q, want %s", code, lines, both)
		}); err != nil {
			t.Error(err)
		}
	}
	if token, least := tokenOf("second"), time.Now().Add(-time.Hour).Unix()<<20; token < least {
		t.Errorf("after a recovery there is token %d, want more than %d", token, least)
	}
	if out, code := recoverOne("--yes"); code != 78 || !strings.Contains(out, "in use") {
		t.Errorf("while the agent runs it ends with %d: %s", code, out)
	}
}

// A voter was killed a moment ago, and is not missed yet: a vote is not taken from
// another one, and the two that are left go on deciding.
func TestNoVoteIsTakenBesideAVoterThatWasKilled(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 3})
	ctx := bounded(t, time.Minute)
	one, three := c.Agents[0], c.Agents[2]
	if err := cluster.Wait(ctx, "voter1 is asked to lead", func(context.Context) (bool, error) {
		s := kahu(t, one, "cluster", "transfer-leadership", "voter1") // once it knows its cluster
		return s.code == 0, errors.New(s.err)
	}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Wait(ctx, "voter1 leads", func(context.Context) (bool, error) {
		got := roles(t, one)
		return strings.Contains(got, "voter1=voter*"), errors.New(got)
	}); err != nil {
		t.Fatal(err)
	}
	must(t, one, "kv", "set", "k", "before")
	if err := three.Kill(); err != nil {
		t.Fatal(err)
	}
	if s := kahu(t, one, "cluster", "demote", "voter2"); s.code != 1 || !strings.Contains(s.err, "bring the others back") || strings.Count(strings.TrimSpace(s.err), "\n") != 0 {
		t.Errorf("beside a voter that was killed it ends with %d: %s", s.code, s.err)
	}
	// At the first question: one that was taken up waits for a quorum that is not there,
	// leads no more, and is asked again.
	if asked := strings.Count(c.Logs(1000), "change=KIND_DEMOTE"); asked != 1 {
		t.Errorf("a leader decided %d times, want once", asked)
	}
	must(t, one, "kv", "set", "k", "after")
	if got := roles(t, one); !strings.Contains(got, "voter2=voter") {
		t.Errorf("a demotion that was refused leaves %s", got)
	}
}
