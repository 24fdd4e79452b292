package statemachine

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// spanIndex finds the spans that cover a key. Every write asks it, however many
// locks and ranges read there are, and nobody pays for that: so what it costs must
// not grow with them. It is made of the rows, and no row depends on how: what is
// found is the same in whatever order spans came.
//
// A key is in one bucket at most, which is found by its name. The other spans are
// intervals, and found by their bounds.
type spanIndex struct {
	// order is that of the spans in the lists that covering gives out.
	order   func(a, b *txSpan) int
	ranges  [2]spanSet
	buckets [2]map[string]*spanSet // by prefix, which ends in "/"
	all     [2][]*txSpan
	count   int
	added   uint64 // how many there ever were
	row     []byte // of the key that is looked for
}

func (x *spanIndex) add(s *txSpan) {
	x.added++
	x.count++
	s.added, s.place = x.added, len(x.all[s.d])
	x.all[s.d] = append(x.all[s.d], s)
	set := &x.ranges[s.d]
	if s.bucket {
		if set = x.buckets[s.d][s.prefix]; set == nil {
			if x.buckets[s.d] == nil {
				x.buckets[s.d] = make(map[string]*spanSet)
			}
			set = new(spanSet)
			x.buckets[s.d][s.prefix] = set
		}
	}
	set.add(s, x.order)
}

// remove takes a span out that was added.
func (x *spanIndex) remove(s *txSpan) {
	x.count--
	list := x.all[s.d]
	last := list[len(list)-1]
	list[s.place], last.place = last, s.place
	list[len(list)-1] = nil
	x.all[s.d] = list[:len(list)-1]
	if !s.bucket {
		x.ranges[s.d].remove(s, x.order)
		return
	}
	set := x.buckets[s.d][s.prefix]
	if set.remove(s, x.order); set.count() == 0 {
		delete(x.buckets[s.d], s.prefix)
	}
}

// covering gives visit lists of spans that cover the key, each list in order, until
// it has seen all that were added as number since or later. Some may be gone. visit
// returns what is left of the list: what it leaves out, it wants to see no more.
func (x *spanIndex) covering(k keyRef, since uint64, visit func([]*txSpan) []*txSpan) {
	bucket := x.buckets[k.d][k.name[:strings.LastIndexByte(k.name, '/')+1]]
	if bucket == nil && x.ranges[k.d].count() == 0 {
		return
	}
	x.row = appendName(append(x.row[:0], tableKey, byte(k.d)), k.name)
	x.ranges[k.d].covering(x.row, since, visit)
	if bucket != nil {
		bucket.covering(x.row, since, visit)
	}
	if cap(x.row) > spanRowKept {
		x.row = nil // not one long name's room for ever
	}
}

// spanRowKept is how much room for the row of a key is kept.
const spanRowKept = 1 << 10

// overlapping calls yield for every span that may share a key with s, in no order
// that counts. It looks at all spans of that durability: who asks is charged for
// them (chargeLocks).
func (x *spanIndex) overlapping(s *txSpan, yield func(*txSpan)) {
	for _, o := range x.all[s.d] {
		if s.overlaps(o) {
			yield(o)
		}
	}
}

// spanSet finds those of its spans whose interval has a key in it. The newest are in
// a short list, the others in trees that are never changed but by leaving spans out:
// when the list is full, a new tree is made of it and of those that are not more
// than twice as large. So each tree is larger than the next two times, a span is in
// as many trees in its life as there can be at once, and adding one costs the square
// of the logarithm of their number, on average.
type spanSet struct {
	trees []*spanTree // oldest first
	tail  []*txSpan   // newer than those in the trees, oldest first; none is gone
	built int         // spans in the trees
	gone  int         // of those
	one   [1]*txSpan  // of covering: a list of one
}

// spanTail bounds the list: looking through as many is as quick as a tree.
const spanTail = 16

func (x *spanSet) count() int { return len(x.tail) + x.built - x.gone }

func (x *spanSet) add(s *txSpan, order func(a, b *txSpan) int) {
	if x.tail = append(x.tail, s); len(x.tail) > spanTail {
		x.build(false, order)
	}
}

func (x *spanSet) remove(s *txSpan, order func(a, b *txSpan) int) {
	s.gone = true
	if i := slices.Index(x.tail, s); i >= 0 {
		x.tail = slices.Delete(x.tail, i, i+1)
		return
	}
	// What is gone takes room and time, so that it must never be the greater part.
	if x.gone++; 2*x.gone > x.built {
		x.build(true, order)
	}
}

// build makes a new tree of the tail and of the trees that it takes in, or of all.
func (x *spanSet) build(all bool, order func(a, b *txSpan) int) {
	spans := x.tail
	for n := len(x.trees); n > 0 && (all || len(x.trees[n-1].spans) <= 2*len(spans)); n-- {
		t := x.trees[n-1]
		x.trees[n-1] = nil
		x.trees = x.trees[:n-1]
		x.built -= len(t.spans)
		for _, s := range t.spans {
			if s.gone {
				x.gone--
			} else {
				spans = append(spans, s)
			}
		}
	}
	x.tail = nil
	if len(spans) <= spanTail {
		slices.SortFunc(spans, func(a, b *txSpan) int { return cmp.Compare(a.added, b.added) })
		x.tail = spans
		return
	}
	x.trees = append(x.trees, newSpanTree(spans, order))
	x.built += len(spans)
}

func (x *spanSet) covering(row []byte, since uint64, visit func([]*txSpan) []*txSpan) {
	for i := len(x.tail) - 1; i >= 0 && x.tail[i].added >= since; i-- {
		if x.tail[i].within(row) {
			x.one[0] = x.tail[i]
			visit(x.one[:])
		}
	}
	for i := len(x.trees) - 1; i >= 0 && x.trees[i].newest >= since; i-- {
		x.trees[i].covering(row, visit)
	}
	x.one[0] = nil
}

// spanTree is a segment tree: it cuts the keys at all bounds of its spans into pieces,
// and each of its nodes stands for the pieces below it. Each span is with the few
// nodes whose pieces together are its interval, so that those spans that cover a key
// are with the nodes from the key's piece up to the root, and each is met once.
type spanTree struct {
	spans  []*txSpan   // in order
	newest uint64      // highest number of one added
	bounds [][]byte    // ascending; piece i is from bounds[i] to below the next
	nodes  [][]*txSpan // 1 is the root, 2i and 2i+1 are below i, and len(bounds)+i is piece i
}

func newSpanTree(spans []*txSpan, order func(a, b *txSpan) int) *spanTree {
	slices.SortFunc(spans, order)
	t := &spanTree{spans: spans, bounds: make([][]byte, 0, 2*len(spans))}
	for _, s := range spans {
		t.newest = max(t.newest, s.added)
		t.bounds = append(t.bounds, s.from)
		if s.to != nil {
			t.bounds = append(t.bounds, s.to)
		}
	}
	slices.SortFunc(t.bounds, bytes.Compare)
	t.bounds = slices.CompactFunc(t.bounds, bytes.Equal)
	// All lists share one array: each takes its room when it is known how much.
	sizes, total := make([]int32, 2*len(t.bounds)), 0
	for _, s := range spans {
		t.over(s, func(node int) { sizes[node]++; total++ })
	}
	t.nodes = make([][]*txSpan, len(sizes))
	room := make([]*txSpan, total)
	for i, n := range sizes {
		t.nodes[i], room = room[:0:n], room[n:]
	}
	for _, s := range spans {
		t.over(s, func(node int) { t.nodes[node] = append(t.nodes[node], s) })
	}
	return t
}

// over calls yield for the nodes that a span is with.
func (t *spanTree) over(s *txSpan, yield func(node int)) {
	from, _ := slices.BinarySearchFunc(t.bounds, s.from, bytes.Compare)
	to := len(t.bounds)
	if s.to != nil {
		to, _ = slices.BinarySearchFunc(t.bounds, s.to, bytes.Compare)
	}
	for l, r := from+len(t.bounds), to+len(t.bounds); l < r; l, r = l/2, r/2 {
		if l%2 == 1 {
			yield(l)
			l++
		}
		if r%2 == 1 {
			r--
			yield(r)
		}
	}
}

func (t *spanTree) covering(row []byte, visit func([]*txSpan) []*txSpan) {
	piece, found := slices.BinarySearchFunc(t.bounds, row, bytes.Compare)
	if !found {
		piece--
	}
	if piece < 0 {
		return
	}
	for node := len(t.bounds) + piece; node > 0; node /= 2 {
		if len(t.nodes[node]) > 0 {
			t.nodes[node] = visit(t.nodes[node])
		}
	}
}
