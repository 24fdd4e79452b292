package statemachine_test

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/kahu-sh/kahu/replication"
)

// What a waiter said of itself is shown of the waiter, and of the holder it
// becomes, with the wall clock of the grant.
func TestHolderInfo(t *testing.T) {
	w := newWorld(t)
	w.do("session_open id=A ttl_ms=90s")
	info := func(command string) *replication.HolderInfo {
		return &replication.HolderInfo{Host: "h", Pid: 7, Uid: 1000, Command: command, Reason: "r", Node: "n"}
	}
	wait := func(name, owner string, i *replication.HolderInfo) *replication.Answer {
		r := w.request("lock_wait name=" + name + " session=A owner=@" + owner)
		r.GetLockWait().Info = i
		return w.apply(1, []*replication.Request{r}).Answers[0]
	}
	wait("x", "a1", info("first"))
	wait("x", "a2", info("second"))
	l := w.read("lock_get name=x queue_limit=5").GetLock()
	first := info("first")
	first.SinceMs = w.wallMS
	if d := cmp.Diff(first, l.Info, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(info("second"), l.Queue[0].Info, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	w.wallMS = 77_000
	w.do("lock_unlock name=x owner=@a1")
	second := info("second")
	second.SinceMs = 77_000
	if d := cmp.Diff(second, w.read("lock_get name=x").GetLock().Info, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	w.wantCode(wait("y", "a3", info(strings.Repeat("c", 16<<10))), replication.Code_CODE_INVALID)
	w.wantCode(wait("y", "a3", info("\xff")), replication.Code_CODE_INVALID)
	w.wantCode(w.read("lock_get name=y"), replication.Code_CODE_NOT_FOUND)
}

// Pages of locks and sequences follow each other without a gap or a repeat.
func TestListsInPages(t *testing.T) {
	w := newWorld(t)
	names := []string{"a", "a/b", "ab", "b", "b\x00", "b\x00c", "c"}
	for _, n := range names {
		lock := w.request("lock_try owner=o ttl_ms=9s")
		lock.GetLockTry().Name = n
		seq := w.request("sequence_create increment=1")
		seq.GetSequenceCreate().Name = n
		for _, a := range w.apply(1, []*replication.Request{lock, seq}).Answers {
			w.wantCode(a, replication.Code_CODE_OK)
		}
	}
	w.do("lock_try name=bb owner=o ttl_ms=9s", "lock_unlock name=bb owner=o") // free: never listed
	for _, prefix := range []string{"", "a", "b", "zz"} {
		var want []string
		for _, n := range names {
			if strings.HasPrefix(n, prefix) {
				want = append(want, n)
			}
		}
		var locks, seqs []string
		for after, more := "", true; more; {
			r := w.request("lock_list limit=2 prefix=" + prefix)
			r.GetLockList().After = after
			page := readOf(w, r).GetLocks()
			for _, l := range page.Locks {
				after = l.Name
				locks = append(locks, l.Name)
			}
			more = page.More
		}
		for after, more := "", true; more; {
			r := w.request("sequence_list limit=2 prefix=" + prefix)
			r.GetSequenceList().After = after
			page := readOf(w, r).GetSequences()
			for _, s := range page.Sequences {
				after = s.Name
				seqs = append(seqs, s.Name)
			}
			more = page.More
		}
		if d := cmp.Diff(want, locks) + cmp.Diff(want, seqs); d != "" {
			t.Errorf("prefix %q (-want +locks or sequences):\n%s", prefix, d)
		}
	}
}

func readOf(w *world, r *replication.Request) *replication.Answer { return read(w.store, r) }

// Asked again, a request gets its first answer byte for byte, from another
// machine over the same rows as well.
func TestReceiptsAreTheSameBytes(t *testing.T) {
	w := newWorld(t)
	w.do("session_open id=A ttl_ms=90s")
	lines := []string{
		"lock_wait name=x session=A owner=@a1 id=A:1", "lock_wait name=x session=A owner=@a2 id=A:2",
		"lock_break name=x reason=r id=A:3", "lock_unlock name=x owner=nobody id=A:4",
		"write set key=a value=1 ; delete key=b ; set key=c expires_ms=9s id=A:5", "set key= id=A:6",
		"sequence_create name=s increment=2 maximum=9 id=A:7", "sequence_next name=s count=2 id=A:8",
		"sequence_next name=s count=9 id=A:9", "sequence_delete name=s id=A:10",
	}
	encoded := func() (out [][]byte) {
		for _, l := range lines {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(w.do(l)[0])
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
		return out
	}
	first := encoded()
	w.clock += 5_000_000_000
	w.wallMS += 5_000
	w.m = newMachine(t, w.store)
	rows := w.store.rows.Len()
	for i, b := range encoded() {
		if !bytes.Equal(first[i], b) {
			t.Errorf("%s:\nfirst %x\nthen  %x", lines[i], first[i], b)
		}
	}
	if got := w.store.rows.Len(); got != rows {
		t.Errorf("%d rows, there were %d", got, rows)
	}
}

// Malformed requests are refused with a sentence and change nothing but the
// receipt that says so.
func TestMalformed(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("o", 5<<10)
	for _, line := range []string{
		"lock_try name=x owner=" + long + " ttl_ms=1s", "lock_extend name=x owner=o ttl_ms=0", "lock_extend name=x owner= ttl_ms=1s",
		"lock_unlock name=x owner=", "lock_unlock name= owner=o", "lock_break name=", "lock_break name=x durability=2",
		"lock_cancel name=x owner=", "lock_detach name=x owner=", "lock_detach name= owner=o",
		"lock_wait name=x session=client owner=@" + strings.Repeat("a", 17), "lock_wait name=x session=client owner=ABCDEFABCDEFABCDEFABCDEFABCDEFAB",
		"sequence_delete name=", "sequence_update name= current=1", "sequence_next name= count=1",
		"sequence_next name=s count=1 idempotency_key=" + long, "sequence_create increment=1 name=" + long,
		"session_open id=12345678901234567 ttl_ms=1s", "session_renew id=12345678901234567", "session_close id=12345678901234567",
		"session_open id=E ttl_ms=1s host=" + strings.Repeat(long, 4),
		"lock_list durability=3", "lock_get name=", "lock_get name=x durability=3", "range prefix= durability=3", "history key=", "get key=x durability=3",
		"sequence_get name=", "session_get id=12345678901234567",
	} {
		req := w.request(line)
		var a *replication.Answer
		if req.IsRead() {
			a = readOf(w, req)
		} else {
			a = w.apply(1, []*replication.Request{req}).Answers[0]
		}
		if a.Code != replication.Code_CODE_INVALID || a.Detail == "" || a.Result != nil {
			t.Errorf("%.60s: %v", line, a)
		}
	}
	for _, r := range []*replication.Request{
		{}, {Op: &replication.Request_LockGet{LockGet: &replication.LockGet{Name: "x"}}},
		{Op: &replication.Request_LockBreak{LockBreak: &replication.LockBreak{Name: "x"}}},
		{Session: []byte("short"), Op: &replication.Request_LockBreak{LockBreak: &replication.LockBreak{Name: "x"}}},
		{Session: sid("client"), Number: 1e6, Op: &replication.Request_Write{Write: &replication.Write{}}},
	} {
		if a := w.apply(1, []*replication.Request{r}).Answers[0]; a.Code != replication.Code_CODE_INVALID {
			t.Errorf("%v: %v", r, a)
		}
	}
	if a := readOf(w, &replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{}}}); a.Code != replication.Code_CODE_INVALID {
		t.Errorf("a sweep as a read: %v", a)
	}
	if m := w.read("machine_get").GetMachine(); m.Sessions != 1 || m.LocksHeld != 0 || m.Keys != 0 || m.Sequences != 0 {
		t.Errorf("%v", m)
	}
}

// Labels rise with every command, also when the wall clock does not, or turns back.
func TestLabelsRise(t *testing.T) {
	w := newWorld(t)
	var last *replication.Timestamp
	for _, wall := range []int64{5000, 5000, 4000, -1, 5001, math.MaxInt64, 0} {
		w.wallMS = wall
		for _, a := range w.do("set key=k value=1", "set key=k value=2") {
			if last != nil && (a.Time.PhysicalMs < last.PhysicalMs || a.Time.PhysicalMs == last.PhysicalMs && a.Time.Counter <= last.Counter) {
				t.Errorf("wall %d: label %v after %v", wall, a.Time, last)
			}
			last = a.Time
		}
	}
	if w.m.Position().WallMS != math.MaxInt64 {
		t.Errorf("%+v", w.m.Position())
	}
}
