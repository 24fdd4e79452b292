package holds

import (
	"context"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// How news from the quorum is ordered.
//
// Answers and events come over different ways and may overtake each other. An
// owner id is chosen at random and asks for a lock once in its session, so at
// the quorum it only moves forward: unknown → queued → granted → gone. Every
// piece of news that names an owner can therefore be taken in any order and
// more than once: a hold moves forward to it, or is further already.
//
// Absence from a list is the one piece of news that needs an index. A list as
// of index L proves a hold gone when the quorum is known to have known it at an
// index below L (hold.knownAt). Not at L itself: a renewal and a LockWait may
// share an entry, and the list was taken between the two. A hold whose request
// is still in flight has no such index and is left alone: its own answer will
// come. So is one that was answered above L: the list is older than it. What is
// left alone wrongly makes the next renewal's hash differ.
//
// The list that begins a watch is as of one index. When a renewal finds that the two
// differ, the list is read apart, in pages, each as of an index of its own (see
// lowest), and the renewal counts for nothing before: a holder whose lock is gone
// must not be told a later deadline. At older voters the list is in its answer.
//
// An owner that is in a list but unknown here is given back: ids are never used
// twice, so it is the rest of a request whose outcome was unknown.

const (
	// minWatchPause and maxWatchPause bound the wait before a broken watch is
	// taken up again. A grant that happens meanwhile is in the list that starts
	// the new one.
	minWatchPause = 20 * time.Millisecond
	maxWatchPause = time.Second
	// maxStrays bounds the releases of unknown owners in flight; the next list
	// names the rest again.
	maxStrays = 64
	// holdsPerPage is how many holds are asked for at once when the quorum's list
	// differs from what is known here.
	holdsPerPage = 5_000
)

// watch listens until the session is over.
func (s *session) watch() {
	pause := minWatchPause
	for {
		began := s.h.cfg.LeaseNow()
		err := s.h.cfg.Coordinator.Watch(s.ctx, s.id, s.event)
		if s.ctx.Err() != nil {
			return
		}
		s.h.cfg.Logger.Debug("watch broke", "ttl", s.ttl, "error", err)
		if s.h.cfg.LeaseNow()-began > maxWatchPause {
			pause = minWatchPause
		}
		if !sleep(s.ctx, pause) {
			return
		}
		pause = min(2*pause, maxWatchPause)
	}
}

// event takes one event of the watch.
func (s *session) event(e *replication.Event) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.over {
		return
	}
	switch e.GetKind() {
	case replication.Event_KIND_LISTED:
		s.reconcile([]page{{e.GetHolds(), e.GetIndex()}})
	case replication.Event_KIND_GRANTED, replication.Event_KIND_POSITION:
		s.learn(e.GetHold(), e.GetIndex())
	case replication.Event_KIND_LOST:
		if o := s.holds[string(e.GetHold().GetOwner())]; o != nil {
			o.gone(e.GetReason())
		}
	case replication.Event_KIND_SESSION_ENDED:
		// A voter that lags may not have seen this session open yet.
		if e.GetIndex() >= s.openIndex {
			s.lose(reasonSessionEnded)
		}
	default:
		// A newer voter may know more kinds; what they mean reaches this agent
		// by the next list.
	}
}

// page is a part of the quorum's list, as of an index.
type page struct {
	holds []*replication.SessionHold
	index uint64
}

// lowest is the index as of which what is in no page proves nothing that is younger:
// what has come since may be missing from a page that was read before it came, and
// what was there then, and is missing, was gone when its page was read.
func lowest(list []page) uint64 {
	index := list[0].index
	for _, p := range list {
		index = min(index, p.index)
	}
	return index
}

// pages reads all that the quorum has of the session. heard is called for each page.
// mu is not held.
func (s *session) pages(ctx context.Context, heard func()) (list []page, err error) {
	var after *replication.SessionHold
	for {
		ans, err := s.h.send(ctx, &replication.Request{Op: &replication.Request_SessionGet{
			SessionGet: &replication.SessionGet{Id: s.id, Limit: holdsPerPage, After: after}}})
		if err == nil {
			err = ans.Refused()
		}
		if err != nil {
			return nil, fmt.Errorf("page %d of the list of holds: %w", len(list)+1, err)
		}
		heard()
		holds := ans.GetSession().GetHolds()
		list = append(list, page{holds, ans.GetIndex()})
		if !ans.GetSession().GetMore() {
			return list, nil
		}
		if len(holds) == 0 {
			return nil, fmt.Errorf("page %d of the list of holds is empty and not the last", len(list))
		}
		last := holds[len(holds)-1]
		after = &replication.SessionHold{Owner: last.GetOwner(), Name: last.GetName(), Durability: last.GetDurability()}
	}
}

// reconcile makes what is known here what the quorum has in its list. mu is held.
func (s *session) reconcile(list []page) {
	listed := make(map[string]bool)
	for _, p := range list {
		for _, sh := range p.holds {
			listed[string(sh.GetOwner())] = true
			s.learn(sh, p.index)
		}
	}
	index := lowest(list)
	for id, o := range s.holds {
		// A detach takes a hold off the list as well; its answer will say so.
		switch {
		case listed[id] || !o.known || o.knownAt >= index || o.intent == detach:
		case o.intent == keep && !o.told:
			// A place in line went, perhaps with the session: nobody runs under
			// it, so it is asked for again, and the answer tells.
			o.startOver()
			o.ask()
		default:
			o.gone(reasonNotThere)
		}
	}
}

// learn takes one hold as the quorum sees it. mu is held.
func (s *session) learn(sh *replication.SessionHold, index uint64) {
	if o := s.holds[string(sh.GetOwner())]; o != nil {
		o.learn(sh.GetGranted(), sh.GetToken(), sh.GetPosition(), index)
		return
	}
	if s.h.byID[string(sh.GetOwner())] != nil {
		return // a detached one is there, and this is older news
	}
	if s.resumed && s.h.cfg.LeaseNow() < s.h.strayAfter {
		return // the table that would name it is damaged: somebody may run under it
	}
	s.releaseStray(sh)
}

// releaseStray gives back what nobody here knows. One try: as long as it is
// there, the next renewal's hash differs and the list names it again. mu is held.
func (s *session) releaseStray(sh *replication.SessionHold) {
	owner := string(sh.GetOwner())
	if s.strays[owner] || len(s.strays) >= maxStrays {
		return
	}
	s.strays[owner] = true
	req := unlockRequest(sh.GetDurability(), sh.GetName(), owner)
	s.h.cfg.Logger.Info("releasing what no process here holds", "lock", sh.GetName(), "owner", owner)
	s.h.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, s.ttl)
		defer cancel()
		_, err := s.h.cfg.Coordinator.Do(ctx, req)
		if err != nil {
			s.h.cfg.Logger.Debug("release failed", "lock", sh.GetName(), "owner", owner, "error", err)
		}
		s.h.mu.Lock()
		delete(s.strays, owner)
		s.h.mu.Unlock()
	})
}

// sleep waits for d, and says false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
