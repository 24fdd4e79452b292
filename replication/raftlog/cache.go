package raftlog

import (
	"sync"

	"github.com/hashicorp/raft"
)

// cache has the newest entries, without gaps, up to a number of bytes. The bytes
// of an entry are shared with the writer and with all readers: nobody changes them.
type cache struct {
	limitBytes int64

	mu      sync.RWMutex
	entries []raft.Log // ascending; entries[head:] are live
	head    int
	bytes   int64
}

// add appends entries that continue what is there; if they do not, they replace it.
func (c *cache) add(logs []*raft.Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.entries); n > c.head && c.entries[n-1].Index+1 != logs[0].Index {
		c.resetLocked()
	}
	for _, l := range logs {
		c.entries = append(c.entries, *l)
		c.bytes += int64(encodedBytes(l))
	}
	for c.bytes > c.limitBytes && c.head < len(c.entries) {
		c.bytes -= int64(encodedBytes(&c.entries[c.head]))
		c.entries[c.head] = raft.Log{} // lets go of the bytes
		c.head++
	}
	if c.head >= 1024 && c.head*2 >= len(c.entries) {
		n := copy(c.entries, c.entries[c.head:])
		clear(c.entries[n:])
		c.entries, c.head = c.entries[:n], 0
	}
}

// get copies the entry at index into l.
func (c *cache) get(index uint64, l *raft.Log) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.head == len(c.entries) || index < c.entries[c.head].Index {
		return false
	}
	i := index - c.entries[c.head].Index
	if i >= uint64(len(c.entries)-c.head) {
		return false
	}
	*l = c.entries[c.head+int(i)]
	return true
}

// truncate drops entries from lo to hi, which are a prefix or a suffix of the log.
func (c *cache) truncate(lo, hi uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.head == len(c.entries) {
		return
	}
	first, last := c.entries[c.head].Index, c.entries[len(c.entries)-1].Index
	switch {
	case hi < first || lo > last:
	case lo > first && hi >= last: // a suffix
		keep := c.head + int(lo-first)
		for i := keep; i < len(c.entries); i++ {
			c.bytes -= int64(encodedBytes(&c.entries[i]))
		}
		clear(c.entries[keep:])
		c.entries = c.entries[:keep]
	default: // a prefix that reaches into the cache is rare: the log is cut far behind
		c.resetLocked()
	}
}

func (c *cache) resetLocked() {
	clear(c.entries)
	c.entries, c.head, c.bytes = c.entries[:0], 0, 0
}
