package wire_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// Codes that are alike in locks and keys (keyvalue.md 1.1).
const (
	errored, invalidInput, mustRetry, aborted, missing, alreadyLocked, refused = 99, 100, 101, 102, 103, 104, 108
)

// kahunaError is a KahunaException: the server's code.
type kahunaError struct {
	what string
	code int32
}

func (e *kahunaError) Error() string { return fmt.Sprintf("%s: %d", e.what, e.code) }

// client is KahunaClient: it asks its URLs in turn, and asks again what was answered
// MustRetry.
type client struct {
	transport
	urls []string
	turn atomic.Uint32
}

func (c *client) url() string { return c.urls[int(c.turn.Add(1))%len(c.urls)] }

// random is part of a name.
func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// codeOf is the Type of an answer.
func codeOf(m proto.Message) int32 {
	f := m.ProtoReflect().Descriptor().Fields().ByName("Type")
	if f == nil {
		return 0
	}
	return int32(m.ProtoReflect().Get(f).Enum())
}

// keyTries is how often a request about keys is sent in all while it is answered
// MustRetry; in a session over gRPC a point request is sent once.
const keyTries = 5

// ask sends a request, at most tries times, and returns its answer if its code is
// one of want.
func ask[A proto.Message](ctx context.Context, c *client, url, what string, tries int, req proto.Message, want ...int32) (A, error) {
	var none A
	for try := 1; ; try++ {
		m, err := c.call(ctx, url, req)
		if err != nil {
			return none, fmt.Errorf("%s: %w", what, err)
		}
		answer := m.(A)
		code := codeOf(answer)
		if slices.Contains(want, code) {
			return answer, nil
		}
		if code != mustRetry || try >= tries {
			return answer, &kahunaError{what, code}
		}
		if err := pause(ctx, time.Duration(min(try, 10))*time.Millisecond); err != nil {
			return none, err
		}
	}
}

// entry is a KahunaKeyValue.
type entry struct {
	success  bool
	key      string
	value    []byte // nil: null
	revision int64
}

// tx is what a request has of its session; the zero value is none.
type tx struct {
	id          *pb.GrpcStartTransactionResponse
	coordinator string
}

var operations atomic.Uint64

func (t tx) fields() (node int32, physical int64, counter uint32, coordinator string, high, low uint64) {
	if t.id == nil {
		return
	}
	return t.id.TransactionIdNode, t.id.TransactionIdPhysical, t.id.TransactionIdCounter, t.coordinator, 7, operations.Add(1)
}

// tries is how often a point request is sent.
func (c *client) tries(t tx) int {
	if _, over := c.transport.(*overGRPC); over && t.id != nil {
		return 1
	}
	return keyTries
}

// write is what a set asks beside key and value.
type write struct {
	ms           int32
	flags        pb.GrpcKeyValueFlags
	compareValue []byte
	compareRev   int64
}

const (
	ifExists    = pb.GrpcKeyValueFlags_SET_IF_EXISTS
	ifNotExists = pb.GrpcKeyValueFlags_SET_IF_NOT_EXISTS
	ifValue     = pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_VALUE
	ifRevision  = pb.GrpcKeyValueFlags_SET_IF_EQUAL_TO_REVISION
)

type durability = pb.GrpcKeyValueDurability

func (c *client) setAt(ctx context.Context, url string, t tx, key string, value []byte, d durability, w write) (entry, error) {
	req := &pb.GrpcTrySetKeyValueRequest{Key: key, Value: value, ExpiresMs: w.ms, Flags: w.flags, CompareValue: w.compareValue, CompareRevision: w.compareRev, Durability: d}
	if req.Flags == 0 {
		req.Flags = pb.GrpcKeyValueFlags_SET
	}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = t.fields()
	a, err := ask[*pb.GrpcTrySetKeyValueResponse](ctx, c, url, "Failed to set key/value", c.tries(t), req, 0, 1)
	return entry{success: err == nil && codeOf(a) == 0, key: key, value: value, revision: a.GetRevision()}, err
}

func (c *client) getAt(ctx context.Context, url string, t tx, key string, revision int64, d durability) (entry, error) {
	req := &pb.GrpcTryGetKeyValueRequest{Key: key, Revision: revision, Durability: d}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = t.fields()
	a, err := ask[*pb.GrpcTryGetKeyValueResponse](ctx, c, url, "Failed to get key/value", c.tries(t), req, 3, missing)
	return entry{success: err == nil && codeOf(a) == 3, key: key, value: a.GetValue(), revision: a.GetRevision()}, err
}

func (c *client) existsAt(ctx context.Context, url string, t tx, key string, d durability) (entry, error) {
	req := &pb.GrpcTryExistsKeyValueRequest{Key: key, Revision: -1, Durability: d}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = t.fields()
	a, err := ask[*pb.GrpcTryExistsKeyValueResponse](ctx, c, url, "Failed to check a key/value", c.tries(t), req, 10, missing)
	return entry{success: err == nil && codeOf(a) == 10, key: key, revision: a.GetRevision()}, err
}

func (c *client) deleteAt(ctx context.Context, url string, t tx, key string, d durability) (entry, error) {
	req := &pb.GrpcTryDeleteKeyValueRequest{Key: key, Durability: d}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = t.fields()
	a, err := ask[*pb.GrpcTryDeleteKeyValueResponse](ctx, c, url, "Failed to delete key/value", c.tries(t), req, 4, missing)
	return entry{success: err == nil && codeOf(a) == 4, key: key, revision: a.GetRevision()}, err
}

func (c *client) extendAt(ctx context.Context, url string, t tx, key string, ms int32, d durability) (entry, error) {
	req := &pb.GrpcTryExtendKeyValueRequest{Key: key, ExpiresMs: ms, Durability: d}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = t.fields()
	a, err := ask[*pb.GrpcTryExtendKeyValueResponse](ctx, c, url, "Failed to extend key/value", c.tries(t), req, 2, missing)
	return entry{success: err == nil && codeOf(a) == 2, key: key, revision: a.GetRevision()}, err
}

// deleted is one item of a delete-many.
type deleted struct {
	key        string
	code       int32
	durability durability
}

func (c *client) deleteManyAt(ctx context.Context, url string, t tx, items ...*pb.GrpcTryDeleteManyKeyValueRequestItem) ([]deleted, error) {
	req := &pb.GrpcTryDeleteManyKeyValueRequest{Items: items}
	node, physical, counter, coordinator, high, low := t.fields()
	for _, one := range items {
		one.TransactionIdNode, one.TransactionIdPhysical, one.TransactionIdCounter = node, physical, counter
	}
	if t.id != nil {
		req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = &coordinator, &high, &low
	}
	m, err := c.call(ctx, url, req)
	if err != nil {
		return nil, err
	}
	var out []deleted
	for _, one := range m.(*pb.GrpcTryDeleteManyKeyValueResponse).Items {
		out = append(out, deleted{one.Key, int32(one.Type), one.Durability})
	}
	return out, nil
}

func (c *client) bucketAt(ctx context.Context, url string, t tx, prefix string, d durability) ([]entry, error) {
	req := &pb.GrpcGetByBucketRequest{PrefixKey: prefix, Durability: d}
	req.TransactionIdNode, req.TransactionIdPhysical, req.TransactionIdCounter, req.CoordinatorKey, req.OperationIdHigh, req.OperationIdLow = t.fields()
	a, err := ask[*pb.GrpcGetByBucketResponse](ctx, c, url, "Failed to get by bucket", keyTries, req, 3, missing)
	return entriesOf(a.GetItems()), err
}

func entriesOf(items []*pb.GrpcKeyValueByPrefixItemResponse) []entry {
	var out []entry
	for _, one := range items {
		out = append(out, entry{true, one.Key, one.Value, one.Revision})
	}
	slices.SortFunc(out, func(a, b entry) int { return cmpText(a.key, b.key) })
	return out
}

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (c *client) scan(ctx context.Context, prefix string, d durability) ([]entry, error) {
	a, err := ask[*pb.GrpcScanAllByPrefixResponse](ctx, c, c.url(), "Failed to scan", keyTries, &pb.GrpcScanAllByPrefixRequest{PrefixKey: prefix, Durability: d}, 3, missing)
	return entriesOf(a.GetItems()), err
}

// script runs a script. A code from 99 on, but for a missing key, is an error with
// the server's reason.
func (c *client) script(ctx context.Context, text string, parameters ...string) (*pb.GrpcTryExecuteTransactionScriptResponse, error) {
	req := &pb.GrpcTryExecuteTransactionScriptRequest{Script: []byte(text), Priority: 3}
	for i := 0; i < len(parameters); i += 2 {
		req.Parameters = append(req.Parameters, &pb.GrpcKeyValueParameter{Key: parameters[i], Value: &parameters[i+1]})
	}
	want := make([]int32, 99, 100)
	for i := range want {
		want[i] = int32(i)
	}
	a, err := ask[*pb.GrpcTryExecuteTransactionScriptResponse](ctx, c, c.url(), "script", keyTries, req, append(want, missing)...)
	if e, ok := err.(*kahunaError); ok {
		e.what = a.GetReason()
	}
	return a, err
}

// lock is a KahunaLock.
type lock struct {
	c          *client
	resource   string
	owner      []byte
	durability pb.GrpcLockDurability
	acquired   bool
	token      int64
}

// lockTries: a try-lock is sent again until ctx ends, the others for 30 s.
const lockTries = 1 << 30

func (c *client) tryLock(ctx context.Context, resource string, ms int32, d pb.GrpcLockDurability, owner []byte) (*lock, error) {
	if owner == nil {
		owner = []byte(random() + random()) // 32 hexadecimal digits
	}
	a, err := ask[*pb.GrpcTryLockResponse](ctx, c, c.url(), "Failed to lock", lockTries,
		&pb.GrpcTryLockRequest{Resource: resource, Owner: owner, ExpiresMs: ms, Durability: d}, 0, 1)
	if err != nil {
		return nil, err
	}
	return &lock{c, resource, owner, d, codeOf(a) == 0, a.FencingToken}, nil
}

// waitLock tries until it has the lock or wait is over: one owner for all tries.
func (c *client) waitLock(ctx context.Context, resource string, ms int32, waitFor, retry time.Duration, d pb.GrpcLockDurability) (*lock, error) {
	owner := []byte(random() + random())
	var l *lock
	for start := time.Now(); time.Since(start) < waitFor; {
		var err error
		if l, err = c.tryLock(ctx, resource, ms, d, owner); err != nil || l.acquired {
			return l, err
		}
		if err := pause(ctx, max(100*time.Millisecond, retry)); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (c *client) unlock(ctx context.Context, resource string, owner []byte, d pb.GrpcLockDurability) (bool, error) {
	want := []int32{3, 102}
	if _, over := c.transport.(*overGRPC); over {
		want = append(want, 103) // over REST an exception
	}
	a, err := ask[*pb.GrpcUnlockResponse](ctx, c, c.url(), "Failed to unlock", lockTries, &pb.GrpcUnlockRequest{Resource: resource, Owner: owner, Durability: d}, want...)
	return err == nil && codeOf(a) == 3, err
}

// dispose gives the lock back, if it was got.
func (l *lock) dispose(ctx context.Context) error {
	if !l.acquired {
		return nil
	}
	_, err := l.c.unlock(ctx, l.resource, l.owner, l.durability)
	return err
}

func (l *lock) extend(ctx context.Context, ms int32) (token int64, err error) {
	a, err := ask[*pb.GrpcExtendLockResponse](ctx, l.c, l.c.url(), "Failed to extend the lock", lockTries,
		&pb.GrpcExtendLockRequest{Resource: l.resource, Owner: l.owner, ExpiresMs: ms, Durability: l.durability}, 2)
	return a.GetFencingToken(), err
}

func (c *client) lockInfo(ctx context.Context, resource string, d pb.GrpcLockDurability) (*pb.GrpcGetLockResponse, error) {
	return ask[*pb.GrpcGetLockResponse](ctx, c, c.url(), "Failed to get the lock", lockTries, &pb.GrpcGetLockRequest{Resource: resource, Durability: d}, 4)
}
