package forward

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// How an agent learns who leads.
//
// Voters push it: an agent follows the voter of its own process or, without one
// that takes part, the leader and one other voter (Config.News). When the leader's
// host vanishes without a word the other tells who was elected, the moment it
// knows, and whatever waits for the old leader is sent to the new one under its
// own id. The connection to that other voter is warm by then.
//
// When nothing that was asked of other agents has been answered for inquireAfter,
// all voters are asked: both of those that are followed may be gone. Nobody's
// connection is closed on a suspicion. A host that is only slow costs a question
// twice a second, and answers when it can.
//
// What is pushed carries a term, and never replaces news of a later one. An
// answer to a change proves who leads as well, unless there were news between
// the question and the answer.

const (
	// listenTick is how often it is looked whether anybody has to be asked, or
	// followed. A voter that follows itself and asks nobody does not look.
	listenTick = 250 * time.Millisecond
	// inquireAfter is how long other agents may be silent about everything that
	// was asked of them, until all voters are asked who leads. Elections take
	// longer, answers of a leader that is well hardly ever do.
	inquireAfter = 500 * time.Millisecond
	// inquireTimeout bounds one such question.
	inquireTimeout = 500 * time.Millisecond
	// newsRetry is how long a voter whose news broke off is not followed again.
	newsRetry = time.Second
)

// A reign is who leads, as far as this agent knows. It ends when somebody else is
// known to lead, or the same one in another term.
type reign struct {
	term uint64      // 0: unknown. Of a leader that was found by asking: that of the one before
	node string      // empty: nobody is known
	sure atomic.Bool // node has said so itself, or answered a change
	over context.Context
	end  context.CancelFunc
}

func newReign(term uint64, node string, sure bool) *reign {
	r := &reign{term: term, node: node}
	r.sure.Store(sure)
	r.over, r.end = context.WithCancel(context.Background())
	return r
}

// hear takes in that leader leads in term, as from says.
func (f *Forwarder) hear(from string, term uint64, leader string) {
	if leader == "" {
		return
	}
	if d := f.detour.Load(); d != nil && from == d.leader {
		f.endDetour("the leader is reached")
	}
	for {
		now := f.reign.Load()
		switch {
		case term < now.term:
			return
		case term == now.term && leader == now.node:
			if from == leader {
				now.sure.Store(true)
			}
			f.leader.CompareAndSwap(nil, &leader) // it was doubted
			return
		case term == now.term && now.node != "" && (now.sure.Load() || from != leader):
			return // see voter.whoLeads: who leads knows it best
		}
		next := newReign(term, leader, from == leader)
		if f.reign.CompareAndSwap(now, next) {
			f.begins(now, leader)
			f.cfg.Logger.Debug("another voter leads", "node", leader, "term", term, "from", from)
			return
		}
		next.end()
	}
}

// learn takes in that node, asked during under, has had a change decided: only the
// leader can.
func (f *Forwarder) learn(node string, under *reign) {
	if under.node == node {
		if !under.sure.Load() {
			under.sure.Store(true)
		}
		if f.reign.Load() == under && f.Leader() != node {
			leader := node // only here: what is pointed to is allocated
			f.leader.Store(&leader)
		}
		return
	}
	next := newReign(under.term, node, true)
	if !f.reign.CompareAndSwap(under, next) {
		next.end() // what was heard meanwhile may be newer
		return
	}
	f.begins(under, node)
}

// begins has everybody follow node, who leads after before has ended.
func (f *Forwarder) begins(before *reign, node string) {
	f.leader.Store(&node)
	if p := f.silent.Load(); p != nil && p.node == node {
		f.silent.CompareAndSwap(p, nil)
	}
	if d := f.detour.Load(); d != nil && d.leader != node {
		f.endDetour("another leads")
	}
	before.end()
}

// deposed calls leave once another node than this one is known to lead, unless ctx
// has ended or stop was called before.
func (f *Forwarder) deposed(ctx context.Context, node string, leave context.CancelFunc) (stop func() bool) {
	return context.AfterFunc(f.reign.Load().over, func() {
		for {
			now := f.reign.Load()
			if now.node != node {
				leave()
				return
			}
			select {
			case <-now.over.Done():
			case <-ctx.Done():
				return
			}
		}
	})
}

// listener keeps news coming. It belongs to one goroutine.
type listener struct {
	f       *Forwarder
	ctx     context.Context
	lines   map[string]*line     // by node that is followed
	retryAt map[string]time.Time // by node whose news broke off
	broken  chan string          // node whose news broke off

	ended  uint64 // of attempts, when looked at last
	quiet  time.Duration
	asking atomic.Bool // a round of questions is under way

	probed  time.Time   // when a leader that is not reached was last asked for news
	probing atomic.Bool // it is being asked
}

// line is the news of one voter.
type line struct {
	hangUp context.CancelFunc
	told   atomic.Bool // something has come
}

// listen follows voters until ctx ends. What it starts belongs to f.done.
func (f *Forwarder) listen(ctx context.Context) {
	l := &listener{f: f, ctx: ctx, lines: make(map[string]*line), retryAt: make(map[string]time.Time), broken: make(chan string)}
	tick := time.NewTicker(listenTick)
	defer tick.Stop()
	for {
		now := f.reign.Load()
		l.choose(now.node)
		select {
		case <-ctx.Done():
			return
		case node := <-l.broken:
			delete(l.lines, node)
			l.retryAt[node] = time.Now().Add(newsRetry)
			f.rouse()
		case <-now.over.Done():
		case <-f.roused:
			tick.Reset(listenTick)
		case <-tick.C:
			calm := f.ended.Load() == l.ended
			l.inquire()
			l.probe()
			if calm && l.rests() {
				tick.Stop() // and goes again with f.roused
			}
		}
	}
}

// rests reports whether nothing can become of a look until somebody calls rouse,
// which then has the clock go again.
func (l *listener) rests() bool {
	if own := l.lines[l.f.cfg.Node]; len(l.lines) != 1 || own == nil || !own.told.Load() {
		return false
	}
	l.f.resting.Store(true)
	// Who asks or takes a detour after this look finds that it rests.
	if l.f.open.Load() == 0 && l.f.detour.Load() == nil {
		return true
	}
	l.f.resting.Store(false)
	return false
}

// rouse has who listens look again, from listenTick from now on, if it rests. It is
// called after what there is to look at has begun.
func (f *Forwarder) rouse() {
	if f.resting.Load() && f.resting.CompareAndSwap(true, false) {
		select {
		case f.roused <- struct{}{}:
		default: // of before: it has not been taken yet
		}
	}
}

// choose follows who is to be followed while leader leads, and nobody else.
func (l *listener) choose(leader string) {
	own := l.f.cfg.Node
	if l.f.cfg.Local != nil {
		l.follow(own)
	}
	var wanted []string
	if n := l.lines[own]; n == nil || !n.told.Load() {
		wanted = l.two(leader)
	}
	for node, n := range l.lines {
		if node != own && !slices.Contains(wanted, node) {
			n.hangUp() // and is broken by that
		}
	}
	for _, node := range wanted {
		l.follow(node)
	}
}

// two are the leader and another voter, preferably the one that is followed; or
// two voters, while no leader is known.
func (l *listener) two(leader string) []string {
	voters := slices.DeleteFunc(slices.Clone(l.f.cfg.Voters()), func(node string) bool {
		return node == l.f.cfg.Node || l.lines[node] == nil && time.Now().Before(l.retryAt[node])
	})
	rand.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
	rank := func(node string) int {
		switch {
		case node == leader:
			return 0
		case l.lines[node] != nil:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(voters, func(a, b string) int { return rank(a) - rank(b) })
	return voters[:min(2, len(voters))]
}

// follow begins to follow node, unless it is followed or its news broke off lately.
func (l *listener) follow(node string) {
	if l.lines[node] != nil || time.Now().Before(l.retryAt[node]) {
		return
	}
	ctx, hangUp := context.WithCancel(l.ctx)
	n := &line{hangUp: hangUp}
	l.lines[node] = n
	l.f.done.Go(func() { // ends with its news, or with l.ctx
		defer hangUp()
		err := l.f.cfg.News(ctx, node, func(term uint64, leader string) {
			n.told.Store(true)
			l.f.hear(node, term, leader)
		})
		l.f.cfg.Logger.Debug("a voter is followed no more", "node", node, "error", err)
		select {
		case l.broken <- node:
		case <-l.ctx.Done():
		}
	})
}

// inquire asks all voters who leads, when nothing that others were asked was
// answered for some time.
func (l *listener) inquire() {
	ended := l.f.ended.Load()
	if l.f.open.Load() == 0 || ended != l.ended {
		l.ended, l.quiet = ended, 0
		return
	}
	l.quiet += listenTick
	if l.quiet < inquireAfter || l.asking.Swap(true) {
		return
	}
	l.f.done.Go(func() { // ends within inquireTimeout
		defer l.asking.Store(false)
		ctx, cancel := context.WithTimeout(l.ctx, inquireTimeout)
		defer cancel()
		l.f.askAround(ctx)
	})
}

// askAround has every other voter say once who leads, or ctx end.
func (f *Forwarder) askAround(ctx context.Context) {
	heard := make(chan struct{})
	asked := 0
	for _, node := range f.cfg.Voters() {
		if node == f.cfg.Node {
			continue
		}
		asked++
		f.done.Go(func() { // ends with its first news, or with ctx
			defer func() { heard <- struct{}{} }()
			once, enough := context.WithCancel(ctx)
			defer enough()
			// Its error says nothing that others do not.
			_ = f.cfg.News(once, node, func(term uint64, leader string) {
				f.hear(node, term, leader)
				enough()
			})
		})
	}
	for range asked {
		<-heard
	}
}
