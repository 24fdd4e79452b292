package rest

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// statusOf returns the gRPC code of an error of Service, and its text.
func statusOf(err error) (codes.Code, string) {
	var known interface{ GRPCStatus() *status.Status }
	if errors.As(err, &known) { // status.FromError would show every wrapping
		return known.GRPCStatus().Code(), known.GRPCStatus().Message()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return codes.Canceled, "the request was given up"
	}
	return codes.Unknown, ""
}

// retryable reports whether nothing was decided, so that asking again is right.
func retryable(c codes.Code) bool { return c == codes.Unavailable }

// statusClientClosedRequest is what proxies log, and Kahuna answers, when nobody
// waits any more.
const statusClientClosedRequest = 499

// httpStatus is a gRPC code as an HTTP status. Clients repeat 408, 429, 502, 503
// and 504 five times over seconds, so that these stand only for what passes.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.InvalidArgument, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.FailedPrecondition, codes.ResourceExhausted:
		return http.StatusUnprocessableEntity
	case codes.Canceled:
		return statusClientClosedRequest
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

// title is a status in words.
func title(status int) string {
	if status == statusClientClosedRequest {
		return "Client Closed Request"
	}
	return http.StatusText(status)
}

// trailers keeps what Service sets as gRPC trailers during one request.
type trailers struct {
	mu sync.Mutex // Service may set them from any goroutine
	md metadata.MD
}

var _ grpc.ServerTransportStream = (*trailers)(nil)

// Method implements grpc.ServerTransportStream.
func (t *trailers) Method() string { return "" }

// SetHeader implements grpc.ServerTransportStream; headers mean nothing here.
func (t *trailers) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerTransportStream.
func (t *trailers) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerTransportStream.
func (t *trailers) SetTrailer(md metadata.MD) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.md = metadata.Join(t.md, md)
	return nil
}

// backupOutcome is the outcome's name, or empty.
func (t *trailers) backupOutcome() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v := t.md.Get(backupOutcomeTrailer); len(v) > 0 {
		return v[0]
	}
	return ""
}
