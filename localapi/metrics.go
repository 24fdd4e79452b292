package localapi

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The server's metrics. "transport" is http, stream or tcp; "route" is a row of
// the route table or an operation of the stream; "code" is ok or a wire.Kind.
type metrics struct {
	requests    *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	inFlight    *prometheus.GaugeVec
	connections prometheus.Gauge
	turnedAway  prometheus.Counter
	streamsFull prometheus.Counter
	holds       prometheus.Gauge

	// Looking a series up by its labels costs more than counting in it.
	series       sync.Map // of seriesKey to *series
	streamFlying prometheus.Gauge
	httpFlying   prometheus.Gauge
	tcpFlying    prometheus.Gauge
}

type seriesKey struct{ transport, route, code string }

type series struct {
	requests  prometheus.Counter
	durations prometheus.Observer
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kahu_localapi_requests_total",
			Help: "Requests answered, by transport (http, stream, tcp), route and code (ok or the problem's code)."},
			[]string{"transport", "route", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kahu_localapi_request_duration_seconds",
			Help: "Time from a request to its answer, holds apart, by transport and route.", Buckets: durationBuckets},
			[]string{"transport", "route"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kahu_localapi_requests_in_flight",
			Help: "Requests being served, holds apart, by transport."}, []string{"transport"}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kahu_localapi_connections",
			Help: "Open connections of applications."}),
		turnedAway: prometheus.NewCounter(prometheus.CounterOpts{Name: "kahu_localapi_connections_turned_away_total",
			Help: "Connections closed because there were too many."}),
		streamsFull: prometheus.NewCounter(prometheus.CounterOpts{Name: "kahu_localapi_full_connections_total",
			Help: "Connections of applications that reached their limit of requests at a time: more waited in the application."}),
		holds: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kahu_localapi_hold_connections",
			Help: "Connections that listen for the events of a hold."}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.durations, m.inFlight, m.connections, m.turnedAway, m.streamsFull, m.holds} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics of the local API: %w", err)
		}
	}
	m.streamFlying, m.httpFlying, m.tcpFlying = m.inFlight.WithLabelValues("stream"), m.inFlight.WithLabelValues("http"), m.inFlight.WithLabelValues("tcp")
	return m, nil
}

// durationBuckets reach from a read out of memory to the default timeout.
var durationBuckets = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// observe counts one request. All three labels come from tables of ours, never
// from a stranger: their number is bounded.
func (m *metrics) observe(transport, route, code string, took time.Duration, hold bool) {
	key := seriesKey{transport, route, code}
	found, ok := m.series.Load(key)
	if !ok {
		found, _ = m.series.LoadOrStore(key, &series{
			requests:  m.requests.WithLabelValues(transport, route, code),
			durations: m.durations.WithLabelValues(transport, route)})
	}
	one := found.(*series)
	one.requests.Inc()
	if !hold {
		one.durations.Observe(took.Seconds())
	}
}
