package localapi_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
)

func TestLeasesOverHTTP(t *testing.T) {
	a := startAgent(t, scripting)
	c := a.http(t)
	for _, step := range []struct {
		path, body string
		pass       time.Duration // before it
		status     int
		want       string
		retry      string
	}{
		{"jobs/acquire", `{"owner":"a","limit":2,"lease":"30s"}`, 0, 200, `{"limit":"jobs","owner":"a","granted":true,"held":1,"left":1,"lease_ms":30000,"retry_after_ms":0}`, ""},
		{"jobs/acquire", `{"owner":"a","limit":2,"lease":"30s"}`, 0, 200, `"held":1,"left":1`, ""},
		{"jobs/acquire", `{"owner":"b","limit":2,"lease":"1m"}`, 0, 200, `"held":2,"left":0`, ""},
		{"jobs/acquire", `{"owner":"c","limit":2,"lease":"30s"}`, 10 * time.Second, 429, `{"limit":"jobs","owner":"c","granted":false,"held":2,"left":0,"lease_ms":0,"retry_after_ms":20000}`, "20"},
		{"jobs/renew", `{"owner":"a","lease":"30s"}`, 10 * time.Second, 200, `{"limit":"jobs","owner":"a","lease_ms":30000}`, ""},
		{"jobs/acquire", `{"owner":"c","limit":2,"lease":"30s"}`, 20 * time.Second, 429, `"retry_after_ms":10000`, "10"},
		{"jobs/acquire", `{"owner":"c","limit":2,"lease":"30s"}`, 11 * time.Second, 200, `"held":2,"left":0`, ""},
		{"jobs/renew", `{"owner":"a","lease":"30s"}`, 0, 404, `"detail":"the owner \"a\" holds no permit of \"jobs\": it was released, or its lease ended","code":"not-found"`, ""},
		{"jobs/acquire", `{"owner":"d","limit":2,"permits":2,"lease":"30s"}`, 0, 429, `"held":2,"left":0`, "9"},
		{"jobs/release", `{"owner":"c"}`, 0, 200, `{"limit":"jobs","owner":"c"}`, ""},
		{"jobs/release", `{"owner":"c"}`, 0, 404, `"code":"not-found"`, ""},
		{"jobs/acquire", `{"owner":"d","limit":2,"lease":"30s"}`, 0, 200, `"held":2,"left":0`, ""},
		{"jobs/acquire", `{"owner":"d","limit":2,"lease":"30s","durability":"persistent"}`, 0, 200, `"held":1,"left":1`, ""},
		{"jobs/release", `{"owner":"d","durability":"persistent"}`, 0, 200, `"owner":"d"`, ""},
		{"a%2Fb/c/acquire", `{"owner":"a","limit":1,"lease":"1s"}`, 0, 200, `{"limit":"a/b/c",`, ""},
		{"a/b/acquire", `{"owner":"c","limit":1,"lease":"1s"}`, 0, 200, `{"limit":"a/b",`, ""},
		{"jobs/acquire", `{"limit":2,"lease":"30s"}`, 0, 400, `the owner is empty`, ""},
		{"jobs/acquire", `{"owner":"a/b","limit":2,"lease":"30s"}`, 0, 400, `has a slash in it`, ""},
		{"jobs/acquire", `{"owner":"` + strings.Repeat("x", 257) + `","limit":2,"lease":"30s"}`, 0, 400, `the limit is 256`, ""},
		{"jobs/acquire", `{"owner":"a","lease":"30s"}`, 0, 400, `1 of 0 permits cannot be held`, ""},
		{"jobs/acquire", `{"owner":"a","limit":2,"permits":0,"lease":"30s"}`, 0, 400, `0 of 2 permits cannot be held`, ""},
		{"jobs/acquire", `{"owner":"a","limit":2}`, 0, 400, `the lease is a length of time`, ""},
		{"jobs/acquire", `{"owner":"a","limit":2,"lease":"-1s"}`, 0, 400, `the lease is a length of time`, ""},
		{"jobs/acquire", `{"owner":"a","limit":2,"lease":"9000h"}`, 0, 400, `"code":"invalid"`, ""},
		{"jobs/acquire", `{"owner":"a","limit":2,"lease":"1s","rate":"1/s"}`, 0, 400, `unknown field`, ""},
		{"jobs%2F/acquire", `{"owner":"a","limit":2,"lease":"1s"}`, 0, 400, `ends in a slash`, ""},
		{"jobs/renew", `{"owner":"b"}`, 0, 400, `the lease is a length of time`, ""},
		{"jobs/release", `{}`, 0, 400, `the owner is empty`, ""},
	} {
		a.quorum.pass(step.pass)
		res, body := ask(t, c, "POST", "/kahu/v1/limits/"+step.path, step.body)
		if res.StatusCode != step.status || !strings.Contains(body, step.want) || res.Header.Get("Retry-After") != step.retry {
			t.Errorf("%s %s\n= %d %q %s\nwant %d %q %s", step.path, step.body, res.StatusCode, res.Header.Get("Retry-After"), body, step.status, step.retry, step.want)
		}
	}
	if res, body := ask(t, c, "GET", "/kahu/v1/limits/jobs/acquire", ""); res.StatusCode != 405 {
		t.Errorf("GET: %d %s", res.StatusCode, body)
	}
}

func TestClientLeases(t *testing.T) {
	a := startAgent(t, scripting, allowing(policy.Rule{Everyone: true, Prefixes: []string{"web/"}, Allow: policy.Verbs()}))
	c := a.client(t)
	ctx := context.Background()
	o := client.LeaseOptions{Owner: "a", Limit: 1, Lease: time.Minute}
	got, err := c.LimitAcquire(ctx, "web/jobs", o)
	if want := (wire.LimitLease{Limit: "web/jobs", Owner: "a", Granted: true, Held: 1, LeaseMS: 60_000}); err != nil || got != want {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
	o.Owner = "b"
	got, err = c.LimitAcquireWait(ctx, "web/jobs", o, 0)
	if want := (wire.LimitLease{Limit: "web/jobs", Owner: "b", Held: 1, RetryAfterMS: 60_000}); err != nil || got != want {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
	if got, err := c.LimitRenew(ctx, "web/jobs", "a", 2*time.Minute, false); err != nil || got.LeaseMS != 120_000 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.LimitRenew(ctx, "web/jobs", "b", time.Minute, false); !errors.Is(err, client.ErrNotFound) {
		t.Error(err)
	}
	if err := c.LimitRelease(ctx, "web/jobs", "a", false); err != nil {
		t.Error(err)
	}
	if got, err := c.LimitAcquireWait(ctx, "web/jobs", o, time.Minute); err != nil || !got.Granted {
		t.Errorf("after the release: %+v, %v", got, err)
	}
	a.quorum.pass(61 * time.Second)
	if err := c.LimitRelease(ctx, "web/jobs", "b", false); !errors.Is(err, client.ErrNotFound) {
		t.Error(err)
	}
	if _, err := c.LimitAcquire(ctx, "web/jobs", client.LeaseOptions{Owner: "a", Limit: 1, Permits: 2, Lease: time.Minute}); !errors.Is(err, client.ErrInvalid) {
		t.Error(err)
	}
	for action, body := range map[string]string{"acquire": `{"owner":"b","limit":1,"lease":"1m"}`, "renew": `{"owner":"b","lease":"1m"}`, "release": `{"owner":"b"}`} {
		if res, body := ask(t, a.http(t), "POST", "/kahu/v1/limits/other/"+action, body); res.StatusCode != 403 {
			t.Errorf("%s: %d %s, want that it is denied", action, res.StatusCode, body)
		}
	}
	_, acquire := c.LimitAcquire(ctx, "other", o)
	_, renew := c.LimitRenew(ctx, "other", "b", time.Minute, false)
	for _, err := range []error{acquire, renew, c.LimitRelease(ctx, "other", "b", false)} {
		if !errors.Is(err, client.ErrDenied) {
			t.Errorf("%v, want that it is denied", err)
		}
	}
}
