package statemachine_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

func sessionGet(store *mapStore, session string, limit uint32, after *replication.SessionHold) *replication.Answer {
	return statemachine.Read(store, &replication.Request{Op: &replication.Request_SessionGet{
		SessionGet: &replication.SessionGet{Id: sid(session), Limit: limit, After: after}}})
}

// Pages of whatever length add up to the list in one answer, places in line included.
func TestPagesOfHoldsAddUp(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.do("session_open id=A ttl_ms=60s", "session_open id=B ttl_ms=60s")
		for i := range rapid.IntRange(0, 30).Draw(rt, "holds") {
			w.do(fmt.Sprintf("lock_wait session=%s durability=%d name=%s owner=%s", pick(rt, "session", "A", "A", "B"),
				rapid.IntRange(0, 1).Draw(rt, "durability"), pick(rt, "name", "l", "l/2", "m", "nul\x00", "o"), hold(fmt.Sprint(i))))
		}
		all := sessionGet(w.store, "A", 0, nil).GetSession()
		if !all.GetHoldsListed() || all.GetMore() {
			rt.Fatalf("the whole list is %v", all)
		}
		limit := rapid.Uint32Range(1, 8).Draw(rt, "limit")
		var holds []*replication.SessionHold
		for more := true; more; {
			var after *replication.SessionHold
			if len(holds) > 0 {
				last := holds[len(holds)-1]
				after = &replication.SessionHold{Owner: last.Owner, Name: last.Name, Durability: last.Durability}
			}
			a := sessionGet(w.store, "A", limit, after)
			page := a.GetSession()
			if a.Code != replication.Code_CODE_OK || len(page.Holds) > int(limit) || page.More && len(page.Holds) != int(limit) {
				rt.Fatalf("after %v: %v", after, a)
			}
			holds, more = append(holds, page.Holds...), page.More
		}
		if len(holds) != len(all.Holds) {
			rt.Fatalf("%d holds in pages, %d at once", len(holds), len(all.Holds))
		}
		for i, h := range holds {
			if !proto.Equal(h, all.Holds[i]) {
				rt.Fatalf("hold %d is %v in a page, and %v at once", i, h, all.Holds[i])
			}
		}
	})
}

// hasHolds has a session ask for so many locks or places in line, by the thousand.
func (d *driver) hasHolds(session string, n int, name func(i int) string) {
	d.b.Helper()
	for from := 0; from < n; from += 1_000 {
		var reqs []*replication.Request
		for i := from; i < min(from+1_000, n); i++ {
			reqs = append(reqs, &replication.Request{Op: &replication.Request_LockWait{LockWait: &replication.LockWait{Durability: 1,
				Name: name(i), Session: sid(session), Owner: hold(fmt.Sprint(session, i))}}})
		}
		for _, a := range d.apply(d.encode(reqs...)).Answers {
			if a.Code != replication.Code_CODE_OK {
				d.b.Fatal(a)
			}
		}
	}
}

// A page looks through few queues when they are long: it ends early, and says so.
func TestPagesLookThroughFewQueues(t *testing.T) {
	store := newMapStore()
	d := &driver{b: t, m: newMachine(t, store)}
	for _, id := range []string{"bench", "few"} {
		d.apply(d.encode(&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: sid(id), TtlMs: 1e12}}}))
	}
	const waiters = 5_000
	d.hasHolds("bench", 3*(1+waiters), func(i int) string { return fmt.Sprint("l", i%3) })
	d.hasHolds("few", 6, func(i int) string { return fmt.Sprint("l", i%3) })
	var sizes []int
	var after *replication.SessionHold
	for more := true; more; {
		a := sessionGet(store, "few", 100, after)
		if a.Code != replication.Code_CODE_OK || len(a.GetSession().Holds) == 0 {
			t.Fatal(a)
		}
		for _, h := range a.GetSession().Holds {
			if h.Granted || h.Position != waiters+1 && h.Position != waiters+2 {
				t.Errorf("%v", h)
			}
			after = h
		}
		sizes, more = append(sizes, len(a.GetSession().Holds)), a.GetSession().More
	}
	if !slices.Equal(sizes, []int{4, 2}) { // both places of a lock count its queue once
		t.Errorf("pages of %v", sizes)
	}
}

// BenchmarkRenewalThatDiffers is the entry of a renewal of 100,000 holds of which the
// agent knows one less: with the list in the answer, as up to level 3, and apart; and
// one page of that list.
func BenchmarkRenewalThatDiffers(b *testing.B) {
	store := newMapStore()
	store.ever = nil
	d := &driver{b: b, m: newMachine(b, store)}
	d.apply(d.encode(&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: statemachine.CurrentLevel}}},
		&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: sid("bench"), TtlMs: 1e12}}}))
	d.hasHolds("bench", statemachine.MaxSessionHolds, func(i int) string { return fmt.Sprintf("lock-%06d", i) })
	for _, apart := range []bool{false, true} {
		b.Run(fmt.Sprint("apart=", apart), func(b *testing.B) {
			d.run(b, 1, func(int) []byte {
				return d.encode(&replication.Request{Op: &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{
					Id: sid("bench"), CheckHolds: true, HoldCount: statemachine.MaxSessionHolds - 1, ListApart: apart}}})
			})
		})
	}
	b.Run("page", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a := sessionGet(store, "bench", 5_000, nil); len(a.GetSession().GetHolds()) != 5_000 {
				b.Fatal(a)
			}
		}
	})
}
