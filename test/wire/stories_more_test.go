package wire_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// advancedStories are TestAdvancedKeyValueOperations.
func advancedStories() []story {
	const class = "TestAdvancedKeyValueOperations."
	var out []story
	add := func(name string, by parameter, tell func(*env)) { out = append(out, story{class + name, by, tell}) }

	add("TestSetManyKeyValues", byDurability, func(e *env) {
		prefix := "test-batch-" + random() + "-"
		var items []*pb.GrpcTrySetManyKeyValueRequestItem
		for i := range 10 {
			items = append(items, &pb.GrpcTrySetManyKeyValueRequestItem{Key: fmt.Sprint(prefix, i), Value: fmt.Appendf(nil, "value-%d", i),
				ExpiresMs: 10_000, Flags: pb.GrpcKeyValueFlags_SET, Durability: e.d})
		}
		e.under(e.setMany(items...), 10, prefix)
		for i := range 10 {
			e.reads(fmt.Sprint(prefix, i), fmt.Sprint("value-", i), 0)
		}
	})
	seed := func(e *env, prefix string, n int) {
		for i := range n {
			e.is("set", e.set(fmt.Sprint(prefix, i), fmt.Sprint("value-", i), tenSeconds), true, 0)
		}
	}
	values := func(e *env, got []entry, prefix string) {
		e.under(got, 10, prefix)
		for i, one := range got { // in order of the keys
			if one.key != fmt.Sprint(prefix, i) || string(one.value) != fmt.Sprint("value-", i) {
				e.Errorf("entry %d is %s = %q", i, one.key, one.value)
			}
		}
	}
	add("TestScanAllByPrefixWithMultipleKeys", byDurability, func(e *env) {
		prefix := "test-scan-" + random() + "-"
		seed(e, prefix, 10)
		seed(e, "test-other-"+random()+"-", 5)
		got, err := e.c.scan(e.Context(), prefix, e.d)
		e.ok(err)
		values(e, got, prefix)
	})
	add("TestGetByBucketWithMultipleKeys", byDurability, func(e *env) {
		prefix := "test-bucket-" + random()
		seed(e, prefix+"/key-", 10)
		seed(e, "test-other-bucket-"+random()+"/key-", 5)
		values(e, e.bucket(prefix), prefix+"/key-")
	})
	add("TestKeyValueRevisionHistory", byDurability, func(e *env) {
		key := random()
		for i := range int64(3) {
			e.is("set", e.set(key, fmt.Sprint("value-", i+1), tenSeconds), true, i)
		}
		e.reads(key, "value-3", 2)
		got, err := e.c.getAt(e.Context(), e.c.url(), tx{}, key, 1, e.d)
		e.ok(err)
		e.is("revision 1", got, true, 1)
		if string(got.value) != "value-2" {
			e.Errorf("revision 1 is %q", got.value)
		}
	})
	add("TestLoadTransactionScript", 0, func(e *env) {
		key := random()
		got, err := e.c.script(e.Context(), "\nBEGIN (locking=\"optimistic\")\n SET @key @value\n COMMIT\nEND\n", "@key", key, "@value", "script-value")
		e.ok(err)
		if got.Type != 0 {
			e.Errorf("the script ended with %v", got.Type)
		}
		e.shows(key, "script-value")
	})
	for name, compare := range map[string]string{"Success": "initial-value", "Failure": "wrong-value"} {
		add("TestCompareValueAndSetKeyValue"+name, byDurability, func(e *env) {
			key, want := random(), "initial-value"
			e.is("set", e.set(key, "initial-value", tenSeconds), true, 0)
			swapped := e.set(key, "new-value", write{ms: 10_000, flags: ifValue, compareValue: []byte(compare)}).success
			if swapped != (name == "Success") {
				e.Errorf("the swap said %v", swapped)
			}
			if swapped {
				want = "new-value"
			}
			e.shows(key, want)
		})
	}
	return out
}

// errorStories are TestClientErrorHandling.
func errorStories() []story {
	const class = "TestClientErrorHandling."
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, 0, tell}) }

	add("TestSetKeyValueWithEmptyKey", func(e *env) {
		_, err := e.c.setAt(e.Context(), e.c.url(), tx{}, "", []byte("test-value"), e.d, write{})
		e.throws(err, invalidInput)
	})
	add("TestSetKeyValueWithNullValue", func(e *env) {
		key := random()
		// The .NET client sends an empty value over REST, and none over gRPC. The newer
		// one of kahuna-ts tells null and empty apart, and so does kahu.
		_, err := e.c.setAt(e.Context(), e.c.url(), tx{}, key, []byte{}, e.d, tenSeconds)
		e.ok(err)
		if got := e.get(key); !got.success || got.value == nil || len(got.value) != 0 {
			e.Errorf("an empty value is read as %#v, %v", got.value, got.success)
		}
		_, err = e.c.setAt(e.Context(), e.c.url(), tx{}, key, nil, e.d, tenSeconds)
		e.ok(err)
		if got := e.get(key); !got.success || got.value != nil {
			e.Errorf("null is read as %#v, %v", got.value, got.success)
		}
	})
	add("TestGetNonExistentKey", func(e *env) { e.gone("non-existent-key-" + random()) })
	add("TestDeleteNonExistentKey", func(e *env) {
		if e.delete("non-existent-key-" + random()).success {
			e.Error("it was deleted")
		}
	})
	add("TestExtendNonExistentKey", func(e *env) {
		got, err := e.c.extendAt(e.Context(), e.c.url(), tx{}, "non-existent-key-"+random(), 10_000, e.d)
		e.ok(err)
		if got.success {
			e.Error("it was extended")
		}
	})
	add("TestCompareValueAndSetWithNonExistentKey", func(e *env) {
		e.is("swap", e.set(random(), "new-value", write{ms: 10_000, flags: ifValue, compareValue: []byte("old-value")}), false, -1)
	})
	add("TestCompareRevisionAndSetWithNonExistentKey", func(e *env) {
		e.is("swap", e.set(random(), "new-value", write{ms: 10_000, flags: ifRevision}), false, -1)
	})
	add("TestInvalidTransactionScript", func(e *env) {
		_, err := e.c.script(e.Context(), "INVALID SYNTAX")
		e.throws(err, errored)
		if !strings.Contains(err.Error(), "Syntax error") {
			e.Errorf("the message is %q", err)
		}
	})
	add("TestLockWithInvalidResource", func(e *env) {
		_, err := e.c.tryLock(e.Context(), "", 10_000, 1, nil)
		e.throws(err, invalidInput)
		if !strings.Contains(err.Error(), "Failed to lock") {
			e.Errorf("the message is %q", err)
		}
	})
	add("TestGetLockInfoForNonExistentLock", func(e *env) {
		_, err := e.c.lockInfo(e.Context(), "non-existent-lock-"+random(), 1)
		e.throws(err, 102)
	})
	add("TestUnlockWithInvalidOwner", func(e *env) {
		l, err := e.c.tryLock(e.Context(), random(), 10_000, 1, nil)
		e.ok(err)
		if !l.acquired {
			e.Fatal("the lock is busy")
		}
		done, err := e.c.unlock(e.Context(), l.resource, []byte("invalid-owner"), 1)
		if err != nil {
			e.throws(err, 103)
		}
		if done {
			e.Error("a stranger unlocked it")
		}
		e.ok(l.dispose(e.Context()))
	})
	add("TestSetKeyValueWithLargeValue", func(e *env) {
		key, large := random(), make([]byte, 1<<20)
		_, _ = rand.Read(large) // never fails
		got, err := e.c.setAt(e.Context(), e.c.url(), tx{}, key, large, e.d, tenSeconds)
		e.ok(err)
		e.is("set", got, true, 0)
		if got := e.get(key); !got.success || !bytes.Equal(got.value, large) {
			e.Errorf("%d bytes came back (%v)", len(got.value), got.success)
		}
	})
	return out
}

// cancelStories are what TestCancellationAndTimeouts asks of a server: who was
// cancelled leaves nothing behind that harms.
func cancelStories() []story {
	const class = "TestCancellationAndTimeouts."
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, 0, tell}) }
	cancelled := func(e *env, err error) {
		e.Helper()
		if !errors.Is(err, context.Canceled) {
			e.Fatalf("it ended with %v", err)
		}
	}
	over := func(e *env) context.Context {
		ctx, cancel := context.WithCancel(e.Context())
		cancel()
		return ctx
	}

	add("TestCancelSetKeyValue", func(e *env) {
		key := random()
		_, err := e.c.setAt(over(e), e.c.url(), tx{}, key, []byte("v"), e.d, tenSeconds)
		cancelled(e, err)
		e.gone(key)
	})
	add("TestCancelGetKeyValue", func(e *env) {
		key := random()
		e.is("set", e.set(key, "test-value", tenSeconds), true, 0)
		_, err := e.c.getAt(over(e), e.c.url(), tx{}, key, -1, e.d)
		cancelled(e, err)
		e.reads(key, "test-value", 0)
	})
	add("TestCancelAcquireLock", func(e *env) {
		name := random()
		_, err := e.c.tryLock(over(e), name, 10_000, 1, nil)
		cancelled(e, err)
		_, err = e.c.lockInfo(e.Context(), name, 1)
		e.throws(err, 102)
	})
	add("TestCancelTransactionExecution", func(e *env) {
		key := random()
		_, err := e.c.script(over(e), "SET `"+key+"` 'some-value'")
		cancelled(e, err)
		e.gone(key)
	})
	add("TestLockAcquisitionWithTimeout", func(e *env) {
		name := random()
		first, err := e.c.tryLock(e.Context(), name, 60_000, 1, nil)
		e.ok(err)
		second, err := e.c.waitLock(e.Context(), name, 10_000, 100*time.Millisecond, 50*time.Millisecond, 1)
		e.ok(err)
		if !first.acquired || second.acquired {
			e.Errorf("the first got it: %v, the second: %v", first.acquired, second.acquired)
		}
		e.ok(first.dispose(e.Context()))
	})
	add("TestCancellationDuringLockWait", func(e *env) {
		name := random()
		first, err := e.c.tryLock(e.Context(), name, 60_000, 1, nil)
		e.ok(err)
		ctx, cancel := context.WithTimeout(e.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = e.c.waitLock(ctx, name, 10_000, time.Hour, 100*time.Millisecond, 1)
		if !errors.Is(err, context.DeadlineExceeded) {
			e.Errorf("it ended with %v", err)
		}
		e.ok(first.dispose(e.Context()))
	})
	add("TestRetryableTransactionWithCancellation", func(e *env) {
		key := random()
		ctx, cancel := context.WithCancel(e.Context())
		defer cancel()
		err := e.c.retryable(ctx, sessionOptions{}, func(ctx context.Context, s *session) error {
			cancel()
			_, err := s.set(ctx, key, "value", 10_000, e.d)
			return err
		})
		cancelled(e, err)
		e.gone(key)
	})
	add("TestTransactionSessionWithCancellation", func(e *env) {
		s := e.begin(sessionOptions{})
		_, err := s.set(over(e), random(), "value", 10_000, e.d)
		cancelled(e, err)
		e.ok(s.rollback(e.Context()))
	})
	return out
}

// deleteManyStories are TestDeleteManyKeyValues.
func deleteManyStories() []story {
	const class = "TestDeleteManyKeyValues."
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, 0, tell}) }
	item := func(key string, d durability) *pb.GrpcTryDeleteManyKeyValueRequestItem {
		return &pb.GrpcTryDeleteManyKeyValueRequestItem{Key: key, Durability: d}
	}
	// code is that of one item, which must be there once.
	code := func(e *env, all []deleted, key string) int32 {
		e.Helper()
		found := int32(-1)
		for _, one := range all {
			if one.key == key && found == -1 {
				found = one.code
			} else if one.key == key {
				e.Errorf("%q is answered twice", key)
			}
		}
		return found
	}
	for name, d := range map[string]durability{"Persistent": 1, "Ephemeral": 0} {
		add("TestDeleteMany"+name+"Keys", func(e *env) {
			e.d = d
			var items []*pb.GrpcTryDeleteManyKeyValueRequestItem
			for i := range 3 {
				key := fmt.Sprint(random(), "-", i)
				e.is("set", e.set(key, fmt.Sprint("value-", i), tenSeconds), true, 0)
				items = append(items, item(key, d))
			}
			got, err := e.c.deleteManyAt(e.Context(), e.c.url(), tx{}, items...)
			e.ok(err)
			if len(got) != 3 {
				e.Fatalf("%d answers to 3 items", len(got))
			}
			for _, one := range got {
				if one.code != 4 || one.durability != d {
					e.Errorf("an item is answered %+v", one)
				}
			}
			for _, one := range items {
				e.gone(one.Key)
			}
		})
	}
	add("TestDeleteManyMixedDurability", func(e *env) {
		persistent, ephemeral := random(), random()
		e.is("set", e.set(persistent, "persistent-value", tenSeconds), true, 0)
		e.d = 0
		e.is("set", e.set(ephemeral, "ephemeral-value", tenSeconds), true, 0)
		got, err := e.c.deleteManyAt(e.Context(), e.c.url(), tx{}, item(persistent, 1), item(ephemeral, 0))
		e.ok(err)
		if len(got) != 2 || code(e, got, persistent) != 4 || code(e, got, ephemeral) != 4 {
			e.Errorf("answered %+v", got)
		}
		e.gone(ephemeral)
		e.d = 1
		e.gone(persistent)
	})
	add("TestDeleteManyWithExistingAndMissingKey", func(e *env) {
		there, notThere := random(), random()
		e.is("set", e.set(there, "value", tenSeconds), true, 0)
		got, err := e.c.deleteManyAt(e.Context(), e.c.url(), tx{}, item(there, 1), item(notThere, 1))
		e.ok(err)
		if len(got) != 2 || code(e, got, there) != 4 || code(e, got, notThere) != missing {
			e.Errorf("answered %+v", got)
		}
		e.gone(there)
	})
	add("TestDeleteManyInvalidKeyReturnsPerKeyInvalidInput", func(e *env) {
		there := random()
		e.is("set", e.set(there, "value", tenSeconds), true, 0)
		got, err := e.c.deleteManyAt(e.Context(), e.c.url(), tx{}, item("", 1), item(there, 1))
		e.ok(err)
		if len(got) != 2 || code(e, got, "") != invalidInput || code(e, got, there) != 4 {
			e.Errorf("answered %+v", got)
		}
	})
	for name, commit := range map[string]bool{"Commit": true, "Rollback": false} {
		add("TestSessionDeleteMany"+name, func(e *env) {
			a, b := random(), random()
			e.is("set", e.set(a, "a", tenSeconds), true, 0)
			e.is("set", e.set(b, "b", tenSeconds), true, 0)
			s := e.begin(sessionOptions{})
			got, err := s.deleteMany(e.Context(), e.d, a, b)
			e.ok(err)
			if len(got) != 2 || code(e, got, a) != 4 || code(e, got, b) != 4 {
				e.Errorf("answered %+v", got)
			}
			e.reads(a, "a", 0)
			e.reads(b, "b", 0)
			if commit {
				e.ok(s.commit(e.Context()))
				e.gone(a)
				e.gone(b)
				return
			}
			e.ok(s.rollback(e.Context()))
			e.reads(a, "a", 0)
			e.reads(b, "b", 0)
		})
	}
	return out
}

// lockStories are TestLocks. The suite's fourth parameter, UpgradeUrls, is one that
// its client does not use.
func lockStories() []story {
	const class = "TestLocks."
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, byDurability, tell}) }
	// got wants a lock that was got, with its token.
	got := func(e *env, l *lock, err error, token int64) *lock {
		e.Helper()
		e.ok(err)
		if !l.acquired || l.token != token {
			e.Fatalf("acquired is %v with token %d, and token %d is expected", l.acquired, l.token, token)
		}
		return l
	}
	add("TestValidateAcquireSingleLock", func(e *env) {
		l, err := e.c.tryLock(e.Context(), random(), 1000, e.lockDurability(), nil)
		e.ok(got(e, l, err, 0).dispose(e.Context()))
	})
	add("TestLockAcquisitionAndExpiresWithMilliseconds", func(e *env) {
		name := random()
		l, err := e.c.tryLock(e.Context(), name, 60_000, e.lockDurability(), nil)
		first := got(e, l, err, 0)
		second, err := e.c.tryLock(e.Context(), name, 60_000, e.lockDurability(), nil)
		e.ok(err)
		if second.acquired {
			e.Fatal("two have it")
		}
		e.ok(first.dispose(e.Context()))
		e.ok(second.dispose(e.Context()))
		l, err = e.c.tryLock(e.Context(), name, 1000, e.lockDurability(), nil)
		e.ok(got(e, l, err, 1).dispose(e.Context()))
	})
	again := func(e *env, first func(name string) (*lock, error)) {
		name := random()
		l, err := first(name)
		e.ok(got(e, l, err, 0).dispose(e.Context()))
		l, err = e.c.tryLock(e.Context(), name, 1000, e.lockDurability(), nil)
		e.ok(got(e, l, err, 1).dispose(e.Context()))
	}
	add("TestValidateAcquireLockExpiresWithTimeSpan", func(e *env) {
		again(e, func(name string) (*lock, error) { return e.c.tryLock(e.Context(), name, 1000, e.lockDurability(), nil) })
	})
	waits := func(e *env, ms int32) func(string) (*lock, error) {
		return func(name string) (*lock, error) {
			return e.c.waitLock(e.Context(), name, ms, 5*time.Second, 500*time.Millisecond, e.lockDurability())
		}
	}
	add("TestValidateAcquireLockExpires4", func(e *env) { again(e, waits(e, 1000)) })
	add("TestValidateAcquireLockExpiresRace", func(e *env) {
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				name := random()
				for token := range int64(2) {
					l, err := waits(e, 5000)(name)
					if err != nil || !l.acquired || l.token != token {
						e.Errorf("%+v, %v; token %d is expected", l, err, token)
						return
					}
					if err := l.dispose(e.Context()); err != nil {
						e.Error(err)
					}
				}
			})
		}
		all.Wait()
	})
	add("TestValidateAcquireSameLockExpiresRace", func(e *env) {
		name := random()
		var all sync.WaitGroup
		var mu sync.Mutex
		tokens := map[int64]bool{}
		for range 10 {
			all.Go(func() {
				l, err := e.c.waitLock(e.Context(), name, 30_000, 30*time.Second, 100*time.Millisecond, e.lockDurability())
				if err != nil || !l.acquired {
					e.Errorf("%+v, %v", l, err)
					return
				}
				mu.Lock()
				tokens[l.token] = true
				mu.Unlock()
				if err := l.dispose(e.Context()); err != nil {
					e.Error(err)
				}
			})
		}
		all.Wait()
		if len(tokens) != 10 {
			e.Errorf("ten owners had %d tokens", len(tokens))
		}
	})
	for name, longer := range map[string]int32{"TestValidateAcquireAndExtendLock": 20_000, "TestAcquireLockAndGetInfo": 10_000} {
		add(name, func(e *env) {
			l, err := e.c.tryLock(e.Context(), random(), 10_000, e.lockDurability(), nil)
			got(e, l, err, 0)
			var ends []int64
			for _, ms := range []int32{10_000, longer} {
				token, err := l.extend(e.Context(), ms)
				e.ok(err)
				if token != l.token {
					e.Errorf("extending changed the token %d to %d", l.token, token)
				}
				info, err := e.c.lockInfo(e.Context(), l.resource, e.lockDurability())
				e.ok(err)
				if string(info.Owner) != string(l.owner) || info.FencingToken != l.token {
					e.Errorf("the lock is %v, and the owner %s", info, l.owner)
				}
				ends = append(ends, info.ExpiresPhysical)
				// Ends are shown in whole milliseconds of the last entry's clocks. A client
				// whose requests take less between them may see the same one twice.
				e.ok(pause(e.Context(), 3*time.Millisecond))
			}
			if ends[1] <= ends[0] {
				e.Errorf("the lock ended at %d, and extended again at %d", ends[0], ends[1])
			}
			e.ok(l.dispose(e.Context()))
		})
	}
	return out
}

// holdStories are TestSnapshotHold. The floor is the cluster's.
func holdStories() []story {
	const class = "TestSnapshotHold."
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, alone, tell}) }
	type hlc struct {
		node     int32
		physical int64
		counter  uint32
	}
	acquire := func(e *env, at hlc, ms int32) *pb.GrpcAcquireSnapshotHoldResponse {
		e.Helper()
		a, err := ask[*pb.GrpcAcquireSnapshotHoldResponse](e.Context(), e.c, e.c.url(), "acquire", 1, &pb.GrpcAcquireSnapshotHoldRequest{
			HolderId: "test-holder-" + random(), TimestampNode: at.node, TimestampPhysical: at.physical, TimestampCounter: at.counter, LeaseMs: ms}, 0)
		e.ok(err)
		if a.HoldId == "" || a.LeaseExpiryPhysical == 0 {
			e.Fatalf("the hold is %v", a)
		}
		return a
	}
	floor := func(e *env, want hlc, least int32) {
		e.Helper()
		m, err := e.c.call(e.Context(), e.c.url(), &pb.GrpcGetSnapshotFloorRequest{})
		e.ok(err)
		a := m.(*pb.GrpcGetSnapshotFloorResponse)
		if got := (hlc{a.EffectiveFloorNode, a.EffectiveFloorPhysical, a.EffectiveFloorCounter}); got != want || a.LiveHolds < least || least == 0 && a.LiveHolds != 0 {
			e.Fatalf("the floor is %+v with %d holds, and %+v with at least %d is expected", got, a.LiveHolds, want, least)
		}
	}
	release := func(e *env, id string) {
		e.Helper()
		_, err := ask[*pb.GrpcReleaseSnapshotHoldResponse](e.Context(), e.c, e.c.url(), "release", 1, &pb.GrpcReleaseSnapshotHoldRequest{HoldId: id}, 4)
		e.ok(err)
	}
	at := hlc{42, 1_704_067_200_000, 7}
	add("AcquireSnapshotHold_RoundTripsHlcExactly", func(e *env) {
		h := acquire(e, at, 60_000)
		floor(e, at, 1)
		release(e, h.HoldId)
	})
	add("RenewSnapshotHold_UpdatesLeaseExpiry", func(e *env) {
		h := acquire(e, at, 30_000)
		a, err := ask[*pb.GrpcRenewSnapshotHoldResponse](e.Context(), e.c, e.c.url(), "renew", 1, &pb.GrpcRenewSnapshotHoldRequest{HoldId: h.HoldId, LeaseMs: 120_000}, 0)
		e.ok(err)
		if a.LeaseExpiryPhysical < h.LeaseExpiryPhysical {
			e.Errorf("renewed for longer it ends at %d, before %d", a.LeaseExpiryPhysical, h.LeaseExpiryPhysical)
		}
		release(e, h.HoldId)
	})
	add("ReleaseSnapshotHold_FloorDropsToZeroWhenLastHoldReleased", func(e *env) {
		h := acquire(e, at, 60_000)
		floor(e, at, 1)
		release(e, h.HoldId)
		floor(e, hlc{}, 0)
	})
	add("GetSnapshotFloor_TwoHoldsFloorIsMin", func(e *env) {
		low, high := hlc{3, 1_000_000_000, 2}, hlc{5, 2_000_000_000, 9}
		one, two := acquire(e, low, 60_000), acquire(e, high, 60_000)
		floor(e, low, 2)
		release(e, one.HoldId)
		floor(e, high, 1)
		release(e, two.HoldId)
	})
	return out
}
