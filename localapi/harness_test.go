package localapi_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/btree"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/statemachine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
			all = append(all, [2][]byte{k, v})
		}
		for _, row := range slices.Backward(all) {
			if !yield(row[0], row[1]) {
				return
			}
		}
	}
}

var session = []byte("0123456789abcdef")

// quorum is a Coordinator over a state machine of one, with a clock that stands.
type quorum struct {
	mu      sync.Mutex
	store   rows
	machine *statemachine.Machine
	index   uint64
	number  uint64
	last    *replication.Request
	passed  time.Duration // on its clock since the start
	// broken answers instead of the machine when it is set.
	broken func(context.Context, *replication.Request) (*replication.Answer, error)
}

func newQuorum(tb testing.TB) *quorum {
	q := &quorum{}
	var err error
	if q.machine, err = statemachine.New(&q.store); err != nil {
		tb.Fatal(err)
	}
	q.apply(tb, &replication.Request{Op: &replication.Request_Opening{Opening: &replication.Opening{Node: "n1"}}})
	q.apply(tb, &replication.Request{Op: &replication.Request_SetLevel{SetLevel: &replication.SetLevel{Level: statemachine.CurrentLevel}}})
	q.apply(tb, &replication.Request{Op: &replication.Request_SessionOpen{SessionOpen: &replication.SessionOpen{
		Id: session, Host: "h", Node: "n1", TtlMs: 1 << 40}}})
	return q
}

func (q *quorum) apply(tb testing.TB, req *replication.Request) *replication.Answer {
	a, err := q.commit(req)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func (q *quorum) commit(req *replication.Request) (*replication.Answer, error) {
	q.index++
	entry, err := statemachine.EncodeEntry(&replication.LogEntry{Format: 1, Level: statemachine.CurrentLevel, Term: 1,
		LeaseClockNs: int64(time.Second + q.passed), WallMs: 1_700_000_000_000 + q.passed.Milliseconds(), Requests: []*replication.Request{req}})
	if err != nil {
		return nil, err
	}
	res := q.machine.Apply(q.index, 1, entry)
	if res.Diverged != nil || len(res.Answers) != 1 {
		return nil, fmt.Errorf("apply %v: %v, %d answers", req, res.Diverged, len(res.Answers))
	}
	return res.Answers[0], nil
}

// pass lets time go by.
func (q *quorum) pass(d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.passed += d
}

func (q *quorum) setBroken(f func(context.Context, *replication.Request) (*replication.Answer, error)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.broken = f
}

func (q *quorum) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	q.mu.Lock()
	broken := q.broken
	q.last = req
	if broken != nil {
		q.mu.Unlock()
		return broken(ctx, req)
	}
	defer q.mu.Unlock()
	if req.IsRead() {
		a := statemachine.Read(&q.store, req)
		if req.Stale {
			a.AgeMs = 1500
		}
		return a, nil
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

// holder is a Holder whose holds are driven by the test.
type holder struct {
	mu    sync.Mutex
	next  int
	holds []*hold
	fail  error
	came  chan *hold // every hold opened or attached
	boot  string     // what the agent calls this boot; empty: what we do
	// handed has how many pidfds came with each attached process hold.
	handed chan int
}

// forget makes every hold unknown.
func (h *holder) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holds = nil
}

func newHolder() *holder { return &holder{came: make(chan *hold, 64), handed: make(chan int, 64)} }

func (h *holder) Open(_ context.Context, req localapi.HoldRequest) (localapi.Hold, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		for _, f := range req.Pidfds {
			f.Close()
		}
		return nil, h.fail
	}
	h.next++
	one := &hold{id: fmt.Sprintf("%032x", h.next), boot: h.boot, req: req, events: make(chan localapi.HoldEvent, 16),
		acked: make(chan struct{}, 16), released: make(chan struct{}), gone: make(chan struct{}, 16)}
	h.holds = append(h.holds, one)
	h.came <- one
	return one, nil
}

func (h *holder) refuse(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = err
}

func (h *holder) Attach(_ context.Context, id string, pidfds []*os.File) (localapi.Hold, error) {
	for _, f := range pidfds {
		_ = f.Close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, one := range h.holds {
		if one.id == id {
			h.came <- one
			if one.req.Witness == localapi.WitnessProcess {
				h.handed <- len(pidfds)
			}
			return one, nil
		}
	}
	return nil, wire.Refuse(wire.NotFound, "no such hold")
}

func (h *holder) List() []localapi.HoldInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := []localapi.HoldInfo{}
	for _, one := range h.holds {
		out = append(out, localapi.HoldInfo{Hold: one.id, Lock: one.req.Lock, Durability: wire.DurabilityOf(one.req.Durability),
			State: "held", TTLMS: one.req.TTL.Milliseconds(), Witness: one.req.Witness, Connected: true, Holder: wire.HolderOf(one.req.Info)})
	}
	return out
}

func (h *holder) Find(id string) (localapi.HoldInfo, bool) {
	for _, one := range h.List() {
		if one.Hold == id {
			return one, true
		}
	}
	return localapi.HoldInfo{}, false
}

type hold struct {
	id       string
	boot     string
	req      localapi.HoldRequest
	events   chan localapi.HoldEvent
	acked    chan struct{}
	released chan struct{}
	once     sync.Once
	gone     chan struct{} // a token for each Disconnect
	ended    bool          // by Next's one caller
}

func (h *hold) ID() string { return h.id }
func (h *hold) Next(ctx context.Context) (localapi.HoldEvent, error) {
	if h.ended {
		return localapi.HoldEvent{}, io.EOF
	}
	select {
	case e := <-h.events:
		h.ended = e.Type.Last()
		return e, nil
	case <-h.released:
		h.ended = true
		return localapi.HoldEvent{Type: localapi.HoldReleased, Hold: h.id, Lock: h.req.Lock}, nil
	case <-ctx.Done():
		return localapi.HoldEvent{}, context.Cause(ctx)
	}
}
func (h *hold) Ack() { h.acked <- struct{}{} }
func (h *hold) Release(context.Context) error {
	h.once.Do(func() { close(h.released) })
	return nil
}
func (h *hold) Disconnect() {
	for _, f := range h.req.Pidfds {
		f.Close()
	}
	h.gone <- struct{}{}
}

// say delivers an event with a deadline so far away.
func (h *hold) say(t localapi.HoldEventType, token int64, deadline time.Duration) {
	e := localapi.HoldEvent{Type: t, Hold: h.id, Lock: h.req.Lock}
	switch t {
	case localapi.HoldQueued:
		e.Position = 2
	case localapi.HoldHeld, localapi.HoldRenewed, localapi.HoldAtRisk:
		e.Token = &token
		e.DeadlineBoottimeNS = int64(deadline)
		e.BootID = cmp.Or(h.boot, thisBoot())
	}
	h.events <- e
}

func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func thisBoot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(b))
}

// agent is a server on a real socket.
type agent struct {
	socket   string
	server   *localapi.Server
	quorum   *quorum
	holder   *holder
	log      *lockedBuffer
	registry *prometheus.Registry
	tcp      string
	stop     func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type tweak func(*localapi.Config)

func allowing(rules ...policy.Rule) tweak {
	return func(c *localapi.Config) {
		p, err := policy.New(rules)
		if err != nil {
			panic(err)
		}
		c.Policy = p
	}
}

func own(verbs ...policy.Verb) policy.Rule {
	return policy.Rule{UIDs: []uint32{uint32(os.Getuid())}, Allow: verbs}
}

func startAgent(tb testing.TB, tweaks ...tweak) *agent {
	tb.Helper()
	a := &agent{socket: filepath.Join(tb.TempDir(), "k.sock"), quorum: newQuorum(tb), holder: newHolder(), log: &lockedBuffer{}}
	a.serve(tb, tweaks...)
	tb.Cleanup(func() { a.stop() })
	return a
}

// serve starts a server on the socket; stop ends it.
func (a *agent) serve(tb testing.TB, tweaks ...tweak) {
	tb.Helper()
	a.registry = prometheus.NewRegistry()
	level := slog.LevelDebug
	if _, bench := tb.(*testing.B); bench {
		level = slog.LevelError
	}
	cfg := localapi.Config{Coordinator: a.quorum, Holder: a.holder, Policy: policy.Default(uint32(os.Getuid()), nil),
		Status: func() wire.Status {
			return wire.Status{Node: "n1", Host: "host1", Role: "voter", Version: "test", Socket: "/k.sock", Ready: true, Leader: "n1"}
		},
		Registry: a.registry, Logger: slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: level})),
		Boottime: boottime, BootID: thisBoot(), Host: "host1", Node: "n1"}
	for _, t := range tweaks {
		t(&cfg)
	}
	var err error
	if a.server, err = localapi.New(cfg); err != nil {
		tb.Fatal(err)
	}
	ln, err := caller.Listen(a.socket, caller.ListenOptions{GID: -1, Open: true})
	if err != nil {
		tb.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	a.tcp = tcp.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := a.server.Serve(ln); err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	serving.Go(func() {
		if err := a.server.ServeTCP(tcp); err != nil {
			tb.Errorf("ServeTCP: %v", err)
		}
	})
	a.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := a.server.Close(ctx); err != nil {
			tb.Errorf("Close: %v", err)
		}
		serving.Wait()
	})
}

// http is an HTTP client of the socket; closed with the test.
func (a *agent) http(tb testing.TB) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", a.socket)
	}, MaxIdleConnsPerHost: 64}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (a *agent) client(tb testing.TB) *client.Client {
	c := client.New(client.Options{Socket: a.socket})
	tb.Cleanup(func() { c.Close() })
	return c
}

// ask sends one request and returns the answer with its body.
func ask(tb testing.TB, c *http.Client, method, path, body string, headers ...string) (*http.Response, string) {
	tb.Helper()
	req, err := http.NewRequest(method, "http://kahu", strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	p, q, _ := strings.Cut(path, "?")
	req.URL.Opaque = "//kahu" + p // as it is: Go would clean and escape it
	req.URL.RawQuery = q
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	return res, string(b)
}

// within waits for something that should happen at once.
func within[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	var v T
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
		tb.Fatalf("%s did not happen", what)
	}
	return v
}
