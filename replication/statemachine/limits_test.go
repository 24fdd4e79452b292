package statemachine_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

// do applies one entry of the requests, each with a receipt of the session
// "client" if it takes one, and returns the answers.
func (w *world) do(lines ...string) []*replication.Answer {
	w.t.Helper()
	var reqs []*replication.Request
	for _, l := range lines {
		reqs = append(reqs, w.request(l))
	}
	res := w.apply(w.term, reqs)
	if res.Diverged != nil {
		w.t.Fatal(res.Diverged)
	}
	return res.Answers
}

func (w *world) read(line string) *replication.Answer {
	w.t.Helper()
	return statemachine.Read(w.store, w.request(line))
}

func (w *world) wantCode(a *replication.Answer, want replication.Code) {
	w.t.Helper()
	if a.Code != want {
		w.t.Fatalf("got %v, want %v", a, want)
	}
}

// A key keeps exactly so many revisions below its newest, and says so below.
func TestHistoryIsTrimmed(t *testing.T) {
	for _, c := range []struct {
		table string
		keep  int64
	}{{"", statemachine.HistoryPersistent}, {" ephemeral", statemachine.HistoryEphemeral}} {
		w := newWorld(t)
		newest := c.keep + 20
		for i := range newest + 1 {
			w.wallMS++
			w.do(fmt.Sprintf("set key=k value=%d%s", i, c.table), fmt.Sprintf("set key=l%s", c.table))
		}
		var numbers []int64
		for before := int64(math.MaxInt64); ; {
			e := w.read(fmt.Sprintf("history key=k before=%d limit=300%s", before, c.table)).GetEntries()
			for _, r := range e.Entries {
				numbers = append(numbers, r.Revision)
			}
			if !e.More {
				break
			}
			before = numbers[len(numbers)-1]
		}
		if n := int64(len(numbers)); n != c.keep+1 || numbers[0] != newest || numbers[n-1] != newest-c.keep {
			t.Errorf("%q: %d revisions from %d to %d", c.table, n, numbers[0], numbers[n-1])
		}
		w.wantCode(w.read(fmt.Sprintf("get key=k revision=%d%s", newest-c.keep-1, c.table)), replication.Code_CODE_TOO_OLD)
		w.wantCode(w.read(fmt.Sprintf("get key=k revision=%d%s", newest-c.keep, c.table)), replication.Code_CODE_OK)
		w.wantCode(w.read("get key=k as_of=1002"+c.table), replication.Code_CODE_TOO_OLD)
		// Walks step over long histories in both directions.
		for _, way := range []string{"", " descending"} {
			e := w.read("range prefix=" + c.table + way).GetEntries().GetEntries()
			if len(e) != 2 || e[0].Revision != newest || e[1].Revision != newest {
				t.Errorf("range%s: %v", way, e)
			}
		}
	}
}

// A session keeps at most MaxReceipts answers above its watermark; the next is
// refused, not applied, and goes through once the agent has confirmed some.
func TestReceiptsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.do("session_open id=A ttl_ms=1000s")
	for i := range replication.MaxReceipts {
		w.wantCode(w.do(fmt.Sprintf("set key=k value=%d id=A:%d", i, i+1))[0], replication.Code_CODE_OK)
	}
	w.wantCode(w.do("set key=k value=over id=A:5000")[0], replication.Code_CODE_LIMIT)
	w.wantCode(w.do("set key=k value=again id=A:4096")[0], replication.Code_CODE_OK)
	if e := w.read("get key=k").GetEntries().Entries[0]; string(e.Value) != "4095" {
		t.Fatalf("the value is %q", e.Value)
	}
	rows := w.store.rows.Len()
	w.wantCode(w.do("set key=k value=over id=A:5000 done=4000")[0], replication.Code_CODE_OK)
	// 3,999 receipts went, a chunk of history and a receipt came.
	if got := w.store.rows.Len(); got != rows-3999+2 {
		t.Errorf("%d rows, there were %d", got, rows)
	}
}

// A session with more holds than one entry clears away ends at once for
// everybody, and is cleared away in portions; waiters get their locks in all
// cases, and a late open does not revive it meanwhile.
func TestLargeSessionEndsInPortions(t *testing.T) {
	const holds = 2500
	w := newWorld(t)
	w.do("session_open id=A ttl_ms=10s", "session_open id=B ttl_ms=1000s")
	for i := range holds {
		w.do(fmt.Sprintf("lock_wait name=x%04d session=A owner=@a%d", i, i), fmt.Sprintf("lock_wait name=x%04d session=B owner=@b%d", i, i))
	}
	puts := w.store.puts
	w.do("session_renew id=A")
	if n := w.store.puts - puts; n > 2 {
		t.Errorf("a renewal with %d holds writes %d rows", holds, n)
	}
	w.clock = 10_000_000_000
	grants := make(map[string]int)
	count := func(res statemachine.Result) (granted int) {
		for _, e := range res.Events {
			if e.Event.Kind == replication.Event_KIND_GRANTED {
				grants[e.Event.Hold.Name]++
				granted++
			}
		}
		return granted
	}
	// Touched before its turn: x2499 is the last to be cleared away.
	res := w.apply(1, []*replication.Request{w.request("session_open id=A ttl_ms=10s"), w.request("lock_unlock name=x2499 owner=@a2499")})
	w.wantCode(res.Answers[0], replication.Code_CODE_SESSION_LOST)
	w.wantCode(res.Answers[1], replication.Code_CODE_INVALID_OWNER)
	if n := count(res); n != 1001 {
		t.Errorf("the first entry granted %d", n)
	}
	w.wantCode(w.read("lock_get name=x2000"), replication.Code_CODE_NOT_FOUND)
	for portions := 0; ; portions++ {
		at, due := w.m.Due()
		if !due || at > int64(w.clock) {
			break
		}
		if portions > 3 {
			t.Fatal("it does not come to an end")
		}
		w.m = newMachine(t, w.store) // a restart goes on
		count(w.apply(1, []*replication.Request{w.request("sweep limit=1")}))
	}
	if len(grants) != holds {
		t.Errorf("%d locks were granted, want %d", len(grants), holds)
	}
	for name, n := range grants {
		if n != 1 {
			t.Errorf("lock %s was granted %d times", name, n)
		}
	}
	if n := w.read("machine_get").GetMachine(); n.LocksHeld != holds || n.Waiters != 0 || n.Sessions != 2 {
		t.Errorf("counts: %v", n)
	}
}

// A closed session leaves nothing behind, also what it extended and what is not
// cleared away yet.
func TestLargeSessionCloses(t *testing.T) {
	w := newWorld(t)
	w.do("session_open id=A ttl_ms=10s")
	for i := range 1200 {
		w.do(fmt.Sprintf("lock_wait name=x%04d session=A owner=@a%d", i, i))
	}
	w.do("lock_extend name=x1199 owner=@a1199 ttl_ms=100s", "session_close id=A")
	if n := w.read("machine_get").GetMachine().LocksHeld; n != 200 {
		t.Errorf("%d locks are still to be cleared away", n)
	}
	w.wantCode(w.read("lock_get name=x1199"), replication.Code_CODE_NOT_FOUND)
	if n := len(w.read("lock_list prefix=").GetLocks().Locks); n != 0 {
		t.Errorf("%d locks are listed", n)
	}
	w.do("sweep")
	if n := w.read("machine_get").GetMachine().LocksHeld; n != 0 {
		t.Errorf("%d locks are held", n)
	}
	w.wantCode(w.do("lock_try name=x1199 owner=ann ttl_ms=1s")[0], replication.Code_CODE_OK)
}

// A key that is forgotten is forgotten by the cache as well, in whichever of its
// generations it is.
func TestForgottenKeyBeginsAnew(t *testing.T) {
	w := newWorld(t)
	var err error
	if w.m, err = statemachine.NewWith(w.store, statemachine.Options{HeadCacheEntries: 2}); err != nil {
		t.Fatal(err)
	}
	w.do("set key=a", "set key=a expires_ms=1s", "set key=b", "set key=c")
	w.clock = 25 * 3600 * 1_000_000_000
	w.do("sweep")
	if n := w.do("set key=a")[0].GetWritten().Items[0].Revision; n != 0 {
		t.Errorf("the count goes on at %d", n)
	}
}

// A queue whose first thousands have died is stepped over in portions, and no
// live waiter is forgotten behind them.
func TestDeadWaitersAreSteppedOver(t *testing.T) {
	const dead = 2500
	w := newWorld(t)
	w.do("session_open id=A ttl_ms=10s", "session_open id=B ttl_ms=1000s", "lock_try name=x owner=ann ttl_ms=10s")
	for i := range dead {
		w.do(fmt.Sprintf("lock_wait name=x session=A owner=@a%d", i))
	}
	w.do("lock_wait name=x session=B owner=@b")
	w.clock = 10_000_000_000
	for range 6 {
		if at, due := w.m.Due(); !due || at > int64(w.clock) {
			break
		}
		w.do("sweep limit=1")
	}
	a := w.read("lock_get name=x")
	w.wantCode(a, replication.Code_CODE_OK)
	if string(a.GetLock().Owner) != string(hold("b")) || a.GetLock().Token != 1 || a.GetLock().QueueLength != 0 {
		t.Errorf("%v", a)
	}
}

// A grant in a long queue tells only the first places, so that it does not cost
// the whole queue.
func TestPositionsAreToldNearTheHead(t *testing.T) {
	w := newWorld(t)
	w.do("session_open id=A ttl_ms=1000s")
	for i := range 200 {
		w.do(fmt.Sprintf("lock_wait name=x session=A owner=@a%d", i))
	}
	res := w.apply(1, []*replication.Request{w.request("lock_unlock name=x owner=@a0")})
	var places []uint32
	for _, e := range res.Events {
		if e.Event.Kind == replication.Event_KIND_POSITION {
			places = append(places, e.Event.Hold.Position)
		}
	}
	if len(places) != statemachine.PositionsTold || places[0] != 1 || !slices.IsSorted(places) {
		t.Errorf("told %v", places)
	}
	// Asking again still says the true place.
	if g := w.do("lock_wait name=x session=A owner=@a199")[0].GetLockGrant(); g.GetPosition() != 198 {
		t.Errorf("%v", g)
	}
}

// A sequence remembers the newest 256 idempotency keys.
func TestIdempotencyKeysAreBounded(t *testing.T) {
	w := newWorld(t)
	w.do("sequence_create name=s increment=1")
	for i := range statemachine.IdempotencyKeys + 1 {
		w.do(fmt.Sprintf("sequence_next name=s count=1 idempotency_key=k%d", i))
	}
	if a := w.do("sequence_next name=s count=1 idempotency_key=k1")[0].GetAllocation(); !a.GetReplayed() || a.GetStart() != 2 {
		t.Errorf("the oldest but one: %v", a)
	}
	if a := w.do("sequence_next name=s count=1 idempotency_key=k0")[0].GetAllocation(); a.GetReplayed() || a.GetStart() != 258 {
		t.Errorf("the oldest: %v", a)
	}
}

// A plain set of a known key writes its head, a chunk of history, a receipt, the
// session and the machine's row, and the receipts it confirms go.
func TestWhatAPlainSetWrites(t *testing.T) {
	w := newWorld(t)
	w.do("set key=k value=1")
	before, puts := w.store.rows.Len(), w.store.puts
	w.do("set key=k value=2")
	if n := w.store.puts - puts; n != 5 {
		t.Errorf("%d rows were written", n)
	}
	if n := w.store.rows.Len() - before; n != 1 {
		t.Errorf("%d rows were added", n)
	}
}

// Pages end at rows and at bytes, and say that there is more.
func TestPagesAreBounded(t *testing.T) {
	w := newWorld(t)
	big := strings.Repeat("v", 1<<20)
	for i := range 6 {
		w.do(fmt.Sprintf("set key=big%d value=%s", i, big))
	}
	e := w.read("range prefix=big").GetEntries()
	if len(e.Entries) != 3 || !e.More {
		t.Errorf("%d entries, more %v", len(e.Entries), e.More)
	}
	e = w.read("range prefix=big start=big2 start_exclusive").GetEntries()
	if len(e.Entries) != 3 || e.More {
		t.Errorf("the next page: %d entries, more %v", len(e.Entries), e.More)
	}
	items := make([]string, 0, 2000)
	for i := range 12_000 {
		items = append(items, fmt.Sprintf("set key=small%05d", i))
		if len(items) == cap(items) {
			w.do("write " + strings.Join(items, ";"))
			items = items[:0]
		}
	}
	e = w.read("range prefix=small limit=99999").GetEntries()
	if len(e.Entries) != replication.MaxPageRows || !e.More {
		t.Errorf("%d entries, more %v", len(e.Entries), e.More)
	}
	w.wantCode(statemachine.Read(w.store, &replication.Request{Op: &replication.Request_Get{Get: &replication.Get{
		Keys: []*replication.GetKey{{Durability: 1, Key: "big0"}, {Durability: 1, Key: "big1"}, {Durability: 1, Key: "big2"},
			{Durability: 1, Key: "big3"}, {Durability: 1, Key: "big4"}}}}}), replication.Code_CODE_LIMIT)
}

// A name of 64 KiB is taken, one byte more and broken UTF-8 are not.
func TestNames(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name string
		want replication.Code
	}{
		{strings.Repeat("n", replication.MaxNameBytes), replication.Code_CODE_OK},
		{strings.Repeat("n", replication.MaxNameBytes+1), replication.Code_CODE_INVALID},
		{"\xff\xfe", replication.Code_CODE_INVALID},
		{"zero\x00byte", replication.Code_CODE_OK},
		{" ", replication.Code_CODE_OK},
	} {
		reqs := []*replication.Request{
			{Op: &replication.Request_LockTry{LockTry: &replication.LockTry{Durability: 1, Name: c.name, Owner: []byte("o"), TtlMs: 1}}},
			{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{{Durability: 1, Key: c.name}}}}},
		}
		for _, r := range reqs {
			w.number["client"]++
			r.Session, r.Number = sid("client"), w.number["client"]
		}
		for _, a := range w.apply(1, reqs).Answers {
			if a.Code != c.want {
				t.Errorf("a name of %d bytes: %v, want %v", len(c.name), a, c.want)
			}
		}
	}
}

// Lengths that no clock reaches are for ever, and nothing wraps.
func TestVeryLongTimes(t *testing.T) {
	w := newWorld(t)
	w.clock = 1 << 59
	for _, a := range w.do("session_open id=A ttl_ms=9223372036854775807", "lock_try name=x owner=o ttl_ms=9223372036854775807",
		"lock_extend name=x owner=o ttl_ms=9223372036854775807", "set key=k expires_ms=9223372036854775807", "sweep") {
		w.wantCode(a, replication.Code_CODE_OK)
	}
	w.clock = math.MaxInt64 - 1
	w.apply(1, []*replication.Request{w.request("sweep")})
	w.wantCode(w.read("lock_get name=x"), replication.Code_CODE_OK)
	if e := w.read("get key=k").GetEntries().Entries[0]; !e.Found || e.ExpiresAtMs != math.MaxInt64 {
		t.Errorf("%v", e)
	}
}

// The receipts of an ended session go in portions. A voter that restarts in
// between counts those that are left as the others do, also in rows of which a
// part has gone.
func TestReceiptsGoAlikeAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.do("session_open id=A ttl_ms=1000s", "session_open id=client ttl_ms=1000s")
	for i := 1; i <= 1950; {
		var lines []string
		for range 390 {
			lines = append(lines, fmt.Sprintf("set key=k value=%d id=A:%d", i, i))
			i++
		}
		w.do(lines...)
	}
	w.do("session_close id=A")
	other := newMapStore()
	for k, v := range w.store.Scan(nil, nil) {
		other.Put(k, v)
	}
	other.ever = nil
	again := newMachine(t, other)
	for range 3 {
		res := w.apply(w.term, []*replication.Request{w.request("get key=k")})
		entry, err := statemachine.EncodeEntry(&replication.LogEntry{Level: 1, Term: w.term, LeaseClockNs: int64(w.clock), WallMs: w.wallMS,
			Requests: []*replication.Request{w.request("get key=k")}})
		if err != nil || res.Diverged != nil {
			t.Fatal(err, res.Diverged)
		}
		if res := again.Apply(w.index, w.term, entry); res.Diverged != nil {
			t.Fatal(res.Diverged)
		}
		if a, b := w.m.Position().Hash, again.Position().Hash; a != b {
			t.Fatalf("at index %d the hash is %x here and %x after a restart", w.index, a, b)
		}
	}
	for k := range w.store.Scan([]byte{0x11, 0, 0, 0, 0, 0, 0, 0, 2}, []byte{0x12}) {
		t.Errorf("receipts %x are left", k)
	}
}
