package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progressEvery is how often a line of progress is written anew.
const progressEvery = 200 * time.Millisecond

// progress shows on a terminal how far something has come, and nothing elsewhere.
type progress struct {
	out   io.Writer // nil: no terminal
	what  string
	total uint64 // bytes; 0: not known

	mu    sync.Mutex
	began time.Time
	shown time.Time
}

func newProgress(out io.Writer, what string, total uint64) *progress {
	p := &progress{what: what, total: total, began: time.Now()}
	if isTerminal(out) {
		p.out = out
	}
	return p
}

// at is told how many bytes are done.
func (p *progress) at(bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.out == nil || now.Sub(p.shown) < progressEvery {
		return
	}
	p.shown = now
	line := fmt.Sprintf("%s: %s", p.what, byteText(bytes))
	if p.total > 0 {
		line += fmt.Sprintf(" of %s, %d %%", byteText(p.total), bytes*100/p.total)
	}
	if s := now.Sub(p.began).Seconds(); s >= 1 {
		line += fmt.Sprintf(", %s/s", byteText(uint64(float64(bytes)/s)))
	}
	_, _ = fmt.Fprintf(p.out, "\r%-60s", line) // for people, who may have gone
}

// end takes the line away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out != nil && !p.shown.IsZero() {
		_, _ = fmt.Fprintf(p.out, "\r%-60s\r", "")
	}
	p.out = nil
}

// byteText is a size for people.
func byteText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 4 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}
