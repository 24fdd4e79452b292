package wire_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// session is a KahunaTransactionSession: it stays at the URL where it began, takes
// locks before what it writes, and when pessimistic before what it reads too, and is
// over after one commit or rollback.
type session struct {
	c           *client
	url         string
	tx          tx
	pessimistic bool
	timeoutMS   int32
	locked      map[string]bool
	over        bool
}

// sessionOptions are KahunaTransactionOptions.
type sessionOptions struct {
	pessimistic, async bool
	timeoutMS          int32 // 0: 5 s
	admissionMS        int32
}

func (c *client) begin(ctx context.Context, o sessionOptions) (*session, error) {
	s := &session{c: c, url: c.url(), pessimistic: o.pessimistic, timeoutMS: o.timeoutMS, locked: map[string]bool{}}
	req := &pb.GrpcStartTransactionRequest{CoordinatorKey: random() + random(), LockingType: pb.GrpcLockingType_LOCKING_TYPE_OPTIMISTIC,
		Timeout: o.timeoutMS, AsyncRelease: o.async, AdmissionWaitMs: o.admissionMS, AutoCommit: true, Priority: 3}
	if o.pessimistic {
		req.LockingType = pb.GrpcLockingType_LOCKING_TYPE_PESSIMISTIC
	}
	a, err := ask[*pb.GrpcStartTransactionResponse](ctx, c, s.url, "Failed to start a transaction", keyTries, req, 0)
	if err != nil {
		return nil, err
	}
	s.tx = tx{a, req.CoordinatorKey}
	if s.timeoutMS == 0 {
		s.timeoutMS = 5000
	}
	return s, nil
}

var errOver = errors.New("the session is over")

// lock takes the lock of a key, once. That another has it is Aborted.
func (s *session) lock(ctx context.Context, key string, d durability) error {
	name := d.String() + key
	if s.over {
		return errOver
	}
	if s.locked[name] {
		return nil
	}
	req := &pb.GrpcTryAcquireExclusiveLockRequest{Key: key, ExpiresMs: s.timeoutMS, Durability: d}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = s.tx.fields()
	if _, err := ask[*pb.GrpcTryAcquireExclusiveLockResponse](ctx, s.c, s.url, "Failed to acquire a lock", s.c.tries(s.tx), req, 5); err != nil {
		return lockError(err)
	}
	s.locked[name] = true
	return nil
}

func lockError(err error) error {
	var e *kahunaError
	if errors.As(err, &e) && (e.code == alreadyLocked || e.code == mustRetry) {
		return &kahunaError{e.what, aborted}
	}
	return err
}

func (s *session) set(ctx context.Context, key, value string, ms int32, d durability) (entry, error) {
	if err := s.lock(ctx, key, d); err != nil {
		return entry{}, err
	}
	return s.c.setAt(ctx, s.url, s.tx, key, []byte(value), d, write{ms: ms})
}

func (s *session) get(ctx context.Context, key string, d durability) (entry, error) {
	if s.over {
		return entry{}, errOver
	}
	if s.pessimistic {
		if err := s.lock(ctx, key, d); err != nil {
			return entry{}, err
		}
	}
	return s.c.getAt(ctx, s.url, s.tx, key, -1, d)
}

func (s *session) delete(ctx context.Context, key string, d durability) (entry, error) {
	if err := s.lock(ctx, key, d); err != nil {
		return entry{}, err
	}
	return s.c.deleteAt(ctx, s.url, s.tx, key, d)
}

func (s *session) extend(ctx context.Context, key string, ms int32, d durability) (entry, error) {
	if err := s.lock(ctx, key, d); err != nil {
		return entry{}, err
	}
	return s.c.extendAt(ctx, s.url, s.tx, key, ms, d)
}

func (s *session) deleteMany(ctx context.Context, d durability, keys ...string) ([]deleted, error) {
	var items []*pb.GrpcTryDeleteManyKeyValueRequestItem
	for _, key := range keys {
		if err := s.lock(ctx, key, d); err != nil {
			return nil, err
		}
		items = append(items, &pb.GrpcTryDeleteManyKeyValueRequestItem{Key: key, Durability: d})
	}
	return s.c.deleteManyAt(ctx, s.url, s.tx, items...)
}

func (s *session) bucket(ctx context.Context, prefix string, d durability) ([]entry, error) {
	if s.pessimistic && !s.locked["bucket "+prefix] {
		req := &pb.GrpcTryAcquireExclusivePrefixLockRequest{PrefixKey: prefix, ExpiresMs: s.timeoutMS, Durability: d}
		req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = s.tx.fields()
		if _, err := ask[*pb.GrpcTryAcquireExclusivePrefixLockResponse](ctx, s.c, s.url, "Failed to acquire a prefix lock", keyTries, req, 5); err != nil {
			return nil, lockError(err)
		}
		s.locked["bucket "+prefix] = true
	}
	return s.c.bucketAt(ctx, s.url, s.tx, prefix, d)
}

// page reads a range, both ends included; nil is open.
func (s *session) page(ctx context.Context, prefix string, from, to *string, d durability) ([]entry, error) {
	if s.pessimistic {
		req := &pb.GrpcTryAcquireExclusiveRangeLockRequest{Prefix: prefix, StartKey: from, StartInclusive: true, EndKey: to, EndInclusive: true, ExpiresMs: s.timeoutMS, Durability: d}
		req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = s.tx.fields()
		if _, err := ask[*pb.GrpcTryAcquireExclusiveRangeLockResponse](ctx, s.c, s.url, "Failed to acquire a range lock", keyTries, req, 5); err != nil {
			return nil, lockError(err)
		}
	}
	req := &pb.GrpcGetByRangeRequest{Prefix: prefix, StartKey: from, StartInclusive: true, EndKey: to, EndInclusive: true, Limit: 1<<31 - 1, Durability: d}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = s.tx.fields()
	a, err := ask[*pb.GrpcGetByRangeResponse](ctx, s.c, s.url, "Failed to get a range", keyTries, req, 3, missing)
	return entriesOf(a.GetItems()), err
}

// commit makes it so, or is Aborted, which ends the session, or MustRetry.
func (s *session) commit(ctx context.Context) error {
	if s.over {
		return errOver
	}
	req := &pb.GrpcCommitTransactionRequest{}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, _, _ = s.tx.fields()
	_, err := ask[*pb.GrpcCommitTransactionResponse](ctx, s.c, s.url, "Failed to commit", keyTries, req, 8)
	var e *kahunaError
	s.over = err == nil || errors.As(err, &e) && e.code == aborted
	return err
}

func (s *session) rollback(ctx context.Context) error {
	if s.over {
		return errOver
	}
	req := &pb.GrpcRollbackTransactionRequest{}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, _, _ = s.tx.fields()
	_, err := ask[*pb.GrpcRollbackTransactionResponse](ctx, s.c, s.url, "Failed to roll back", keyTries, req, 9)
	s.over = err == nil
	return err
}

// dispose rolls back what is not over.
func (s *session) dispose(ctx context.Context) error {
	if s.over {
		return nil
	}
	return s.rollback(ctx)
}

// retryable is RetryableTransaction: up to ten sessions, with growing pauses, and an
// aborted one is disposed of after its pause.
func (c *client) retryable(ctx context.Context, o sessionOptions, body func(context.Context, *session) error) error {
	for try := 1; ; try++ {
		s, err := c.begin(ctx, o)
		if err != nil {
			return err
		}
		err = body(ctx, s)
		var e *kahunaError
		again := errors.As(err, &e) && (e.code == aborted || e.code == mustRetry || e.code == alreadyLocked) && try < 10
		if again {
			err = pause(ctx, time.Duration(1+rand.IntN(min(500, 50<<try)))*time.Millisecond)
		}
		if err = errors.Join(err, s.dispose(context.WithoutCancel(ctx))); err != nil || !again {
			return err
		}
	}
}
