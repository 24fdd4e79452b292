package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// host is one agent of a fleet.
type host struct {
	name    string
	cfg     config.Config
	options agent.Options
	client  *client.Client
	stop    func()
	lost    atomic.Int64 // members that gossip has given up
}

// fleet is a number of agents in this process, with the same settings on each.
type fleet struct {
	t      *testing.T
	dir    string
	voters string   // secret file
	joins  []string // of the first three
	hosts  []*host
	cut    atomic.Bool // gossip
}

// newFleet prepares agents; proxies have a proxy's secret, and otherwise the same
// settings.
func newFleet(t *testing.T, n, proxies int) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), voters: filepath.Join(t.TempDir(), "secret")}
	cluster := secret.Generate()
	var addresses []string
	for range n {
		addresses = append(addresses, freeAddress(t))
	}
	f.joins = addresses[:3]
	for i := range n {
		s := cluster
		if i >= n-proxies {
			s = cluster.Proxy()
		}
		h := &host{name: fmt.Sprintf("h%d", i+1)}
		dir := filepath.Join(f.dir, h.name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		secretFile := filepath.Join(dir, "secret")
		if err := secret.Write(secretFile, s); err != nil {
			t.Fatal(err)
		}
		h.cfg = load(t, func(c *config.File) {
			c.NodeName, c.Bind, c.DataDir, c.Socket = h.name, addresses[i], filepath.Join(dir, "data"), filepath.Join(dir, "k.sock")
			c.SecretFile, c.Join, c.BootstrapExpect, c.Gossip = secretFile, slices.Clone(f.joins), 3, "local"
		})
		h.options = options(nil)
		h.options.CutGossip(f.cut.Load, h.lost.Store)
		f.hosts = append(f.hosts, h)
	}
	return f
}

func (f *fleet) start(h *host) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	o := h.options
	o.Ready = func() { close(ready) }
	go func() { ended <- agent.Run(ctx, h.cfg, o) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		f.t.Fatalf("%s did not start: %v", h.name, err)
	}
	h.client = client.New(client.Options{Socket: h.cfg.Socket})
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = h.client.Close()
		cancel()
		if err := <-ended; err != nil {
			f.t.Errorf("%s did not stop in order: %v", h.name, err)
		}
	}
	f.t.Cleanup(h.stop)
}

func (f *fleet) startAll() {
	f.t.Helper()
	for _, h := range f.hosts {
		f.start(h)
	}
}

// await waits for a condition, for as long as a busy machine may take.
func (f *fleet) await(what string, ok func() bool) {
	f.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			for _, h := range f.hosts {
				m, err := h.client.ClusterMembers(context.Background())
				f.t.Logf("%s: %+v %v", h.name, m, err)
			}
			f.t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(50 * time.Millisecond) // a poll, bounded by its condition
	}
}

// roles shows the members that h knows, as "h1=voter h2=voter …"; silent ones in brackets.
func (f *fleet) roles(h *host) string {
	m, err := h.client.ClusterMembers(f.t.Context())
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, x := range m.Members {
		text := x.Host + "=" + x.Role
		if !x.Alive {
			text = "(" + text + ")"
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// The same configuration on five hosts, of which one has a proxy's secret.
func TestSameConfigurationOnAllHosts(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, 1)
	f.startAll()
	const want = "h1=voter h2=voter h3=voter h4=standby h5=proxy"
	for _, h := range f.hosts {
		f.await(h.name+" knows all", func() bool { return f.roles(h) == want })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for i, h := range f.hosts {
		if _, err := h.client.KVSet(ctx, fmt.Sprint("k", i), []byte("v"), client.WriteOptions{}); err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
		f.await(h.name+" is ready", func() bool {
			s, err := h.client.Status(ctx)
			return err == nil && s.Ready && s.Role == strings.Split(strings.Fields(want)[i], "=")[1]
		})
	}

	// A standby takes the place of a voter, under a lock that its host holds.
	standby, leaver := f.hosts[3], f.hosts[1]
	hold := acquire(t, standby.client, "kept")
	if _, err := leaver.client.ClusterChange(ctx, wire.ClusterLeave, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := f.hosts[0].client.ClusterChange(ctx, wire.ClusterPromote, "h4"); err != nil {
		t.Fatal(err)
	}
	f.await("h4 votes, and h2 does not", func() bool { return f.roles(f.hosts[0]) == "h1=voter h2=standby h3=voter h4=voter h5=proxy" })
	f.await("h2 knows it", func() bool {
		s, err := leaver.client.Status(ctx)
		return err == nil && s.Role == "standby" && s.Ready
	})
	stillHeld(t, hold)
	// A standby has old state on its disk, and does not answer from it.
	if _, err := f.hosts[0].client.KVSet(ctx, "k1", []byte("newer"), client.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.await("a stale read at a standby is one of a voter", func() bool {
		e, err := leaver.client.KVGet(ctx, "k1", client.ReadOptions{Stale: true})
		return err == nil && string(e.Value) == "newer"
	})
	// What cannot be is refused with a reason, whoever is asked.
	for _, no := range []struct {
		at     int
		action wire.ClusterAction
		node   string
		says   string
		kind   error
	}{
		{0, wire.ClusterPromote, "h5", "proxy's secret", client.ErrConflict},
		{4, wire.ClusterDemote, "h1", "is a proxy", client.ErrConflict},
		{2, wire.ClusterDemote, "h2", "has no vote", client.ErrConflict},
		{2, wire.ClusterRemove, "h1", "answers", client.ErrConflict},
		{2, wire.ClusterRemove, "nobody", "is known", client.ErrNotFound},
		{2, wire.ClusterPromote, "", "needs a node", client.ErrInvalid},
	} {
		_, err := f.hosts[no.at].client.ClusterChange(ctx, no.action, no.node)
		if !errors.Is(err, no.kind) || !strings.Contains(err.Error(), no.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s of %q at h%d: %v, want %q", no.action, no.node, no.at+1, err, no.says)
		}
	}
	// Restarted all together with their disks, they are who they were.
	if err := hold.Close(); err != nil {
		t.Fatal(err)
	}
	for _, h := range f.hosts {
		h.stop()
	}
	f.startAll()
	for _, h := range f.hosts {
		f.await(h.name+" knows all again", func() bool { return f.roles(h) == "h1=voter h2=standby h3=voter h4=voter h5=proxy" })
	}
	if e, err := f.hosts[4].client.KVGet(ctx, "k1", client.ReadOptions{}); err != nil || string(e.Value) != "newer" {
		t.Fatalf("%q, %v", e.Value, err)
	}
}

// The secret is rotated on hosts in any order, while a lock is held.
func TestSecretRotatesUnderALock(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4, 1)
	f.startAll()
	for _, h := range f.hosts {
		f.await(h.name+" knows all", func() bool { return f.roles(h) == "h1=voter h2=voter h3=voter h4=proxy" })
	}
	hold := acquire(t, f.hosts[3].client, "kept")
	next := secret.Generate()
	write := func(h *host, secrets ...secret.Secret) {
		t.Helper()
		if h.name == "h4" {
			for i := range secrets {
				secrets[i] = secrets[i].Proxy()
			}
		}
		fresh := h.cfg.SecretFile + ".new"
		if err := secret.Write(fresh, secrets...); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(fresh, h.cfg.SecretFile); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := secret.Read(f.hosts[0].cfg.SecretFile, secret.ForVoter)
	if err != nil {
		t.Fatal(err)
	}
	old := keys.Secrets()[0]
	all := func(ids ...string) func() bool {
		return func() bool {
			m, err := f.hosts[0].client.ClusterMembers(t.Context())
			if err != nil {
				return false
			}
			for _, x := range m.Members {
				if !slices.Equal(x.KeyIDs, ids) {
					return false
				}
			}
			return len(m.Members) == 4
		}
	}
	// h1 is hasty: it may not swap before the others have added.
	write(f.hosts[0], next, old)
	for _, h := range f.hosts[1:] {
		write(h, old, next)
	}
	f.await("h1 uses the new one, all accept both", func() bool {
		m, err := f.hosts[1].client.ClusterMembers(t.Context())
		if err != nil {
			return false
		}
		for _, x := range m.Members {
			want := []string{old.ID(), next.ID()}
			if x.Host == "h1" {
				want = []string{next.ID(), old.ID()}
			}
			if !slices.Equal(x.KeyIDs, want) {
				return false
			}
		}
		return true
	})
	// And now everybody drops the old one at once.
	for _, h := range f.hosts {
		write(h, next, old)
	}
	f.await("all use the new one", all(next.ID(), old.ID()))
	for _, h := range f.hosts {
		write(h, next)
	}
	f.await("nobody accepts the old one", all(next.ID()))
	stillHeld(t, hold)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, h := range f.hosts {
		if _, err := h.client.KVSet(ctx, "after", []byte(h.name), client.WriteOptions{}); err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
	}
	stillHeld(t, hold)
}

// Gossip never decides a lease: with it cut off for longer than it takes to be
// declared dead, again and again, no lock is lost.
func TestGossipFlapsUnderHeldLocks(t *testing.T) {
	t.Parallel()
	rounds := 1
	if os.Getenv("KAHU_SOAK") != "" {
		rounds = 6 // a minute
	}
	f := newFleet(t, 4, 1)
	f.startAll()
	for _, h := range f.hosts {
		f.await(h.name+" knows all", func() bool { return f.roles(h) == "h1=voter h2=voter h3=voter h4=proxy" })
	}
	var holds []*client.Hold
	for _, h := range f.hosts {
		for i := range 5 {
			holds = append(holds, acquire(t, h.client, fmt.Sprintf("%s/%d", h.name, i)))
		}
	}
	for range rounds {
		f.cut.Store(true)
		// A run in which nobody was given up would prove nothing.
		f.await("gossip gives somebody up", func() bool { return gossipDead(f) })
		for _, h := range holds {
			stillHeld(t, h)
		}
		f.cut.Store(false)
		f.await("gossip is back", func() bool { return !gossipDead(f) })
	}
	for _, h := range holds {
		stillHeld(t, h)
	}
}

// gossipDead reports whether gossip has given somebody up, on any host.
func gossipDead(f *fleet) bool {
	return slices.ContainsFunc(f.hosts, func(h *host) bool { return h.lost.Load() > 0 })
}

func acquire(t *testing.T, c *client.Client, name string) *client.Hold {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	h, err := c.Hold(ctx, client.HoldOptions{Lock: name, TTL: 10 * time.Second})
	if err != nil {
		t.Fatalf("acquiring %s: %v", name, err)
	}
	t.Cleanup(func() { _ = h.Close() })
	select {
	case <-h.Held():
	case <-ctx.Done():
		t.Fatalf("acquiring %s: %v", name, h.State())
	}
	return h
}

func stillHeld(t *testing.T, h *client.Hold) {
	t.Helper()
	select {
	case <-h.Lost():
		t.Fatalf("a hold is lost: %v", h.Err())
	default:
	}
}

// A voter that is gone for good is replaced by a standby, with real Raft; it comes
// back later with its disk and another address, and is the same node.
func TestAGoneVoterIsReplaced(t *testing.T) {
	if os.Getenv("KAHU_SOAK") == "" {
		t.Skip("takes half a minute; set KAHU_SOAK=1")
	}
	t.Parallel()
	f := newFleet(t, 4, 0)
	for i, h := range f.hosts {
		h.cfg.Timeouts.ReplaceVoter = 10 * time.Second // the shortest that can be configured
		h.cfg.Zone = fmt.Sprint("z", i%3)
	}
	f.startAll()
	f.await("three vote, one stands by", func() bool { return f.roles(f.hosts[0]) == "h1=voter h2=voter h3=voter h4=standby" })
	hold := acquire(t, f.hosts[3].client, "kept")
	gone := f.hosts[2]
	gone.stop()
	f.await("h4 votes for h3", func() bool {
		return strings.Contains(f.roles(f.hosts[0]), "h4=voter") && !strings.Contains(f.roles(f.hosts[0]), "h3=voter")
	})
	stillHeld(t, hold)
	gone.cfg.Bind = freeAddress(t)
	gone.cfg.Advertise = gone.cfg.Bind
	f.start(gone)
	f.await("h3 stands by at its new address", func() bool {
		m, err := f.hosts[0].client.ClusterMembers(t.Context())
		return err == nil && slices.ContainsFunc(m.Members, func(x wire.ClusterMember) bool {
			return x.Host == "h3" && x.Role == "standby" && x.Alive && x.Address == gone.cfg.Advertise
		})
	})
	stillHeld(t, hold)
}
