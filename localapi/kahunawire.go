package localapi

import (
	"net/http"
	"strings"

	"github.com/kahu-sh/kahu/localapi/caller"
)

// kahunaRoot is where Kahuna's REST routes begin. "/" is Kahuna's as well: a
// greeting.
const kahunaRoot = "/v1/"

// isKahuna reports whether a request is on the Kahuna wire: gRPC, of which kahu's
// own API has none, or one of its REST paths, which are taken in any case.
func isKahuna(r *http.Request) bool {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		return true
	}
	path := r.URL.Path
	return path == "/" || len(path) >= len(kahunaRoot) && strings.EqualFold(path[:len(kahunaRoot)], kahunaRoot)
}

// serveKahuna hands a request of the Unix socket on. Its caller is in the context
// (caller.From), as for all others.
func (s *Server) serveKahuna(w http.ResponseWriter, r *http.Request) {
	if conn := caller.ConnFrom(r.Context()); conn != nil {
		conn.DropFiles() // see run
	}
	if !s.begin() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the agent is stopping", http.StatusServiceUnavailable)
		return
	}
	defer s.serving.Done()
	if r.ProtoMajor == 1 { // HTTP/2 bounds its streams, and gRPC its calls
		select {
		case s.inFlight <- struct{}{}:
			defer func() { <-s.inFlight }()
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the agent serves too many requests at a time", http.StatusServiceUnavailable)
			return
		}
	}
	s.cfg.Kahuna.ServeHTTP(w, r)
}
