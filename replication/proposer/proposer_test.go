package proposer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/proposer"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRaft takes entries and lets the test decide what becomes of them.
type fakeRaft struct {
	mu      sync.Mutex
	flights []*flight
	delay   time.Duration // answers by itself after so long; 0: the test answers
}

type flight struct {
	entry *replication.LogEntry
	size  int
	at    time.Time
	err   chan error
	resp  any
}

func (f *flight) Error() error  { return <-f.err }
func (f *flight) Response() any { return f.resp }
func (f *flight) Index() uint64 { return 0 }

// answer decides the entry; code goes to every request.
func (f *flight) answer(code replication.Code) {
	answers := make([]*replication.Answer, len(f.entry.Requests))
	for i, r := range f.entry.Requests {
		answers[i] = &replication.Answer{Code: code, Index: r.Number}
	}
	f.resp = answers
	f.err <- nil
}

func (f *fakeRaft) Apply(b []byte, _ time.Duration) raft.ApplyFuture {
	e, err := statemachine.DecodeEntry(b)
	if err != nil {
		panic(err)
	}
	fl := &flight{entry: e, size: len(b), at: time.Now(), err: make(chan error, 1)}
	f.mu.Lock()
	f.flights = append(f.flights, fl)
	f.mu.Unlock()
	if f.delay > 0 {
		time.AfterFunc(f.delay, func() { fl.answer(replication.Code_CODE_OK) })
	}
	return fl
}

func (f *fakeRaft) all() []*flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*flight(nil), f.flights...)
}

func numbers(f *flight) (n []uint64) {
	for _, r := range f.entry.Requests {
		n = append(n, r.Number)
	}
	return n
}

func write(n uint64, valueBytes int) *replication.Request {
	return &replication.Request{Number: n, Op: &replication.Request_Write{Write: &replication.Write{
		Items: []*replication.WriteItem{{Key: "k", Value: make([]byte, valueBytes)}},
	}}}
}

func renew(n uint64) *replication.Request {
	return &replication.Request{Number: n, Op: &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{}}}
}

// bubble runs fn with a leading proposer, under virtual time.
func bubble(t *testing.T, fn func(t *testing.T, p *proposer.Proposer, r *fakeRaft)) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{}
		p := proposer.New(r, time.Now)
		p.Lead(reign(7))
		fn(t, p, r)
		p.Close()
	})
}

func reign(term uint64) proposer.Reign {
	start := time.Now()
	return proposer.Reign{
		Term:       term,
		LeaseClock: func() int64 { return int64(time.Since(start)) },
		Level:      func() uint32 { return 3 },
	}
}

// outcomes collects what callbacks are told.
type outcomes struct {
	mu  sync.Mutex
	got map[uint64]string
}

func (o *outcomes) submit(p *proposer.Proposer, req *replication.Request) {
	n := req.Number
	p.Submit(req, func(a *replication.Answer, err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.got == nil {
			o.got = map[uint64]string{}
		}
		if _, twice := o.got[n]; twice {
			panic(fmt.Sprintf("request %d was answered twice", n))
		}
		o.got[n] = fmt.Sprint(a.GetCode(), err)
	})
}

func (o *outcomes) of(n uint64) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.got[n]
}

// occupy fills the room in flight: one small entry, and full ones.
func occupy(p *proposer.Proposer, o *outcomes) {
	for i := range uint64(proposer.MaxInFlight) {
		o.submit(p, write(1<<20+i, int(i)*replication.MaxEntryBytes))
		synctest.Wait()
	}
}

func TestOneCallerDoesNotLinger(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		r.delay = time.Millisecond
		begun := time.Now()
		for i := range uint64(10) {
			if a, err := p.Do(context.Background(), write(i, 1)); err != nil || a.Index != i {
				t.Fatal(a, err)
			}
		}
		if took := time.Since(begun); took != 10*time.Millisecond {
			t.Fatalf("10 calls of 1 ms took %v", took)
		}
	})
}

func TestManyCallersShareEntries(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		r.delay = time.Millisecond
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 50 {
					if _, err := p.Do(context.Background(), write(1, 1)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := len(r.all()); n > 130 {
			t.Fatalf("64 callers with 50 calls each made %d entries", n)
		}
	})
}

// A batch waits for as many callers as the last one had, but not for ever.
func TestLingerIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		var o outcomes
		o.submit(p, write(1, 1))
		synctest.Wait()
		for i := range uint64(10) {
			o.submit(p, write(10+i, 1))
		}
		synctest.Wait()
		if n := len(r.all()); n != 1 {
			t.Fatalf("%d entries are in flight, and the second was not full", n)
		}
		r.all()[0].answer(replication.Code_CODE_OK)
		time.Sleep(time.Millisecond)                // virtual: in a synctest bubble
		r.all()[1].answer(replication.Code_CODE_OK) // that of ten
		synctest.Wait()
		asked := time.Now()
		o.submit(p, write(30, 1))
		synctest.Wait()
		if n := len(r.all()); n != 2 {
			t.Fatalf("%d entries: the third did not wait for the ten that were just answered", n)
		}
		time.Sleep(time.Millisecond) // virtual: in a synctest bubble
		f := r.all()
		if len(f) != 3 || f[2].at.Sub(asked) != proposer.MaxLinger {
			t.Fatalf("%d entries; a lone request waited %v", len(f), f[len(f)-1].at.Sub(asked))
		}
		if d := f[2].entry.LeaseClockNs - f[1].entry.LeaseClockNs; d != int64(f[2].at.Sub(f[1].at)) {
			t.Fatalf("the lease clock was not read when the batch was closed: %v beside %v", time.Duration(d), f[2].at.Sub(f[1].at))
		}
		if e := f[2].entry; e.Term != 7 || e.Level != 3 || e.WallMs == 0 {
			t.Fatalf("stamps: %+v", e)
		}
		f[2].answer(replication.Code_CODE_OK)
	})
}

// A batch goes on waiting while callers keep coming back, up to four times as
// long, and no longer than it takes to see that they pause.
func TestLingerGoesOnWhileCallersComeBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		back  int // of 32 callers, one every 25 µs
		waits time.Duration
	}{
		{"all, too slowly", 32, 4 * proposer.MaxLinger},
		{"nine", 9, 3 * proposer.MaxLinger},  // some in the second round, none in the third
		{"three", 3, 2 * proposer.MaxLinger}, // none in the second round
		{"two", 2, proposer.MaxLinger},       // one after the first: too few
		{"the first only", 1, proposer.MaxLinger},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
				var o outcomes
				occupy(p, &o)
				for i := range uint64(32) {
					o.submit(p, write(100+i, 1))
				}
				synctest.Wait()
				for _, f := range r.all() {
					f.answer(replication.Code_CODE_OK)
				}
				time.Sleep(time.Millisecond) // virtual: in a synctest bubble
				f := r.all()
				f[len(f)-1].answer(replication.Code_CODE_OK)
				synctest.Wait()
				before, asked := len(f), time.Now()
				for i := range c.back {
					o.submit(p, write(uint64(200+i), 1))
					time.Sleep(25 * time.Microsecond) // virtual: in a synctest bubble
				}
				time.Sleep(time.Millisecond) // virtual: in a synctest bubble
				f = r.all()
				if got := f[before].at.Sub(asked); got != c.waits {
					t.Errorf("the batch waited %v and has %d requests, want %v", got, len(f[before].entry.Requests), c.waits)
				}
				for _, f := range f[before:] {
					f.answer(replication.Code_CODE_OK)
				}
				synctest.Wait()
				for _, f := range r.all()[len(f):] {
					f.answer(replication.Code_CODE_OK)
				}
			})
		})
	}
}

func TestUrgentGoesFirstAndTwoAreInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		var o outcomes
		occupy(p, &o)
		o.submit(p, write(10, 1))
		o.submit(p, write(11, 1))
		o.submit(p, renew(20))
		o.submit(p, renew(21))
		synctest.Wait()
		if n := len(r.all()); n != proposer.MaxInFlight {
			t.Fatalf("%d entries are in flight", n)
		}
		r.all()[1].answer(replication.Code_CODE_OK)
		r.all()[0].answer(replication.Code_CODE_OK)
		time.Sleep(time.Millisecond) // virtual: in a synctest bubble
		f := r.all()
		if got := fmt.Sprint(numbers(f[2])); got != "[20 21 10 11]" {
			t.Fatalf("the next entry has %s", got)
		}
		f[2].answer(replication.Code_CODE_OK)
	})
}

func TestEntriesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		var o outcomes
		o.submit(p, write(1, 1))
		synctest.Wait()
		o.submit(p, write(2, 1))
		synctest.Wait()
		for i := range uint64(20) {
			o.submit(p, write(100+i, 100<<10))
		}
		o.submit(p, write(200, 3<<20)) // larger than an entry: alone
		o.submit(p, write(201, 1))
		for i := 0; i < len(r.all()); i++ {
			f := r.all()[i]
			if f.size > replication.MaxEntryBytes && len(f.entry.Requests) > 1 {
				t.Fatalf("an entry of %d requests has %d bytes", len(f.entry.Requests), f.size)
			}
			f.answer(replication.Code_CODE_OK)
			time.Sleep(time.Millisecond) // virtual: beyond any linger
		}
		for _, n := range []uint64{1, 2, 100, 119, 200, 201} {
			if o.of(n) != "CODE_OK <nil>" {
				t.Errorf("request %d: %s", n, o.of(n))
			}
		}
	})
}

// Items of writes count like requests: thousands of small ones fit an entry's bytes,
// and would take it far longer to apply.
func TestItemsCountLikeRequests(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		var o outcomes
		o.submit(p, write(1, 0)) // the worker is on its way with this one
		synctest.Wait()
		for i, items := range []int{600, 400, 25, 2000, 1} {
			req := write(uint64(2+i), 0)
			w := req.GetWrite()
			for len(w.Items) < items {
				w.Items = append(w.Items, w.Items[0])
			}
			o.submit(p, req)
		}
		for i := 0; i < len(r.all()); i++ {
			r.all()[i].answer(replication.Code_CODE_OK)
			time.Sleep(time.Millisecond) // virtual: beyond any linger
		}
		var got []string
		for _, f := range r.all() {
			got = append(got, fmt.Sprint(numbers(f)))
		}
		if want := "[[1] [2 3] [4] [5] [6]]"; fmt.Sprint(got) != want {
			t.Errorf("entries with %v, want %s", got, want)
		}
	})
}

func TestOutcomes(t *testing.T) {
	notLeader := "not the leader"
	for name, tc := range map[string]struct {
		err  error
		want error
	}{
		"not leader":         {raft.ErrNotLeader, nil},
		"not enqueued":       {raft.ErrEnqueueTimeout, nil},
		"transfer":           {raft.ErrLeadershipTransferInProgress, nil},
		"leadership lost":    {raft.ErrLeadershipLost, replication.ErrUnknownOutcome},
		"aborted by restore": {raft.ErrAbortedByRestore, replication.ErrUnknownOutcome},
		"shutdown":           {raft.ErrRaftShutdown, replication.ErrUnknownOutcome},
		"disk":               {errors.New("input/output error"), replication.ErrUnknownOutcome},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
				got := make(chan error, 1)
				go func() {
					_, err := p.Do(context.Background(), write(1, 1))
					got <- err
				}()
				synctest.Wait()
				r.all()[0].err <- tc.err
				err := <-got
				var nl *replication.NotLeaderError
				if errors.As(err, &nl) != (tc.want == nil) || tc.want != nil && !errors.Is(err, tc.want) {
					t.Fatalf("%v became %v (%s expected: %t)", tc.err, err, notLeader, tc.want == nil)
				}
			})
		})
	}
}

func TestContextEnds(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		inFlight := make(chan error, 1)
		go func() {
			_, err := p.Do(ctx, write(2, 1))
			inFlight <- err
		}()
		synctest.Wait()
		queued := make(chan error, 1)
		go func() {
			_, err := p.Do(ctx, write(3, 1))
			queued <- err
		}()
		if err := <-inFlight; !errors.Is(err, replication.ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("in flight: %v", err)
		}
		if err := <-queued; !errors.Is(err, replication.ErrUnavailable) || errors.Is(err, replication.ErrUnknownOutcome) {
			t.Errorf("queued: %v", err)
		}
		for _, f := range r.all() {
			f.answer(replication.Code_CODE_OK)
		}
		synctest.Wait()
		for _, f := range r.all() {
			for _, q := range f.entry.Requests {
				if q.Number == 3 {
					t.Error("a withdrawn request was proposed")
				}
			}
		}
	})
}

// A log that hangs must not keep those who could ask another voter.
func TestAbandonLetsGo(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		ask := func(n uint64) <-chan error {
			got := make(chan error, 1)
			go func() {
				_, err := p.Do(context.Background(), write(n, 1))
				got <- err
			}()
			synctest.Wait()
			return got
		}
		inFlight, queued := ask(1), ask(2)
		p.Abandon()
		if err := <-inFlight; !errors.Is(err, replication.ErrUnknownOutcome) {
			t.Errorf("in flight: %v, want unknown outcome", err)
		}
		if err := <-queued; !errors.Is(err, replication.ErrUnavailable) || errors.Is(err, replication.ErrUnknownOutcome) {
			t.Errorf("queued: %v, want unavailable", err)
		}
		r.all()[0].answer(replication.Code_CODE_OK)
		later := ask(3)
		time.Sleep(time.Second) // virtual: past any linger
		flights := r.all()
		flights[len(flights)-1].answer(replication.Code_CODE_OK)
		if err := <-later; err != nil {
			t.Errorf("after the log went on: %v", err)
		}
	})
}

func renewal() *replication.Request {
	return &replication.Request{Op: &replication.Request_SessionRenew{SessionRenew: &replication.SessionRenew{Id: make([]byte, 16)}}}
}

func TestQueueIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, p *proposer.Proposer, r *fakeRaft) {
		var o outcomes
		occupy(p, &o)
		for i := range uint64(proposer.MaxQueued) {
			o.submit(p, write(100+i, 1))
		}
		a, err := p.Do(context.Background(), write(9, 1))
		if err != nil || a.Code != replication.Code_CODE_LIMIT || a.Detail == "" {
			t.Fatalf("a full queue answers %v, %v", a, err)
		}
		// Renewals still find room, within a bound of their own.
		var renewed int
		p.Submit(renewal(), func(a *replication.Answer, err error) { renewed++ })
		if renewed != 0 {
			t.Fatal("a full queue of writes refuses a renewal")
		}
		for range proposer.MaxQueued {
			p.Submit(renewal(), func(*replication.Answer, error) { renewed++ })
		}
		if renewed != 1 {
			t.Fatalf("%d renewals were refused, want only the one beyond twice the bound", renewed)
		}
		p.Resign("")
		for _, f := range r.all() {
			f.answer(replication.Code_CODE_OK)
		}
		if n := p.Queued(); n != 0 {
			t.Fatalf("%d are queued after resigning", n)
		}
	})
}

func TestCloseRefusesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{}
		p := proposer.New(r, time.Now)
		p.Lead(reign(1))
		var o outcomes
		occupy(p, &o)
		o.submit(p, write(2, 1))
		synctest.Wait()
		closed := make(chan struct{})
		go func() { p.Close(); close(closed) }()
		synctest.Wait()
		if got := o.of(2); got != "CODE_OK "+replication.ErrStopped.Error() {
			t.Errorf("queued: %q", got)
		}
		for _, f := range r.all() {
			f.err <- raft.ErrRaftShutdown
		}
		<-closed
		if _, err := p.Do(context.Background(), write(1, 1)); !errors.Is(err, replication.ErrStopped) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func BenchmarkDo(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			r := &instantRaft{}
			p := proposer.New(r, time.Now)
			defer p.Close()
			p.Lead(reign(1))
			b.ReportAllocs()
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				req := write(1, 128)
				for pb.Next() {
					if _, err := p.Do(context.Background(), req); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// instantRaft answers at once.
type instantRaft struct{}

func (instantRaft) Apply(b []byte, _ time.Duration) raft.ApplyFuture {
	e, err := statemachine.DecodeEntry(b)
	if err != nil {
		panic(err)
	}
	f := &flight{entry: e, err: make(chan error, 1)}
	f.answer(replication.Code_CODE_OK)
	return f
}
