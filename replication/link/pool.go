package link

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/stream"
)

// Back-off between attempts to connect to a node that cannot be reached.
// Between them, whoever asks it is told so at once.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// DefaultKeepAlive is how long another agent may be silent before its connection
// counts as dead. It is pinged only when nothing else is said.
const DefaultKeepAlive = 5 * time.Second

// PoolOptions configure a Pool. Fields without "optional" are required.
type PoolOptions struct {
	Dialer *Dialer
	// Resolve tells where a node is. It is asked for each new connection, must be
	// callable concurrently and must not block.
	Resolve func(node string) (address string, ok bool)
	Stream  stream.Options // optional; Handler is ignored, KeepAlive is DefaultKeepAlive
	Logger  *slog.Logger   // optional
}

// Pool keeps one connection to each node that is asked something, and makes a
// new one when it is lost and somebody asks again. All methods may be called
// concurrently.
//
// Errors of the methods that ask: *replication.NotLeaderError as the node gave
// it; ErrBroken when no answer came, together with ErrNotSent and
// replication.ErrUnavailable when the request certainly never left;
// replication.ErrUnavailable and ErrUnknownOutcome as the node gave them;
// ErrRefused; ErrWrongNode for a voter's request to a proxy; the cause of ctx.
type Pool struct {
	o       PoolOptions
	ctx     context.Context // ends with Close
	cancel  context.CancelCauseFunc
	running sync.WaitGroup // dials

	mu        sync.Mutex
	nodes     map[string]*entry
	byAddress map[string]*peerConn // made by HelloAt, before it was known who is there
}

// entry is what the pool has of one node. Guarded by Pool.mu.
type entry struct {
	peer    *peerConn     // nil before the first connection
	dialing chan struct{} // closed when the dial under way has ended; nil when none is
	err     error         // of the last dial
	backoff time.Duration
	retryAt time.Time
}

// peerConn is an established connection.
type peerConn struct {
	*stream.Conn
	id      Identity
	address string
}

// NewPool returns an empty pool. Close ends it.
func NewPool(o PoolOptions) *Pool {
	o.Stream.Handler = nil // the other side asks over connections of its own
	if o.Stream.KeepAlive == 0 {
		o.Stream.KeepAlive = DefaultKeepAlive
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pool{o: o, nodes: make(map[string]*entry), byAddress: make(map[string]*peerConn)}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	return p
}

// Close ends all connections and waits for them; calls in flight get ErrBroken.
func (p *Pool) Close() error {
	p.cancel(net.ErrClosed)
	p.running.Wait()
	// Nothing is added any more: dials have ended, and keep looks at ctx.
	p.mu.Lock()
	var open []*peerConn
	for _, e := range p.nodes {
		if e.peer != nil {
			open = append(open, e.peer)
		}
	}
	for _, c := range p.byAddress {
		open = append(open, c)
	}
	p.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	return nil
}

// unreachable is the error for a request that could not be sent to node.
func unreachable(node string, err error) error {
	return fmt.Errorf("%w: %w: %w: node %s: %w", replication.ErrUnavailable, ErrBroken, ErrNotSent, node, err)
}

// voter returns the connection to node, which may act as a voter, and makes one when
// there is none. All who ask meanwhile wait for the same dial.
func (p *Pool) voter(ctx context.Context, node string) (*peerConn, error) {
	for {
		p.mu.Lock()
		if err := context.Cause(p.ctx); err != nil {
			p.mu.Unlock()
			return nil, unreachable(node, err)
		}
		e := p.nodes[node]
		if e == nil {
			e = &entry{}
			p.nodes[node] = e
		}
		if e.peer != nil && e.peer.Err() == nil {
			defer p.mu.Unlock()
			return e.peer, nil
		}
		if e.dialing == nil {
			if e.err != nil && time.Now().Before(e.retryAt) {
				defer p.mu.Unlock()
				return nil, unreachable(node, e.err)
			}
			e.dialing = make(chan struct{})
			p.running.Go(func() { p.redial(node, e) })
		}
		dialing := e.dialing
		p.mu.Unlock()
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w: connecting to node %s: %w", replication.ErrUnavailable, ErrNotSent, node, context.Cause(ctx))
		}
	}
}

// redial makes one attempt to connect to node, for whoever waits.
func (p *Pool) redial(node string, e *entry) {
	peer, err := (*peerConn)(nil), error(ErrUnknownNode)
	if address, ok := p.o.Resolve(node); ok {
		peer, err = p.connect(p.ctx, address, node)
		if err == nil && !peer.id.Voter { // it is of no use, and would keep the voter's place
			peer.Close()
			peer, err = nil, fmt.Errorf("%w: it is a proxy", ErrWrongNode)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	close(e.dialing)
	e.dialing = nil
	if err != nil {
		if e.err == nil {
			p.o.Logger.Info("node cannot be reached", "node", node, "error", err)
		}
		e.err = err
		e.backoff = min(max(2*e.backoff, minBackoff), maxBackoff)
		e.retryAt = time.Now().Add(e.backoff/2 + rand.N(e.backoff/2))
		return
	}
	if e.err != nil {
		p.o.Logger.Info("node can be reached again", "node", node, "address", peer.address)
	}
	e.peer, e.err, e.backoff = peer, nil, 0
}

// connect dials and waits until the other side has shown that it accepts us:
// with TLS 1.3 a client learns only by reading that its certificate was refused.
func (p *Pool) connect(ctx context.Context, address, node string) (*peerConn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*DefaultDialTimeout)
	defer cancel()
	c, err := p.o.Dialer.dial(ctx, address, ProtocolLink, node)
	if err != nil {
		return nil, err
	}
	o := p.o.Stream
	o.Peer = c.RemoteAddr()
	sc := stream.New(c, o)
	select {
	case <-sc.Ready():
		return &peerConn{Conn: sc, id: c.peer, address: address}, nil
	case <-sc.Done():
		err = sc.Err()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	sc.Close()
	return nil, fmt.Errorf("connecting to %s: %w", address, err)
}

// decoder is what an answer is read into.
type decoder interface{ UnmarshalVT(b []byte) error }

// ask calls method at a voter and reads the answer.
func (p *Pool) ask(ctx context.Context, node string, method uint8, m stream.Message, into decoder) error {
	c, err := p.voter(ctx, node)
	if err != nil {
		return err
	}
	return askOn(ctx, c, method, m, into)
}

func askOn(ctx context.Context, c *peerConn, method uint8, m stream.Message, into decoder) error {
	payload, err := c.Call(ctx, method, m)
	if err != nil {
		return fromWire(c.id.Node, err)
	}
	if err := into.UnmarshalVT(payload); err != nil {
		return fmt.Errorf("reading the answer of node %s: %w", c.id.Node, err)
	}
	return nil
}

// Do asks node to carry out req. Sending it again with the same id is safe.
func (p *Pool) Do(ctx context.Context, node string, req *replication.Request) (*replication.Answer, error) {
	answer := new(replication.Answer)
	if err := p.ask(ctx, node, methodDo, req, answer); err != nil {
		return nil, err
	}
	return answer, nil
}

// ReadIndex asks node, which has to lead, for an index at which a read is linearizable.
func (p *Pool) ReadIndex(ctx context.Context, node string) (uint64, error) {
	var answer Index
	err := p.ask(ctx, node, methodReadIndex, nil, &answer)
	return answer.GetValue(), err
}

// Term asks node for its current raft term. For voters.
func (p *Pool) Term(ctx context.Context, node string) (uint64, error) {
	var answer Index
	err := p.ask(ctx, node, methodTerm, nil, &answer)
	return answer.GetValue(), err
}

// Wall asks node for its wall clock, as of when it answers. For voters. The zero
// time is that of a node that is too old to tell.
func (p *Pool) Wall(ctx context.Context, node string) (time.Time, error) {
	var answer Index
	if err := p.ask(ctx, node, methodTerm, nil, &answer); err != nil || answer.GetWallMs() == 0 {
		return time.Time{}, err
	}
	return time.UnixMilli(answer.GetWallMs()), nil
}

// HelloAt asks whoever is at address who it is. It returns the verified
// identity beside what the node says of itself, and keeps the connection.
func (p *Pool) HelloAt(ctx context.Context, address string, h *Hello) (*Hello, Identity, error) {
	c, err := p.connAt(ctx, address)
	if err != nil {
		return nil, Identity{}, err
	}
	answer := new(Hello)
	if err := askOn(ctx, c, methodHello, h, answer); err != nil {
		return nil, c.id, err
	}
	return answer, c.id, nil
}

// connAt returns a connection to whoever is at address.
func (p *Pool) connAt(ctx context.Context, address string) (*peerConn, error) {
	if c := p.knownAt(address); c != nil {
		return c, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(net.ErrClosed) })()
	c, err := p.connect(ctx, address, "")
	if p.ctx.Err() != nil && err != nil {
		err = context.Cause(p.ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w: %w", ErrBroken, ErrNotSent, err)
	}
	if old, ok := p.keep(c); !ok {
		c.Close()
		return nil, unreachable(c.id.Node, net.ErrClosed)
	} else if old != nil {
		old.Close()
	}
	return c, nil
}

// knownAt returns a working connection that was made to address, if there is one.
func (p *Pool) knownAt(address string) *peerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.byAddress[address]; c != nil && c.Err() == nil {
		return c
	}
	for _, e := range p.nodes {
		if e.peer != nil && e.peer.address == address && e.peer.Err() == nil {
			return e.peer
		}
	}
	return nil
}

// keep remembers a connection by its address, and for its node when that has
// none and may act as a voter: a proxy may have any id. It returns the one that it replaces, and false when the pool is closed.
func (p *Pool) keep(c *peerConn) (old *peerConn, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil, false
	}
	old = p.byAddress[c.address]
	p.byAddress[c.address] = c
	if !c.id.Voter {
		return old, true
	}
	e := p.nodes[c.id.Node]
	if e == nil {
		e = &entry{}
		p.nodes[c.id.Node] = e
	}
	if e.peer == nil || e.peer.Err() != nil {
		e.peer, e.err, e.backoff = c, nil, 0
	}
	return old, true
}

// Join asks node, which has to lead, to make this node a voter.
func (p *Pool) Join(ctx context.Context, node string, r *JoinRequest) error {
	return p.ask(ctx, node, methodJoin, r, new(Done))
}

// Leave asks node, which has to lead, to remove this node from the voters.
func (p *Pool) Leave(ctx context.Context, node string, r *LeaveRequest) error {
	return p.ask(ctx, node, methodLeave, r, new(Done))
}

// Change asks node, which has to lead, for a change that an operator wants.
func (p *Pool) Change(ctx context.Context, node string, r *ChangeRequest) error {
	return p.ask(ctx, node, methodChange, r, new(Done))
}

// Vote tells node to ask for a vote, or that it has none any more.
func (p *Pool) Vote(ctx context.Context, node string, r *VoteRequest) error {
	return p.ask(ctx, node, methodVote, r, new(Done))
}

// Pledge asks node for a pledge, or what became of one.
func (p *Pool) Pledge(ctx context.Context, node string, r *PledgeRequest) (*PledgeAnswer, error) {
	answer := new(PledgeAnswer)
	if err := p.ask(ctx, node, methodPledge, r, answer); err != nil {
		return nil, err
	}
	return answer, nil
}
