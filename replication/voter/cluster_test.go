package voter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/voter"
	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/engines"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// A future that hashicorp/raft never answers when it stops between handing an
		// entry over and applying it (leader.go, entries).
		goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*deferError).Error"),
	)
}

// diskStorage is a voter.Storage in a directory. With the memory engine it
// survives exactly what was synced.
type diskStorage struct {
	dir     string
	kind    string // of the engine
	current string
	engine  storage.Engine
}

func openDisk(dir, kind string) (*diskStorage, error) {
	s := &diskStorage{dir: dir, kind: kind, current: "generation-0"}
	if err := os.MkdirAll(s.LogDir(), 0o700); err != nil {
		return nil, err
	}
	if b, err := os.ReadFile(filepath.Join(dir, "CURRENT")); err == nil {
		s.current = string(b)
	}
	var err error
	s.engine, err = openEngine(kind, filepath.Join(dir, s.current))
	return s, err
}

func openEngine(kind, dir string) (storage.Engine, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return engines.Open(kind, dir)
}

func (s *diskStorage) Engine() storage.Engine { return s.engine }
func (s *diskStorage) LogDir() string         { return filepath.Join(s.dir, "log") }

func (s *diskStorage) NewGeneration() (voter.Generation, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(s.current, "generation-"))
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("generation-%d", n+1)
	if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
		return nil, err
	}
	e, err := openEngine(s.kind, filepath.Join(s.dir, name))
	return &diskGeneration{storage: s, name: name, engine: e}, err
}

type diskGeneration struct {
	storage *diskStorage
	name    string
	engine  storage.Engine
}

func (g *diskGeneration) Engine() storage.Engine { return g.engine }

func (g *diskGeneration) Activate() error {
	s := g.storage
	if err := os.WriteFile(filepath.Join(s.dir, "CURRENT"), []byte(g.name), 0o600); err != nil {
		return err
	}
	old := s.engine
	s.current, s.engine, g.engine = g.name, g.engine, nil
	return old.Close()
}

func (g *diskGeneration) Discard() error {
	if g.engine == nil {
		return nil
	}
	return g.engine.Close()
}

// cluster is some voters in one process, over loopback TCP.
type cluster struct {
	t      testing.TB
	tune   func(*voter.Config)
	mu     sync.Mutex
	nodes  map[string]*node
	hosts  atomic.Int64 // shift of lease time, for all
	logger *slog.Logger
	engine string // kind
}

// node is one place where a voter runs, now and then.
type node struct {
	c       *cluster
	id, dir string
	addr    string
	shift   atomic.Int64 // of this host's lease time

	net     *network
	storage *diskStorage
	v       atomic.Pointer[voter.Voter]
	fatal   chan error
}

func newCluster(t testing.TB, ids []string, tune func(*voter.Config)) *cluster {
	t.Helper()
	return newClusterOn(t, engines.Memory, ids, tune)
}

func newClusterOn(t testing.TB, engine string, ids []string, tune func(*voter.Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, engine: engine, tune: tune, nodes: map[string]*node{}, logger: slog.New(slog.DiscardHandler)}
	if os.Getenv("KAHU_TEST_LOG") != "" {
		c.logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	t.TempDir() // the first one decides when all are removed: when the voters have stopped
	t.Cleanup(c.close)
	for _, id := range ids {
		c.add(id)
	}
	for _, id := range ids {
		// The others may have elected and told it already.
		if err := c.nodes[id].v.Load().Bootstrap(ids); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			t.Fatal(err)
		}
	}
	return c
}

// add starts a node with an empty directory.
func (c *cluster) add(id string) *node {
	c.t.Helper()
	n := &node{c: c, id: id, dir: c.t.TempDir(), fatal: make(chan error, 16)}
	c.mu.Lock()
	c.nodes[id] = n
	c.mu.Unlock()
	n.start()
	return n
}

func (c *cluster) node(id string) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

func (c *cluster) close() {
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(func() { n.stop(0) })
	}
	wg.Wait()
}

func (n *node) start() {
	n.c.t.Helper()
	if err := n.tryStart(); err != nil {
		n.c.t.Fatal(err)
	}
}

func (n *node) tryStart() error {
	var err error
	if n.storage, err = openDisk(n.dir, n.c.engine); err != nil {
		return err
	}
	listenOn := n.addr
	if listenOn == "" {
		listenOn = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", listenOn)
	if err != nil {
		return err
	}
	n.c.mu.Lock()
	n.addr = l.Addr().String()
	n.c.mu.Unlock()
	n.net = &network{Listener: l, conns: map[*heldConn]struct{}{}}
	cfg := voter.Config{
		NodeID:  n.id,
		Storage: n.storage,
		Stream:  n.net,
		Address: func(id string) (string, bool) {
			n.c.mu.Lock()
			defer n.c.mu.Unlock()
			p, ok := n.c.nodes[id]
			if !ok {
				return "", false
			}
			return p.addr, true
		},
		AskTerm: func(ctx context.Context, id string) (uint64, error) {
			v := n.c.node(id).v.Load()
			if v == nil {
				return 0, errors.New("down")
			}
			return v.Term(), nil
		},
		AskReadIndex: func(ctx context.Context, id string) (uint64, error) {
			v := n.c.node(id).v.Load()
			if v == nil {
				return 0, errors.New("down")
			}
			return v.ReadIndex(ctx)
		},
		LeaseNow: func() time.Duration {
			return time.Since(testStart) + time.Duration(n.shift.Load()+n.c.hosts.Load())
		},
		Fatal:  func(err error) { n.fatal <- err },
		Logger: n.c.logger,
	}
	cfg.Fast()
	if n.c.tune != nil {
		n.c.tune(&cfg)
	}
	v, err := voter.Open(cfg)
	if err != nil {
		return errors.Join(err, l.Close(), n.storage.engine.Close())
	}
	n.v.Store(v)
	return nil
}

var testStart = time.Now()

// stop ends the voter: gracefully, or with 0 as if it were killed.
func (n *node) stop(timeout time.Duration) {
	v := n.v.Swap(nil)
	if v == nil {
		return
	}
	n.net.release()
	if err := v.Shutdown(timeout); err != nil {
		n.c.t.Errorf("stopping %s: %v", n.id, err)
	}
	_ = n.net.Close()
	if err := n.storage.engine.Close(); err != nil {
		n.c.t.Errorf("closing the engine of %s: %v", n.id, err)
	}
}

// eventually waits for ok, and fails with what when it does not come.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("this did not come true: %s", what)
		}
		<-tick.C
	}
}

// leader waits for a voter that serves.
func (c *cluster) leader() *node {
	c.t.Helper()
	var leader *node
	eventually(c.t, "a voter leads and serves", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, n := range c.nodes {
			if v := n.v.Load(); v != nil && v.Status().Serving {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// followers are the running nodes that are not leader.
func (c *cluster) followers(leader *node) []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*node
	for _, n := range c.nodes {
		if n != leader && n.v.Load() != nil {
			out = append(out, n)
		}
	}
	return out
}

// client asks voters until one answers, under one request id.
type client struct {
	c       *cluster
	session [16]byte
	number  uint64
}

var clients atomic.Uint64

func (c *cluster) client() *client {
	c.t.Helper()
	cl := &client{c: c}
	copy(cl.session[:], fmt.Sprintf("client-%09d", clients.Add(1)))
	a := cl.do(&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
		Id: cl.session[:], Host: "test", Node: "test", TtlMs: 3_600_000,
	}}})
	if err := a.Refused(); err != nil {
		c.t.Fatal(err)
	}
	return cl
}

// do asks all voters in turn, for ever, until one of them decides.
func (cl *client) do(req *replication.Request) *replication.Answer {
	cl.c.t.Helper()
	a, err := cl.try(req, 20*time.Second)
	if err != nil {
		cl.c.t.Fatal(err)
	}
	return a
}

func (cl *client) try(req *replication.Request, timeout time.Duration) (*replication.Answer, error) {
	if req.TakesReceipt() {
		cl.number++
		req.Session, req.Number, req.DoneBelow = cl.session[:], cl.number, cl.number
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		cl.c.mu.Lock()
		nodes := make([]*node, 0, len(cl.c.nodes))
		for _, n := range cl.c.nodes {
			nodes = append(nodes, n)
		}
		cl.c.mu.Unlock()
		for _, n := range nodes {
			v := n.v.Load()
			if v == nil {
				continue
			}
			attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
			a, err := v.Serve(attempt, req)
			cancel()
			if err == nil {
				return a, nil
			}
			last = err
		}
	}
	return nil, fmt.Errorf("%w; last: %w", ctx.Err(), last)
}

func put(key, value string) *replication.Request {
	return &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Key: key, Value: []byte(value),
	}}}}}
}

func get(key string) *replication.Request {
	return &replication.Request{Op: &replication.Request_Get{Get: &replication.Get{Keys: []*replication.GetKey{{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Key: key,
	}}}}}
}

func (cl *client) put(key, value string) {
	cl.c.t.Helper()
	a := cl.do(put(key, value))
	if err := a.Refused(); err != nil {
		cl.c.t.Fatalf("put %s: %v", key, err)
	}
	if code := a.GetWritten().GetItems()[0].GetCode(); code != replication.Code_CODE_OK {
		cl.c.t.Fatalf("put %s: %v", key, code)
	}
}

// value of one key in an answer to get.
func value(t testing.TB, a *replication.Answer) string {
	t.Helper()
	if err := a.Refused(); err != nil {
		t.Fatal(err)
	}
	return string(a.GetEntries().GetEntries()[0].GetValue())
}

func (cl *client) get(key string) string {
	cl.c.t.Helper()
	return value(cl.c.t, cl.do(get(key)))
}

// read reads at n itself, once it knows who leads and has heard of every commit.
func (n *node) read(key string) (a *replication.Answer, err error) {
	n.c.t.Helper()
	eventually(n.c.t, "a voter reads at itself", func() bool {
		a, err = n.v.Load().Serve(context.Background(), get(key))
		var behind *replication.NotLeaderError
		return !errors.As(err, &behind)
	})
	return a, err
}

// network is a raft.StreamLayer over TCP whose reads can be held back.
type network struct {
	net.Listener
	mu    sync.Mutex
	held  chan struct{} // not nil: reads wait until it is closed
	conns map[*heldConn]struct{}
	down  bool // no new connections
}

// heldConn is one connection of a network, dialed or accepted.
type heldConn struct {
	net.Conn
	n      *network
	target string // dialed: address asked for

	mu      sync.Mutex
	free    chan struct{} // closed: not held any more, whatever the network says
	waiting bool          // has data that is held back
}

func (n *network) wrap(c net.Conn, target string) net.Conn {
	h := &heldConn{Conn: c, n: n, target: target, free: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[h] = struct{}{}
	return h
}

func (n *network) Accept() (net.Conn, error) {
	for {
		c, err := n.Listener.Accept()
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		down := n.down
		n.mu.Unlock()
		if down {
			_ = c.Close()
			continue
		}
		return n.wrap(c, ""), nil
	}
}

func (n *network) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	n.mu.Lock()
	down := n.down
	n.mu.Unlock()
	if down {
		return nil, errors.New("network is down")
	}
	c, err := net.DialTimeout("tcp", string(address), timeout)
	if err != nil {
		return nil, err
	}
	return n.wrap(c, string(address)), nil
}

// hold keeps back everything that arrives from now on.
func (n *network) hold() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = make(chan struct{})
}

// withheld is how many connections have data that is held back.
func (n *network) withheld() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for c := range n.conns {
		c.mu.Lock()
		if c.waiting {
			count++
		}
		c.mu.Unlock()
	}
	return count
}

// release lets everything through again.
func (n *network) release() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held != nil {
		close(n.held)
		n.held = nil
	}
}

// cut closes all connections and lets none be made; mend undoes it.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = true
	for c := range n.conns {
		_ = c.Conn.Close()
	}
}

func (n *network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = false
}

func (c *heldConn) Read(p []byte) (int, error) {
	k, err := c.Conn.Read(p)
	c.n.mu.Lock()
	held := c.n.held
	c.n.mu.Unlock()
	if held != nil && err == nil {
		c.setWaiting(true)
		select {
		case <-held:
		case <-c.free:
		}
		c.setWaiting(false)
	}
	return k, err
}

func (c *heldConn) setWaiting(w bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = w
}

func (c *heldConn) Close() error {
	c.n.mu.Lock()
	delete(c.n.conns, c)
	c.n.mu.Unlock()
	return c.Conn.Close()
}

var _ io.Closer = (*heldConn)(nil)

var discard = slog.New(slog.DiscardHandler)

func logEntry(index, term uint64) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogNoop}
}
