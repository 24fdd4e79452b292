package cloud_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/discovery/cloud"
)

func TestParse(t *testing.T) {
	for text, says := range map[string]string{
		"provider=k8s": "",
		"provider=k8s label_selector=app=kahu,tier=db":            "",
		`provider=k8s label_selector="app in (a, b)" namespace=x`: "",
		"  provider=aws   tag_key=a  tag_value=b ":                "",
		"provider=moon":                                          "k8s, aws, gce or azure",
		"namespace=x":                                            "k8s, aws, gce or azure",
		"provider=k8s color=red":                                 "knows namespace",
		"provider=aws tag_key=a":                                 "needs tag_value",
		"provider=k8s namespace=a namespace=b":                   "twice",
		"provider=k8s namespace":                                 "not key=value",
		`provider=k8s namespace="a`:                              "do not end",
		`provider=k8s namespace="a"b`:                            "after the quotes",
		"provider=aws secret_access_key=x tag_key=a tag_value=b": "has no",
	} {
		_, err := cloud.Parse(text)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`provider=k8s label_selector="app in (a, b)" namespace=x`)
	f.Add(`= "" provider=`)
	f.Fuzz(func(t *testing.T, text string) {
		q, err := cloud.Parse(text)
		if (q == nil) == (err == nil) {
			t.Fatalf("%v, %v", q, err)
		}
	})
}

// api answers requests by "METHOD path?query", and notes what it was not asked for.
type api struct {
	t       *testing.T
	answers map[string]string
	need    map[string]string // header that each request to a path with this prefix must have
	server  *httptest.Server
}

func newAPI(t *testing.T, answers, need map[string]string) *api {
	a := &api{t: t, answers: answers, need: need}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for prefix, header := range a.need {
		name, value, _ := strings.Cut(header, ": ")
		if strings.HasPrefix(r.URL.Path, prefix) && !strings.HasPrefix(r.Header.Get(name), value) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, "%s is %q", name, r.Header.Get(name))
			return
		}
	}
	answer, ok := a.answers[r.Method+" "+r.URL.RequestURI()]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		a.t.Errorf("unexpected %s %s", r.Method, r.URL.RequestURI())
		return
	}
	fmt.Fprint(w, strings.ReplaceAll(answer, "SERVER", a.server.URL))
}

func (a *api) environment() cloud.Environment {
	return cloud.Environment{Client: a.server.Client(), Metadata: a.server.URL, API: a.server.URL,
		Getenv: func(string) string { return "" }, ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist },
		Now: func() time.Time { return time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC) }}
}

func hosts(t *testing.T, query string, e cloud.Environment) ([]string, error) {
	t.Helper()
	q, err := cloud.Parse(query)
	if err != nil {
		t.Fatal(err)
	}
	return q.In(e).Hosts(t.Context())
}

func want(t *testing.T, got []string, err error, hosts ...string) {
	t.Helper()
	if err != nil || !slices.Equal(got, hosts) {
		t.Fatalf("got %q, %v, want %q", got, err, hosts)
	}
}

func TestKubernetes(t *testing.T) {
	a := newAPI(t, map[string]string{
		"GET /api/v1/namespaces/prod/pods?labelSelector=app%3Dkahu&limit=500": `{"metadata":{"continue":"more"},"items":[
			{"status":{"phase":"Running","podIP":"10.1.0.5","hostIP":"10.0.0.5"}},
			{"status":{"phase":"Pending","podIP":"10.1.0.4"}},
			{"status":{"phase":"Succeeded","podIP":"10.1.0.9"}},
			{"metadata":{"deletionTimestamp":"2026-11-23T00:00:00Z"},"status":{"phase":"Running","podIP":"10.1.0.8"}},
			{"status":{"phase":"Pending"}}]}`,
		"GET /api/v1/namespaces/prod/pods?continue=more&labelSelector=app%3Dkahu&limit=500": `{"items":[
			{"metadata":{"annotations":{"consul.hashicorp.com/auto-join-port":"agents"}},
			 "spec":{"containers":[{"ports":[{"name":"agents","containerPort":7777}]}]},"status":{"phase":"Running","podIP":"10.1.0.6"}},
			{"metadata":{"annotations":{"consul.hashicorp.com/auto-join-port":"7350"}},"status":{"phase":"Running","podIP":"fd00::6"}}]}`,
	}, map[string]string{"/api": "Authorization: Bearer pod-token"})
	e := a.environment()
	e.ReadFile = func(path string) ([]byte, error) {
		switch {
		case strings.HasSuffix(path, "/token"):
			return []byte("pod-token\n"), nil
		case strings.HasSuffix(path, "/namespace"):
			return []byte("prod"), nil
		}
		return nil, fs.ErrNotExist
	}
	got, err := hosts(t, "provider=k8s label_selector=app=kahu", e)
	want(t, got, err, "10.1.0.4", "10.1.0.5", "10.1.0.6:7777", "[fd00::6]:7350")

	if _, err := hosts(t, "provider=k8s", a.environment()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no pod") {
		t.Fatalf("outside of a pod: %v", err)
	}
}

func TestGoogle(t *testing.T) {
	a := newAPI(t, map[string]string{
		"GET /computeMetadata/v1/project/project-id":                      "my-project",
		"GET /computeMetadata/v1/instance/service-accounts/default/token": `{"access_token":"t1"}`,
		"GET /compute/v1/projects/my-project/aggregated/instances?filter=status+%3D+RUNNING": `{"nextPageToken":"p2","items":{
			"zones/eu-1":{"instances":[{"zone":"x/zones/eu-1","tags":{"items":["kahu"]},"networkInterfaces":[{"networkIP":"10.2.0.1"}]},
			                            {"zone":"x/zones/eu-1","tags":{"items":["web"]},"networkInterfaces":[{"networkIP":"10.2.0.9"}]}]}}}`,
		"GET /compute/v1/projects/my-project/aggregated/instances?filter=status+%3D+RUNNING&pageToken=p2": `{"items":{
			"zones/us-1":{"instances":[{"zone":"x/zones/us-1","tags":{"items":["kahu"]},"networkInterfaces":[{"networkIP":"10.2.1.1"}]}]}}}`,
	}, map[string]string{"/computeMetadata": "Metadata-Flavor: Google", "/compute/": "Authorization: Bearer t1"})
	got, err := hosts(t, "provider=gce tag_value=kahu", a.environment())
	want(t, got, err, "10.2.0.1", "10.2.1.1")
	got, err = hosts(t, "provider=gce tag_value=kahu zone_pattern=eu-.*", a.environment())
	want(t, got, err, "10.2.0.1")
}

func TestAzure(t *testing.T) {
	const list = "/subscriptions/s1/providers/Microsoft.Network/networkInterfaces?api-version=2023-09-01"
	a := newAPI(t, map[string]string{
		"GET /metadata/instance/compute/subscriptionId?api-version=2021-02-01&format=text":                          "s1",
		"GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F": `{"access_token":"t2"}`,
		"GET " + list: `{"nextLink":"SERVER/next","value":[{"tags":{"kahu":"yes"},"properties":{"ipConfigurations":[{"properties":{"privateIPAddress":"10.3.0.1"}}]}}]}`,
		"GET /next": `{"value":[{"tags":{"kahu":"no"},"properties":{"ipConfigurations":[{"properties":{"privateIPAddress":"10.3.0.9"}}]}},
			{"tags":{"kahu":"yes"},"properties":{"ipConfigurations":[{"properties":{"privateIPAddress":"10.3.0.2"}}]}}]}`,
	}, map[string]string{"/metadata": "Metadata: true", "/subscriptions": "Authorization: Bearer t2", "/next": "Authorization: Bearer t2"})
	got, err := hosts(t, "provider=azure tag_name=kahu tag_value=yes", a.environment())
	want(t, got, err, "10.3.0.1", "10.3.0.2")

	a.answers["GET "+list] = `{"nextLink":"http://elsewhere.example/","value":[]}`
	if _, err := hosts(t, "provider=azure tag_name=kahu tag_value=yes", a.environment()); err == nil || !strings.Contains(err.Error(), "elsewhere") {
		t.Fatalf("a token would go elsewhere: %v", err)
	}
}

func TestAmazon(t *testing.T) {
	const query = "/?Action=DescribeInstances&Filter.1.Name=tag%3Akahu&Filter.1.Value.1=my%20cluster&Filter.2.Name=instance-state-name&Filter.2.Value.1=running&MaxResults=500"
	a := newAPI(t, map[string]string{
		"PUT /latest/api/token":                                "session",
		"GET /latest/meta-data/placement/region":               "eu-central-1",
		"GET /latest/meta-data/iam/security-credentials/":      "role1",
		"GET /latest/meta-data/iam/security-credentials/role1": `{"AccessKeyId":"AK","SecretAccessKey":"SK","Token":"T"}`,
		"GET " + query + "&Version=2016-11-15":                 `<r><nextToken>n2</nextToken><reservationSet><item><instancesSet><item><privateIpAddress>10.4.0.2</privateIpAddress><ipAddress>198.51.100.2</ipAddress></item></instancesSet></item></reservationSet></r>`,
		"GET " + query + "&NextToken=n2&Version=2016-11-15":    `<r><reservationSet><item><instancesSet><item><privateIpAddress>10.4.0.1</privateIpAddress></item></instancesSet></item></reservationSet></r>`,
	}, map[string]string{"/latest/meta-data": "X-Aws-Ec2-Metadata-Token: session"})
	got, err := hosts(t, `provider=aws tag_key=kahu tag_value="my cluster"`, a.environment())
	want(t, got, err, "10.4.0.1", "10.4.0.2")
	got, err = hosts(t, `provider=aws tag_key=kahu tag_value="my cluster" addr_type=public_v4`, a.environment())
	want(t, got, err, "198.51.100.2")
}

// The example of AWS's own documentation of Signature Version 4 (get-vanilla-query
// of its test suite).
func TestAmazonSignature(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "https://example.amazonaws.com/?Param1=value1", nil)
	cloud.Sign(r, "Param1=value1", "us-east-1", "service", "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
	const want = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, " +
		"Signature=a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"
	if got := r.Header.Get("Authorization"); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	a := newAPI(t, map[string]string{}, map[string]string{"/": "X-Never: x"})
	for _, query := range []string{"provider=gce tag_value=x", "provider=azure tag_name=a tag_value=b", "provider=aws tag_key=a tag_value=b"} {
		_, err := hosts(t, query, a.environment())
		if err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", query, err)
		}
	}
}
