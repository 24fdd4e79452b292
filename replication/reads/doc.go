// Package reads makes local reads linearizable without writing to the log.
//
// The main type is Barrier, the leader's read index: it takes the commit index
// i, asks the voters "is your term still T?", counts only answers to what was
// sent after i was taken, and returns i once a majority, itself included, has
// said yes. Whoever has applied i may then answer. hashicorp/raft's own
// VerifyLeader is not used: it counts answers to requests that were sent before
// it was called, so a deposed leader can be confirmed by an old one (HAZARDS.md 1).
//
// Why a term is enough: a voter makes a new term durable before it votes in it.
// A majority that was still in T after i was taken means that no leader of a
// later term had been elected by then, so nothing can have been committed that
// i does not cover, given that the leader of T has committed an entry of its own.
//
// Group is the coalescing under it, and for everybody else who asks for the
// same thing at once: one run in flight, one collecting callers.
//
// Left to others: waiting until the state machine has applied i, and the read
// itself (voter); connections to the voters, which come in as a function.
package reads
