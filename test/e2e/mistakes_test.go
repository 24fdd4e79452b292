package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// A mistake is what an operator does, and what has to be in the one line that
// answers it: the cause and the fix.
type mistake struct {
	name string
	at   *cluster.Agent
	args []string
	code int
	says []string
}

// make does it, and looks at the last line: an agent logs before it.
func (m mistake) make(t *testing.T) {
	t.Helper()
	t.Run(m.name, func(t *testing.T) {
		s := finish(t, m.at.Command(bounded(t, 30*time.Second), m.args...))
		lines := strings.Split(strings.TrimSpace(s.err), "\n")
		last := lines[len(lines)-1]
		if m.code == 0 {
			last = strings.TrimSpace(s.out)
		}
		if s.code != m.code {
			t.Errorf("exit code %d, want %d; it says %q", s.code, m.code, last)
		}
		for _, want := range m.says {
			if strings.Count(last, want) != 1 {
				t.Errorf("it says %q, want %q in it once", last, want)
			}
		}
		if len(last) > longestLine {
			t.Errorf("the line has %d bytes: %q", len(last), last)
		}
	})
}

// Each mistake of an operator ends in one line with its cause and what to do, and
// costs the cluster nothing.
func TestOperatorMistakes(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 3, Proxies: 1})
	ctx, dir := bounded(t, 2*time.Minute), t.TempDir()
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var rest []*cluster.Agent // voters that follow
	for _, a := range c.Voters() {
		if a != leader {
			rest = append(rest, a)
		}
	}
	one, two, proxy := rest[0], rest[1], c.Proxies()[0]
	at := func(name string) string { return filepath.Join(dir, name) }
	data := func(a *cluster.Agent) string { return filepath.Join(a.Dir, "data") }
	free, err := cluster.FreePorts(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	// agent is a further agent of the cluster, but for what more says otherwise.
	agent := func(dataDir string, more ...string) []string {
		return append([]string{"agent", "--data-dir", dataDir, "--socket", at("k.sock"), "--bind", free[0], "--secret-file", c.SecretFile(), "--join", leader.Bind}, more...)
	}
	must(t, leader, "keygen", "--for", "proxy", "--from", c.SecretFile(), at("proxy-secret"))
	must(t, leader, "backup", at("backup"))
	text, err := os.ReadFile(at("backup"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"cut": text[:len(text)-20], "file": nil, "garbage": []byte(strings.Repeat("no backup ", 99))} {
		if err := os.WriteFile(at(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []mistake{
		{"promote of a node that nobody knows", one, []string{"cluster", "promote", "nobody"}, 2, []string{`no agent "nobody" is known`, "kahu cluster members"}},
		{"promote of a proxy", one, []string{"cluster", "promote", proxy.Name}, 1, []string{"runs as a proxy", "start it with role auto"}},
		{"promote of a voter", one, []string{"cluster", "promote", two.Name}, 1, []string{"has a vote already"}},
		{"demote of a proxy", one, []string{"cluster", "demote", proxy.Name}, 1, []string{"has no vote"}},
		{"transfer to a proxy", one, []string{"cluster", "transfer-leadership", proxy.Name}, 1, []string{"has no vote, so it cannot lead"}},
		{"transfer to the leader", one, []string{"cluster", "transfer-leadership", leader.Name}, 0, []string{"leads already"}},
		{"leave of a proxy", proxy, []string{"cluster", "leave"}, 1, []string{"is a proxy"}},
		{"remove of a node that is there", one, []string{"cluster", "remove", two.Name}, 1, []string{"answers: let it go with kahu cluster demote"}},
		{"port taken", one, agent(at("1"), "--bind", leader.Bind), 1, []string{"listening for other agents", "address already in use", "choose another --bind"}},
		{"address of another host", one, agent(at("1"), "--bind", "192.0.2.1:7350"), 1, []string{"listening for other agents", "cannot assign requested address", "choose another --bind"}},
		{"socket of a live agent", one, agent(at("2"), "--socket", one.Socket), 1, []string{"another agent serves " + one.Socket, "--socket"}},
		{"socket beneath a file", one, agent(at("3"), "--socket", at("file")+"/k.sock"), 1, []string{"is not a directory", "--socket"}},
		{"two agents on one data directory", one, agent(data(one)), 78, []string{"is in use", "--data-dir"}},
		{"a proxy's secret for a voter", one, agent(at("4"), "--role", "voter", "--secret-file", at("proxy-secret")), 78, []string{"has a proxy's secret", "--role proxy"}},
		{"no secret", one, agent(at("5"), "--secret-file", at("none")), 78, []string{"there is no file " + at("none"), "copy the cluster's secret there"}},
		{"a data directory that cannot be", one, agent("/proc/kahu"), 78, []string{"/proc/kahu: cannot make it"}},
		{"a level that nobody knows", one, agent(at("6"), "--feature-level-cap", "99"), 78, []string{"feature-level-cap is 99", "leave it out"}},
		{"restore beside the live cluster", one, []string{"restore", at("backup"), "--data-dir", at("7")}, 1, []string{"stop this agent first"}},
		{"backup over another", one, []string{"backup", at("backup")}, 1, []string{"exists; name another file, or say --force"}},
		{"verify of something else", one, []string{"backup", "verify", at("garbage")}, 1, []string{"is it a backup of kahu?"}},
		{"verify of half a backup", one, []string{"backup", "verify", at("cut")}, 1, []string{"the backup is damaged", "in the middle"}},
		{"recovery of a live voter", one, []string{"cluster", "peers-recover", "--yes", "--data-dir", data(one)}, 78, []string{"is in use", "stop that agent"}},
	} {
		m.make(t)
	}
	if shm, err := os.MkdirTemp("/dev/shm", "kahu-e2e-"); err == nil {
		defer os.RemoveAll(shm)
		mistake{"a volatile data directory", one, agent(filepath.Join(shm, "d"), "--role", "voter"), 78, []string{"does not survive a reboot", "put it on a disk"}}.make(t)
	}
	must(t, one, "kv", "set", "k", "all of this has cost nothing")

	for _, a := range []*cluster.Agent{leader, two} {
		if err := a.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	mistake{"a change without a quorum", one, []string{"kv", "set", "k", "v", "--timeout", "3s"}, 75, []string{"no leader answered in time", "kahu status"}}.make(t)
	for _, a := range []*cluster.Agent{one, proxy} {
		if err := a.Terminate(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(data(two), "membership.json")); err != nil {
		t.Fatal(err)
	}
	for _, m := range []mistake{
		{"nobody serves the socket", one, []string{"kv", "get", "k"}, 69, []string{"no agent", "start one with"}},
		{"a level below what is on disk", one, agent(data(one), "--feature-level-cap", "1"), 78, []string{"feature-level-cap is 1", "raise it, or leave it out"}},
		{"a voter's directory as a proxy's", one, agent(data(one), "--role", "proxy"), 78, []string{"is that of an agent that can vote", "--role auto"}},
		{"a proxy's directory as a voter's", one, agent(data(proxy), "--role", "voter"), 78, []string{"is a proxy's", "--role proxy"}},
		{"recovery of a proxy", one, []string{"cluster", "peers-recover", "--dry-run", "--data-dir", data(proxy), "--secret-file", c.SecretFile()}, 78, []string{"is a proxy's"}},
		{"recovery of nothing", one, []string{"cluster", "peers-recover", "--dry-run", "--data-dir", at("8"), "--secret-file", c.SecretFile()}, 1, []string{"never in a quorum"}},
		{"membership.json lost", one, agent(data(two), "--storage", "sqlite"), 78, []string{"membership.json with its cluster's id is gone", "empty the data directory"}},
		{"restore into an old directory", one, []string{"restore", at("backup"), "--data-dir", data(one)}, 78, []string{"is that of an agent", "name a new or empty --data-dir"}},
		{"restore of something else", one, []string{"restore", at("garbage"), "--data-dir", at("9")}, 1, []string{"is it a backup of kahu?"}},
	} {
		m.make(t)
	}
}
