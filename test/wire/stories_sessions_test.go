package wire_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// sessionStories are TestTransactionSessions, and the interactive half of
// TestKeyValueTransactions.
func sessionStories() []story {
	const class, plain = "TestTransactionSessions.", "TestKeyValueTransactions."
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{name, 0, tell}) }
	sets := func(e *env, s *session, key, value string) {
		e.Helper()
		got, err := s.set(e.Context(), key, value, 60_000, e.d)
		e.ok(err)
		if !got.success {
			e.Fatalf("the session's set of %s says no", key)
		}
	}
	finds := func(e *env, s *session, key, value string) {
		e.Helper()
		got, err := s.get(e.Context(), key, e.d)
		e.ok(err)
		if !got.success || string(got.value) != value {
			e.Fatalf("the session finds %q (%v), and %q is expected", got.value, got.success, value)
		}
	}
	pessimistic := sessionOptions{pessimistic: true}

	add(class+"TestTransactionSessionCommit", func(e *env) {
		key, s := random(), e.begin(sessionOptions{})
		sets(e, s, key, "transaction-value")
		e.ok(s.commit(e.Context()))
		e.shows(key, "transaction-value")
	})
	add(class+"TestTransactionSessionRollback", func(e *env) {
		key, s := random(), e.begin(sessionOptions{})
		sets(e, s, key, "transaction-value")
		e.ok(s.rollback(e.Context()))
		e.gone(key)
	})
	add(class+"TestTransactionSessionWithMultipleOperations", func(e *env) {
		s, keys := e.begin(sessionOptions{}), []string{random(), random(), random()}
		for i, key := range keys {
			sets(e, s, key, fmt.Sprint("value", i+1))
		}
		got, err := s.delete(e.Context(), keys[1], e.d)
		e.ok(err)
		if !got.success {
			e.Error("deleting what the session has set says no")
		}
		e.ok(s.commit(e.Context()))
		e.shows(keys[0], "value1")
		e.gone(keys[1])
		e.shows(keys[2], "value3")
	})
	add(class+"TestTransactionSessionWithPessimisticLocking", func(e *env) {
		key := random()
		e.is("set", e.set(key, "initial-value", write{ms: 60_000}), true, 0)
		s := e.begin(pessimistic)
		finds(e, s, key, "initial-value")
		sets(e, s, key, "updated-value")
		e.ok(s.commit(e.Context()))
		e.shows(key, "updated-value")
	})
	add(class+"TestRetryableTransactionSuccess", func(e *env) {
		key, tries := random(), 0
		e.ok(e.c.retryable(e.Context(), sessionOptions{}, func(ctx context.Context, s *session) error {
			tries++
			if _, err := s.set(ctx, key, fmt.Sprint("value-", tries), 60_000, e.d); err != nil {
				return err
			}
			return s.commit(ctx)
		}))
		e.shows(key, "value-1")
		if tries != 1 {
			e.Errorf("it took %d tries, and nobody was in the way", tries)
		}
	})
	add(class+"TestTransactionSessionTimeout", func(e *env) {
		witness, s := random(), e.begin(sessionOptions{timeoutMS: 1})
		e.is("witness", e.set(witness, "v", write{ms: 100}), true, 0)
		wait(e.T, "so long a lease is over", func() bool { return !e.get(witness).success })
		sets(e, s, random(), "value") // Timeout is of locks, not of the session
		e.ok(s.rollback(e.Context()))
	})

	for _, name := range []string{"TestStartTransactionAndRollback", "TestStartTransactionAndExplicitRollback"} {
		add(plain+name, func(e *env) {
			key, s := random(), e.begin(pessimistic)
			if s.tx.id.TransactionIdPhysical <= 0 {
				e.Errorf("the transaction is %v", s.tx.id)
			}
			sets(e, s, key, "some value")
			finds(e, s, key, "some value")
			if name == "TestStartTransactionAndRollback" {
				e.ok(s.dispose(e.Context()))
			} else {
				e.ok(s.rollback(e.Context()))
			}
			e.gone(key)
		})
	}
	add(plain+"TestStartTransactionAndCommit", func(e *env) {
		key, s := random(), e.begin(pessimistic)
		sets(e, s, key, "some value")
		finds(e, s, key, "some value")
		e.ok(s.commit(e.Context()))
		e.shows(key, "some value")
	})
	add(plain+"TestStartTransactionAndCommitNoChanges", func(e *env) { e.ok(e.begin(pessimistic).commit(e.Context())) })
	add(plain+"TestStartTransactionAndCommitMultiKey", func(e *env) {
		one, two, s := random(), random(), e.begin(pessimistic)
		sets(e, s, one, "some value1")
		sets(e, s, two, "some value2")
		e.ok(s.commit(e.Context()))
		e.shows(one, "some value1")
		e.shows(two, "some value2")
	})
	// The suite's second one rolls back as well.
	for _, name := range []string{"TestStartTransactionSetExtendKeyAndRollback", "TestStartTransactionSetExtendKeyAndCommit"} {
		add(plain+name, func(e *env) {
			key, witness, s := random(), random(), e.begin(pessimistic)
			sets(e, s, key, "some value")
			finds(e, s, key, "some value")
			got, err := s.extend(e.Context(), key, 500, e.d)
			e.ok(err)
			if !got.success {
				e.Error("extending what the session has set says no")
			}
			e.is("witness", e.set(witness, "v", write{ms: 600}), true, 0)
			wait(e.T, "so long a time is over", func() bool { return !e.get(witness).success })
			e.ok(s.rollback(e.Context()))
			e.gone(key)
		})
	}
	for name, commit := range map[string]bool{"Rollback": false, "Commit": true} {
		add(plain+"TestRetryableTransaction"+name, func(e *env) {
			key := random()
			e.ok(e.c.retryable(e.Context(), pessimistic, func(ctx context.Context, s *session) error {
				if _, err := s.set(ctx, key, "value1", 0, e.d); err != nil {
					return err
				}
				if commit {
					return s.commit(ctx)
				}
				return s.rollback(ctx)
			}))
			if commit {
				e.shows(key, "value1")
			} else {
				e.gone(key)
			}
		})
	}
	add(plain+"TestRetryableTransactionRace", func(e *env) {
		key := random()
		e.is("set", e.set(key, "0", write{}), true, 0)
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				err := e.c.retryable(e.Context(), pessimistic, func(ctx context.Context, s *session) error {
					now, err := s.get(ctx, key, e.d)
					if err != nil {
						return err
					}
					if n, _ := strconv.Atoi(string(now.value)); n < i {
						if _, err := s.set(ctx, key, fmt.Sprint(i), 0, e.d); err != nil {
							return err
						}
					}
					return s.commit(ctx)
				})
				if err != nil {
					e.Errorf("the %d. of ten: %v", i, err)
				}
			})
		}
		all.Wait()
		e.shows(key, "9")
	})
	return append(out, conflictStories()...)
}

// conflictStories are those of TestKeyValueTransactions with two sessions. Only one
// of the two may commit; the other is told Aborted, or to retry.
func conflictStories() []story {
	const class = "TestKeyValueTransactions."
	return []story{
		{class + "TestSnapshotIsolationConflictInteractive", 0, func(e *env) {
			a, b := random(), random()
			e.is("set", e.set(a, "10", write{}), true, 0)
			e.is("set", e.set(b, "10", write{}), true, 0)
			one, two := e.begin(sessionOptions{}), e.begin(sessionOptions{})
			for _, s := range []*session{one, two} {
				for _, key := range []string{a, b} {
					got, err := s.get(e.Context(), key, e.d)
					e.ok(err)
					e.is("get", got, true, 0)
				}
			}
			_, err := one.set(e.Context(), a, "0", 0, e.d)
			e.ok(err)
			e.ok(one.commit(e.Context()))
			if _, err = two.set(e.Context(), a, "0", 0, e.d); err == nil {
				err = two.commit(e.Context())
			}
			e.throws(err, aborted, mustRetry)
			e.shows(a, "0")
			e.shows(b, "10")
		}},
		{class + "TestSerializableConflictInteractive", 0, func(e *env) {
			key, one := random(), e.begin(sessionOptions{pessimistic: true})
			got, err := one.get(e.Context(), key, e.d)
			e.ok(err)
			e.is("get", got, false, 0)
			_, err = e.begin(sessionOptions{pessimistic: true}).set(e.Context(), key, "30", 0, e.d)
			e.throws(err, aborted, mustRetry)
			_, err = one.set(e.Context(), key, "30", 0, e.d)
			e.ok(err)
			e.ok(one.commit(e.Context()))
			e.shows(key, "30")
		}},
	}
}

// scriptStories are the other half of TestKeyValueTransactions: scripts.
func scriptStories() []story {
	const class = "TestKeyValueTransactions."
	var out []story
	add := func(name string, tell func(*env)) { out = append(out, story{class + name, 0, tell}) }
	// runs checks how a script ended, and its first revision.
	runs := func(e *env, code pb.GrpcKeyValueResponseType, revision int64, text string, parameters ...string) {
		e.Helper()
		got, err := e.c.script(e.Context(), text, parameters...)
		e.ok(err)
		if got.Type != code || len(got.Values) == 0 || got.Values[0].Revision != revision {
			e.Fatalf("%s ended with %v, and code %d at revision %d is expected", text, got, code, revision)
		}
	}
	set := func(e *env, key string) { runs(e, 0, 0, "SET `"+key+"` 'some value'") }

	add("TestBasicSet", func(e *env) { set(e, random()) })
	add("TestSetPlaceholder", func(e *env) { runs(e, 0, 0, "SET `"+random()+"` @value", "@value", "some value") })
	for name, one := range map[string]struct {
		code     pb.GrpcKeyValueResponseType
		revision int64
		text     string
	}{"Get": {3, 0, "GET `%s`"}, "Extend": {2, 0, "EXTEND `%s` 1000"}, "Exists": {10, 0, "EXISTS `%s`"}, "Delete": {4, 1, "DELETE `%s`"}} {
		add("TestBasic"+name, func(e *env) {
			key := random()
			set(e, key)
			runs(e, one.code, one.revision, fmt.Sprintf(one.text, key))
		})
	}
	add("TestSnapshotIsolationConflict", func(e *env) {
		a, b := random(), random()
		e.is("set", e.set(a, "10", write{}), true, 0)
		e.is("set", e.set(b, "10", write{}), true, 0)
		const text = `BEGIN (locking="optimistic")
 LET av = GET @keyA
 LET bv = GET @keyB
 SLEEP %d
 IF to_int(av) + to_int(bv) = 20 THEN
  SET %s 0
 END
 COMMIT
END
`
		// The first sleeps for longer than the second takes, also on a busy machine.
		failed := together(e, func() error {
			return only(e.c.script(e.Context(), fmt.Sprintf(text, 2000, "@keyA"), "@keyA", a, "@keyB", b))
		},
			func() error {
				return only(e.c.script(e.Context(), fmt.Sprintf(text, 100, "@keyB"), "@keyA", a, "@keyB", b))
			})
		if len(failed) != 1 {
			e.Fatalf("%d of two failed: %v", len(failed), failed)
		}
		e.throws(failed[0], aborted)
		if got := string(e.get(a).value) + string(e.get(b).value); got != "100" && got != "010" {
			e.Errorf("the values are %s", got)
		}
	})
	add("TestSerializableConflict", func(e *env) {
		e.single()
		key, first := random(), make(chan error, 1)
		go func() {
			first <- only(e.c.script(e.Context(), "BEGIN (locking=\"pessimistic\")\n LET av = GET @keyA\n SLEEP 1500\n SET @keyA 30\n COMMIT\nEND\n", "@keyA", key))
		}()
		// The suite starts both together. Here the second is run until the two meet: either
		// is aborted then, whoever came later.
		var second error
		for second == nil && len(first) == 0 {
			second = only(e.c.script(e.Context(), "BEGIN (locking=\"pessimistic\")\n SET @keyA 20\n COMMIT\nEND\n", "@keyA", key))
		}
		if err := <-first; err != nil {
			e.throws(err, aborted)
			e.ok(second)
			e.shows(key, "20")
			return
		}
		e.throws(second, aborted)
		e.shows(key, "30")
	})
	add("TestWriteSkewAnomaly", func(e *env) {
		e.single()
		const tries = 100 // until two meet: each takes a few milliseconds
		for range tries {
			if skewed(e) == 1 {
				return
			}
		}
		e.Errorf("in %d pairs of scripts that began together none was aborted", tries)
	})
	return out
}

func only[T any](_ T, err error) error { return err }

// skewed takes two doctors off call at the same time, each if both are on call, and
// returns how many of them were aborted: one, or none when they did not meet.
func skewed(e *env) int {
	e.Helper()
	bucket := "doctors-" + random()
	e.is("set", e.set(bucket+"/bob", "true", write{}), true, 0)
	e.is("set", e.set(bucket+"/alice", "true", write{}), true, 0)
	text := strings.ReplaceAll("let oncall = get by bucket 'doctors'\nif count(oncall) = 2 then\n   set @doctor false ex 10000\nelse\n   throw 'no both doctors on call'\nend\n", "doctors'", bucket+"'")
	failed := together(e, func() error { return only(e.c.script(e.Context(), text, "@doctor", bucket+"/alice")) },
		func() error { return only(e.c.script(e.Context(), text, "@doctor", bucket+"/bob")) })
	off := 0
	for _, one := range e.bucket(bucket) {
		if string(one.value) == "false" {
			off++
		}
	}
	for _, err := range failed {
		e.throws(err, aborted)
	}
	if off != 2-len(failed) || off == 0 {
		e.Fatalf("%d were aborted (%v), and %d doctors are off call", len(failed), failed, off)
	}
	return len(failed)
}

// single keeps the client to one endpoint, as the suite does where two scripts must
// meet.
func (e *env) single() { e.c.urls = e.c.urls[:1] }

// together runs two at the same time and returns their errors.
func together(e *env, one, two func() error) (failed []error) {
	ended := make(chan error, 2)
	go func() { ended <- one() }()
	ended <- two()
	for range 2 {
		if err := <-ended; err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}
