package upstream_test

import (
	"net/url"
	"testing"

	"github.com/kahu-sh/kahu/replication/upstream"
)

// FuzzParseEndpoint: what is taken names a scheme, a host and a port, and nothing
// else, and is read again as it is written.
func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"https://kahuna-1:8082", "http://[::1]:2070/", "http://a:0", "http://a", "ftp://a:1", "http://u@a:1", "http://a:1?q", "http://a:1/p", "https://:1", "http://a:99999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := upstream.ParseEndpoint(s)
		if err != nil {
			return
		}
		u, err := url.Parse(got)
		if err != nil || u.Hostname() == "" || u.Port() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" {
			t.Fatalf("%q is %q (%v)", s, got, err)
		}
		if again, err := upstream.ParseEndpoint(got); err != nil || again != got {
			t.Fatalf("%q is %q, and that is %q (%v)", s, got, again, err)
		}
	})
}
