package kahuna

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
)

// clientPingEvery is the least time between two pings of a client, idle ones
// included. .NET's ping every 30 s; gRPC's own default would end them for it.
const clientPingEvery = 5 * time.Second

// ServerOptions are those that a grpc.Server needs for Register: Kahuna's ping
// rules, the limit of one message, and the codec of this package.
func (s *Service) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(s.cfg.MaxMessageBytes),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPingEvery, PermitWithoutStream: true}),
	}
}

// codec is protobuf by generated code. Messages are decoded in place: strings and
// bytes point into the buffer that was received, which is theirs alone.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, is := v.(envelope)
	if !is {
		return nil, fmt.Errorf("%T is no message of Kahuna's wire", v)
	}
	size := m.SizeVT()
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := m.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, is := v.(envelope)
	if !is {
		return fmt.Errorf("%T is no message of Kahuna's wire", v)
	}
	return m.UnmarshalVTUnsafe(data.Materialize())
}

// grpcWire is a batch stream of a grpc.Server.
type grpcWire[Req, Resp any] struct {
	stream grpc.BidiStreamingServer[Req, Resp]
}

func (w *grpcWire[Req, Resp]) recv() (*Req, error) { return w.stream.Recv() }

func (w *grpcWire[Req, Resp]) send(out []*Resp) error {
	for _, r := range out {
		if err := w.stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}

// abort: gRPC ends both when the handler returns, and not before.
func (w *grpcWire[Req, Resp]) abort() bool { return true }
