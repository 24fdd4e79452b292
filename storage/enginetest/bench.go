package enginetest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/kahu-sh/kahu/storage"
)

const (
	benchRows       = 20_000
	benchValueBytes = 128
)

// Benchmark measures batches in both orders, points and ranges, over rows of
// 128 bytes.
func Benchmark(b *testing.B, open Opener) {
	value := make([]byte, benchValueBytes)
	key := func(dst []byte, n int) []byte { return fmt.Appendf(dst, "bench/%012d", n) }
	for _, rows := range []int{64, 1024} {
		for _, order := range []string{"random", "ascending"} {
			b.Run(fmt.Sprintf("Write%d/%s", rows, order), func(b *testing.B) {
				e := fill(b, open, key)
				r := rand.New(rand.NewPCG(1, 2))
				next := benchRows
				var batch storage.Batch
				b.ReportAllocs()
				for b.Loop() {
					batch.Reset()
					for range rows {
						n := r.IntN(benchRows)
						if order == "ascending" {
							n, next = next, next+1
						}
						batch.Put(key(nil, n), value)
					}
					if err := e.Write(&batch); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
			})
		}
	}
	b.Run("Get", func(b *testing.B) {
		e := fill(b, open, key)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			var buf []byte
			for pb.Next() {
				buf = key(buf[:0], rand.IntN(benchRows))
				if _, err := e.Get(buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("Scan100", func(b *testing.B) {
		e := fill(b, open, key)
		b.ReportAllocs()
		for b.Loop() {
			n := rand.IntN(benchRows - 100)
			rows := 0
			for _, err := range e.Scan(key(nil, n), key(nil, n+100)) {
				if err != nil {
					b.Fatal(err)
				}
				rows++
			}
			if rows != 100 {
				b.Fatalf("%d rows, want 100", rows)
			}
		}
	})
}

func fill(b *testing.B, open Opener, key func([]byte, int) []byte) storage.Engine {
	e := start(b, open)
	var batch storage.Batch
	for i := range benchRows {
		batch.Put(key(nil, i), make([]byte, benchValueBytes))
	}
	if err := e.Write(&batch); err != nil {
		b.Fatal(err)
	}
	if err := e.Sync(); err != nil {
		b.Fatal(err)
	}
	return e
}
