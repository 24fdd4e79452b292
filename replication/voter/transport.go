package voter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/raftlog"
)

// errStalled is returned to Raft instead of sending AppendEntries.
var errStalled = errors.New("withheld: the disk of this voter does not answer")

// Of Raft's own connections.
const (
	// rpcTimeout bounds one RPC. Raft scales it for snapshots, by size.
	rpcTimeout = 10 * time.Second
	// rpcPool is how many idle connections to a voter are kept.
	rpcPool = 3
	// promptFactor is how many heartbeat timeouts a heartbeat or a vote may take: by
	// then Raft has asked again, or somebody else leads. A longer wait is one on a
	// connection that is broken.
	promptFactor = 4
	// promptPool is how many idle connections are kept for them.
	promptPool = 2
)

// transport is what Raft sees of the network. It does these things:
//
// Addresses are node ids. Where a node answers is looked up at each dial, so a
// voter that moves stays the same voter (HAZARDS.md 23).
//
// A leader whose disk hangs falls silent. Raft's loop writes the log itself, so
// it could not even notice that it should step down, while its heartbeats, from
// other goroutines, would go on for ever and keep the others from electing
// (HAZARDS.md 10). While stalled reports true no AppendEntries leaves, neither
// heartbeats nor entries. Votes and everything incoming pass, but for a pre-vote: a
// voter whose log hangs cannot store a vote, and promises none (intake.go).
//
// What a follower acknowledges counts only once this voter's own log is durable
// as far (doc.go): the answer is held back until then.
//
// What comes in goes through an intake, which holds entries back while this
// voter has not applied those before (intake.go).
//
// Heartbeats pass Raft's loop by only where they change nothing (heartbeat.go).
//
// A voter that was cut off, or down, gets entries as soon as it answers heartbeats
// again (return.go).
type transport struct {
	raft.Transport
	conns   *conns                 // nil when Config.Transport is used
	hurried *raft.NetworkTransport // for TimeoutNow; nil likewise
	prompt  *raft.NetworkTransport // for heartbeats and votes; nil likewise
	address func(node string) (address string, ok bool)
	preVote raft.WithPreVote
	node    raft.ServerAddress
	logger  *slog.Logger
	stalled func() bool
	log     ownLog
	held    atomic.Int64 // answers in hold
	intake  *intake
	follows atomic.Pointer[func(term uint64) bool] // nil: not known yet
	// Whether this voter still sends entries to another; nil: not known yet.
	replicates atomic.Pointer[func(id raft.ServerID, term uint64) bool]

	stopping context.Context // ends with cut
	stop     context.CancelFunc

	contacts    contacts
	pipelines   sync.Map      // by raft.ServerID: the *pipeline that was opened last and is not closed
	resting     atomic.Int64  // pipelines that rest
	riding      atomic.Int64  // heartbeats that go on without Raft
	handingOver atomic.Int64  // while not 0 none begins to
	refresh     time.Duration // see pipeline: from one request without entries to the next; also heartbeats
	silent      time.Duration // a peer that has not answered for so long was cut off, or down
	beat        *beat
}

// ownLog is what transport needs of *raftlog.Log.
type ownLog interface {
	AwaitDurable(ctx context.Context, index uint64) error
	Beyond(index uint64) <-chan struct{}
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

// newTransport wraps cfg.Transport, or makes one over cfg.Stream.
func newTransport(cfg Config, log ownLog, stalled func() bool) (*transport, error) {
	inner := cfg.Transport
	var known *conns
	if inner == nil {
		known = newConns(cfg.Stream, promptFactor*cfg.timing.heartbeat)
		inner = networkTransport(cfg, known, rpcPool, rpcTimeout)
	}
	// Without it Raft would silently turn pre-vote off.
	preVote, ok := inner.(raft.WithPreVote)
	if !ok {
		return nil, fmt.Errorf("raft transport %T cannot ask for pre-votes", inner)
	}
	t := &transport{Transport: inner, conns: known, preVote: preVote, node: raft.ServerAddress(cfg.NodeID), logger: cfg.Logger, stalled: stalled,
		log: log, intake: newIntake(inner.Consumer()), refresh: 4 * cfg.timing.heartbeat, silent: 2 * cfg.timing.heartbeat,
		beat: newBeat(cfg.timing.heartbeat / 5)}
	t.stopping, t.stop = context.WithCancel(context.Background())
	if known != nil {
		t.hurried = networkTransport(cfg, newDialOnly(known), 0, cfg.timing.election*4/5)
		t.prompt = networkTransport(cfg, newDialOnly(known), promptPool, promptFactor*cfg.timing.heartbeat)
		t.preVote, t.address = t.prompt, cfg.Address
	}
	return t, nil
}

func networkTransport(cfg Config, stream raft.StreamLayer, pool int, timeout time.Duration) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider:   addressProvider(cfg.Address),
		Logger:                  raftlog.HCLog(cfg.Logger),
		Stream:                  stream,
		MaxPool:                 pool,
		Timeout:                 timeout,
		MsgpackUseNewTimeFormat: true,
	})
}

// addressProvider implements raft.ServerAddressProvider.
type addressProvider func(node string) (addr string, ok bool)

func (p addressProvider) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	addr, ok := p(string(id))
	if !ok {
		return "", fmt.Errorf("no address is known for voter %s", id)
	}
	return raft.ServerAddress(addr), nil
}

// LocalAddr implements raft.Transport.
func (t *transport) LocalAddr() raft.ServerAddress { return t.node }

// EncodePeer implements raft.Transport.
func (t *transport) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }

// DecodePeer implements raft.Transport.
func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// Consumer implements raft.Transport. Nothing comes before intake.start.
func (t *transport) Consumer() <-chan raft.RPC { return t.intake.to }

// cut ends all exchanges with other voters. Raft is stopping.
func (t *transport) cut() {
	t.stop()
	if t.conns != nil {
		t.conns.cut()
	}
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	ask := t.Transport.RequestVote
	if t.prompt != nil {
		ask = t.prompt.RequestVote
	}
	return t.askAgain(func() error { return ask(id, target, args, resp) })
}

// askAgain repeats a question for a vote that failed at once: a connection that was
// kept is broken when the other side was restarted since, and Raft takes the error for a
// refusal, and waits up to a second before it asks again. A voter answers the same
// question twice in the same way.
func (t *transport) askAgain(ask func() error) (err error) {
	for range promptPool + 1 {
		began := time.Now()
		if err = ask(); err == nil || time.Since(began) > t.beat.every || t.stopping.Err() != nil {
			break
		}
	}
	return err
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) {
		return t.heartbeats(id, target, args, resp)
	}
	return t.exchange(id, target, args, resp)
}

// exchange sends an AppendEntries and takes in its answer.
func (t *transport) exchange(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.stalled() {
		return errStalled
	}
	send := t.Transport.AppendEntries
	if isHeartbeat(args) && t.prompt != nil {
		send = t.prompt.AppendEntries
	}
	acked := t.contacts.acked(id, args.Term)
	late := time.AfterFunc(t.beat.every/2, func() { t.contacts.missed(id) })
	err := send(id, target, args, resp)
	late.Stop()
	if err != nil {
		t.contacts.missed(id)
		if !isHeartbeat(args) {
			t.awaitPeer(id, args.Term)
		}
		return err
	}
	if silence := t.contacts.heard(id, resp.LastLog); silence > t.silent {
		t.isBack(id)
	}
	t.remember(id, acked, args, resp)
	return t.hold(t.stopping, args, resp)
}

// hold blocks until what a follower has acknowledged may count. It gives up when
// ctx ends, and after as long as the answer itself might have taken.
func (t *transport) hold(ctx context.Context, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	n := len(args.Entries)
	if n == 0 || !resp.Success {
		return nil // nothing is acknowledged, and a newer term must not wait
	}
	t.held.Add(1)
	defer t.held.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	return t.log.AwaitDurable(ctx, args.Entries[n-1].Index)
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if t.stalled() {
		return nil, errStalled
	}
	p, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(t, id, p), nil
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.Transport.InstallSnapshot(id, target, args, resp, data)
	if err != nil {
		t.awaitPeer(id, args.Term)
	}
	return err
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.askAgain(func() error { return t.preVote.RequestPreVote(id, target, args, resp) })
}

// TimeoutNow implements raft.Transport. Until it returns the leader takes no writes,
// whether or not it has given up the transfer. So it does not wait for rpcTimeout on
// a voter that is frozen, but for less than an election. And it goes over a
// connection of its own: one that was kept may be broken since the other side was
// restarted.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if t.hurried == nil {
		return t.Transport.TimeoutNow(id, target, args, resp)
	}
	return t.hurried.TimeoutNow(id, target, args, resp)
}

// Close implements raft.WithClose. Raft calls it when it has stopped.
func (t *transport) Close() error {
	t.stop()
	t.intake.close()
	for _, own := range []*raft.NetworkTransport{t.hurried, t.prompt} {
		if own != nil {
			_ = own.Close() // always nil
			own.CloseStreams()
		}
	}
	c, ok := t.Transport.(raft.WithClose)
	if !ok {
		return nil
	}
	err := c.Close()
	if streams, ok := t.Transport.(interface{ CloseStreams() }); ok {
		streams.CloseStreams() // idle connections to the others
	}
	return err
}

// flushStallFactor is how much longer than a log write or an apply a flush may
// take. It runs beside both: a slow one is normal under load, and when it holds
// up apply that shows by itself.
const flushStallFactor = 5

// stalledFor returns the age of what makes this voter silent, or 0.
func (v *Voter) stalledFor() time.Duration {
	limit := v.cfg.StallAfter
	if age := v.log.WriteAge(); age > limit {
		return age
	}
	if age := v.fsm.applyAge(); age > limit {
		return age
	}
	if age := v.fsm.flushAge(); age > flushStallFactor*limit {
		return age
	}
	return 0
}
