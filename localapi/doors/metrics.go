package doors

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of the listeners; what is asked is counted by the handler.
type metrics struct {
	refused     *prometheus.CounterVec
	http2Errors *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, s *Server, c *Certificate) (*metrics, error) {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kahu_kahuna_refused_total",
			Help: "Connections and requests turned away on the Kahuna wire's TCP listeners, by reason."}, []string{"reason"}),
		http2Errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kahu_kahuna_http2_errors_total",
			Help: "HTTP/2 connections and streams of the Kahuna wire's TCP listeners ended for an error, by kind."}, []string{"kind"}),
	}
	for _, reason := range []string{refusedConnection, refusedRequest, refusedNoCredentials, refusedToken} {
		m.refused.WithLabelValues(reason)
	}
	for _, c := range []prometheus.Collector{m.refused, m.http2Errors,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kahu_kahuna_connections",
			Help: "Open connections of the Kahuna wire's TCP listeners."}, func() float64 { return float64(s.conns.count()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kahu_kahuna_requests_in_flight",
			Help: "Requests being served on the Kahuna wire's TCP listeners, streams included."}, func() float64 { return float64(s.requests.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kahu_kahuna_certificate_expiry_timestamp_seconds",
			Help: "When the certificate that the Kahuna wire's TCP listeners show ends, in seconds since 1970."},
			func() float64 { return float64(c.Leaf().NotAfter.Unix()) }),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the metrics of the Kahuna wire's listeners: %w", err)
		}
	}
	return m, nil
}
