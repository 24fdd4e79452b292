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
// far behind, transport.go when a voter with a sick disk falls silent, and what of
// the followers' answers counts (pipeline.go).
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
// # A leader's own disk
//
// hashicorp/raft stores an entry, and only then sends it: the disk of the leader
// and those of the followers would work one after another. Here the leader's log
// runs ahead of its disk (raftlog.Log.RunAhead), and all disks work at once (Raft
// thesis, section 10.2.1). Raft knows nothing of it, and counts this voter for an
// entry as soon as its log has it. That is made right in transport.hold: what a
// follower acknowledges reaches Raft only when this voter's own disk has it too.
//
// What is committed is on the disks of a majority, this voter's included when Raft
// counts it:
//
//   - The log runs ahead only while this voter leads a configuration with two
//     voters or more (leadsOthers). A majority there has at least one other voter.
//     That one counts for an entry by an answer to AppendEntries that names it or a
//     later one, so this voter's disk has it by then, whether or not that voter and
//     this one are the majority. Heartbeats and requests without entries count for
//     none. A snapshot counts for what was applied, so committed, when it was taken.
//   - A new configuration counts from the moment that it is stored, and with a
//     single voter everything then counts that this one has. So an entry that
//     changes it is stored only when the disk has all before it, and StoreLogs
//     returns when the disk has it. A voter that is alone stores as ever.
//   - As a follower a voter acknowledges what Raft has stored or found in its log
//     since it ceased to lead. StoreLogs waits for the disk then, and GetLog does for
//     entries that the disk does not have yet: what it led with, and another leader
//     has got from its followers. It reads a committed entry, to apply it, in the same
//     way. So the engine is never ahead of the log on disk.
//   - A crash, or the loss of power, takes entries from the end of a leader's log that
//     it has not counted for. It is as if it had not stored them: it votes
//     again only in a later term, or for another in this one, and never creates an
//     entry of this term again, since it is no leader of it any more. That followers
//     have such an entry is what happens when a leader dies after sending, too. While it
//     lives, it compares its whole log with a candidate's, which refuses more
//     votes and never grants more.
//   - Terms are begun in Raft's loop alone, one after another (heartbeat.go), however
//     long each waits for the disk.
//   - Term and vote are written when the disk has the log. So what a candidate claims
//     to have it has, and a disk never shows a term that is newer than its log.
//   - Removing the end of the log (another leader's entries, a snapshot) waits for the
//     disk. Cutting the log leaves the newest entry that the disk has.
//
// A disk that fails ends the process as ever. One that hangs shows by the age of
// its write as before (Config.StallAfter), and Raft's loop, which is not in it any
// more, steps down by itself.
//
// Left to others: finding and forwarding to the leader (forward), connections
// and certificates (link), who becomes a voter (membership), the rules
// themselves (statemachine).
package voter
