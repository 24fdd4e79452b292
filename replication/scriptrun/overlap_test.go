package scriptrun_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/scriptrun"
)

// together starts scripts at the same moment, with their commands held back until
// all have arrived, and returns their results in order.
func (c *caller) together(scripts ...string) []string {
	arrived := make(chan struct{})
	c.before = func(*replication.Request) (*replication.Answer, error) {
		<-arrived
		return nil, nil
	}
	results := make([]string, len(scripts))
	var wg sync.WaitGroup
	for i, text := range scripts {
		wg.Go(func() { results[i] = c.run(context.Background(), request(text)) })
	}
	synctest.Wait()
	close(arrived)
	wg.Wait()
	c.before = nil
	return results
}

// TestOverlap tells who excludes whom among scripts that start together
// (Kahuna.Client.Tests/TestKeyValueTransactions.cs, TestSerializableConflict).
func TestOverlap(t *testing.T) {
	const (
		sleeper = "BEGIN (locking=\"pessimistic\")\n LET a = GET `p/a`\n SLEEP 500\n SET `p/a` 30\n COMMIT\nEND"
		bucket  = "BEGIN\n LET all = GET BY BUCKET `p`\n SLEEP 500\n SET `p/sum` 30\n COMMIT\nEND"
		writer  = "BEGIN (locking=\"pessimistic\")\n SET `p/a` 20\n COMMIT\nEND"
		other   = "BEGIN\n SET `p/b` 20\n COMMIT\nEND"
		count   = "LET all = GET BY BUCKET `p`\nSET `p/b` 20"
	)
	for name, tc := range map[string]struct {
		scripts []string
		aborted int
	}{
		"a key":                  {[]string{sleeper, writer}, 1},
		"another key":            {[]string{sleeper, other}, 0},
		"a key of its bucket":    {[]string{bucket, other}, 1},
		"the bucket of its key":  {[]string{sleeper, count}, 1},
		"another bucket":         {[]string{sleeper, strings.ReplaceAll(count, "`p", "`q")}, 0},
		"in memory":              {[]string{sleeper, strings.ReplaceAll(writer, "SET", "ESET")}, 0},
		"two sleepers":           {[]string{sleeper, sleeper}, 1},
		"one entry each":         {[]string{writer, writer, count, count}, 0},
		"an optimistic one":      {[]string{sleeper, strings.ReplaceAll(sleeper, "pess", "opt")}, 0},
		"a plain command":        {[]string{strings.ReplaceAll(sleeper, "a`", "c`"), "SET `p/a` 20"}, 0},
		"one that only reads it": {[]string{sleeper, "LET a = GET `p/a`\nRETURN a"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCaller(t)
				results := c.together(tc.scripts...)
				aborted := 0
				for _, r := range results {
					if strings.Contains(strings.ToLower(r), "failed to acquire") {
						aborted++
					}
				}
				if aborted != tc.aborted {
					t.Errorf("%d were refused a lock at once, and not %d: %q", aborted, tc.aborted, results)
				}
				// Everything is free again.
				if again := c.together(tc.scripts[0]); strings.Contains(again[0], "Failed") {
					t.Errorf("afterwards: %q", again)
				}
			})
		})
	}
}

// On Kahuna's wire two scripts that read one bucket and write exclude each other
// (TestKeyValueTransactions.cs, TestWriteSkewAnomaly).
func TestBucketsExclude(t *testing.T) {
	const count = "LET all = GET BY BUCKET `p`\nSET `p/b` 20"
	for name, tc := range map[string]struct {
		scripts []string
		aborted int
	}{
		"one bucket":            {[]string{count, strings.ReplaceAll(count, "p/b", "p/c")}, 1},
		"two buckets":           {[]string{count, strings.ReplaceAll(count, "`p", "`q")}, 0},
		"one only reads it":     {[]string{count, "LET all = GET BY BUCKET `p`\nRETURN count(all)"}, 0},
		"one only writes to it": {[]string{count, "BEGIN\n SET `p/c` 20\n COMMIT\nEND"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCaller(t)
				c.runner = scriptrun.New(c.world, scriptrun.Options{BucketsExclude: true})
				aborted := 0
				results := c.together(tc.scripts...)
				for _, r := range results {
					if strings.Contains(strings.ToLower(r), "failed to acquire") {
						aborted++
					}
				}
				if aborted != tc.aborted {
					t.Errorf("%d were refused a lock at once, and not %d: %q", aborted, tc.aborted, results)
				}
			})
		})
	}
}
