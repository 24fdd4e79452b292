// Package voter is one member of the Raft quorum: it turns a request into a
// committed decision, and answers reads that are linearizable.
//
// The main type is Voter. It owns the Raft node, the log (raftlog), the write-
// behind store over the engine (memtable), the state machine, the proposer and
// the read barrier, and starts and stops them in a visible order. A request
// meets the files in this order: serve.go (does this voter lead, is it a read),
// package proposer (one log entry for many requests), fsm.go (committed entries
// into the state machine), and back. leader.go has what a leader owes the
// cluster, snapshot_*.go and restore.go how state reaches a voter that is too
// far behind, transport.go when a voter with a sick disk falls silent.
//
// Three waits of transactions are here, on the leader: the start of one beyond
// Config.MaxTransactions stands in line by priority (gate.go); a plain write or
// script that meets the lock of one is proposed again for a while, and a read as of
// a time just ahead has the log brought beyond it (transactions.go).
//
// What it promises:
//
//   - An answer that is not an error was decided by a committed entry, or read
//     at an index that was linearizable when the read was asked for.
//   - A NotLeaderError means that the request was certainly not applied.
//     An error that wraps replication.ErrUnknownOutcome means that it may have been.
//   - It serves nothing in a term before its own opening entry of that term is applied.
//   - Any failure of log, engine or determinism ends the process through
//     Config.Fatal, once, with one line.
//
// Left to others: finding and forwarding to the leader (forward), connections
// and certificates (link), who becomes a voter (membership), the rules
// themselves (statemachine).
package voter
