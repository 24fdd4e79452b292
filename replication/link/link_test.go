package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clusterSecret is the one of all agents that do not say otherwise.
var clusterSecret = secret.Generate()

func security(tb testing.TB, s secret.Secret, node string) link.Security {
	tb.Helper()
	keys, err := secret.New(s)
	if err != nil {
		tb.Fatal(err)
	}
	return securityOf(tb, keys, node)
}

func securityOf(tb testing.TB, keys *secret.Keys, node string) link.Security {
	tb.Helper()
	config := func(f func(string) (*tls.Config, error)) *tls.Config {
		c, err := f(node)
		if err != nil {
			tb.Fatal(err)
		}
		return c
	}
	sec := link.Security{
		Server: config(keys.ServerTLS),
		Client: config(keys.ClientTLS),
		Identify: func(cs tls.ConnectionState) (link.Identity, error) {
			node, voter, err := keys.Identify(cs)
			return link.Identity{Node: node, Voter: voter}, err
		},
	}
	if keys.IsVoter() {
		sec.RaftServer, sec.RaftClient = config(keys.VoterServerTLS), config(keys.VoterClientTLS)
	}
	return sec
}

// agent is one end with a listener and a pool.
type agent struct {
	node     string
	listener *link.Listener
	dialer   *link.Dialer
	pool     *link.Pool
	server   *link.Server
	serving  sync.WaitGroup
}

// addresses is where agents of a test are.
type addresses struct {
	mu sync.Mutex
	of map[string]string
}

func (a *addresses) set(node, address string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = make(map[string]string)
	}
	a.of[node] = address
}

func (a *addresses) resolve(node string) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	address, ok := a.of[node]
	return address, ok
}

func start(tb testing.TB, book *addresses, s secret.Secret, node string, o link.ServerOptions) *agent {
	tb.Helper()
	sec := security(tb, s, node)
	l, err := link.Listen("127.0.0.1:0", link.ListenerOptions{Security: sec})
	if err != nil {
		tb.Fatal(err)
	}
	book.set(node, l.Addr().String())
	a := &agent{node: node, listener: l, dialer: &link.Dialer{Security: sec}, server: link.NewServer(o)}
	a.pool = link.NewPool(link.PoolOptions{Dialer: a.dialer, Resolve: book.resolve})
	a.serving.Go(func() {
		if err := a.server.Serve(l.Protocol(link.ProtocolLink)); err != nil {
			tb.Errorf("serving %s: %v", node, err)
		}
	})
	tb.Cleanup(a.stop)
	return a
}

func (a *agent) stop() {
	a.pool.Close()
	a.listener.Close()
	a.server.Close()
	a.serving.Wait()
}

// voter is a link.Voter whose answers a test decides.
type voter struct {
	serve func(ctx context.Context, req *replication.Request) (*replication.Answer, error)
	watch func(ctx context.Context, session []byte, fn func(*replication.Event)) error
	err   error // of ReadIndex

	follow func(ctx context.Context, fn func(term uint64, leader string)) error
}

func (v *voter) Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if v.serve == nil {
		return &replication.Answer{Index: 42, Detail: string(req.GetSession())}, nil
	}
	return v.serve(ctx, req)
}

func (v *voter) WatchLocal(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	return v.watch(ctx, session, fn)
}

func (v *voter) FollowLeader(ctx context.Context, fn func(term uint64, leader string)) error {
	return v.follow(ctx, fn)
}

func (v *voter) ReadIndex(context.Context) (uint64, error) { return 77, v.err }
func (v *voter) Term() uint64                              { return 5 }

// members is a link.Members that says yes.
type members struct{}

func (members) Hello(_ context.Context, from link.Identity, h *link.Hello) (*link.Hello, error) {
	return &link.Hello{Self: &link.Peer{Name: fmt.Sprintf("you are %s, voter %v, and say %s", from.Node, from.Voter, h.GetSelf().GetName())}}, nil
}
func (members) Join(context.Context, link.Identity, *link.JoinRequest) error   { return nil }
func (members) Leave(context.Context, link.Identity, *link.LeaveRequest) error { return nil }
func (members) Pledge(context.Context, link.Identity, *link.PledgeRequest) (*link.PledgeAnswer, error) {
	return &link.PledgeAnswer{State: link.PledgeAnswer_STATE_PLEDGED}, nil
}
func (members) Change(context.Context, link.Identity, *link.ChangeRequest) error { return nil }
func (members) Vote(context.Context, link.Identity, *link.VoteRequest) error     { return nil }

func get() *replication.Request {
	return &replication.Request{Session: []byte("0123456789abcdef"), Op: &replication.Request_Get{Get: &replication.Get{}}}
}

// everything asks node for each thing that can be asked.
func everything(ctx context.Context, p *link.Pool, book *addresses, node string) map[string]error {
	results := make(map[string]error)
	answer, err := p.Do(ctx, node, get())
	if err == nil && (answer.GetIndex() != 42 || answer.GetDetail() != "0123456789abcdef") {
		err = fmt.Errorf("answer %v", answer)
	}
	results["Do"] = err
	results["Watch"] = p.Watch(ctx, node, []byte("session"), func(*replication.Event) {})
	index, err := p.ReadIndex(ctx, node)
	if err == nil && index != 77 {
		err = fmt.Errorf("index %d", index)
	}
	results["ReadIndex"] = err
	term, err := p.Term(ctx, node)
	if err == nil && term != 5 {
		err = fmt.Errorf("term %d", term)
	}
	results["Term"] = err
	wall, err := p.Wall(ctx, node)
	if err == nil && time.Since(wall).Abs() > time.Minute {
		err = fmt.Errorf("wall clock %v", wall)
	}
	results["Wall"] = err
	address, _ := book.resolve(node)
	_, _, results["Hello"] = p.HelloAt(ctx, address, &link.Hello{})
	results["Join"] = p.Join(ctx, node, &link.JoinRequest{})
	results["Leave"] = p.Leave(ctx, node, &link.LeaveRequest{})
	_, results["Pledge"] = p.Pledge(ctx, node, &link.PledgeRequest{})
	results["Change"] = p.Change(ctx, node, &link.ChangeRequest{})
	results["Vote"] = p.Vote(ctx, node, &link.VoteRequest{})
	results["Follow"] = p.Follow(ctx, node, func(uint64, string) {})
	_, results["RelayDo"] = p.DoVia(ctx, node, get())
	results["RelayWatch"] = p.WatchVia(ctx, node, []byte("session"), func(*replication.Event) {})
	results["Backup"] = p.Backup(ctx, node, io.Discard)
	return results
}

var errOver = &replication.NotLeaderError{Leader: "watch over"}

func TestWhoMayAskWhat(t *testing.T) {
	var book addresses
	served := link.ServerOptions{Members: members{}, Backup: func(context.Context, io.Writer) error { return nil }, Voter: &voter{
		watch:  func(context.Context, []byte, func(*replication.Event)) error { return errOver },
		follow: func(context.Context, func(uint64, string)) error { return errOver }}}
	start(t, &book, clusterSecret, "v1", served)
	v2 := start(t, &book, clusterSecret, "v2", served)
	p1 := start(t, &book, clusterSecret.Proxy(), "p1", link.ServerOptions{Members: members{}})
	bare := start(t, &book, clusterSecret, "bare", link.ServerOptions{})

	streams := map[string]bool{"Watch": true, "Follow": true, "RelayWatch": true}
	isOver := func(err error) bool {
		var n *replication.NotLeaderError
		return errors.As(err, &n) && n.Leader == "watch over"
	}
	for name, err := range everything(t.Context(), v2.pool, &book, "v1") {
		if streams[name] && !isOver(err) || !streams[name] && err != nil {
			t.Errorf("a voter asks a voter for %s: %v", name, err)
		}
	}
	may := map[string]bool{"Do": true, "Watch": true, "ReadIndex": true, "Hello": true, "Follow": true, "RelayDo": true, "RelayWatch": true}
	for name, err := range everything(t.Context(), p1.pool, &book, "v1") {
		switch {
		case may[name] && streams[name] && !isOver(err), may[name] && !streams[name] && err != nil:
			t.Errorf("a proxy asks a voter for %s: %v", name, err)
		case !may[name] && !errors.Is(err, link.ErrRefused):
			t.Errorf("a proxy asks a voter for %s, which is not for it: %v", name, err)
		}
	}
	// A proxy is never asked as a voter, whoever says that it is one.
	for name, err := range everything(t.Context(), v2.pool, &book, "p1") {
		if name == "Hello" && err != nil || name != "Hello" && !errors.Is(err, link.ErrWrongNode) {
			t.Errorf("a voter asks a proxy for %s: %v", name, err)
		}
	}
	for name, err := range everything(t.Context(), v2.pool, &book, bare.node) {
		if !errors.Is(err, link.ErrRefused) {
			t.Errorf("an agent that serves nothing is asked for %s: %v", name, err)
		}
	}
}

func TestHelloAt(t *testing.T) {
	var book addresses
	start(t, &book, clusterSecret, "v1", link.ServerOptions{Members: members{}, Voter: &voter{}})
	p1 := start(t, &book, clusterSecret.Proxy(), "p1", link.ServerOptions{Members: members{}})
	address, _ := book.resolve("v1")
	for range 2 {
		h, id, err := p1.pool.HelloAt(t.Context(), address, &link.Hello{Self: &link.Peer{Name: "pod-7"}})
		if err != nil || id != (link.Identity{Node: "v1", Voter: true}) {
			t.Fatalf("%v, %v", id, err)
		}
		if got, want := h.GetSelf().GetName(), "you are p1, voter false, and say pod-7"; got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	// The connection serves the node from now on, even where no address is known.
	book.mu.Lock()
	delete(book.of, "v1")
	book.mu.Unlock()
	if _, err := p1.pool.Do(t.Context(), "v1", get()); err != nil {
		t.Fatal(err)
	}
}

func TestInternalRequestsAreRefused(t *testing.T) {
	var book addresses
	v := &voter{serve: func(_ context.Context, req *replication.Request) (*replication.Answer, error) {
		t.Errorf("%T was served", req.GetOp())
		return &replication.Answer{}, nil
	}}
	start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: v})
	v2 := start(t, &book, clusterSecret, "v2", link.ServerOptions{})
	for _, req := range []*replication.Request{
		{},
		{Op: &replication.Request_Opening{Opening: &replication.Opening{}}},
		{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{}}},
		{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: 9}}},
		{Op: &replication.Request_Digest{Digest: &replication.Digest{}}},
	} {
		if _, err := v2.pool.Do(t.Context(), "v1", req); !errors.Is(err, link.ErrRefused) {
			t.Errorf("%T: %v", req.GetOp(), err)
		}
	}
}

// What the forwarder decides by has to survive the way.
func TestErrorsKeepTheirMeaning(t *testing.T) {
	var book addresses
	var answer error
	v := &voter{serve: func(context.Context, *replication.Request) (*replication.Answer, error) { return nil, answer }}
	start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: v})
	v2 := start(t, &book, clusterSecret, "v2", link.ServerOptions{})
	for name, c := range map[string]struct {
		err       error
		is, isNot error
	}{
		"unavailable": {fmt.Errorf("x: %w", replication.ErrUnavailable), replication.ErrUnavailable, replication.ErrUnknownOutcome},
		"unknown":     {fmt.Errorf("x: %w", replication.ErrUnknownOutcome), replication.ErrUnknownOutcome, replication.ErrUnavailable},
		"both":        {errors.Join(replication.ErrUnavailable, replication.ErrUnknownOutcome), replication.ErrUnknownOutcome, replication.ErrUnavailable},
		// The other agent stops, this one does not.
		"stopped": {replication.ErrStopped, replication.ErrUnavailable, replication.ErrStopped},
	} {
		answer = c.err
		_, err := v2.pool.Do(t.Context(), "v1", get())
		if !errors.Is(err, c.is) || errors.Is(err, c.isNot) || errors.Is(err, link.ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	answer = errors.New("disk on fire")
	if _, err := v2.pool.Do(t.Context(), "v1", get()); err == nil || errors.Is(err, replication.ErrUnavailable) || errors.Is(err, link.ErrBroken) {
		t.Errorf("an unspecific error: %v", err)
	}
	for _, leader := range []string{"", "v3"} {
		answer = &replication.NotLeaderError{Leader: leader}
		var got *replication.NotLeaderError
		if _, err := v2.pool.Do(t.Context(), "v1", get()); !errors.As(err, &got) || got.Leader != leader {
			t.Errorf("not leader with hint %q: %v", leader, err)
		}
	}
}

func TestWatch(t *testing.T) {
	var book addresses
	ended := make(chan struct{})
	v := &voter{watch: func(ctx context.Context, session []byte, fn func(*replication.Event)) error {
		for i := range 2000 { // more than one window
			fn(&replication.Event{Kind: replication.Event_KIND_GRANTED, Index: uint64(i), Reason: string(session)})
		}
		<-ctx.Done()
		close(ended)
		return context.Cause(ctx)
	}}
	start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: v})
	v2 := start(t, &book, clusterSecret.Proxy(), "p1", link.ServerOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	next := uint64(0)
	err := v2.pool.Watch(ctx, "v1", []byte("s"), func(e *replication.Event) {
		if e.GetIndex() != next || e.GetReason() != "s" {
			t.Errorf("event %v, want index %d", e, next)
		}
		if next++; next == 2000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || next != 2000 {
		t.Fatalf("%d events, %v", next, err)
	}
	<-ended
}

func TestGossipIsForBothAndRaftIsNot(t *testing.T) {
	var book addresses
	v1 := start(t, &book, clusterSecret, "v1", link.ServerOptions{})
	p1 := start(t, &book, clusterSecret.Proxy(), "p1", link.ServerOptions{})
	stranger := start(t, &book, secret.Generate(), "x1", link.ServerOptions{})
	gossip := v1.listener.Protocol(link.ProtocolGossip)
	address, _ := book.resolve("v1")
	go func() { // ends with the listener
		for {
			c, err := gossip.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s", c.(*link.Conn).Peer().Node)
			c.Close()
		}
	}()
	for _, from := range []*agent{v1, p1} {
		c, err := from.dialer.Gossip(t.Context(), address)
		if err != nil {
			t.Fatalf("%s: %v", from.node, err)
		}
		if said, _ := io.ReadAll(c); string(said) != from.node {
			t.Errorf("%s was taken for %q", from.node, said)
		}
		c.Close()
	}
	if c, err := stranger.dialer.Gossip(t.Context(), address); err == nil {
		c.Close()
		t.Error("a stranger gossips")
	}
}

// A secret is added, swapped and dropped while agents talk; whoever only has the
// dropped one is out, also over the connections that it has.
func TestSecurityIsReplaced(t *testing.T) {
	var book addresses
	old, next := secret.Generate(), secret.Generate()
	served := link.ServerOptions{Members: members{}}
	v1 := start(t, &book, old, "v1", served)
	v2 := start(t, &book, old, "v2", served)
	v3 := start(t, &book, old, "v3", served) // does not follow
	address, _ := book.resolve("v1")
	hello := func(a *agent) error {
		_, _, err := a.pool.HelloAt(t.Context(), address, &link.Hello{})
		return err
	}
	replace := func(a *agent, secrets ...secret.Secret) {
		keys, err := secret.New(secrets...)
		if err != nil {
			t.Fatal(err)
		}
		sec := securityOf(t, keys, a.node)
		a.listener.SetSecurity(sec)
		a.dialer.SetSecurity(sec)
	}
	for _, step := range [][]secret.Secret{{old, next}, {next, old}, {next}} {
		for _, a := range []*agent{v1, v2} {
			replace(a, step...)
		}
		for _, a := range []*agent{v1, v2, v3} { // v3's connection was made before
			if err := hello(a); err != nil {
				t.Fatalf("%s with %d secrets: %v", a.node, len(step), err)
			}
		}
	}
	v1.listener.Drop()
	// A call may be the one that finds its connection broken.
	err := hello(v2)
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); err = hello(v2) {
	}
	if err != nil {
		t.Fatalf("v2 follows: %v", err)
	}
	for range 5 {
		if err := hello(v3); err == nil {
			t.Fatal("v3 has the dropped secret alone, and is answered")
		}
	}
}

// An agent without the secret gets nothing, whatever it asks for.
func TestStrangersGetNothing(t *testing.T) {
	var book addresses
	start(t, &book, clusterSecret, "v1", link.ServerOptions{Members: members{}, Voter: &voter{
		watch: func(context.Context, []byte, func(*replication.Event)) error { return errOver }}})
	address, _ := book.resolve("v1")
	for name, s := range map[string]secret.Secret{"another cluster's voter": secret.Generate(), "another cluster's proxy": secret.Generate().Proxy()} {
		x := start(t, &book, s, "x"+strconv.Itoa(len(name)), link.ServerOptions{})
		asked := everything(t.Context(), x.pool, &book, "v1")
		for _, method := range link.MethodNames() {
			if _, tried := asked[method]; !tried {
				t.Errorf("%s was not asked for: this test has to try everything", method)
			}
		}
		for asked, err := range asked {
			if !errors.Is(err, link.ErrBroken) {
				t.Errorf("%s asks for %s: %v", name, asked, err)
			}
		}
		if c, err := x.dialer.Gossip(t.Context(), address); err == nil {
			c.Close()
			t.Errorf("%s gossips", name)
		}
		if c, err := link.NewRaft(x.node, x.listener, x.dialer, book.resolve).Dial("v1", time.Second); err == nil {
			c.Close()
			t.Errorf("%s speaks raft", name)
		}
	}
	// Without any certificate, or in clear text.
	for _, protocol := range []string{link.ProtocolLink, link.ProtocolRaft, link.ProtocolGossip} {
		c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err = c.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s without a certificate is answered", protocol)
			}
			c.Close()
		}
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if answer, _ := io.ReadAll(c); strings.Contains(string(answer), "HTTP") {
		t.Errorf("clear text is answered with %q", answer)
	}
}

// What was made under a dropped secret does not outlast it: neither a handshake that
// was held back over the drop, nor a connection that this end has made.
func TestNothingOutlastsADroppedSecret(t *testing.T) {
	var book addresses
	old, next := secret.Generate(), secret.Generate()
	served := link.ServerOptions{Members: members{}, Voter: &voter{}}
	v1 := start(t, &book, old, "v1", served)
	start(t, &book, old, "v2", served) // does not follow
	if _, err := v1.pool.Do(t.Context(), "v2", get()); err != nil {
		t.Fatal(err)
	}
	address, _ := book.resolve("v1")
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	// The other side has begun its part with the old secret, and waits for the end of ours.
	config := security(t, old, "v2").Client.Clone()
	config.NextProtos = []string{link.ProtocolLink}
	begun, goOn := make(chan struct{}), make(chan struct{})
	config.VerifyConnection = func(tls.ConnectionState) error {
		close(begun)
		<-goOn
		return nil
	}
	held := tls.Client(raw, config)
	shaken := make(chan error, 1)
	go func() { shaken <- held.HandshakeContext(t.Context()) }() // ends with raw
	<-begun
	keys, err := secret.New(next)
	if err != nil {
		t.Fatal(err)
	}
	sec := securityOf(t, keys, "v1")
	v1.listener.SetSecurity(sec)
	v1.dialer.SetSecurity(sec)
	v1.listener.Drop()
	v1.dialer.Drop()
	close(goOn)
	<-shaken // TLS tells only who reads that it was refused
	_ = held.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := held.Read(make([]byte, 1)); err == nil || n > 0 {
		t.Error("a handshake that was begun before is served")
	}
	var lost error
	for end := time.Now().Add(10 * time.Second); lost == nil && time.Now().Before(end); {
		_, lost = v1.pool.Do(t.Context(), "v2", get())
	}
	if lost == nil {
		t.Error("an agent with the dropped secret is still asked")
	}
}
