package holds

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

const (
	// overdueAfter is when an unanswered renewal puts holds at risk, and another
	// attempt is started beside it.
	overdueAfter = time.Second
	// maxAttempts bounds the attempts in flight; the oldest is given up for a
	// new one, since it would move the deadline least.
	maxAttempts = 4
	// retryPause is between a failed attempt and the next.
	retryPause = 200 * time.Millisecond
	// maxNap bounds how long a session sleeps. Go's timers stand still while the
	// host is suspended and lease time does not, so a session looks at lease
	// time at least this often (HAZARDS.md 8).
	maxNap = time.Second
)

// session is the quorum's lease for all holds with one TTL. Its id is chosen
// here, so that opening it twice is opening it once. All fields but the first
// four are guarded by Holds.mu.
type session struct {
	h      *Holds
	id     []byte // 16 random bytes
	ttl    time.Duration
	kicked chan struct{} // capacity 1: run has something to do before its timer
	ctx    context.Context
	cancel context.CancelFunc

	opened    bool
	openedCh  chan struct{} // closed when opened
	openIndex uint64        // of the first answer to SessionOpen
	over      bool          // lost or retired: nothing is added, news is ignored
	resumed   bool          // opened by the agent before this one: only renewed

	// leaseEnd is s + TTL of the acknowledged attempt with the newest s, in lease
	// time. It never goes back.
	leaseEnd time.Duration
	renewals uint64        // how often leaseEnd moved
	atRisk   bool          // the newest attempt failed or is overdue
	changed  chan struct{} // closed and replaced when one of these three changes

	attempts  []*attempt    // in flight, oldest first
	lastTried uint64        // number of the newest attempt
	dueAt     time.Duration // lease time of the next attempt when none is in flight

	holds     map[string]*hold // everything that is not gone, by id
	count     uint32           // of those that the quorum knows
	hash      uint64           // XOR of HoldHash over those
	expireAt  time.Duration    // lease time at which a deadline may have passed; see expire
	idleSince time.Duration    // lease time since when holds is empty
	strays    map[string]bool  // owners being released that nobody here knows
}

// attempt is one renewal in flight. Attempts overlap safely: each carries its
// own s, and an acknowledgement counts from that s and no other (HAZARDS.md 2).
type attempt struct {
	number uint64
	s      time.Duration // lease time before the first byte was sent
	heard  time.Duration // lease time when a part of the answer came, or s
	cancel context.CancelFunc
}

// newSession makes a session and starts its goroutine. mu is held.
func (h *Holds) newSession(ttl, pause time.Duration) *session {
	s := &session{
		h: h, ttl: ttl, id: make([]byte, replication.SessionIDBytes),
		kicked: make(chan struct{}, 1), openedCh: make(chan struct{}), changed: make(chan struct{}),
		holds: map[string]*hold{}, strays: map[string]bool{},
		dueAt: h.cfg.LeaseNow() + pause, idleSince: h.cfg.LeaseNow(),
	}
	_, _ = rand.Read(s.id) // never fails: crypto/rand ends the process instead
	s.ctx, s.cancel = context.WithCancel(h.ctx)
	h.sessions[ttl] = s
	h.wg.Go(s.run)
	return s
}

// add puts a hold under the session and starts to ask for its lock. mu is held.
func (s *session) add(o *hold) {
	s.holds[o.id] = o
	o.s = s
	s.expireAt = min(s.expireAt, s.leaseEnd-o.margin())
	o.ask()
}

// run renews the session, looks at deadlines, and retires the session when it
// was idle for long. It ends when the session is over or Holds is closed.
func (s *session) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.kicked:
		case <-timer.C:
		}
		nap, over := s.step()
		if over {
			return
		}
		timer.Reset(nap)
	}
}

// step does what is due and says how long there is nothing more to do.
func (s *session) step() (nap time.Duration, over bool) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.over {
		return 0, true
	}
	now := s.h.cfg.LeaseNow()
	if len(s.holds) == 0 && now-s.idleSince >= idleClose {
		s.retire()
		return 0, true
	}
	s.expire(now)
	if n := len(s.attempts); n > 0 {
		overdue := min(overdueAfter, interval(s.ttl))
		if now-s.attempts[n-1].heard >= overdue {
			s.setAtRisk()
			s.try(now)
		}
		nap = s.attempts[len(s.attempts)-1].heard + overdue - now
	} else {
		if now >= s.dueAt {
			s.try(now)
		}
		nap = s.dueAt - now
	}
	if s.expireAt > now {
		nap = min(nap, s.expireAt-now)
	}
	return max(min(nap, maxNap), time.Millisecond), false
}

// kick makes run look again. It never blocks.
func (s *session) kick() {
	select {
	case s.kicked <- struct{}{}:
	default:
	}
}

// hurry asks for a renewal now unless one is under way. mu is held.
func (s *session) hurry() {
	if now := s.h.cfg.LeaseNow(); s.dueAt > now {
		s.dueAt = now
	}
	s.kick()
}

// try starts one attempt: SessionOpen until that was acknowledged, SessionRenew
// from then on. mu is held.
func (s *session) try(now time.Duration) {
	if len(s.attempts) >= maxAttempts {
		s.attempts[0].cancel() // it removes itself
		s.attempts = s.attempts[1:]
	}
	s.lastTried++
	a := &attempt{number: s.lastTried, s: now, heard: now}
	// After a TTL its answer could not move the deadline.
	ctx, cancel := context.WithTimeout(s.ctx, s.ttl)
	a.cancel = cancel
	s.attempts = append(s.attempts, a)
	s.dueAt = now + retryPause
	req := &replication.Request{}
	if s.opened || s.resumed {
		req.Op = &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{
			Id: s.id, Attempt: a.number, CheckHolds: true, HoldCount: s.count, HoldHash: s.hash, ListApart: true}}
	} else {
		req.Op = &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
			Id: s.id, Host: s.h.cfg.Host, Node: s.h.cfg.Node, TtlMs: s.ttl.Milliseconds()}}
	}
	s.h.wg.Go(func() {
		defer cancel()
		// a.s was read before this line, and Do may send the request again
		// without touching it: the first s counts (HAZARDS.md 2).
		ans, err := s.h.cfg.Coordinator.Do(ctx, req)
		var list []page
		if err == nil && ans.GetSession().GetHoldsDiffer() {
			list, err = s.pages(ctx, func() { s.hear(a) })
		}
		s.answered(a, ans, list, err)
	})
}

// hear takes note that an attempt makes progress.
func (s *session) hear(a *attempt) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	a.heard = s.h.cfg.LeaseNow()
}

// answered takes the outcome of one attempt, and the quorum's list of holds if that
// was read since.
func (s *session) answered(a *attempt, ans *replication.Answer, list []page, err error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	inFlight := s.forget(a)
	if s.over {
		return
	}
	defer s.kick()
	now := s.h.cfg.LeaseNow()
	switch {
	case err != nil:
		// One that was given up for a newer one says nothing.
		if inFlight && s.ctx.Err() == nil {
			s.failed(now, err.Error())
		}
	case ans.GetCode() == replication.Code_CODE_OK:
		s.h.metrics.renewed(now - a.s)
		s.acknowledged(a, now, ans, list)
	case ans.GetCode() == replication.Code_CODE_SESSION_LOST:
		s.lose(reasonSessionEnded)
	default:
		s.failed(now, ans.Refused().Error())
		if !s.opened && !s.resumed {
			s.refuseAll(ans)
		}
	}
}

// forget takes an attempt off the list, and says whether it was on it. mu is held.
func (s *session) forget(a *attempt) bool {
	i := slices.Index(s.attempts, a)
	if i < 0 {
		return false
	}
	s.attempts = slices.Delete(s.attempts, i, i+1)
	return true
}

// failed notes an attempt that was not acknowledged. mu is held.
func (s *session) failed(now time.Duration, why string) {
	s.h.metrics.renewalFailed()
	s.h.cfg.Logger.Debug("renewal failed", "ttl", s.ttl, "error", why)
	s.setAtRisk()
	s.dueAt = now + retryPause
}

// acknowledged moves the deadline, forward only. list is what was read apart from the
// answer, nil when there was no need. mu is held.
func (s *session) acknowledged(a *attempt, now time.Duration, ans *replication.Answer, list []page) {
	got := ans.GetSession()
	if (s.opened || s.resumed) && got.GetAttempt() != 0 && got.GetAttempt() != a.number {
		// An answer to another attempt would acknowledge with the wrong s.
		s.failed(now, "the answer is to another attempt")
		return
	}
	first := !s.opened
	if first {
		s.opened, s.openIndex = true, ans.GetIndex()
		close(s.openedCh)
		s.h.wg.Go(s.watch)
	}
	if end := a.s + s.ttl; end > s.leaseEnd {
		s.leaseEnd = end
		s.renewals++
		s.atRisk = false
		s.dueAt = a.s + interval(s.ttl)
		s.expireAt = s.leaseEnd - s.widestMargin()
		s.broadcast()
	}
	s.attempts = slices.DeleteFunc(s.attempts, func(older *attempt) bool {
		if older.s < a.s {
			older.cancel() // its answer could move nothing
		}
		return older.s < a.s
	})
	if list == nil && (got.GetHoldsListed() || first && s.resumed) {
		// Without a list, and no difference: the quorum has nothing of it.
		list = []page{{got.GetHolds(), ans.GetIndex()}}
	}
	switch {
	case first && s.resumed:
		s.takeUp(list)
	case list != nil:
		s.reconcile(list)
	}
}

// setAtRisk tells the holders that the quorum is silent. mu is held.
func (s *session) setAtRisk() {
	if s.opened && !s.atRisk {
		s.atRisk = true
		s.broadcast()
	}
}

// broadcast wakes those who listen to holds of this session, and nobody else:
// a renewal of 1,000 holds that nobody listens to costs nothing. mu is held.
func (s *session) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// widestMargin is the largest margin of any hold. mu is held.
func (s *session) widestMargin() time.Duration {
	var widest time.Duration
	for _, o := range s.holds {
		widest = max(widest, o.margin())
	}
	return widest
}

// expire ends the story of every hold whose deadline has passed, although the
// quorum is silent: the holder must stop. The quorum may go on keeping it; it
// is given back when its witness says so, or after the margin. mu is held.
func (s *session) expire(now time.Duration) {
	if now < s.expireAt || !s.opened {
		return
	}
	next := s.leaseEnd
	for _, o := range s.holds {
		if !o.runs() {
			continue
		}
		if d := o.stopAt(); now >= d {
			o.deadlinePassed()
		} else {
			next = min(next, d)
		}
	}
	s.expireAt = next
	if next <= now {
		s.expireAt = now + maxNap
	}
}

// lose ends the session: the quorum says that it has ended it. Who held has
// lost; who stood in line starts again in a new session. mu is held.
func (s *session) lose(reason string) {
	if s.over {
		return
	}
	s.stop()
	s.h.cfg.Logger.Warn("session lost", "ttl", s.ttl, "holds", len(s.holds), "error", reason)
	for _, o := range s.holds {
		if o.state == granted || o.intent != keep || o.restored || s.h.closing {
			o.gone(reason)
			continue
		}
		next := s.h.sessions[s.ttl]
		if next == nil {
			next = s.h.newSession(s.ttl, retryPause)
		}
		o.startOver()
		next.add(o)
	}
	s.holds = nil
}

// refuseAll ends everything that waits for a session which the quorum refuses
// to open. mu is held.
func (s *session) refuseAll(ans *replication.Answer) {
	s.stop()
	for _, o := range s.holds {
		o.endStory(false, ans.Refused().Error())
		o.gone("")
	}
	s.holds = nil
}

// stop takes the session out of use. mu is held.
func (s *session) stop() {
	s.over = true
	s.cancel()
	if s.h.sessions[s.ttl] == s {
		delete(s.h.sessions, s.ttl)
	}
	s.broadcast()
}

// retire closes a session that has no holds. mu is held.
func (s *session) retire() {
	opened := s.opened
	s.stop()
	if opened {
		s.h.wg.Go(func() { s.sayGoodbye(s.h.ctx) })
	}
}

// sayGoodbye tells the quorum that the session is not needed any more. Nothing
// hangs on it: otherwise it ends by its lease. mu is not held.
func (s *session) sayGoodbye(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.ttl)
	defer cancel()
	_, err := s.h.cfg.Coordinator.Do(ctx, &replication.Request{Op: &replication.Request_SessionClose{
		SessionClose: &replication.SessionClose{Id: s.id}}})
	if err != nil {
		s.h.cfg.Logger.Debug("session is left to its lease", "ttl", s.ttl, "error", err)
	}
}
