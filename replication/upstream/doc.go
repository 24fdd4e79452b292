// Package upstream is a Coordinator over a stock Kahuna cluster (kahunakv/kahuna),
// in Kahuna's own gRPC: what an agent with --upstream has in place of voters.
//
// It promises that a request means here what it means to kahu, or is refused with
// one sentence that names upstream mode; that a holder is told to stop before the
// cluster can give its lock to another; and that a change whose outcome is not
// known is never sent again where a second one could do harm. The main type is
// Client. What Kahuna's numbers mean is its contract's to say, how a hold reaches
// its process package agent/holds', and who may ask package localapi's.
//
// # What the proxy does itself
//
//   - Host sessions. Kahuna has none. A session lives in this process, and a
//     renewal of it is an extend of every lock that hangs from it, all of them on
//     one batch stream (extend.go). It is acknowledged when each of them was
//     extended by an attempt that began after the renewal did (sessions.go).
//   - Queues. Kahuna has none. Who waits on this host stands in one line for each
//     lock, first come first served; the first asks again and again, with pauses
//     from 25 ms up to a second that differ by chance, and at once when a holder on
//     this host has given the lock back (line.go). Between hosts there is no order.
//   - Restarts. Sessions are told again by the lease table (Adopt): each lock in it
//     is extended, and that says who has it still.
//   - Idempotency keys of sequences, and operation ids in transactions, where the
//     caller gave none: these are sent again after a lost answer.
//   - lock break: unlock with the owner that the cluster shows. The holder learns of
//     it with its next renewal.
//
// # What is refused
//
// Lists of locks, sequences and transactions, changes of several keys that are
// atomic, conditions on deletes and extends, the history of a deleted key, reads by
// prefix of 4,096 keys and more (Kahuna cuts them there; by bucket there is no
// bound), limits whose period is 25 days and more, and everything about the cluster itself: members, backups.
//
// # What is different
//
//   - A change whose answer was lost, or was MustRetry or Errored, has an unknown
//     outcome, and is not sent again. Kahuna's own clients send it again on
//     MustRetry; but Kahuna says MustRetry also of a change that its log has taken
//     in the end (ReleaseProposalHandler.cs, RetryableFailureClassifier.cs), and a
//     second one could undo what somebody else wrote in between. One with a revision
//     as its condition is sent again: it cannot take effect twice.
//   - Kahuna judges leases by the wall clock of whichever server leads. They are asked
//     for a second longer than holders are told, so that much the servers' clocks may
//     differ. A clock that is further ahead, or jumps, ends leases early; the fencing
//     token then tells the holders apart.
//   - If one lock cannot be extended for half a TTL while others of its session are,
//     it alone is lost: Kahuna has many partitions, and one may be without a leader.
//   - An extend of a lock sets its end, and may bring it nearer.
//   - Ephemeral keys and locks live in the memory of one server, and go with it.
//   - Reads by prefix that are not of one bucket are not linearizable.
//   - A lapse of a lock is seen by whoever asks next, up to a second later.
//   - After a restart of the agent who waited goes on waiting, in any order; who
//     acknowledges no grant (a hold over HTTP) is told that its place in line is lost.
//   - A renewal whose locks are lost says so by a list (SessionRenew), since the reason
//     may come after it.
//   - A transaction's locks are taken one after the other, and the lock of a key stays
//     until the end; lists in a transaction are of buckets; how many writes a commit
//     applied is not told.
//   - Scripts run as Kahuna reads them, and are not sent again unless they only read.
package upstream
