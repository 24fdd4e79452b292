package top_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/cmd/kahu/top"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

var update = flag.Bool("update", false, "write the golden frames anew")

// agent is a Source with a script: what it tells can be changed between looks.
type agent struct {
	status  wire.Status
	members []wire.ClusterMember
	locks   []wire.Lock
	metrics string
	failing error // of the status
	locked  error // of the locks
	asked   []string
}

func (a *agent) Status(context.Context) (wire.Status, error) { return a.status, a.failing }

func (a *agent) ClusterMembers(context.Context) (wire.ClusterMembers, error) {
	return wire.ClusterMembers{Leader: a.status.Leader, Members: a.members}, nil
}

func (a *agent) LockList(_ context.Context, _ string, p client.Page, o client.LockOptions) (wire.Locks, error) {
	a.asked = append(a.asked, fmt.Sprintf("list ephemeral=%v limit=%d", o.Ephemeral, p.Limit))
	return wire.Locks{Locks: a.locks}, a.locked
}

func (a *agent) LockInfo(_ context.Context, name string, _ client.LockOptions) (wire.Lock, error) {
	a.asked = append(a.asked, "info "+name)
	for _, l := range a.locks {
		if l.Name == name {
			for i := range int(l.QueueLength) {
				l.Queue = append(l.Queue, wire.Waiter{Position: uint32(i + 1), Holder: wire.Holder{Host: fmt.Sprintf("h%d", i+2), Command: "report", Reason: "nightly"}})
			}
			return l, nil
		}
	}
	return wire.Lock{}, client.ErrNotFound
}

func (a *agent) Metrics(context.Context) ([]byte, error) { return []byte(a.metrics), nil }

// metricsAt is what an agent counts: requests, of which 2 % take up to a second,
// and renewals; and what the looks themselves cost.
func metricsAt(requests, renewals int) string {
	fast := requests * 98 / 100
	return fmt.Sprintf(`# TYPE kahu_localapi_requests_total counter
kahu_localapi_requests_total{transport="stream",route="put",code="ok"} %d
kahu_localapi_requests_total{transport="stream",route="put",code="unavailable"} %d
kahu_localapi_requests_total{transport="http",route="metrics",code="ok"} 999999
# TYPE kahu_localapi_request_duration_seconds histogram
kahu_localapi_request_duration_seconds_bucket{transport="stream",route="put",le="0.0005"} %d
kahu_localapi_request_duration_seconds_bucket{transport="stream",route="put",le="1"} %d
kahu_localapi_request_duration_seconds_bucket{transport="stream",route="put",le="+Inf"} %d
kahu_localapi_request_duration_seconds_sum{transport="stream",route="put"} 1
kahu_localapi_request_duration_seconds_count{transport="stream",route="put"} %d
# TYPE kahu_session_renewals_total counter
kahu_session_renewals_total{outcome="acknowledged"} %d
kahu_session_renewals_total{outcome="failed"} 0
# TYPE kahu_session_renew_seconds histogram
kahu_session_renew_seconds_bucket{le="0.0025"} %d
kahu_session_renew_seconds_bucket{le="+Inf"} %d
kahu_session_renew_seconds_sum 1
kahu_session_renew_seconds_count %d
`, requests-requests/100, requests/100, fast, requests, requests, requests, renewals, renewals, renewals, renewals)
}

var began = time.Date(2026, 11, 23, 18, 30, 0, 0, time.UTC)

func cluster() *agent {
	member := func(name, role string) wire.ClusterMember {
		return wire.ClusterMember{Node: "node-" + name, Host: name, Role: role, Alive: true, Self: name == "h1", Version: "1.0.1", Address: "10.0.0.1:7350", KeyIDs: []string{"k"}}
	}
	a := &agent{
		status: wire.Status{Node: "node-h1", Host: "h1", Role: "voter", Storage: "sqlite", Version: "1.0.1", UptimeMS: 3_723_000, Ready: true, Leader: "node-h2",
			Holds: wire.HoldCounts{Held: 2, Queued: 1}, Voter: &wire.VoterStatus{Raft: "follower", Term: 7, CommitIndex: 1000, AppliedIndex: 1000, Configuration: []wire.QuorumMember{{Node: "node-h1"}}}},
		members: []wire.ClusterMember{member("h1", "voter"), member("h2", "voter"), member("h3", "voter"), member("p1", "proxy")},
		metrics: metricsAt(1000, 10),
	}
	for i, name := range []string{"backup", "deploy", "mailer", "nightly-report"} {
		a.locks = append(a.locks, wire.Lock{Name: name, Token: int64(17 + i), Kept: true, RemainingMS: int64(28_400 - 1000*i), QueueLength: uint32([]int{0, 0, 0, 7}[i]),
			Holder: wire.Holder{Host: "h1", PID: 4711, Command: "/usr/local/bin/" + name}})
	}
	return a
}

// looks fetches n frames a second apart, and does change before the last.
func looks(t *testing.T, a *agent, m top.Model, n int, change func()) top.Model {
	t.Helper()
	for i := range n {
		if i == n-1 && change != nil {
			change()
		}
		f, err := top.Look(t.Context(), a, m.Wants(), func() time.Time { return began.Add(time.Duration(i) * time.Second) })
		if err != nil {
			m = m.Failed(err)
			continue
		}
		m = m.Looked(f)
	}
	return m
}

func load(a *agent) func() {
	return func() {
		a.metrics, a.status.UptimeMS = metricsAt(3000, 14), a.status.UptimeMS+1000
		v := *a.status.Voter // the look before has the other one
		v.AppliedIndex, v.CommitIndex = 1800, 1800
		a.status.Voter = &v
	}
}

func TestFrames(t *testing.T) {
	for name, c := range map[string]struct {
		width, height int
		play          func(t *testing.T, a *agent, m top.Model) top.Model
	}{
		"first look": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model { return looks(t, a, m, 1, nil) }},
		"nothing yet": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			a.failing = errors.New("no agent: there is no socket at /run/kahu/kahu.sock")
			return looks(t, a, m, 1, nil)
		}},
		"rates":  {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model { return looks(t, a, m, 2, load(a)) }},
		"narrow": {40, 12, func(t *testing.T, a *agent, m top.Model) top.Model { return looks(t, a, m, 2, load(a)) }},
		"wide":   {130, 30, func(t *testing.T, a *agent, m top.Model) top.Model { return looks(t, a, m, 2, load(a)) }},
		"waiters": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			return looks(t, a, looks(t, a, m, 1, nil).Key("enter"), 2, load(a))
		}},
		"nobody waits": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			return looks(t, a, looks(t, a, m, 1, nil).Key("down").Key("enter"), 2, load(a))
		}},
		"by name and paused": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			return looks(t, a, m, 1, nil).Key("s").Key("p").Key("end")
		}},
		"ephemeral": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			return looks(t, a, looks(t, a, m, 1, nil).Key("e"), 1, func() { a.locks = nil })
		}},
		"a silent voter": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			return looks(t, a, m, 1, func() { a.members[2].Alive = false })
		}},
		"no quorum": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			return looks(t, a, m, 2, func() {
				a.status.Ready, a.status.NotReady, a.status.Leader = false, "no leader is known: a majority of the voters has to run and reach each other", ""
				a.members[1].Alive, a.members[2].Alive = false, false
			})
		}},
		"the agent is gone": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			return looks(t, a, m, 2, func() { a.failing = errors.New("no agent: nobody serves the socket") })
		}},
		"many": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			for i := range 50 {
				a.locks = append(a.locks, wire.Lock{Name: fmt.Sprintf("lock-%02d", i), RemainingMS: 1000})
				a.members = append(a.members, wire.ClusterMember{Node: fmt.Sprintf("node-x%d", i), Role: "proxy", Alive: true, Version: "1.0.1", KeyIDs: []string{"k"}})
			}
			return looks(t, a, m, 1, nil).Key("pgdown").Key("pgdown").Key("down")
		}},
		"hostile names": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			a.locks[3].Name, a.locks[3].Holder.Host = "clear\x1b[2J", "evil\rhost"
			a.locks[3].Holder.Command, a.members[1].Host = "a\nb", "\x1b]0;title\x07"
			return looks(t, a, m, 1, nil)
		}},
		"wide letters": {80, 24, func(t *testing.T, a *agent, m top.Model) top.Model {
			a.locks[3].Name, a.locks[2].Name = strings.Repeat("請求書", 20), "rätsel"
			return looks(t, a, m, 1, nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.play(t, cluster(), top.NewModel(c.width, c.height, time.Second)).View(top.Plain())
			fits(t, got, c.width, c.height)
			path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".txt")
			if *update {
				if err := os.WriteFile(path, []byte(got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got+"\n" != string(want) {
				t.Errorf("the frame is\n%s\nand %s has\n%s", got, path, want)
			}
		})
	}
}

func fits(t interface {
	Helper()
	Errorf(string, ...any)
}, frame string, width, height int) {
	t.Helper()
	lines := strings.Split(frame, "\n")
	if len(lines) > height {
		t.Errorf("the frame has %d lines, the screen %d", len(lines), height)
	}
	for _, l := range lines {
		if w := ansi.StringWidth(l); w > width {
			t.Errorf("a line has %d cells, the screen %d: %q", w, width, l)
		}
		for _, r := range l {
			if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				t.Errorf("a control character in %q", l)
			}
		}
	}
}

// Whatever the cluster has and the user presses, a frame fits its screen and the
// cursor is on a lock that is there.
func TestFramesFit(t *testing.T) {
	keys := []string{"up", "down", "pgup", "pgdown", "home", "end", "enter", "e", "s", "p", "x"}
	rapid.Check(t, func(t *rapid.T) {
		a := cluster()
		a.locks = nil
		for i := range rapid.IntRange(0, 40).Draw(t, "locks") {
			a.locks = append(a.locks, wire.Lock{Name: rapid.StringN(1, 20, -1).Draw(t, "name") + fmt.Sprint(i), QueueLength: rapid.Uint32Range(0, 9).Draw(t, "queue"),
				Holder: wire.Holder{Host: rapid.String().Draw(t, "host"), Command: rapid.String().Draw(t, "command")}})
		}
		width, height := rapid.IntRange(1, 200).Draw(t, "width"), rapid.IntRange(1, 60).Draw(t, "height")
		m := top.NewModel(width, height, time.Second)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			if f, err := top.Look(context.Background(), a, m.Wants(), func() time.Time { return began }); err == nil {
				m = m.Looked(f)
			}
			m = m.Key(rapid.SampledFrom(keys).Draw(t, "key"))
			if len(a.locks) > 3 && rapid.Bool().Draw(t, "fewer") {
				a.locks = a.locks[:len(a.locks)/2]
			}
			fits(t, m.View(top.Plain()), max(width, 20), max(height, 8))
			if n := strings.Count(m.View(top.Plain()), "\n> "); n > 1 {
				t.Fatalf("%d locks are under the cursor:\n%s", n, m.View(top.Plain()))
			}
		}
	})
}

// A theme colors and moves nothing.
func TestThemesKeepTheFrame(t *testing.T) {
	m := looks(t, cluster(), top.NewModel(80, 24, time.Second), 1, nil).Key("enter")
	if got := ansi.Strip(m.View(top.Colored())); got != m.View(top.Plain()) {
		t.Errorf("without its colors the frame is\n%s\nwant\n%s", got, m.View(top.Plain()))
	}
}

func TestWhatIsAsked(t *testing.T) {
	a := cluster()
	m := looks(t, a, top.NewModel(80, 24, time.Second), 1, nil)
	m = looks(t, a, m.Key("enter"), 1, nil)
	looks(t, a, m.Key("e"), 1, nil)
	want := "list ephemeral=false limit=1000, list ephemeral=false limit=1000, info nightly-report, list ephemeral=true limit=1000"
	if got := strings.Join(a.asked, ", "); got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	if !m.Key("q").Done() || !m.Key("ctrl+c").Done() || m.Done() {
		t.Error("q and Ctrl-C do not end it, or something else does")
	}
}

func TestRates(t *testing.T) {
	frame := func(a *agent, after time.Duration) top.Frame {
		f, err := top.Look(t.Context(), a, top.Query{}, func() time.Time { return began.Add(after) })
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	a := cluster()
	before := frame(a, 0)
	load(a)()
	r := top.RatesBetween(before, frame(a, 2*time.Second))
	want := top.Rates{Known: true, Requests: 1000, Failed: 10, P50: 0.0005, P99: 1, Renewals: 2, RenewP99: 0.0025, Applied: 400}
	if r != want {
		t.Errorf("the rates are %+v, want %+v", r, want)
	}
	a.status.UptimeMS, a.metrics = 5, metricsAt(7000, 1)
	if r := top.RatesBetween(before, frame(a, 2*time.Second)); r.Known {
		t.Errorf("over a restart of the agent the rates are %+v", r)
	}
	a.metrics = "not metrics at all {"
	if r := top.RatesBetween(before, frame(a, 2*time.Second)); r.Known {
		t.Errorf("without metrics the rates are %+v", r)
	}
}

// What the locks' list refuses is shown in their place.
func TestLocksNotTold(t *testing.T) {
	a := cluster()
	a.locked = errors.New("the policy does not let you")
	if got := looks(t, a, top.NewModel(80, 24, time.Second), 1, nil).View(top.Plain()); !strings.Contains(got, "not known: the policy does not let you") {
		t.Errorf("the frame does not say why there are no locks:\n%s", got)
	}
}

func TestStillHasNoKeys(t *testing.T) {
	got := looks(t, cluster(), top.NewModel(80, 24, time.Second), 1, nil).Still(top.Plain())
	if strings.Contains(got, "quit") || strings.HasSuffix(got, "\n") || !strings.Contains(got, "nightly-report") {
		t.Errorf("the still frame is\n%s", got)
	}
}
