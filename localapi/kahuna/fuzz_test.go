package kahuna_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/grpchttp"
	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// complaints is a log whose errors fail the test: a panic that was caught is one.
type complaints struct {
	slog.Handler
	tb testing.TB
}

func (c complaints) Enabled(context.Context, slog.Level) bool { return true }

func (c complaints) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		r.Attrs(func(a slog.Attr) bool { c.tb.Error(r.Message, a); return true })
	}
	return nil
}

// fuzzed answers one gRPC request with any body and returns the response.
func fuzzed(t *testing.T, path string, body []byte) *http.Response {
	log := slog.New(complaints{slog.DiscardHandler, t})
	s, err := kahuna.New(kahuna.Config{Coordinator: newQuorum(t), Policy: everything(t), Cluster: threeVoters(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	g := grpchttp.New(grpchttp.Config{Logger: log, MaxMessageBytes: s.MaxMessageBytes()})
	s.Register(g)
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.ProtoMajor, r.Proto = 2, "HTTP/2.0"
	r.Header.Set("Content-Type", "application/grpc")
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r.WithContext(caller.With(t.Context(), &caller.Caller{})))
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	res := w.Result()
	if res.Header.Get("Grpc-Status") == "" && res.Trailer.Get("Grpc-Status") == "" {
		t.Errorf("%s: the response has no status: %v %v", path, res.Header, res.Trailer)
	}
	return res
}

// frames puts gRPC's head before each message.
func frames(messages ...[]byte) []byte {
	var b []byte
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint32(append(b, 0), uint32(len(m))), m...)
	}
	return b
}

func encoded(tb testing.TB, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// FuzzUnary sends any bytes as the request of any rpc.
func FuzzUnary(f *testing.F) {
	var paths []string
	for _, desc := range services {
		for _, m := range desc.Methods {
			paths = append(paths, "/"+desc.ServiceName+"/"+m.MethodName)
		}
		for _, m := range desc.Streams {
			paths = append(paths, "/"+desc.ServiceName+"/"+m.StreamName)
		}
	}
	for i, path := range paths {
		f.Add(uint8(i), []byte{})
		for _, s := range stories() {
			for _, st := range s.steps {
				if st.req == nil {
					continue
				}
				for _, desc := range services {
					for _, m := range desc.Methods {
						if in, _ := types(desc.ServiceName, m.MethodName); "/"+desc.ServiceName+"/"+m.MethodName == path &&
							in.Descriptor() == st.req.ProtoReflect().Descriptor() {
							f.Add(uint8(i), encoded(f, st.req))
						}
					}
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		fuzzed(t, paths[int(which)%len(paths)], frames(body))
	})
}

// FuzzBatch sends any bytes on a batch stream: whole messages, hostile ids and
// types, and a stream that ends anywhere.
func FuzzBatch(f *testing.F) {
	kv := func(r *pb.GrpcBatchClientKeyValueRequest) []byte { return encoded(f, r) }
	setOne := kv(&pb.GrpcBatchClientKeyValueRequest{Type: 1, RequestId: 1, Payload: &pb.GrpcBatchClientKeyValueRequest_TrySetKeyValue{TrySetKeyValue: set("k", "v")}})
	f.Add(false, frames(setOne, setOne))
	f.Add(false, frames(setOne)[:9])
	f.Add(false, []byte{1, 0, 0, 0, 0})
	f.Add(false, []byte{0, 255, 255, 255, 255})
	f.Add(false, frames(kv(&pb.GrpcBatchClientKeyValueRequest{Type: -7, RequestId: -1 << 31})))
	f.Add(false, frames(kv(&pb.GrpcBatchClientKeyValueRequest{Type: 15, Payload: &pb.GrpcBatchClientKeyValueRequest_Frame{
		Frame: &pb.GrpcBatchClientKeyValueRequestFrame{Items: []*pb.GrpcBatchClientKeyValueRequest{{Type: 1}, {Type: 15}, {}}}}})))
	f.Add(false, frames(kv(&pb.GrpcBatchClientKeyValueRequest{Type: 7, Payload: &pb.GrpcBatchClientKeyValueRequest_TryExecuteTransactionScript{
		TryExecuteTransactionScript: &pb.GrpcTryExecuteTransactionScriptRequest{Script: []byte("FOR x IN 1..9 DO SET `k` x END")}}})))
	f.Add(true, frames(encoded(f, &pb.GrpcBatchClientLockRequest{Type: 1, RequestId: 3, Payload: &pb.GrpcBatchClientLockRequest_TryLock{
		TryLock: &pb.GrpcTryLockRequest{Resource: "r", Owner: []byte("o"), ExpiresMs: 1}}})))
	f.Add(true, frames(encoded(f, &pb.GrpcBatchClientLockRequest{Type: 9}), []byte{8}))
	f.Fuzz(func(t *testing.T, locks bool, body []byte) {
		path := pb.KeyValuer_BatchClientKeyValueRequests_FullMethodName
		if locks {
			path = pb.Locker_BatchClientLockRequests_FullMethodName
		}
		res := fuzzed(t, path, body)
		out, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		for len(out) > 0 { // whole answers
			if len(out) < 5 || len(out) < 5+int(binary.BigEndian.Uint32(out[1:])) {
				t.Fatalf("the answers end within one: %x", out)
			}
			out = out[5+int(binary.BigEndian.Uint32(out[1:])):]
		}
	})
}
