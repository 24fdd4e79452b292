package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/link"
)

func isUnsent(err error) bool {
	return errors.Is(err, link.ErrBroken) && errors.Is(err, link.ErrNotSent) && errors.Is(err, replication.ErrUnavailable)
}

// A request in flight when the node dies is ErrBroken and nothing more, so that
// it is sent again with its id; the node is found again when it is back.
func TestNodeDiesAndComesBack(t *testing.T) {
	var book addresses
	entered := make(chan struct{}, 1)
	stuck := &voter{serve: func(ctx context.Context, _ *replication.Request) (*replication.Answer, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}}
	v1 := start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: stuck})
	v2 := start(t, &book, clusterSecret, "v2", link.ServerOptions{})
	failed := make(chan error)
	go func() {
		_, err := v2.pool.Do(t.Context(), "v1", get())
		failed <- err
	}()
	<-entered
	v1.stop()
	if err := <-failed; !errors.Is(err, link.ErrBroken) || errors.Is(err, link.ErrNotSent) || errors.Is(err, replication.ErrUnavailable) {
		t.Fatalf("the call in flight ended with %v", err)
	}
	if _, err := v2.pool.Do(t.Context(), "v1", get()); !isUnsent(err) {
		t.Fatalf("a dead node: %v", err)
	}
	start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: &voter{}}) // at another address
	for {
		_, err := v2.pool.Do(t.Context(), "v1", get())
		if err == nil {
			break
		}
		if !isUnsent(err) {
			t.Fatal(err)
		}
		if t.Context().Err() != nil {
			t.Fatal("the node was not found again")
		}
	}
}

func TestUnreachable(t *testing.T) {
	var book addresses
	v1 := start(t, &book, clusterSecret, "v1", link.ServerOptions{Voter: &voter{}})
	t.Run("unknown node", func(t *testing.T) {
		if _, err := v1.pool.Do(t.Context(), "nobody", get()); !isUnsent(err) || !errors.Is(err, link.ErrUnknownNode) {
			t.Fatal(err)
		}
	})
	t.Run("another node at the address", func(t *testing.T) {
		address, _ := book.resolve("v1")
		book.set("v9", address)
		if _, err := v1.pool.Do(t.Context(), "v9", get()); !isUnsent(err) || !errors.Is(err, link.ErrWrongNode) {
			t.Fatal(err)
		}
	})
	t.Run("another cluster at the address", func(t *testing.T) {
		start(t, &book, secret.Generate(), "stranger", link.ServerOptions{Voter: &voter{}})
		if _, err := v1.pool.Do(t.Context(), "stranger", get()); !isUnsent(err) {
			t.Fatal(err)
		}
	})
	t.Run("closed pool", func(t *testing.T) {
		v2 := start(t, &book, clusterSecret, "v2", link.ServerOptions{})
		v2.pool.Close()
		if _, err := v2.pool.Do(t.Context(), "v1", get()); !isUnsent(err) || !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		address, _ := book.resolve("v1")
		if _, _, err := v2.pool.HelloAt(t.Context(), address, &link.Hello{}); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	})
	t.Run("ctx", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		book.set("silent", silent.Addr().String())
		if _, err := v1.pool.Do(ctx, "silent", get()); !errors.Is(err, context.Canceled) || !errors.Is(err, link.ErrNotSent) {
			t.Fatal(err)
		}
	})
}

// While a node is down, those who ask it are told at once, and it is not dialled
// by every one of them.
func TestBackoff(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int64
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			c, err := dead.Accept()
			if err != nil {
				return
			}
			dials.Add(1)
			c.Close()
		}
	}()
	var book addresses
	book.set("dead", dead.Addr().String())
	v1 := start(t, &book, clusterSecret, "v1", link.ServerOptions{})
	begun := time.Now()
	for range 1000 {
		if _, err := v1.pool.Do(t.Context(), "dead", get()); !isUnsent(err) {
			t.Fatal(err)
		}
	}
	took := time.Since(begun)
	dead.Close()
	<-accepting
	// Pauses begin at 25 ms at least.
	if most := 2 + int64(took/(25*time.Millisecond)); dials.Load() > most {
		t.Fatalf("%d dials in %v", dials.Load(), took)
	}
}

// Strangers that open connections and say nothing keep nobody out.
func TestSlowHandshakes(t *testing.T) {
	sec := security(t, clusterSecret, "v1")
	l, err := link.Listen("127.0.0.1:0", link.ListenerOptions{Security: sec, MaxHandshakes: 4, HandshakeTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	server := link.NewServer(link.ServerOptions{Voter: &voter{}})
	defer server.Close()
	go server.Serve(l.Protocol(link.ProtocolLink))
	var book addresses
	book.set("v1", l.Addr().String())

	silent := make([]net.Conn, 20)
	for i := range silent {
		if silent[i], err = net.Dial("tcp", l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer silent[i].Close()
		silent[i].Write([]byte{22, 3, 1}) // the beginning of a hello
	}
	v2 := start(t, &book, clusterSecret, "v2", link.ServerOptions{})
	if _, err := v2.pool.Do(t.Context(), "v1", get()); err != nil {
		t.Fatal(err)
	}
	for _, c := range silent[:16] {
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.EOF) {
			var op *net.OpError
			if !errors.As(err, &op) {
				t.Fatalf("an old handshake ended with %v", err)
			}
		}
	}
}

func TestHandshakeHasADeadline(t *testing.T) {
	for name, say := range map[string]func(t *testing.T, address string, sec link.Security) io.ReadCloser{
		"silent": func(t *testing.T, address string, _ link.Security) io.ReadCloser {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
		"nobody accepts the protocol": func(t *testing.T, address string, sec link.Security) io.ReadCloser {
			layer := link.NewRaft("v2", nopListener(t, sec), &link.Dialer{Security: sec}, func(string) (string, bool) { return address, true })
			c, err := layer.Dial("v1", 0)
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := link.Listen("127.0.0.1:0", link.ListenerOptions{Security: security(t, clusterSecret, "v1"), HandshakeTimeout: 500 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			c := say(t, l.Addr().String(), security(t, clusterSecret, "v2"))
			defer c.Close()
			io.Copy(io.Discard, c) // returns when the other side closes it
		})
	}
}

func nopListener(t *testing.T, sec link.Security) *link.Listener {
	l, err := link.Listen("127.0.0.1:0", link.ListenerOptions{Security: sec})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestTooManyConnections(t *testing.T) {
	sec := security(t, clusterSecret, "v1")
	l, err := link.Listen("127.0.0.1:0", link.ListenerOptions{Security: sec, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	layer := link.NewRaft("v2", nopListener(t, sec), &link.Dialer{Security: security(t, clusterSecret, "v2")},
		func(string) (string, bool) { return l.Addr().String(), true })
	accepted := make([]net.Conn, 2)
	for i := range accepted {
		c, err := layer.Dial("v1", 0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if accepted[i], err = l.Protocol(link.ProtocolRaft).Accept(); err != nil {
			t.Fatal(err)
		}
		defer accepted[i].Close()
	}
	if c, err := layer.Dial("v1", 0); err == nil {
		c.Close()
		t.Fatal("a third connection was accepted")
	}
	accepted[0].Close()
	accepted[0].Close() // counts once
	c, err := layer.Dial("v1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c, err := layer.Dial("v1", 0); err == nil {
		c.Close()
		t.Fatal("a connection closed twice made two places")
	}
}

// Raft's own transport works over the layer, by node id, and only between voters.
// A node that is frozen accepts connections and says nothing.
func TestStopDialingEndsAHandshake(t *testing.T) {
	frozen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close()
	sec := security(t, clusterSecret, "v1")
	layer := link.NewRaft("v1", nopListener(t, sec), &link.Dialer{Security: sec, Timeout: time.Minute},
		func(string) (string, bool) { return frozen.Addr().String(), true })
	failed := make(chan error, 1)
	go func() {
		_, err := layer.Dial("v2", time.Minute)
		failed <- err
	}()
	c, err := frozen.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	layer.StopDialing()
	select {
	case err := <-failed:
		if err == nil {
			t.Fatal("a connection to nobody was made")
		}
	case <-time.After(5 * time.Second):
		frozen.Close()
		c.Close()
		<-failed
		t.Fatal("the dial went on for 5 s")
	}
	if _, err := layer.Dial("v2", time.Minute); err == nil {
		t.Fatal("a later dial was made")
	}
}

func TestRaftLayer(t *testing.T) {
	var book addresses
	agents := map[string]*agent{}
	layers := map[string]*link.Raft{}
	for _, node := range []string{"v1", "v2"} {
		a := start(t, &book, clusterSecret, node, link.ServerOptions{})
		agents[node], layers[node] = a, link.NewRaft(node, a.listener, a.dialer, book.resolve)
	}
	if got := layers["v1"].Addr().String(); got != "v1" {
		t.Fatalf("raft's own address is %q", got)
	}
	t1 := raft.NewNetworkTransport(layers["v1"], 1, time.Second, io.Discard)
	defer t1.Close()
	t2 := raft.NewNetworkTransport(layers["v2"], 1, time.Second, io.Discard)
	defer t2.Close()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		rpc := <-t2.Consumer()
		rpc.Respond(&raft.RequestVoteResponse{Term: rpc.Command.(*raft.RequestVoteRequest).Term + 1, Granted: true}, nil)
	}()
	var response raft.RequestVoteResponse
	if err := t1.RequestVote("v2", "v2", &raft.RequestVoteRequest{Term: 7}, &response); err != nil || response.Term != 8 {
		t.Fatalf("%+v, %v", response, err)
	}
	<-answered

	if _, err := layers["v1"].Dial("nobody", time.Second); !errors.Is(err, link.ErrUnknownNode) {
		t.Fatal(err)
	}
	address, _ := book.resolve("v2")
	book.set("v3", address)
	if _, err := layers["v1"].Dial("v3", time.Second); !errors.Is(err, link.ErrWrongNode) {
		t.Fatal(err)
	}
	p := start(t, &book, clusterSecret.Proxy(), "p1", link.ServerOptions{})
	if _, err := layers["v1"].Dial("p1", time.Second); err == nil {
		t.Fatal("a proxy was dialled as a voter")
	}
	if _, err := link.NewRaft("p1", p.listener, p.dialer, book.resolve).Dial("v1", time.Second); err == nil {
		t.Fatal("a proxy dialled as a voter")
	}
	// A proxy that insists, with the certificate that it has.
	forced := security(t, clusterSecret.Proxy(), "p1")
	forced.RaftClient = forced.Client
	if c, err := link.NewRaft("p1", p.listener, &link.Dialer{Security: forced}, book.resolve).Dial("v1", time.Second); err == nil {
		// TLS 1.3 tells the client only when it reads.
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) || bytes.Contains([]byte(err.Error()), []byte("timeout")) {
			t.Fatalf("a proxy speaks raft: %v", err)
		}
		c.Close()
	}
}
