package diagnosis

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/kahu-sh/kahu/localapi/wire"
)

// Verdict is all in one word.
type Verdict string

// The verdicts.
const (
	Healthy  Verdict = "healthy"  // nothing to do
	Degraded Verdict = "degraded" // requests are taken, and something should be mended
	Down     Verdict = "down"     // this agent takes no requests now
)

// A Problem is one thing that is wrong.
type Problem struct {
	What string `json:"what"` // one line
	Do   string `json:"do"`   // one line: what to do first
}

// A Report is what an operator wants to know first.
type Report struct {
	Verdict Verdict `json:"verdict"`
	Summary string  `json:"summary"` // one line
	// Problems make the verdict, the worst first. Notices do not: they pass by
	// themselves, or somebody wanted them.
	Problems []Problem `json:"problems"`
	Notices  []Problem `json:"notices"`
}

const (
	// behindEntries is how far a voter may be behind the log that it knows of
	// before it is one that a failure would be felt with. A busy second is less.
	behindEntries = 100_000
	// certificateDays before its end a certificate is a notice.
	certificateDays = 14
)

// NoAgent is the report when the agent was not reached; reason says why, and what
// to do, in one line.
func NoAgent(reason string) Report {
	return Report{Verdict: Down, Summary: "no agent answers on this host", Notices: []Problem{},
		Problems: []Problem{{What: reason, Do: "under systemd: systemctl start kahu; journalctl -u kahu says why it ended"}}}
}

// Diagnose judges an agent. members are all that it knows of, nil when they could
// not be asked for; then its own peers have to do. now is the wall clock, for
// certificates.
func Diagnose(s wire.Status, members []wire.ClusterMember, now time.Time) Report {
	d := &patient{Status: s, members: members, now: now}
	d.voters()
	d.recovered()
	d.readiness()
	d.silentServers()
	d.silentVoters()
	d.fewVoters()
	d.forgetful()
	d.holds()
	d.disk()
	d.dataDir()
	d.behind()
	d.certificate()
	d.clock()
	d.settings()
	d.silentOthers()
	d.versions()
	d.secrets()
	r := Report{Verdict: Healthy, Problems: []Problem{}, Notices: []Problem{}}
	switch {
	case d.down:
		r.Verdict = Down
	case len(d.problems) > 0:
		r.Verdict = Degraded
	}
	r.Problems, r.Notices = append(r.Problems, d.problems...), append(r.Notices, d.notices...)
	r.Summary = d.summary(r)
	return r
}

// patient is what is being judged.
type patient struct {
	wire.Status
	members []wire.ClusterMember
	now     time.Time

	silent  []wire.ClusterMember // voters that do not answer
	seats   int                  // voters, 0: not known
	joining int                  // servers that get a vote soon

	down     bool
	problems []Problem
	notices  []Problem
}

func (d *patient) problem(do, what string, args ...any) {
	d.problems = append(d.problems, Problem{What: fmt.Sprintf(what, args...), Do: do})
}

func (d *patient) notice(do, what string, args ...any) {
	d.notices = append(d.notices, Problem{What: fmt.Sprintf(what, args...), Do: do})
}

// voters counts who votes, and who of them is silent.
func (d *patient) voters() {
	if d.members == nil {
		for _, p := range d.Peers {
			d.members = append(d.members, wire.ClusterMember{Node: p.Node, Host: p.Host, Address: p.Address, Role: p.Role, Alive: p.Connected, Leader: p.Node == d.Leader})
		}
	}
	for _, m := range d.members {
		switch m.Role {
		case wire.MemberVoter:
			d.seats++
			if !m.Alive && !m.Self && m.Node != d.Node {
				d.silent = append(d.silent, m)
			}
		case wire.MemberCatchingUp:
			d.joining++
		}
	}
}

// recovered without this agent: whom it knows of the old cluster must not be started
// again, so that nothing else is said of them.
func (d *patient) recovered() {
	if d.Successor == "" {
		return
	}
	d.problem("systemctl stop kahu, empty the data directory of this host, systemctl start kahu: it joins as a new node; start no other agent of the old cluster",
		"the cluster was recovered without this host (kahu cluster peers-recover), and goes on as %s", printable(d.Successor))
	d.silent, d.down = nil, !d.Ready
}

// readiness: can a request be taken now?
func (d *patient) readiness() {
	if d.Ready || d.Successor != "" {
		return
	}
	v := d.Voter
	switch {
	case len(d.Upstream) > 0:
		d.problem("check that the Kahuna cluster runs and has a leader, and that this host reaches the servers that upstream names, with the certificates and the token that they ask for",
			"%s", d.NotReady)
	case v != nil && v.StalledMS > 0:
		d.problem("look at the disk of the data directory (dmesg, df); another voter leads meanwhile",
			"the disk or the state machine of this voter has not gone on for %s", text(v.StalledMS))
	case v != nil && v.Raft == "leader" && !v.Serving:
		d.problem("wait a second; if it stays so, look at this host's disk and CPU", "this voter has just been elected and does not serve yet")
		return // it is about to
	case d.seats == 0 && d.ClusterID != "":
		d.problem("start kahu on the voters, or mend the network to them; if all have lost their data directories: kahu restore on one host, "+
			"or, to begin with nothing, stop kahu on all hosts, empty the data directories of all, and start them again", "%s", d.NotReady)
	case d.seats == 0 || v != nil && len(v.Configuration) == 0:
		d.problem("start kahu on the hosts that join names, with the same secret; check that they reach each other on TCP and UDP of the port of bind",
			"%s", d.NotReady)
	case len(d.silent) > 0:
		d.problem(fmt.Sprintf("start kahu on %s, or mend the network to it: a majority of %d has to run", names(d.silent), d.seats), "%s", d.NotReady)
	default:
		d.problem("check that this host reaches the voters on TCP (kahu cluster members lists their addresses); journalctl -u kahu says what it tries", "%s", d.NotReady)
	}
	d.down = true
}

// silentServers are those of a Kahuna cluster that this agent stands in front of.
func (d *patient) silentServers() {
	for _, u := range d.Upstream {
		if !u.Healthy && u.Failure != "" && d.Ready {
			d.problem("look at that server and at the network to it; the others are asked meanwhile",
				"server %s of the Kahuna cluster does not answer: %s", u.URL, printable(u.Failure))
		}
	}
}

func (d *patient) silentVoters() {
	left := d.seats - len(d.silent)
	for i, m := range d.silent {
		since := ""
		if m.SilentMS != nil {
			since = " for " + text(*m.SilentMS)
		}
		then := ""
		if i == 0 && d.Ready && left <= d.seats/2+1 {
			then = "; if one more fails, locks and writes stop"
		}
		d.problem(fmt.Sprintf("on that host: systemctl start kahu; if it is gone for good: kahu cluster remove %s", name(m)),
			"voter %s has not answered%s%s", label(m), since, then)
	}
}

// fewVoters: two fail more easily than one.
func (d *patient) fewVoters() {
	if d.seats == 2 && d.joining == 0 && !d.down {
		d.problem("start a third agent with the same secret and join list, role auto or voter", "two voters: when either fails, locks and writes stop")
	}
}

// forgetful voters count as two that fail: what they had and have not any more may be
// on fewer disks than a majority's.
func (d *patient) forgetful() {
	if d.Voter == nil {
		return
	}
	for _, q := range d.Voter.Configuration {
		if q.Forgot {
			d.problem("kahu cluster remove "+short(q.Node)+"; on that host: systemctl stop kahu, empty the data directory, look at the disk, systemctl start kahu",
				"voter %s has forgotten what it acknowledged: its disk was set back, or does not write what it says", cmp.Or(q.Host, short(q.Node)))
		}
	}
}

func (d *patient) holds() {
	if n := d.Holds.AtRisk; n > 0 {
		d.problem("bring the quorum back before their deadlines (kahu top shows them): then they are kept; else their commands are stopped",
			"%s held on this host could not be renewed", count(n, "lock"))
	}
}

func (d *patient) disk() {
	v := d.Voter
	if v == nil || v.MinFreeBytes <= 0 || v.FreeBytes == nil || *v.FreeBytes >= v.MinFreeBytes {
		return
	}
	refuses := "it would refuse writes as leader"
	if v.Raft == "leader" {
		refuses = "it refuses writes"
	}
	d.problem("free space there, or delete keys; renewals, releases and deletes go on",
		"the data directory's disk has %d MiB left, less than min-free (%d MiB): %s", *v.FreeBytes>>20, v.MinFreeBytes>>20, refuses)
}

func (d *patient) behind() {
	if v := d.Voter; v != nil && v.CommitIndex > v.AppliedIndex+behindEntries {
		d.problem("wait; if the number does not fall, look at this host's disk and CPU", "this voter is %d entries behind the quorum", v.CommitIndex-v.AppliedIndex)
	}
}

func (d *patient) certificate() {
	k := d.Kahuna
	if k == nil {
		return
	}
	const do = "replace the files of kahuna-tls-cert and kahuna-tls-key; they are read again by themselves"
	switch left := k.CertificateExpires.Sub(d.now); {
	case k.CertificateExpires.IsZero():
	case left < 0:
		d.problem(do, "the certificate for Kahuna's clients has expired")
	case left < certificateDays*24*time.Hour:
		d.notice(do, "the certificate for Kahuna's clients expires in %d days", left/(24*time.Hour))
	}
	if k.Insecure {
		d.notice("set kahuna-token-file or kahuna-client-ca in place of kahuna-insecure, when the clients can", "whoever reaches %s is trusted, in clear text", strings.Join(k.Listen, " "))
	}
}

// dataDir: what is taken away beneath an agent is gone when it ends.
func (d *patient) dataDir() {
	if d.DataDirGone {
		d.problem("systemctl restart kahu: it joins as a new node; then, if it voted, kahu cluster remove with the old id, "+short(d.Node),
			"the files of this agent's data directory were deleted while it runs")
	}
}

// clock: nothing that is decided depends on wall clocks, what people read does.
func (d *patient) clock() {
	if d.ClockProblem != "" {
		d.notice("set it by NTP (chronyc makestep, or timedatectl set-ntp true); no lease depends on it, but times that are shown do, and whether certificates of an own PKI are valid",
			"%s", printable(d.ClockProblem))
	}
	if v := d.Voter; v != nil && v.WallClock != nil {
		d.notice("set the clock by NTP; leases do not depend on it", "%s", printable(v.WallClock.Problem))
	}
}

// settings of the file that do not count yet.
func (d *patient) settings() {
	if d.ConfigProblem != "" {
		d.problem("mend it, and systemctl reload kahu: this agent would not start again with it", "the configuration cannot be used: %s", d.ConfigProblem)
	}
	if len(d.NeedsRestart) > 0 {
		d.notice("systemctl restart kahu, when it suits: locks stay held", "settings that were changed and wait for a restart: %s", strings.Join(d.NeedsRestart, ", "))
	}
}

// silentOthers have no vote: nobody else feels it.
func (d *patient) silentOthers() {
	var gone []wire.ClusterMember
	for _, m := range d.members {
		if !m.Alive && !m.Self && m.Role != wire.MemberVoter && m.Role != wire.MemberCatchingUp {
			gone = append(gone, m)
		}
	}
	if len(gone) > 0 {
		d.notice("start kahu there; what was taken away for good is forgotten in time", "%s without a vote not heard lately: %s", count(len(gone), "agent"), names(gone))
	}
}

// versions differ during an upgrade.
func (d *patient) versions() {
	by := map[string][]wire.ClusterMember{}
	for _, m := range d.members {
		if m.Alive && m.Version != "" {
			by[m.Version] = append(by[m.Version], m)
		}
	}
	if len(by) < 2 {
		return
	}
	var parts []string
	for version, on := range by {
		parts = append(parts, printable(version)+" on "+names(on))
	}
	slices.Sort(parts)
	d.notice("install the same package on all hosts: new features wait for the last voter", "versions differ: %s", strings.Join(parts, "; "))
}

// secrets differ while they are being changed.
func (d *patient) secrets() {
	own := ""
	for _, m := range d.members {
		if (m.Self || m.Node == d.Node) && len(m.KeyIDs) > 0 {
			own = m.KeyIDs[0]
		}
	}
	var others []wire.ClusterMember
	for _, m := range d.members {
		if own != "" && m.Alive && len(m.KeyIDs) > 0 && m.KeyIDs[0] != own {
			others = append(others, m)
		}
	}
	if len(others) > 0 {
		d.notice("finish changing the secret: put the new one first in the secret file of every host, then drop the old one",
			"another cluster secret than here is used by %s", names(others))
	}
}

// summary is the verdict's line.
func (d *patient) summary(r Report) string {
	switch r.Verdict {
	case Down:
		return r.Problems[0].What
	case Degraded:
		return "requests are served; " + count(len(r.Problems), "problem") + " to mend"
	}
	switch {
	case len(d.Upstream) > 0:
		return "requests are served by a Kahuna cluster"
	case d.seats == 0:
		return "requests are served"
	case d.seats == 1:
		return "requests are served by a quorum of one"
	}
	spare := (d.seats - 1) / 2
	may := fmt.Sprintf("%d may fail", spare)
	if spare == 1 {
		may = "one may fail"
	}
	return fmt.Sprintf("all %d voters answer, %s", d.seats, may)
}

// label is an agent in a sentence.
func label(m wire.ClusterMember) string {
	if m.Address != "" {
		return name(m) + " (" + printable(m.Address) + ")"
	}
	return name(m)
}

func name(m wire.ClusterMember) string { return printable(cmp.Or(m.Host, short(m.Node))) }

// printable shows what others chose: a report is read on terminals.
func printable(s string) string {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// names are the first few.
func names(members []wire.ClusterMember) string {
	const most = 3
	out := make([]string, 0, most)
	for _, m := range members[:min(len(members), most)] {
		out = append(out, name(m))
	}
	text := strings.Join(out, ", ")
	if len(members) > most {
		text += fmt.Sprintf(" and %d more", len(members)-most)
	}
	return text
}

func short(node string) string { return node[:min(len(node), 8)] }

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func text(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d > 10*time.Second {
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
