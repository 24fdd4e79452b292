package rest

import (
	"net/http"
	"strings"
)

// RouteName is the route of a request as the table has it, for metrics: "none" for
// what is in no row, so that a stranger cannot make names.
func (h *Handler) RouteName(r *http.Request) string {
	path := strings.ToLower(strings.TrimSuffix(r.URL.Path, "/"))
	if _, ok := h.routes[path][r.Method]; ok {
		if path == "" {
			return "/"
		}
		return path
	}
	if id, ok := strings.CutPrefix(path, backupsPath+"/"); ok && strings.HasSuffix(id, "/chain") && r.Method == http.MethodGet {
		return chainPath
	}
	return "none"
}
