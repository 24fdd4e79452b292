package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Config is what a Finder is made of. Fields without "optional" are required.
type Config struct {
	Node    string // id of this agent
	Cluster string // id of its cluster: packets of another are dropped
	Self    Self
	// At is where packets reach this agent. Optional: Self.Address looked up.
	At      netip.AddrPort
	Profile Profile // optional: LAN
	// Keys encrypt packets: 16, 24 or 32 bytes each; the first is used, all are accepted.
	Keys [][]byte
	// Dir keeps the list of peers. Optional: in memory only.
	Dir string
	// Packets and Streams carry gossip. The Finder closes them.
	Packets net.PacketConn
	Streams net.Listener
	// Dial opens a stream to whoever is at address, and makes sure that it is one
	// of the cluster's.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Seeds returns addresses (host:port) to join. It must not block. Optional.
	Seeds func() []string
	// Changed is called from one goroutine when a member came, went, or tells
	// something else. Optional.
	Changed func([]Member)
	Logger  *slog.Logger

	// timing is shortened by tests.
	timing timing
}

// timing is how often a Finder tries what did not work.
type timing struct {
	alone     time.Duration // between rounds while nobody else is there
	settled   time.Duration // between rounds otherwise
	maxRetry  time.Duration // an address that does not answer is tried less and less often, for ever
	reconnect time.Duration // for how long serf itself remembers who is silent
	probe     time.Duration // between two probes; 0: the profile's, and no tests
}

func (p Profile) timing() timing {
	t := timing{alone: 2 * time.Second, settled: 30 * time.Second, maxRetry: 5 * time.Minute, reconnect: 24 * time.Hour}
	switch p {
	case WAN:
		t.alone, t.settled, t.maxRetry = 5*time.Second, time.Minute, 10*time.Minute
	case Local:
		t.alone, t.settled, t.maxRetry = 500*time.Millisecond, 5*time.Second, 5*time.Second
	}
	return t
}

// quiet is how long news of members are gathered: an agent that starts hears of all
// of them at once. Serf can do so as well, and never forgets a member for it.
const quiet = 100 * time.Millisecond

// Finder keeps an agent in its cluster's gossip. Its methods may be called
// concurrently.
type Finder struct {
	cfg     Config
	keyring *memberlist.Keyring
	serf    *serf.Serf
	events  chan serf.Event // read until serf has ended: it stands still when nobody does
	news    chan struct{}   // capacity 1: there was an event
	self    netip.AddrPort  // told to the others

	members atomic.Pointer[[]Member]
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup
	done    chan struct{} // closed when serf has ended
	closing sync.Once

	// telling is held over each change of what this agent tells: serf does not
	// guard it, and an announcement must not tell what was true before.
	telling sync.Mutex
	told    map[string]string

	// Of the goroutine run alone.
	peers     *peers
	tries     map[string]*try // by address
	trying    map[string]bool // addresses
	attempts  chan attempt    // that are over; capacity maxAttempts
	stored    chan error      // of the list that is being written; nil when none is
	storeSaid bool            // that it was not stored
	announced struct {
		wait time.Duration
		next time.Time
	}
	bad map[string]bool // members whose tags were reported
}

// Start joins the cluster's gossip, and goes on trying to reach those that are
// not in it. It blocks as long as looking up the host of Self.Address takes, if At
// is not set. On an error Packets and Streams are closed as well.
func Start(cfg Config) (*Finder, error) {
	f, err := newFinder(cfg)
	if err != nil {
		if cfg.Packets != nil && cfg.Streams != nil {
			err = errors.Join(err, cfg.Packets.Close(), cfg.Streams.Close())
		}
		return nil, err
	}
	// Both end with Close, which waits for them.
	f.running.Go(f.drain)
	f.running.Go(f.run)
	return f, nil
}

func newFinder(cfg Config) (*Finder, error) {
	switch {
	case cfg.Node == "" || cfg.Cluster == "" || len(cfg.Keys) == 0 || cfg.Packets == nil || cfg.Streams == nil || cfg.Dial == nil || cfg.Logger == nil:
		return nil, errors.New("discovery: a required field of Config is missing")
	case len(cfg.Cluster) > memberlist.LabelMaxSize:
		return nil, fmt.Errorf("discovery: the cluster id %.80q is longer than %d bytes", cfg.Cluster, memberlist.LabelMaxSize)
	}
	if cfg.timing == (timing{}) {
		cfg.timing = cfg.Profile.timing()
	}
	if cfg.Seeds == nil {
		cfg.Seeds = func() []string { return nil }
	}
	if cfg.Changed == nil {
		cfg.Changed = func([]Member) {}
	}
	if err := cfg.Self.check(cfg.Node, cfg.Cluster); err != nil {
		return nil, fmt.Errorf("discovery: what this agent would tell of itself: %w", err)
	}
	f := &Finder{cfg: cfg, tries: make(map[string]*try), trying: make(map[string]bool), bad: make(map[string]bool),
		attempts: make(chan attempt, maxAttempts), events: make(chan serf.Event, 256), news: make(chan struct{}, 1), done: make(chan struct{})}
	f.members.Store(&[]Member{})
	f.ctx, f.cancel = context.WithCancel(context.Background())
	var err error
	if f.self = cfg.At; !f.self.IsValid() {
		if f.self, err = Resolve(f.ctx, cfg.Self.Address); err != nil {
			return nil, err
		}
	}
	if f.keyring, err = memberlist.NewKeyring(cfg.Keys, cfg.Keys[0]); err != nil {
		return nil, fmt.Errorf("discovery: the gossip key: %w", err)
	}
	if f.peers, err = openPeers(cfg.Dir); err != nil {
		cfg.Logger.Warn("the list of other agents is made anew", "error", err)
	}
	transport := newTransport(f.self.Addr().AsSlice(), int(f.self.Port()), cfg)
	c := f.serfConfig(transport)
	if f.serf, err = serf.Create(c); err != nil {
		return nil, errors.Join(fmt.Errorf("starting gossip: %w", err), transport.Shutdown())
	}
	c.MemberlistConfig = withoutKeys(c.MemberlistConfig)
	transport.start()
	return f, nil
}

// withoutKeys is what serf may know of memberlist's configuration once it runs, before
// it hears of anybody. Serf tells and changes the keys of all agents for whoever asks:
// who has the secret that is being replaced, as a host that is shut out, would learn
// the next gossip key from those that accept both.
func withoutKeys(m *memberlist.Config) *memberlist.Config {
	c := *m
	c.Keyring, c.SecretKey = nil, nil
	return &c
}

func (f *Finder) serfConfig(t *transport) *serf.Config {
	c := serfConfig(f.cfg.Profile)
	c.NodeName = f.cfg.Node
	f.told = f.cfg.Self.tags(f.cfg.Cluster)
	c.Tags = f.told
	c.EventCh = f.events
	c.Logger, c.LogOutput = newGossipLog(f.cfg.Logger), nil
	c.ReconnectTimeout, c.TombstoneTimeout = f.cfg.timing.reconnect, f.cfg.timing.reconnect
	c.ReapInterval = min(c.ReapInterval, f.cfg.timing.reconnect)
	m := c.MemberlistConfig
	m.Name, m.Logger, m.LogOutput = f.cfg.Node, c.Logger, nil
	m.Transport = t
	if p := f.cfg.timing.probe; p > 0 {
		m.ProbeInterval, m.ProbeTimeout, m.GossipInterval = p, p/2, p/4
		m.PushPullInterval = 0 // what does not work without it shows
	}
	m.Keyring = f.keyring
	m.Label = f.cfg.Cluster
	// They decide nothing with a transport of our own, and have to be well-formed.
	m.BindAddr, m.BindPort = f.self.Addr().String(), int(f.self.Port())
	m.AdvertiseAddr, m.AdvertisePort = m.BindAddr, m.BindPort
	return c
}

// Close leaves without a word, as a restart does: whoever is told that this
// agent left would forget it. It waits for all goroutines.
func (f *Finder) Close() error {
	f.cancel()
	err := f.serf.Shutdown() // ends the transport
	f.closing.Do(func() { close(f.done) })
	f.running.Wait()
	return errors.Join(err, f.peers.save())
}

// Members returns all agents heard of, this one included, in order of node id.
// It does not block, and the result must not be changed.
func (f *Finder) Members() []Member { return *f.members.Load() }

// Tell changes what this agent tells of itself. It does not wait until others have
// heard of it: it goes with the next packets and exchanges.
func (f *Finder) Tell(self Self) error {
	if err := self.check(f.cfg.Node, f.cfg.Cluster); err != nil {
		return fmt.Errorf("discovery: what this agent would tell of itself: %w", err)
	}
	f.telling.Lock()
	defer f.telling.Unlock()
	f.told = self.tags(f.cfg.Cluster)
	if err := f.tell(); err != nil {
		return fmt.Errorf("telling the others: %w", err)
	}
	return nil
}

// tell hands on what is told. telling is held.
//
// Serf takes the tags at once, as those of a later incarnation, and queues them. What it
// waits for then is that they were sent for the last time, which takes a second or more
// over WAN or among a hundred agents: that its wait has ended is no reason to tell
// again, as that would begin from the first sending.
func (f *Finder) tell() error {
	err := f.serf.SetTags(f.told)
	if err != nil && maps.Equal(f.serf.LocalMember().Tags, f.told) {
		return nil
	}
	return err
}

// SetKeys replaces the keys: the first is used from now on, all are accepted.
func (f *Finder) SetKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("discovery: no gossip key")
	}
	for _, k := range keys {
		if err := f.keyring.AddKey(k); err != nil {
			return fmt.Errorf("adding a gossip key: %w", err)
		}
	}
	if err := f.keyring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("changing the gossip key: %w", err)
	}
	for _, old := range f.keyring.GetKeys() {
		if !slices.ContainsFunc(keys, func(k []byte) bool { return slices.Equal(k, old) }) {
			if err := f.keyring.RemoveKey(old); err != nil {
				return fmt.Errorf("dropping a gossip key: %w", err)
			}
		}
	}
	return nil
}

// drain takes what serf tells, whatever else is going on: with its queue full serf
// stands still, and this agent would count as silent.
func (f *Finder) drain() {
	for {
		select {
		case <-f.events:
			select {
			case f.news <- struct{}{}:
			default:
			}
		case <-f.done:
			return
		}
	}
}

// run follows serf's events and joins whoever is missing, until Close. It waits for
// no network and no disk: what is new of others is handed on at once.
func (f *Finder) run() {
	f.announced.wait = f.cfg.timing.alone
	f.announced.next = time.Now().Add(f.announced.wait)
	f.refresh()
	f.join()
	timer := time.NewTimer(f.pause())
	defer timer.Stop()
	var gathered <-chan time.Time
	for {
		select {
		case <-f.news:
			if gathered == nil {
				gathered = time.After(quiet)
			}
		case <-gathered:
			gathered = nil
			f.refresh()
		case a := <-f.attempts:
			f.joined(a)
			f.refresh()
		case err := <-f.stored:
			f.wasStored(err)
		case <-timer.C:
			f.refresh()
			f.join()
			f.announce()
			f.store()
			timer.Reset(f.pause())
		case <-f.ctx.Done():
			return
		}
	}
}

// store begins to write the list of other agents when it has changed.
func (f *Finder) store() {
	text, err := f.peers.changes()
	if text == nil && err == nil || f.stored != nil {
		return
	}
	stored := make(chan error, 1)
	f.stored = stored
	f.running.Go(func() { // ends when the disk answers
		if err == nil {
			err = f.peers.write(text)
		}
		stored <- err
	})
}

func (f *Finder) wasStored(err error) {
	f.stored = nil
	if err != nil {
		f.peers.changed, f.peers.stored = true, nil
		if !f.storeSaid {
			f.cfg.Logger.Warn("the list of other agents was not stored; it is tried again", "error", err)
		}
	}
	f.storeSaid = err != nil
}

// pause is the time to the next round: agents that started together must not go
// on in lockstep.
func (f *Finder) pause() time.Duration {
	wait := f.cfg.timing.alone
	if slices.ContainsFunc(f.Members(), func(m Member) bool { return m.Alive && m.Node != f.cfg.Node }) {
		wait = f.cfg.timing.settled
	}
	wait = wait*3/4 + rand.N(wait/2)
	if next := time.Until(f.announced.next); f.announced.wait < f.cfg.timing.maxRetry {
		wait = min(wait, max(next, 0))
	}
	return wait
}

// announce tells the others again where this agent is, less and less often. When
// it has moved they believe it only once they have given up its old address,
// and nothing else would tell them soon after.
func (f *Finder) announce() {
	a := &f.announced
	if a.wait >= f.cfg.timing.maxRetry || time.Now().Before(a.next) {
		return
	}
	a.wait = min(2*a.wait, f.cfg.timing.maxRetry)
	a.next = time.Now().Add(a.wait)
	f.telling.Lock()
	defer f.telling.Unlock()
	if err := f.tell(); err != nil {
		f.cfg.Logger.Debug("announcing this agent", "error", err)
	}
}

// refresh takes over what serf knows.
func (f *Finder) refresh() {
	var members []Member
	now := time.Now()
	for _, s := range f.serf.Members() {
		m, err := parseMember(s.Name, s.Tags)
		if err != nil {
			if !f.bad[s.Name] && len(f.bad) < maxSaid {
				f.bad[s.Name] = true
				f.cfg.Logger.Warn("a member of gossip tells nonsense, and is left out", "error", err)
			}
			continue
		}
		m.Alive = s.Status == serf.StatusAlive
		if m.Alive && m.Node != f.cfg.Node {
			f.peers.note(m, now)
		}
		members = append(members, m)
	}
	f.peers.trim(now)
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
	if slices.EqualFunc(members, f.Members(), equal) {
		return
	}
	f.members.Store(&members)
	f.cfg.Changed(members)
}

func equal(a, b Member) bool {
	return a.Node == b.Node && a.Alive == b.Alive && a.Name == b.Name && a.Address == b.Address && a.Role == b.Role &&
		a.Version == b.Version && a.Zone == b.Zone && slices.Equal(a.KeyIDs, b.KeyIDs)
}
