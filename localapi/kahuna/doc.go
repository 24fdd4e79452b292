// Package kahuna speaks the wire of Kahuna's clients (kahunakv/kahuna,
// kahunakv/kahuna-ts), so that they work against an agent unchanged.
//
// It promises that a request means here what it means to Kahuna, or is refused;
// that nothing is decided here, but by the replicated state machine through
// replication.Coordinator; and that every caller is judged by the policy, whichever
// way it came. The main type is Service: one method for each rpc, on messages of
// package kahunapb, for gRPC and for REST alike (package rest has the routes). The
// gRPC server that carries it is left to package grpchttp, listeners and who is at
// the other end to package doors.
//
// Rules are quoted as in the contract: L, S, T, I, B and numbers of its pages, and
// numbers of decisions.md.
//
// # Every rpc
//
// "served" is as in Kahuna, but for the differences below.
//
//	Locker
//	  TryLock, TryExtendLock, Unlock, GetLock   served; verbs lock, and read for GetLock
//	  BatchClientLockRequests                   served: see below
//	  BatchServerLockRequests                   UNIMPLEMENTED (between servers)
//	KeyValuer
//	  TrySetKeyValue, TryExtendKeyValue,
//	  TryDeleteKeyValue, TrySetManyKeyValue,
//	  TryDeleteManyKeyValue                     served; verb write
//	  TryGetKeyValue, TryExistsKeyValue,
//	  TryGetManyValues, TryExistsManyValues,
//	  GetByBucket, ScanAllByPrefix, GetByRange,
//	  GetByRangeStream                          served; verb read, on the prefix for scans
//	  BatchClientKeyValueRequests               served: see below
//	  StartTransaction, CommitTransaction,
//	  RollbackTransaction                       served; to start one asks to read or write something
//	  TryAcquireExclusiveLock,
//	  TryAcquireExclusivePrefixLock,
//	  TryAcquireExclusiveRangeLock,
//	  TryReleaseExclusivePrefixLock,
//	  TryReleaseExclusiveRangeLock              served; verb write: a lock keeps others from writing
//	  TryExecuteTransactionScript               served; verbs read and write on every name
//	  AcquireSnapshotHold, RenewSnapshotHold,
//	  ReleaseSnapshotHold                       served; verb write on something
//	  GetSnapshotFloor                          served; verb read on something
//	  RegisterKeyRange, RemoveKeyRange          served: recorded; verb write. Routing stays as it is
//	  BatchServerKeyValueRequests, ScanByPrefix,
//	  TryAcquireManyExclusiveLocks,
//	  TryReleaseExclusiveLock,
//	  TryReleaseManyExclusiveLocks,
//	  TryPrepareMutations, TryPrepareManyMutations,
//	  TryCommitMutations, TryCommitManyMutations,
//	  TryRollbackMutations,
//	  TryRollbackManyMutations,
//	  GetPartitionApplyFingerprint,
//	  GetPreparedIntentPresence                 UNIMPLEMENTED (between servers)
//	Sequencer
//	  CreateSequence, UpdateSequence,
//	  NextSequenceValue, ReserveSequenceRange,
//	  DeleteSequence                            served; verb sequence
//	  GetSequence                               served; verb read
//	Cluster
//	  GetMembership                             served: the voters and learners
//	  GetPlacement                              served: partition 1, with a replica on each of them
//	  GetRanges                                 served: registered key spaces, one unbounded range each
//	  GetRoutingMetadata                        served: one bucket, partition 1, the leader's URL
//	  SplitRange                                refused: NoRange, or PartitionCreationFailed
//	  MergeRanges                               served: Completed, 0 merges
//	  SetReplicationFactor                      refused: Refused; 0 for partition 1 is Success
//	  Leave                                     served: the agent's voter leaves; verb admin, as the four above
//	Backups
//	  TakeFullBackup, TakeIncrementalBackup,
//	  TakeCoordinatedBackup, ListBackups,
//	  GetBackupChain, ValidateChain, Restore,
//	  RunBackupGarbageCollection                served where the agent keeps backups, else NotConfigured
//	                                            in the trailer; verb admin
//
// A batch stream serves its requests at the same time and answers each when it is
// ready, under its id. A type that is none, or a payload of another type, is
// answered at once: Kahuna leaves the caller waiting. A frame (type 15) is taken
// apart. What has no code of its own is told by one, since a stream has no status
// for one item: Errored for what the policy forbids, InvalidInput for what is too
// large.
//
// # Limits
//
// Those of Config: MaxMessageBytes and MaxValueBytes (ResourceExhausted, or
// InvalidInput on a stream), LeaderWait (MustRetry), MaxStreams (ResourceExhausted),
// MaxInFlight (a stream is not read meanwhile), AnswerBytes (MustRetry),
// WriteTimeout (ResourceExhausted). Those of this package: MaxServing (streams are
// not read meanwhile), MaxReads (reads wait), MaxScanRows (ResourceExhausted).
// Together with those of the listeners they are in the agent's configuration, as
// limits.kahuna-* and timeouts.kahuna-* (kahu agent --print-config shows them), each
// with what happens beyond it.
//
// # Differences from Kahuna
//
//   - A lock's extend never brings its end nearer: end = max(old, now + ms). Kahuna's
//     source shortens it silently (decision 16).
//   - A lock's end, as GetLock shows it, is the wall clock and what remains, both in
//     whole milliseconds as of the last entry of the log: two extends by as much that
//     are less than two milliseconds apart may show one end. What decides is the lease
//     clock, in nanoseconds, where the second always ends later.
//   - Extending a key by 0 ms makes it eternal, as the documentation says; the source
//     kills it (decision 16).
//   - Delete and extend of an expired key say DoesNotExist, swept or not (decision 17).
//   - The revision of a deletion, asked for by number, does not exist; Kahuna answers
//     Got without a value. A revision that history does not keep any more is Aborted,
//     "snapshot too old", and never DoesNotExist (decision 14).
//   - Last-modified is filled in every answer (decision 15); last-used is always zero.
//   - A request that names a transaction without coordinator key and operation id is
//     InvalidInput: its effect would be invisible to the commit (decision 37).
//   - Scans and buckets are ordered and exact, and fail beyond 100,000 rows or the
//     largest message rather than end early (decisions 28, 29). A Limit of 0 or less
//     is no limit.
//   - A sequence has no gaps: CurrentValue is the last value issued, and not the end
//     of a block (decision 25).
//   - While nobody leads, the server waits, and answers MustRetry after LeaderWait
//     (decision 23). A plain write under a session's lock waits for it a little
//     (decision 24).
//   - GetLock shows the owner of a hold of kahu's own to administrators only, and
//     others' to who may lock that name: who knows an owner may unlock.
//   - Flags that only Kahuna's servers send, and unknown ones, are InvalidInput.
//   - A backup call without a directory for backups is FailedPrecondition, with the
//     trailer that makes the client's exception; Unavailable, which Kahuna sends,
//     makes clients call again for seconds.
//   - Values above the limit are refused; Kahuna has no limit but that of a message.
//   - MembershipVersion and SnapshotVersion are the log index at which the quorum's
//     servers changed last: they rise with each change, and not by one. A proxy does
//     not know it and says 0. No client compares them.
package kahuna
