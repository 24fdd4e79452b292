// Package statemachine decides. It is the deterministic machine that every
// voter runs over the log, and the only place where the rules for sessions,
// locks, keys, sequences and receipts are written.
//
// The main type is Machine: Apply takes one log entry and returns one answer a
// request, the events for watchers, and nothing else. Read answers reads from
// any consistent view of the same rows. There is no clock, goroutine, lock,
// randomness or log line in here: time comes with the entry (lease clock and
// wall clock), and two voters that apply the same entries have the same rows,
// byte for byte, and the same rolling hash.
//
// Left to others: proposing, batching and when to sweep (package voter), the
// store with its durability (package storage/memtable), who may ask for what
// (package localapi), and that an as-of read waits until the state has passed
// the time asked for (contract/decisions.md 5).
//
// # The rules
//
// Five rules carry everything, each written once:
//
//	condition      holds (kv.go)           what a conditional write asks of a key
//	conflict       blocker, spanBlocker (txlocks.go)  whose lock is in the way
//	apply writes   change (kv.go)          what a write does to a key's rows
//	end of a lease settle (locks.go), endSession (sessions.go), endKey (kv.go),
//	               endTx (tx.go), endSnapshotHolds (snapshots.go)
//	receipt        once (receipts.go)      a request id is carried out at most once;
//	               replayed (txoperations.go) an operation id of a transaction
//
// Writes, transactions and scripts use the same three of them: conflict, condition,
// apply.
//
// # Transactions
//
// A transaction is commands from its start to its end, reads included: what
// decides its commit is in the rows, and survives the leader. Its id is the label
// of its start. Values that it reads are not kept, only that it has looked: when a
// key changes that an open transaction has seen, by name or in a range, that is
// noted with the transaction at once (noticeChange). A commit therefore looks at
// notes and clocks, not at what was read, and costs what its writes cost. The rule
// is commitProblem (txend.go).
//
// Ends count at once, as everywhere: a lock of a transaction that has ended by
// the clock is in nobody's way. Locks never wait. An asynchronous release, the
// auto-commit and the read validation of Kahuna are accepted and change nothing:
// a commit frees its locks in the same entry, nobody commits by himself, and reads
// are validated always.
//
// Who has locked or read a range around a key is found by indexes in memory that are
// made of the rows (spanindex.go, txreaders.go): what a write costs does not grow with
// how many there are, and it is charged nothing for them. A lock on a range is held
// against all others, and charged for it.
//
// Costly commands (TxRead, TxWrite, TxLock, TxUnlock, TxEnd, Script) share a budget per entry. Beyond
// it they are answered PROPOSE_AGAIN and wait for the next entry, with no receipt.
//
// A page read in a transaction has at most 1,000 rows (256 as of a time), and says
// where to go on: it is read at apply.
//
// # Snapshot holds
//
// While a hold lives, revisions that a read as of the lowest time held could need
// are not dropped. They go, like all that falls out of history, with a later pass.
//
// A thing that ends is live while end > L, where L is the replicated lease
// clock. Whether a sweep has passed by is never visible: whoever touches what
// has ended, ends it first.
//
// # Choices
//
// An ended session is remembered for SessionMemoryNS: a delayed SessionOpen of
// its id answers SESSION_LOST. After that a late open makes an empty session that
// lapses by itself. A lock that somebody extended by hand beyond its session's end
// outlives a session that lapsed, as a lease of its own, not one that was closed.
//
// An owner that holds or waits by one session is INVALID_OWNER to a LockWait by
// another: the lease is not the one that the other renews.
//
// A session's end counts at once; its rows are cleared away in portions, by each
// entry and by Sweep. The counts of MachineState follow the rows: they include
// what has ended and was not looked at yet.
//
// POSITION events go to the first PositionsTold places only; who stands further
// back hears of it on coming near, and is told the true place on asking again.
//
// Write's code is its item's when there is one, that of the first failing item
// when it is atomic (the others are ABORTED), and OK otherwise.
//
// # Rows
//
// Every key begins with one table byte. D is one byte of durability, NAME an
// order-preserving form of a name (0x00 becomes 0x00 0xFF, and 0x00 0x01
// closes it), numbers are big-endian so that they sort. Every value begins
// with a format byte.
//
//	01 'm'                        position, lease clock, labels, hash, counters
//	01 'c'                        Raft's configuration and its index
//	01 'f'                        token floor of a restore or a recovery (absent: none)
//	10 SESSION                    a session: live, ending, or remembered as ended
//	11 SERIAL8 INDEX8             receipts: answers of one log entry to session SERIAL
//	12 END8 KIND REF              due: look at the thing REF once L >= END
//	20 D NAME                     lock: last token, owner, end, bounds of its queue
//	21 D NAME PLACE8              one waiter, in order of PLACE
//	22 D NAME OWNER               the place of a waiting owner
//	23 SESSION D NAME OWNER       a hold or queue place of a session
//	24 HASH2                      highest last token of dropped locks with this hash
//	01 't'                        highest id of a transaction that was forgotten
//	50 TX12                       a transaction: open, or its outcome
//	51 TX12 1 OPERATION16         an operation carried out, with its answer
//	51 TX12 2 D NAME NUMBER8      a staged write
//	51 TX12 3 D NAME              what was seen of a key
//	51 TX12 4 NUMBER8             an interval of keys that was read
//	51 TX12 5 D NAME              a lock on a key
//	51 TX12 6 NUMBER8             a prefix or range lock
//	60 ID16                       a snapshot hold
//	61 NAME                       a key space on record
//	30 D NAME                     head of a key: its newest revision
//	31 D CHUNK8                   old revisions of any keys, in the order they were superseded
//	40 NAME                       sequence
//	41 NAME KEY                   allocation remembered for an idempotency key
//	42 NAME ORDER8                the same, in order of age
//
// A plain set replaces one row of table 30, adds to the entry's row of table 31,
// and reads nothing, as long as the key's head is in the cache. History goes by
// number: the revisions at most HistoryPersistent (HistoryEphemeral) below the
// newest one are kept, see history.go. A write with no_history leaves a gap in the
// numbers; a read as of a time that may lie in a gap answers CODE_TOO_OLD.
//
// A lock, a key and an ended session each have at most one due row. It may be
// too early, since ends mostly move later and moving the row each time would
// cost two writes: a sweep that meets it looks and moves it. Sessions that are
// alive have none, they are all in memory, and so are the numbers of their receipts.
//
// A session's serial number is given once, ever. So receipts are fresh rows
// (Store.PutFresh) without doubt, also when a session id comes back.
package statemachine
