package holds_test

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

// session is the id of the session that was opened first.
func (q *quorum) session() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, req := range q.seen {
		if open := req.GetSessionOpen(); open != nil {
			return append([]byte(nil), open.GetId()...)
		}
	}
	return nil
}

// unlock frees a lock as somebody does who knows its owner.
func (q *quorum) unlock(t testing.TB, name, owner string) {
	t.Helper()
	q.must(t, &replication.Request{Op: &replication.Request_LockUnlock{LockUnlock: &replication.LockUnlock{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Owner: []byte(owner)}}})
}

// other is an owner that no agent is.
const other = "somebody else"

// try has other hold a lock for long.
func (q *quorum) try(t testing.TB, name string) {
	t.Helper()
	q.must(t, &replication.Request{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Owner: []byte(other), TtlMs: 1e9}}})
}

// stray has the session hold what its agent does not know.
func (q *quorum) stray(t testing.TB, name string) {
	t.Helper()
	q.must(t, &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{
		Durability: replication.Durability_DURABILITY_PERSISTENT, Name: name, Session: q.session(),
		Owner: []byte(strings.Repeat("ab", 16))}}})
}

// bubbleOfToday is bubble at the newest level alone.
func bubbleOfToday(t *testing.T, f func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.close()
		defer r.q.setFault(nil)
		f(t, r)
	})
}

// The quorum has 100,000 holds at most, and the agent reads which when one is not as it
// thinks: page by page, while holds come, go and move up in line. The one is lost, and
// nothing else.
func TestListIsReadWhileHoldsChange(t *testing.T) {
	n, rows := 60, uint32(7)
	if os.Getenv("KAHU_SOAK") != "" {
		n, rows = 100_000-1_000, 5_000 // the session's bound, with room for those that come
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		_ = r.h.Close(t.Context())
		r.maxHolds = 200_000
		r.h = r.newHolds()
		defer r.close()
		defer r.q.setFault(nil)
		r.q.pageRows = rows
		name := func(i int) string { return fmt.Sprintf("l%06d", i) }
		// Every tenth is held by somebody else first.
		kept := make(map[string]localapi.Hold)
		var held, waiting []int
		left := make(map[string]bool)
		for i := range n {
			if i%10 == 3 {
				waiting = append(waiting, i)
				r.q.try(t, name(i))
			} else {
				held = append(held, i)
			}
			kept[name(i)] = r.open(request(name(i)))
		}
		synctest.Wait()
		gone := held[len(held)/2]
		r.q.mu.Lock()
		r.q.deaf = true // what follows is in lists and answers only
		r.q.mu.Unlock()
		r.q.unlock(t, name(gone), kept[name(gone)].ID())
		var pages atomic.Int64
		opened := make(chan localapi.Hold, n)
		r.q.setFault(on(isList, fault{first: func() {
			page := int(pages.Add(1))
			// One of the first in line, whose page is read, and one of the last.
			for _, i := range []int{2*page - 2, len(waiting) - 2*page + 1} {
				if i >= 0 && i < len(waiting) {
					at := waiting[i]
					waiting[i] = -1
					if at >= 0 && at%20 != 3 { // those stay in line
						r.q.unlock(t, name(at), other)
					}
				}
			}
			// Some come, before and behind what is read.
			for _, prefix := range []string{"a", "z"} {
				if page < 40 {
					o := r.open(request(fmt.Sprintf("%s%03d", prefix, page)))
					opened <- o
					if e, err := o.Next(t.Context()); err != nil || e.Type != localapi.HoldHeld { // it runs from here on
						t.Errorf("a hold that comes while the list is read is told %+v, %v", e, err)
					}
				}
			}
			// And one goes.
			if i := held[page%len(held)]; i != gone {
				kept[name(i)].Disconnect()
				left[name(i)] = true
			}
		}}))
		if e := r.next(kept[name(gone)], ttl); e.Type != localapi.HoldHeld {
			t.Fatalf("first it is told %+v", e)
		}
		r.want(kept[name(gone)], ttl/4+time.Second, localapi.HoldLost)
		if pages.Load() < int64(n)/int64(rows) {
			t.Fatalf("%d pages were read", pages.Load())
		}
		r.q.setFault(nil)
		r.silentWait(2 * ttl) // some renewals: they find no more difference
		last := r.q.count(isList)
		r.q.mu.Lock()
		r.q.deaf = false
		r.q.mu.Unlock()
		r.q.breakWatches() // the next has the grants that nobody heard of
		r.silentWait(ttl)
		if again := r.q.count(isList); again != last {
			t.Errorf("%d pages were read when all was known", again-last)
		}
		close(opened)
		for o := range opened {
			kept[o.ID()] = o // by its id: its name is not asked for
		}
		here := make(map[string]localapi.HoldInfo)
		for _, o := range r.h.List() {
			here[o.Hold] = o
		}
		counts := make(map[string]int)
		for at, o := range kept {
			info, ok := here[o.ID()]
			switch {
			case at == name(gone) || left[at]:
				if owner := r.q.owner(t, at); ok || owner != "" {
					t.Errorf("%s is %+v here, and at the quorum with %q", at, info, owner)
				}
			case !ok:
				t.Errorf("%s is not here any more", at)
			case info.State == "held" != (r.q.owner(t, info.Lock) == o.ID()):
				t.Errorf("%s is %s here, and at the quorum with %q", info.Lock, info.State, r.q.owner(t, info.Lock))
			}
			counts[info.State]++
		}
		if counts["held"] == 0 || counts["queued"] == 0 || len(left) == 0 {
			t.Errorf("%v, and %d left: that shows nothing", counts, len(left))
		}
	})
}

// silentWait lets time pass.
func (r *rig) silentWait(d time.Duration) {
	time.Sleep(d) // virtual: in a synctest bubble
	synctest.Wait()
}

// A renewal that finds a difference counts when the list is read and not before: a
// holder whose lock is gone is never told a later deadline.
func TestNoDeadlineBeforeTheList(t *testing.T) {
	bubbleOfToday(t, func(t *testing.T, r *rig) {
		a, b := r.open(request("a")), r.open(request("b"))
		opened := r.now()
		r.want(a, time.Second, localapi.HoldHeld)
		r.want(b, time.Second, localapi.HoldHeld)
		synctest.Wait()
		r.q.mu.Lock()
		r.q.deaf = true
		r.q.mu.Unlock()
		r.q.unlock(t, "a", a.ID())
		r.q.setFault(on(isList, fault{before: -1})) // every page hangs
		for _, o := range []localapi.Hold{a, b} {
			e := r.want(o, ttl, localapi.HoldAtRisk)
			r.wantDeadline(e, opened)
		}
		r.silent(b, 5*time.Second)
		r.q.setFault(nil)
		r.want(a, ttl, localapi.HoldLost)
		r.want(b, ttl, localapi.HoldRenewed)
		b.Disconnect()
	})
}

// A hold that was granted while the list was read is not dropped by an older list that
// comes later: what a page shows was there as of that page, not as of the first.
func TestOlderListAfterThePages(t *testing.T) {
	bubbleOfToday(t, func(t *testing.T, r *rig) {
		warm := r.open(request("a"))
		r.want(warm, time.Second, localapi.HoldHeld)
		synctest.Wait()
		r.q.stray(t, "b") // makes the next renewal find a difference
		r.q.try(t, "other")
		r.q.mu.Lock()
		r.q.deaf, r.q.listAfter, r.q.pageRows = true, time.Minute, 1
		r.q.mu.Unlock()
		var late localapi.Hold
		var pages atomic.Int64
		isLate := func(req *replication.Request) bool { return isWait(req) && req.GetLockWait().GetName() == "late" }
		r.q.setFault(func(req *replication.Request) fault {
			switch {
			case isLate(req):
				return fault{after: 20 * time.Second} // the pages come first
			case isList(req):
				return fault{before: 50 * time.Millisecond, first: func() {
					if pages.Add(1) == 2 {
						// A list is made that is younger than the first page, without the hold.
						r.q.unlock(t, "other", other)
						r.q.breakWatches()
						r.silentWait(100 * time.Millisecond)
						late = r.open(request("late"))
						r.silentWait(100 * time.Millisecond)
					}
				}}
			}
			return fault{}
		})
		r.want(warm, ttl, localapi.HoldRenewed)
		if pages.Load() < 3 || late == nil {
			t.Fatalf("%d pages were read", pages.Load())
		}
		r.want(late, time.Second, localapi.HoldHeld)
		for range 10 {
			if e := r.next(late, ttl); e.Type != localapi.HoldRenewed {
				t.Fatalf("the hold that is younger than the list is told %+v", e)
			}
		}
		if o := r.q.owner(t, "late"); o != late.ID() {
			t.Fatalf("held by %q", o)
		}
		late.Disconnect()
		warm.Disconnect()
	})
}
