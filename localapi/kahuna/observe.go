package kahuna

import (
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// Observer hears of every request of the batch streams, which to a gRPC server are
// messages only. It is called concurrently and must not block.
type Observer interface {
	// Answered is told of each: the path of the rpc that asks the same by itself,
	// Kahuna's name of the code it was answered with, and how long that took, from
	// when it was read until its answer was ready to be written.
	Answered(method, result string, took time.Duration)
}

// nobody is the Observer of a Service without one.
type nobody struct{}

func (nobody) Answered(string, string, time.Duration) {}

// What an answer without a payload is called: its request had a type that is none.
const (
	methodUnknown = "unknown"
	resultNone    = "none"
	resultMixed   = "Mixed" // the items of one request ended in different ways
)

var kvMethods = map[pb.GrpcClientBatchType]string{
	pb.GrpcClientBatchType_TRY_SET_KEY_VALUE:              pb.KeyValuer_TrySetKeyValue_FullMethodName,
	pb.GrpcClientBatchType_TRY_SET_MANY_KEY_VALUE:         pb.KeyValuer_TrySetManyKeyValue_FullMethodName,
	pb.GrpcClientBatchType_TRY_EXTEND_KEY_VALUE:           pb.KeyValuer_TryExtendKeyValue_FullMethodName,
	pb.GrpcClientBatchType_TRY_DELETE_KEY_VALUE:           pb.KeyValuer_TryDeleteKeyValue_FullMethodName,
	pb.GrpcClientBatchType_TRY_DELETE_MANY_KEY_VALUE:      pb.KeyValuer_TryDeleteManyKeyValue_FullMethodName,
	pb.GrpcClientBatchType_TRY_GET_KEY_VALUE:              pb.KeyValuer_TryGetKeyValue_FullMethodName,
	pb.GrpcClientBatchType_TRY_EXISTS_KEY_VALUE:           pb.KeyValuer_TryExistsKeyValue_FullMethodName,
	pb.GrpcClientBatchType_TRY_EXECUTE_TRANSACTION_SCRIPT: pb.KeyValuer_TryExecuteTransactionScript_FullMethodName,
	pb.GrpcClientBatchType_TRY_ACQUIRE_EXCLUSIVE_LOCK:     pb.KeyValuer_TryAcquireExclusiveLock_FullMethodName,
	pb.GrpcClientBatchType_TRY_GET_BY_BUCKET:              pb.KeyValuer_GetByBucket_FullMethodName,
	pb.GrpcClientBatchType_TRY_SCAN_BY_PREFIX:             pb.KeyValuer_ScanAllByPrefix_FullMethodName,
	pb.GrpcClientBatchType_TRY_START_TRANSACTION:          pb.KeyValuer_StartTransaction_FullMethodName,
	pb.GrpcClientBatchType_TRY_COMMIT_TRANSACTION:         pb.KeyValuer_CommitTransaction_FullMethodName,
	pb.GrpcClientBatchType_TRY_ROLLBACK_TRANSACTION:       pb.KeyValuer_RollbackTransaction_FullMethodName,
}

var lockMethods = map[pb.GrpcLockClientBatchType]string{
	pb.GrpcLockClientBatchType_TYPE_TRY_LOCK:    pb.Locker_TryLock_FullMethodName,
	pb.GrpcLockClientBatchType_TYPE_EXTEND_LOCK: pb.Locker_TryExtendLock_FullMethodName,
	pb.GrpcLockClientBatchType_TYPE_UNLOCK:      pb.Locker_Unlock_FullMethodName,
	pb.GrpcLockClientBatchType_TYPE_GET_LOCK:    pb.Locker_GetLock_FullMethodName,
}

// Kahuna's names of the codes (keyvalue.md 1.1, locks-sequences-cluster-rest.md 2).
var (
	kvResults = map[pb.GrpcKeyValueResponseType]string{0: "Set", 1: "NotSet", 2: "Extended", 3: "Get", 4: "Deleted", 5: "Locked", 6: "Unlocked",
		7: "Prepared", 8: "Committed", 9: "RolledBack", 10: "Exists", 99: "Errored", 100: "InvalidInput", 101: "MustRetry", 102: "Aborted",
		103: "DoesNotExist", 104: "AlreadyLocked", 105: "PrefixLockUnsupportedOnRangedSpace", 108: "AdmissionRefused"}
	lockResults = map[pb.GrpcLockResponseType]string{0: "Locked", 1: "Busy", 2: "Extended", 3: "Unlocked", 4: "Got", 99: "Errored",
		100: "InvalidInput", 101: "MustRetry", 102: "LockDoesNotExist", 103: "InvalidOwner", 104: "Aborted"}
)

func (kvBatch) outcome(a *pb.GrpcBatchClientKeyValueResponse) (method, result string) {
	method, ok := kvMethods[a.GetType()]
	if !ok || a.GetPayload() == nil {
		return methodUnknown, resultNone
	}
	code := pb.GrpcKeyValueResponseType(-1)
	switch p := a.Payload.(type) {
	case *pb.GrpcBatchClientKeyValueResponse_TrySetManyKeyValue:
		return method, manyResults(p.TrySetManyKeyValue.GetItems())
	case *pb.GrpcBatchClientKeyValueResponse_TryDeleteManyKeyValue:
		return method, manyResults(p.TryDeleteManyKeyValue.GetItems())
	case *pb.GrpcBatchClientKeyValueResponse_TrySetKeyValue:
		code = p.TrySetKeyValue.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_TryGetKeyValue:
		code = p.TryGetKeyValue.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_TryDeleteKeyValue:
		code = p.TryDeleteKeyValue.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_TryExtendKeyValue:
		code = p.TryExtendKeyValue.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_TryExistsKeyValue:
		code = p.TryExistsKeyValue.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_TryExecuteTransactionScript:
		code = p.TryExecuteTransactionScript.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_TryAcquireExclusiveLock:
		code = p.TryAcquireExclusiveLock.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_GetByBucket:
		code = p.GetByBucket.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_ScanByPrefix:
		code = p.ScanByPrefix.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_StartTransaction:
		code = p.StartTransaction.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_CommitTransaction:
		code = p.CommitTransaction.GetType()
	case *pb.GrpcBatchClientKeyValueResponse_RollbackTransaction:
		code = p.RollbackTransaction.GetType()
	}
	return method, kvResults[code]
}

// manyResults is the code of all items, or that they differ.
func manyResults[T interface {
	GetType() pb.GrpcKeyValueResponseType
}](items []T) string {
	if len(items) == 0 {
		return resultNone
	}
	for _, one := range items[1:] {
		if one.GetType() != items[0].GetType() {
			return resultMixed
		}
	}
	return kvResults[items[0].GetType()]
}

func (lockBatch) outcome(a *pb.GrpcBatchClientLockResponse) (method, result string) {
	method, ok := lockMethods[a.GetType()]
	if !ok || a.GetPayload() == nil {
		return methodUnknown, resultNone
	}
	code := pb.GrpcLockResponseType(-1)
	switch p := a.Payload.(type) {
	case *pb.GrpcBatchClientLockResponse_TryLock:
		code = p.TryLock.GetType()
	case *pb.GrpcBatchClientLockResponse_ExtendLock:
		code = p.ExtendLock.GetType()
	case *pb.GrpcBatchClientLockResponse_Unlock:
		code = p.Unlock.GetType()
	case *pb.GrpcBatchClientLockResponse_GetLock:
		code = p.GetLock.GetType()
	}
	return method, lockResults[code]
}
