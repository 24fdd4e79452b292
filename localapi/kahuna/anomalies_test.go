package kahuna_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// TestLockingAnomalies tells Kahuna.Client.Tests/TestTransactionLockingAnomalies.cs
// as the .NET client's sessions ask for it, step by step instead of at once.
func TestLockingAnomalies(t *testing.T) {
	cases := map[string]func(*testing.T, *anomaly, bool){
		"lost update":                 lostUpdate,
		"stale read, then a write":    staleRead,
		"write skew":                  writeSkew,
		"bucket beside a writer":      bucketBesideWriter,
		"range is a dependency":       rangeDependency,
		"phantom under a bucket read": phantomUnderBucket,
		"read twice":                  readTwice,
		"dirty read":                  dirtyRead,
		"own writes":                  ownWrites,
	}
	for name, f := range cases {
		for _, pessimistic := range []bool{false, true} {
			for d := range pb.GrpcKeyValueDurability(2) {
				t.Run(fmt.Sprintf("%s/pessimistic=%v/durability=%d", name, pessimistic, d), func(t *testing.T) {
					f(t, newAnomaly(t, d), pessimistic)
				})
			}
		}
	}
}

func lostUpdate(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("counter", "0")
	one, two := a.begin(pessimistic, 5000, false), a.begin(pessimistic, 5000, false)
	if v, ok := one.get("counter"); !ok || v != "0" {
		t.Fatalf("the first reads %q, %v", v, ok)
	}
	_, read := two.get("counter")
	if read == pessimistic {
		t.Fatalf("the second reads: %v", read)
	}
	first := one.set("counter", "1") && one.commit()
	second := read && two.set("counter", "1") && two.commit()
	if !first || second {
		t.Errorf("committed: %v and %v", first, second)
	}
	a.want("counter", "1")
}

func staleRead(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("p/a", "10")
	a.seed("p/b", "0")
	stale := a.begin(pessimistic, 5000, false)
	if v, _ := stale.get("p/a"); v != "10" {
		t.Fatalf("p/a reads %q", v)
	}
	if fresh := a.update(pessimistic, "p/a", "20"); fresh == pessimistic {
		t.Fatalf("the fresh writer committed: %v", fresh)
	}
	if committed := stale.set("p/b", "11") && stale.commit(); committed != pessimistic {
		t.Errorf("the stale writer committed: %v", committed)
	}
	if pessimistic {
		a.want("p/a", "10")
		a.want("p/b", "11")
	} else {
		a.want("p/a", "20")
		a.want("p/b", "0")
	}
}

func writeSkew(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("p/alice", "true")
	a.seed("p/bob", "true")
	one, two := a.begin(pessimistic, 5000, false), a.begin(pessimistic, 5000, false)
	one.get("p/alice")
	one.get("p/bob")
	_, alice := two.get("p/alice")
	bob := false
	if alice {
		_, bob = two.get("p/bob")
	}
	first := one.set("p/alice", "false") && one.commit()
	second := alice && bob && two.set("p/bob", "false") && two.commit()
	if !first || second {
		t.Errorf("committed: %v and %v", first, second)
	}
	a.want("p/alice", "false")
	a.want("p/bob", "true")
}

// bucketBesideWriter: a bucket is locked and read although somebody writes a key of
// it that is not committed, which nobody sees.
func bucketBesideWriter(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("p/a", "old-a")
	a.seed("p/b", "old-b")
	inflight := a.begin(false, 5000, false)
	if !inflight.set("p/inflight", "hidden") {
		t.Fatal("the writer is refused")
	}
	reader := a.begin(pessimistic, 5000, false)
	if keys := reader.bucket("p"); !slices.Equal(keys, []string{"p/a", "p/b"}) {
		t.Fatalf("the bucket has %v", keys)
	}
	if updated := a.update(pessimistic, "p/a", "new-a"); updated == pessimistic {
		t.Errorf("the updater committed: %v", updated)
	}
	if !reader.set("p/summary", "2") {
		t.Fatal("the reader may not write")
	}
	if committed := reader.commit(); committed != pessimistic {
		t.Errorf("the reader committed: %v", committed)
	}
	a.want("p/b", "old-b")
	a.want("p/inflight", "")
	if pessimistic {
		a.want("p/a", "old-a")
		a.want("p/summary", "2")
	} else {
		a.want("p/a", "new-a")
		a.want("p/summary", "")
	}
	if r := inflight.rollback(); r != 9 {
		t.Errorf("the writer's rollback answered %v", r)
	}
}

func rangeDependency(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("p/a", "old-a")
	s := a.begin(pessimistic, 5000, false)
	if items := s.scan("p", nil, nil); items["p/a"] != "old-a" {
		t.Fatalf("the range has %v", items)
	}
	if updated := a.update(pessimistic, "p/a", "new-a"); updated == pessimistic {
		t.Errorf("the updater committed: %v", updated)
	}
	if committed := s.set("p/summary", "1") && s.commit(); committed != pessimistic {
		t.Errorf("the reader committed: %v", committed)
	}
}

// phantomUnderBucket: kahu validates the bucket as a predicate (decisions.md 32),
// so the suite's branch for a stale commit beside an insert is never taken.
func phantomUnderBucket(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("p/1", "existing")
	stale := a.begin(pessimistic, 5000, false)
	if keys := stale.bucket("p"); !slices.Equal(keys, []string{"p/1"}) {
		t.Fatalf("the bucket has %v", keys)
	}
	inserted := a.update(pessimistic, "p/2", "concurrent")
	committed := stale.set("p/3", "stale") && stale.commit()
	if inserted == pessimistic || committed != pessimistic {
		t.Errorf("inserted: %v; committed: %v", inserted, committed)
	}
}

func readTwice(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("p/account", "100")
	reader := a.begin(pessimistic, 5000, false)
	first, _ := reader.get("p/account")
	if written := a.update(pessimistic, "p/account", "200"); written == pessimistic {
		t.Errorf("the writer committed: %v", written)
	}
	// kahu refuses the second read where it can no longer be repeated.
	second, ok := reader.get("p/account")
	if first != "100" || ok != pessimistic {
		t.Fatalf("reads %q, then %q (%v)", first, second, ok)
	}
	committed := ok && reader.set("p/observed", first+":"+second) && reader.commit()
	if committed != pessimistic {
		t.Errorf("the reader committed: %v", committed)
	}
	if pessimistic {
		a.want("p/observed", "100:100")
	} else {
		a.want("p/account", "200")
		a.want("p/observed", "")
	}
}

func dirtyRead(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("p/x", "committed")
	a.seed("p/y", "stable")
	writer := a.begin(pessimistic, 5000, false)
	if !writer.set("p/x", "uncommitted") {
		t.Fatal("the writer is refused")
	}
	a.want("p/x", "committed")
	if v, ok := a.begin(false, 5000, false).get("p/x"); !ok || v != "committed" {
		t.Errorf("another session reads %q, %v", v, ok)
	}
	if r := a.script(a.e("GET") + " `p/x`"); r.Type != 3 || len(r.Values) != 1 || string(r.Values[0].Value) != "committed" {
		t.Errorf("a script reads %v", r)
	}
	bucket := ask[*pb.GrpcGetByBucketResponse](t, a.kv, &pb.GrpcGetByBucketRequest{PrefixKey: "p", Durability: a.durability})
	scan := ask[*pb.GrpcScanAllByPrefixResponse](t, a.kv, &pb.GrpcScanAllByPrefixRequest{PrefixKey: "p", Durability: a.durability})
	if bucket.Type != 3 || len(bucket.Items) != 2 || string(bucket.Items[0].Value) != "committed" {
		t.Errorf("the bucket shows %v", bucket)
	}
	if scan.Type != 3 || len(scan.Items) != 2 || string(scan.Items[0].Value) != "committed" {
		t.Errorf("the scan shows %v", scan)
	}
	if r := writer.rollback(); r != 9 {
		t.Errorf("rollback answered %v", r)
	}
	a.want("p/x", "committed")
}

func ownWrites(t *testing.T, a *anomaly, pessimistic bool) {
	a.seed("p/updated", "before")
	a.seed("p/deleted", "to-delete")
	s := a.begin(pessimistic, 5000, false)
	if !s.set("p/updated", "after") || !s.set("p/inserted", "created") || !s.delete("p/deleted") {
		t.Fatal("a write is refused")
	}
	for key, want := range map[string]string{"p/updated": "after", "p/inserted": "created", "p/deleted": ""} {
		if v, ok := s.get(key); v != want || ok != (want != "") {
			t.Errorf("%s reads %q, %v", key, v, ok)
		}
	}
	items := s.scan("p", nil, nil)
	if len(items) != 2 || items["p/updated"] != "after" || items["p/inserted"] != "created" {
		t.Errorf("the range has %v", items)
	}
	if r := a.script(a.e("GET") + " `p/updated`"); r.Type != 3 || string(r.Values[0].Value) != "before" {
		t.Errorf("a script reads %v", r)
	}
	a.want("p/updated", "before")
	a.want("p/inserted", "")
	a.want("p/deleted", "to-delete")
	if !s.commit() {
		t.Fatal("not committed")
	}
	a.want("p/updated", "after")
	a.want("p/inserted", "created")
	a.want("p/deleted", "")
}

// TestPredicateLocks tells the suite's cases of prefix and range locks.
func TestPredicateLocks(t *testing.T) {
	z, c, lowest := "p/z", "p/c", "p/a"
	read := map[string]func(*netSession) int{
		"bucket":     func(s *netSession) int { return len(s.bucket("p")) },
		"range":      func(s *netSession) int { return len(s.scan("p", &lowest, &z)) },
		"open range": func(s *netSession) int { return len(s.scan("p", nil, nil)) },
	}
	for name, f := range read {
		for d := range pb.GrpcKeyValueDurability(2) {
			t.Run(fmt.Sprintf("%s/durability=%d", name, d), func(t *testing.T) {
				a := newAnomaly(t, d)
				a.seed("p/a", "1")
				a.seed("p/b", "2")
				s := a.begin(true, 5000, false)
				if first, again := f(s), f(s); first != 2 || again != 2 {
					t.Fatalf("read %d keys, then %d", first, again)
				}
				if a.update(true, "p/c", "phantom") {
					t.Error("a phantom committed under the lock")
				}
				if !s.commit() {
					t.Error("the reader did not commit")
				}
				a.seed("p/c", "after")
				back := a.begin(true, 5000, false)
				f(back)
				if r := back.rollback(); r != 9 {
					t.Errorf("rollback answered %v", r)
				}
				a.seed("p/d", "new")
				a.want("p/a", "1")
			})
		}
	}
	for d := range pb.GrpcKeyValueDurability(2) {
		t.Run(fmt.Sprintf("end of a range/durability=%d", d), func(t *testing.T) {
			a := newAnomaly(t, d)
			a.seed("p/a", "1")
			s := a.begin(true, 5000, false)
			s.scan("p", &lowest, &c)
			if !a.update(true, "p/z", "outside") {
				t.Error("a key outside of the range is locked")
			}
			if a.update(true, "p/b", "inside") {
				t.Error("a key inside of the range is free")
			}
			if !s.commit() {
				t.Error("the reader did not commit")
			}
		})
	}
}

// TestLocksAreFreed tells the suite's ways for a transaction to end without its
// commit, after which the next one has the key at once.
func TestLocksAreFreed(t *testing.T) {
	ends := map[string]func(*testing.T, *anomaly, bool){
		"rollback": func(t *testing.T, a *anomaly, async bool) {
			s := a.begin(true, 5000, async)
			if !s.set("p/k", "temp") || s.rollback() != 9 {
				t.Fatal("no write that was rolled back")
			}
		},
		"throw": func(t *testing.T, a *anomaly, async bool) {
			r := a.script(fmt.Sprintf("BEGIN (locking=\"pessimistic\", asyncRelease=\"%v\")\n %s @key 'temp' EX 120000\n THROW 'boom'\nEND", async, a.e("SET")), "@key", "p/k")
			if r.Type != 99 {
				t.Fatalf("throw answered %v", r)
			}
		},
		"timeout": func(t *testing.T, a *anomaly, async bool) {
			s := a.begin(true, 100, async)
			if !s.set("p/k", "temp") {
				t.Fatal("no write")
			}
			a.q.advance(300 * time.Millisecond)
			t.Cleanup(func() {
				if r := s.rollback(); r != 9 && r != 99 && r != 101 && r != 102 {
					t.Errorf("rollback after the timeout answered %v", r)
				}
			})
		},
		"conflict": func(t *testing.T, a *anomaly, async bool) {
			a.seed("p/k", "0")
			one, two := a.begin(false, 5000, async), a.begin(false, 5000, async)
			one.get("p/k")
			two.get("p/k")
			wrote := [2]bool{one.set("p/k", "1"), two.set("p/k", "2")}
			committed := [2]bool{wrote[0] && one.commit(), wrote[1] && two.commit()}
			if committed != [2]bool{true, false} {
				t.Fatalf("committed: %v", committed)
			}
			two.rollback()
		},
	}
	for name, end := range ends {
		for d := range pb.GrpcKeyValueDurability(2) {
			for _, async := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/durability=%d/async=%v", name, d, async), func(t *testing.T) {
					a := newAnomaly(t, d)
					end(t, a, async)
					s := a.begin(true, 1000, async)
					if !s.set("p/k", "released") || !s.commit() {
						t.Fatal("the key is not free")
					}
					a.want("p/k", "released")
				})
			}
		}
	}
}

// TestAllOrNothing: a conflict on one of three keys undoes all.
func TestAllOrNothing(t *testing.T) {
	for d := range pb.GrpcKeyValueDurability(2) {
		t.Run(fmt.Sprintf("durability=%d", d), func(t *testing.T) {
			a := newAnomaly(t, d)
			keys := []string{"p/a", "p/b", "p/c"}
			tx := a.begin(false, 5000, false)
			for _, key := range keys {
				a.seed(key, "0")
			}
			for _, key := range keys {
				tx.get(key)
			}
			if !a.update(true, "p/b", "2") {
				t.Fatal("the other writer is refused")
			}
			taken := true
			for _, key := range keys {
				taken = taken && tx.set(key, "1")
			}
			if taken && tx.commit() {
				t.Error("committed")
			}
			tx.rollback()
			a.want("p/a", "0")
			a.want("p/b", "2")
			a.want("p/c", "0")
		})
	}
}

// TestDeleteManyInASession tells TestSessionDeleteManyCommit and …Rollback: the
// batch carries the session's identity once, and the transaction in each item.
func TestDeleteManyInASession(t *testing.T) {
	for d := range pb.GrpcKeyValueDurability(2) {
		for _, commit := range []bool{true, false} {
			t.Run(fmt.Sprintf("durability=%d/commit=%v", d, commit), func(t *testing.T) {
				a := newAnomaly(t, d)
				a.seed("p/a", "a")
				a.seed("p/b", "b")
				s := a.begin(false, 5000, false)
				req := &pb.GrpcTryDeleteManyKeyValueRequest{CoordinatorKey: ptr(s.key), OperationIdHigh: ptr(uint64(9)), OperationIdLow: ptr(uint64(1))}
				for _, key := range []string{"p/a", "p/b"} {
					if !s.lock(key) {
						t.Fatalf("%s is locked", key)
					}
					req.Items = append(req.Items, &pb.GrpcTryDeleteManyKeyValueRequestItem{Key: key, Durability: d, TransactionIdNode: s.start.TransactionIdNode,
						TransactionIdPhysical: s.start.TransactionIdPhysical, TransactionIdCounter: s.start.TransactionIdCounter})
				}
				got := ask[*pb.GrpcTryDeleteManyKeyValueResponse](t, a.kv, req)
				if len(got.Items) != 2 || got.Items[0].Type != 4 || got.Items[1].Type != 4 {
					t.Fatalf("answered %v", got)
				}
				a.want("p/a", "a")
				a.want("p/b", "b")
				left := [2]string{"a", "b"}
				if commit {
					left = [2]string{}
					if !s.commit() {
						t.Fatal("not committed")
					}
				} else if r := s.rollback(); r != 9 {
					t.Fatalf("rollback answered %v", r)
				}
				a.want("p/a", left[0])
				a.want("p/b", left[1])
			})
		}
	}
}

// TestScanByAWholeKey tells TestScanAllByExactPrefix: a key begins with itself.
func TestScanByAWholeKey(t *testing.T) {
	for d := range pb.GrpcKeyValueDurability(2) {
		a := newAnomaly(t, d)
		a.seed("whole", "1")
		a.seed("whole/part", "2")
		a.seed("who", "3")
		scan := ask[*pb.GrpcScanAllByPrefixResponse](t, a.kv, &pb.GrpcScanAllByPrefixRequest{PrefixKey: "whole", Durability: d})
		if scan.Type != 3 || len(scan.Items) != 2 || scan.Items[0].Key != "whole" {
			t.Errorf("durability %d: %v", d, scan)
		}
	}
}
