package rest

import (
	"context"
	"encoding/json"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// priorityNormal is what a script without a priority has. A session without one is
// in the background (R25).
const priorityNormal priority = 2

// scriptRequest is KahunaTxKeyValueRequest.
type scriptRequest struct {
	Hash       *string         `json:"hash"`
	Script     payload         `json:"script"`
	Parameters list[parameter] `json:"parameters"`
	Priority   priority        `json:"priority"`
}

type parameter struct {
	Key   *string `json:"key"`
	Value *string `json:"value"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (in *scriptRequest) UnmarshalJSON(raw []byte) error {
	type plain scriptRequest
	in.Priority = priorityNormal
	return json.Unmarshal(raw, (*plain)(in))
}

// scriptResponse is KahunaTxKeyValueResponse. Value and revision repeat those of
// the first of values; expires is never filled (R25).
type scriptResponse struct {
	ServedFrom *string       `json:"servedFrom"`
	Type       int32         `json:"type"`
	Value      payload       `json:"value"`
	Revision   int64         `json:"revision"`
	Expires    hlc           `json:"expires"`
	Reason     *string       `json:"reason"`
	Values     []scriptValue `json:"values"`
}

type scriptValue struct {
	Key          string  `json:"key"`
	Value        payload `json:"value"`
	Revision     int64   `json:"revision"`
	Expires      hlc     `json:"expires"`
	LastModified hlc     `json:"lastModified"`
}

// startRequest is KahunaStartTransactionRequest, with the newer conflict policy.
type startRequest struct {
	CoordinatorKey     *string            `json:"coordinatorKey"`
	Timeout            int32Value         `json:"timeout"`
	AdmissionWaitMs    int32Value         `json:"admissionWaitMs"`
	LockingType        locking            `json:"lockingType"`
	AsyncRelease       boolValue          `json:"asyncRelease"`
	AutoCommit         boolValue          `json:"autoCommit"`
	ReadValidation     readValidation     `json:"readValidation"`
	DecisionDurability decisionDurability `json:"decisionDurability"`
	Priority           priority           `json:"priority"`
	ConflictPolicy     conflictPolicy     `json:"conflictPolicy"`
	ReadTimestamp      hlc                `json:"readTimestamp"`
}

// startResponse is KahunaStartTransactionResponse.
type startResponse struct {
	ServedFrom    *string `json:"servedFrom"`
	Type          int32   `json:"type"`
	TransactionID hlc     `json:"transactionId"`
}

// endRequest is KahunaCommitTransactionRequest, which rollback takes too.
type endRequest struct {
	CoordinatorKey  *string `json:"coordinatorKey"`
	TransactionID   hlc     `json:"transactionId"`
	RecordAnchorKey *string `json:"recordAnchorKey"`
}

// endResponse is KahunaCommitTransactionResponse.
type endResponse struct {
	ServedFrom      *string `json:"servedFrom"`
	Type            int32   `json:"type"`
	RecordAnchorKey *string `json:"recordAnchorKey"`
}

// keyLockRequest is KahunaAcquireKeyValueLockRequest; key is a prefix for a prefix
// lock.
type keyLockRequest struct {
	transaction
	Key        *string    `json:"key"`
	ExpiresMs  int32Value `json:"expiresMs"`
	Durability durability `json:"durability"`
}

// keyReleaseRequest is KahunaReleaseKeyValueLockRequest.
type keyReleaseRequest struct {
	TransactionID hlc        `json:"transactionId"`
	Key           *string    `json:"key"`
	Durability    durability `json:"durability"`
}

// rangeLockRequest is KahunaAcquireRangeLockRequest.
type rangeLockRequest struct {
	transaction
	bounds
	ExpiresMs  int32Value `json:"expiresMs"`
	Durability durability `json:"durability"`
	Mode       lockMode   `json:"mode"`
}

// rangeReleaseRequest is KahunaReleaseRangeLockRequest.
type rangeReleaseRequest struct {
	TransactionID hlc `json:"transactionId"`
	bounds
	Durability durability `json:"durability"`
}

// keyLockResponse is KahunaKeyValueLockResponse.
type keyLockResponse struct {
	ServedFrom          *string `json:"servedFrom"`
	Type                int32   `json:"type"`
	HolderTransactionID hlc     `json:"holderTransactionId"`
}

func transactionRoutes() []route {
	return []route{
		post("/v1/kv/try-execute-tx-script", keyMustRetry, executeScript),
		post("/v1/kv/start-tx-session", keyMustRetry, startTransaction),
		post("/v1/kv/commit-tx-session", keyMustRetry, commitTransaction),
		post("/v1/kv/rollback-tx-session", keyMustRetry, rollbackTransaction),
		post("/v1/kv/try-acquire-exclusive-lock", keyMustRetry, acquireKeyLock),
		post("/v1/kv/try-acquire-prefix-lock", keyMustRetry, acquirePrefixLock),
		post("/v1/kv/try-release-prefix-lock", keyMustRetry, releasePrefixLock),
		post("/v1/kv/try-acquire-range-lock", keyMustRetry, acquireRangeLock),
		post("/v1/kv/try-release-range-lock", keyMustRetry, releaseRangeLock),
	}
}

func executeScript(ctx context.Context, s Service, in *scriptRequest) (answer, error) {
	if in.Script == nil {
		return ok(scriptResponse{Type: keyInvalidInput})
	}
	req := &pb.GrpcTryExecuteTransactionScriptRequest{Hash: in.Hash, Script: in.Script,
		Priority: pb.GrpcTransactionPriority(offset(int32(in.Priority), 4))}
	for _, p := range in.Parameters {
		req.Parameters = append(req.Parameters, &pb.GrpcKeyValueParameter{Key: text(p.Key), Value: p.Value})
	}
	a, err := s.TryExecuteTransactionScript(ctx, req)
	if err != nil {
		return answer{}, err
	}
	body := scriptResponse{ServedFrom: a.ServedFrom, Type: int32(a.GetType()), Reason: a.Reason}
	for _, v := range a.GetValues() {
		body.Values = append(body.Values, scriptValue{v.GetKey(), v.Value, v.GetRevision(),
			stamp(v.GetExpiresNode(), v.GetExpiresPhysical(), v.GetExpiresCounter()),
			stamp(v.GetLastModifiedNode(), v.GetLastModifiedPhysical(), v.GetLastModifiedCounter())})
	}
	if len(body.Values) > 0 {
		body.Value, body.Revision = body.Values[0].Value, body.Values[0].Revision
	}
	return ok(body)
}

func startTransaction(ctx context.Context, s Service, in *startRequest) (answer, error) {
	a, err := s.StartTransaction(ctx, &pb.GrpcStartTransactionRequest{
		CoordinatorKey: text(in.CoordinatorKey), LockingType: pb.GrpcLockingType(in.LockingType), Timeout: int32(in.Timeout),
		AsyncRelease: bool(in.AsyncRelease), AutoCommit: bool(in.AutoCommit), ReadValidation: pb.GrpcReadValidation(in.ReadValidation),
		DecisionDurability: pb.GrpcDecisionDurability(in.DecisionDurability),
		ReadTimestampNode:  in.ReadTimestamp.node(), ReadTimestampPhysical: in.ReadTimestamp.physical(), ReadTimestampCounter: in.ReadTimestamp.counter(),
		Priority: pb.GrpcTransactionPriority(offset(int32(in.Priority), 4)), AdmissionWaitMs: int32(in.AdmissionWaitMs),
		ConflictPolicy: pb.GrpcTransactionConflictPolicy(offset(int32(in.ConflictPolicy), 1))})
	if err != nil {
		return answer{}, err
	}
	return ok(startResponse{a.ServedFrom, int32(a.GetType()), stamp(a.GetTransactionIdNode(), a.GetTransactionIdPhysical(), a.GetTransactionIdCounter())})
}

func commitTransaction(ctx context.Context, s Service, in *endRequest) (answer, error) {
	a, err := s.CommitTransaction(ctx, &pb.GrpcCommitTransactionRequest{CoordinatorKey: text(in.CoordinatorKey),
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		RecordAnchorKey: in.RecordAnchorKey})
	if err != nil {
		return answer{}, err
	}
	return ok(endResponse{a.ServedFrom, int32(a.GetType()), a.RecordAnchorKey})
}

func rollbackTransaction(ctx context.Context, s Service, in *endRequest) (answer, error) {
	a, err := s.RollbackTransaction(ctx, &pb.GrpcRollbackTransactionRequest{CoordinatorKey: text(in.CoordinatorKey),
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		RecordAnchorKey: in.RecordAnchorKey})
	if err != nil {
		return answer{}, err
	}
	return ok(endResponse{ServedFrom: a.ServedFrom, Type: int32(a.GetType())})
}

func acquireKeyLock(ctx context.Context, s Service, in *keyLockRequest) (answer, error) {
	a, err := s.TryAcquireExclusiveLock(ctx, &pb.GrpcTryAcquireExclusiveLockRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Key: text(in.Key), ExpiresMs: int32(in.ExpiresMs), Durability: pb.GrpcKeyValueDurability(in.Durability),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(keyLockResponse{nil, int32(a.GetType()),
		stamp(a.GetHolderTransactionIdNode(), a.GetHolderTransactionIdPhysical(), a.GetHolderTransactionIdCounter())})
}

func acquirePrefixLock(ctx context.Context, s Service, in *keyLockRequest) (answer, error) {
	a, err := s.TryAcquireExclusivePrefixLock(ctx, &pb.GrpcTryAcquireExclusivePrefixLockRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		PrefixKey: text(in.Key), ExpiresMs: int32(in.ExpiresMs), Durability: pb.GrpcKeyValueDurability(in.Durability),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(keyLockResponse{nil, int32(a.GetType()),
		stamp(a.GetHolderTransactionIdNode(), a.GetHolderTransactionIdPhysical(), a.GetHolderTransactionIdCounter())})
}

func releasePrefixLock(ctx context.Context, s Service, in *keyReleaseRequest) (answer, error) {
	a, err := s.TryReleaseExclusivePrefixLock(ctx, &pb.GrpcTryReleaseExclusivePrefixLockRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		PrefixKey: text(in.Key), Durability: pb.GrpcKeyValueDurability(in.Durability)})
	if err != nil {
		return answer{}, err
	}
	return ok(keyLockResponse{Type: int32(a.GetType())})
}

func acquireRangeLock(ctx context.Context, s Service, in *rangeLockRequest) (answer, error) {
	a, err := s.TryAcquireExclusiveRangeLock(ctx, &pb.GrpcTryAcquireExclusiveRangeLockRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Prefix: text(in.Prefix), StartKey: in.StartKey, StartInclusive: bool(in.StartInclusive), EndKey: in.EndKey, EndInclusive: bool(in.EndInclusive),
		ExpiresMs: int32(in.ExpiresMs), Durability: pb.GrpcKeyValueDurability(in.Durability), Mode: pb.GrpcRangeLockMode(in.Mode),
		CoordinatorKey: text(in.CoordinatorKey), OperationIdHigh: uint64(in.OperationIDHigh), OperationIdLow: uint64(in.OperationIDLow)})
	if err != nil {
		return answer{}, err
	}
	return ok(keyLockResponse{nil, int32(a.GetType()),
		stamp(a.GetHolderTransactionIdNode(), a.GetHolderTransactionIdPhysical(), a.GetHolderTransactionIdCounter())})
}

func releaseRangeLock(ctx context.Context, s Service, in *rangeReleaseRequest) (answer, error) {
	a, err := s.TryReleaseExclusiveRangeLock(ctx, &pb.GrpcTryReleaseExclusiveRangeLockRequest{
		TransactionIdNode: in.TransactionID.node(), TransactionIdPhysical: in.TransactionID.physical(), TransactionIdCounter: in.TransactionID.counter(),
		Prefix: text(in.Prefix), StartKey: in.StartKey, StartInclusive: bool(in.StartInclusive), EndKey: in.EndKey, EndInclusive: bool(in.EndInclusive),
		Durability: pb.GrpcKeyValueDurability(in.Durability)})
	if err != nil {
		return answer{}, err
	}
	return ok(keyLockResponse{Type: int32(a.GetType())})
}
