package kahuna

import "google.golang.org/grpc"

// grpcWire is a batch stream of a gRPC server.
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
