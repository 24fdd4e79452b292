package holds

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

// Limits and times, in one table.
const (
	// maxSessions is how many distinct TTLs an agent keeps; each costs the
	// quorum a log entry every TTL/4.
	maxSessions = 8
	// maxTTL is what the local socket accepts.
	maxTTL = 24 * time.Hour
	// defaultMaxHolds bounds holds and waiters together.
	defaultMaxHolds = 65536
	// defaultAckTimeout is how long a grant waits to be acknowledged.
	defaultAckTimeout = 5 * time.Second
	// defaultAskTimeout is how long somebody who does not want to queue waits
	// for a quorum.
	defaultAskTimeout = 10 * time.Second
	// idleClose is how long a session without holds is kept for the next one.
	idleClose = time.Minute
)

// Config is what Holds needs. Fields without "optional" are required.
type Config struct {
	Coordinator replication.Coordinator
	Node        string // id of this agent
	Host        string // host name, for people

	// LeaseNow is lease time (integrations/boottime.Now), Boottime CLOCK_BOOTTIME.
	// Both are called often, concurrently, and never go back.
	LeaseNow func() time.Duration
	Boottime func() time.Duration
	BootID   string

	Logger     *slog.Logger
	Registerer prometheus.Registerer // optional: no metrics
	AckTimeout time.Duration         // optional: 5 s
	AskTimeout time.Duration         // optional: 10 s
	MaxHolds   int                   // optional: 65,536
	MaxPidfds  int                   // optional: half of what the process may open

	// Adopt, optional, is told of each session that New takes up from the table, with
	// everything that may hang from it, before its first renewal: by a Coordinator
	// whose sessions end with this process. It must not block.
	Adopt func(id []byte, ttl time.Duration, holds []*replication.SessionHold)

	// TablePath is the file that lets this agent's successor take its holds up
	// again (table.go). Optional: without one, holds end with the agent.
	TablePath string
	// Pidfds, optional, keeps pidfds over a restart of this process.
	Pidfds PidfdKeeper
}

// PidfdKeeper keeps pidfds while no agent runs, as systemd's fd store does. It is
// of use for processes that this agent cannot find again by their pid, since they
// live in another pid namespace.
type PidfdKeeper interface {
	// Keep has the pidfds of a hold kept. It does not block and keeps what it
	// can; the files stay the caller's.
	Keep(hold string, pidfds []*os.File)
	// Forget has them closed. It does not block.
	Forget(hold string)
	// Take returns what was kept for a hold, in the order given to Keep, once; nil
	// when there is nothing. The files are the caller's.
	Take(hold string) []*os.File
}

// Holds implements localapi.Holder. Its methods may be called concurrently.
type Holds struct {
	cfg     Config
	metrics *metrics
	ctx     context.Context // ends every goroutine below; cancelled by Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup // every goroutine that was started here

	// mu guards everything below, and all fields of sessions, holds and handles
	// that do not say otherwise. It is never held while the coordinator, a
	// channel or the kernel is waited for. One mutex for all: sections are a few
	// hundred nanoseconds, and a hold has a log entry to wait for anyway.
	mu       sync.Mutex
	closing  bool
	glanced  glance // the last look at the clocks
	byID     map[string]*hold
	sessions map[time.Duration]*session
	usage    map[int64]usage // by uid
	reaper   *reaper         // nil until the first process hold
	drained  chan struct{}   // non-nil while Close waits, see maybeDrained

	table *table // nil without Config.TablePath
	// ended are holds of the agent before this one that ended before their
	// connection came back: it is told once.
	ended map[string]*hold
	// strayAfter is the lease time before which nothing unknown is released in a
	// session that was taken up with a damaged table.
	strayAfter time.Duration
	space      string // namespaces()
	place      string // placeOf the table's directory
}

var (
	_ localapi.Holder = (*Holds)(nil)
	_ localapi.Hold   = (*handle)(nil)
)

// New returns Holds, with those of the agent that had the same table before: see
// resume.go. Otherwise it starts nothing before the first Open. The error may be
// a *NewerTableError.
func New(cfg Config) (*Holds, error) {
	if cfg.Coordinator == nil || cfg.LeaseNow == nil || cfg.Boottime == nil || cfg.Logger == nil {
		return nil, errors.New("holds need a coordinator, two clocks and a logger")
	}
	if cfg.AckTimeout == 0 {
		cfg.AckTimeout = defaultAckTimeout
	}
	if cfg.AskTimeout == 0 {
		cfg.AskTimeout = defaultAskTimeout
	}
	if cfg.MaxHolds == 0 {
		cfg.MaxHolds = defaultMaxHolds
	}
	if cfg.MaxPidfds == 0 {
		var err error
		if cfg.MaxPidfds, err = halfOfFiles(); err != nil {
			return nil, err
		}
	}
	h := &Holds{cfg: cfg, byID: map[string]*hold{}, sessions: map[time.Duration]*session{}, usage: map[int64]usage{},
		ended: map[string]*hold{}, space: namespaces()}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	m, err := newMetrics(h, cfg.Registerer)
	if err != nil {
		return nil, err
	}
	h.metrics = m
	if cfg.TablePath != "" {
		if err := h.resume(); err != nil {
			m.unregister()
			h.cancel()
			return nil, err
		}
	}
	return h, nil
}

// Open implements localapi.Holder. It owns req.Pidfds from the call on. Errors
// are *replication.RefusedError (bad input, or a limit) and
// replication.ErrStopped. ctx is not used: nothing is waited for.
func (h *Holds) Open(_ context.Context, req localapi.HoldRequest) (localapi.Hold, error) {
	hd, err := h.open(req)
	if err != nil {
		closeAll(req.Pidfds)
		return nil, err
	}
	return hd, nil
}

func (h *Holds) open(req localapi.HoldRequest) (*handle, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	id, err := newHoldID()
	if err != nil {
		return nil, err
	}
	pidfds, group := splitGroup(req.Pidfds)
	processes := make([]process, len(pidfds))
	for i, f := range pidfds {
		processes[i] = processOf(f)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return nil, replication.ErrStopped
	}
	if err := h.checkLimits(req); err != nil {
		return nil, err
	}
	s, err := h.sessionFor(req.TTL, req.Grace)
	if err != nil {
		return nil, err
	}
	o := newHold(h, id, req)
	o.processes, o.group = processes, group.id()
	if req.Witness == localapi.WitnessProcess {
		if err := h.watchWitnesses(o, pidfds, group); err != nil {
			return nil, err
		}
		if h.cfg.Pidfds != nil {
			h.cfg.Pidfds.Keep(id, req.Pidfds)
		}
	}
	h.byID[id] = o
	h.charge(o)
	o.limitWait(req.Wait)
	s.add(o)
	o.handle = &handle{o: o}
	return o.handle, nil
}

// Attach implements localapi.Holder. A connection that is still attached to a
// process hold is cut off: its Next fails. A hold with a connection as witness can
// be taken up only after a restart of the agent. The error is a
// *replication.RefusedError with CODE_NOT_FOUND, or replication.ErrStopped.
func (h *Holds) Attach(_ context.Context, id string, pidfds []*os.File) (localapi.Hold, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		closeAll(pidfds)
		return nil, replication.ErrStopped
	}
	o := h.byID[id]
	if o == nil {
		o = h.ended[id]
		delete(h.ended, id)
	}
	if o == nil || o.witness != localapi.WitnessProcess && !o.orphan {
		closeAll(pidfds)
		return nil, refuse(replication.Code_CODE_NOT_FOUND, "this agent keeps no hold %s that could be taken up; it ended, or the agent was restarted", id)
	}
	o.takenUp(pidfds)
	o.handle = &handle{o: o}
	o.wake() // the one before finds out
	return o.handle, nil
}

// Close stops keeping holds. With a lease table, what the next agent can take up
// stays as it is: process holds, places in line, and the holds of clients that
// come back. The others are given up: holders with a connection as witness are
// told that their hold is lost, and it is released once they have disconnected.
// Without a table places in line are given up, and process holds are left to
// their lease: their guards stop the processes before it ends. Close waits for
// the releases until ctx ends, then for every goroutine; what was not confirmed
// by then ends with its lease.
func (h *Holds) Close(ctx context.Context) error {
	h.mu.Lock()
	if h.closing {
		h.mu.Unlock()
		h.wg.Wait()
		return nil
	}
	h.closing = true
	h.drained = make(chan struct{})
	for _, o := range h.byID {
		o.agentStops()
	}
	drained := h.drained
	h.maybeDrained()
	h.mu.Unlock()

	select {
	case <-drained:
	case <-ctx.Done():
	}
	h.closeSessions(ctx)
	h.mu.Lock()
	h.cancel() // under mu: timers look at it before they start a goroutine
	left, r := len(h.byID), h.reaper
	h.mu.Unlock()
	if r != nil {
		r.close()
	}
	h.wg.Wait()
	if h.table != nil {
		h.table.close()
	}
	h.metrics.unregister()
	if left > 0 {
		h.cfg.Logger.Info("holds are left to their lease, or to the next agent", "holds", left)
	}
	return nil
}

// maybeDrained wakes Close when only those are left that outlive it. mu is held.
func (h *Holds) maybeDrained() {
	if h.drained == nil {
		return
	}
	for _, o := range h.byID {
		if o.intent == unlock || !o.outlives() {
			return
		}
	}
	close(h.drained)
	h.drained = nil
}

// closeSessions ends the sessions that hold nothing. The others run out by
// themselves. mu is not held.
func (h *Holds) closeSessions(ctx context.Context) {
	h.mu.Lock()
	var empty []*session
	for _, s := range h.sessions {
		if len(s.holds) == 0 && s.opened {
			empty = append(empty, s)
		}
		s.cancel()
	}
	h.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range empty {
		wg.Go(func() { s.sayGoodbye(ctx) })
	}
	wg.Wait()
}

// newHoldID is 128 random bits: chosen before the request, so that an unknown
// outcome can be asked about, and never used twice.
func newHoldID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // a pidfd has nothing to lose
	}
}
