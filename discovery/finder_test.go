package discovery_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/serf/serf"
	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/discovery"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Memberlist does not wait for a probe under way, which ends with its timeout,
		// nor for one that it makes for somebody else.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"),
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).handleIndirectPing.func2"))
}

// network is loopback with a switch: hosts of different islands do not hear
// each other.
type network struct {
	t      *testing.T
	mu     sync.Mutex
	island map[string]int // by address
}

func newNetwork(t *testing.T) *network { return &network{t: t, island: map[string]int{}} }

func (n *network) together(a, b string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.island[a] == n.island[b]
}

func (n *network) move(address string, island int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.island[address] = island
}

// agent is one host's gossip.
type agent struct {
	*discovery.Finder
	address string
	log     *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// ports takes one number for both.
func ports(t *testing.T, address string) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return p, l
		}
		l.Close()
	}
	t.Fatal("no free port")
	return nil, nil
}

// cutPackets drops what comes from, or goes to, another island.
type cutPackets struct {
	net.PacketConn
	n    *network
	self string
}

func (c *cutPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		k, from, err := c.PacketConn.ReadFrom(b)
		if err != nil || c.n.together(c.self, from.String()) {
			return k, from, err
		}
	}
}

func (c *cutPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	if !c.n.together(c.self, to.String()) {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

func (n *network) config(node string, seeds ...string) (discovery.Config, *agent) {
	packets, streams := ports(n.t, "127.0.0.1:0")
	return n.configAt(packets, streams, node, seeds...)
}

func (n *network) configAt(packets net.PacketConn, streams net.Listener, node string, seeds ...string) (discovery.Config, *agent) {
	self := streams.Addr().String()
	a := &agent{address: self, log: &syncBuffer{}}
	c := discovery.Config{
		Node: node, Cluster: "c1", Profile: discovery.Local, Keys: [][]byte{bytes.Repeat([]byte{7}, 32)},
		Self:    discovery.Self{Name: "host-" + node, Address: self, Role: discovery.RoleVoter, Version: "v1", Zone: "z-" + node, KeyIDs: []string{"aabbccdd"}},
		Packets: &cutPackets{packets, n, self}, Streams: streams,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			if !n.together(self, address) {
				return nil, errors.New("no route to host")
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
		Seeds:  func() []string { return seeds },
		Logger: slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	c.Quick(time.Hour)
	return c, a
}

func (n *network) start(c discovery.Config, a *agent) *agent {
	n.t.Helper()
	f, err := discovery.Start(c)
	if err != nil {
		n.t.Fatal(err)
	}
	a.Finder = f
	n.t.Cleanup(func() { f.Close() }) // a second time after the test's own
	return a
}

func (n *network) add(node string, seeds ...string) *agent {
	n.t.Helper()
	return n.start(n.config(node, seeds...))
}

func alive(a *agent) []string {
	var nodes []string
	for _, m := range a.Members() {
		if m.Alive {
			nodes = append(nodes, m.Node)
		}
	}
	return nodes
}

// await waits until ok, for as long as a busy machine may take.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond) // a poll of real sockets, bounded by its condition
	}
	t.Fatalf("not within 20 s: %s", what)
}

func awaitAlive(t *testing.T, a *agent, want ...string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("%s knows %+v\n%s", a.address, a.Members(), a.log)
		}
	}()
	await(t, fmt.Sprintf("%s sees %v", a.address, want), func() bool { return slices.Equal(alive(a), want) })
}

func TestFindEachOther(t *testing.T) {
	n := newNetwork(t)
	a := n.add("a")
	b := n.add("b", a.address)
	c := n.add("c", b.address) // it is nobody's seed, and knows only b
	for _, x := range []*agent{a, b, c} {
		awaitAlive(t, x, "a", "b", "c")
	}
	got := a.Members()[2]
	want := discovery.Member{Node: "c", Alive: true, Self: discovery.Self{Name: "host-c", Address: c.address, Role: discovery.RoleVoter,
		Version: "v1", Zone: "z-c", KeyIDs: []string{"aabbccdd"}}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("a knows of c\n%+v, want\n%+v", got, want)
	}
	self := want.Self
	self.Role, self.KeyIDs = discovery.RoleStandby, []string{"11223344", "aabbccdd"}
	if err := c.Tell(self); err != nil {
		t.Fatal(err)
	}
	await(t, "a hears of c's new role", func() bool {
		m := a.Members()
		return len(m) == 3 && m[2].Role == discovery.RoleStandby && slices.Equal(m[2].KeyIDs, self.KeyIDs)
	})
}

// Where gossip is slow, as over WAN or among many, what was told is on its way long
// before it was sent for the last time: telling it again would begin anew.
func TestTellingIsTakenBeforeItWasSent(t *testing.T) {
	n := newNetwork(t)
	slow := func(node string, seeds ...string) *agent {
		c, a := n.config(node, seeds...)
		c.Gossips(time.Second)
		return n.start(c, a)
	}
	a := slow("a")
	b := slow("b", a.address)
	awaitAlive(t, a, "a", "b")
	awaitAlive(t, b, "a", "b")
	self := b.Members()[1].Self
	self.Role = discovery.RoleStandby
	if err := b.Tell(self); err != nil {
		t.Errorf("it counts as not told: %v", err)
	}
	await(t, "a hears of b's new role", func() bool { return a.Members()[1].Role == discovery.RoleStandby })
	self.Address = "nowhere"
	if err := b.Tell(self); err == nil {
		t.Error("an address that nobody understands counts as told")
	}
}

func TestIslandsHeal(t *testing.T) {
	n := newNetwork(t)
	// Serf forgets who is silent after this; a day in real life.
	var seedless atomic.Bool // whoever wrote the seeds is long gone
	quick := func(node string, seeds ...string) *agent {
		c, a := n.config(node, seeds...)
		c.Quick(100 * time.Millisecond)
		c.Seeds = func() []string {
			if seedless.Load() {
				return nil
			}
			return seeds
		}
		return n.start(c, a)
	}
	a := quick("a")
	b := quick("b", a.address)
	c := quick("c", a.address)
	d := quick("d", a.address)
	all := []*agent{a, b, c, d}
	for _, x := range all {
		awaitAlive(t, x, "a", "b", "c", "d")
	}
	seedless.Store(true)
	n.move(c.address, 1)
	n.move(d.address, 1)
	forgotten := func(x *agent, want ...string) {
		t.Helper()
		await(t, "serf has forgotten the other island", func() bool {
			var nodes []string
			for _, m := range x.Members() {
				nodes = append(nodes, m.Node)
			}
			return slices.Equal(nodes, want)
		})
	}
	forgotten(a, "a", "b")
	forgotten(c, "c", "d")
	n.move(c.address, 0)
	n.move(d.address, 0)
	for _, x := range all {
		awaitAlive(t, x, "a", "b", "c", "d")
	}
}

func TestComesBackElsewhereWithoutSeeds(t *testing.T) {
	n := newNetwork(t)
	a := n.add("a")
	cb, b := n.config("b", a.address)
	cb.Dir = t.TempDir()
	n.start(cb, b)
	awaitAlive(t, a, "a", "b")
	awaitAlive(t, b, "a", "b")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// Another address, nothing but the list on its disk.
	again, b2 := n.config("b")
	again.Dir = cb.Dir
	n.start(again, b2)
	awaitAlive(t, b2, "a", "b")
	await(t, "a knows the new address of b", func() bool {
		return slices.ContainsFunc(a.Members(), func(m discovery.Member) bool { return m.Node == "b" && m.Alive && m.Address == b2.address })
	})
}

// Two pods are restarted, and each gets the address that the other had.
func TestTwoSwapTheirAddresses(t *testing.T) {
	n := newNetwork(t)
	a := n.add("a")
	b, c := n.add("b", a.address), n.add("c", a.address)
	awaitAlive(t, a, "a", "b", "c")
	for _, x := range []*agent{b, c} {
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for node, at := range map[string]string{"b": c.address, "c": b.address} {
		packets, streams := ports(t, at)
		config, x := n.configAt(packets, streams, node, a.address)
		n.start(config, x)
	}
	await(t, "a knows who is where", func() bool {
		m := a.Members()
		return len(alive(a)) == 3 && m[1].Address == c.address && m[2].Address == b.address
	})
}

// The port is open for TCP alone: it works somehow, and is said once.
func TestUDPThatDoesNotGetThroughIsSaid(t *testing.T) {
	n := newNetwork(t)
	a := n.add("a")
	cb, b := n.config("b", a.address)
	cb.Packets = &cutPackets{cb.Packets.(*cutPackets).PacketConn, newNetwork(t), ""} // of another network
	cb.Packets.(*cutPackets).n.move(a.address, 1)
	n.start(cb, b)
	const said = "open for UDP"
	await(t, "it is said", func() bool { return strings.Contains(a.log.String(), said) && strings.Contains(b.log.String(), said) })
	awaitAlive(t, a, "a", "b")
	probes := func() int { return strings.Count(a.log.String(), "UDP probes failed") }
	before := probes()
	await(t, "it goes on", func() bool { return probes() > before+3 })
	if got := strings.Count(a.log.String(), said); got != 1 {
		t.Errorf("said %d times", got)
	}
}

func TestClustersDoNotMix(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(c *discovery.Config)
		said   string
	}{
		{"another id", func(c *discovery.Config) { c.Cluster = "c2" }, "another cluster"},
		{"another secret", func(c *discovery.Config) { c.Keys = [][]byte{bytes.Repeat([]byte{9}, 32)} }, "another secret"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNetwork(t)
			a := n.add("a")
			b := n.add("b", a.address)
			ca, x := n.config("x", a.address, b.address)
			test.change(&ca)
			n.start(ca, x)
			cb, y := n.config("y", x.address, a.address)
			test.change(&cb)
			n.start(cb, y)
			awaitAlive(t, a, "a", "b")
			awaitAlive(t, x, "x", "y")
			// Packets as well as streams arrive, and change nothing.
			from, err := net.Dial("udp", a.address)
			if err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			n.move(from.LocalAddr().String(), 0)
			if strings.Contains(test.name, "id") {
				fmt.Fprintf(from, "\xf4\x02c2nonsense")
			} else {
				fmt.Fprintf(from, "\xf4\x02c1%s", bytes.Repeat([]byte{1}, 64))
			}
			await(t, "the stranger's packet is reported", func() bool { return strings.Contains(a.log.String(), test.said) })
			for range 20 {
				fmt.Fprintf(from, "\xf4\x02c2nonsense")
			}
			if got := alive(a); !slices.Equal(got, []string{"a", "b"}) {
				t.Fatalf("a knows %v", got)
			}
			if got := strings.Count(a.log.String(), test.said); got != 1 {
				t.Fatalf("said %d times:\n%s", got, a.log)
			}
		})
	}
}

func TestKeysRotate(t *testing.T) {
	n := newNetwork(t)
	first, second := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32)
	a := n.add("a")
	b := n.add("b", a.address)
	awaitAlive(t, a, "a", "b")
	for _, keys := range [][][]byte{{first, second}, {second, first}, {second}} {
		for _, x := range []*agent{a, b} {
			if err := x.SetKeys(keys); err != nil {
				t.Fatal(err)
			}
		}
	}
	cc, c := n.config("c", b.address)
	cc.Keys = [][]byte{second}
	n.start(cc, c)
	awaitAlive(t, a, "a", "b", "c")
	cd, d := n.config("d", a.address) // with the secret that was dropped
	n.start(cd, d)
	await(t, "the dropped key is refused", func() bool { return strings.Contains(a.log.String(), "could decrypt") })
	if got := alive(d); slices.Contains(got, "a") {
		t.Fatalf("d with a dropped secret knows %v", got)
	}
}

// While secrets are rotated, a host that has the old one alone is not told the next,
// and changes nobody's keys.
func TestKeysAreToldToNobody(t *testing.T) {
	n := newNetwork(t)
	old, next, own := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{8}, 32), bytes.Repeat([]byte{9}, 32)
	a := n.add("a")
	evil := n.add("evil", a.address)
	awaitAlive(t, a, "a", "evil")
	awaitAlive(t, evil, "a", "evil")
	if err := a.SetKeys([][]byte{old, next}); err != nil {
		t.Fatal(err)
	}
	manager := evil.KeyManager()
	for what, do := range map[string]func() (*serf.KeyResponse, error){
		"list":    manager.ListKeys,
		"install": func() (*serf.KeyResponse, error) { return manager.InstallKey(base64.StdEncoding.EncodeToString(own)) },
		"use":     func() (*serf.KeyResponse, error) { return manager.UseKey(base64.StdEncoding.EncodeToString(next)) },
		"remove":  func() (*serf.KeyResponse, error) { return manager.RemoveKey(base64.StdEncoding.EncodeToString(next)) },
	} {
		await(t, what+" is answered by both", func() bool { // by UDP, and in time
			answer, err := do()
			if len(answer.Keys) > 0 || answer.NumErr != answer.NumResp {
				t.Errorf("%s: %+v, %v", what, answer, err)
			}
			return answer.NumResp == 2
		})
	}
	if got := a.Keys(); !slices.EqualFunc(got, [][]byte{old, next}, bytes.Equal) {
		t.Errorf("the keys are %x", got)
	}
}

func TestRefusedConfigs(t *testing.T) {
	n := newNetwork(t)
	for what, change := range map[string]func(*discovery.Config){
		"no HOST:PORT":    func(c *discovery.Config) { c.Self.Address = "nowhere" },
		"a wildcard":      func(c *discovery.Config) { c.Self.Address = "0.0.0.0:7" },
		"an unknown role": func(c *discovery.Config) { c.Self.Role = "king" },
		"a short key":     func(c *discovery.Config) { c.Keys = [][]byte{{1}} },
		"no cluster":      func(c *discovery.Config) { c.Cluster = "" },
	} {
		c, _ := n.config("a")
		change(&c)
		f, err := discovery.Start(c)
		if err == nil {
			f.Close()
			t.Errorf("%s was accepted", what)
		}
		if _, err := c.Streams.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the port stays open", what)
		}
	}
}
