package raftlog_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kahu-sh/kahu/replication/raftlog"
)

// raft-wal seals a full segment in the background, and does not wait for that
// when the log is cut: at the end by a new leader, at the front by compaction.
func TestCutRightAfterASegmentIsFull(t *testing.T) {
	for name, cut := range map[string]func(l *raftlog.Log, last uint64) (next uint64, err error){
		"end":   func(l *raftlog.Log, last uint64) (uint64, error) { return last, l.DeleteRange(last, last) },
		"front": func(l *raftlog.Log, last uint64) (uint64, error) { return last + 1, l.DeleteRange(1, last-1) },
		"all":   func(l *raftlog.Log, last uint64) (uint64, error) { return last + 1, l.DeleteRange(1, last) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			small := func(o *raftlog.Options) { o.SegmentBytes = 4 << 10 }
			l := open(t, dir, small)
			data := strings.Repeat("x", 1500)
			next := uint64(1)
			for range 100 {
				// Four of these fill a segment.
				batch := []*raft.Log{entry(next, 1, data), entry(next+1, 1, data), entry(next+2, 1, data), entry(next+3, 1, data)}
				if err := l.StoreLogs(batch); err != nil {
					t.Fatal(err)
				}
				var err error
				if next, err = cut(l, next+3); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.StoreLog(entry(next, 1, "the last")); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = open(t, dir, small)
			defer l.Close()
			var e raft.Log
			if err := l.GetLog(next, &e); err != nil || string(e.Data) != "the last" {
				t.Errorf("entry %d is %q after a restart: %v", next, e.Data, err)
			}
		})
	}
}
