package voter_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/voter"
)

// benchCluster is three voters in this process, over loopback TCP, with their
// logs fsynced and production timing.
func benchCluster(b *testing.B) (*cluster, *voter.Voter) {
	c := newCluster(b, three, func(cfg *voter.Config) { cfg.SetTiming(500*time.Millisecond, 50*time.Millisecond) })
	return c, c.leader().v.Load()
}

// run has callers share b.N calls of fn, each with a session of its own.
func run(b *testing.B, c *cluster, callers int, fn func(cl *client, i int)) {
	b.Helper()
	sessions := make([]*client, callers)
	for i := range sessions {
		sessions[i] = c.client()
	}
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, cl := range sessions {
		wg.Go(func() {
			for n := i; n < b.N; n += callers {
				fn(cl, n)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

// BenchmarkPut is a put of 128 bytes at the leader: proposer, three logs, three
// state machines. Allocations are those of all three voters.
func BenchmarkPut(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c, v := benchCluster(b)
			value := string(make([]byte, 128))
			before := v.Status().LastIndex
			run(b, c, callers, func(cl *client, i int) {
				req := put(fmt.Sprintf("key-%06d", i%10_000), value)
				cl.number++
				req.Session, req.Number, req.DoneBelow = cl.session[:], cl.number, cl.number
				if a, err := v.Serve(context.Background(), req); err != nil || a.Code != replication.Code_CODE_OK {
					b.Error(a, err)
				}
			})
			b.ReportMetric(float64(v.Status().UnflushedBytes), "unflushed-B")
			b.ReportMetric(float64(b.N)/float64(v.Status().LastIndex-before), "op/entry")
		})
	}
}

// BenchmarkGet is a linearizable get at the leader.
func BenchmarkGet(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c, v := benchCluster(b)
			c.client().put("k", string(make([]byte, 128)))
			run(b, c, callers, func(cl *client, i int) {
				if a, err := v.Serve(context.Background(), get("k")); err != nil || a.Code != replication.Code_CODE_OK {
					b.Error(a, err)
				}
			})
		})
	}
}
