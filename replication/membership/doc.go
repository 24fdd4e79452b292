// Package membership decides how a cluster begins and who joins it, and keeps
// the address book.
//
// It promises that from one secret at most one cluster is ever made by those
// who can reach each other, whatever is started, killed and restarted in which
// order; that an agent which knows one address of the cluster finds the rest
// and keeps looking for ever; and that where a node was last reached survives a
// restart. The main type is Keeper. Who leads, and what a configuration change
// does to the log, is left to package voter; how agents are reached and who
// they really are, to package link.
//
// # How a cluster begins
//
// A candidate is a voter that has no Raft state, belongs to no cluster and was
// started with --bootstrap-expect N. When the lowest id of the candidates that
// see each other counts N of them, it proposes a cluster: a random cluster id
// and the N lowest ids, exactly. Beginning is a two-phase commit, and every
// step below is on disk (fsync) before anybody is told of it:
//
//	proposer   pledges itself, asks the others to pledge
//	member     pledges, to one proposal only; refuses when it has pledged to
//	           another, knows of any cluster, or expects another number
//	proposer   with all N pledges commits; with one refusal aborts for good
//	member     asks the proposer what became of it: on commit (or on meeting
//	           anybody who is in that cluster) it joins; on abort its pledge is void
//
// On commit each of the N writes the same Raft configuration. A pledge whose
// proposer is gone never ends by itself: it may have been used. Two proposals
// of N out of at most 2N-1 candidates share a member, who pledges to one of
// them only; with 2N candidates or more nothing is proposed, since a partition
// could give two clusters. Any agent that was ever in a cluster, proxies
// included, vetoes by being reachable (HAZARDS.md 9). One host alone is N = 1.
//
// # A copied disk
//
// Of two processes with one node id the later one ends (AwaitCopy), and a voter
// takes no part in Raft before a majority has told where it knows this node, and
// nobody else answers there (Cleared, copy.go).
//
// # How it grows
//
// A voter that meets a cluster and has no state joins it: it asks the leader,
// which lets it catch up without a vote first, and gives it the vote when it is
// asked again and is close.
//
// # Who votes
//
// An agent with role voter always does. One with role auto runs its Raft node and
// stands by: it asks for a vote when the leader, or an operator, tells it to
// (Vote). The leader looks every few seconds at who answers its Raft, and at who
// says hello, and decide names at most one next step: invite a standby, take a
// vote back, or take out who is gone. Gossip is never asked. A node keeps its disk
// when it loses its vote, and may get the vote again: what it voted for is on it.
//
//	standby ── Vote(take) ──► asks Join ──► learner ──► voter
//	   ▲                                                  │
//	   └── RemoveServer, seen in its own configuration ───┘
//
// What an operator decides stays: a node that was demoted does not vote until it
// is promoted, one that was promoted is not taken back, and one that was removed
// is refused for good by every voter that has heard of it (Hello.removed).
package membership
