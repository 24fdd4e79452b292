package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kahu-sh/kahu/agent"
	"github.com/kahu-sh/kahu/agent/config"
	"github.com/kahu-sh/kahu/localapi/client"
	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
	"github.com/kahu-sh/kahu/localapi/token"
)

// dev is an agent in memory with Kahuna's listener on a port of its own.
func dev(t *testing.T, set func(*config.File)) (cfg config.Config, listening string, stop func()) {
	t.Helper()
	cfg = load(t, func(f *config.File) {
		f.Dev, f.DataDir, f.AllowVolatile = true, "", false
		f.KahunaListen = []string{"127.0.0.1:0"}
		set(f)
	})
	stop = start(t, cfg)
	c := client.New(client.Options{Socket: cfg.Socket})
	defer c.Close()
	s, err := c.Status(t.Context())
	if err != nil || s.Kahuna == nil || len(s.Kahuna.Listen) != 1 {
		t.Fatalf("status %+v, %v", s.Kahuna, err)
	}
	return cfg, s.Kahuna.Listen[0], stop
}

func dial(t *testing.T, target string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func setKey(ctx context.Context, conn *grpc.ClientConn, key, value string) (*pb.GrpcTrySetKeyValueResponse, error) {
	return pb.NewKeyValuerClient(conn).TrySetKeyValue(ctx, &pb.GrpcTrySetKeyValueRequest{Key: key, Value: []byte(value),
		Durability: pb.GrpcKeyValueDurability_PERSISTENT, Flags: pb.GrpcKeyValueFlags_SET})
}

func post(t *testing.T, c *http.Client, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// What one way in writes, all others read: gRPC and REST, TCP and the socket, and
// kahu's own API.
func TestKahunaWireIsEverywhere(t *testing.T) {
	cfg, addr, _ := dev(t, func(f *config.File) { f.KahunaInsecure = true })
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	overTCP := dial(t, addr, insecure.NewCredentials())
	set, err := setKey(ctx, overTCP, "k", "v")
	if err != nil || set.Type != pb.GrpcKeyValueResponseType_TYPE_SET {
		t.Fatalf("set over TCP: %v, %v", set, err)
	}
	if got := set.GetRoute().GetEndpoint(); got != "http://"+addr {
		t.Errorf("the hint names %q, want http://%s", got, addr)
	}
	for name, conn := range map[string]*grpc.ClientConn{
		"the socket": dial(t, "unix:"+cfg.Socket, insecure.NewCredentials()),
		"TLS":        dial(t, addr, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})),
	} {
		got, err := pb.NewKeyValuerClient(conn).TryGetKeyValue(ctx, &pb.GrpcTryGetKeyValueRequest{Key: "k", Revision: -1, Durability: pb.GrpcKeyValueDurability_PERSISTENT})
		if err != nil || string(got.Value) != "v" {
			t.Errorf("read over %s: %v, %v", name, got, err)
		}
	}
	unix := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", cfg.Socket)
	}}}
	defer unix.CloseIdleConnections()
	defer http.DefaultClient.CloseIdleConnections()
	const ask = `{"key":"k","revision":-1,"durability":1}`
	for name, got := range map[string]func() (int, string){
		"REST over TCP": func() (int, string) {
			return post(t, http.DefaultClient, "http://"+addr+"/v1/kv/try-get", ask, "Authorization", "Bearer xxx")
		},
		"REST over the socket": func() (int, string) { return post(t, unix, "http://kahu/v1/kv/try-get", ask) },
	} {
		if code, body := got(); code != 200 || !strings.Contains(body, `"value":"dg=="`) {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	own := client.New(client.Options{Socket: cfg.Socket})
	defer own.Close()
	if e, err := own.KVGet(ctx, "k", client.ReadOptions{}); err != nil || string(e.Value) != "v" {
		t.Errorf("kahu's own API: %q, %v", e.Value, err)
	}
	res, err := unix.Get("http://kahu/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	metrics, err := io.ReadAll(res.Body)
	for _, want := range []string{
		`kahu_kahuna_requests_total{method="/KeyValuer/TrySetKeyValue",result="OK",transport="grpc"} 1`,
		`kahu_kahuna_requests_total{method="/v1/kv/try-get",result="200",transport="rest"} 2`,
	} {
		if err != nil || !bytes.Contains(metrics, []byte(want)) {
			t.Errorf("the metrics do not say %s, %v", want, err)
		}
	}
}

// With tokens, nobody else; a probe may ask all the same.
func TestKahunaWireByToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	text, _, err := token.Create(path, token.Entry{Name: "ci", Allow: []string{"write"}, Prefixes: []string{"ci/"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg, addr, _ := dev(t, func(f *config.File) { f.KahunaTokenFile = path })
	conn := dial(t, addr, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))
	with := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+text)
	if set, err := setKey(with, conn, "ci/1", "v"); err != nil || set.Type != pb.GrpcKeyValueResponseType_TYPE_SET {
		t.Errorf("within the token's prefix: %v, %v", set, err)
	}
	if _, err := setKey(with, conn, "other", "v"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("outside of the token's prefix: %v", err)
	}
	if _, err := setKey(t.Context(), conn, "ci/1", "v"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without the token: %v", err)
	}
	if err := token.Revoke(path, "ci"); err != nil {
		t.Fatal(err)
	}
	for { // the file is looked at within a second
		// One that was let in just before is judged by rules that are gone by then.
		if _, err = setKey(with, conn, "ci/1", "v"); err != nil && status.Code(err) != codes.PermissionDenied {
			break
		}
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("with a revoked token: %v", err)
	}
	probe := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer probe.CloseIdleConnections()
	res, err := probe.Get("https://" + addr + "/v1/cluster/health")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("a probe was answered %d", res.StatusCode)
	}
	if code, _ := post(t, probe, "https://"+addr+"/v1/kv/try-get", "{}"); code != http.StatusUnauthorized {
		t.Errorf("REST without a token was answered %d", code)
	}
	c := client.New(client.Options{Socket: cfg.Socket})
	defer c.Close()
	s, err := c.Status(t.Context())
	if err != nil || s.Kahuna.Insecure || s.Kahuna.TokenFile != path || len(s.Kahuna.CertificateSHA256) != 64 || !strings.HasPrefix(s.Kahuna.Advertise, "https://") {
		t.Errorf("status %+v, %v", s.Kahuna, err)
	}
}

// An agent that stops answers what is in flight on its streams, over TCP and on
// the socket, and takes no more.
func TestKahunaStreamsEndWithTheAgent(t *testing.T) {
	cfg, addr, stop := dev(t, func(f *config.File) { f.KahunaInsecure = true })
	var streams []grpc.BidiStreamingClient[pb.GrpcBatchClientKeyValueRequest, pb.GrpcBatchClientKeyValueResponse]
	for _, target := range []string{addr, "unix:" + cfg.Socket} {
		st, err := pb.NewKeyValuerClient(dial(t, target, insecure.NewCredentials())).BatchClientKeyValueRequests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for id := range int32(100) {
			if err := st.Send(&pb.GrpcBatchClientKeyValueRequest{Type: pb.GrpcClientBatchType_TRY_GET_KEY_VALUE, RequestId: id,
				Payload: &pb.GrpcBatchClientKeyValueRequest_TryGetKeyValue{TryGetKeyValue: &pb.GrpcTryGetKeyValueRequest{Key: "k", Revision: -1}}}); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			if _, err := st.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		streams = append(streams, st)
	}
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	for i, st := range streams {
		if _, err := st.Recv(); status.Code(err) != codes.Unavailable || errors.Is(err, io.EOF) {
			t.Errorf("stream %d ended with %v, want Unavailable", i, err)
		}
	}
	<-stopped
}

// The warning that everybody is trusted is in the log and in the status.
func TestKahunaInsecureIsLoud(t *testing.T) {
	cfg := load(t, func(f *config.File) {
		f.Dev, f.DataDir, f.AllowVolatile = true, "", false
		f.KahunaListen, f.KahunaInsecure = []string{"0"}, true
	})
	var log lockedBuffer
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	o := options(func() { close(ready) })
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	go func() { ended <- agent.Run(ctx, cfg, o) }()
	<-ready
	c := client.New(client.Options{Socket: cfg.Socket})
	defer c.Close()
	s, err := c.Status(t.Context())
	if err != nil || !s.Kahuna.Insecure || len(s.Kahuna.Warnings) != 1 {
		t.Errorf("status %+v, %v", s.Kahuna, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "kahuna-insecure") {
		t.Errorf("the log does not warn:\n%s", log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
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

// A port that is taken is one line that says what to do.
func TestKahunaPortTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cfg := load(t, func(f *config.File) {
		f.Dev, f.DataDir, f.AllowVolatile = true, "", false
		f.KahunaListen, f.KahunaInsecure = []string{"127.0.0.1:0", ln.Addr().String()}, true
	})
	err = agent.Run(t.Context(), cfg, options(func() {}))
	if err == nil || !strings.Contains(err.Error(), "--kahuna-listen") || !strings.Contains(err.Error(), "address already in use") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v, want one line about --kahuna-listen", err)
	}
}
