package agent

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/kahu-sh/kahu/localapi/grpchttp"
	"github.com/kahu-sh/kahu/localapi/kahuna"
	"github.com/kahu-sh/kahu/localapi/kahuna/rest"
)

// kahunaMetrics counts what is asked on the Kahuna wire, on the socket and over TCP.
// "method" is an rpc's path or a REST route; "result" a gRPC code or an HTTP status.
type kahunaMetrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	streams   *prometheus.GaugeVec
	messages  *prometheus.CounterVec

	batched         *prometheus.CounterVec
	batchedDuration *prometheus.HistogramVec

	// Looking a series up by its labels costs more than counting in it.
	counted  sync.Map // of [2]string, method and direction, to prometheus.Counter
	answered sync.Map // of [2]string, method and result, to batchedSeries
}

// batchedSeries are the two that one answer of a batch stream counts in.
type batchedSeries struct {
	total    prometheus.Counter
	duration prometheus.Observer
}

var (
	_ grpchttp.Observer = (*kahunaMetrics)(nil)
	_ kahuna.Observer   = (*kahunaMetrics)(nil)
)

func newKahunaMetrics(r prometheus.Registerer) (*kahunaMetrics, error) {
	m := &kahunaMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kahu_kahuna_requests_total",
			Help: "Requests on the Kahuna wire that were answered, streams that ended included."}, []string{"transport", "method", "result"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kahu_kahuna_request_duration_seconds",
			Help:    "How long requests on the Kahuna wire took; streams last as long as their clients want.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}}, []string{"transport", "method"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kahu_kahuna_streams",
			Help: "Open gRPC streams on the Kahuna wire."}, []string{"method"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kahu_kahuna_stream_messages_total",
			Help: "Messages on gRPC streams of the Kahuna wire: requests received and answers sent."}, []string{"method", "direction"}),
		batched: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kahu_kahuna_batch_requests_total",
			Help: "Requests of the Kahuna wire's batch streams that were answered, by the rpc that asks the same by itself and by Kahuna's code."}, []string{"method", "result"}),
		batchedDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kahu_kahuna_batch_request_duration_seconds",
			Help:    "How long requests of the Kahuna wire's batch streams took, from when they were read until their answers were ready.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}}, []string{"method"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.durations, m.streams, m.messages, m.batched, m.batchedDuration} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics of the Kahuna wire: %w", err)
		}
	}
	return m, nil
}

// Streaming implements grpchttp.Observer.
func (m *kahunaMetrics) Streaming(method string, delta int) {
	m.streams.WithLabelValues(method).Add(float64(delta))
}

// Message implements grpchttp.Observer.
func (m *kahunaMetrics) Message(method string, received bool) {
	key := [2]string{method, "sent"}
	if received {
		key[1] = "received"
	}
	c, ok := m.counted.Load(key)
	if !ok {
		c, _ = m.counted.LoadOrStore(key, m.messages.WithLabelValues(key[0], key[1]))
	}
	c.(prometheus.Counter).Inc()
}

// Answered implements kahuna.Observer.
func (m *kahunaMetrics) Answered(method, result string, took time.Duration) {
	key := [2]string{method, result}
	s, ok := m.answered.Load(key)
	if !ok {
		s, _ = m.answered.LoadOrStore(key, batchedSeries{m.batched.WithLabelValues(method, result), m.batchedDuration.WithLabelValues(method)})
	}
	series := s.(batchedSeries)
	series.total.Inc()
	series.duration.Observe(took.Seconds())
}

// Done implements grpchttp.Observer.
func (m *kahunaMetrics) Done(method string, code codes.Code, took time.Duration) {
	m.done("grpc", method, code.String(), took)
}

func (m *kahunaMetrics) done(transport, method, result string, took time.Duration) {
	m.requests.WithLabelValues(transport, method, result).Inc()
	m.durations.WithLabelValues(transport, method).Observe(took.Seconds())
}

// observeREST serves one REST request and counts it.
func (m *kahunaMetrics) observeREST(h *rest.Handler, w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	h.ServeHTTP(s, r)
	m.done("rest", h.RouteName(r), strconv.Itoa(s.status), time.Since(start))
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
