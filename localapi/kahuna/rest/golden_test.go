package rest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/kahuna/rest"
)

var update = flag.Bool("update", false, "rewrite testdata/golden from what the code does")

// A golden case is a block of lines:
//
//	# where the rule comes from
//	POST /v1/locks/try-lock
//	{the request's body}
//	> Method {the rpc that follows from it}     none: nothing is asked
//	< {what the rpc answers}, or: error CODE text [outcome=NAME]
//	= STATUS {the answer's body}
type golden struct {
	rule, method, path, body, rpc, reply, answer string
}

func readGolden(t *testing.T, file string) []golden {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []golden
	for block := range strings.SplitSeq(string(data), "\n\n") {
		var c golden
		lines := bufio.NewScanner(strings.NewReader(block))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "# "):
				c.rule += line[2:] + "\n"
			case strings.HasPrefix(line, "> "):
				c.rpc = line[2:]
			case strings.HasPrefix(line, "< "):
				c.reply = line[2:]
			case strings.HasPrefix(line, "= "):
				c.answer = line[2:]
			case c.method == "":
				c.method, c.path, _ = strings.Cut(line, " ")
			default:
				c.body = line
			}
		}
		if c.method == "" {
			continue
		}
		if c.rule == "" {
			t.Errorf("%s: %s %s %s does not say which rule it follows", file, c.method, c.path, c.body)
		}
		cases = append(cases, c)
	}
	return cases
}

func (c golden) String() string {
	var b strings.Builder
	for line := range strings.Lines(c.rule) {
		b.WriteString("# " + line)
	}
	fmt.Fprintf(&b, "%s %s\n", c.method, c.path)
	for _, line := range []struct{ mark, text string }{{"", c.body}, {"> ", c.rpc}, {"< ", c.reply}, {"= ", c.answer}} {
		if line.text != "" {
			b.WriteString(line.mark + line.text + "\n")
		}
	}
	return b.String()
}

// serve serves a Handler on a Unix socket, and returns clients for HTTP/1.1 and
// for HTTP/2 by prior knowledge.
func serve(t testing.TB, svc rest.Service, maxBody int64) map[string]*http.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "rest") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	h := rest.New(rest.Config{Service: svc, Logger: slog.New(slog.DiscardHandler), MaxBodyBytes: maxBody})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(caller.With(r.Context(), caller.OfNobody("test"))))
	}),
		Protocols: protocols, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }() // ended by Close below
	clients := make(map[string]*http.Client)
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		var p http.Protocols
		p.SetHTTP1(!h2)
		p.SetUnencryptedHTTP2(h2)
		clients[name] = &http.Client{Transport: &http.Transport{Protocols: &p,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", ln.Addr().String())
			}}}
	}
	t.Cleanup(func() {
		for _, c := range clients {
			c.CloseIdleConnections()
		}
		_ = server.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return clients
}

var elapsed = regexp.MustCompile(`"timeElapsedMs":\d+`)

// compact takes out what protojson puts in to keep people from comparing it.
func compact(t *testing.T, m proto.Message) string {
	t.Helper()
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var codeNames = map[string]codes.Code{"Unavailable": codes.Unavailable, "PermissionDenied": codes.PermissionDenied, "Internal": codes.Internal,
	"ResourceExhausted": codes.ResourceExhausted, "FailedPrecondition": codes.FailedPrecondition, "NotFound": codes.NotFound,
	"InvalidArgument": codes.InvalidArgument, "Unimplemented": codes.Unimplemented, "Unauthenticated": codes.Unauthenticated,
	"AlreadyExists": codes.AlreadyExists, "DeadlineExceeded": codes.DeadlineExceeded, "Canceled": codes.Canceled}

// run sends one case and returns what the rpc was and what came back.
func (c golden) run(t *testing.T, svc *scripted, client *http.Client, proto_ string) (rpc, answer string) {
	t.Helper()
	if strings.HasPrefix(c.path, "/v1/cluster/health") && c.reply != "" { // no rpc
		if err := json.Unmarshal([]byte(c.reply), &svc.health); err != nil {
			t.Fatal(err)
		}
	}
	svc.set(func(ctx context.Context, method string, req, res proto.Message) error {
		if rpc != "" {
			rpc += " "
		}
		rpc += method + " " + compact(t, req)
		if text, failed := strings.CutPrefix(c.reply, "error "); failed {
			code, text, _ := strings.Cut(text, " ")
			if text, outcome, has := strings.Cut(text, " outcome="); has {
				_ = grpc.SetTrailer(ctx, metadata.Pairs("kahuna-backup-outcome", outcome))
				return status.Error(codeNames[code], text)
			}
			return status.Error(codeNames[code], text)
		}
		if c.reply == "" {
			return nil
		}
		return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(c.reply), res)
	})
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	req, err := http.NewRequestWithContext(t.Context(), c.method, "http://kahuna"+c.path, body)
	if err != nil {
		t.Fatal(err)
	}
	if c.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer xxx")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.Proto != proto_ {
		t.Errorf("served by %s, want %s", res.Proto, proto_)
	}
	text := strconv.Itoa(res.StatusCode) + " " + elapsed.ReplaceAllString(string(data), `"timeElapsedMs":0`)
	if o := res.Header.Get("X-Kahuna-Backup-Outcome"); o != "" {
		text += " outcome=" + o
	}
	return rpc, text
}

func TestGolden(t *testing.T) {
	svc := new(scripted)
	clients := serve(t, svc, 0)
	files, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden files: %v %v", files, err)
	}
	shown := map[string]bool{}
	for _, file := range files {
		cases := readGolden(t, file)
		for i := range cases {
			c := &cases[i]
			path, _, _ := strings.Cut(c.path, "?")
			shown[c.method+" "+regexp.MustCompile(`^/v1/backups/[^/]+/chain$`).ReplaceAllString(path, "/v1/backups/{id}/chain")] = true
			for name, client := range clients {
				rpc, answer := c.run(t, svc, client, name)
				if *update {
					c.rpc, c.answer = rpc, answer
					continue
				}
				if rpc != c.rpc {
					t.Errorf("%s, %s %s %s over %s asks for\n%s\nwant\n%s", filepath.Base(file), c.method, c.path, c.body, name, rpc, c.rpc)
				}
				if answer != c.answer {
					t.Errorf("%s, %s %s %s over %s answers\n%s\nwant\n%s", filepath.Base(file), c.method, c.path, c.body, name, answer, c.answer)
				}
			}
		}
		if *update {
			var b strings.Builder
			for i, c := range cases {
				if i > 0 {
					b.WriteString("\n")
				}
				b.WriteString(c.String())
			}
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, r := range rest.Routes() {
		if !shown[r] {
			t.Errorf("%s is in no golden file", r)
		}
	}
	if slices.Contains(rest.Routes(), "") {
		t.Error("a route without a path")
	}
}
