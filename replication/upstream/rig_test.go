package upstream_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// started is when lease time began, within one bubble.
type rig struct {
	*testing.T
	k       *kahuna
	c       *upstream.Client
	started time.Time
}

// bubble runs a test over fake servers under a clock that moves when all is still.
func bubble(t *testing.T, servers int, f func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, k: startKahuna(t, servers), started: time.Now()}
		r.c = r.client()
		f(r)
	})
}

func (r *rig) now() time.Duration { return time.Since(r.started) }

func (r *rig) client() *upstream.Client {
	r.Helper()
	c, err := upstream.New(upstream.Config{Endpoints: r.k.urls(), LeaseNow: r.now, Logger: slog.New(slog.DiscardHandler), Dial: r.k.dial})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = c.Close() })
	return c
}

// do asks with a deadline of virtual time.
func (r *rig) do(within time.Duration, req *replication.Request) (*replication.Answer, error) {
	ctx, cancel := context.WithTimeout(r.Context(), within)
	defer cancel()
	return r.c.Do(ctx, req)
}

// must asks for what has to be done.
func (r *rig) must(req *replication.Request) *replication.Answer {
	r.Helper()
	a, err := r.do(time.Minute, req)
	if err != nil || a.GetCode() != replication.Code_CODE_OK {
		r.Fatalf("%T was answered with %v, %v", req.GetOp(), a, err)
	}
	return a
}

const persistent = replication.Durability_DURABILITY_PERSISTENT

// owner is the nth hold id.
func owner(n int) []byte { return fmt.Appendf(nil, "%032x", n) }

func open(id []byte, ttl time.Duration) *replication.Request {
	return &replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: id, Host: "h", Node: "n", TtlMs: ttl.Milliseconds()}}}
}

func renew(id []byte, attempt uint64) *replication.Request {
	return &replication.Request{Op: &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{Id: id, Attempt: attempt}}}
}

func wait(id []byte, lock string, owner []byte) *replication.Request {
	return &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{Durability: persistent, Name: lock, Session: id, Owner: owner,
		Info: &replication.HolderInfo{Command: "test"}}}}
}

func tryOnce(id []byte, lock string, owner []byte) *replication.Request {
	r := wait(id, lock, owner)
	r.GetLockWait().NoQueue = true
	return r
}

func unlock(lock string, owner []byte) *replication.Request {
	return &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{Durability: persistent, Name: lock, Owner: owner}}}
}

var session = []byte("session-sixteen!")

// news are the events of one session.
type news struct {
	mu     sync.Mutex
	events []*replication.Event
}

// watch listens to a session until the test ends.
func (r *rig) watch(id []byte) *news {
	n := &news{}
	go func() { // ends with the test's context
		_ = r.c.Watch(r.Context(), id, func(ev *replication.Event) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, ev)
		})
	}()
	synctest.Wait()
	return n
}

// of are the events of a kind about an owner.
func (n *news) of(kind replication.Event_Kind, owner []byte) (out []*replication.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ev := range n.events {
		if ev.GetKind() == kind && string(ev.GetHold().GetOwner()) == string(owner) {
			out = append(out, ev)
		}
	}
	return out
}

// pass lets virtual time pass.
func (r *rig) pass(d time.Duration) { time.Sleep(d) }

// until waits for a condition, in virtual time.
func (r *rig) until(what string, within time.Duration, cond func() bool) {
	r.Helper()
	for end := time.Now().Add(within); !cond(); time.Sleep(5 * time.Millisecond) { // virtual time
		if time.Now().After(end) {
			r.Fatalf("after %s still not: %s", within, what)
		}
	}
}

type upstreamStatus = upstream.EndpointStatus
