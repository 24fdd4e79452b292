// Package raftlog keeps Raft's log and its vote on disk, and checks what comes
// back.
//
// The main type is Log: raft.LogStore, raft.StableStore and
// raft.MonotonicLogStore over hashicorp/raft-wal, which fsyncs each StoreLogs but
// verifies nothing on reading. Log adds
//
//   - a checksum of its own in every entry, and checks of index and order both
//     when writing and when reading (codec.go);
//   - the last fsynced index, recorded now and then beside the vote, so that a
//     tail that vanished is noticed at the next start (record.go, HAZARDS.md 16);
//   - a bounded cache of the newest entries: each is read several times within
//     milliseconds of being written, by the senders to every follower and by apply
//     (cache.go);
//   - sizes, so that what stays for lagging followers is bounded in bytes (sizes.go);
//   - the age of a running write, which tells a hung disk (HAZARDS.md 10);
//   - for a leader, a log that runs ahead of the disk (ahead.go), which is safe only
//     together with what package voter does;
//   - files filled with zeros ahead of what is written, so that a sync need not wait
//     for the file system's journal (zeroed.go).
//
// Any failure is final: it is reported to Options.Fatal once, and every later
// write fails with the same error, because a disk that lost one fsync may lie
// about the next.
//
// Left to others: what the entries mean, and when to cut the log (voter).
package raftlog
