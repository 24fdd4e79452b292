package top

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/diagnosis"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// A Source is the agent that is looked at; *client.Client is one.
type Source interface {
	Status(ctx context.Context) (wire.Status, error)
	ClusterMembers(ctx context.Context) (wire.ClusterMembers, error)
	LockList(ctx context.Context, prefix string, p client.Page, o client.LockOptions) (wire.Locks, error)
	LockInfo(ctx context.Context, name string, o client.LockOptions) (wire.Lock, error)
	Metrics(ctx context.Context) ([]byte, error)
}

var _ Source = (*client.Client)(nil)

// A Query says what of the locks to look at.
type Query struct {
	Ephemeral bool
	Lock      string // the one whose waiters are wanted; empty: none
}

// maxLocks are looked at: more are not read on a screen, and cost the quorum.
const maxLocks = 1000

// A Frame is one look at an agent.
type Frame struct {
	At      time.Time            `json:"at"` // wall clock, with Go's monotonic reading
	Status  wire.Status          `json:"status"`
	Report  diagnosis.Report     `json:"health"`
	Members []wire.ClusterMember `json:"members"`
	Locks   []wire.Lock          `json:"locks"`
	// MoreLocks says that there are more than are here.
	MoreLocks bool `json:"more_locks,omitempty"`
	// Lock is the one that Query named, nil when it is free.
	Lock *wire.Lock `json:"lock,omitempty"`
	// LocksProblem is why Locks is empty: no quorum answered, or a policy.
	LocksProblem string `json:"locks_problem,omitempty"`

	counters counters
}

// Look fetches a frame. It fails when the agent does not tell its status; what
// else it does not tell is missing in the frame.
func Look(ctx context.Context, s Source, q Query, now func() time.Time) (Frame, error) {
	status, err := s.Status(ctx)
	if err != nil {
		return Frame{}, err
	}
	f := Frame{At: now(), Status: status}
	if m, err := s.ClusterMembers(ctx); err == nil {
		f.Members = m.Members
		if f.Status.Leader == "" {
			f.Status.Leader = m.Leader
		}
	}
	f.Report = diagnosis.Diagnose(f.Status, f.Members, f.At)
	if text, err := s.Metrics(ctx); err == nil {
		f.counters = count(text)
	}
	if !status.Ready {
		f.LocksProblem = "no quorum answers, so that nobody knows who holds what"
		return f, nil
	}
	o := client.LockOptions{Ephemeral: q.Ephemeral}
	locks, err := s.LockList(ctx, "", client.Page{Limit: maxLocks}, o)
	if err != nil {
		f.LocksProblem = err.Error()
		return f, nil
	}
	f.Locks, f.MoreLocks = locks.Locks, locks.Next != ""
	if q.Lock != "" {
		if l, err := s.LockInfo(ctx, q.Lock, o); err == nil {
			f.Lock = &l
		}
	}
	return f, nil
}

// counters are what rates and latencies are made of.
type counters struct {
	known                       bool
	requests, refused, renewals float64
	failedRenewals              float64
	answers, renewing           histogram
}

// histogram is cumulative: how many took at most so many seconds.
type histogram map[float64]float64

func (h histogram) add(m *dto.Histogram) {
	for _, b := range m.GetBucket() {
		if !math.IsInf(b.GetUpperBound(), 1) { // the text has it, and the count as well
			h[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
	}
	h[math.Inf(1)] += float64(m.GetSampleCount())
}

// count reads metrics. What cannot be read is not there.
func count(text []byte) counters {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	c := counters{answers: histogram{}, renewing: histogram{}}
	if err != nil {
		return c
	}
	c.known = true
	each := func(name string, f func(labels map[string]string, m *dto.Metric)) {
		for _, m := range families[name].GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			f(labels, m)
		}
	}
	for _, name := range []string{"kahu_localapi_requests_total", "kahu_kahuna_requests_total"} {
		each(name, func(labels map[string]string, m *dto.Metric) {
			if own[labels["route"]] {
				return
			}
			c.requests += m.GetCounter().GetValue()
			if code := labels["code"]; code == string(wire.Internal) || code == string(wire.Unavailable) || code == string(wire.UnknownOutcome) {
				c.refused += m.GetCounter().GetValue()
			}
		})
	}
	each("kahu_localapi_request_duration_seconds", func(labels map[string]string, m *dto.Metric) {
		if !own[labels["route"]] {
			c.answers.add(m.GetHistogram())
		}
	})
	each("kahu_session_renewals_total", func(labels map[string]string, m *dto.Metric) {
		if labels["outcome"] == "acknowledged" {
			c.renewals += m.GetCounter().GetValue()
		} else {
			c.failedRenewals += m.GetCounter().GetValue()
		}
	})
	each("kahu_session_renew_seconds", func(_ map[string]string, m *dto.Metric) { c.renewing.add(m.GetHistogram()) })
	return c
}

// own are the routes by which an agent is watched: a look must not show itself.
var own = map[string]bool{"status": true, "metrics": true, "cluster_members": true, "locks_list": true, "locks_get": true,
	"health_ready": true, "health_live": true, "lock_list": true, "lock_get": true}

// Rates are what happened between two frames, for each second.
type Rates struct {
	Known    bool    `json:"known"` // there were two frames of one agent
	Requests float64 `json:"requests_per_second"`
	// Failed were answered by nobody: unavailable, unknown outcome, internal.
	Failed float64 `json:"failed_per_second"`
	// P50 and P99 are upper bounds in seconds of how long answers took; NaN-free: 0
	// when there were none.
	P50            float64 `json:"p50_seconds"`
	P99            float64 `json:"p99_seconds"`
	Renewals       float64 `json:"renewals_per_second"`
	FailedRenewals float64 `json:"failed_renewals_per_second"`
	RenewP99       float64 `json:"renewal_p99_seconds"`
	Applied        float64 `json:"entries_applied_per_second"` // voters
}

// RatesBetween compares two looks at one agent. A restart between them, which
// counts from zero again, gives none.
func RatesBetween(before, after Frame) Rates {
	seconds := after.At.Sub(before.At).Seconds()
	a, b := before.counters, after.counters
	if !a.known || !b.known || seconds <= 0 || after.Status.UptimeMS < before.Status.UptimeMS || b.requests < a.requests {
		return Rates{}
	}
	answers, renewing := minus(b.answers, a.answers), minus(b.renewing, a.renewing)
	r := Rates{
		Known: true, Requests: (b.requests - a.requests) / seconds, Failed: (b.refused - a.refused) / seconds,
		P50: answers.quantile(0.5), P99: answers.quantile(0.99),
		Renewals: (b.renewals - a.renewals) / seconds, FailedRenewals: (b.failedRenewals - a.failedRenewals) / seconds,
		RenewP99: renewing.quantile(0.99),
	}
	if v, w := before.Status.Voter, after.Status.Voter; v != nil && w != nil && w.AppliedIndex >= v.AppliedIndex {
		r.Applied = float64(w.AppliedIndex-v.AppliedIndex) / seconds
	}
	return r
}

func minus(after, before histogram) histogram {
	out := histogram{}
	for bound, n := range after {
		out[bound] = n - before[bound]
	}
	return out
}

// quantile is the upper bound of the bucket that the q-th answer is in; the
// highest finite bound stands for all above it. 0 when there is none.
func (h histogram) quantile(q float64) float64 {
	total := h[math.Inf(1)]
	if total <= 0 {
		return 0
	}
	last := 0.0
	for _, bound := range slices.Sorted(maps.Keys(h)) {
		if math.IsInf(bound, 1) {
			break
		}
		last = bound
		if h[bound] >= q*total {
			return bound
		}
	}
	return last
}

func (f Frame) leader() string {
	for _, m := range f.Members {
		if m.Leader {
			return m.Node
		}
	}
	return f.Status.Leader
}

// seconds is a length of time on a screen: four characters and a unit.
func seconds(s float64) string {
	switch {
	case s <= 0:
		return "-"
	case s < 0.001:
		return fmt.Sprintf("%.0fµs", s*1e6)
	case s < 1:
		return fmt.Sprintf("%.3gms", s*1e3)
	}
	return fmt.Sprintf("%.3gs", s)
}
