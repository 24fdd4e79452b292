package grpchttp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a client may send, and is told so (grpc-accept-encoding).
const (
	encodingIdentity = "identity"
	encodingGzip     = "gzip"
	acceptedEncoding = encodingGzip + "," + encodingIdentity
)

var unpackers = sync.Pool{New: func() any { return new(gzip.Reader) }}

// unpack decompresses a message into memory of its own. The limit of a message
// holds for what comes out, which may be a thousand times what went in: what is more
// than small takes room for the largest message among the large ones first. done
// gives it back.
func (c *stream) unpack(packed []byte) (p []byte, done func(), err error) {
	z := unpackers.Get().(*gzip.Reader)
	defer unpackers.Put(z)
	if err := z.Reset(bytes.NewReader(packed)); err != nil {
		return nil, nil, status.Errorf(codes.Internal, "the message is no gzip: %v", err)
	}
	most, done := c.server.cfg.MaxMessageBytes, func() {}
	out := bytes.NewBuffer(make([]byte, 0, min(4*len(packed), smallMessageBytes)))
	_, err = io.CopyN(out, z, int64(min(smallMessageBytes, most)))
	if err == nil {
		ctx, cancel := context.WithTimeout(c.ctx, largeMessageTimeout)
		defer cancel()
		if err := c.server.large.Acquire(ctx, int64(most)); err != nil {
			return nil, nil, status.Error(codes.ResourceExhausted, "too many large messages at a time")
		}
		done = sync.OnceFunc(func() { c.server.large.Release(int64(most)) })
		_, err = io.CopyN(out, z, int64(most-out.Len())+1) // one byte too many says that there are more
	}
	switch {
	case err == nil || out.Len() > most:
		done()
		return nil, nil, tooLarge("has more bytes when it is decompressed", most)
	case !errors.Is(err, io.EOF):
		done()
		return nil, nil, status.Errorf(codes.Internal, "the message is no gzip: %v", err)
	}
	return out.Bytes(), done, nil
}
