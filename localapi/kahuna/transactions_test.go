package kahuna_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// txSession is an interactive session as Kahuna's clients drive one: a new
// operation id for each call.
type txSession struct {
	t     *testing.T
	kv    *kvStream
	start *pb.GrpcStartTransactionResponse
	key   string
	next  uint64
}

func begin(t *testing.T, kv *kvStream, locking pb.GrpcLockingType) *txSession {
	t.Helper()
	s := &txSession{t: t, kv: kv, key: "coordinator"}
	s.start = ask[*pb.GrpcStartTransactionResponse](t, kv, &pb.GrpcStartTransactionRequest{CoordinatorKey: s.key, LockingType: locking, Timeout: 5000, AutoCommit: true})
	if s.start.Type != 0 || s.start.TransactionIdPhysical == 0 {
		t.Fatalf("T2: start answered %v", s.start)
	}
	return s
}

// ask carries out a request through the stream.
func ask[Out any](t *testing.T, kv *kvStream, req proto.Message) Out {
	t.Helper()
	a, err := kv.call(req)
	if err != nil {
		t.Fatalf("%s: %v", short(req), err)
	}
	return a.(Out)
}

func (s *txSession) op() uint64 { s.next++; return s.next }

func (s *txSession) set(key, value string) *pb.GrpcTrySetKeyValueResponse {
	r := set(key, value)
	r.TransactionIdNode, r.TransactionIdPhysical, r.TransactionIdCounter = s.start.TransactionIdNode, s.start.TransactionIdPhysical, s.start.TransactionIdCounter
	r.CoordinatorKey, r.OperationIdHigh, r.OperationIdLow = s.key, 1, s.op()
	return ask[*pb.GrpcTrySetKeyValueResponse](s.t, s.kv, r)
}

func (s *txSession) get(key string) *pb.GrpcTryGetKeyValueResponse {
	r := get(key)
	r.TransactionIdNode, r.TransactionIdPhysical, r.TransactionIdCounter = s.start.TransactionIdNode, s.start.TransactionIdPhysical, s.start.TransactionIdCounter
	r.CoordinatorKey, r.OperationIdHigh, r.OperationIdLow = s.key, 1, s.op()
	return ask[*pb.GrpcTryGetKeyValueResponse](s.t, s.kv, r)
}

func (s *txSession) bucket(prefix string) *pb.GrpcGetByBucketResponse {
	r := &pb.GrpcGetByBucketRequest{PrefixKey: prefix, Durability: 1, CoordinatorKey: s.key, OperationIdHigh: 1, OperationIdLow: s.op(),
		TransactionIdNode: s.start.TransactionIdNode, TransactionIdPhysical: s.start.TransactionIdPhysical, TransactionIdCounter: s.start.TransactionIdCounter}
	return ask[*pb.GrpcGetByBucketResponse](s.t, s.kv, r)
}

func (s *txSession) lock(key string) *pb.GrpcTryAcquireExclusiveLockResponse {
	r := &pb.GrpcTryAcquireExclusiveLockRequest{Key: key, ExpiresMs: 5000, Durability: 1, CoordinatorKey: s.key, OperationIdHigh: 1, OperationIdLow: s.op(),
		TransactionIdNode: s.start.TransactionIdNode, TransactionIdPhysical: s.start.TransactionIdPhysical, TransactionIdCounter: s.start.TransactionIdCounter}
	return ask[*pb.GrpcTryAcquireExclusiveLockResponse](s.t, s.kv, r)
}

func (s *txSession) commit() *pb.GrpcCommitTransactionResponse {
	return ask[*pb.GrpcCommitTransactionResponse](s.t, s.kv, &pb.GrpcCommitTransactionRequest{CoordinatorKey: s.key,
		TransactionIdNode: s.start.TransactionIdNode, TransactionIdPhysical: s.start.TransactionIdPhysical, TransactionIdCounter: s.start.TransactionIdCounter})
}

func (s *txSession) rollback() pb.GrpcKeyValueResponseType {
	return ask[*pb.GrpcRollbackTransactionResponse](s.t, s.kv, &pb.GrpcRollbackTransactionRequest{CoordinatorKey: s.key,
		TransactionIdNode: s.start.TransactionIdNode, TransactionIdPhysical: s.start.TransactionIdPhysical, TransactionIdCounter: s.start.TransactionIdCounter}).Type
}

// TestTransactionsBatched tells what the suites of both clients assert of
// sessions (transactions-cluster.md 2, 3 and 10).
func TestTransactionsBatched(t *testing.T) {
	open := func(t *testing.T) (*quorum, *kvStream, func(string) *pb.GrpcTryGetKeyValueResponse) {
		q := newQuorum(t)
		kv := openKV(t, newRig(t, nethttp, kahuna.Config{Coordinator: q}).dial())
		return q, kv, func(key string) *pb.GrpcTryGetKeyValueResponse {
			return ask[*pb.GrpcTryGetKeyValueResponse](t, kv, get(key))
		}
	}
	same := func(t *testing.T, rule string, want, got proto.Message) {
		t.Helper()
		if diff := cmp.Diff(want, got, protocmp.Transform(), quiet(want)); diff != "" {
			t.Fatalf("%s (- wanted, + got):\n%s", rule, diff)
		}
	}
	for name, locking := range map[string]pb.GrpcLockingType{"pessimistic": 0, "optimistic": 1} {
		t.Run(name+"/commit", func(t *testing.T) {
			_, kv, plain := open(t)
			tx := begin(t, kv, locking)
			same(t, "I17", done(0), tx.set("p/a", "1"))
			same(t, "I17", done(1), tx.set("p/a", "2"))
			same(t, "I16", got("2", 1), tx.get("p/a"))
			same(t, "I16", missing, plain("p/a"))
			if b := tx.bucket("p"); len(b.Items) != 1 || string(b.Items[0].Value) != "2" {
				t.Errorf("I16: the bucket shows %v", b)
			}
			same(t, "T14", &pb.GrpcCommitTransactionResponse{Type: 8, RecordAnchorKey: ptr("p/a")}, tx.commit())
			same(t, "D5", got("2", 1), plain("p/a"))
			same(t, "T15", &pb.GrpcCommitTransactionResponse{Type: 8, RecordAnchorKey: ptr("p/a")}, tx.commit())
			if r := tx.rollback(); r != 8 {
				t.Errorf("T16: rollback after commit answered %v", r)
			}
			same(t, "T10", refused(102, 0), tx.set("p/a", "3"))
		})
		t.Run(name+"/rollback", func(t *testing.T) {
			_, kv, plain := open(t)
			tx := begin(t, kv, locking)
			tx.set("a", "1")
			if r := tx.rollback(); r != 9 {
				t.Errorf("T23: rollback answered %v", r)
			}
			same(t, "T23", missing, plain("a"))
			same(t, "T16", &pb.GrpcCommitTransactionResponse{Type: 9}, tx.commit())
		})
	}
	t.Run("lost update", func(t *testing.T) {
		_, kv, plain := open(t)
		ask[*pb.GrpcTrySetKeyValueResponse](t, kv, set("n", "0"))
		one, two := begin(t, kv, 1), begin(t, kv, 1)
		one.get("n")
		two.get("n")
		same(t, "10", done(1), one.set("n", "1"))
		same(t, "10", &pb.GrpcCommitTransactionResponse{Type: 8, RecordAnchorKey: ptr("n")}, one.commit())
		two.set("n", "1")
		if c := two.commit(); c.Type != 102 {
			t.Errorf("I19: the second of two increments ended with %v", c)
		}
		same(t, "I19", got("1", 1), plain("n"))
	})
	t.Run("locks", func(t *testing.T) {
		q, kv, _ := open(t)
		one, two := begin(t, kv, 0), begin(t, kv, 0)
		same(t, "I5", &pb.GrpcTryAcquireExclusiveLockResponse{Type: 5}, one.lock("k"))
		same(t, "I5", &pb.GrpcTryAcquireExclusiveLockResponse{Type: 5}, one.lock("k"))
		held := two.lock("k")
		if held.Type != 104 || held.HolderTransactionIdPhysical != one.start.TransactionIdPhysical || held.HolderTransactionIdCounter != one.start.TransactionIdCounter {
			t.Errorf("I5: a foreign lock is answered with %v, and its holder is %v", held, one.start)
		}
		same(t, "I11", refused(101, 0), two.set("k", "v"))
		q.advance(5 * time.Second)
		same(t, "I12", &pb.GrpcTryAcquireExclusiveLockResponse{Type: 5}, two.lock("k"))
	})
}
