package kahuna_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/btree"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/grpchttp"
	"github.com/kahu-sh/kahu/localapi/kahuna"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// A future that hashicorp/raft never answers when it stops between handing an
		// entry over and applying it.
		goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// rows is a Store in memory.
type rows struct{ m btree.Map[string, []byte] }

func (s *rows) Get(key []byte) ([]byte, bool) { return s.m.Get(string(key)) }
func (s *rows) Put(key, value []byte)         { s.m.Set(string(key), bytes.Clone(value)) }
func (s *rows) PutFresh(key, value []byte)    { s.m.Set(string(key), bytes.Clone(value)) }
func (s *rows) Delete(key []byte)             { s.m.Delete(string(key)) }
func (s *rows) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		s.m.Ascend(string(from), func(k string, v []byte) bool {
			return (to == nil || k < string(to)) && yield([]byte(k), v)
		})
	}
}

func (s *rows) ScanReverse(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		var all [][2][]byte
		for k, v := range s.Scan(from, to) {
			all = append(all, [2][]byte{k, bytes.Clone(v)})
		}
		for _, row := range slices.Backward(all) {
			if !yield(row[0], row[1]) {
				return
			}
		}
	}
}

var session = []byte("0123456789abcdef")

// startMS is the wall clock at the begin of each test.
const startMS = 1_700_000_000_000

// quorum is a Coordinator over a state machine of one, with a clock that only the
// test moves.
type quorum struct {
	mu      sync.Mutex
	store   rows
	machine *statemachine.Machine
	index   uint64
	number  uint64
	elapsed time.Duration
	// broken answers instead of the machine when it is set and returns true.
	broken func(context.Context, *replication.Request) (*replication.Answer, error, bool)
}

func newQuorum(tb testing.TB) *quorum {
	q := &quorum{}
	var err error
	if q.machine, err = statemachine.New(&q.store); err != nil {
		tb.Fatal(err)
	}
	for _, req := range []*replication.Request{
		{Op: &replication.Request_Opening{Opening: &replication.Opening{Node: "n1"}}},
		{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: statemachine.CurrentLevel}}},
		{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{Id: session, Host: "h", Node: "n1", TtlMs: 1 << 40}}},
	} {
		a, err := q.commit(req)
		if err != nil || a.GetCode() != replication.Code_CODE_OK {
			tb.Fatal(a, err)
		}
	}
	return q
}

func (q *quorum) commit(req *replication.Request) (*replication.Answer, error) {
	q.index++
	entry, err := statemachine.EncodeEntry(&replication.LogEntry{Format: 1, Level: statemachine.CurrentLevel, Term: 1,
		LeaseClockNs: int64(time.Second + q.elapsed), WallMs: startMS + q.elapsed.Milliseconds(), Requests: []*replication.Request{req}})
	if err != nil {
		return nil, err
	}
	res := q.machine.Apply(q.index, 1, entry)
	if res.Diverged != nil || len(res.Answers) != 1 {
		return nil, fmt.Errorf("apply %v: %v, %d answers", req, res.Diverged, len(res.Answers))
	}
	return res.Answers[0], nil
}

// advance moves all clocks, and lets the machine see it.
func (q *quorum) advance(d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.elapsed += d
	if _, err := q.commit(&replication.Request{Op: &replication.Request_Sweep{Sweep: &replication.Sweep{}}}); err != nil {
		panic(err)
	}
}

func (q *quorum) setBroken(f func(context.Context, *replication.Request) (*replication.Answer, error, bool)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.broken = f
}

func (q *quorum) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	q.mu.Lock()
	broken := q.broken
	q.mu.Unlock()
	if broken != nil {
		if a, err, is := broken(ctx, req); is {
			return a, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w (%w)", replication.ErrUnavailable, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if req.IsRead() {
		return statemachine.Read(&q.store, req), nil
	}
	if req.TakesReceipt() {
		q.number++
		req.Session, req.Number, req.DoneBelow = session, q.number, q.number
	}
	return q.commit(req)
}

func (q *quorum) Watch(ctx context.Context, _ []byte, _ func(*replication.Event)) error {
	<-ctx.Done()
	return ctx.Err()
}

// agent is a Cluster that says what the test wants.
type agent struct {
	mu   sync.Mutex
	url  string
	here bool
	view kahuna.View
	left kahuna.Left
}

func (a *agent) Leader() (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.url, a.here
}

func (a *agent) View() kahuna.View {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.view
}

func (a *agent) Leave(context.Context) kahuna.Left {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left
}

// threeVoters is an agent that leads two others.
func threeVoters() *agent {
	return &agent{url: "https://127.0.0.1:8082", here: true, view: kahuna.View{Initialized: true, Ready: true, Version: 3,
		Endpoint: "10.0.0.1:7400", URL: "https://127.0.0.1:8082", Role: kahuna.Voter, Members: []kahuna.Member{
			{Node: "n1", Endpoint: "10.0.0.1:7400", URL: "https://127.0.0.1:8082", Role: kahuna.Voter, Leader: true},
			{Node: "n2", Endpoint: "10.0.0.2:7400", Role: kahuna.Voter},
			{Node: "n3", Endpoint: "10.0.0.3:7400", Role: kahuna.Learner},
		}}}
}

// everything is a policy that lets root do everything and uid 1000 what the test
// of the policy says.
func everything(tb testing.TB) *policy.Policy {
	p, err := policy.New([]policy.Rule{
		{UIDs: []uint32{0}, Allow: []policy.Verb{policy.Admin}},
		{UIDs: []uint32{1000}, Prefixes: []string{"mine/"}, Allow: []policy.Verb{policy.Read, policy.Write, policy.Lock, policy.Sequence}},
		{UIDs: []uint32{1001}, Prefixes: []string{"mine/"}, Allow: []policy.Verb{policy.Read}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// transport is how a Service is reached over a socket.
type transport string

const (
	native  transport = "grpc.Server"
	nethttp transport = "grpchttp"
)

// rig is one Service behind a socket.
type rig struct {
	tb      testing.TB
	service *kahuna.Service
	addr    string
	uid     uint32
}

// newRig serves cfg, whose empty fields get what suits a test.
func newRig(tb testing.TB, tr transport, cfg kahuna.Config) *rig {
	tb.Helper()
	if cfg.Policy == nil {
		cfg.Policy = everything(tb)
	}
	if cfg.Cluster == nil {
		cfg.Cluster = threeVoters()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := kahuna.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &rig{tb: tb, service: s, addr: ln.Addr().String()}
	stop := r.serveNative
	if tr == nethttp {
		stop = r.serveHTTP
	}
	end := stop(ln)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			tb.Error(err)
		}
		end()
	})
	return r
}

// who is the caller of every request: as if by its uid on the socket.
func (r *rig) who(ctx context.Context) context.Context {
	return caller.With(ctx, &caller.Caller{UID: r.uid, PID: 7, Command: "test"})
}

type withContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s withContext) Context() context.Context { return s.ctx }

func (r *rig) serveNative(ln net.Listener) func() {
	g := grpc.NewServer(grpc.MaxRecvMsgSize(r.service.MaxMessageBytes()),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(r.who(ctx), req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, withContext{ss, r.who(ss.Context())})
		}))
	r.service.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(ln) }()
	return func() {
		g.Stop()
		if err := <-done; err != nil {
			r.tb.Error(err)
		}
	}
}

func (r *rig) serveHTTP(ln net.Listener) func() {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP1(true)
	g := grpchttp.New(grpchttp.Config{Logger: slog.New(slog.DiscardHandler), MaxMessageBytes: r.service.MaxMessageBytes()})
	r.service.Register(g)
	h := &http.Server{Protocols: &p, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		g.ServeHTTP(w, req.WithContext(r.who(req.Context())))
	}), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan error, 1)
	go func() { done <- h.Serve(ln) }()
	return func() {
		h.Close()
		<-done
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			r.tb.Error(err)
		}
	}
}

// dial opens one connection to the rig, as a client of Kahuna's would.
func (r *rig) dial() *grpc.ClientConn {
	r.tb.Helper()
	cc, err := grpc.NewClient("passthrough:///"+r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		r.tb.Fatal(err)
	}
	r.tb.Cleanup(func() { cc.Close() })
	return cc
}

// call carries out the rpc whose request type req is.
func call(ctx context.Context, cc *grpc.ClientConn, req proto.Message) (proto.Message, error) {
	for _, desc := range services {
		for _, m := range desc.Methods {
			in, out := types(string(desc.ServiceName), m.MethodName)
			if in.Descriptor() == req.ProtoReflect().Descriptor() {
				answer := out.New().Interface()
				err := cc.Invoke(ctx, "/"+desc.ServiceName+"/"+m.MethodName, req, answer)
				return answer, err
			}
		}
	}
	return nil, fmt.Errorf("no rpc takes a %T", req)
}

var services = []*grpc.ServiceDesc{&pb.Locker_ServiceDesc, &pb.KeyValuer_ServiceDesc, &pb.Sequencer_ServiceDesc,
	&pb.Cluster_ServiceDesc, &pb.Backups_ServiceDesc}

// eventually waits for ok, and fails with what when it does not come.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("this did not come true: %s", what)
		}
		<-tick.C
	}
}

func short(m proto.Message) string { return strings.TrimPrefix(fmt.Sprintf("%T", m), "*kahunapb.Grpc") }
