// Package cloud lists hosts by asking a cloud's API, in the notation of
// hashicorp/go-discover: "provider=k8s namespace=kahu label_selector=app=kahu".
//
// It promises plain HTTPS with the credentials that the host itself has (a
// service account, an instance's identity), bounded answers, and errors that
// say which request failed. The main type is Query.
//
// # Why not go-discover
//
// Its four providers that matter bring the vendors' SDKs: measured in November
// 2026, they make a binary 36 MB larger, and Kubernetes' alone spends 5 ms and
// 2 MB at the start of every process, that of `kahu exec` among them. What is
// asked here is one list.
//
// # Differences from go-discover
//
// Credentials come from the host only, not from keys in the string: those would
// be seen by ps. Providers other than k8s, aws, gce and azure are not known.
package cloud

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Query is a list of hosts to ask for.
type Query struct {
	provider string
	args     map[string]string
	env      Environment
}

// Environment is where a Query is asked. The zero value is the real one; tests
// set it.
type Environment struct {
	Client *http.Client
	// Getenv and ReadFile are os's.
	Getenv   func(string) string
	ReadFile func(string) ([]byte, error)
	// Metadata replaces the address of an instance's metadata service, API that of
	// the cloud's API: scheme and host.
	Metadata, API string
	Now           func() time.Time
}

// provider is a row of the table of what can be asked.
type provider struct {
	args     []string // that it knows
	required []string
	hosts    func(q *Query, ctx context.Context) ([]string, error)
}

var providers = map[string]provider{
	"k8s":   {args: []string{"namespace", "label_selector", "field_selector", "host_network"}, hosts: (*Query).k8s},
	"aws":   {args: []string{"region", "tag_key", "tag_value", "addr_type"}, required: []string{"tag_key", "tag_value"}, hosts: (*Query).aws},
	"gce":   {args: []string{"project_name", "tag_value", "zone_pattern"}, required: []string{"tag_value"}, hosts: (*Query).gce},
	"azure": {args: []string{"subscription_id", "resource_group", "tag_name", "tag_value"}, required: []string{"tag_name", "tag_value"}, hosts: (*Query).azure},
}

// Parse reads "provider=NAME key=value …". A value with spaces stands in double
// quotes; only the first "=" of a pair counts.
func Parse(text string) (*Query, error) {
	args, err := pairs(text)
	if err != nil {
		return nil, err
	}
	q := &Query{provider: args["provider"], args: args}
	delete(args, "provider")
	p, ok := providers[q.provider]
	if !ok {
		return nil, fmt.Errorf("the provider %.40q is not known: it is k8s, aws, gce or azure", q.provider)
	}
	for key := range args {
		if !slices.Contains(p.args, key) {
			return nil, fmt.Errorf("provider=%s has no %.40q: it knows %s", q.provider, key, strings.Join(p.args, ", "))
		}
	}
	for _, key := range p.required {
		if args[key] == "" {
			return nil, fmt.Errorf("provider=%s needs %s", q.provider, key)
		}
	}
	return q, nil
}

// pairs splits the notation.
func pairs(text string) (map[string]string, error) {
	args := map[string]string{}
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
		key, after, ok := strings.Cut(rest, "=")
		if !ok || key == "" || strings.ContainsAny(key, " \t\"") {
			return nil, fmt.Errorf("%.60q is not key=value", rest)
		}
		var value string
		if quoted, isQuoted := strings.CutPrefix(after, `"`); isQuoted {
			value, rest, ok = strings.Cut(quoted, `"`)
			if !ok {
				return nil, fmt.Errorf("the quotes of %.40q do not end", key)
			}
			if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
				return nil, fmt.Errorf("after the quotes of %.40q comes %.20q", key, rest)
			}
		} else if end := strings.IndexAny(after, " \t"); end >= 0 {
			value, rest = after[:end], after[end:]
		} else {
			value, rest = after, ""
		}
		if _, twice := args[key]; twice {
			return nil, fmt.Errorf("%.40q is there twice", key)
		}
		args[key] = value
	}
	return args, nil
}

// In returns the query asked in another environment.
func (q *Query) In(e Environment) *Query {
	return &Query{provider: q.provider, args: q.args, env: e}
}

// Hosts asks for the list: addresses, with a port where the cloud names one.
func (q *Query) Hosts(ctx context.Context) ([]string, error) {
	asked := *q
	asked.env.complete()
	hosts, err := providers[q.provider].hosts(&asked, ctx)
	if err != nil {
		return nil, fmt.Errorf("asking %s for hosts: %w", q.provider, err)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), nil
}

// maxAnswerBytes bounds one answer.
const maxAnswerBytes = 16 << 20

// maxPages bounds how often a list is continued.
const maxPages = 50

// fetch sends a request and returns the body of an answer of 200.
func (q *Query) fetch(ctx context.Context, r *http.Request) ([]byte, error) {
	answer, err := q.env.Client.Do(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer of %s: %w", r.URL.Host, err)
	case len(body) > maxAnswerBytes:
		return nil, fmt.Errorf("the answer of %s has more than %d bytes", r.URL.Host, maxAnswerBytes)
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s: %.200q", r.URL.Host, answer.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// getJSON reads what is at url.
func (q *Query) getJSON(ctx context.Context, url string, header map[string]string, into any) error {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	body, err := q.fetch(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the answer of %s is no JSON that is understood: %w", r.URL.Host, err)
	}
	return nil
}
