package localapi

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func (s *Server) getLive(x *exchange) error {
	return x.writeJSON(http.StatusOK, wire.Health{OK: true})
}

// getReady says why not in words that give nothing away: everybody may ask.
func (s *Server) getReady(x *exchange) error {
	status := s.cfg.Status()
	if !status.Ready || s.closing.Load() {
		reason := status.NotReady
		if s.closing.Load() {
			reason = "the agent is stopping"
		}
		x.w.Header().Set("Retry-After", "1")
		return x.writeJSON(http.StatusServiceUnavailable, wire.Health{Reason: reason})
	}
	return x.writeJSON(http.StatusOK, wire.Health{OK: true})
}

func (s *Server) getStatus(x *exchange) error {
	return x.writeJSON(http.StatusOK, s.cfg.Status())
}

func (s *Server) getMetrics(x *exchange) error {
	x.writeWithin(WriteTimeout)
	promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}).ServeHTTP(x.w, x.r)
	return nil
}

func (s *Server) getHolds(x *exchange) error {
	return x.writeJSON(http.StatusOK, s.holdsFor(x.who))
}

// holdsFor lists the holds that who may look at. Ids are owners: they are shown
// to the user whose hold it is, and to administrators.
func (s *Server) holdsFor(who *caller.Caller) wire.Holds {
	out := wire.Holds{Holds: []wire.HoldInfo{}}
	for _, h := range s.cfg.Holder.List() {
		if !s.cfg.Policy.Allows(who, policy.Read, h.Lock) {
			continue
		}
		if !s.ownHold(who, h) {
			h.Hold = ""
		}
		out.Holds = append(out.Holds, h)
	}
	return out
}

func (s *Server) ownHold(who *caller.Caller, h HoldInfo) bool {
	return who != nil && h.Holder.UID == int64(who.UID) || s.cfg.Policy.Allows(who, policy.Admin, h.Lock)
}
