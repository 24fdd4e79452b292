package forward

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// search is the order in which one request tries its targets.
type search struct {
	f       *Forwarder
	queue   []target  // still to try in this round
	first   [2]target // room for the queue's beginning, since most end there
	hinted  target    // follow this one next
	hints   int       // hints followed in this round: a circle of hints must end
	under   *reign    // when this round began
	backoff time.Duration
	vain    silence // of the node that this request could not reach last
}

// begin starts with the local voter when it may answer at once, then the
// presumed leader, then everybody; or, while there is a detour, with that.
func (s *search) begin(f *Forwarder, read bool) {
	s.f, s.backoff, s.under = f, minPause, f.reign.Load()
	s.queue = s.first[:0]
	if d := f.detour.Load(); d != nil {
		s.queue = append(s.queue, target{node: d.via, leader: d.leader})
		return
	}
	leader := f.Leader()
	if f.cfg.Local != nil && (read || leader == "" || leader == f.cfg.Node) {
		s.queue = append(s.queue, target{node: f.cfg.Node})
	}
	if leader != "" && (len(s.queue) == 0 || leader != f.cfg.Node) {
		s.queue = append(s.queue, target{node: leader})
	}
}

// next returns the target to try now; false means pause and then ask again.
func (s *search) next() (target, bool) {
	if s.hinted.node != "" {
		to := s.hinted
		s.hinted = target{}
		return to, true
	}
	if len(s.queue) == 0 {
		return target{}, false
	}
	to := s.queue[0]
	s.queue = s.queue[1:]
	return to, true
}

// answered takes in who leads, or that the leader is only reached by way of others.
// The request was begun under. A change that no log entry has decided tells nothing: a
// follower, too, refuses one that is too large.
func (s *search) answered(to target, req *replication.Request, ans *replication.Answer, under *reign) {
	if !req.IsRead() && ans.GetIndex() == 0 {
		return
	}
	switch f := s.f; {
	case to.passesOn():
		f.takeDetour(to.node, to.leader, under)
	case !req.IsRead():
		f.learn(to.node, under)
		f.endDetour("the leader has answered")
	case s.vain.node != "" && s.vain.node == under.node && s.vain.node != to.node && !req.GetStale():
		f.takeDetour(to.node, under.node, under) // it has just asked the leader how far it is
	}
}

// inVain reports whether node was asked in vain a moment ago, and somebody else may
// pass on what is for it.
func (s *search) inVain(node string) bool {
	if s.f.cfg.Relay == nil {
		return false
	}
	silent := s.f.silent.Load()
	return s.vain.holds(node) || silent != nil && silent.holds(node)
}

// failed takes the hint out of an error, or forgets a leader that did not answer.
func (s *search) failed(to target, err error) {
	var notLeader *replication.NotLeaderError
	refers := errors.As(err, &notLeader)
	if to.passesOn() {
		if s.f.endDetour("it does not work any more") {
			s.vain = silence{to.leader, time.Now().Add(unreachedFor)} // another voter first
		}
	} else if !refers && to.node != s.f.cfg.Node && !errors.Is(err, replication.ErrUnknownOutcome) {
		s.vain = silence{to.node, time.Now().Add(unreachedFor)}
	}
	if refers && notLeader.Leader != "" && notLeader.Leader != to.node && s.hints < 3 {
		leader := notLeader.Leader
		s.f.leader.Store(&leader)
		switch {
		case to.passesOn() || !s.inVain(leader):
			s.hinted = target{node: leader}
		case to.node != s.f.cfg.Node:
			s.hinted = target{node: to.node, leader: leader}
		}
		if s.hinted.node != "" {
			s.hints++
			return
		}
	}
	p := s.f.leader.Load()
	if p != nil && *p == to.node {
		s.f.leader.CompareAndSwap(p, nil)
	} else if p != nil && s.hints < 3 && !s.inVain(*p) {
		s.hints++ // another request has learned who leads
		s.hinted = target{node: *p}
		return
	}
	if len(s.queue) == 0 && s.hints == 0 {
		// The first guess was wrong: look at everybody else before pausing.
		s.refill(to.node)
		s.hints++
	}
}

// pause waits a little, or until it is known who leads, and begins a new round:
// over the leader, then all voters.
func (s *search) pause(ctx context.Context) {
	timer := time.NewTimer(s.backoff/2 + rand.N(s.backoff/2+1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.f.stopped.Done():
	case <-s.under.over.Done():
		s.backoff = minPause / 2
	case <-timer.C:
	}
	s.backoff = min(2*s.backoff, maxPause)
	s.hints, s.under = 0, s.f.reign.Load()
	leader := s.f.Leader()
	s.hinted = target{}
	if !s.inVain(leader) {
		s.hinted.node = leader
	}
	s.refill(leader)
}

// refill lists the local voter first and the others in random order, so that
// waiting agents do not all fall on the same voter. One that has just let an
// attempt time out would cost as long again: it is left out while there is
// another.
func (s *search) refill(except string) {
	s.queue = nil
	if s.f.cfg.Local != nil && except != s.f.cfg.Node {
		s.queue = append(s.queue, target{node: s.f.cfg.Node})
	}
	first := len(s.queue)
	for _, node := range s.f.cfg.Voters() {
		if node != except && node != s.f.cfg.Node {
			s.queue = append(s.queue, target{node: node})
		}
	}
	rest := s.queue[first:]
	rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	if silent := s.f.silent.Load(); silent != nil && len(rest) > 1 && time.Now().Before(silent.until) {
		s.queue = slices.DeleteFunc(s.queue, func(to target) bool { return to.node == silent.node })
	}
	if len(s.queue) > 1 && s.f.cfg.Relay != nil {
		s.queue = slices.DeleteFunc(s.queue, func(to target) bool { return s.vain.holds(to.node) })
	}
}
