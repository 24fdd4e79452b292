package load_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kahu-sh/kahu/cmd/kahu/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClosedLoopCountsWhatHappened(t *testing.T) {
	var calls atomic.Int64
	var mu sync.Mutex
	callers := map[int]uint64{}
	r, err := load.Run(t.Context(), load.Spec{Callers: 4, Duration: 50 * time.Millisecond},
		func(_ context.Context, caller int, n uint64) error {
			mu.Lock()
			defer mu.Unlock()
			if callers[caller] != n {
				t.Errorf("caller %d: operation %d came as number %d", caller, callers[caller], n)
			}
			callers[caller]++
			if calls.Add(1)%10 == 0 {
				return errors.New("every tenth")
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Operations + r.Errors; got != calls.Load() || got == 0 {
		t.Errorf("%d operations and errors reported, %d happened", got, calls.Load())
	}
	if r.ErrorTexts["every tenth"] != r.Errors || r.Errors == 0 {
		t.Errorf("error texts %v do not explain %d errors", r.ErrorTexts, r.Errors)
	}
	if len(callers) != 4 {
		t.Errorf("%d callers called, want 4", len(callers))
	}
	if r.Seconds < 0.05 || r.PerSecond < 1 {
		t.Errorf("measured %g s and %g/s over at least 50 ms", r.Seconds, r.PerSecond)
	}
}

func TestWarmupIsNotMeasured(t *testing.T) {
	begin := time.Now()
	var early, all atomic.Int64
	r, err := load.Run(t.Context(), load.Spec{Callers: 1, Warmup: 60 * time.Millisecond, Duration: 60 * time.Millisecond},
		func(context.Context, int, uint64) error {
			all.Add(1)
			if time.Since(begin) < 40*time.Millisecond {
				early.Add(1)
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if most := all.Load() - early.Load(); r.Operations > most {
		t.Errorf("%d operations measured, but only %d came after the first 40 ms of a warm-up of 60 ms", r.Operations, most)
	}
}

// A stall must be seen by everything it delayed, not by the one operation that
// was in flight: 100 operations are due in 500 ms, one caller stands still for
// the first 250 ms, so about half of all must show tens of milliseconds.
func TestFixedRateCountsFromWhenItWasDue(t *testing.T) {
	stall := make(chan struct{})
	timer := time.AfterFunc(250*time.Millisecond, func() { close(stall) })
	defer timer.Stop()
	r, err := load.Run(t.Context(), load.Spec{Callers: 1, Rate: 200, Duration: 500 * time.Millisecond},
		func(context.Context, int, uint64) error {
			<-stall
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if r.Operations < 90 || r.Operations > 100 {
		t.Errorf("%d operations at 200/s over 500 ms, want about 100", r.Operations)
	}
	if r.LatencyUS.P90 < 150_000 {
		t.Errorf("p90 is %d us, although half of the schedule stood behind a stall of 250 ms", r.LatencyUS.P90)
	}
	if r.LatencyUS.Max < 245_000 {
		t.Errorf("max is %d us; the first operation waited 250 ms", r.LatencyUS.Max)
	}
}

func TestFixedRateReportsWhatItCouldNotSend(t *testing.T) {
	r, err := load.Run(t.Context(), load.Spec{Callers: 1, Rate: 1000, Duration: 200 * time.Millisecond},
		func(ctx context.Context, _ int, _ uint64) error {
			select {
			case <-time.After(20 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	if err != nil {
		t.Fatal(err)
	}
	if r.Unsent < 150 || int64(r.Unsent)+r.Operations > 200 {
		t.Errorf("%d unsent and %d done of 200 due, when only about 10 could be served", r.Unsent, r.Operations)
	}
	if r.LatencyUS.P50 < 50_000 {
		t.Errorf("p50 is %d us: what was never sent does not count as fast", r.LatencyUS.P50)
	}
}

func TestCancelEndsTheRun(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	r, err := load.Run(ctx, load.Spec{Callers: 2, Duration: time.Hour},
		func(ctx context.Context, caller int, n uint64) error {
			if n == 100 {
				cancel(why)
			}
			return ctx.Err()
		})
	if !errors.Is(err, why) {
		t.Errorf("error %v, want the cause", err)
	}
	if r == nil || r.Operations == 0 {
		t.Errorf("what was measured until then is missing: %+v", r)
	}
}

func TestBadSpecs(t *testing.T) {
	for want, spec := range map[string]load.Spec{
		"callers":   {Callers: 0, Duration: 1},
		"duration":  {Callers: 1},
		"warm-up":   {Callers: 1, Duration: 1, Warmup: -1},
		"negative":  {Callers: 1, Duration: 1, Rate: -1},
		"more than": {Callers: 1, Duration: time.Hour, Rate: 1e9},
	} {
		if _, err := load.Run(t.Context(), spec, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one about %q", spec, err, want)
		}
	}
}

func TestResultReadsTheSameInBothForms(t *testing.T) {
	r, err := load.Run(t.Context(), load.Spec{Callers: 1, Duration: 5 * time.Millisecond},
		func(context.Context, int, uint64) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	r.Notes = map[string]string{"unflushed": "12 bytes"}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"operations/s", "p99.9", "unflushed: 12 bytes"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("text has no %q:\n%s", want, text.String())
		}
	}
	encoded, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"per_second"`, `"p99_9"`, `"unflushed"`} {
		if !strings.Contains(string(encoded), want) {
			t.Errorf("JSON has no %s: %s", want, encoded)
		}
	}
}
