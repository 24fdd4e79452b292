package localapi

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// requestIDHeader carries the request's id in both directions; it is in the
// log, and in problems.
const requestIDHeader = "Kahu-Request-Id"

// exchange is one HTTP request being served.
type exchange struct {
	w     http.ResponseWriter
	r     *http.Request
	who   *caller.Caller // nil on TCP
	row   *route
	name  string // from the path, unescaped
	query url.Values
	id    string
	tcp   bool
}

// dispatch serves one request: find its row, judge the caller, run the handler,
// and write its error as a problem.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, tcp bool) {
	start := time.Now()
	x := &exchange{w: w, r: r, who: caller.From(r.Context()), id: s.requestID(r), tcp: tcp}
	w.Header().Set(requestIDHeader, x.id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	err := s.run(x)
	var refused *wire.Error
	if err != nil {
		refused = wire.ErrorOf(err)
		x.writeProblem(refused)
	}
	s.account(x, refused, err, time.Since(start))
}

func (s *Server) run(x *exchange) error {
	row, escaped, allow := s.find(x.r.Method, x.r.URL.EscapedPath(), x.tcp)
	if row == nil {
		if len(allow) == 0 {
			return wire.Refuse(wire.NoRoute, "there is nothing at "+strconv.Quote(cut(x.r.URL.EscapedPath())))
		}
		x.w.Header().Set("Allow", strings.Join(allow, ", "))
		return wire.Refuse(wire.MethodNotAllowed, fmt.Sprintf("%.20q is not among the methods here: %s", x.r.Method, strings.Join(allow, ", ")))
	}
	x.row = row
	if conn := caller.ConnFrom(x.r.Context()); conn != nil && row.name != "stream" {
		// Kept with the connection they would be the agent's files that others use up.
		conn.DropFiles()
	}
	if err := x.parse(escaped); err != nil {
		return err
	}
	if err := s.authorize(x); err != nil {
		return err
	}
	if !x.long() {
		select {
		case s.inFlight <- struct{}{}:
			defer func() { <-s.inFlight }()
		default:
			x.w.Header().Set("Retry-After", "1")
			return wire.Refuse(wire.Overloaded, fmt.Sprintf("more than %d requests at a time", MaxHTTPInFlight))
		}
		gauge := s.metrics.httpFlying
		if x.tcp {
			gauge = s.metrics.tcpFlying
		}
		gauge.Inc()
		defer gauge.Dec()
		// In place of what an earlier request on the connection left.
		x.writeWithin(MaxRequestTimeout)
		if err := x.noBody(); err != nil {
			return err
		}
	}
	return row.handle(s, x)
}

// long requests live as long as their hold or stream, or what they carry takes.
func (x *exchange) long() bool {
	return x.row.name == "holds_open" || x.row.name == "stream" || x.row.name == "backup"
}

func (x *exchange) transport() string {
	if x.tcp {
		return "tcp"
	}
	return "http"
}

// parse takes name and query apart.
func (x *exchange) parse(escapedName string) error {
	var err error
	if x.name, err = url.PathUnescape(escapedName); err != nil {
		return invalidf("the path is wrongly escaped: %v", err)
	}
	if x.query, err = url.ParseQuery(x.r.URL.RawQuery); err != nil {
		return invalidf("the query is wrongly escaped: %v", err)
	}
	for name, values := range x.query {
		if !slices.Contains(x.row.query, name) {
			return invalidf("unknown parameter %s, known are %s", strconv.Quote(cut(name)), known(x.row.query))
		}
		if len(values) > 1 {
			return invalidf("the parameter %s is there twice", name)
		}
	}
	return nil
}

func known(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func (s *Server) authorize(x *exchange) error {
	a := admission{s, x.who}
	switch x.row.access {
	case public, inside:
		return nil
	case somewhere:
		if x.tcp || s.cfg.Policy.AllowsSomewhere(x.who, x.row.verb) {
			return nil
		}
		return a.need(x.row.verb, "")
	case transacting:
		return a.touches()
	case onName:
		if x.row.verb == policy.Admin || x.row.name == "locks_get" {
			return a.stored(x.row.verb, "name", x.name)
		}
		return a.named(x.row.verb, "name", x.name)
	case onPrefix:
		return a.listed("prefix", x.query.Get("prefix"))
	}
	return wire.Refuse(wire.Denied, "this route names no access")
}

// account writes metrics and log lines.
func (s *Server) account(x *exchange, refused *wire.Error, err error, took time.Duration) {
	name, code := "none", "ok"
	if x.row != nil {
		name = x.row.name
	}
	if refused != nil {
		code = string(refused.Kind)
	}
	s.metrics.observe(x.transport(), name, code, took, x.row != nil && x.long())
	if refused == nil && s.quiet(x.r.Context()) {
		return
	}
	s.log(x.r.Context(), x.who, refused, err, "request", x.id, "route", name, "name", cut(x.name), "code", code, "took", took)
}

// log tells of every request at debug, of denied ones at info, and of what
// should not happen at error.
func (s *Server) log(ctx context.Context, who *caller.Caller, refused *wire.Error, err error, attrs ...any) {
	level, message := slog.LevelDebug, "request served"
	switch {
	case refused == nil:
	case refused.Kind == wire.Denied:
		level, message = slog.LevelInfo, "request denied by the policy"
	case refused.Kind == wire.Internal:
		level, message = slog.LevelError, "request failed"
	}
	if !s.cfg.Logger.Enabled(ctx, level) {
		return
	}
	if who != nil {
		attrs = append(attrs, "caller", who)
	}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	s.cfg.Logger.Log(ctx, level, message, attrs...)
}

// quiet reports whether a request that went well is worth no line: making its
// attributes would cost more than the rest.
func (s *Server) quiet(ctx context.Context) bool { return !s.cfg.Logger.Enabled(ctx, slog.LevelDebug) }

// cut keeps a stranger's text out of logs beyond a useful length.
func cut(s string) string { return s[:min(len(s), 200)] }

// writeWithin bounds writing to a caller who does not read. An error means that
// the connection cannot do deadlines: the kernel's buffer and the peer's death
// bound it then.
func (x *exchange) writeWithin(d time.Duration) {
	_ = http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(d))
}

func (x *exchange) writeProblem(e *wire.Error) {
	p := e.Problem(x.id)
	body, err := json.Marshal(p)
	if err != nil { // strings and numbers
		panic(fmt.Sprintf("localapi: problem %+v cannot be encoded: %v", p, err))
	}
	if p.Status == http.StatusServiceUnavailable {
		x.w.Header().Set("Retry-After", "1")
	}
	for _, name := range []string{"ETag", "Age", "Last-Modified"} {
		x.w.Header().Del(name)
	}
	x.w.Header().Set("Content-Type", wire.ProblemContentType)
	x.w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	x.writeWithin(WriteTimeout)
	x.w.WriteHeader(p.Status)
	_, _ = x.w.Write(append(body, '\n')) // the caller may be gone
}

// writeJSON answers with v.
func (x *exchange) writeJSON(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	x.w.Header().Set("Content-Type", "application/json")
	x.w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	x.writeWithin(WriteTimeout)
	x.w.WriteHeader(status)
	_, _ = x.w.Write(append(body, '\n')) // the caller may be gone
	return nil
}

// body reads the request's body to its end, within limit.
func (x *exchange) body(limit int64) ([]byte, error) {
	if e := x.r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, wire.Refuse(wire.MediaType, fmt.Sprintf("the content encoding %.40q is not understood; send the body as it is", e))
	}
	if x.r.ContentLength > limit {
		return nil, wire.Refuse(wire.TooLarge, fmt.Sprintf("the body has %d bytes, and the limit is %d", x.r.ContentLength, limit))
	}
	rc := http.NewResponseController(x.w)
	_ = rc.SetReadDeadline(time.Now().Add(BodyTimeout))
	var data []byte
	var err error
	in := http.MaxBytesReader(x.w, x.r.Body, limit)
	if n := x.r.ContentLength; n >= 0 {
		data = make([]byte, n)
		_, err = io.ReadFull(in, data)
		if err == nil { // to the end of the body, so that net/http watches the connection
			_, err = in.Read(make([]byte, 1))
			if errors.Is(err, io.EOF) {
				err = nil
			}
		}
	} else {
		data, err = io.ReadAll(in)
	}
	_ = rc.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, wire.Refuse(wire.TooLarge, fmt.Sprintf("the body has more than %d bytes, which is the limit", limit))
	case err != nil:
		return nil, invalidf("the body could not be read to its end")
	}
	return data, nil
}

// noBody refuses a body that the row would not read: an idempotency key that is
// sent in one, and not in its header, must not go unnoticed. An empty object says
// nothing, and some libraries always send one.
func (x *exchange) noBody() error {
	if x.r.ContentLength == 0 || !x.row.bare && x.row.method != http.MethodGet && x.row.method != http.MethodDelete {
		return nil
	}
	data, err := x.body(wire.MaxJSONBytes)
	if err != nil {
		return err
	}
	if text := strings.Join(strings.Fields(string(data)), ""); text != "" && text != "{}" {
		return invalidf("the request takes no body: what there is to say stands in the path, the query and the headers")
	}
	return nil
}

// decode reads a JSON body into v. curl sends forms unless told otherwise, and
// is a fine client.
func (x *exchange) decode(v any) error { return x.decodeWithin(v, wire.MaxJSONBytes) }

// decodeValues is decode of a body that may have a value in it, in base64 or as text.
func (s *Server) decodeValues(x *exchange, v any) error {
	return x.decodeWithin(v, int64(base64.StdEncoding.EncodedLen(int(s.cfg.MaxValueBytes)))+wire.MaxJSONBytes)
}

func (x *exchange) decodeWithin(v any, limit int64) error {
	if t := x.r.Header.Get("Content-Type"); t != "" {
		media, params, err := mime.ParseMediaType(t)
		utf8 := params["charset"] == "" || strings.EqualFold(params["charset"], "utf-8")
		if err != nil || !utf8 || media != "application/json" && media != "application/x-www-form-urlencoded" {
			return wire.Refuse(wire.MediaType, fmt.Sprintf("the body must be application/json and not %.80q", t))
		}
	}
	data, err := x.body(limit)
	if err != nil {
		return err
	}
	return invalid(wire.DecodeWithin(data, v, limit))
}

// ask is Server.do for a handler; a refusal is an error.
func (s *Server) ask(x *exchange, req *replication.Request) (*replication.Answer, error) {
	_, a, err := s.do(x.r.Context(), x.who, req, 0)
	if err != nil {
		return nil, err
	}
	if e := wire.ErrorOfAnswer(a); e != nil {
		return a, e
	}
	return a, nil
}

// idSource makes request ids: unique within this process and not guessable from
// another's.
type idSource struct {
	prefix string
	next   *atomic.Uint64
}

func newIDSource() idSource {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return idSource{prefix: hex.EncodeToString(b[:]) + "-", next: new(atomic.Uint64)}
}

func (s *Server) newID() string { return s.ids.prefix + strconv.FormatUint(s.ids.next.Add(1), 36) }

// requestID takes the caller's id when it is fit for a log.
func (s *Server) requestID(r *http.Request) string {
	id := r.Header.Get(requestIDHeader)
	odd := strings.IndexFunc(id, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.'
	})
	if id == "" || len(id) > 64 || odd >= 0 {
		return s.newID()
	}
	return id
}
