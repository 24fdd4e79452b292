package forward

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

const (
	// requestTTL is the lease of the request session: receipts live as long, so
	// it must outlast every sensible deadline of a caller by far.
	requestTTL = 60 * time.Second
	// window bounds how far numbers may run ahead of the watermark. Below the
	// state machine's limit, which refuses.
	window = replication.MaxReceipts - 96
)

// numberer hands out request ids and keeps the watermark below which every
// answer has arrived. It opens a session when one is needed and lets it lapse
// when nobody asks any more, so that an idle agent costs no log entries.
type numberer struct {
	open func(ctx context.Context, session []byte) error

	opening chan struct{} // holds one element: whoever takes it may open

	mu      sync.Mutex
	cond    chan struct{} // closed and replaced when the window moves
	session *session      // nil: none open
}

// session is one request session at the quorum.
type session struct {
	id   []byte
	used atomic.Bool // since the last renewal

	// guarded by numberer.mu
	next uint64       // number to give next
	low  uint64       // every number below has its answer
	done [window]bool // by number modulo window, for low <= number < next
}

// requestID is one number of one session.
type requestID struct {
	session   []byte
	number    uint64
	doneBelow uint64
	of        *session
}

func newNumberer(open func(ctx context.Context, session []byte) error) *numberer {
	n := &numberer{open: open, opening: make(chan struct{}, 1), cond: make(chan struct{})}
	n.opening <- struct{}{}
	return n
}

// take returns a fresh id. It blocks while the window is full, and while a
// session is being opened.
func (n *numberer) take(ctx context.Context) (requestID, error) {
	for {
		n.mu.Lock()
		s := n.session
		if s == nil {
			n.mu.Unlock()
			if err := n.openOne(ctx); err != nil {
				return requestID{}, err
			}
			continue
		}
		if s.next-s.low < window {
			id := requestID{session: s.id, number: s.next, doneBelow: s.low, of: s}
			s.done[s.next%window] = false
			s.next++
			n.mu.Unlock()
			s.used.Store(true)
			return id, nil
		}
		moved := n.cond
		n.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return requestID{}, fmt.Errorf("%w (%d requests of this agent are unanswered; %w)", replication.ErrUnavailable, window, context.Cause(ctx))
		}
	}
}

// openOne opens a session unless another caller has done so meanwhile.
func (n *numberer) openOne(ctx context.Context) error {
	select {
	case <-n.opening:
		defer func() { n.opening <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", replication.ErrUnavailable, context.Cause(ctx))
	}
	n.mu.Lock()
	there := n.session != nil
	n.mu.Unlock()
	if there {
		return nil
	}
	s := &session{id: make([]byte, replication.SessionIDBytes), next: 1, low: 1}
	rand.Read(s.id)
	if err := n.open(ctx, s.id); err != nil {
		return err
	}
	n.mu.Lock()
	n.session = s
	n.mu.Unlock()
	return nil
}

// finish says that nobody waits for the answer of id any more.
func (n *numberer) finish(id requestID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := id.of
	s.done[id.number%window] = true
	from := s.low
	for s.low < s.next && s.done[s.low%window] {
		s.low++
	}
	if s.low-from > 0 && s.next-from >= window {
		close(n.cond)
		n.cond = make(chan struct{})
	}
}

// retire forgets a session that the quorum does not know any more.
func (n *numberer) retire(id []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.session != nil && string(n.session.id) == string(id) {
		n.session = nil
	}
}

// renewLoop renews the session every quarter of its lease if it was used since,
// or has unanswered requests; otherwise it retires it. It ends with ctx.
func (n *numberer) renewLoop(ctx context.Context, renew func(ctx context.Context, session []byte) error) {
	ticker := time.NewTicker(requestTTL / 4)
	defer ticker.Stop()
	idle := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		n.mu.Lock()
		s := n.session
		busy := s != nil && s.next != s.low
		n.mu.Unlock()
		if s == nil {
			continue
		}
		if s.used.Swap(false) || busy {
			idle = 0
		} else if idle++; idle > 2 {
			// Three quarters of the lease may have passed unrenewed: a request
			// sent now could meet a session that has ended.
			n.retire(s.id)
			idle = 0
			continue
		}
		if idle == 0 {
			if err := renew(ctx, s.id); err != nil {
				n.retire(s.id)
			}
		}
	}
}

// openSession opens a request session at the quorum.
func (f *Forwarder) openSession(ctx context.Context, id []byte) error {
	ans, _, err := f.send(ctx, &replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
		Id: id, Host: f.cfg.Host, Node: f.cfg.Node, TtlMs: requestTTL.Milliseconds(),
	}}})
	if err == nil {
		err = ans.Refused()
	}
	if err != nil && !isStopped(err) {
		// Whatever became of the session: nothing of the caller's was sent.
		return fmt.Errorf("%w (opening a request session: %v)", replication.ErrUnavailable, err)
	}
	return err
}

// renewSession renews a request session; an error means that it is gone.
func (f *Forwarder) renewSession(ctx context.Context, id []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTTL/4)
	defer cancel()
	ans, _, err := f.send(ctx, &replication.Request{Op: &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{Id: id}}})
	if err != nil {
		f.cfg.Logger.Debug("request session not renewed", "node", f.cfg.Node, "error", err)
		return nil // perhaps it lives; the quorum will say so
	}
	return ans.Refused()
}
