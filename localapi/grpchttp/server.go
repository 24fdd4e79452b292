package grpchttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

// Limits. What Config can change has its default here.
const (
	// DefaultMaxMessageBytes bounds a message from a client, as grpc-go does.
	DefaultMaxMessageBytes = 4 << 20
	// DefaultMaxCalls bounds calls that are being served.
	DefaultMaxCalls = 8192
	// DefaultWriteTimeout is how long a peer may leave what is written to it unread.
	DefaultWriteTimeout = 30 * time.Second
	// smallMessageBytes is what a message may have without waiting for room among
	// the large ones, of which maxLargeBytes are read at a time over all calls.
	smallMessageBytes = 64 << 10
	maxLargeBytes     = 64 << 20
	// largeMessageTimeout bounds reading one of them, the wait for room included.
	largeMessageTimeout = 30 * time.Second
	// maxUnsentBytes is what may wait to be written on one stream; then SendMsg blocks.
	maxUnsentBytes = 1 << 20
	// readBufferBytes is what one read from a stream takes at most: some tens of
	// requests, and little enough for thousands of streams that say nothing.
	readBufferBytes = 8 << 10
)

// Config is what a Server needs.
type Config struct {
	Logger *slog.Logger
	// MaxMessageBytes bounds one message from a client; a longer one is refused with
	// RESOURCE_EXHAUSTED before it is read. Optional.
	MaxMessageBytes int
	// MaxCalls bounds calls, streams included, that are served at a time; one more is
	// refused with RESOURCE_EXHAUSTED. Optional.
	MaxCalls int
	// WriteTimeout ends a stream whose peer reads nothing for so long. Optional.
	WriteTimeout time.Duration
	// Observer hears of every call. Optional. It is called concurrently and must
	// not block.
	Observer Observer
}

// Observer hears of calls. Methods are those registered, or "unknown".
type Observer interface {
	// Streaming is told +1 when a stream of that method begins and -1 when it ends.
	Streaming(method string, delta int)
	// Message is told of each message on a stream.
	Message(method string, received bool)
	// Done is told of each call.
	Done(method string, code codes.Code, took time.Duration)
}

// Server is an http.Handler for gRPC requests. RegisterService is called before
// the first request; all else may be called concurrently.
type Server struct {
	cfg     Config
	methods map[string]method // by path
	large   *semaphore.Weighted

	// mu guards what follows.
	mu      sync.Mutex
	closing bool
	running int            // calls
	calls   sync.WaitGroup // each call, while not closing
	streams map[*stream]struct{}
}

var (
	_ http.Handler          = (*Server)(nil)
	_ reflection.GRPCServer = (*Server)(nil)
)

// method is an rpc: one of unary and stream is there.
type method struct {
	path   string
	impl   any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
}

// New returns a Server without methods. It panics without a Logger.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		panic("grpchttp: Config has no Logger")
	}
	if cfg.MaxMessageBytes <= 0 {
		cfg.MaxMessageBytes = DefaultMaxMessageBytes
	}
	if cfg.MaxCalls <= 0 {
		cfg.MaxCalls = DefaultMaxCalls
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = DefaultWriteTimeout
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	return &Server{cfg: cfg, methods: make(map[string]method), streams: make(map[*stream]struct{}),
		large: semaphore.NewWeighted(max(maxLargeBytes, int64(cfg.MaxMessageBytes)))}
}

// RegisterService implements grpc.ServiceRegistrar. It panics when a method is
// registered twice.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	add := func(m method, name string) {
		m.path, m.impl = "/"+desc.ServiceName+"/"+name, impl
		if _, twice := s.methods[m.path]; twice {
			panic(fmt.Sprintf("grpchttp: method %s is registered twice", m.path))
		}
		s.methods[m.path] = m
	}
	for i := range desc.Methods {
		add(method{unary: &desc.Methods[i]}, desc.Methods[i].MethodName)
	}
	for i := range desc.Streams {
		add(method{stream: &desc.Streams[i]}, desc.Streams[i].StreamName)
	}
}

// GetServiceInfo tells package reflection what is registered.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo {
	all := make(map[string]grpc.ServiceInfo)
	for path, m := range s.methods {
		service, name, _ := strings.Cut(path[1:], "/")
		info := grpc.MethodInfo{Name: name}
		if m.stream != nil {
			info.IsClientStream, info.IsServerStream = m.stream.ClientStreams, m.stream.ServerStreams
		}
		one := all[service]
		one.Methods = append(one.Methods, info)
		all[service] = one
	}
	return all
}

// IsRequest reports whether r is a gRPC request, by its content type.
func IsRequest(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), contentType)
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

const contentType = "application/grpc"

// ServeHTTP implements http.Handler. A request that is no gRPC over HTTP/2 POST is
// answered with an HTTP status.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !IsRequest(r):
		http.Error(w, "the content type of gRPC is "+contentType, http.StatusUnsupportedMediaType)
		return
	case r.ProtoMajor != 2:
		http.Error(w, "gRPC needs HTTP/2", http.StatusHTTPVersionNotSupported)
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "gRPC is a POST", http.StatusMethodNotAllowed)
		return
	}
	start := time.Now()
	m, known := s.methods[r.URL.Path]
	c := newStream(s, m, w, r)
	err := s.serve(c, m, known)
	if !known {
		m.path = "unknown"
	}
	s.cfg.Observer.Done(m.path, c.finish(err), time.Since(start))
}

// serve runs the method and returns what it ended with.
func (s *Server) serve(c *stream, m method, known bool) error {
	if !known {
		return status.Errorf(codes.Unimplemented, "there is no method %.200q here", c.r.URL.Path)
	}
	switch e := c.r.Header.Get("Grpc-Encoding"); e {
	case "", encodingIdentity:
	case encodingGzip:
		c.gzip = true
		c.w.Header().Set("Grpc-Accept-Encoding", acceptedEncoding)
	default:
		c.w.Header().Set("Grpc-Accept-Encoding", acceptedEncoding)
		return status.Errorf(codes.Unimplemented, "messages compressed with %.40q are not understood; gzip is", e)
	}
	var timeout time.Duration
	if text := c.r.Header.Get("Grpc-Timeout"); text != "" {
		var err error
		if timeout, err = parseTimeout(text); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	end := c.begin(timeout)
	defer end()
	if err := c.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	if err := s.enter(c, m.stream != nil); err != nil {
		return err
	}
	defer s.leave(c, m.stream != nil)
	if m.stream == nil {
		return s.call(c, m)
	}
	if m.stream.ClientStreams {
		// Some clients take a stream for open, and send on it, once they have the head.
		if err := c.SendHeader(nil); err != nil {
			return status.Errorf(codes.Canceled, "the stream broke: %v", err)
		}
	}
	err := s.protect(c, func() error { return m.stream.Handler(m.impl, c) })
	if err == nil && c.drained.Load() {
		return errStopping // what the client had sent and nobody read was not done
	}
	return err
}

var (
	errStopping = status.Error(codes.Unavailable, "the agent is stopping")
	errTooMany  = status.Error(codes.ResourceExhausted, "the agent serves too many calls at a time")
)

// call is a unary method.
func (s *Server) call(c *stream, m method) error {
	var answer any
	err := s.protect(c, func() (err error) {
		answer, err = m.unary.Handler(m.impl, c.ctx, c.only, nil)
		return err
	})
	if err != nil {
		return err
	}
	return c.answer(answer)
}

// only receives the one message of a unary call.
func (c *stream) only(m any) error {
	err := c.receive(m)
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Internal, "the request has no message")
	}
	return err
}

// protect turns a panic into an error: one request must not end the agent, which
// keeps the locks of this host alive.
func (s *Server) protect(c *stream, run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.Error("a gRPC method panicked", "method", c.method.path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "a bug in the agent, which has logged it")
		}
	}()
	return run()
}

func (s *Server) enter(c *stream, streaming bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return errStopping
	case s.running >= s.cfg.MaxCalls:
		return errTooMany
	}
	s.running++
	s.calls.Add(1)
	if streaming {
		s.streams[c] = struct{}{}
		s.cfg.Observer.Streaming(c.method.path, 1)
	}
	return nil
}

func (s *Server) leave(c *stream, streaming bool) {
	s.mu.Lock()
	if streaming {
		delete(s.streams, c)
		s.cfg.Observer.Streaming(c.method.path, -1)
	}
	s.running--
	s.mu.Unlock()
	s.calls.Done()
}

// Close refuses new calls with UNAVAILABLE, lets streams find the end of what was
// sent to them, and waits until every call has ended or ctx does. Its error then
// says that calls were still under way: closing their connections ends them.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for c := range s.streams {
		c.drain()
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() { // ends with the last call, which whoever owns the connections sees to
		s.calls.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return errors.New("gRPC calls were cut off")
	}
}

// nobody is the Observer of a Server without one.
type nobody struct{}

func (nobody) Streaming(string, int)                  {}
func (nobody) Message(string, bool)                   {}
func (nobody) Done(string, codes.Code, time.Duration) {}
