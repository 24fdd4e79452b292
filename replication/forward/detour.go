package forward

import (
	"context"
	"log/slog"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// How an agent goes on that is cut off from the leader alone.
//
// A voter that names a leader which this agent has just asked in vain is asked to
// pass the request on (Config.Relay). What it answers shows a detour, which later
// requests take at once, reads too. It ends when the leader itself is heard or has
// answered, when another leads, or when it does not work any more. Whether the
// leader can be reached again is asked every probeInterval as long as it stands.
//
// The request keeps its id whichever way it takes: an attempt that reaches the
// leader late, over the straight way, meets the receipt.

const (
	// probeInterval is how often the leader is asked by the straight way whether it
	// is there again.
	probeInterval = time.Second
	// probeTimeout bounds one such question.
	probeTimeout = time.Second
	// unreachedFor is how long one request does not try a node again that it could
	// not reach, while somebody passes on.
	unreachedFor = time.Second
	// sayInterval is how often a detour is said: a leader that speaks and decides
	// nothing has them begin and end several times a second.
	sayInterval = time.Minute
)

// Relay reaches the leader by way of another voter, once. Errors are as Remote's.
type Relay interface {
	DoVia(ctx context.Context, via string, req *replication.Request) (*replication.Answer, error)
	WatchVia(ctx context.Context, via string, session []byte, fn func(*replication.Event)) error
}

// A target is who is asked: a node, or by way of it the leader.
type target struct {
	node   string
	leader string // whom node shall pass the request on to; empty: nobody
}

// passesOn reports whether t is asked to pass the request on.
func (t target) passesOn() bool { return t.leader != "" }

// who leads if t answers as it is expected to.
func (t target) who() string {
	if t.passesOn() {
		return t.leader
	}
	return t.node
}

// A detour is the voter that passes requests on to a leader which is not reached.
type detour struct {
	via, leader string
	since       time.Time
	level       slog.Level // at which its begin and its end are said
}

// takeDetour begins a detour, unless another leader is known by now.
func (f *Forwarder) takeDetour(via, leader string, under *reign) {
	if f.cfg.Relay == nil || f.detour.Load() != nil || f.reign.Load() != under || via == f.cfg.Node {
		return
	}
	d := &detour{via: via, leader: leader, since: time.Now(), level: slog.LevelWarn}
	if last := f.saidDetour.Load(); last != nil && d.since.Sub(*last) < sayInterval {
		d.level = slog.LevelDebug
	}
	if f.detour.CompareAndSwap(nil, d) {
		f.rouse() // it has to be asked whether the leader is there again
		if d.level == slog.LevelWarn {
			f.saidDetour.Store(&d.since)
		}
		f.cfg.Logger.Log(context.Background(), d.level, "this agent does not reach the leader: another voter passes its requests on", "leader", leader, "via", via)
	}
	if f.reign.Load() != under {
		f.endDetour("another leads")
	}
}

// endDetour goes the straight way again. It reports whether there was a detour.
func (f *Forwarder) endDetour(why string) bool {
	d := f.detour.Load()
	if d == nil || !f.detour.CompareAndSwap(d, nil) {
		return false
	}
	f.cfg.Logger.Log(context.Background(), min(d.level, slog.LevelInfo), "another voter passes the requests of this agent on no more", "leader", d.leader, "via", d.via, "reason", why, "took", time.Since(d.since))
	return true
}

// Detour is the voter that passes this agent's requests on to the leader, which it
// does not reach itself; empty: it does, or nobody does.
func (f *Forwarder) Detour() (via string) {
	if d := f.detour.Load(); d != nil {
		return d.via
	}
	return ""
}

// probe asks a leader that was not reached for news, now and then: what it says
// ends the detour (hear).
func (l *listener) probe() {
	d := l.f.detour.Load()
	if d == nil || time.Since(l.probed) < probeInterval || l.probing.Swap(true) {
		return
	}
	l.probed = time.Now()
	l.f.done.Go(func() { // ends with the first news, or within probeTimeout
		defer l.probing.Store(false)
		ctx, cancel := context.WithTimeout(l.ctx, probeTimeout)
		defer cancel()
		// Its error says nothing that the detour does not.
		_ = l.f.cfg.News(ctx, d.leader, func(term uint64, leader string) {
			l.f.hear(d.leader, term, leader)
			cancel()
		})
	})
}
