package diagnosis_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/localapi/diagnosis"
	"github.com/kahu-sh/kahu/localapi/wire"
)

var now = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

func member(name, role string, alive bool) wire.ClusterMember {
	return wire.ClusterMember{Node: "node-" + name, Host: name, Address: name + ":7350", Role: role, Alive: alive,
		Version: "1.0.0", KeyIDs: []string{"key1"}, Self: name == "h1"}
}

// healthyVoter is h1 of three, which follows h2.
func healthyVoter() (wire.Status, []wire.ClusterMember) {
	s := wire.Status{Node: "node-h1", Host: "h1", Role: "voter", Ready: true, Leader: "node-h2",
		Voter: &wire.VoterStatus{Raft: "follower", CommitIndex: 100, AppliedIndex: 100,
			Configuration: []wire.QuorumMember{{Node: "node-h1"}, {Node: "node-h2"}, {Node: "node-h3"}}}}
	return s, []wire.ClusterMember{member("h1", wire.MemberVoter, true), member("h2", wire.MemberVoter, true), member("h3", wire.MemberVoter, true)}
}

func int64p(n int64) *int64 { return &n }

func TestDiagnose(t *testing.T) {
	silentMS := int64p(180_000)
	for name, c := range map[string]struct {
		change  func(s *wire.Status, m *[]wire.ClusterMember)
		verdict diagnosis.Verdict
		says    []string // in the summary, the problems and what to do, in this order
		notices []string
	}{
		"healthy": {func(*wire.Status, *[]wire.ClusterMember) {}, diagnosis.Healthy, []string{"all 3 voters answer, one may fail"}, nil},
		"five": {func(_ *wire.Status, m *[]wire.ClusterMember) {
			*m = append(*m, member("h4", wire.MemberVoter, true), member("h5", wire.MemberVoter, true))
		}, diagnosis.Healthy, []string{"all 5 voters answer, 2 may fail"}, nil},
		"alone": {func(_ *wire.Status, m *[]wire.ClusterMember) { *m = (*m)[:1] }, diagnosis.Healthy, []string{"quorum of one"}, nil},
		"two": {func(_ *wire.Status, m *[]wire.ClusterMember) { *m = (*m)[:2] }, diagnosis.Degraded,
			[]string{"two voters", "start a third agent"}, nil},
		"two and one that catches up": {func(_ *wire.Status, m *[]wire.ClusterMember) { (*m)[2].Role = wire.MemberCatchingUp }, diagnosis.Healthy,
			[]string{"all 2 voters answer"}, nil},
		"a silent voter": {func(_ *wire.Status, m *[]wire.ClusterMember) { (*m)[2].Alive, (*m)[2].SilentMS = false, silentMS }, diagnosis.Degraded,
			[]string{"1 problem", "voter h3 (h3:7350) has not answered for 3m0s; if one more fails", "systemctl start kahu; if it is gone for good: kahu cluster remove h3"}, nil},
		"one silent of five": {func(_ *wire.Status, m *[]wire.ClusterMember) {
			*m = append(*m, member("h4", wire.MemberVoter, true), member("h5", wire.MemberVoter, false))
		}, diagnosis.Degraded, []string{"voter h5 (h5:7350) has not answered\n"}, nil},
		"no quorum": {func(s *wire.Status, m *[]wire.ClusterMember) {
			s.Ready, s.NotReady, s.Leader = false, "no leader is known: a majority of the voters has to run and reach each other", ""
			(*m)[1].Alive, (*m)[2].Alive = false, false
		}, diagnosis.Down, []string{"no leader is known", "start kahu on h2, h3", "a majority of 3", "voter h2", "voter h3"}, nil},
		"cut off": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Ready, s.NotReady = false, "the leader has not been heard for some time"
		},
			diagnosis.Down, []string{"the leader has not been heard", "reaches the voters"}, nil},
		"not begun": {func(s *wire.Status, m *[]wire.ClusterMember) {
			s.Ready, s.NotReady, s.Voter.Configuration, *m = false, "this voter is in no quorum: waiting for 2 more voters", nil, (*m)[:1]
		}, diagnosis.Down, []string{"waiting for 2 more voters", "same secret"}, nil},
		"all voters were emptied": {func(s *wire.Status, m *[]wire.ClusterMember) {
			*s, *m = wire.Status{Node: "node-h1", ClusterID: "c", NotReady: "no voter of its cluster can be reached", Voter: &wire.VoterStatus{}}, []wire.ClusterMember{member("h1", wire.MemberStandby, true)}
		}, diagnosis.Down, []string{"no voter of its cluster", "start kahu on the voters", "kahu restore on one host", "empty the data directories of all"}, nil},
		"a hung disk": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Ready, s.NotReady, s.Voter.StalledMS = false, "a log write hangs", 4200
		}, diagnosis.Down, []string{"has not gone on for 4.2s", "dmesg"}, nil},
		"just elected": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Ready, s.NotReady, s.Voter.Raft = false, "this voter has just been elected", "leader"
		}, diagnosis.Degraded, []string{"just been elected", "wait a second"}, nil},
		"at risk": {func(s *wire.Status, _ *[]wire.ClusterMember) { s.Holds.AtRisk = 2 }, diagnosis.Degraded,
			[]string{"2 locks held on this host could not be renewed", "deadlines"}, nil},
		"little space": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Voter.Raft, s.Voter.Serving, s.Voter.MinFreeBytes, s.Voter.FreeBytes = "leader", true, 256<<20, int64p(100<<20)
		}, diagnosis.Degraded, []string{"100 MiB left, less than min-free (256 MiB): it refuses writes", "free space there"}, nil},
		"space not known": {func(s *wire.Status, _ *[]wire.ClusterMember) { s.Voter.MinFreeBytes = 256 << 20 }, diagnosis.Healthy, nil, nil},
		"behind": {func(s *wire.Status, _ *[]wire.ClusterMember) { s.Voter.CommitIndex = 500_000 }, diagnosis.Degraded,
			[]string{"499900 entries behind"}, nil},
		"expired": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Kahuna = &wire.KahunaStatus{CertificateExpires: now.Add(-time.Hour)}
		}, diagnosis.Degraded, []string{"has expired", "kahuna-tls-cert"}, nil},
		"expires soon": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Kahuna = &wire.KahunaStatus{CertificateExpires: now.Add(73 * time.Hour)}
		}, diagnosis.Healthy, nil, []string{"expires in 3 days"}},
		"insecure": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Kahuna = &wire.KahunaStatus{CertificateExpires: now.AddDate(1, 0, 0), Insecure: true, Listen: []string{"127.0.0.1:2070"}}
		}, diagnosis.Healthy, nil, []string{"127.0.0.1:2070 is trusted"}},
		"an upgrade": {func(_ *wire.Status, m *[]wire.ClusterMember) { (*m)[0].Version = "1.0.1" }, diagnosis.Healthy, nil,
			[]string{"versions differ: 1.0.0 on h2, h3; 1.0.1 on h1", "same package"}},
		"a rotation": {func(_ *wire.Status, m *[]wire.ClusterMember) { (*m)[2].KeyIDs = []string{"key2", "key1"} }, diagnosis.Healthy, nil,
			[]string{"used by h3", "drop the old one"}},
		"a silent proxy": {func(_ *wire.Status, m *[]wire.ClusterMember) { *m = append(*m, member("p1", wire.MemberProxy, false)) }, diagnosis.Healthy, nil,
			[]string{"1 agent without a vote not heard lately: p1"}},
		"a wrong clock": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.ClockProblem = "the wall clock of this host is 24h0m0s ahead of those of 2 of the 2 voters that it hears"
		}, diagnosis.Healthy, nil, []string{"this host is 24h0m0s ahead", "set it by NTP"}},
		"a leader's clock does not count": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Voter.WallClock = &wire.WallClock{Problem: "the wall clock of this host is 24h0m0s ahead of the times that the cluster gives out"}
		}, diagnosis.Healthy, nil, []string{"the times that the cluster gives out", "by NTP"}},
		"a disk that was set back": {func(s *wire.Status, _ *[]wire.ClusterMember) {
			s.Voter.Configuration = []wire.QuorumMember{{Node: "0123456789abcdef", Host: "h3", Role: wire.MemberVoter, Forgot: true}}
		}, diagnosis.Degraded, []string{"voter h3 has forgotten what it acknowledged", "empty the data directory"}, nil},
		"a wrong file": {func(s *wire.Status, _ *[]wire.ClusterMember) { s.ConfigProblem = "voters: 4 is not 3 or 5" }, diagnosis.Degraded,
			[]string{"cannot be used: voters: 4 is not", "systemctl reload kahu"}, nil},
		"recovered without this host": {func(s *wire.Status, m *[]wire.ClusterMember) {
			s.Ready, s.NotReady, s.Successor = false, "no leader is known", "c2"
			(*m)[2].Alive = false // of the old cluster: must not be started
		}, diagnosis.Down, []string{"was recovered without this host", "goes on as c2", "empty the data directory"}, nil},
		"an emptied data directory": {func(s *wire.Status, _ *[]wire.ClusterMember) { s.DataDirGone = true }, diagnosis.Degraded,
			[]string{"were deleted while it runs", "systemctl restart kahu", "kahu cluster remove with the old id, node-h1"}, nil},
		"settings that wait": {func(s *wire.Status, _ *[]wire.ClusterMember) { s.NeedsRestart = []string{"bind", "http"} }, diagnosis.Healthy, nil,
			[]string{"wait for a restart: bind, http", "systemctl restart kahu"}},
		"a hostile name": {func(_ *wire.Status, m *[]wire.ClusterMember) { (*m)[2].Alive, (*m)[2].Host = false, "a\x1b[2J" }, diagnosis.Degraded,
			[]string{`voter "a\x1b[2J" (h3:7350)`, `remove "a\x1b[2J"`}, nil},
		"in front of a Kahuna cluster": {func(s *wire.Status, m *[]wire.ClusterMember) {
			*s = wire.Status{Node: "node-h1", Role: "upstream", Ready: true, Upstream: []wire.UpstreamServer{{URL: "https://k1:8082", Healthy: true}}}
			*m = nil
		}, diagnosis.Healthy, []string{"served by a Kahuna cluster"}, nil},
		"one of its servers does not answer": {func(s *wire.Status, m *[]wire.ClusterMember) {
			*s = wire.Status{Node: "node-h1", Role: "upstream", Ready: true, Upstream: []wire.UpstreamServer{
				{URL: "https://k1:8082", Healthy: true}, {URL: "https://k2:8082", Failure: "connection refused"}}}
			*m = nil
		}, diagnosis.Degraded, []string{"server https://k2:8082 of the Kahuna cluster does not answer", "connection refused", "look at that server"}, nil},
		"none of its servers answers": {func(s *wire.Status, m *[]wire.ClusterMember) {
			*s = wire.Status{Node: "node-h1", Role: "upstream", NotReady: "no server of the Kahuna cluster answers",
				Upstream: []wire.UpstreamServer{{URL: "https://k1:8082", Failure: "connection refused"}}}
			*m = nil
		}, diagnosis.Down, []string{"no server of the Kahuna cluster answers", "that this host reaches the servers"}, nil},
		"members not told": {func(s *wire.Status, m *[]wire.ClusterMember) {
			*m = nil
			s.Peers = []wire.Peer{{Node: "node-h1", Role: "voter"}, {Node: "node-h2", Role: "voter", Connected: true}, {Node: "node-h3", Host: "h3", Role: "voter"}}
		}, diagnosis.Degraded, []string{"voter h3 has not answered"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, m := healthyVoter()
			c.change(&s, &m)
			r := diagnosis.Diagnose(s, m, now)
			if r.Verdict != c.verdict {
				t.Errorf("the verdict is %s, want %s; problems: %+v", r.Verdict, c.verdict, r.Problems)
			}
			follows(t, r.Summary+"\n"+lines(r.Problems), c.says)
			follows(t, lines(r.Notices), c.notices)
			if c.notices == nil && len(r.Notices) > 0 {
				t.Errorf("notices: %+v", r.Notices)
			}
		})
	}
}

func lines(problems []diagnosis.Problem) string {
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintf(&b, "%s\n  %s\n", p.What, p.Do)
	}
	return b.String()
}

func follows(t *testing.T, text string, want []string) {
	t.Helper()
	rest := text
	for _, w := range want {
		_, after, ok := strings.Cut(rest, w)
		if !ok {
			t.Errorf("%q is not where it belongs in:\n%s", w, text)
			return
		}
		rest = after
	}
}

// Whatever an agent tells, the report holds together: the verdict follows from the
// problems, and nobody is left without something to do.
func TestReportsHoldTogether(t *testing.T) {
	roles := []string{wire.MemberVoter, wire.MemberCatchingUp, wire.MemberStandby, wire.MemberProxy, wire.MemberUnknown}
	rapid.Check(t, func(t *rapid.T) {
		s := wire.Status{Node: "node-h1", Ready: rapid.Bool().Draw(t, "ready"), NotReady: "some reason"}
		if s.Ready {
			s.NotReady = ""
		}
		s.Holds.AtRisk = rapid.IntRange(0, 2).Draw(t, "at risk")
		if rapid.Bool().Draw(t, "voter") {
			s.Voter = &wire.VoterStatus{Raft: rapid.SampledFrom([]string{"leader", "follower", "candidate"}).Draw(t, "raft"), Serving: rapid.Bool().Draw(t, "serving"),
				StalledMS: rapid.Int64Range(0, 2).Draw(t, "stalled"), CommitIndex: rapid.Uint64().Draw(t, "commit"), AppliedIndex: rapid.Uint64Range(0, 1<<62).Draw(t, "applied")}
		}
		var m []wire.ClusterMember
		for i := range rapid.IntRange(0, 6).Draw(t, "members") {
			m = append(m, member(fmt.Sprintf("h%d", i+1), rapid.SampledFrom(roles).Draw(t, "role"), rapid.Bool().Draw(t, "alive")))
		}
		r := diagnosis.Diagnose(s, m, now)
		if (r.Verdict == diagnosis.Healthy) != (len(r.Problems) == 0) {
			t.Fatalf("%s with problems %+v", r.Verdict, r.Problems)
		}
		if s.Ready && r.Verdict == diagnosis.Down || !s.Ready && r.Verdict == diagnosis.Healthy {
			t.Fatalf("ready is %v, the verdict %s", s.Ready, r.Verdict)
		}
		for _, p := range append(r.Problems, r.Notices...) {
			if p.What == "" || p.Do == "" || strings.ContainsAny(p.What+p.Do, "\n") {
				t.Fatalf("a problem is %+v", p)
			}
		}
		if r.Summary == "" {
			t.Fatal("no summary")
		}
	})
}
