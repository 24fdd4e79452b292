package discovery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

const (
	// maxAttempts is how many addresses are tried in one round, at the same time: one
	// that swallows what is sent to it must not hold up the others.
	maxAttempts = 8
	// resolveTimeout bounds looking up one host name.
	resolveTimeout = 5 * time.Second
)

// try is how it went with an address.
type try struct {
	wait    time.Duration
	retryAt time.Time
}

// attempt is how it went just now.
type attempt struct {
	address string
	err     error
}

// join begins to try addresses of agents that should be there and are not: one that
// answers brings its whole half of the cluster. What became of it comes by f.attempts.
func (f *Finder) join() {
	missing := f.missing()
	f.settle(missing)
	for _, address := range missing[:min(len(missing), maxAttempts-len(f.trying))] {
		f.trying[address] = true
		// It ends with ctx at the latest, and the channel has room for each.
		f.running.Go(func() { f.attempts <- attempt{address, f.joinAt(address)} })
	}
}

// joined takes note of a try that is over.
func (f *Finder) joined(a attempt) {
	delete(f.trying, a.address)
	t := f.tries[a.address]
	if t == nil {
		t = &try{}
		f.tries[a.address] = t
	}
	if a.err == nil {
		t.wait = 0
	} else {
		f.cfg.Logger.Debug("joining gossip at an address", "address", a.address, "error", a.err)
	}
	// Who answered and still does not count as alive is not asked in a loop.
	t.wait = min(max(2*t.wait, f.cfg.timing.alone), f.cfg.timing.maxRetry)
	t.retryAt = time.Now().Add(t.wait)
}

// settle forgets how it went with addresses that are not missing any more.
func (f *Finder) settle(missing []string) {
	still := make(map[string]bool, len(missing))
	for _, address := range missing {
		still[address] = true
	}
	for address, t := range f.tries {
		if !still[address] && !f.trying[address] && time.Since(t.retryAt) > 0 {
			delete(f.tries, address)
		}
	}
}

// joinAt exchanges what is known with whoever is at an address. It goes past serf's
// own Join, which would take one address after the other.
func (f *Finder) joinAt(address string) error {
	at, err := Resolve(f.ctx, address)
	if err != nil {
		return err
	}
	if at == f.self {
		return nil
	}
	_, err = f.serf.Memberlist().Join([]string{at.String()})
	return err
}

// missing returns the addresses that are worth a try now, the best first: what an
// operator named in turn with what is remembered, and of that voters first. There may
// be thousands that are nobody's any more.
func (f *Finder) missing() []string {
	taken := map[string]bool{f.cfg.Self.Address: true} // or not worth it
	nodes := map[string]bool{}
	for _, m := range f.Members() {
		if m.Alive {
			taken[m.Address], nodes[m.Node] = true, true
		}
	}
	now := time.Now()
	worth := func(address string) bool {
		if taken[address] || f.trying[address] || CheckAddress(address) != nil {
			return false
		}
		taken[address] = true
		t := f.tries[address]
		return t == nil || !now.Before(t.retryAt)
	}
	var seeds, voters, others []string
	for _, s := range f.cfg.Seeds() {
		if worth(s) {
			seeds = append(seeds, s)
		}
	}
	for _, r := range f.peers.list() {
		switch {
		case nodes[r.Node] || !worth(r.Address):
		case r.Role == RoleVoter:
			voters = append(voters, r.Address)
		default:
			others = append(others, r.Address)
		}
	}
	f.longestAgoFirst(seeds)
	f.longestAgoFirst(voters)
	f.longestAgoFirst(others)
	return inTurn(seeds, append(voters, others...))
}

// longestAgoFirst puts addresses first that were not tried yet, in any order, and then
// those that wait for longest, so that each has its turn.
func (f *Finder) longestAgoFirst(addresses []string) {
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	due := func(address string) time.Time {
		if t := f.tries[address]; t != nil {
			return t.retryAt
		}
		return time.Time{}
	}
	slices.SortStableFunc(addresses, func(a, b string) int { return due(a).Compare(due(b)) })
}

// inTurn takes from a and b alternately.
func inTurn(a, b []string) []string {
	out := make([]string, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		out = append(out, a[0], b[0])
		a, b = a[1:], b[1:]
	}
	return append(append(out, a...), b...)
}

// Resolve looks up the host of an address (host:port), for a few seconds at most.
// Of several it takes the first: Seeds gives each of them an entry.
func Resolve(ctx context.Context, address string) (netip.AddrPort, error) {
	all, err := resolve(ctx, address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return all[0], nil
}

// IsAt reports whether at is one of the addresses that address (host:port) stands for
// now. It blocks as Resolve does.
func IsAt(ctx context.Context, address string, at netip.AddrPort) (bool, error) {
	all, err := resolve(ctx, address)
	return slices.Contains(all, at), err
}

// resolve returns at least one, or an error.
func resolve(ctx context.Context, address string) ([]netip.AddrPort, error) {
	if at, err := netip.ParseAddrPort(address); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%.80q is not HOST:PORT", address)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%.80q has no port", address)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", host, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("looking up %s: no address", host)
	}
	all := make([]netip.AddrPort, len(found))
	for i, ip := range found {
		all[i] = netip.AddrPortFrom(ip.Unmap(), uint16(n))
	}
	return all, nil
}
