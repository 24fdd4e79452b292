package grpchttp

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// stream is one call. RecvMsg is for one goroutine at a time; SendMsg may be
// called by many.
type stream struct {
	server *Server
	method method
	w      http.ResponseWriter
	r      *http.Request
	rc     *http.ResponseController
	ctx    context.Context
	body   *bufio.Reader
	gzip   bool // messages may be compressed so

	drained atomic.Bool // by Server.Close

	// mu guards what follows. It is not held while writing.
	mu       sync.Mutex
	room     sync.Cond   // of mu: unsent was taken, or the stream broke
	unsent   []byte      // framed messages that nobody is writing yet
	spare    []byte      // for the next unsent
	writing  bool        // the writer runs; it is the only one that touches w
	sent     bool        // the response's headers are decided
	broken   error       // why nothing more can be sent
	finished bool        // the handler has returned: nothing more is sent
	ended    bool        // so has the writer: w is not to be touched
	trailers metadata.MD // from SetTrailer
	stuck    *time.Timer // runs while something is being written
	writer   sync.WaitGroup
}

var (
	_ grpc.ServerStream          = (*stream)(nil)
	_ grpc.ServerTransportStream = transport{}
)

// transport is a stream as the functions of package grpc find it in a context.
type transport struct{ *stream }

// SetTrailer implements grpc.ServerTransportStream.
func (t transport) SetTrailer(md metadata.MD) error {
	t.stream.SetTrailer(md)
	return nil
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readBufferBytes) }}

func newStream(s *Server, m method, w http.ResponseWriter, r *http.Request) *stream {
	c := &stream{server: s, method: m, w: w, r: r, rc: http.NewResponseController(w), ctx: r.Context()}
	if m.stream == nil {
		c.body = readers.Get().(*bufio.Reader)
		c.body.Reset(r.Body)
	} else { // not from the pool: its handler may leave somebody behind in RecvMsg
		c.body = bufio.NewReaderSize(r.Body, readBufferBytes)
	}
	c.room.L = &c.mu
	h := w.Header()
	h["Content-Type"] = contentTypeValue
	h["Date"] = nil           // no client of gRPC reads it
	h["Content-Length"] = nil // trailers follow
	return c
}

var contentTypeValue = []string{contentType}

// Context implements grpc.ServerStream. It ends with the call, its deadline, or
// the connection.
func (c *stream) Context() context.Context { return c.ctx }

// begin gives the call its deadline. end is called when its handler has returned.
func (c *stream) begin(timeout time.Duration) (end func()) {
	cancel := func() {}
	if timeout > 0 {
		c.ctx, cancel = context.WithTimeout(c.ctx, timeout)
	}
	c.ctx = grpc.NewContextWithServerTransportStream(c.ctx, transport{c})
	if c.method.stream == nil {
		return cancel
	}
	// Reading and writing know the connection's end and not the deadline.
	stop := context.AfterFunc(c.ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.finished {
			c.breakWith(c.ctx.Err())
			_ = c.rc.SetReadDeadline(past()) // an error: it has ended already
		}
	})
	return func() {
		stop()
		cancel()
	}
}

// past is a deadline that is over.
func past() time.Time { return time.Now().Add(-time.Hour) }

// SendMsg implements grpc.ServerStream. It blocks while too much is unsent. m may
// be reused when it returns.
func (c *stream) SendMsg(m any) error {
	c.mu.Lock()
	for c.broken == nil && !c.finished && len(c.unsent) >= maxUnsentBytes {
		c.room.Wait()
	}
	if c.broken != nil || c.finished {
		defer c.mu.Unlock()
		return cmp.Or(c.broken, errFinished)
	}
	if c.unsent == nil {
		c.unsent, c.spare = c.spare, nil
	}
	framed, err := appendFramed(c.unsent, m)
	if err != nil {
		c.mu.Unlock()
		return status.Errorf(codes.Internal, "encode the answer: %v", err)
	}
	c.unsent, c.sent = framed, true
	if !c.writing {
		c.writing = true
		c.watch()
		c.writer.Go(c.write) // ends when nothing is unsent; finish waits for it
	}
	c.mu.Unlock()
	c.server.cfg.Observer.Message(c.method.path, false)
	return nil
}

// keepBytes is the largest buffer that is kept for the next write.
const keepBytes = 64 << 10

// write writes until nothing is unsent. What is sent meanwhile goes with the next
// round: that is what makes a burst one write.
func (c *stream) write() {
	for {
		c.mu.Lock()
		batch := c.unsent
		if len(batch) == 0 || c.broken != nil {
			c.writing = false
			c.stuck.Stop()
			c.mu.Unlock()
			return
		}
		c.unsent = nil
		c.room.Broadcast()
		c.mu.Unlock()
		_, err := c.w.Write(batch)
		if err == nil {
			err = c.rc.Flush()
		}
		c.mu.Lock()
		c.watch()
		if err != nil {
			c.breakWith(err)
		}
		if cap(batch) <= keepBytes {
			c.spare = batch[:0]
		}
		c.mu.Unlock()
	}
}

// watch resets this stream when its peer reads nothing for a time; the connection
// and its other streams live on. It needs mu.
func (c *stream) watch() {
	if c.stuck != nil {
		c.stuck.Reset(c.server.cfg.WriteTimeout)
		return
	}
	c.stuck = time.AfterFunc(c.server.cfg.WriteTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.writing && !c.ended { // a handler that has given up waits for its writer in finish
			c.breakWith(errUnread)
			_ = c.rc.SetWriteDeadline(past()) // an error: it has ended already
		}
	})
}

var (
	errUnread   = errors.New("the peer did not read it in time")
	errFinished = status.Error(codes.Canceled, "the call has ended")
)

// breakWith ends sending. It needs mu.
func (c *stream) breakWith(err error) {
	if c.broken == nil {
		c.broken = status.Errorf(codes.Canceled, "the stream broke: %v", err)
		if ctxErr := c.ctx.Err(); ctxErr != nil {
			c.broken = status.FromContextError(ctxErr).Err()
		}
	}
	c.room.Broadcast()
}

// answer sends the one message of a unary call. Headers, message and trailers
// leave together when the call is finished.
func (c *stream) answer(m any) error {
	framed, err := appendFramed(nil, m)
	if err != nil {
		return status.Errorf(codes.Internal, "encode the answer: %v", err)
	}
	c.mu.Lock()
	c.sent, c.writing = true, true
	if len(framed) > smallMessageBytes { // it may wait for the peer to read
		c.watch()
	}
	c.mu.Unlock()
	_, _ = c.w.Write(framed) // the peer is gone, and so is who would hear of it
	return nil
}

// finish waits for what was sent, and ends the response with the status of err.
func (c *stream) finish(err error) codes.Code {
	c.mu.Lock()
	c.finished = true
	c.room.Broadcast()
	c.mu.Unlock()
	c.writer.Wait()
	if c.method.stream == nil {
		c.body.Reset(nil)
		readers.Put(c.body)
	}
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.stuck != nil {
		c.stuck.Stop()
	}
	h, prefix := c.w.Header(), ""
	if c.sent {
		prefix = http.TrailerPrefix
	}
	h[prefix+"Grpc-Status"] = []string{strconv.Itoa(int(st.Code()))}
	if st.Message() != "" {
		h[prefix+"Grpc-Message"] = []string{encodeMessage(st.Message())}
	}
	if p := st.Proto(); len(p.GetDetails()) > 0 {
		if details, err := proto.Marshal(p); err == nil {
			h[prefix+"Grpc-Status-Details-Bin"] = []string{base64.RawStdEncoding.EncodeToString(details)}
		}
	}
	addMetadata(h, prefix, c.trailers)
	return st.Code()
}

// drain makes RecvMsg return io.EOF when what has arrived is read.
func (c *stream) drain() {
	c.drained.Store(true)
	_ = c.rc.SetReadDeadline(past()) // an error: it has ended already
}

// Method implements grpc.ServerTransportStream.
func (c *stream) Method() string { return c.method.path }

// SetHeader implements grpc.ServerStream.
func (c *stream) SetHeader(md metadata.MD) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent {
		return errors.New("grpchttp: headers were sent already")
	}
	addMetadata(c.w.Header(), "", md)
	return nil
}

// SendHeader implements grpc.ServerStream. On a stream the headers leave at once,
// on a unary call with the answer.
func (c *stream) SendHeader(md metadata.MD) error {
	if err := c.SetHeader(md); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = true
	if c.method.stream == nil {
		return nil
	}
	c.w.WriteHeader(http.StatusOK)
	return c.rc.Flush()
}

// SetTrailer implements grpc.ServerStream.
func (c *stream) SetTrailer(md metadata.MD) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trailers = metadata.Join(c.trailers, md)
}

// addMetadata leaves out what belongs to the transport.
func addMetadata(h http.Header, prefix string, md metadata.MD) {
	for key, values := range md {
		lower := strings.ToLower(key)
		if strings.HasPrefix(lower, "grpc-") || strings.HasPrefix(lower, ":") || lower == "content-type" || lower == "te" {
			continue
		}
		for _, v := range values {
			if strings.HasSuffix(lower, "-bin") {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			h.Add(prefix+key, v)
		}
	}
}

// parseTimeout reads a grpc-timeout: at most 8 digits and a unit.
func parseTimeout(text string) (time.Duration, error) {
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
	if len(text) < 2 || len(text) > 9 {
		return 0, fmt.Errorf("the timeout %.20q is not 1 to 8 digits and a unit", text)
	}
	unit, known := units[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if !known || err != nil {
		return 0, fmt.Errorf("the timeout %.20q is not 1 to 8 digits and a unit", text)
	}
	if n > uint64(maxTimeout/unit) {
		return maxTimeout, nil
	}
	return max(time.Duration(n)*unit, time.Nanosecond), nil // 0 is over at once, and not none
}

// maxTimeout is as good as none, and far from overflowing.
const maxTimeout = 365 * 24 * time.Hour
