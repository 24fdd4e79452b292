package wire_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// The options of kahuna-bench (Kahuna.Benchmark, BenchmarkOptions.cs) at their
// defaults, but for fewer keys.
const (
	benchConcurrency = 64
	benchKeys        = 1600
	benchValueBytes  = 128
	benchBatch       = 100 // --batch-size
	benchKeysPerTxn  = 4   // --keys-per-txn
	benchExpiryMS    = 5 * 60 * 60 * 1000
	benchTimeout     = 10 * time.Second // of one request
)

// benchRun is one run of kahuna-bench: the clients' work on one prefix.
type benchRun struct {
	c       *client
	d       durability
	prefix  string
	counter atomic.Int64 // one for all workers, as there
}

// operation is what one worker does once. missed is what the program reports beside
// errors: a key that is not there, a lock that another has.
type operation func(ctx context.Context, r *benchRun, index int64) (missed bool, err error)

// workloads are those of kahuna-bench (WorkloadGenerator.cs): what each asks, in which
// form, and with which flags. "seeded" ones find all keys set.
var workloads = map[string]struct {
	seeded bool
	do     operation
}{
	"get": {true, func(ctx context.Context, r *benchRun, i int64) (bool, error) {
		got, err := r.c.getAt(ctx, r.c.url(), tx{}, r.key(i), -1, r.d)
		return err == nil && !got.success, err
	}},
	"set":   {false, benchSet},
	"mixed": {true, benchMixed},
	"delete": {true, func(ctx context.Context, r *benchRun, i int64) (bool, error) {
		got, err := r.c.deleteAt(ctx, r.c.url(), tx{}, r.key(i), r.d)
		return err == nil && !got.success, err
	}},
	"set-many":    {false, benchSetMany},
	"delete-many": {true, benchDeleteMany},
	"txn":         {false, benchTxn},
	"lock":        {false, benchLock},
	"sequence":    {false, benchSequence},
	"script": {false, func(ctx context.Context, r *benchRun, i int64) (bool, error) {
		_, err := r.c.script(ctx, "BEGIN\n LET v = GET @k\n SET @k 'v' EX 18000000\n COMMIT\nEND", "@k", r.key(i))
		return false, err
	}},
}

func (r *benchRun) key(i int64) string { return fmt.Sprint(r.prefix, i%benchKeys) }

func benchSet(ctx context.Context, r *benchRun, i int64) (bool, error) {
	_, err := r.c.setAt(ctx, r.c.url(), tx{}, r.key(i), make([]byte, benchValueBytes), r.d, write{ms: benchExpiryMS})
	return false, err
}

func benchMixed(ctx context.Context, r *benchRun, i int64) (bool, error) {
	if i%2 == 0 {
		return benchSet(ctx, r, i)
	}
	got, err := r.c.getAt(ctx, r.c.url(), tx{}, r.key(i), -1, r.d)
	return err == nil && !got.success, err
}

// benchSetMany writes a tile of keys: those of two operations do not overlap.
func benchSetMany(ctx context.Context, r *benchRun, i int64) (bool, error) {
	req := &pb.GrpcTrySetManyKeyValueRequest{}
	for j := range int64(benchBatch) {
		req.Items = append(req.Items, &pb.GrpcTrySetManyKeyValueRequestItem{Key: r.key(i*benchBatch + j), Value: make([]byte, benchValueBytes),
			ExpiresMs: benchExpiryMS, Flags: pb.GrpcKeyValueFlags_SET, Durability: r.d})
	}
	m, err := r.c.call(ctx, r.c.url(), req)
	if err != nil {
		return false, err
	}
	items := m.(*pb.GrpcTrySetManyKeyValueResponse).Items
	for _, one := range items {
		if one.Type != 0 {
			return false, fmt.Errorf("the key %s was answered %v", one.Key, one.Type)
		}
	}
	if len(items) != benchBatch {
		return false, fmt.Errorf("%d answers to %d items", len(items), benchBatch)
	}
	return false, nil
}

func benchDeleteMany(ctx context.Context, r *benchRun, i int64) (missed bool, err error) {
	var items []*pb.GrpcTryDeleteManyKeyValueRequestItem
	for j := range int64(benchBatch) {
		items = append(items, &pb.GrpcTryDeleteManyKeyValueRequestItem{Key: r.key(i*benchBatch + j), Durability: r.d})
	}
	got, err := r.c.deleteManyAt(ctx, r.c.url(), tx{}, items...)
	if err == nil && len(got) != benchBatch {
		err = fmt.Errorf("%d answers to %d items", len(got), benchBatch)
	}
	for _, one := range got {
		missed = missed || one.code != 4
	}
	return missed, err
}

// benchTxn is a session that writes some keys, with --txn-locking pessimistic.
func benchTxn(ctx context.Context, r *benchRun, i int64) (bool, error) {
	s, err := r.c.begin(ctx, sessionOptions{pessimistic: true, timeoutMS: int32(benchTimeout.Milliseconds())})
	if err != nil {
		return false, err
	}
	for j := range int64(benchKeysPerTxn) {
		if err == nil {
			_, err = s.set(ctx, r.key(i*benchKeysPerTxn+j), "v", benchExpiryMS, r.d)
		}
	}
	if err == nil {
		err = s.commit(ctx)
	}
	return false, errors.Join(err, s.dispose(ctx))
}

func benchLock(ctx context.Context, r *benchRun, i int64) (bool, error) {
	l, err := r.c.tryLock(ctx, r.key(i), 5000, pb.GrpcLockDurability(r.d), nil)
	if err != nil {
		return false, err
	}
	return !l.acquired, l.dispose(ctx)
}

// benchSequence: the client's NextSequenceValue reserves a range of one.
func benchSequence(ctx context.Context, r *benchRun, _ int64) (bool, error) {
	m, err := r.c.call(ctx, r.c.url(), &pb.GrpcReserveSequenceRangeRequest{Name: r.prefix + "seq:0", Count: 1, Durability: 1})
	if err != nil {
		return false, err
	}
	if a := m.(*pb.GrpcSequenceAllocationResponse); a.Type != 0 || a.Allocation == nil {
		return false, fmt.Errorf("a next was answered %v", a.Type)
	}
	return false, nil
}

// seed is what the program does before it measures.
func (r *benchRun) seed(ctx context.Context, keys bool) error {
	if _, err := r.c.call(ctx, r.c.url(), &pb.GrpcCreateSequenceRequest{Name: r.prefix + "seq:0", Increment: 1, Durability: 1}); err != nil || !keys {
		return err
	}
	_, err := r.times(ctx, benchKeys, benchSet)
	return err
}

// times does something so many times, with as many workers as there, and returns how
// often it missed.
func (r *benchRun) times(ctx context.Context, n int64, do operation) (missed int64, err error) {
	r.counter.Store(0)
	var all sync.WaitGroup
	var mu sync.Mutex // guards missed and err
	for range benchConcurrency {
		all.Go(func() {
			for i := r.counter.Add(1) - 1; i < n; i = r.counter.Add(1) - 1 {
				ctx, cancel := context.WithTimeout(ctx, benchTimeout)
				m, e := do(ctx, r, i)
				cancel()
				mu.Lock()
				if m {
					missed++
				}
				err = errors.Join(err, e)
				failed := err != nil
				mu.Unlock()
				if failed {
					return
				}
			}
		})
	}
	all.Wait()
	return missed, err
}

// TestKahunaBench runs the workloads of kahuna-bench, 64 workers each, at one endpoint
// and at the pool: none may end with an error or a miss, since no two of its operations
// are in each other's way.
func TestKahunaBench(t *testing.T) {
	for name, w := range workloads {
		for at, urls := range map[string][]string{"one": agents.voters[:1], "pool": agents.voters, "proxy": {agents.proxy}} {
			for kind, d := range map[string]durability{"ephemeral": 0, "persistent": 1} {
				if at != "one" && (w.seeded || d == 0) {
					continue // one endpoint is enough of seeding, and of what the others do alike
				}
				t.Run(name+"/"+at+"/"+kind, func(t *testing.T) {
					t.Parallel()
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					r := &benchRun{c: &client{transport: sharedRPC, urls: urls}, d: d, prefix: "bench:" + random() + ":"}
					n := int64(2 * benchConcurrency)
					if strings.HasSuffix(name, "-many") {
						n = benchKeys / benchBatch // each key once
					}
					if err := r.seed(ctx, w.seeded); err != nil {
						t.Fatal(err)
					}
					missed, err := r.times(ctx, n, w.do)
					if err != nil || missed > 0 {
						t.Errorf("of %d operations %d missed: %v", n, missed, err)
					}
				})
			}
		}
	}
}

// BenchmarkKahunaBench is kahuna-bench without .NET, persistent:
// go test -run '^$' -bench KahunaBench ./test/wire.
func BenchmarkKahunaBench(b *testing.B) {
	for name, w := range workloads {
		b.Run(name, func(b *testing.B) {
			r := &benchRun{c: &client{transport: sharedRPC, urls: agents.voters}, d: 1, prefix: "bench:" + random() + ":"}
			if err := r.seed(b.Context(), w.seeded); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			if _, err := r.times(b.Context(), int64(b.N), w.do); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
		})
	}
}
