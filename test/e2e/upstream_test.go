package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/test/cluster"
	"github.com/kahu-sh/kahu/test/history"
	"github.com/kahu-sh/kahu/test/questions"
)

// startUpstream starts voters that speak Kahuna's wire to everybody, each at an
// address of its own, as stand-ins of a stock Kahuna cluster; and agents in front of
// them.
func startUpstream(t *testing.T, voters, proxies int) (*cluster.Cluster, []*cluster.Agent) {
	t.Helper()
	ctx := bounded(t, time.Minute)
	c, err := cluster.New(ctx, cluster.Options{Binary: binary, Voters: voters})
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
	ports, err := cluster.FreePorts(ctx, voters)
	if err != nil {
		t.Fatal(err)
	}
	var urls []string
	for i, a := range c.Voters() {
		a.Args = []string{"--kahuna-listen", ports[i], "--kahuna-insecure"}
		urls = append(urls, "http://"+ports[i])
	}
	var front []*cluster.Agent
	for i := range proxies {
		a, err := c.AddUpstream(fmt.Sprintf("upstream%d", i+1), urls...)
		if err != nil {
			t.Fatal(err)
		}
		front = append(front, a)
	}
	for _, a := range c.Agents {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	return c, front
}

// notUpstream are the commands of the parity table that a stock Kahuna cluster has
// no call for, and what is said instead.
var notUpstream = map[string]string{
	"cluster members": "upstream mode",
	"snapshot ls":     "", // the number and the floor alone
}

// In front of a Kahuna cluster kahu does what kahuna-cli does, by the same commands
// as with a cluster of its own; and says so where it cannot.
func TestUpstreamHasTheSameCommands(t *testing.T) {
	c, front := startUpstream(t, 1, 1)
	proxy := front[0]
	for _, row := range parity {
		refused, not := notUpstream[row.kahu]
		if not {
			if s := kahu(t, proxy, strings.Fields(row.kahu)...); !strings.Contains(s.err, refused) {
				t.Errorf("kahu %s says %q", row.kahu, s.err)
			}
			continue
		}
		if got := must(t, proxy, strings.Fields(row.kahu)...); !regexp.MustCompile(row.says).MatchString(got) {
			t.Errorf("kahuna-cli %s\nkahu %s says\n%s\nwhich does not match %s", row.kahuna, row.kahu, got, row.says)
		}
	}
	for _, row := range []struct {
		kahu string
		code int
		says string
	}{
		{"kv set k v1", 0, `^revision 0$`},
		{"kv set k v2 --if-revision 0", 0, `^revision 1$`},
		{"kv set k v3 --if-revision 0", 1, `its revision is 1`},
		{"kv set k v3 --if-not-exists", 1, `its revision is 1`},
		{"kv set k v3 --if-value v2", 0, `^revision 2$`},
		{"kv history k", 0, `(?s)2 .*v3.*\n1 .*v2.*\n0 .*v1`},
		{"kv del k --if-revision 2", 64, `upstream mode`},
		{"kv del k", 0, `^revision 3$`},
		{"kv history k", 2, `upstream mode`},
		{"kv get k --revision 1", 0, `^v2$`},
		{"lock ls", 64, `upstream mode`},
		{"seq ls", 64, `upstream mode`},
		{"lock try gate --owner me --ttl 1m", 0, `fencing token 0`},
		{"lock try gate --owner you --ttl 1m", 3, ``},
		{"lock break gate --reason stuck", 0, ``},
		{"lock try gate --owner you --ttl 1m", 0, `fencing token 1`},
		{"limit take calls --rate 2/h", 0, `granted, 1 left`},
		{"limit take calls --rate 2/30d", 64, `upstream mode.* take a shorter period`},
		{"limit acquire few --limit 2 --owner a --lease 1h", 0, `granted for 1h0m0s, 1 left, owner a`},
		{"limit acquire few --limit 2 --owner b --lease 1h", 0, `granted for 1h0m0s, 0 left, owner b`},
		{"limit acquire few --limit 2 --owner c --lease 1h", 75, `others hold 2; try again in (59m\d\d|1h0m0)[^ ]*s, when the next lease ends`},
		{"limit acquire few --limit 2 --owner a --lease 2h", 0, `granted for 2h0m0s, 0 left, owner a`},
		{"limit renew few --owner a --lease 3h", 0, `^renewed for 3h0m0s$`},
		{"limit renew few --owner c", 2, `the owner "c" holds no permit of "few"`},
		{"limit release few --owner a", 0, ``},
		{"limit release few --owner a", 2, `the owner "a" holds no permit of "few"`},
		{"limit acquire few --limit 2 --owner c --lease 1s", 0, `0 left, owner c`},
		{"limit acquire few --limit 2 --owner d --lease 1h --wait 20s", 0, `0 left, owner d`},
		{"limit acquire few --limit 1 --owner a --persistent", 0, `granted for 30s, 0 left, owner a`},
		{"limit release few --owner a --persistent", 0, ``},
		{"backup " + filepath.Join(t.TempDir(), "b"), 77, `upstream mode`},
		{"status", 0, `(?s)role +upstream.*kahuna +http://127.0.0.1:\d+ +healthy, in use`},
		{"exec --lock job --wait 0 -- sh -c true", 0, ``},
	} {
		s := kahu(t, proxy, strings.Fields(row.kahu)...)
		if s.code != row.code || !regexp.MustCompile(row.says).MatchString(strings.TrimSuffix(s.out+s.err, "\n")) {
			t.Errorf("kahu %s: exit code %d and\n%s%s\nwant %d and %s", row.kahu, s.code, s.out, s.err, row.code, row.says)
		}
	}
	upstreamTransactions(t, proxy)
	upstreamLost(t, c.Voters()[0], proxy)
}

// upstreamLost breaks a guarded lock at the cluster: the guard ends its command, and
// says that the lease was lost.
func upstreamLost(t *testing.T, voter, proxy *cluster.Agent) {
	t.Helper()
	ctx := bounded(t, time.Minute)
	ran := filepath.Join(t.TempDir(), "ran")
	guard := proxy.Command(ctx, "exec", "--lock", "taken", "--ttl", "10s", "--", "sh", "-c", "echo >"+ran+"; sleep 600")
	if err := guard.Start(); err != nil {
		t.Fatal(err)
	}
	waitForFile(ctx, t, ran)
	must(t, voter, "lock", "break", "taken", "--reason", "test")
	var exit *exec.ExitError
	if err := guard.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 76 {
		t.Errorf("a guard whose lock was taken ended with %v", err)
	}
}

// upstreamTransactions runs transactions of the Go client: one that commits, and two
// that count one key at the same time.
func upstreamTransactions(t *testing.T, proxy *cluster.Agent) {
	t.Helper()
	ctx := bounded(t, time.Minute)
	c := proxy.Dial()
	defer c.Close()
	err := c.Transact(ctx, func(tx *client.Tx) error {
		if _, err := tx.Set("tx/a", []byte("1"), client.WriteOptions{}); err != nil {
			return err
		}
		if e, err := tx.Get("tx/a", client.ReadOptions{}); err != nil || string(e.Value) != "1" {
			return fmt.Errorf("its own write reads %q: %w", e.Value, err)
		}
		_, err := tx.Set("tx/n", []byte("0"), client.WriteOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	const counters, times = 3, 5
	var counting sync.WaitGroup
	for range counters {
		counting.Go(func() {
			c := proxy.Dial()
			defer c.Close()
			for range times {
				if err := c.Transact(ctx, count("tx/n")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	counting.Wait()
	if e, err := c.KVGet(ctx, "tx/n", client.ReadOptions{}); err != nil || string(e.Value) != strconv.Itoa(counters*times) {
		t.Errorf("counted to %q by %d counters %d times: %v", e.Value, counters, times, err)
	}
}

// count adds one to a number.
func count(key string) func(*client.Tx) error {
	return func(tx *client.Tx) error {
		e, err := tx.Get(key, client.ReadOptions{})
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(e.Value))
		if err != nil {
			return err
		}
		_, err = tx.Set(key, []byte(strconv.Itoa(n+1)), client.WriteOptions{})
		return err
	}
}

// Two hosts in front of a Kahuna cluster of three run one guarded command in turn,
// never together, while servers of the cluster are killed -9 and the hosts' agents
// are started again; what they read and write meanwhile is linearizable.
func TestUpstreamUnderFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	rounds := 3
	if soak() {
		rounds = 30
	}
	c, front := startUpstream(t, 3, 2)
	ctx := bounded(t, time.Duration(rounds)*time.Minute)
	long := startLong(ctx, t, c.Dir, front[0])
	log := filepath.Join(c.Dir, "turns")
	running, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	for i, a := range front {
		group.Go(func() { takeTurns(running, t, c.Dir, log, a, i) })
	}
	load := startUpstreamLoad(running, t, &group, front)
	for round := range rounds {
		victim := inUse(ctx, t, c, front[round%len(front)])
		from := load.Count()
		if err := victim.Kill(); err != nil {
			t.Fatal(err)
		}
		waitForCount(ctx, t, load, from+100)
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if err := victim.WaitServing(ctx); err != nil {
			t.Fatal(err)
		}
		a, end := front[round%len(front)], (*cluster.Agent).Kill
		if round%2 == 1 {
			end = (*cluster.Agent).Terminate
		}
		if err := end(a); err != nil {
			t.Fatal(err)
		}
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		if err := a.WaitServing(ctx); err != nil {
			t.Fatal(err)
		}
		waitForCount(ctx, t, load, load.Count()+100)
	}
	long.finish(t)
	if err := cluster.Wait(ctx, "both hosts have turns after the faults", enoughTurns(log)); err != nil {
		t.Error(err)
	}
	stop()
	group.Wait()
	for _, sentence := range load.Check(judging) {
		t.Error(sentence)
	}
	judgeTurns(t, log)
	t.Logf("%d rounds, %d operations", rounds, load.Count())
}

// inUse is the voter whose listener an agent in front asks first.
func inUse(ctx context.Context, t *testing.T, c *cluster.Cluster, a *cluster.Agent) *cluster.Agent {
	t.Helper()
	s, err := a.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Upstream, func(u wire.UpstreamServer) bool { return u.InUse })
	for _, v := range c.Voters() {
		if i >= 0 && strings.Contains(s.Upstream[i].URL, v.Args[1]) {
			return v
		}
	}
	t.Fatalf("%s uses none of the voters: %+v", a.Name, s.Upstream)
	return nil
}

// longCommand is a guarded command that lives through all of a test.
type longCommand struct {
	cmd        *exec.Cmd
	said       *strings.Builder
	token, end string // files
}

func startLong(ctx context.Context, t *testing.T, dir string, a *cluster.Agent) *longCommand {
	t.Helper()
	l := &longCommand{said: &strings.Builder{}, token: filepath.Join(dir, "long.token"), end: filepath.Join(dir, "long.end")}
	l.cmd = a.Command(ctx, "exec", "--lock", "long", "--ttl", "30s", "--", "sh", "-c",
		fmt.Sprintf("echo $KAHU_FENCING_TOKEN >>%s; until [ -e %s ]; do sleep 0.1; done", l.token, l.end))
	l.cmd.Stderr = l.said
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForFile(ctx, t, l.token)
	return l
}

// finish lets it end, and checks that it ran once and was not disturbed.
func (l *longCommand) finish(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(l.end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Wait(); err != nil {
		t.Errorf("the long command ended with %v and said %s", err, l.said)
	}
	if text, err := os.ReadFile(l.token); err != nil || strings.TrimSpace(string(text)) != "0" {
		t.Errorf("the long command ran with the tokens %q, %v", text, err)
	}
}

// takeTurns runs one short guarded command after the other. Each leaves its token in
// the log, and finds out whether another runs at the same time.
func takeTurns(ctx context.Context, t *testing.T, dir, log string, a *cluster.Agent, host int) {
	alone := filepath.Join(dir, "alone")
	script := fmt.Sprintf(`mkdir %s || { echo "DOUBLED $KAHU_FENCING_TOKEN" >>%s; exit 1; }
echo "$KAHU_FENCING_TOKEN %d" >>%s; sleep 0.05; rmdir %s`, alone, log, host, log, alone)
	for ctx.Err() == nil {
		// Not killed with ctx: a command that is killed half-way looks like a doubled one.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		cmd := a.Command(bounded, "exec", "--lock", "turns", "--ttl", "30s", "--", "sh", "-c", script)
		out, err := cmd.CombinedOutput()
		cancel()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 69 && exit.ExitCode() != 75) { // its agent is being started again
			t.Errorf("a turn on %s ended with %v: %s", a.Name, err, out)
		}
		if err != nil {
			_ = a.WaitServing(ctx)
		}
	}
}

// enoughTurns reports whether both hosts have three turns more than when it was made.
func enoughTurns(log string) func(context.Context) (bool, error) {
	count := func() (n [2]int) {
		text, _ := os.ReadFile(log) // none yet: none
		for i := range n {
			n[i] = strings.Count(string(text), fmt.Sprintf(" %d\n", i))
		}
		return n
	}
	before := count()
	return func(context.Context) (bool, error) {
		now := count()
		return now[0] >= before[0]+3 && now[1] >= before[1]+3, nil
	}
}

// judgeTurns reads the log: no two at a time, and tokens rise.
func judgeTurns(t *testing.T, log string) {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	last, by := -1, map[string]int{}
	for line := range strings.Lines(string(text)) {
		token, host, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(token)
		if err != nil || n <= last {
			t.Errorf("after token %d the log has %q", last, line)
			continue
		}
		last = n
		by[host]++
	}
	t.Logf("turns by host: %v", by)
}

// startUpstreamLoad asks both hosts all the time. An error is an outcome that is
// unknown, or nobody there, and nothing else.
func startUpstreamLoad(ctx context.Context, t *testing.T, group *sync.WaitGroup, front []*cluster.Agent) *history.Recorder {
	t.Helper()
	asker := &questions.Asker{History: history.NewRecorder(), Locks: 1, Patience: patience}
	first := front[0].Dial()
	defer first.Close()
	if err := asker.Prepare(ctx, first); err != nil {
		t.Fatal(err)
	}
	for i, a := range front {
		for j := range 2 {
			group.Go(func() {
				c := a.Dial()
				defer c.Close()
				revisions := map[string]int64{}
				tick := time.NewTicker(pace)
				defer tick.Stop()
				for n := 0; ctx.Err() == nil; n++ {
					asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
					_, err := asker.Question(asking, t.Context(), c, fmt.Sprintf("client%d.%d", i, j), n, revisions)
					cancel()
					if err != nil && !errors.Is(err, client.ErrUnknownOutcome) && !errors.Is(err, client.ErrNoAgent) && !errors.Is(err, client.ErrUnavailable) {
						t.Errorf("a client on %s got an error: %v", a.Name, err)
					}
					if err != nil {
						_ = a.WaitServing(ctx)
					}
					<-tick.C
				}
			})
		}
	}
	t.Cleanup(asker.Wait)
	return asker.History
}

func waitForCount(ctx context.Context, t *testing.T, r *history.Recorder, n int) {
	t.Helper()
	if err := cluster.Wait(ctx, fmt.Sprintf("%d operations are done", n), func(context.Context) (bool, error) {
		return r.Count() >= n, nil
	}); err != nil {
		t.Fatal(err)
	}
}
