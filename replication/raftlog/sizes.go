package raftlog

// sizes knows how many bytes the entries take, in blocks, so that it costs
// nothing even for a long log. The caller serialises.
type sizes struct {
	blocks []sizeBlock // ascending, without gaps
}

type sizeBlock struct {
	first, last uint64
	bytes       int64
}

// blockEntries is how exactly sizes knows.
const blockEntries = 64

func (b sizeBlock) entries() uint64 { return b.last - b.first + 1 }

// add counts the entry at index.
func (s *sizes) add(index uint64, bytes int64) {
	if n := len(s.blocks); n > 0 {
		if b := &s.blocks[n-1]; b.last+1 == index && b.entries() < blockEntries {
			b.last, b.bytes = index, b.bytes+bytes
			return
		}
	}
	s.blocks = append(s.blocks, sizeBlock{first: index, last: index, bytes: bytes})
}

// truncate forgets the entries from lo to hi, a prefix or a suffix.
func (s *sizes) truncate(lo, hi uint64) {
	kept := s.blocks[:0]
	for _, b := range s.blocks {
		switch {
		case hi < b.first || lo > b.last:
			kept = append(kept, b)
		case lo <= b.first && hi >= b.last:
		case lo <= b.first: // loses its front
			kept = append(kept, b.part(hi+1, b.last))
		default: // loses its back
			kept = append(kept, b.part(b.first, lo-1))
		}
	}
	s.blocks = kept
}

// part is the share of a block, as if its entries were alike.
func (b sizeBlock) part(first, last uint64) sizeBlock {
	return sizeBlock{first: first, last: last, bytes: b.bytes * int64(last-first+1) / int64(b.entries())}
}

// total is the bytes of all entries.
func (s *sizes) total() int64 {
	var sum int64
	for _, b := range s.blocks {
		sum += b.bytes
	}
	return sum
}

// between is the bytes of the entries behind after, up to last, about.
func (s *sizes) between(after, last uint64) int64 {
	var sum int64
	for i := len(s.blocks) - 1; i >= 0 && s.blocks[i].last > after; i-- {
		b := s.blocks[i]
		if from, to := max(b.first, after+1), min(b.last, last); from <= to {
			sum += b.part(from, to).bytes
		}
	}
	return sum
}

// newest returns how many of the newest entries fit into limitBytes.
func (s *sizes) newest(limitBytes int64) uint64 {
	var entries uint64
	for i := len(s.blocks) - 1; i >= 0; i-- {
		b := s.blocks[i]
		if b.bytes > limitBytes {
			return entries + b.entries()*uint64(max(limitBytes, 0))/uint64(b.bytes)
		}
		entries += b.entries()
		limitBytes -= b.bytes
	}
	return entries
}
