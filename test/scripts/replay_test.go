// Package scripts checks what scripts must be on every voter: the same.
package scripts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/limiter"
	"github.com/kahu-sh/kahu/replication/script/scripttest"
	"github.com/kahu-sh/kahu/replication/statemachine"
	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/engines"
	"github.com/kahu-sh/kahu/storage/memtable"
	"github.com/kahu-sh/kahu/storage/rocksdb"
)

var session = []byte("0123456789abcdef")

// texts are the scripts of the conformance suite, and those of the rate limits.
func texts(t *testing.T) (out []*replication.Script) {
	cases, err := scripttest.Load()
	if err != nil {
		t.Fatal(err)
	}
	add := func(text string, params []*replication.ScriptParameter) {
		out = append(out, &replication.Script{Text: []byte(text), Parameters: params})
	}
	for _, c := range cases {
		for _, s := range c.Steps {
			var params []*replication.ScriptParameter
			for _, p := range s.Params {
				params = append(params, &replication.ScriptParameter{Name: p.Name, Value: &p.Value})
			}
			add(s.Text, params)
		}
	}
	for range 10 { // of times ahead of the script, which it leaves behind all labels
		add("LET t = hlc() + 700 LET v = GET a AS OF t SET a t RETURN v", nil)
		add("LET t = hlc() LET v = SCAN BY PREFIX a AS OF t SET b count(v) EX 500 RETURN t", nil)
	}
	lease := limiter.Lease{Bucket: "leases", ID: "a", Limit: 3, Permits: 2, TTLMS: 1000}
	for _, script := range []func() (string, []limiter.Param, error){lease.Acquire, lease.Renew, lease.Release} {
		text, given, err := script()
		if err != nil {
			t.Fatal(err)
		}
		var params []*replication.ScriptParameter
		for _, p := range given {
			params = append(params, &replication.ScriptParameter{Name: p.Name, Value: &p.Value})
		}
		for range 5 {
			add(text, params)
		}
	}
	for _, a := range limiter.Algorithms {
		text, given, err := limiter.Take{Algorithm: a, Key: "limit", Rate: limiter.Rate{Permits: 5, PeriodMS: 1000}, Permits: 1}.Script()
		if err != nil {
			t.Fatal(err)
		}
		var params []*replication.ScriptParameter
		for _, p := range given {
			params = append(params, &replication.ScriptParameter{Name: p.Name, Value: &p.Value})
		}
		for range 20 {
			add(text, params)
		}
	}
	return out
}

// log makes entries of a few scripts each, with time passing in between.
func log(t *testing.T, level uint32, n int, seed uint64) (entries [][]byte) {
	r := rand.New(rand.NewPCG(seed, 0))
	all := texts(t)
	now, number := int64(scripttest.StartMS), uint64(0)
	add := func(reqs ...*replication.Request) {
		b, err := statemachine.EncodeEntry(&replication.LogEntry{Level: level, Term: 1, LeaseClockNs: now * 1e6, WallMs: now, Requests: reqs})
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, b)
	}
	add(&replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: level}}},
		&replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: session, TtlMs: 1e12}}})
	for range n {
		now += r.Int64N(200)
		var reqs []*replication.Request
		for range 1 + r.IntN(6) {
			number++
			reqs = append(reqs, &replication.Request{Session: session, Number: number, DoneBelow: number,
				Op: &replication.Request_Script{Script: all[r.IntN(len(all))]}})
		}
		add(reqs...)
	}
	return entries
}

// voter is a machine over an engine, as a voter has it.
type voter struct {
	t    testing.TB
	kind string
	dir  string
	e    storage.Engine
	s    *memtable.Store
	m    *statemachine.Machine
}

func open(t testing.TB, kind, dir string) *voter {
	v := &voter{t: t, kind: kind, dir: dir}
	var err error
	if v.e, err = engines.Open(kind, dir); err != nil {
		t.Fatal(err)
	}
	if v.s, err = memtable.Open(v.e, memtable.Options{CheckFresh: true}); err != nil {
		t.Fatal(err)
	}
	if v.m, err = statemachine.New(v.s); err != nil {
		t.Fatal(err)
	}
	v.s.Loaded(v.m.Position().Index)
	return v
}

// apply applies what of the log the voter does not have.
func (v *voter) apply(entries [][]byte) {
	for i, b := range entries {
		index := uint64(i + 1)
		if index <= v.m.Position().Index {
			continue
		}
		v.s.Begin()
		res := v.m.Apply(index, 1, b)
		if res.Diverged != nil {
			v.t.Fatal(res.Diverged)
		}
		v.s.Commit(index)
	}
}

func (v *voter) close() {
	if err := errors.Join(v.s.Close(), v.e.Close()); err != nil {
		v.t.Error(err)
	}
}

// rows lists all rows.
func (v *voter) rows() (out []string) {
	v.s.Begin()
	for k, b := range v.s.Scan(nil, nil) {
		out = append(out, fmt.Sprintf("%x=%x", k, b))
	}
	v.s.Commit(v.m.Position().Index)
	return out
}

// TestReplay applies one log to every engine, with voters that begin anew from
// their engine on the way, and expects the same rows, byte for byte; under the
// rules of each feature level that has scripts.
func TestReplay(t *testing.T) {
	for level := uint32(2); level <= statemachine.CurrentLevel; level++ {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) { replay(t, level) })
	}
}

func replay(t *testing.T, level uint32) {
	entries := log(t, level, 400, 1)
	var want []string
	var hash [16]byte
	for _, kind := range engines.Kinds() {
		if err := engines.Check(kind); errors.Is(err, rocksdb.ErrNotBuilt) {
			continue
		}
		for _, restarts := range []bool{false, true} {
			name := fmt.Sprintf("%s, restarts %v", kind, restarts)
			v := open(t, kind, t.TempDir())
			if restarts {
				for _, part := range []int{3, 90, 91, 250} {
					v.apply(entries[:part])
					if err := v.s.Flush(context.Background()); err != nil {
						t.Fatal(err)
					}
					v.apply(entries[:part+20]) // lost, and applied again
					v.close()
					v = open(t, kind, v.dir)
				}
			}
			v.apply(entries)
			if want == nil {
				want, hash = v.rows(), v.m.Position().Hash
			}
			got := v.rows()
			if v.m.Position().Hash != hash || len(got) != len(want) {
				t.Errorf("%s: hash %x and %d rows, not %x and %d", name, v.m.Position().Hash, len(got), hash, len(want))
			}
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Fatalf("%s: row %d is\n%s, not\n%s", name, i, got[i], want[i])
				}
			}
			v.close()
		}
	}
	if len(want) < 100 {
		t.Errorf("only %d rows: the log does too little", len(want))
	}
}
