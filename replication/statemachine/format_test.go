package statemachine_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

const goldenFile = "testdata/rows.golden"

// goldenWorld has a row of every kind.
func goldenWorld(t *testing.T) *world {
	w := newWorld(t)
	w.clock, w.wallMS = 5_000_000_000, 1_700_000_000_000
	w.m.ApplyOther(2, 1, []byte("configuration"))
	w.index = 2
	w.do("opening node=v1", "session_open id=A host=alpha node=n1 ttl_ms=10s", "session_open id=B host=beta node=n2 ttl_ms=90s",
		"session_open id=C host=gamma ttl_ms=90s")
	w.do("lock_wait name=queue session=A owner=@a1", "lock_wait name=queue session=B owner=@b1", "lock_try name=own owner=ann ttl_ms=30s",
		"lock_try name=free owner=ann ttl_ms=30s ephemeral", "lock_unlock name=free owner=ann ephemeral",
		"lock_try name=short owner=ann ttl_ms=1s", "lock_wait name=ext session=B owner=@b2", "lock_extend name=ext owner=@b2 ttl_ms=900s",
		"session_close id=C")
	w.do("set key=k value=one", "set key=k value= expires_ms=60s", "set key=k", "extend key=k expires_ms=5s",
		"delete key=k", "set key=e value=x expires_ms=1s", "set key=e2 value=x ephemeral id=B:70 done=65",
		"sequence_create name=s initial=5 increment=2 maximum=99 block_size=7", "sequence_next name=s count=3 idempotency_key=key")
	w.clock += 2_000_000_000
	w.do("sweep")
	return w
}

// TestGoldenRows holds the stored formats still. Old rows must stay readable: a
// format that changes gets a new number, and this file stays as it is.
func TestGoldenRows(t *testing.T) {
	w := goldenWorld(t)
	got := strings.Join(w.store.dump(), "\n") + "\n"
	if *rewrite {
		if err := os.WriteFile(goldenFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("the rows have changed (-golden +now):\n%s", d)
	}

	s := newMapStore()
	for _, line := range strings.Split(strings.TrimSpace(string(want)), "\n") {
		k, v, _ := strings.Cut(line, " = ")
		key, _ := hex.DecodeString(k)
		value, _ := hex.DecodeString(v)
		s.Put(key, value)
		if again, ok := statemachine.RecodeRow(key, value); !ok || !bytes.Equal(again, value) {
			t.Errorf("row %s is not read as it was written: %x", line, again)
		}
	}
	m := newMachine(t, s)
	if p := m.Position(); string(p.Configuration) != "configuration" || p.ConfigurationIndex != 2 || p.OpenedTerm != 1 || p.Index != w.index {
		t.Errorf("position %+v", p)
	}
	w.store, w.m = s, m
	if l := w.read("lock_get name=queue queue_limit=9").GetLock(); len(l.GetQueue()) != 1 {
		t.Errorf("%v", l)
	}
}

func FuzzRows(f *testing.F) {
	for _, file := range []string{goldenFile, goldenTxFile} {
		golden, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(golden)), "\n") {
			k, v, _ := strings.Cut(line, " = ")
			key, _ := hex.DecodeString(k)
			value, _ := hex.DecodeString(v)
			f.Add(key, value)
		}
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		again, ok := statemachine.RecodeRow(key, value)
		if !ok {
			return
		}
		if twice, ok := statemachine.RecodeRow(key, again); !ok || !bytes.Equal(again, twice) {
			t.Errorf("%x is written as %x, and then as %x", value, again, twice)
		}
	})
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "a", "a\x00", "a\x00\x01", "a\xff", "\x00", "\x00\x00", "a/b"} {
		for _, o := range []string{"", "a", "a\x00b"} {
			f.Add(s, o)
		}
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ea, again, ok := statemachine.RecodeName(a)
		if !ok || again != a {
			t.Fatalf("%q comes back as %q", a, again)
		}
		eb, _, _ := statemachine.RecodeName(b)
		if strings.Compare(a, b) != bytes.Compare(ea, eb) {
			t.Errorf("%q and %q are ordered otherwise as %x and %x", a, b, ea, eb)
		}
		statemachine.CutName([]byte(a))
	})
}

// FuzzEntry applies anything as a log entry, and answers anything as a read.
// Nothing may panic, and what is not understood must change nothing.
func FuzzEntry(f *testing.F) {
	add := func(reqs ...*replication.Request) {
		b, err := statemachine.EncodeEntry(&replication.LogEntry{Level: 1, Term: 1, LeaseClockNs: 1e9, WallMs: 5, Requests: reqs})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add()
	add(&replication.Request{}, &replication.Request{Op: &replication.Request_Sweep{}}, &replication.Request{Op: &replication.Request_Write{}, Session: sid("client")})
	w := &world{t: f, number: map[string]uint64{}, wallMS: 1}
	for _, l := range []string{"lock_wait name=x session=client owner=@a", "lock_try name=x owner=o ttl_ms=1", "lock_detach name=x owner=@a",
		"lock_extend name=x owner=o ttl_ms=5", "lock_unlock name=x owner=o", "lock_break name=x", "lock_cancel name=x owner=o",
		"atomic set key=k value=v expires_ms=5 ; delete key=k ; extend key=k", "sequence_create name=s increment=1", "sequence_next name=s count=1 idempotency_key=k",
		"sequence_update name=s current=5", "sequence_delete name=s", "session_renew id=client check_holds", "session_close id=client", "digest index=1 hash=x",
		"set_level level=1", "range prefix=a bucket as_of=5", "get key=k revision=1", "history key=k before=3", "lock_get name=x", "lock_list prefix=",
		"session_get id=client", "sequence_list prefix="} {
		add(w.request(l))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorld(t)
		w.store.ever = nil
		entry := bytes.Clone(b)
		before := w.store.dump()
		res := w.m.Apply(2, 1, entry)
		if res.Diverged != nil && !errors.Is(res.Diverged, statemachine.ErrDiverged) {
			if d := cmp.Diff(before, w.store.dump()); d != "" {
				t.Fatalf("%v, and changed:\n%s", res.Diverged, d)
			}
		}
		if !bytes.Equal(entry, b) {
			t.Fatal("the entry was changed")
		}
		e, err := statemachine.DecodeEntry(b)
		if err != nil {
			return
		}
		if res.Diverged == nil && len(res.Answers) != len(e.Requests) {
			t.Fatalf("%d answers to %d requests", len(res.Answers), len(e.Requests))
		}
		for _, r := range e.Requests {
			statemachine.Read(w.store, r)
		}
		if _, err := statemachine.New(w.store); err != nil {
			t.Fatalf("cannot be loaded again: %v", err)
		}
	})
}

// Damaged rows, rows of a newer kahu and a restore's floor are met when loading.
func TestLoading(t *testing.T) {
	w := goldenWorld(t)
	meta, _ := w.store.Get([]byte{1, 'm'})
	newer := bytes.Clone(meta)
	newer[1] = byte(statemachine.CurrentLevel) + 1
	for _, c := range []struct {
		name  string
		value []byte
		want  error
	}{
		{"cut", meta[:len(meta)-1], statemachine.ErrDamaged},
		{"empty", nil, statemachine.ErrDamaged},
		{"format", append([]byte{9}, meta[1:]...), statemachine.ErrDamaged},
		{"newer", newer, statemachine.ErrNewer},
	} {
		w.store.Put([]byte{1, 'm'}, c.value)
		if _, err := statemachine.New(w.store); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestDamagedRowStopsTheVoter(t *testing.T) {
	w := newWorld(t)
	w.do("lock_try name=x owner=ann ttl_ms=1s")
	for k, v := range w.store.Scan([]byte{0x20}, []byte{0x21}) {
		w.store.Put(k, v[:3])
		break
	}
	res := w.apply(1, []*replication.Request{w.request("lock_try name=x owner=bob ttl_ms=1s")})
	if !errors.Is(res.Diverged, statemachine.ErrDamaged) || res.Answers != nil {
		t.Errorf("%+v", res)
	}
	a := w.read("lock_get name=x")
	if a.Code != replication.Code_CODE_UNKNOWN_OUTCOME || !strings.Contains(a.Detail, "damaged") {
		t.Errorf("%v", a)
	}
}

// A restore names a floor: every next token is above it, of known locks and new ones.
func TestTokenFloorOfARestore(t *testing.T) {
	w := newWorld(t)
	w.do("lock_try name=known owner=ann ttl_ms=1s", "lock_try name=held owner=ann ttl_ms=1000s")
	w.store.Put(statemachine.FloorKey(), binary.AppendVarint([]byte{1}, 1<<40))
	w.m = newMachine(t, w.store)
	w.clock = 5_000_000_000
	for line, want := range map[string]int64{
		"lock_try name=known owner=bob ttl_ms=1s": 1<<40 + 1,
		"lock_try name=new owner=bob ttl_ms=1s":   1<<40 + 1,
		"lock_try name=held owner=ann ttl_ms=1s":  0,
	} {
		if g := w.do(line)[0].GetLockGrant(); g.GetToken() != want {
			t.Errorf("%s: %v, want %d", line, g, want)
		}
	}
}

func TestDigest(t *testing.T) {
	w := newWorld(t)
	w.do("set key=k value=1")
	p := w.m.Position()
	w.do("set key=k value=2")
	digest := func(index uint64, hash []byte) error {
		return w.apply(1, []*replication.Request{{Op: &replication.Request_Digest{Digest: &replication.Digest{Index: index, Hash: hash}}}}).Diverged
	}
	if err := digest(p.Index, p.Hash[:]); err != nil {
		t.Error(err)
	}
	if err := digest(p.Index, []byte("another")); !errors.Is(err, statemachine.ErrDiverged) {
		t.Errorf("got %v", err)
	}
	// What this voter has not in memory is not compared.
	w.m = newMachine(t, w.store)
	if err := digest(p.Index, []byte("another")); err != nil {
		t.Error(err)
	}
	if err := digest(p.Index+1000, []byte("another")); err != nil {
		t.Error(err)
	}
}

// Every difference in what was applied shows in the hash.
func TestHashSeesEverything(t *testing.T) {
	seen := make(map[string]string)
	for _, line := range []string{"set key=k value=1", "set key=k value=2", "set key=l value=1", "set key=k value=1 ephemeral",
		"set key=k value=1 expires_ms=1", "delete key=k", "lock_try name=x owner=a ttl_ms=1", "sweep", "opening node=a"} {
		for _, clock := range []int64{0, 1} {
			w := newWorld(t)
			w.clock += 1 * 1
			w.wallMS += clock
			w.do(line)
			hash := fmt.Sprintf("%x", w.m.Position().Hash)
			if other, ok := seen[hash]; ok {
				t.Errorf("%q and %q have the same hash", line, other)
			}
			seen[hash] = line
		}
	}
}

// An entry that was applied before is not applied again, and answers nothing.
func TestAppliedBefore(t *testing.T) {
	w := newWorld(t)
	w.do("set key=k value=1")
	before := w.store.dump()
	w.index--
	if res := w.apply(1, []*replication.Request{w.request("set key=k value=2")}); res.Answers != nil || res.Diverged != nil {
		t.Errorf("%+v", res)
	}
	w.m.ApplyOther(1, 1, []byte("old"))
	if d := cmp.Diff(before, w.store.dump()); d != "" {
		t.Error(d)
	}
}

func TestUnreadableEntriesChangeNothing(t *testing.T) {
	good := &replication.LogEntry{Level: 1, Term: 1, LeaseClockNs: 9e9}
	encoded, err := statemachine.EncodeEntry(good)
	if err != nil {
		t.Fatal(err)
	}
	future := bytes.Clone(encoded)
	future[1] = statemachine.EntryFormat + 1
	level, err := statemachine.EncodeEntry(&replication.LogEntry{Level: statemachine.CurrentLevel + 1, Term: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		entry []byte
		want  error
	}{
		{"empty", nil, statemachine.ErrBadEntry},
		{"cut", encoded[:len(encoded)-1], statemachine.ErrBadEntry},
		{"format", future, statemachine.ErrNewer},
		{"level", level, statemachine.ErrNewer},
	} {
		w := newWorld(t)
		before, at := w.store.dump(), w.m.Position()
		if res := w.m.Apply(2, 1, c.entry); !errors.Is(res.Diverged, c.want) {
			t.Errorf("%s: %v, want %v", c.name, res.Diverged, c.want)
		}
		if d := cmp.Diff(before, w.store.dump()) + cmp.Diff(at, w.m.Position()); d != "" {
			t.Errorf("%s changed:\n%s", c.name, d)
		}
	}
}
