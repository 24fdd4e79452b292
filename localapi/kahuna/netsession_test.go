package kahuna_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// netSession drives a session as KahunaTransactionSession of the .NET client does:
// a write locks its key first whatever the locking, a read does under pessimistic
// locking, a bucket or range read locks what it reads, and each once. A lock that
// is refused fails the call with Aborted, without another try.
type netSession struct {
	t           *testing.T
	rig         *anomaly
	start       *pb.GrpcStartTransactionResponse
	key         string
	pessimistic bool
	timeoutMS   int32
	locked      map[string]bool
}

// anomaly is one case of TestTransactionLockingAnomalies: two clients' streams to
// one Service, and the durability of all keys.
type anomaly struct {
	t          *testing.T
	q          *quorum
	kv         *kvStream
	rpc        pb.KeyValuerClient
	durability pb.GrpcKeyValueDurability
	sessions   int
}

func newAnomaly(t *testing.T, durability pb.GrpcKeyValueDurability) *anomaly {
	q := newQuorum(t)
	cc := newRig(t, nethttp, kahuna.Config{Coordinator: q}).dial()
	return &anomaly{t: t, q: q, kv: openKV(t, cc), rpc: pb.NewKeyValuerClient(cc), durability: durability}
}

// begin opens a session. timeoutMS 0 is the client's default of 5 seconds.
func (a *anomaly) begin(pessimistic bool, timeoutMS int32, asyncRelease bool) *netSession {
	a.t.Helper()
	a.sessions++
	s := &netSession{t: a.t, rig: a, key: fmt.Sprintf("coordinator-%d", a.sessions), pessimistic: pessimistic, timeoutMS: timeoutMS, locked: map[string]bool{}}
	locking := pb.GrpcLockingType(1)
	if pessimistic {
		locking = 0
	}
	s.start = ask[*pb.GrpcStartTransactionResponse](a.t, a.kv, &pb.GrpcStartTransactionRequest{
		CoordinatorKey: s.key, LockingType: locking, Timeout: timeoutMS, AsyncRelease: asyncRelease, AutoCommit: true, Priority: 3})
	if s.start.Type != 0 {
		a.t.Fatalf("start answered %v", s.start)
	}
	if s.timeoutMS == 0 {
		s.timeoutMS = 5000
	}
	return s
}

var operations struct {
	sync.Mutex
	last uint64
}

// in puts req into the session: its identity and an operation id of its own.
func in[T proto.Message](s *netSession, req T) T {
	operations.Lock()
	operations.last++
	op := operations.last
	operations.Unlock()
	m := req.ProtoReflect()
	fields := m.Descriptor().Fields()
	for name, v := range map[string]any{"TransactionIdNode": s.start.TransactionIdNode, "TransactionIdPhysical": s.start.TransactionIdPhysical,
		"TransactionIdCounter": s.start.TransactionIdCounter, "CoordinatorKey": s.key, "OperationIdHigh": uint64(7), "OperationIdLow": op} {
		m.Set(fields.ByTextName(name), protoreflect.ValueOf(v))
	}
	return req
}

// lock takes the lock of a key unless the session has it, and says whether it does.
func (s *netSession) lock(key string) bool {
	s.t.Helper()
	if !s.locked[key] {
		a := ask[*pb.GrpcTryAcquireExclusiveLockResponse](s.t, s.rig.kv, in(s, &pb.GrpcTryAcquireExclusiveLockRequest{
			Key: key, ExpiresMs: s.timeoutMS, Durability: s.rig.durability}))
		switch a.Type {
		case 5:
			s.locked[key] = true
		case 101, 104:
		default:
			s.t.Fatalf("the lock of %s answered %v", key, a)
		}
	}
	return s.locked[key]
}

// set says whether the write was taken; false is Aborted to the client.
func (s *netSession) set(key, value string) bool {
	s.t.Helper()
	if !s.lock(key) {
		return false
	}
	a := ask[*pb.GrpcTrySetKeyValueResponse](s.t, s.rig.kv, in(s, &pb.GrpcTrySetKeyValueRequest{
		Key: key, Value: []byte(value), Flags: 1, ExpiresMs: 120000, Durability: s.rig.durability}))
	if a.Type != 0 && a.Type != 101 && a.Type != 102 {
		s.t.Fatalf("set %s answered %v", key, a)
	}
	return a.Type == 0
}

// get says whether there is a value; Aborted is a no, after which commit says it.
func (s *netSession) get(key string) (string, bool) {
	s.t.Helper()
	if s.pessimistic && !s.lock(key) {
		return "", false
	}
	a := ask[*pb.GrpcTryGetKeyValueResponse](s.t, s.rig.kv, in(s, &pb.GrpcTryGetKeyValueRequest{Key: key, Revision: -1, Durability: s.rig.durability}))
	if a.Type != 3 && a.Type != 102 && a.Type != 103 {
		s.t.Fatalf("get %s answered %v", key, a)
	}
	return string(a.Value), a.Type == 3
}

func (s *netSession) delete(key string) bool {
	s.t.Helper()
	if !s.lock(key) {
		return false
	}
	return ask[*pb.GrpcTryDeleteKeyValueResponse](s.t, s.rig.kv, in(s, &pb.GrpcTryDeleteKeyValueRequest{Key: key, Durability: s.rig.durability})).Type == 4
}

// bucket fails the test when the prefix lock is refused: the suite would.
func (s *netSession) bucket(prefix string) []string {
	s.t.Helper()
	if s.pessimistic && !s.locked["bucket "+prefix] {
		a, err := s.rig.rpc.TryAcquireExclusivePrefixLock(s.t.Context(), in(s, &pb.GrpcTryAcquireExclusivePrefixLockRequest{
			PrefixKey: prefix, ExpiresMs: s.timeoutMS, Durability: s.rig.durability}))
		if err != nil || a.Type != 5 {
			s.t.Fatalf("the prefix lock of %s answered %v, %v", prefix, a, err)
		}
		s.locked["bucket "+prefix] = true
	}
	a := ask[*pb.GrpcGetByBucketResponse](s.t, s.rig.kv, in(s, &pb.GrpcGetByBucketRequest{PrefixKey: prefix, Durability: s.rig.durability}))
	if a.Type != 3 {
		s.t.Fatalf("the bucket %s answered %v", prefix, a)
	}
	var keys []string
	for _, item := range a.Items {
		keys = append(keys, item.Key)
	}
	slices.Sort(keys)
	return keys
}

// scan reads a range, from and to included; nil is open. It locks the range anew
// each time, as the client does.
func (s *netSession) scan(prefix string, from, to *string) map[string]string {
	s.t.Helper()
	if s.pessimistic {
		a, err := s.rig.rpc.TryAcquireExclusiveRangeLock(s.t.Context(), in(s, &pb.GrpcTryAcquireExclusiveRangeLockRequest{
			Prefix: prefix, StartKey: from, StartInclusive: true, EndKey: to, EndInclusive: true, ExpiresMs: s.timeoutMS, Durability: s.rig.durability}))
		if err != nil || a.Type != 5 {
			s.t.Fatalf("the range lock of %s answered %v, %v", prefix, a, err)
		}
	}
	a, err := s.rig.rpc.GetByRange(s.t.Context(), in(s, &pb.GrpcGetByRangeRequest{Prefix: prefix, StartKey: from, StartInclusive: true,
		EndKey: to, EndInclusive: true, Limit: 1<<31 - 1, Durability: s.rig.durability}))
	if err != nil || a.Type != 3 {
		s.t.Fatalf("the range of %s answered %v, %v", prefix, a, err)
	}
	items := map[string]string{}
	for _, item := range a.Items {
		items[item.Key] = string(item.Value)
	}
	return items
}

// commit says whether it committed; the suite takes Aborted and MustRetry as a no.
func (s *netSession) commit() bool {
	s.t.Helper()
	a := ask[*pb.GrpcCommitTransactionResponse](s.t, s.rig.kv, &pb.GrpcCommitTransactionRequest{CoordinatorKey: s.key,
		TransactionIdNode: s.start.TransactionIdNode, TransactionIdPhysical: s.start.TransactionIdPhysical, TransactionIdCounter: s.start.TransactionIdCounter})
	if a.Type != 8 && a.Type != 101 && a.Type != 102 {
		s.t.Fatalf("commit answered %v", a)
	}
	return a.Type == 8
}

func (s *netSession) rollback() pb.GrpcKeyValueResponseType {
	return ask[*pb.GrpcRollbackTransactionResponse](s.t, s.rig.kv, &pb.GrpcRollbackTransactionRequest{CoordinatorKey: s.key,
		TransactionIdNode: s.start.TransactionIdNode, TransactionIdPhysical: s.start.TransactionIdPhysical, TransactionIdCounter: s.start.TransactionIdCounter}).Type
}

// update is a whole transaction of one write.
func (a *anomaly) update(pessimistic bool, key, value string) bool {
	a.t.Helper()
	s := a.begin(pessimistic, 5000, false)
	if s.set(key, value) && s.commit() {
		return true
	}
	s.rollback()
	return false
}

func (a *anomaly) seed(key, value string) {
	a.t.Helper()
	r := set(key, value)
	r.Durability, r.ExpiresMs = a.durability, 120000
	if got := ask[*pb.GrpcTrySetKeyValueResponse](a.t, a.kv, r); got.Type != 0 {
		a.t.Fatalf("set %s answered %v", key, got)
	}
}

// want checks what everybody sees under a key; "" is nothing.
func (a *anomaly) want(key, value string) {
	a.t.Helper()
	r := get(key)
	r.Durability = a.durability
	got := ask[*pb.GrpcTryGetKeyValueResponse](a.t, a.kv, r)
	if (got.Type == 3) != (value != "") || string(got.Value) != value {
		a.t.Errorf("%s shows %v, and %q is expected", key, got, value)
	}
}

func (a *anomaly) script(text string, parameters ...string) *pb.GrpcTryExecuteTransactionScriptResponse {
	a.t.Helper()
	r := &pb.GrpcTryExecuteTransactionScriptRequest{Script: []byte(text), Priority: 3}
	for i := 0; i < len(parameters); i += 2 {
		r.Parameters = append(r.Parameters, &pb.GrpcKeyValueParameter{Key: parameters[i], Value: &parameters[i+1]})
	}
	return ask[*pb.GrpcTryExecuteTransactionScriptResponse](a.t, a.kv, r)
}

// e is the ephemeral form of a command where the keys are.
func (a *anomaly) e(command string) string {
	if a.durability == 0 {
		return "E" + command
	}
	return command
}
