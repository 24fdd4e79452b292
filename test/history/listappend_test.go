package history_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/test/history"
)

// listTx reads "T1 +x1 x=[1 2] y=[] | 5 9": appends, reads, begin and end. A name
// that ends in ! was aborted, in ? is unknown.
func listTx(t *testing.T, line string) *history.ListTx {
	t.Helper()
	ops, times, _ := strings.Cut(line, "|")
	tx := &history.ListTx{Outcome: history.ListCommitted, Begin: 0, End: 1 << 40}
	if times != "" {
		if _, err := fmt.Sscan(times, &tx.Begin, &tx.End); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	fields := strings.Fields(strings.NewReplacer("[ ", "[", " ]", "]").Replace(ops))
	tx.Name = fields[0]
	switch tx.Name[len(tx.Name)-1] {
	case '!':
		tx.Outcome = history.ListAborted
	case '?':
		tx.Outcome = history.ListUnknown
	}
	for _, f := range fields[1:] {
		var op history.ListOp
		if add, ok := strings.CutPrefix(f, "+"); ok {
			op.Key = add[:1]
			if _, err := fmt.Sscan(add[1:], &op.Append); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		} else {
			op.Key = f[:1]
			for _, v := range strings.FieldsFunc(f[3:len(f)-1], func(r rune) bool { return r == ',' }) {
				var n int64
				if _, err := fmt.Sscan(v, &n); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				op.Read = append(op.Read, n)
			}
		}
		tx.Ops = append(tx.Ops, op)
	}
	return tx
}

func TestKnownHistories(t *testing.T) {
	for name, c := range map[string]struct {
		txs  []string
		want []string
	}{
		"empty":         {nil, nil},
		"serial":        {[]string{"A +x1 | 0 1", "B x=[1] +x2 | 2 3", "C x=[1,2] y=[] | 4 5"}, nil},
		"own appends":   {[]string{"A +x1 x=[1] +x2 x=[1,2]", "B x=[1,2] +x3 x=[1,2,3]"}, nil},
		"aborted apart": {[]string{"A! +x1 x=[1]", "B x=[]"}, nil},
		"unknown, seen": {[]string{"A? +x1", "B x=[1]"}, nil},
		"unknown, not":  {[]string{"A? +x1", "B x=[] | 5 6"}, nil},
		"concurrent":    {[]string{"A x=[] +y1 | 0 9", "B +x1 | 0 9", "C y=[1] x=[1] | 10 11"}, nil},

		"G0":                             {[]string{"A +x1 +y1", "B +x2 +y2", "C x=[1,2] | 0 1", "D y=[2,1] | 0 1"}, []string{"G0"}},
		"G1a":                            {[]string{"A! +x1", "B x=[1]"}, []string{"G1a"}},
		"G1b":                            {[]string{"A +x1 +x2", "B x=[1]", "C x=[1,2]"}, []string{"G1b"}},
		"G1c":                            {[]string{"A +x1 y=[1]", "B +y1 x=[1]"}, []string{"G1c"}},
		"lost update":                    {[]string{"A x=[] +x1", "B x=[] +x2", "C x=[1,2]"}, []string{"G-single"}},
		"write skew":                     {[]string{"A x=[] +y1", "B y=[] +x1", "C x=[1] y=[1]"}, []string{"G2"}},
		"read skew":                      {[]string{"A +x1 +y1", "B x=[] y=[1]"}, []string{"G-single"}},
		"stale read":                     {[]string{"A +x1 | 0 1", "B x=[] | 2 3", "C x=[1] | 4 5"}, []string{"G-single-realtime"}},
		"lost append":                    {[]string{"A +x1 | 0 1", "B x=[] | 2 3"}, []string{"G-single-realtime"}},
		"lost second append":             {[]string{"A +x1 | 0 1", "B +x2 | 2 3", "C x=[1] | 4 5"}, []string{"G-single-realtime"}},
		"time runs back":                 {[]string{"A +x1 | 4 5", "B x=[1] +y1 | 0 3"}, []string{"G1c-realtime"}},
		"appends out of time":            {[]string{"A +x1 | 4 5", "B +x2 | 0 3", "C x=[1,2] | 6 7"}, []string{"G0-realtime"}},
		"incompatible":                   {[]string{"A +x1", "B +x2", "C x=[1,2]", "D x=[2]"}, []string{"incompatible-order"}},
		"duplicate":                      {[]string{"A +x1", "C x=[1,1]"}, []string{"duplicate"}},
		"garbage":                        {[]string{"C x=[7]"}, []string{"garbage"}},
		"does not see itself":            {[]string{"A +x1 x=[]", "B x=[1]"}, []string{"internal"}},
		"not repeatable":                 {[]string{"A x=[] x=[1]", "B +x1"}, []string{"internal"}},
		"two anti-dependencies of three": {[]string{"A x=[] +y1", "B +x1 +z1", "C z=[1] y=[]", "D x=[1] y=[1]"}, []string{"G2"}},
	} {
		t.Run(name, func(t *testing.T) {
			var txs []*history.ListTx
			for _, line := range c.txs {
				txs = append(txs, listTx(t, line))
			}
			var got []string
			for _, a := range history.CheckLists(txs) {
				got = append(got, a.Kind)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q: %v", got, c.want, history.CheckLists(txs))
			}
			if err := history.CheckListAppends(txs, 3); (err == nil) != (len(c.want) == 0) {
				t.Errorf("as an error: %v", err)
			}
		})
	}
}

// store runs transactions in interleaved steps over versions of lists, as a
// database with one fault would.
type store struct {
	fault string
	lists map[string][]int64 // committed
	dirty map[string][]int64 // with what is uncommitted
	now   int64
}

type running struct {
	tx      *history.ListTx
	from    map[string][]int64 // state as of its begin
	appends map[string][]int64
	seen    map[string][]int64
}

func copied(m map[string][]int64) map[string][]int64 {
	c := make(map[string][]int64, len(m))
	for k, v := range m {
		c[k] = slices.Clone(v)
	}
	return c
}

func (s *store) step(r *rand.Rand, x *running, value int64) {
	key := string(rune('a' + r.IntN(4)))
	if r.IntN(2) == 0 {
		x.tx.Ops = append(x.tx.Ops, history.ListOp{Key: key, Append: value})
		x.appends[key] = append(x.appends[key], value)
		s.dirty[key] = append(s.dirty[key], value)
		return
	}
	var read []int64
	switch s.fault {
	case "read committed":
		read = append(slices.Clone(s.lists[key]), x.appends[key]...)
	case "read uncommitted":
		read = slices.Clone(s.dirty[key])
	default: // as of the begin
		read = append(slices.Clone(x.from[key]), x.appends[key]...)
	}
	if _, been := x.seen[key]; !been {
		x.seen[key] = x.from[key]
	}
	x.tx.Ops = append(x.tx.Ops, history.ListOp{Key: key, Read: read})
}

// end commits, by the rule that the fault leaves.
func (s *store) end(x *running) {
	s.now++
	x.tx.End = s.now
	ok := true
	for key, seen := range x.seen {
		moved := len(seen) != len(s.lists[key])
		_, writes := x.appends[key]
		switch s.fault {
		case "": // every read is validated
			ok = ok && !moved
		case "snapshot isolation": // of what is written only
			ok = ok && !(moved && writes)
		}
	}
	if !ok {
		x.tx.Outcome = history.ListAborted
		return
	}
	x.tx.Outcome = history.ListCommitted
	for key, vs := range x.appends {
		s.lists[key] = append(s.lists[key], vs...)
	}
	if s.fault == "lost append" && s.now%7 == 0 {
		for key, vs := range x.appends {
			s.lists[key] = s.lists[key][:len(s.lists[key])-len(vs)]
		}
	}
}

func simulate(fault string, seed uint64) (txs []*history.ListTx) {
	r := rand.New(rand.NewPCG(seed, 1))
	s := &store{fault: fault, lists: map[string][]int64{}, dirty: map[string][]int64{}}
	open := make([]*running, 4)
	value := int64(0)
	for range 600 {
		i := r.IntN(len(open))
		if x := open[i]; x != nil {
			if value++; r.IntN(4) > 0 {
				s.step(r, x, value)
				continue
			}
			s.end(x)
			txs, open[i] = append(txs, x.tx), nil
			continue
		}
		s.now++
		x := &running{tx: &history.ListTx{Client: i, Begin: s.now}, from: copied(s.lists), appends: map[string][]int64{}, seen: map[string][]int64{}}
		open[i] = x
	}
	return txs
}

// A store that validates every read is never accused; with each fault it is.
func TestFaultsAreFound(t *testing.T) {
	for fault, want := range map[string][]string{
		"":                   nil,
		"snapshot isolation": {"G2", "G-single"},
		"read committed":     {"internal", "G-single", "G2", "G1c"},
		"read uncommitted":   {"internal", "G1a", "G1b", "incompatible-order"},
		"lost append":        {"G-single-realtime", "G0-realtime", "G-single"},
	} {
		found := 0
		for seed := range uint64(20) {
			txs := simulate(fault, seed)
			anomalies := history.CheckLists(txs)
			if len(anomalies) == 0 {
				continue
			}
			found++
			if fault == "" {
				t.Fatalf("seed %d: a correct store is accused: %v", seed, anomalies)
			}
			if !slices.ContainsFunc(anomalies, func(a history.Anomaly) bool { return slices.Contains(want, a.Kind) }) {
				t.Errorf("%s, seed %d: found %v, and none of %v", fault, seed, anomalies, want)
			}
		}
		if fault != "" && found < 15 {
			t.Errorf("%s was found in %d of 20 histories", fault, found)
		}
	}
}

func BenchmarkCheckLists(b *testing.B) {
	txs := simulate("", 1)
	b.ReportAllocs()
	for b.Loop() {
		if a := history.CheckLists(txs); a != nil {
			b.Fatal(a)
		}
	}
}
