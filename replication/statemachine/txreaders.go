package statemachine

import (
	"cmp"
	"slices"
)

// reader is a transaction that has observed a key and was not told yet that the key
// has changed.
type reader struct {
	t   *transaction
	end int64 // as seen; never: none
}

// compare puts those last that saw the latest end: what is told to one is told to
// all behind it. Who comes now has seen the latest, or those that had were told.
func (r reader) compare(o reader) int {
	return cmp.Or(cmp.Compare(r.end, o.end), r.t.id.compare(o.t.id))
}

// addReader notes that t has observed a key.
func (x *txTable) addReader(ref keyRef, t *transaction, seen int64) {
	r := reader{t, endSeen(seen)}
	list := x.readers[ref]
	at, _ := slices.BinarySearchFunc(list, r, reader.compare)
	x.readers[ref] = slices.Insert(list, at, r)
}

// dropReader forgets that t has observed a key, if it was not told already.
func (x *txTable) dropReader(ref keyRef, t *transaction, seen int64) {
	list := x.readers[ref]
	if at, ok := slices.BinarySearchFunc(list, reader{t, endSeen(seen)}, reader.compare); ok {
		x.keepReaders(ref, slices.Delete(list, at, at+1))
	}
}

// takeReaders forgets those who saw a key end after end, and returns them: a
// transaction that is told of a key stays told.
func (x *txTable) takeReaders(k keyRef, end int64) []reader {
	list := x.readers[k]
	n, _ := slices.BinarySearchFunc(list, end, func(r reader, end int64) int {
		if endsBefore(end, r.end) {
			return 1
		}
		return -1
	})
	if n < len(list) {
		x.keepReaders(k, list[:n:n])
	}
	return list[n:]
}

func (x *txTable) keepReaders(ref keyRef, list []reader) {
	if len(list) == 0 {
		delete(x.readers, ref)
	} else {
		x.readers[ref] = list
	}
}

// spanNotice says that all ranges read in which a key is, up to a number of those
// ever added, were told of it, if what they saw ends after end.
type spanNotice struct {
	added uint64
	end   int64
}

// spansTold remembers notices, so that a key that changes again and again is
// told to each range once. It may forget: it saves work, and decides nothing.
type spansTold struct {
	notices map[keyRef]*spanNotice
	bytes   int
}

// What is remembered at most.
const (
	maxNotices     = 4_096
	maxNoticeBytes = 1 << 20
)

func (x *spansTold) of(k keyRef) *spanNotice { return x.notices[k] }

// put remembers a notice in place of the one before it, which may be nil.
func (x *spansTold) put(k keyRef, before *spanNotice, n spanNotice) {
	if before != nil {
		*before = n
		return
	}
	if x.notices == nil || len(x.notices) >= maxNotices || x.bytes > maxNoticeBytes {
		*x = spansTold{notices: make(map[keyRef]*spanNotice)}
	}
	x.bytes += len(k.name)
	x.notices[k.clone()] = &n
}
