package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
)

// Config is what a Handler needs.
type Config struct {
	Service Service
	Logger  *slog.Logger
	// MaxBodyBytes bounds one request's body. Optional: DefaultMaxBodyBytes.
	MaxBodyBytes int64
}

// Limits, and what happens beyond them.
const (
	// DefaultMaxBodyBytes is Kahuna's bound for a body (Kestrel's). Beyond it: 413.
	DefaultMaxBodyBytes = 30_000_000
	// smallBodyBytes is what every request may hold in memory; a larger body waits
	// for one of maxLargeBodies turns.
	smallBodyBytes = 64 << 10
	// maxLargeBodies bounds memory, to 8 bodies and what they decode to.
	maxLargeBodies = 8
	// bodyTimeout bounds reading a body, waiting for a turn included. Beyond it: 408.
	bodyTimeout = 30 * time.Second
	// writeTimeout bounds writing an answer to a caller who does not read.
	writeTimeout = 30 * time.Second
)

// Handler serves Kahuna's REST routes. It may be used concurrently; paths are
// taken without regard to case, as ASP.NET does.
type Handler struct {
	svc     Service
	logger  *slog.Logger
	maxBody int64
	routes  map[string]map[string]route // by path, then method
	large   chan struct{}               // a turn for each large body
}

var _ http.Handler = (*Handler)(nil)

// New returns a Handler. It panics when a required field is missing.
func New(cfg Config) *Handler {
	if cfg.Service == nil || cfg.Logger == nil {
		panic(fmt.Sprintf("rest: Service %v or Logger %v is missing", cfg.Service, cfg.Logger))
	}
	if cfg.MaxBodyBytes <= 0 {
		cfg.MaxBodyBytes = DefaultMaxBodyBytes
	}
	h := &Handler{svc: cfg.Service, logger: cfg.Logger, maxBody: cfg.MaxBodyBytes,
		routes: make(map[string]map[string]route), large: make(chan struct{}, maxLargeBodies)}
	for _, r := range routeTable() {
		if h.routes[r.path] == nil {
			h.routes[r.path] = make(map[string]route)
		}
		h.routes[r.path][r.method] = r
	}
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{h: h, w: w, r: r}
	defer x.endTurn()
	row, ok := h.find(x)
	if !ok {
		return
	}
	// What Service says in gRPC trailers, as backups do, is kept for the answer.
	ctx := grpc.NewContextWithServerTransportStream(r.Context(), &x.trailers)
	a, err := row.serve(ctx, x)
	if err != nil {
		x.refuse(row, err)
		return
	}
	x.write(a)
}

// find returns the row of a request, or answers that there is none.
func (h *Handler) find(x *exchange) (route, bool) {
	path := strings.ToLower(strings.TrimSuffix(x.r.URL.Path, "/"))
	if id, ok := strings.CutPrefix(path, backupsPath+"/"); ok {
		if id, ok := strings.CutSuffix(id, "/chain"); ok && !strings.Contains(id, "/") {
			x.id, path = id, chainPath
		}
	}
	methods := h.routes[path]
	if row, ok := methods[x.r.Method]; ok {
		return row, true
	}
	if len(methods) == 0 {
		x.problem(http.StatusNotFound, "there is no route "+strconv.Quote(cut(x.r.URL.Path)))
		return route{}, false
	}
	var allow []string
	for m := range methods {
		allow = append(allow, m)
	}
	x.w.Header().Set("Allow", strings.Join(allow, ", "))
	x.problem(http.StatusMethodNotAllowed, "the route takes "+strings.Join(allow, ", "))
	return route{}, false
}

// exchange is one request being served.
type exchange struct {
	h        *Handler
	w        http.ResponseWriter
	r        *http.Request
	id       string // the backup in the path
	trailers trailers
	turn     func() // gives the turn of a large body back
}

func (x *exchange) endTurn() {
	if x.turn != nil {
		x.turn()
	}
}

// answer is a status and what is encoded as JSON, or as text when it is a string.
type answer struct {
	status int
	body   any
}

func ok(body any) (answer, error) { return answer{http.StatusOK, body}, nil }

// write encodes and sends an answer. The caller may be gone: then nobody is left
// to tell.
func (x *exchange) write(a answer) {
	if text, is := a.body.(string); is {
		x.send(a.status, "text/plain; charset=utf-8", []byte(text))
		return
	}
	body, err := encode(a.body)
	if err != nil { // structs of strings and numbers
		panic(fmt.Sprintf("rest: the answer %+v cannot be encoded: %v", a.body, err))
	}
	x.send(a.status, "application/json; charset=utf-8", body)
}

func (x *exchange) send(status int, contentType string, body []byte) {
	header := x.w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	// An error means that the connection cannot do deadlines.
	_ = http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(writeTimeout))
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body)
}

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// refuse answers an error: of the body, or the gRPC status that Service gave.
func (x *exchange) refuse(row route, err error) {
	var bad *badRequest
	if errors.As(err, &bad) {
		x.problem(bad.status, bad.detail)
		return
	}
	if outcome := x.trailers.backupOutcome(); outcome != "" {
		x.backupProblem(outcome, err)
		return
	}
	code, detail := statusOf(err)
	if row.mustRetry != 0 && retryable(code) {
		// R8: nobody decided anything, and the client asks again.
		x.write(answer{http.StatusOK, struct {
			Type int32 `json:"type"`
		}{row.mustRetry}})
		return
	}
	status := httpStatus(code)
	if status == http.StatusInternalServerError {
		x.h.logger.LogAttrs(x.r.Context(), slog.LevelError, "request failed", slog.String("route", row.path), slog.Any("error", err))
		detail = "the agent's log says more"
	}
	x.problem(status, detail)
}

// problem answers with what is wrong (RFC 9457), as ASP.NET's Results.Problem does.
func (x *exchange) problem(status int, detail string) {
	body, err := encode(problem{Type: "about:blank", Title: title(status), Status: status, Detail: detail})
	if err != nil { // strings and numbers
		panic(fmt.Sprintf("rest: problem %d %q cannot be encoded: %v", status, detail, err))
	}
	x.send(status, "application/problem+json", body)
}

type problem struct {
	Type    string `json:"type"`
	Title   string `json:"title"`
	Status  int    `json:"status"`
	Detail  string `json:"detail"`
	Outcome string `json:"outcome,omitempty"` // of a backup
}

// cut keeps a stranger's text short.
func cut(s string) string { return s[:min(len(s), 100)] }

// route is one row of the table.
type route struct {
	method, path string
	// mustRetry is the code of an answer that says "ask again" here; 0: there is none.
	mustRetry int32
	serve     func(context.Context, *exchange) (answer, error)
}

// get is a route without a body.
func get(path string, mustRetry int32, serve func(context.Context, *exchange) (answer, error)) route {
	return route{http.MethodGet, path, mustRetry, serve}
}

// action is a POST whose body means nothing.
func action(path string, serve func(context.Context, *exchange) (answer, error)) route {
	return route{http.MethodPost, path, 0, serve}
}

// post is a route that takes In as its body.
func post[In any](path string, mustRetry int32, serve func(context.Context, Service, *In) (answer, error)) route {
	return route{http.MethodPost, path, mustRetry, func(ctx context.Context, x *exchange) (answer, error) {
		var in In
		if err := x.decode(&in); err != nil {
			return answer{}, err
		}
		return serve(ctx, x.h.svc, &in)
	}}
}

// routeTable has every route; what is not in it does not exist.
func routeTable() []route {
	var all []route
	for _, some := range [][]route{rootRoutes(), lockRoutes(), sequenceRoutes(), keyRoutes(), manyRoutes(), scanRoutes(),
		transactionRoutes(), holdRoutes(), clusterRoutes(), rangeRoutes(), backupRoutes()} {
		all = append(all, some...)
	}
	return all
}

// rootRoutes has the greeting that Kahuna's start scripts wait for (R10).
func rootRoutes() []route {
	return []route{get("", 0, func(context.Context, *exchange) (answer, error) { return ok("Kahuna.Server") })}
}
