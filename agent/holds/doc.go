// Package holds keeps locks alive on behalf of local processes: it implements
// localapi.Holder over a replication.Coordinator.
//
// It promises that a holder is told to stop before the quorum can give its lock
// to another, that a lock is given back when its witness is gone and not
// before, and that nothing stays held at the quorum that nobody here knows.
//
// Holds is the main type. It has one session with the quorum for each distinct
// TTL (O(hosts), not O(locks)): one renewal every TTL/4 keeps all of a
// session's holds, and one watch tells of grants and losses. The rules, each at
// the code it governs:
//
//   - Deadlines (session.go): s + TTL − margin, where s is lease time before
//     the first byte of the attempt that was acknowledged. They only move forward.
//   - News (news.go): an owner id is used once, so a hold only moves forward,
//     asked → queued → granted → gone, and news may arrive in any order and
//     twice. Only absence from a list needs an index to be believed.
//   - Ending (hold.go, release.go): a hold is given back by LockUnlock, retried
//     until the quorum confirms; what has an unknown outcome is given back as well.
//   - Witnesses (witness.go): a process hold ends when its processes have ended.
//   - Restarts (resume.go, table.go): an agent takes up what the one before it
//     kept. The table on disk says who holds, the quorum what is held.
//
// Who may ask is left to localapi and its policy, how requests reach a leader to
// the Coordinator, and stopping processes at the deadline to the guard.
package holds
