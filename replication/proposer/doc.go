// Package proposer turns many requests into few log entries.
//
// The main type is Proposer. Requests wait in two lanes; what keeps leases
// alive goes first in every entry (HAZARDS.md 20). While an entry is in flight the
// next one gathers, and goes only if it is full, at most two at a time. A batch is closed, and
// stamped with term, lease clock and wall clock, as late as possible: when it is
// certain that it goes to Raft now (HAZARDS.md 3).
//
// What it promises: every request gets exactly one answer or one error. A
// *replication.NotLeaderError, replication.ErrUnavailable and
// replication.ErrStopped mean that the request is in no entry and never will
// be; replication.ErrUnknownOutcome means that it may be in one. An answer
// "propose again" never leaves this package: the same request goes into another
// entry, or is refused as not led.
//
// Left to others: who leads and since when (voter calls Lead and Resign), what
// the requests mean (statemachine), sending again after an unknown outcome
// (forward).
package proposer
