package doors

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/kahu-sh/kahu/localapi/caller"
)

// serveRequest finds out who asks, and hands on.
func (s *Server) serveRequest(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		return // its connection is closed
	}
	defer s.serving.Done()
	if s.requests.Add(1) > int64(s.cfg.Limits.Requests) {
		s.requests.Add(-1)
		w.Header().Set("Retry-After", "1")
		s.refuse(w, r, refusedRequest, http.StatusServiceUnavailable, grpcResourceExhausted, "the agent serves too many requests at a time")
		return
	}
	defer s.requests.Add(-1)
	if s.cfg.Insecure {
		s.cfg.Handler.ServeHTTP(w, r)
		return
	}
	who, why := s.identify(r)
	if who == nil && s.cfg.Public != nil && s.cfg.Public(r) {
		s.cfg.Handler.ServeHTTP(w, r)
		return
	}
	if who == nil {
		w.Header().Set("WWW-Authenticate", `Bearer realm="kahu"`)
		s.refuse(w, r, why, http.StatusUnauthorized, grpcUnauthenticated, refusals[why])
		return
	}
	s.cfg.Handler.ServeHTTP(w, r.WithContext(caller.With(r.Context(), who)))
}

// identify returns who asks, or why nobody knows: a label of the metric.
func (s *Server) identify(r *http.Request) (who *caller.Caller, why string) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return caller.OfCertificate(r.TLS.VerifiedChains[0][0], r.RemoteAddr), ""
	}
	text, ok := bearer(r.Header.Values("Authorization"))
	if !ok {
		return nil, refusedNoCredentials
	}
	if s.cfg.Tokens == nil {
		return nil, refusedToken
	}
	e, ok := s.cfg.Tokens.Verify(text)
	if !ok {
		return nil, refusedToken
	}
	return caller.OfToken(e.Name, e.ID, r.RemoteAddr), ""
}

// bearer reads an Authorization header: exactly one, of that scheme.
func bearer(values []string) (token string, ok bool) {
	if len(values) != 1 {
		return "", false
	}
	scheme, rest, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	token = strings.Trim(rest, " ")
	return token, token != "" && !strings.ContainsAny(token, " ,")
}

// Labels of the metric for what was refused.
const (
	refusedConnection    = "too_many_connections"
	refusedRequest       = "too_many_requests"
	refusedNoCredentials = "no_credentials"
	refusedToken         = "token"
)

var refusals = map[string]string{
	refusedNoCredentials: "a client certificate or a bearer token is needed here",
	refusedToken:         "the bearer token is not valid",
}

// The gRPC statuses that are answered here, and not by a handler.
const (
	grpcResourceExhausted = "8"
	grpcUnauthenticated   = "16"
)

// refuse answers in the words of whoever asked.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, why string, status int, grpcStatus, text string) {
	s.metrics.refused.WithLabelValues(why).Inc()
	s.cfg.Logger.Debug("refused a request", "reason", why, "remote", r.RemoteAddr)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", grpcStatus)
		h.Set("Grpc-Message", text)
		w.WriteHeader(http.StatusOK)
		return
	}
	body, err := json.Marshal(map[string]any{"title": http.StatusText(status), "status": status, "detail": text})
	if err != nil { // strings and a number
		panic(fmt.Sprintf("doors: refusal %q cannot be encoded: %v", text, err))
	}
	h.Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the peer may be gone
}
