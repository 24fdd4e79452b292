package scripts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/storage/engines"
	"github.com/kahu-sh/kahu/storage/rocksdb"
)

// BenchmarkStorePrices shows how many nanoseconds a unit of fuel buys of work at the
// store, over keys that are in the engine alone: about 1 is meant, as in package
// script.
func BenchmarkStorePrices(b *testing.B) {
	const keys = 20_000
	name := func(r *rand.Rand) string { return fmt.Sprintf("`p/%05d`", r.IntN(keys)) }
	many := func(r *rand.Rand, n int, statement string) string {
		var s strings.Builder
		for range n {
			fmt.Fprintf(&s, statement+"\n", name(r))
		}
		return s.String()
	}
	scripts := map[string]func(r *rand.Rand) string{
		"get":     func(r *rand.Rand) string { return many(r, 200, "LET v = GET %s") },
		"exists":  func(r *rand.Rand) string { return many(r, 200, "LET v = EXISTS %s") },
		"absent":  func(r *rand.Rand) string { return strings.ReplaceAll(many(r, 200, "LET v = GET %s"), "p/", "q/") },
		"history": func(r *rand.Rand) string { return many(r, 50, "LET v = GET %s AT 0") },
		"as of":   func(r *rand.Rand) string { return many(r, 50, "LET v = GET %s AS OF 1000") },
		"rows":    func(r *rand.Rand) string { return fmt.Sprintf("LET v = SCAN BY PREFIX `p/%03d`", r.IntN(keys/100)) },
		"rows as of": func(r *rand.Rand) string {
			return fmt.Sprintf("LET v = SCAN BY PREFIX `p/%03d` AS OF 1000", r.IntN(keys/100))
		},
		"rows deleted":      func(r *rand.Rand) string { return fmt.Sprintf("LET v = SCAN BY PREFIX `gone/%02d`", r.IntN(20)) },
		"bucket of buckets": func(*rand.Rand) string { return "LET v = GET BY BUCKET deep" },
		"set":               func(r *rand.Rand) string { return many(r, 200, "SET %s 'a value'") },
		"set expiry":        func(r *rand.Rand) string { return many(r, 200, "SET %s 'a value' EX 1000000") },
		"delete":            func(r *rand.Rand) string { return many(r, 200, "DELETE %s") },
	}
	for _, kind := range engines.Kinds() {
		if err := engines.Check(kind); errors.Is(err, rocksdb.ErrNotBuilt) {
			continue
		}
		for what, script := range scripts {
			b.Run(kind+"/"+what, func(b *testing.B) {
				v := filled(b, kind, keys)
				defer v.close()
				r := rand.New(rand.NewPCG(1, 1))
				fuel := int64(0)
				index, now := v.m.Position().Index, v.m.Position().WallMS
				for b.Loop() {
					b.StopTimer()
					index, now = index+1, now+5
					e := entryOf(b, now, index, &replication.Request_Script{Script: &replication.Script{Text: []byte(script(r))}})
					b.StartTimer()
					v.s.Begin()
					res := v.m.Apply(index, 1, e)
					v.s.Commit(index)
					a := res.Answers[0]
					if res.Diverged != nil || a.GetCode() != replication.Code_CODE_OK {
						b.Fatal(res.Diverged, a)
					}
					fuel += int64(a.GetScriptResult().GetFuelUsed())
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(fuel), "ns/unit")
			})
		}
	}
}

func entryOf(tb testing.TB, now int64, number uint64, script *replication.Request_Script) []byte {
	b, err := statemachine.EncodeEntry(&replication.LogEntry{Level: statemachine.CurrentLevel, Term: 1, LeaseClockNs: now * 1e6, WallMs: now,
		Requests: []*replication.Request{{Session: session, Number: number, DoneBelow: number, Op: script}}})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// filled is a voter with keys of 100 bytes and two revisions, all of it in its engine
// and nothing in its caches.
func filled(b *testing.B, kind string, keys int) *voter {
	v := open(b, kind, b.TempDir())
	now := int64(1000)
	apply := func(reqs ...*replication.Request) {
		now += 5
		e, err := statemachine.EncodeEntry(&replication.LogEntry{Level: statemachine.CurrentLevel, Term: 1, LeaseClockNs: now * 1e6, WallMs: now, Requests: reqs})
		if err != nil {
			b.Fatal(err)
		}
		index := v.m.Position().Index + 1
		v.s.Begin()
		res := v.m.Apply(index, 1, e)
		v.s.Commit(index)
		for _, a := range res.Answers {
			if err := a.Refused(); err != nil {
				b.Fatal(err)
			}
		}
	}
	apply(&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: statemachine.CurrentLevel}}},
		&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: session, TtlMs: 1e12}}})
	for number := uint64(1); number <= 2*uint64(keys)/500; number++ {
		var items []*replication.WriteItem
		for i := range 500 {
			items = append(items, &replication.WriteItem{Durability: replication.Durability_DURABILITY_PERSISTENT,
				Key: fmt.Sprintf("p/%05d", (int(number-1)*500+i)%keys), Value: []byte(strings.Repeat("x", 100))})
		}
		apply(&replication.Request{Session: session, Number: number, DoneBelow: number, Op: &replication.Request_Write{Write: &replication.Write{Items: items}}})
	}
	number := 2 * uint64(keys) / 500
	for i := range 20 {
		for _, k := range []replication.WriteKind{replication.WriteKind_WRITE_KIND_SET, replication.WriteKind_WRITE_KIND_DELETE} {
			var items []*replication.WriteItem
			for j := range 100 {
				items = append(items, &replication.WriteItem{Kind: k, Durability: replication.Durability_DURABILITY_PERSISTENT, Key: fmt.Sprintf("gone/%02d%02d", i, j)})
				if i < 3 && k == replication.WriteKind_WRITE_KIND_SET {
					items = append(items, &replication.WriteItem{Durability: replication.Durability_DURABILITY_PERSISTENT, Key: fmt.Sprintf("deep/%02d%02d/x", i, j)})
				}
			}
			number++
			apply(&replication.Request{Session: session, Number: number, DoneBelow: number, Op: &replication.Request_Write{Write: &replication.Write{Items: items}}})
		}
	}
	if err := v.s.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	if kind == engines.Memory { // forgets all when it is closed
		return v
	}
	v.close()
	v = open(b, kind, v.dir)
	var err error
	if v.m, err = statemachine.NewWith(v.s, statemachine.Options{HeadCacheEntries: 1}); err != nil {
		b.Fatal(err)
	}
	return v
}
