package voter_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/kahu-sh/kahu/agent/secret"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/forward"
	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/replication/voter"
)

// cable is a connection in front of a listener: when told so it takes
// everything from the asker and brings nothing back.
type cable struct {
	net.Listener
	to string

	mu    sync.Mutex
	mute  bool
	conns []net.Conn
	all   sync.WaitGroup
}

func layWire(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &cable{Listener: l, to: to}
	w.all.Go(func() { // ends with the listener
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, near, far)
			w.mu.Unlock()
			w.all.Go(func() { w.carry(far, near, false) })
			w.all.Go(func() { w.carry(near, far, true) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.cut()
		w.all.Wait()
	})
	return w
}

func (w *cable) carry(to, from net.Conn, back bool) {
	defer to.Close()
	b := make([]byte, 1<<16)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		w.mu.Lock()
		lost := back && w.mute
		w.mu.Unlock()
		if lost {
			continue
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// swallow loses all answers from now on.
func (w *cable) swallow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = true
}

// cut breaks all connections; new ones are whole again.
func (w *cable) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = false
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// running is the voter of a node for the link, whichever runs there now.
type running struct{ n *node }

func (r running) voter() (*voter.Voter, error) {
	if v := r.n.v.Load(); v != nil {
		return v, nil
	}
	return nil, &replication.NotLeaderError{}
}

func (r running) Serve(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	v, err := r.voter()
	if err != nil {
		return nil, err
	}
	return v.Serve(ctx, req)
}

func (r running) ReadIndex(context.Context) (uint64, error) { return 0, errors.New("nobody asks") }
func (r running) Term() uint64                              { return 0 }

func (r running) WatchLocal(context.Context, []byte, func(*replication.Event)) error {
	return errors.New("nobody watches")
}

func (r running) FollowLeader(ctx context.Context, _ func(uint64, string)) error {
	<-ctx.Done()
	return ctx.Err()
}

// agentOf is an agent without a vote that asks n over the link, through a wire.
func agentOf(t *testing.T, n *node) (*forward.Forwarder, *cable) {
	t.Helper()
	keys, err := secret.New(secret.Generate())
	if err != nil {
		t.Fatal(err)
	}
	end := func(node string) link.Security {
		server, err := keys.ServerTLS(node)
		client, clientErr := keys.ClientTLS(node)
		if err := errors.Join(err, clientErr); err != nil {
			t.Fatal(err)
		}
		return link.Security{Server: server, Client: client, Identify: func(cs tls.ConnectionState) (link.Identity, error) {
			node, voter, err := keys.Identify(cs)
			return link.Identity{Node: node, Voter: voter}, err
		}}
	}
	l, err := link.Listen("127.0.0.1:0", link.ListenerOptions{Security: end(n.id)})
	if err != nil {
		t.Fatal(err)
	}
	server := link.NewServer(link.ServerOptions{Voter: running{n}})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l.Protocol(link.ProtocolLink)) }) // ends with the server
	w := layWire(t, l.Addr().String())
	pool := link.NewPool(link.PoolOptions{Dialer: &link.Dialer{Security: end("proxy")},
		Resolve: func(string) (string, bool) { return w.Addr().String(), true }})
	f := forward.New(forward.Config{Node: "proxy", Host: "h", Remote: pool, Logger: slog.New(slog.DiscardHandler),
		Voters: func() []string { return []string{n.id} }})
	t.Cleanup(func() {
		f.Close()
		if err := errors.Join(pool.Close(), server.Close(), l.Close()); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		serving.Wait()
	})
	return f, w
}

// A start whose answer was lost is asked again when there is no slot any more, it
// has taken the last one: the transaction that it began is answered, by the leader
// that began it at once, and by the next one when it would refuse it.
func TestStartWhoseAnswerWasLost(t *testing.T) {
	for _, test := range []struct {
		name    string
		restart bool
		wait    int64
	}{{"the leader stays", false, 20_000}, {"a leader that knows nothing of it", true, 1}} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t, []string{"a"}, func(cfg *voter.Config) { cfg.MaxTransactions = 1 })
			n := c.leader()
			eventually(t, "the level of refused starts", func() bool { return n.v.Load().Status().Level >= statemachine.RefusedStartLevel })
			f, w := agentOf(t, n)
			if a, err := f.Do(t.Context(), put("k", "v")); err != nil || a.Refused() != nil {
				t.Fatal(a, err)
			}
			w.swallow()
			type outcome struct {
				a   *replication.Answer
				err error
			}
			answered := make(chan outcome, 1)
			go func() { // ends with the answer
				a, err := f.Do(t.Context(), &replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{AdmissionWaitMs: test.wait}}})
				answered <- outcome{a, err}
			}()
			eventually(t, "the transaction has begun", func() bool { return n.v.Load().Status().Transactions == 1 })
			if test.restart {
				n.stop(0)
				n.start()
				c.leader()
			}
			w.cut()
			got := <-answered
			if got.err != nil || got.a.GetTxStarted().GetId() == nil {
				t.Fatalf("asked again: %v, %v", got.a, got.err)
			}
			cl := c.client()
			if a := cl.do(&replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{AdmissionWaitMs: 1}}}); a.GetCode() != replication.Code_CODE_ADMISSION_REFUSED {
				t.Errorf("another one beside it: %v", a)
			}
			wantOutcome(t, "the one that was answered", (&tx{cl, got.a.GetTxStarted().GetId()}).end(true), replication.TxOutcome_TX_OUTCOME_COMMITTED)
			if open := n.v.Load().Status().Transactions; open != 0 {
				t.Errorf("%d transactions are left open", open)
			}
		})
	}
}

// A start that was refused stays refused under its id, slot or not: whoever was told
// so does not end what begins later.
func TestRefusedStartStaysRefused(t *testing.T) {
	c := newCluster(t, []string{"a"}, func(cfg *voter.Config) { cfg.MaxTransactions = 1 })
	cl := c.client()
	v := c.leader().v.Load()
	eventually(t, "the level of refused starts", func() bool { return v.Status().Level >= statemachine.RefusedStartLevel })
	running := cl.begin(&replication.TxStart{})
	start := func() *replication.Answer {
		a, err := v.Serve(t.Context(), &replication.Request{Session: cl.session[:], Number: 500,
			Op: &replication.Request_TxStart{TxStart: &replication.TxStart{AdmissionWaitMs: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	first := start()
	if first.GetCode() != replication.Code_CODE_ADMISSION_REFUSED || first.GetIndex() == 0 {
		t.Fatalf("without a slot: %v", first)
	}
	running.end(false)
	if again := start(); again.String() != first.String() {
		t.Errorf("with a slot, under the same id: %v\nfirst: %v", again, first)
	}
	forged := &replication.Request{Session: cl.session[:], Number: 501, Op: &replication.Request_TxStart{TxStart: &replication.TxStart{Refused: "so"}}}
	if a, err := v.Serve(t.Context(), forged); err != nil || a.GetCode() != replication.Code_CODE_INVALID {
		t.Errorf("a refusal that came from outside: %v, %v", a, err)
	}
}
