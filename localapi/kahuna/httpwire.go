package kahuna

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// Handler serves gRPC on an HTTP/2 server of net/http, so that one port takes it
// beside REST, also on one connection. Requests are those whose Content-Type
// begins with "application/grpc" (IsGRPC).
//
// Batch streams are framed here, many answers a write: gRPC's own handler
// transport flushes each, which costs more than twice as much of the processor
// (13 µs a message against under 6). Everything else goes through a grpc.Server.
func (s *Service) Handler() http.Handler {
	server := grpc.NewServer(s.ServerOptions()...)
	s.Register(server)
	mux := http.NewServeMux()
	mux.Handle("/", server)
	mux.HandleFunc("POST "+pb.Locker_BatchClientLockRequests_FullMethodName, func(w http.ResponseWriter, r *http.Request) {
		serveHTTPBatch[pb.GrpcBatchClientLockRequest, pb.GrpcBatchClientLockResponse](s, w, r, lockBatch{s})
	})
	mux.HandleFunc("POST "+pb.KeyValuer_BatchClientKeyValueRequests_FullMethodName, func(w http.ResponseWriter, r *http.Request) {
		serveHTTPBatch[pb.GrpcBatchClientKeyValueRequest, pb.GrpcBatchClientKeyValueResponse](s, w, r, kvBatch{s})
	})
	return mux
}

// IsGRPC reports whether a request is for Handler.
func IsGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// message is a pointer to T that is an envelope.
type message[T any] interface {
	*T
	envelope
}

// serveHTTPBatch serves one batch stream of net/http.
func serveHTTPBatch[Req, Resp any, PReq message[Req], PResp message[Resp]](s *Service, w http.ResponseWriter, r *http.Request, h handler[PReq, PResp]) {
	if subtype := strings.TrimPrefix(r.Header.Get("Content-Type"), "application/grpc"); r.ProtoMajor != 2 ||
		subtype != "" && subtype != "+proto" && !strings.HasPrefix(subtype, ";") {
		http.Error(w, "this is gRPC with protobuf over HTTP/2", http.StatusUnsupportedMediaType)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/grpc")
	rc := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	// At once: clients take a stream for open, and do not open it again, once they
	// have the head. An error shows in the first write.
	_ = rc.Flush()
	wire := &httpWire[Req, Resp, PReq, PResp]{w: w, rc: rc, body: r.Body, in: bufio.NewReaderSize(r.Body, smallReadBytes),
		limit: s.cfg.MaxMessageBytes, compressed: r.Header.Get("Grpc-Encoding")}
	st := status.Convert(serveBatch(r.Context(), s, wire, h))
	header.Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(int(st.Code())))
	if m := st.Message(); m != "" {
		header.Set(http.TrailerPrefix+"Grpc-Message", percentEncode(m))
	}
}

// smallReadBytes and largeReadBytes are the read buffers of a stream that is
// mostly idle, and of one that was seen full: each read of a body costs the
// server's loop a turn.
const (
	smallReadBytes = 4 << 10
	largeReadBytes = 32 << 10
	// frameHead is the flag and the length before each gRPC message.
	frameHead = 5
	// maxSpareBytes is the largest buffer that a stream keeps for its next answers.
	maxSpareBytes = 64 << 10
	// growReadBytes bounds what is set aside for a message of which little has come.
	growReadBytes = 64 << 10
)

// httpWire is a batch stream of net/http.
type httpWire[Req, Resp any, PReq message[Req], PResp message[Resp]] struct {
	w          http.ResponseWriter
	rc         *http.ResponseController
	body       io.Reader
	in         *bufio.Reader
	limit      int    // of one message, in bytes
	compressed string // Grpc-Encoding of the requests
	out        []byte // of the writer alone
}

// recv implements wire.
func (c *httpWire[Req, Resp, PReq, PResp]) recv() (PReq, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = status.Error(codes.Internal, "the stream ends within a message")
		}
		return nil, err
	}
	if c.in.Size() == smallReadBytes && c.in.Buffered() > smallReadBytes/2 {
		come, _ := c.in.Peek(c.in.Buffered()) // never fails
		c.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(come)), c.body), largeReadBytes)
	}
	size := int64(binary.BigEndian.Uint32(head[1:]))
	switch {
	case head[0] == 1:
		return nil, status.Errorf(codes.Unimplemented, "messages with the encoding %.40q are not understood; send them as they are", c.compressed)
	case head[0] != 0:
		return nil, status.Errorf(codes.Internal, "a message begins with %d", head[0])
	case size > int64(c.limit):
		return nil, status.Errorf(codes.ResourceExhausted, "the message has %d bytes, and the limit is %d", size, c.limit)
	}
	data, err := readMessage(c.in, int(size))
	if err != nil {
		return nil, status.Error(codes.Internal, "the stream ends within a message")
	}
	req := PReq(new(Req))
	if err := req.UnmarshalVTUnsafe(data); err != nil {
		return nil, status.Errorf(codes.Internal, "the message cannot be decoded: %v", err)
	}
	return req, nil
}

// readMessage reads size bytes. The memory of a large message grows with what has
// come: announcing one costs nothing, so holding room for it must not either.
func readMessage(in io.Reader, size int) ([]byte, error) {
	if size <= growReadBytes {
		data := make([]byte, size)
		_, err := io.ReadFull(in, data)
		return data, err
	}
	data := make([]byte, 0, growReadBytes)
	for len(data) < size {
		if len(data) == cap(data) {
			data = slices.Grow(data, min(cap(data), size-len(data)))
		}
		n, err := in.Read(data[len(data):min(cap(data), size)])
		data = data[:len(data)+n]
		if err != nil && len(data) < size {
			return nil, err
		}
	}
	return data, nil
}

// send implements wire.
func (c *httpWire[Req, Resp, PReq, PResp]) send(answers []PResp) error {
	for _, a := range answers {
		size := a.SizeVT()
		if len(c.out) > 0 && len(c.out)+frameHead+size > maxSpareBytes {
			if err := c.flush(); err != nil {
				return err
			}
		}
		at := len(c.out)
		c.out = slices.Grow(c.out, frameHead+size)[:at+frameHead+size]
		c.out[at] = 0
		binary.BigEndian.PutUint32(c.out[at+1:], uint32(size))
		if _, err := a.MarshalToSizedBufferVT(c.out[at+frameHead:]); err != nil {
			return fmt.Errorf("encode an answer: %w", err)
		}
	}
	return c.flush()
}

func (c *httpWire[Req, Resp, PReq, PResp]) flush() error {
	_, err := c.w.Write(c.out)
	if err == nil {
		err = c.rc.Flush()
	}
	c.out = c.out[:0]
	if cap(c.out) > maxSpareBytes {
		c.out = nil
	}
	if err != nil {
		return status.Error(codes.Canceled, "the client has gone")
	}
	return nil
}

// abort implements wire: it resets the stream.
func (c *httpWire[Req, Resp, PReq, PResp]) abort() bool {
	_ = c.rc.SetWriteDeadline(time.Unix(1, 0)) // net/http's HTTP/2 can
	_ = c.rc.SetReadDeadline(time.Unix(1, 0))
	return false
}

// percentEncode writes a status message as gRPC has it in a header.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
