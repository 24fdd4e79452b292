package localapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
	"github.com/kahu-sh/kahu/replication/scriptrun"
)

// scripting runs scripts in all ways, as an agent does.
func scripting(c *localapi.Config) { c.Coordinator = scriptrun.New(c.Coordinator, scriptrun.Options{}) }

func TestScriptsOverHTTP(t *testing.T) {
	a := startAgent(t, scripting)
	c := a.http(t)
	for _, step := range []struct {
		body   string
		status int
		want   string // a part of the answer
	}{
		{`{"script":"SET a @v","parameters":[{"name":"v","value":"one"}]}`, 200, `{"type":"set","values":[{"key":"a","value":null,"revision":0,"modified":`},
		{`{"script":"GET a"}`, 200, `{"type":"get","values":[{"key":"a","value":"b25l","text":"one","revision":0,`},
		{`{"script":"LET v = GET a RETURN [v, 1.5, null]"}`, 200, `{"type":"get","values":[{"value":"b25l","text":"one","revision":0},{"value":"MS41","text":"1.5","revision":-1},{"value":"","text":"","revision":-1}]}`},
		{`{"script":"SET a 2 NX"}`, 200, `{"type":"not-set","values":[{"key":"a","value":null,"revision":0,`},
		{`{"script":"GET nope"}`, 200, `{"type":"does-not-exist","values":[{"key":"nope","value":null,"revision":-1}]}`},
		{`{"script":"BEGIN COMMIT END"}`, 200, `{"type":"get","values":[]}`},
		{`{"script":"RETURN @x","parameters":[{"name":"@x","value":"5"}]}`, 200, `"text":"5"`},
		{`{"script":"SLEEP 5 SET a 3"}`, 200, `{"type":"set","values":[{"key":"a","value":null,"revision":1,`},
		{`{"script":"","hash":"` + scriptrun.Hash([]byte("GET a")) + `"}`, 200, `"text":"3"`},
		{`{"script":"SET a 9 THROW \"no\""}`, 422, `"detail":"no at line 1","code":"script-failed"`},
		{`{"script":"SET"}`, 422, `"detail":"Syntax error, unexpected EOF, expecting TIDENTIFIER`},
		{`{"script":"SET a 9 ROLLBACK"}`, 409, `"detail":"Transaction aborted","code":"aborted"`},
		{`{"script":"SET a 9 EX -1"}`, 400, `"code":"invalid"`},
		{`{"script":""}`, 400, `the script is missing`},
		{`{"script":"GET a","priority":"urgent"}`, 400, `the priority is background`},
		{`{"script":"GET a","timeout":"soon"}`, 400, `the timeout is a length of time`},
		{`{"script":"GET a","fuel":5}`, 400, `unknown field`},
		{`{"script":"GET a"}`, 200, `"text":"3"`},
	} {
		res, body := ask(t, c, "POST", "/kahu/v1/scripts", step.body)
		if res.StatusCode != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s\n= %d %s\nwant %d %s", step.body, res.StatusCode, body, step.status, step.want)
		}
	}
	if res, _ := ask(t, c, "GET", "/kahu/v1/scripts", ""); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", res.StatusCode)
	}
}

func TestLimitsOverHTTP(t *testing.T) {
	a := startAgent(t, scripting)
	c := a.http(t)
	for _, step := range []struct {
		path, body string
		status     int
		want       string
		retry      string
	}{
		{"mails", `{"rate":"2/10s"}`, 200, `{"limit":"mails","granted":true,"left":1,"retry_after_ms":0}`, ""},
		{"mails", `{"rate":"2/10s"}`, 200, `{"limit":"mails","granted":true,"left":0,"retry_after_ms":0}`, ""},
		{"mails", `{"rate":"2/10s"}`, 429, `{"limit":"mails","granted":false,"left":0,"retry_after_ms":5000}`, "5"},
		{"mails", `{"rate":"2/10s","algorithm":"window"}`, 200, `"left":1`, ""},
		{"mails", `{"rate":"2/10s","durability":"persistent","permits":2}`, 200, `"left":0`, ""},
		{"a%2Fb/c", `{"rate":"1/s"}`, 200, `{"limit":"a/b/c",`, ""},
		{"mails", `{}`, 400, `is not PERMITS/PERIOD`, ""},
		{"mails", `{"rate":"1/s","permits":2}`, 400, `more than the rate`, ""},
		{"mails", `{"rate":"1/s","algorithm":"leaky"}`, 400, `is no algorithm`, ""},
	} {
		res, body := ask(t, c, "POST", "/kahu/v1/limits/"+step.path+"/take", step.body)
		if res.StatusCode != step.status || !strings.Contains(body, step.want) || res.Header.Get("Retry-After") != step.retry {
			t.Errorf("%s %s\n= %d %q %s\nwant %d %q %s", step.path, step.body, res.StatusCode, res.Header.Get("Retry-After"), body, step.status, step.retry, step.want)
		}
	}
}

func TestClientScripts(t *testing.T) {
	a := startAgent(t, scripting)
	c := a.client(t)
	ctx := context.Background()
	res, err := c.RunScript(ctx, wire.Script{Script: "SET a @v RETURN @v", Parameters: []wire.ScriptParameter{{Name: "v", Value: "1"}}})
	if err != nil || res.Type != wire.ScriptGot || len(res.Values) != 1 || string(res.Values[0].Value) != "1" {
		t.Fatalf("%+v, %v", res, err)
	}
	for text, want := range map[string]error{
		"RETURN (":         client.ErrScript,
		"THROW 'x'":        client.ErrScript,
		"SET a 1 ROLLBACK": client.ErrConflict,
		"SET a 1 EX -1":    client.ErrInvalid,
		"BEGIN (timeout=5) SLEEP 50 SET a 2 COMMIT END": client.ErrConflict,
	} {
		if _, err := c.RunScript(ctx, wire.Script{Script: text}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	if _, err := c.RunScript(ctx, wire.Script{}); !errors.Is(err, client.ErrInvalid) {
		t.Error(err)
	}
	for i := range 3 {
		out, err := c.LimitTake(ctx, "mails", "2/1h", client.LimitOptions{Permits: 1})
		if err != nil || out.Granted != (i < 2) || out.Limit != "mails" {
			t.Fatalf("take %d: %+v, %v", i, out, err)
		}
	}
	if _, err := c.LimitTake(ctx, "mails", "x", client.LimitOptions{}); !errors.Is(err, client.ErrInvalid) {
		t.Error(err)
	}
	a.quorum.setBroken(func(context.Context, *replication.Request) (*replication.Answer, error) {
		return nil, fmt.Errorf("down: %w", replication.ErrUnavailable)
	})
	if _, err := c.LimitTake(ctx, "mails", "2/1h", client.LimitOptions{Permits: 1}); !errors.Is(err, client.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := c.RunScript(ctx, wire.Script{Script: "SET a 1"}); !errors.Is(err, client.ErrUnavailable) {
		t.Error(err)
	}
}

// TestScriptsNeedAll: a script may touch any name, a limit only its own.
func TestScriptsNeedAll(t *testing.T) {
	a := startAgent(t, scripting, allowing(policy.Rule{Everyone: true, Prefixes: []string{"web/"}, Allow: policy.Verbs()}))
	c := a.client(t)
	ctx := context.Background()
	if _, err := c.RunScript(ctx, wire.Script{Script: "GET `web/a`"}); !errors.Is(err, client.ErrDenied) {
		t.Error(err)
	}
	if _, err := c.LimitTake(ctx, "web/a", "1/s", client.LimitOptions{Permits: 1}); err != nil {
		t.Error(err)
	}
	if _, err := c.LimitTake(ctx, "other", "1/s", client.LimitOptions{Permits: 1}); !errors.Is(err, client.ErrDenied) {
		t.Error(err)
	}
	if _, err := c.Do(ctx, &replication.Request{Op: &replication.Request_ScriptRead{ScriptRead: &replication.Script{Text: []byte("RETURN 1")}}}); !errors.Is(err, client.ErrDenied) {
		t.Error(err)
	}
}
