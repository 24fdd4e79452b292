package reads

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// askTimeout bounds one question to one voter. A voter that does not answer
// holds back nobody, unless a majority does not.
const askTimeout = time.Second

// hedgeAfter is how long a round waits for the voters that it needs before it
// asks the others as well. A question to a voter that answers costs two records
// and four system calls, and most rounds need one voter of two: so the second is
// asked only when the first is late.
const hedgeAfter = 5 * time.Millisecond

// Lead is a leader's state at the start of a round.
type Lead struct {
	// Term in which this voter leads and has applied an entry of its own; 0 when
	// it does not lead.
	Term uint64
	// Leader is the node to ask instead when Term is 0. It may be empty.
	Leader string
	// Voters are the node ids of the configuration that count, this one included
	// if it does.
	Voters []string
}

// Config is what a Barrier asks of the Raft node around it. All functions are
// called concurrently.
type Config struct {
	Self string
	// Lead returns whether and in which term this voter leads now.
	Lead func() Lead
	// CommitIndex returns the highest index known to be committed.
	CommitIndex func() uint64
	// Term returns this voter's current term, which is durable before it votes in it.
	Term func() uint64
	// AskTerm asks another voter for its current term.
	AskTerm func(ctx context.Context, node string) (uint64, error)
}

// Barrier gives out read indexes while this voter leads. Its methods may be
// called concurrently.
type Barrier struct {
	cfg   Config
	group *Group[uint64]

	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu    sync.Mutex
	peers map[string]*peer
}

// New returns a Barrier. Close must be called.
func New(cfg Config) *Barrier {
	b := &Barrier{cfg: cfg, peers: map[string]*peer{}}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.group = NewGroup(b.round)
	return b
}

// Close ends all questions and blocks until everything the Barrier started has
// ended.
func (b *Barrier) Close() {
	b.cancel()
	b.group.Close()
	b.workers.Wait()
}

// ReadIndex returns an index such that a read of a state that has applied it is
// linearizable, counted from this call. It returns a *replication.NotLeaderError
// when this voter does not lead, or cannot prove it: ask again elsewhere.
func (b *Barrier) ReadIndex(ctx context.Context) (uint64, error) {
	return b.group.Do(ctx)
}

// round asks the voters once.
func (b *Barrier) round(ctx context.Context) (uint64, error) {
	lead := b.cfg.Lead()
	if lead.Term == 0 {
		return 0, &replication.NotLeaderError{Leader: lead.Leader}
	}
	index := b.cfg.CommitIndex()
	// Everything below is asked after index was taken, the configuration too: with
	// one from before, two changes in between could make a majority of it that
	// shares nobody with the one that elected a new leader.
	term := lead.Term
	if lead = b.cfg.Lead(); lead.Term != term {
		return 0, &replication.NotLeaderError{Leader: lead.Leader}
	}
	if b.cfg.Term() != lead.Term {
		return 0, &replication.NotLeaderError{}
	}
	return index, b.confirm(ctx, lead)
}

// confirm returns nil when a majority of the voters, this one included, is still
// in the term of lead.
func (b *Barrier) confirm(ctx context.Context, lead Lead) error {
	need := len(lead.Voters)/2 + 1
	var peers []*peer
	for _, node := range lead.Voters {
		if node == b.cfg.Self {
			need--
			continue
		}
		peers = append(peers, b.peer(node))
	}
	// Whoever still owes an answer stands behind.
	slices.SortStableFunc(peers, func(p, q *peer) int { return int(p.owes.Load()) - int(q.owes.Load()) })
	answers := make(chan termAnswer, len(peers))
	asked, waiting := 0, 0 // of peers; and how many of those have not answered
	ask := func(upTo int) {
		for ; asked < min(upTo, len(peers)); asked++ {
			peers[asked].ask(answers)
			waiting++
		}
	}
	ask(need)
	hedge := time.NewTimer(hedgeAfter)
	defer hedge.Stop()
	// It ends: an asker that is still busy with an older question gives up on it,
	// and then on this one, within askTimeout each.
	for need > 0 && (waiting > 0 || asked < len(peers)) {
		select {
		case a := <-answers:
			waiting--
			switch {
			case a.err != nil: // does not count
				ask(len(peers))
			case a.term > lead.Term:
				return &replication.NotLeaderError{}
			case a.term == lead.Term:
				need--
			default:
				ask(len(peers))
			}
		case <-hedge.C:
			ask(len(peers))
		case <-ctx.Done():
			return fmt.Errorf("%w: %d more of %d voters did not confirm term %d: %w",
				replication.ErrUnavailable, need, len(lead.Voters), lead.Term, context.Cause(ctx))
		}
	}
	if need > 0 {
		return fmt.Errorf("%w: %d more of %d voters did not confirm term %d",
			replication.ErrUnavailable, need, len(lead.Voters), lead.Term)
	}
	return nil
}

// termAnswer is one voter's answer to a round.
type termAnswer struct {
	term uint64
	err  error
}

// peer asks one voter, one question at a time, so that a silent voter costs one
// goroutine and not one for each round.
type peer struct {
	node string
	wake chan struct{}
	owes atomic.Int32 // 1 from a question to its answer

	mu    sync.Mutex
	round chan<- termAnswer // who asked last and was not yet sent for; nil: nobody
}

// peer returns the asker of node, and starts it if it is new.
func (b *Barrier) peer(node string) *peer {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peers[node]
	if p == nil {
		p = &peer{node: node, wake: make(chan struct{}, 1)}
		b.peers[node] = p
		// Ends with Close. One for each node that ever was in the configuration.
		b.workers.Go(func() { b.asker(p) })
	}
	return p
}

// ask has the answer to a question that is sent from now on delivered to round,
// which has room for it. A round that was not sent for yet is over: it is dropped.
func (p *peer) ask(round chan<- termAnswer) {
	p.owes.Store(1)
	p.mu.Lock()
	p.round = round
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// asker is the loop of one peer.
func (b *Barrier) asker(p *peer) {
	for {
		select {
		case <-p.wake:
		case <-b.ctx.Done():
			return
		}
		p.mu.Lock()
		round := p.round
		p.round = nil
		p.mu.Unlock()
		if round == nil {
			continue
		}
		// The question goes out after the round was taken up, and the round after
		// its index: an answer never counts for an older question.
		ctx, cancel := context.WithTimeout(b.ctx, askTimeout)
		term, err := b.cfg.AskTerm(ctx, p.node)
		cancel()
		if err == nil {
			p.owes.Store(0)
		}
		round <- termAnswer{term: term, err: err}
	}
}
