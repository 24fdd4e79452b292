package history

import (
	"fmt"
	"slices"
	"strings"
)

// A ListTx is one transaction over lists: it appends elements to keys and reads
// whole lists. Elements are unique in a history, so that each read tells whose
// appends it saw, and in which order (Kingsbury and Alvaro, "Elle", VLDB 2020).
type ListTx struct {
	// Client and Name are shown in anomalies.
	Client int
	Name   string
	Ops    []ListOp
	// Begin and End are when the client asked for the start and was told the end,
	// in nanoseconds on one clock; of one whose outcome is unknown End is not looked at.
	Begin, End int64
	Outcome    ListOutcome
}

// A ListOp is one operation of a ListTx: an append when Append is not 0, else a
// read with what it gave.
type ListOp struct {
	Key    string
	Append int64
	Read   []int64
}

// ListOutcome says how a transaction ended.
type ListOutcome int

// The outcomes of a ListTx. Of an unknown one the appends may show or not.
const (
	ListUnknown ListOutcome = iota
	ListCommitted
	ListAborted
)

// An Anomaly is something that no strictly serializable store shows.
type Anomaly struct {
	// Kind is Adya's name for it: G0, G1a, G1b, G1c, G-single, G2, with
	// "-realtime" behind when the order of real time closes the cycle; or internal,
	// garbage, duplicate, incompatible-order.
	Kind string
	// Text is one line that says what was seen.
	Text string
}

// String implements fmt.Stringer.
func (a Anomaly) String() string { return a.Kind + ": " + a.Text }

// CheckLists returns the anomalies of a history, the gravest kinds first, and of
// the cycles one of each kind; nil when a strictly serializable store could have
// given these answers.
func CheckLists(txs []*ListTx) []Anomaly {
	c := listChecker{txs: txs, writer: map[element]int{}, order: map[string][]int64{}}
	c.index()
	c.direct()
	if len(c.found) > 0 {
		return c.found // orders cannot be trusted
	}
	c.edges()
	c.cycles()
	return c.found
}

// CheckListAppends is CheckLists as an error that shows at most so many anomalies.
func CheckListAppends(txs []*ListTx, most int) error {
	found := CheckLists(txs)
	if len(found) == 0 {
		return nil
	}
	var lines []string
	for _, a := range found[:min(most, len(found))] {
		lines = append(lines, a.String())
	}
	return fmt.Errorf("%d transactions show %d anomalies:\n%s", len(txs), len(found), strings.Join(lines, "\n"))
}

type element struct {
	key   string
	value int64
}

// edgeKind is why one transaction comes before another.
type edgeKind uint8

const (
	edgeWW edgeKind = 1 << iota // its append comes before the other's, in one list
	edgeWR                      // the other read its append
	edgeRW                      // it did not read the other's append
	edgeRT                      // it had ended before the other began
)

func (k edgeKind) String() string {
	return map[edgeKind]string{edgeWW: "ww", edgeWR: "wr", edgeRW: "rw", edgeRT: "rt"}[k]
}

type edge struct {
	to   int
	kind edgeKind
	why  string
}

type listChecker struct {
	txs    []*ListTx
	writer map[element]int    // transaction by element
	order  map[string][]int64 // of each list, as the longest read gave it
	graph  [][]edge
	found  []Anomaly
}

func (c *listChecker) report(kind, format string, args ...any) {
	c.found = append(c.found, Anomaly{kind, fmt.Sprintf(format, args...)})
}

// index notes who appended what, and the longest read of each list.
func (c *listChecker) index() {
	for i, t := range c.txs {
		for _, op := range t.Ops {
			if op.Append == 0 {
				continue
			}
			e := element{op.Key, op.Append}
			if _, twice := c.writer[e]; twice {
				panic(fmt.Sprintf("history: element %d is appended to %s twice: the history is useless", op.Append, op.Key))
			}
			c.writer[e] = i
		}
	}
	for _, t := range c.txs {
		if t.Outcome == ListAborted {
			continue // it saw its own appends, which are no part of any order
		}
		for _, read := range t.outside() {
			if len(read.Read) > len(c.order[read.Key]) {
				c.order[read.Key] = read.Read
			}
		}
	}
}

// outside are the reads of t without what it has appended itself before them:
// what it saw of others. A read that does not show the own appends is internal.
func (t *ListTx) outside() (out []ListOp) {
	own := map[string][]int64{}
	for _, op := range t.Ops {
		if op.Append != 0 {
			own[op.Key] = append(own[op.Key], op.Append)
			continue
		}
		mine := own[op.Key]
		if n := len(op.Read) - len(mine); n >= 0 && slices.Equal(op.Read[n:], mine) {
			op.Read = op.Read[:n]
		}
		out = append(out, op)
	}
	return out
}

// direct looks for what can be seen in single reads.
func (c *listChecker) direct() {
	for _, t := range c.txs {
		c.internal(t)
		if t.Outcome == ListAborted {
			continue
		}
		for _, op := range t.outside() {
			c.elements(t, op)
			order := c.order[op.Key]
			if !slices.Equal(op.Read, order[:min(len(op.Read), len(order))]) {
				c.report("incompatible-order", "%s read %s = %v, and somebody else %v", t, op.Key, op.Read, order)
			}
		}
	}
}

// internal checks that a transaction sees its own appends and does not see
// others move under it.
func (c *listChecker) internal(t *ListTx) {
	if t.Outcome == ListAborted {
		return // it may have been aborted for that
	}
	last := map[string][]int64{}
	known := map[string]bool{}
	for _, op := range t.Ops {
		if op.Append != 0 {
			if known[op.Key] {
				last[op.Key] = append(slices.Clone(last[op.Key]), op.Append)
			} else {
				last[op.Key] = append(last[op.Key], op.Append)
			}
			continue
		}
		want := last[op.Key]
		switch {
		case known[op.Key] && !slices.Equal(op.Read, want),
			!known[op.Key] && (len(op.Read) < len(want) || !slices.Equal(op.Read[len(op.Read)-len(want):], want)):
			c.report("internal", "%s read %s = %v, by its own account it had to see %v", t, op.Key, op.Read, want)
		}
		last[op.Key], known[op.Key] = slices.Clone(op.Read), true
	}
}

// elements checks whose appends a read has seen.
func (c *listChecker) elements(t *ListTx, op ListOp) {
	seen := map[int64]bool{}
	for i, v := range op.Read {
		w, ok := c.writer[element{op.Key, v}]
		switch {
		case seen[v]:
			c.report("duplicate", "%s read %s = %v, with %d twice", t, op.Key, op.Read, v)
		case !ok:
			c.report("garbage", "%s read %s = %v, and nobody appended %d", t, op.Key, op.Read, v)
		case c.txs[w].Outcome == ListAborted:
			c.report("G1a", "%s read %s = %v, and %d is of %s, which was aborted", t, op.Key, op.Read, v, c.txs[w])
		case c.txs[w] != t && i == len(op.Read)-1:
			if final := c.txs[w].final(op.Key); final != v {
				c.report("G1b", "%s read %s = %v, which is before %s had appended %d as well", t, op.Key, op.Read, c.txs[w], final)
			}
		}
		seen[v] = true
	}
}

// final is the last element that t appends to key.
func (t *ListTx) final(key string) (v int64) {
	for _, op := range t.Ops {
		if op.Key == key && op.Append != 0 {
			v = op.Append
		}
	}
	return v
}

// String names the transaction.
func (t *ListTx) String() string {
	if t.Name != "" {
		return t.Name
	}
	return fmt.Sprintf("client %d's at %d", t.Client, t.Begin)
}

// happened reports whether t took effect: it committed, or somebody saw its appends.
func (c *listChecker) happened(i int) bool {
	t := c.txs[i]
	if t.Outcome != ListUnknown {
		return t.Outcome == ListCommitted
	}
	for _, op := range t.Ops {
		if op.Append != 0 && slices.Contains(c.order[op.Key], op.Append) {
			return true
		}
	}
	return false
}

// edges builds the graph of what must have come before what.
func (c *listChecker) edges() {
	c.graph = make([][]edge, len(c.txs))
	add := func(from, to int, kind edgeKind, format string, args ...any) {
		if from != to {
			c.graph[from] = append(c.graph[from], edge{to, kind, fmt.Sprintf(format, args...)})
		}
	}
	hidden := c.hidden()
	for key, order := range c.order {
		for i := 1; i < len(order); i++ {
			add(c.writer[element{key, order[i-1]}], c.writer[element{key, order[i]}], edgeWW, "%s: %d before %d", key, order[i-1], order[i])
		}
		if len(order) > 0 {
			last := order[len(order)-1]
			for _, v := range hidden[key] {
				add(c.writer[element{key, last}], c.writer[element{key, v}], edgeWW, "%s: %d before %d, which nobody read", key, last, v)
			}
		}
	}
	for i, t := range c.txs {
		if !c.happened(i) {
			continue
		}
		for _, op := range t.outside() {
			order := c.order[op.Key]
			if n := len(op.Read); n > 0 {
				add(c.writer[element{op.Key, op.Read[n-1]}], i, edgeWR, "%s: read %d", op.Key, op.Read[n-1])
			}
			if n := len(op.Read); n < len(order) {
				add(i, c.writer[element{op.Key, order[n]}], edgeRW, "%s: did not read %d", op.Key, order[n])
				continue
			}
			for _, v := range hidden[op.Key] {
				add(i, c.writer[element{op.Key, v}], edgeRW, "%s: did not read %d", op.Key, v)
			}
		}
	}
	c.realTime(add)
}

// hidden are the elements of committed transactions that no read shows. They
// come behind everything that was read of their list.
func (c *listChecker) hidden() map[string][]int64 {
	out := map[string][]int64{}
	for _, t := range c.txs {
		if t.Outcome != ListCommitted {
			continue
		}
		for _, op := range t.Ops {
			if op.Append != 0 && !slices.Contains(c.order[op.Key], op.Append) {
				out[op.Key] = append(out[op.Key], op.Append)
			}
		}
	}
	return out
}

// realTime adds an edge from each transaction to those that began after its end,
// without those that follow from others.
func (c *listChecker) realTime(add func(int, int, edgeKind, string, ...any)) {
	var ended []int
	for i, t := range c.txs {
		if t.Outcome == ListCommitted {
			ended = append(ended, i)
		}
	}
	slices.SortFunc(ended, func(a, b int) int { return int(c.txs[b].End - c.txs[a].End) }) // latest end first
	for to, t := range c.txs {
		if !c.happened(to) {
			continue
		}
		latest := int64(-1 << 62) // begin of those before: who ended earlier follows from them
		for _, from := range ended {
			f := c.txs[from]
			if f.End >= t.Begin || from == to {
				continue
			}
			if f.End < latest {
				break
			}
			latest = max(latest, f.Begin)
			add(from, to, edgeRT, "ended before it began")
		}
	}
}
