package e2e_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
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
	files := map[string][]byte{"cut": text[:len(text)-20], "file": nil, "garbage": []byte(strings.Repeat("no backup ", 99)),
		"empty": nil, "password": []byte("hunter2\n"),
		"tab.yaml": []byte("role: proxy\n\tjoin: []\n"), "twice.yaml": []byte("role: proxy\nrole: voter\n"), "list.yaml": []byte("- role: proxy\n"),
		"two.yaml": []byte("role: proxy\n---\nrole: voter\n"), "unknown.yaml": []byte("bootstrap_expect: 3\n"), "expect.yaml": []byte("bootstrap-expect: three\n")}
	for name, content := range files {
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
		{"backup to a directory", one, []string{"backup", dir}, 64, []string{dir + " is a directory; name a file"}},
		{"backup beneath a directory that is not there", one, []string{"backup", at("none/backup")}, 64, []string{"there is no directory " + at("none"), "make it"}},
		{"a secret beneath a directory that is not there", one, []string{"keygen", at("none/secret")}, 78, []string{"there is no directory " + at("none"), "make it first"}},
		{"a new secret over the old one", one, []string{"keygen", c.SecretFile()}, 1, []string{"exists already", "choose another name"}},
		{"an empty secret", one, agent(at("10"), "--secret-file", at("empty")), 78, []string{"there is no secret in it", "kahu keygen"}},
		{"a password for a secret", one, agent(at("10"), "--secret-file", at("password")), 78, []string{"not a secret of this version of kahu"}},
		{"a directory for a secret", one, agent(at("10"), "--secret-file", dir), 78, []string{"is not a regular file"}},
		{"a tab in the configuration", one, []string{"agent", "--config", at("tab.yaml")}, 78, []string{at("tab.yaml"), "line 2", "not with tabs"}},
		{"a key twice", one, []string{"agent", "--config", at("twice.yaml")}, 78, []string{"line 2", "already defined at line 1", "take one of the two out"}},
		{"a list for a configuration", one, []string{"agent", "--config", at("list.yaml")}, 78, []string{"it is a list or a text", "has to be lines such as"}},
		{"two configurations in a file", one, []string{"agent", "--config", at("two.yaml")}, 78, []string{"line 2", "second document", "put all keys into one"}},
		{"a number in words", one, []string{"agent", "--config", at("expect.yaml"), "--data-dir", at("10"), "--secret-file", c.SecretFile()}, 78, []string{"bootstrap-expect (from " + at("expect.yaml"), "is not a whole number"}},
		{"a key that nobody knows", one, []string{"agent", "--config", at("unknown.yaml"), "--data-dir", at("10"), "--secret-file", c.SecretFile()}, 78, []string{"bootstrap_expect", "kahu agent --print-config shows all keys"}},
		{"an address in IPv6 without brackets", one, agent(at("10"), "--bind", "fd00::5:7350"), 78, []string{"is not HOST:PORT", "[2001:db8::7]:7350"}},
		{"every address as its own", one, agent(at("10"), "--advertise", "0.0.0.0:7350"), 78, []string{"0.0.0.0:7350 means every address", "name the one that other agents use"}},
		{"a loopback address for other hosts", one, agent(at("10"), "--join", "192.0.2.1:7350"), 78, []string{"cannot be reached by 192.0.2.1:7350", "set bind or advertise"}},
		{"four voters", one, agent(at("10"), "--voters", "4"), 78, []string{"4 is neither 3 nor 5"}},
		{"a cluster begun and joined", one, agent(at("10"), "--bootstrap-expect", "1"), 78, []string{"leave out one of the two"}},
		{"a port of metrics that is taken", one, agent(at("10"), "--http", leader.Bind), 1, []string{"listening for health checks and metrics", "choose another --http"}},
		{"help for a command that there is not", one, []string{"help", "cluster", "promot"}, 64, []string{"did you mean promote?"}},
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
		{"recovery that is not wanted", one, []string{"cluster", "peers-recover", "--data-dir", data(one)}, 64, []string{"needs one of --dry-run, which only looks, and --yes"}},
		{"another engine", one, agent(data(one), "--storage", "memory"), 78, []string{"holds a ", "but memory was asked for", "or use a new directory"}},
		{"restore into an old directory", one, []string{"restore", at("backup"), "--data-dir", data(one)}, 78, []string{"is that of an agent", "name a new or empty --data-dir"}},
		{"restore of something else", one, []string{"restore", at("garbage"), "--data-dir", at("9")}, 1, []string{"is it a backup of kahu?"}},
	} {
		m.make(t)
	}
}

// Mistakes that an agent waits with, since they may be mended on another host: its
// status says in one line what is wrong and what to do.
func TestMistakesThatAnAgentWaitsWith(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	ctx, one := bounded(t, time.Minute), c.Voters()[0]
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	metrics := web.Listener.Addr().String()
	other := filepath.Join(t.TempDir(), "other")
	must(t, one, "keygen", other)
	ports, err := cluster.FreePorts(ctx, 5)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range []struct {
		name string
		args []string
		says []string
	}{
		{"join of nobody", []string{"--join", ports[4]}, []string{"no agent answers at " + ports[4], "connection refused: no agent runs there"}},
		{"join of a port for metrics", []string{"--join", metrics}, []string{"no agent answers at " + metrics, "name the port of its bind"}},
		{"join of itself alone", []string{"--join", ports[2]}, []string{"join names only this agent itself: name another"}},
		{"another secret", []string{"--join", one.Bind, "--secret-file", other}, []string{one.Bind + " has another cluster secret", "copy the same secret file to both hosts"}},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			socket := filepath.Join(dir, "k.sock")
			args := append([]string{"agent", "--data-dir", filepath.Join(dir, "data"), "--socket", socket, "--bind", ports[i], "--gossip", "off", "--secret-file", c.SecretFile()}, m.args...)
			agent := one.Command(bounded(t, 30*time.Second), args...)
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = agent.Process.Kill()
				_ = agent.Wait() // it was killed
			}()
			for {
				s := finish(t, one.Command(bounded(t, 30*time.Second), "status", "--socket", socket))
				line, _, _ := strings.Cut(s.out, "\n")
				missing := slices.IndexFunc(m.says, func(want string) bool { return !strings.Contains(line, want) })
				if missing < 0 && s.code == 75 && len(line) <= longestLine {
					return
				}
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
					t.Fatalf("exit code %d, and the status says %q (%s); want %q in its first line", s.code, line, s.err, m.says)
				}
			}
		})
	}
}
