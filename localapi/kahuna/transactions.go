package kahuna

import (
	"context"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
)

// StartTransaction begins a session; its id is the label of its first command.
func (s *Service) StartTransaction(ctx context.Context, req *pb.GrpcStartTransactionRequest) (*pb.GrpcStartTransactionResponse, error) {
	if !validStart(req) {
		return &pb.GrpcStartTransactionResponse{Type: kvInvalid}, nil
	}
	if s.needSomewhere(ctx, policy.Read) != nil {
		if err := s.needSomewhere(ctx, policy.Write); err != nil {
			return nil, err
		}
	}
	// The leader clamps the wait; the answer must find its caller still waiting.
	admission := min(time.Duration(max(req.AdmissionWaitMs, 0))*time.Millisecond, maxAdmissionWait)
	ctx, cancel := s.boundBy(ctx, s.cfg.LeaderWait+admission)
	defer cancel()
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_TxStart{TxStart: &replication.TxStart{
		CoordinatorKey: req.CoordinatorKey, Locking: replication.TxLocking(req.LockingType), TimeoutMs: int64(req.Timeout),
		AsyncRelease: req.AsyncRelease, AutoCommit: req.AutoCommit,
		ValidateReads: req.ReadValidation == pb.GrpcReadValidation_READ_VALIDATION_TRACK_AND_VALIDATE,
		Durable:       req.DecisionDurability == pb.GrpcDecisionDurability_DECISION_DURABILITY_DURABLE,
		ReadTimestamp: stamp(req.ReadTimestampNode, req.ReadTimestampPhysical, req.ReadTimestampCounter),
		Priority:      priority(req.Priority), AdmissionWaitMs: int64(req.AdmissionWaitMs),
		Yield: req.ConflictPolicy == pb.GrpcTransactionConflictPolicy_TRANSACTION_CONFLICT_POLICY_YIELD}}})
	t, err := kvOutcome(a, err, kvSet)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcStartTransactionResponse{Type: t}
	out.TransactionIdNode, out.TransactionIdPhysical, out.TransactionIdCounter = label(a.GetTxStarted().GetId())
	return out, nil
}

// validStart: unknown numbers are refused, but for a priority and a policy, which
// are then normal (T1, T3, T4).
func validStart(req *pb.GrpcStartTransactionRequest) bool {
	_, locking := pb.GrpcLockingType_name[int32(req.GetLockingType())]
	_, validation := pb.GrpcReadValidation_name[int32(req.GetReadValidation())]
	_, decision := pb.GrpcDecisionDurability_name[int32(req.GetDecisionDurability())]
	return req.GetCoordinatorKey() != "" && locking && validation && decision
}

// priority takes an unknown one for normal. The numbers are the same.
func priority(p pb.GrpcTransactionPriority) replication.TxPriority {
	if _, known := pb.GrpcTransactionPriority_name[int32(p)]; !known {
		return replication.TxPriority_TX_PRIORITY_UNSPECIFIED
	}
	return replication.TxPriority(p)
}

// CommitTransaction ends a session with its writes, or says why it never will.
func (s *Service) CommitTransaction(ctx context.Context, req *pb.GrpcCommitTransactionRequest) (*pb.GrpcCommitTransactionResponse, error) {
	t, anchor, err := s.endTransaction(ctx, req, true)
	if err != nil {
		return nil, err
	}
	out := &pb.GrpcCommitTransactionResponse{Type: t}
	if anchor != "" {
		out.RecordAnchorKey = &anchor
	}
	return out, nil
}

// RollbackTransaction ends a session without its writes.
func (s *Service) RollbackTransaction(ctx context.Context, req *pb.GrpcRollbackTransactionRequest) (*pb.GrpcRollbackTransactionResponse, error) {
	t, _, err := s.endTransaction(ctx, req, false)
	if err != nil {
		return nil, err
	}
	return &pb.GrpcRollbackTransactionResponse{Type: t}, nil
}

type transactionEnd interface {
	GetCoordinatorKey() string
	GetTransactionIdNode() int32
	GetTransactionIdPhysical() int64
	GetTransactionIdCounter() uint32
}

// endTransaction asks for an end and returns how the session ended: the first
// end decides, and is told to whoever asks again (T16).
func (s *Service) endTransaction(ctx context.Context, req transactionEnd, commit bool) (pb.GrpcKeyValueResponseType, string, error) {
	id := stamp(req.GetTransactionIdNode(), req.GetTransactionIdPhysical(), req.GetTransactionIdCounter())
	if req.GetCoordinatorKey() == "" {
		return kvInvalid, "", nil
	}
	if id == nil {
		return kvErrored, "", nil
	}
	a, err := s.ask(ctx, &replication.Request{Op: &replication.Request_TxEnd{TxEnd: &replication.TxEnd{
		Tx: &replication.TxRef{Id: id, CoordinatorKey: req.GetCoordinatorKey()}, Commit: commit}}})
	if retries(err) {
		return kvRetry, "", nil
	}
	if err != nil {
		return kvErrored, "", err
	}
	ended := a.GetTxEnded()
	switch ended.GetOutcome() {
	case replication.TxOutcome_TX_OUTCOME_COMMITTED:
		return kvCommitted, ended.GetRecordAnchorKey(), nil
	case replication.TxOutcome_TX_OUTCOME_ROLLED_BACK:
		return kvRolledBack, "", nil
	case replication.TxOutcome_TX_OUTCOME_ABORTED:
		return kvAborted, ended.GetRecordAnchorKey(), nil
	}
	if a.GetCode() == replication.Code_CODE_NOT_FOUND || a.GetCode() == replication.Code_CODE_OK {
		return kvErrored, "", nil // never heard of, or long forgotten (T15)
	}
	return kvType(a.GetCode(), kvErrored), "", nil
}
