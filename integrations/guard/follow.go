package guard

import "context"

// A Follower follows one hold over however many connections it takes, as the keeper
// does, for what keeps something else than a command under a lock. It waits for an
// agent that does not answer.
type Follower struct{ h *hold }

// Follow opens the hold and follows it until ctx ends, a final error, or Released.
func Follow(ctx context.Context, agent Agent, w Witnesses) *Follower {
	h := newHold(agent, w)
	h.patient = func(error) bool { return true }
	go h.follow(ctx) // ends with ctx
	return &Follower{h}
}

// Events are the hold's, of all its connections. It is never closed.
func (f *Follower) Events() <-chan Event { return f.h.events }

// Failed receives one final error at most: no more events follow.
func (f *Follower) Failed() <-chan error { return f.h.failed }

// Ack accepts a grant; Renewed follows if it came in time. Without a connection it
// does nothing: the next one begins with the state.
func (f *Follower) Ack() { _ = f.h.ack() }

// Release gives the lock or the place in line back, and returns nil once the quorum
// has confirmed.
func (f *Follower) Release(ctx context.Context) error { return f.h.release(ctx) }
