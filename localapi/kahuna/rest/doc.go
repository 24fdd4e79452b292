// Package rest is Kahuna's REST surface: every route under /v1 that Kahuna's
// clients call, in JSON over HTTP/1.1 or HTTP/2, translated to the rpc of the same
// meaning.
//
// It promises that a body means here what it means to Kahuna (its controllers and
// JSON contexts, contract rules R1 to R34), that bad input is answered and never a
// panic, and that every answer is JSON but the greeting at "/". It decides nothing:
// each route calls one method of Service, which also judges the caller. The main
// type is Handler; testdata/golden shows every route with its answers.
//
// The routes. Under /v1/locks, /v1/kv and /v1/sequences every decision is status
// 200 with its code in "type".
//
//	/                                       GET  the text Kahuna.Server
//	/v1/locks/try-lock                      POST TryLock
//	/v1/locks/try-extend                    POST TryExtendLock
//	/v1/locks/try-unlock                    POST Unlock
//	/v1/locks/get-info                      POST GetLock
//	/v1/sequences/create                    POST CreateSequence
//	/v1/sequences/update                    POST UpdateSequence (newer)
//	/v1/sequences/get                       POST GetSequence
//	/v1/sequences/next                      POST NextSequenceValue
//	/v1/sequences/reserve                   POST ReserveSequenceRange
//	/v1/sequences/delete                    POST DeleteSequence
//	/v1/kv/try-set                          POST TrySetKeyValue
//	/v1/kv/try-extend                       POST TryExtendKeyValue
//	/v1/kv/try-delete                       POST TryDeleteKeyValue
//	/v1/kv/try-get                          POST TryGetKeyValue
//	/v1/kv/try-exists                       POST TryExistsKeyValue
//	/v1/kv/try-set-many                     POST TrySetManyKeyValue
//	/v1/kv/try-delete-many                  POST TryDeleteManyKeyValue
//	/v1/kv/try-get-many                     POST TryGetManyValues
//	/v1/kv/try-exists-many                  POST TryExistsManyValues
//	/v1/kv/get-by-range                     POST GetByRange
//	/v1/kv/get-by-bucket                    POST GetByBucket
//	/v1/kv/scan-all-by-prefix               POST ScanAllByPrefix
//	/v1/kv/try-execute-tx-script            POST TryExecuteTransactionScript
//	/v1/kv/start-tx-session                 POST StartTransaction
//	/v1/kv/commit-tx-session                POST CommitTransaction
//	/v1/kv/rollback-tx-session              POST RollbackTransaction
//	/v1/kv/try-acquire-exclusive-lock       POST TryAcquireExclusiveLock
//	/v1/kv/try-acquire-prefix-lock          POST TryAcquireExclusivePrefixLock
//	/v1/kv/try-release-prefix-lock          POST TryReleaseExclusivePrefixLock
//	/v1/kv/try-acquire-range-lock           POST TryAcquireExclusiveRangeLock
//	/v1/kv/try-release-range-lock           POST TryReleaseExclusiveRangeLock
//	/v1/kv/snapshot-hold/{acquire|renew|release}  POST Acquire/Renew/ReleaseSnapshotHold
//	/v1/kv/snapshot-floor                   GET  GetSnapshotFloor
//	/v1/cluster/membership                  GET  GetMembership
//	/v1/cluster/health                      GET  Health, for anybody; 200 or 503
//	/v1/cluster/placement                   GET  GetPlacement
//	/v1/cluster/routing                     GET  GetRoutingMetadata (newer)
//	/v1/cluster/replication-factor          POST SetReplicationFactor; 200 or 409
//	/v1/cluster/leave                       POST Leave; 200, 409, 503 or 504
//	/v1/ranges                              GET  GetRanges
//	/v1/ranges/{register|unregister}        POST RegisterKeyRange, RemoveKeyRange; 200, 400 or 409
//	/v1/ranges/{split|merge}                POST SplitRange, MergeRanges; 200, 400 or 409
//	/v1/backups                             GET  ListBackups
//	/v1/backups/{full|coordinated|incremental} POST Take...Backup
//	/v1/backups/{id}/chain                  GET  GetBackupChain
//	/v1/backups/validate-chain              POST ValidateChain
//	/v1/backups/gc                          POST RunBackupGarbageCollection
//	/v1/restore                             POST Restore
//
// /v1/raft is between Kahuna's servers, and not here.
//
// # Differences from Kahuna
//
//   - Enums are taken as numbers, as numbers in a string, and by name (decision
//     52); Kahuna refuses names. Answers carry numbers.
//   - try-set takes a null value and keeps it apart from an empty one, as the newest
//     clients ask (R19). The stored source refuses it.
//   - get-by-range reads its limit as 64 bits: no limit is anything below 1 or above
//     int32 (decision 29).
//   - What is wrong with a body that cannot be read is said in an
//     application/problem+json; Kahuna's 400, 404, 405, 413 and 415 have no body.
//   - /v1/cluster/health of a proxy, which is no member, is ready when it serves.
//   - /v1/backups/gc without dryRun removes nothing: it is a dry run. Kahuna answers 400.
package rest
