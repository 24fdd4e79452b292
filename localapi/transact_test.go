package localapi_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/replication"
)

// increment is the classic that loses updates without transactions.
func increment(key string) func(*client.Tx) error {
	return func(tx *client.Tx) error {
		n := 0
		switch e, err := tx.Get(key, client.ReadOptions{}); {
		case errors.Is(err, client.ErrNotFound):
		case err != nil:
			return err
		default:
			if n, err = strconv.Atoi(string(e.Value)); err != nil {
				return err
			}
		}
		_, err := tx.Set(key, []byte(strconv.Itoa(n+1)), client.WriteOptions{})
		return err
	}
}

// nothingOpen fails the test when a transaction was left behind.
func nothingOpen(t *testing.T, c *client.Client) {
	t.Helper()
	a, err := c.Do(t.Context(), &replication.Request{Op: &replication.Request_TxList{TxList: &replication.TxList{}}})
	if open := a.GetTransactions().GetTransactions(); err != nil || len(open) != 0 {
		t.Errorf("transactions were left behind: %v, %v", open, err)
	}
}

func value(t *testing.T, c *client.Client, key string) string {
	t.Helper()
	e, err := c.KVGet(t.Context(), key, client.ReadOptions{})
	if errors.Is(err, client.ErrNotFound) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(e.Value)
}

// TestTransactLosesNoUpdate increments one counter by many, whichever way.
func TestTransactLosesNoUpdate(t *testing.T) {
	for name, o := range map[string]client.TxOptions{
		"optimistic": {}, "pessimistic": {Pessimistic: true}, "locked first": {Lock: []string{"n"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := startAgent(t)
			c := a.client(t)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // locks left behind would never end
			defer cancel()
			var group sync.WaitGroup
			for range 6 {
				group.Go(func() {
					for range 10 {
						if err := c.TransactWith(ctx, o, increment("n")); err != nil {
							t.Error(err)
						}
					}
				})
			}
			group.Wait()
			if got := value(t, c, "n"); got != "60" {
				t.Errorf("the counter is %s and not 60", got)
			}
			nothingOpen(t, c)
		})
	}
}

// TestTransactSeesItself: own writes are read, others' eyes see them with the
// commit, and conditions are judged by what the transaction sees.
func TestTransactSeesItself(t *testing.T) {
	a := startAgent(t)
	c := a.client(t)
	err := c.Transact(t.Context(), func(tx *client.Tx) error {
		_, err1 := tx.Set("p/a", []byte("1"), client.WriteOptions{})
		_, err2 := tx.Set("p/b", []byte("2"), client.WriteOptions{TTL: time.Minute})
		_, err3 := tx.Set("p/c", nil, client.WriteOptions{Null: true})
		_, err4 := tx.Delete("p/b", client.WriteOptions{})
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		_, err := tx.Set("p/a", []byte("x"), client.WriteOptions{If: client.Condition{NotExists: true}})
		var refused *client.ConditionError
		if !errors.As(err, &refused) || refused.Revision != 0 {
			t.Errorf("a condition on an own write: %v", err)
		}
		if _, err := tx.Delete("p/none", client.WriteOptions{}); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("deleting nothing: %v", err)
		}
		if _, err := tx.Get("p/b", client.ReadOptions{}); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("reading what was deleted: %v", err)
		}
		list, err := tx.List("p/", client.Page{}, client.ReadOptions{})
		if err != nil || len(list.Entries) != 2 || string(list.Entries[0].Value) != "1" || list.Entries[1].Value != nil {
			t.Errorf("%+v, %v", list, err)
		}
		many, err := tx.GetMany("p/a", "p/b", "p/c")
		if err != nil || len(many) != 2 || string(many["p/a"].Value) != "1" {
			t.Errorf("%+v, %v", many, err)
		}
		if got := value(t, c, "p/a"); got != "none" {
			t.Errorf("others see %s before the commit", got)
		}
		return nil
	})
	if got := value(t, c, "p/a"); err != nil || got != "1" {
		t.Errorf("%s, %v", got, err)
	}
}

// TestTransactRunsAgainOnConflict: each kind of read that others invalidate.
func TestTransactRunsAgainOnConflict(t *testing.T) {
	for name, read := range map[string]func(*client.Tx) error{
		"key": func(tx *client.Tx) error { _, err := tx.Get("p/a", client.ReadOptions{}); return err },
		"absence": func(tx *client.Tx) error {
			_, err := tx.GetMany("p/new")
			return err
		},
		"range": func(tx *client.Tx) error { _, err := tx.List("p/", client.Page{}, client.ReadOptions{}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			a := startAgent(t)
			c := a.client(t)
			set := func(key string) {
				if _, err := c.KVSet(t.Context(), key, []byte("other"), client.WriteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			set("p/a")
			runs := 0
			err := c.Transact(t.Context(), func(tx *client.Tx) error {
				runs++
				if err := read(tx); err != nil {
					return err
				}
				if runs == 1 {
					set("p/a")
					set("p/new")
				}
				_, err := tx.Set("out", []byte(strconv.Itoa(runs)), client.WriteOptions{})
				return err
			})
			if got := value(t, c, "out"); err != nil || runs != 2 || got != "2" {
				t.Errorf("%d runs, wrote %s, %v", runs, got, err)
			}
		})
	}
}

// TestTransactRollsBack on an error, a panic, and an error of its own that the
// function has dropped.
func TestTransactRollsBack(t *testing.T) {
	a := startAgent(t)
	c := a.client(t)
	own := errors.New("no")
	err := c.Transact(t.Context(), func(tx *client.Tx) error {
		if _, err := tx.Set("a", []byte("1"), client.WriteOptions{}); err != nil {
			return err
		}
		return own
	})
	if !errors.Is(err, own) {
		t.Errorf("%v", err)
	}
	func() {
		defer func() {
			if recover() != "oh" {
				t.Error("the panic did not come through")
			}
		}()
		_ = c.Transact(t.Context(), func(tx *client.Tx) error {
			_, _ = tx.Set("a", []byte("1"), client.WriteOptions{})
			panic("oh")
		})
	}()
	var kept *client.Tx
	err = c.Transact(t.Context(), func(tx *client.Tx) error {
		kept = tx
		_, _ = tx.Set("a", []byte("1"), client.WriteOptions{})
		_, _ = tx.Set("", nil, client.WriteOptions{})
		return nil
	})
	if !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a dropped error was forgotten: %v", err)
	}
	if _, err := kept.Get("a", client.ReadOptions{}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("a transaction that has ended: %v", err)
	}
	if got := value(t, c, "a"); got != "none" {
		t.Errorf("%s was written", got)
	}
	nothingOpen(t, c)
	for _, o := range []client.TxOptions{{AsOf: &replication.Timestamp{PhysicalMs: 1}}, {ReadOnly: true, Pessimistic: true},
		{Timeout: -1}, {Priority: "urgent"}} {
		if err := c.TransactWith(t.Context(), o, func(*client.Tx) error { t.Error("it ran"); return nil }); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// lossy carries requests out and loses the answers that lose names.
type lossy struct {
	replication.Coordinator
	lose func(*replication.Request) bool
}

func (l *lossy) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	lose := l.lose(req)
	a, err := l.Coordinator.Do(ctx, req)
	if err == nil && lose {
		return nil, fmt.Errorf("lost: %w", replication.ErrUnknownOutcome)
	}
	return a, err
}

// losing loses the first answer of every distinct kind of request, n times.
func losing(n int, kinds func(*replication.Request) string) tweak {
	return func(c *localapi.Config) {
		var mu sync.Mutex
		seen := map[string]int{}
		c.Coordinator = &lossy{c.Coordinator, func(req *replication.Request) bool {
			kind := kinds(req)
			mu.Lock()
			defer mu.Unlock()
			seen[kind]++
			return kind != "" && seen[kind] <= n
		}}
	}
}

func txKind(req *replication.Request) string {
	switch req.GetOp().(type) {
	case *replication.Request_TxStart, *replication.Request_TxRead, *replication.Request_TxWrite, *replication.Request_TxLock, *replication.Request_TxEnd:
		return fmt.Sprintf("%T", req.GetOp())
	}
	return ""
}

// TestTransactLosesAnswers: what was carried out and not answered is asked for
// again, and not done again; the function runs once.
func TestTransactLosesAnswers(t *testing.T) {
	a := startAgent(t, losing(3, txKind))
	c := a.client(t)
	if _, err := c.KVSet(t.Context(), "n", []byte("5"), client.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	runs := 0
	err := c.TransactWith(t.Context(), client.TxOptions{Pessimistic: true}, func(tx *client.Tx) error {
		runs++
		if err := increment("n")(tx); err != nil {
			return err
		}
		// A write that was staged twice would answer another revision.
		w, err := tx.Set("n2", nil, client.WriteOptions{If: client.Condition{NotExists: true}})
		if w.Revision != 0 {
			t.Errorf("%+v", w)
		}
		return err
	})
	e, err2 := c.KVGet(t.Context(), "n", client.ReadOptions{})
	if err != nil || err2 != nil || runs != 1 || string(e.Value) != "6" || e.Revision != 1 {
		t.Errorf("%d runs, %+v, %v, %v", runs, e, err, err2)
	}
}

// TestTransactOutcomeUnknown: a commit of which nothing is heard until ctx ends is
// neither a success nor run again.
func TestTransactOutcomeUnknown(t *testing.T) {
	a := startAgent(t, losing(1<<30, func(req *replication.Request) string {
		if req.GetTxEnd().GetCommit() {
			return "commit"
		}
		return ""
	}))
	c := a.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	tried := make(chan error, 1)
	go func() {
		tried <- c.Transact(ctx, func(tx *client.Tx) error {
			runs++
			return increment("n")(tx)
		})
	}()
	committed := func() bool { return value(t, c, "n") == "1" }
	for !committed() {
		if t.Context().Err() != nil {
			t.Fatal("never committed")
		}
	}
	cancel()
	err := within(t, "the end of the transaction", tried)
	if !errors.Is(err, client.ErrUnknownOutcome) || !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrConflict) || runs != 1 {
		t.Errorf("%d runs, %v", runs, err)
	}
}

// TestTransactGivesUp when ctx ends between conflicts, and says both.
func TestTransactGivesUp(t *testing.T) {
	a := startAgent(t)
	c := a.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	runs := 0
	err := c.Transact(ctx, func(tx *client.Tx) error {
		if runs++; runs == 3 {
			defer cancel()
		}
		if _, err := tx.Get("n", client.ReadOptions{}); err != nil && !errors.Is(err, client.ErrNotFound) {
			return err
		}
		if _, err := c.KVSet(t.Context(), "n", []byte("other"), client.WriteOptions{}); err != nil {
			return err
		}
		_, err := tx.Get("n", client.ReadOptions{}) // tells that it has changed
		if !errors.Is(err, client.ErrConflict) {
			t.Errorf("%v", err)
		}
		return err
	})
	if !errors.Is(err, client.ErrConflict) || !errors.Is(err, context.Canceled) || runs != 3 {
		t.Errorf("%d runs, %v", runs, err)
	}
	nothingOpen(t, c)
}

// TestTransactReadOnly reads one moment, whatever is written meanwhile, and
// writes nothing to the log.
func TestTransactReadOnly(t *testing.T) {
	a := startAgent(t)
	c := a.client(t)
	set := func(v string) {
		for _, key := range []string{"p/a", "p/b"} {
			if _, err := c.KVSet(t.Context(), key, []byte(v), client.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("1")
	err := c.TransactWith(t.Context(), client.TxOptions{ReadOnly: true}, func(tx *client.Tx) error {
		a1, err1 := tx.Get("p/a", client.ReadOptions{})
		set("2")
		b, err2 := tx.Get("p/b", client.ReadOptions{})
		list, err3 := tx.List("p/", client.Page{}, client.ReadOptions{})
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		if string(a1.Value) != "1" || string(b.Value) != "1" || len(list.Entries) != 2 || string(list.Entries[1].Value) != "1" {
			t.Errorf("%s, %s, %+v", a1.Value, b.Value, list)
		}
		nothingOpen(t, c)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for what, write := range map[string]func(*client.Tx) error{
		"set":  func(tx *client.Tx) error { _, err := tx.Set("p/a", nil, client.WriteOptions{}); return err },
		"lock": func(tx *client.Tx) error { return tx.Lock("p/a") },
	} {
		if err := c.TransactWith(t.Context(), client.TxOptions{ReadOnly: true}, write); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := value(t, c, "p/a"); got != "2" {
		t.Errorf("%s", got)
	}
}

// BenchmarkTransact increments a counter of its own: start, read, write, commit.
func BenchmarkTransact(b *testing.B) {
	a := startAgent(b)
	c := a.client(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Transact(b.Context(), increment("n")); err != nil {
			b.Fatal(err)
		}
	}
}
