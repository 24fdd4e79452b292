package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/policy"
)

// WarnOfUnits is what an agent says of rules on a kernel of which tells reports
// whether it tells the units of callers.
func WarnOfUnits(log *slog.Logger, rules *policy.Policy, tells func() (bool, error)) {
	(&agent{log: log}).warnOfUnits(rules, tells)
}

// CutGossip has nothing of gossip pass while cut says so; given up is told how
// many members gossip takes for dead.
func (o *Options) CutGossip(cut func() bool, givenUp func(int64)) {
	o.cutGossip, o.gossipLost = cut, givenUp
}

// GossipAt has a name that others use stand for what at returns, and looks often.
func (o *Options) GossipAt(at func() netip.AddrPort) {
	o.gossipName = func(g *gossip) {
		g.look = 100 * time.Millisecond
		g.resolve = func(context.Context, string) (netip.AddrPort, error) { return at(), nil }
		g.isAt = func(_ context.Context, _ string, was netip.AddrPort) (bool, error) { return at() == was, nil }
	}
}

// Wall replaces the wall clock of what an agent labels and tells other voters.
func (o *Options) Wall(now func() time.Time) { o.wall = now }

// Answers is what the watchdog asks of whoever serves the socket.
func Answers(ctx context.Context, socket string, limit time.Duration) error {
	return (&agent{cfg: config.Config{Socket: socket}}).answers(ctx, limit)
}

// ForgetStart is forgetStart.
var ForgetStart = forgetStart

// GivenBack is where the mappings begin that ForgetStart gives back, of a smaps file.
func GivenBack(path string) (from []uintptr, err error) {
	maps, err := readMappings(path, "/usr/bin/kahu")
	for _, m := range maps {
		if m.isProgram && m.anonymous == 0 {
			from = append(from, m.from)
		}
	}
	return from, err
}

// LargestGivenBack is the largest mapping of this process that ForgetStart gives back,
// in bytes, and what it is to be at most.
func LargestGivenBack() (largest, most int, err error) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, 0, err
	}
	maps, err := readMappings("/proc/self/smaps", program)
	for _, m := range maps {
		if m.isProgram && m.anonymous == 0 {
			largest = max(largest, int(m.to-m.from))
		}
	}
	return largest, pieceBytes, err
}

// UpstreamTLS is upstreamTLS.
var UpstreamTLS = upstreamTLS

// UpstreamToken reads a token file by a clock; nil: the host's.
func UpstreamToken(path string, now func() time.Time) func() (string, error) {
	if now == nil {
		now = time.Now
	}
	return (&tokenFile{path: path, now: now}).read
}
