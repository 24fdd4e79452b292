package load

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The histogram's range and its precision: two digits, within 1 %, which keeps
// thousands of callers cheap.
const (
	minLatencyUS = 1
	maxLatencyUS = 10 * 60 * 1_000_000
	digits       = 2
	maxKinds     = 16 // different error texts kept
)

// Result is what one Run measured.
type Result struct {
	Callers    int               `json:"callers"`
	RatePerSec float64           `json:"rate_per_second,omitempty"` // asked for; 0: closed loop
	Seconds    float64           `json:"seconds"`                   // measured, until the last answer
	Operations int64             `json:"operations"`                // that succeeded
	Errors     int64             `json:"errors"`
	ErrorTexts map[string]int64  `json:"error_texts,omitempty"` // at most 16 different ones
	Unsent     uint64            `json:"unsent,omitempty"`      // fixed rate: due, but never sent
	PerSecond  float64           `json:"per_second"`
	LatencyUS  LatencyMicros     `json:"latency_us"`
	Notes      map[string]string `json:"notes,omitempty"` // whatever the caller wants to be read with it
}

// LatencyMicros are percentiles in microseconds, within 1 %.
type LatencyMicros struct {
	Mean float64 `json:"mean"`
	P50  int64   `json:"p50"`
	P90  int64   `json:"p90"`
	P99  int64   `json:"p99"`
	P999 int64   `json:"p99_9"`
	Max  int64   `json:"max"`
}

// measure is what one caller saw. It is that caller's alone until Run has waited for it.
type measure struct {
	latency *hdrhistogram.Histogram
	done    int64
	errors  int64
	texts   map[string]int64
	last    time.Time // of the last answer
}

func newMeasure() *measure {
	return &measure{latency: hdrhistogram.New(minLatencyUS, maxLatencyUS, digits), texts: map[string]int64{}}
}

// wait records a latency without an operation.
func (m *measure) wait(d time.Duration) {
	_ = m.latency.RecordValue(min(max(d.Microseconds(), minLatencyUS), maxLatencyUS)) // in range by min and max
}

// add records one operation.
func (m *measure) add(d time.Duration, at time.Time, err error) {
	m.last = at
	if err == nil {
		m.done++
		m.wait(d)
		return
	}
	m.errors++
	if text := err.Error(); m.texts[text] > 0 || len(m.texts) < maxKinds {
		m.texts[text]++
	}
}

// result adds the callers up.
func (r *run) result(measures []*measure) *Result {
	all := newMeasure()
	all.last = r.opened
	for _, m := range measures {
		all.latency.Merge(m.latency)
		all.done += m.done
		all.errors += m.errors
		for text, n := range m.texts {
			if all.texts[text] > 0 || len(all.texts) < maxKinds {
				all.texts[text] += n
			}
		}
		if m.last.After(all.last) {
			all.last = m.last
		}
	}
	seconds := all.last.Sub(r.opened).Seconds()
	res := &Result{
		Callers: r.spec.Callers, RatePerSec: r.spec.Rate, Seconds: seconds,
		Operations: all.done, Errors: all.errors, ErrorTexts: all.texts, Unsent: r.unsent.Load(),
		LatencyUS: LatencyMicros{
			Mean: all.latency.Mean(),
			P50:  all.latency.ValueAtQuantile(50),
			P90:  all.latency.ValueAtQuantile(90),
			P99:  all.latency.ValueAtQuantile(99),
			P999: all.latency.ValueAtQuantile(99.9),
			Max:  all.latency.Max(),
		},
	}
	if seconds > 0 {
		res.PerSecond = float64(all.done) / seconds
	}
	return res
}

// WriteText writes the result for people.
func (r *Result) WriteText(w io.Writer) error {
	loop := "closed loop"
	if r.RatePerSec > 0 {
		loop = fmt.Sprintf("fixed rate %g/s", r.RatePerSec)
	}
	_, err := fmt.Fprintf(w, "%d callers, %s, %.1f s\n%.0f operations/s (%d done, %d errors, %d unsent)\nlatency p50 %s  p90 %s  p99 %s  p99.9 %s  max %s  mean %s\n",
		r.Callers, loop, r.Seconds, r.PerSecond, r.Operations, r.Errors, r.Unsent,
		micros(r.LatencyUS.P50), micros(r.LatencyUS.P90), micros(r.LatencyUS.P99),
		micros(r.LatencyUS.P999), micros(r.LatencyUS.Max), micros(int64(r.LatencyUS.Mean)))
	for _, text := range slices.Sorted(maps.Keys(r.ErrorTexts)) {
		if err == nil {
			_, err = fmt.Fprintf(w, "error %d times: %s\n", r.ErrorTexts[text], text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Notes)) {
		if err == nil {
			_, err = fmt.Fprintf(w, "%s: %s\n", name, r.Notes[name])
		}
	}
	return err
}

// micros is a latency for people.
func micros(us int64) string { return (time.Duration(us) * time.Microsecond).String() }
