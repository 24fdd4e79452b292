package kahuna_test

import (
	"context"
	"sync"
	"testing"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/replication"
)

// instant is a Coordinator that answers at once, so that what is measured is the
// translation.
type instant struct{}

var instantAnswer = &replication.Answer{Time: &replication.Timestamp{PhysicalMs: startMS}, Result: &replication.Answer_Written{
	Written: &replication.Written{Items: []*replication.WrittenItem{{Revision: 7, Modified: &replication.Timestamp{PhysicalMs: startMS, Counter: 3}}}}}}

func (instant) Do(context.Context, *replication.Request) (*replication.Answer, error) {
	return instantAnswer, nil
}

func (instant) Watch(ctx context.Context, _ []byte, _ func(*replication.Event)) error {
	<-ctx.Done()
	return ctx.Err()
}

// BenchmarkTrySet is the translation of one set alone.
func BenchmarkTrySet(b *testing.B) {
	s := newRig(b, nethttp, kahuna.Config{Coordinator: instant{}}).service
	ctx := caller.With(b.Context(), &caller.Caller{})
	req := set("bench/key", string(make([]byte, 128)))
	b.ReportAllocs()
	for b.Loop() {
		if a, err := s.TrySetKeyValue(ctx, req); err != nil || a.Revision != 7 {
			b.Fatal(a, err)
		}
	}
}

// BenchmarkBatchSets is one batch stream with 256 sets of 128 bytes in flight.
// Time and allocations are those of client and server together.
func BenchmarkBatchSets(b *testing.B) {
	for _, tr := range []transport{native, nethttp} {
		b.Run(string(tr), func(b *testing.B) {
			cc := newRig(b, tr, kahuna.Config{Coordinator: instant{}}).dial()
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			st, err := pb.NewKeyValuerClient(cc).BatchClientKeyValueRequests(ctx)
			if err != nil {
				b.Fatal(err)
			}
			req := &pb.GrpcBatchClientKeyValueRequest{Type: 1, Payload: &pb.GrpcBatchClientKeyValueRequest_TrySetKeyValue{
				TrySetKeyValue: set("bench/key", string(make([]byte, 128)))}}
			flight := make(chan struct{}, 256)
			var sending sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			sending.Go(func() {
				for range b.N {
					flight <- struct{}{}
					if st.Send(req) != nil {
						return // the receiver says why
					}
				}
			})
			for range b.N {
				if _, err := st.Recv(); err != nil {
					b.Fatal(err)
				}
				<-flight
			}
			sending.Wait()
		})
	}
}
