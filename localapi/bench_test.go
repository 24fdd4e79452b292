package localapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication"
)

// trivial answers at once: what is left is the way there and back.
func trivial(a *agent) {
	answer := &replication.Answer{Index: 1, Result: &replication.Answer_Written{Written: &replication.Written{
		Items: []*replication.WrittenItem{{Revision: 1}}}}}
	a.quorum.setBroken(func(context.Context, *replication.Request) (*replication.Answer, error) { return answer, nil })
}

func put() *replication.Request {
	return &replication.Request{Op: &replication.Request_Write{Write: &replication.Write{Items: []*replication.WriteItem{
		{Key: "bench/key", Value: make([]byte, 128), Durability: 1}}}}}
}

func BenchmarkStreamDo(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(map[int]string{1: "1", 64: "64"}[callers], func(b *testing.B) {
			a := startAgent(b)
			trivial(a)
			c := a.client(b)
			if _, err := c.Status(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			if callers == 1 {
				for b.Loop() {
					if _, err := c.Do(b.Context(), put()); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.SetParallelism(callers / 2)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := c.Do(b.Context(), put()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkHTTPPut(b *testing.B) {
	a := startAgent(b)
	trivial(a)
	c := a.http(b)
	value := strings.Repeat("v", 128)
	b.ReportAllocs()
	for b.Loop() {
		if res, body := ask(b, c, "PUT", "/kahu/v1/kv/bench/key", value); res.StatusCode != http.StatusOK {
			b.Fatal(res.StatusCode, body)
		}
	}
}
