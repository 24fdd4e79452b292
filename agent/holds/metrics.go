package holds

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kahu-sh/kahu/localapi"
)

// The metrics of this package, in one table.
var (
	descHolds = prometheus.NewDesc("kahu_holds",
		"Locks kept for local processes, and places in line, by state.", []string{"state"}, nil)
	optsRenewals = prometheus.CounterOpts{Name: "kahu_session_renewals_total",
		Help: "Renewals of this agent's sessions, by outcome. Each keeps all holds with one TTL."}
	optsRenewTime = prometheus.HistogramOpts{Name: "kahu_session_renew_seconds",
		Help:    "Time from sending a renewal to its acknowledgement.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}
	optsLost = prometheus.CounterOpts{Name: "kahu_holds_deadline_total",
		Help: "Holders told to stop because no renewal was acknowledged in time."}
)

// metrics counts what this package does. It is its own collector for kahu_holds,
// which is counted when asked.
type metrics struct {
	h        *Holds
	registry prometheus.Registerer // nil: not registered
	renewals *prometheus.CounterVec
	ok, bad  prometheus.Counter // of renewals
	duration prometheus.Histogram
	lost     prometheus.Counter
}

func newMetrics(h *Holds, r prometheus.Registerer) (*metrics, error) {
	m := &metrics{h: h, renewals: prometheus.NewCounterVec(optsRenewals, []string{"outcome"}),
		duration: prometheus.NewHistogram(optsRenewTime), lost: prometheus.NewCounter(optsLost)}
	m.ok, m.bad = m.renewals.WithLabelValues("acknowledged"), m.renewals.WithLabelValues("failed")
	if r == nil {
		return m, nil
	}
	m.registry = r
	var errs []error
	for _, c := range m.collectors() {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m, m.renewals, m.duration, m.lost}
}

func (m *metrics) unregister() {
	if m.registry != nil {
		for _, c := range m.collectors() {
			m.registry.Unregister(c)
		}
	}
}

func (m *metrics) renewed(took time.Duration) {
	m.ok.Inc()
	m.duration.Observe(took.Seconds())
}

func (m *metrics) renewalFailed() { m.bad.Inc() }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { ch <- descHolds }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counts := map[localapi.HoldEventType]int{
		localapi.HoldQueued: 0, localapi.HoldHeld: 0, localapi.HoldAtRisk: 0, localapi.HoldLost: 0, localapi.HoldReleased: 0}
	m.h.mu.Lock()
	for _, o := range m.h.byID {
		counts[o.shown()]++
	}
	m.h.mu.Unlock()
	for state, n := range counts {
		ch <- prometheus.MustNewConstMetric(descHolds, prometheus.GaugeValue, float64(n), string(state))
	}
}
