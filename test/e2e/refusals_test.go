package e2e_test

import (
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/test/cluster"
)

// What an agent refuses is said in words that tell what to do, with the exit code
// of the table (README.md).
func TestRefusalsAreClear(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	a := c.Agents[0]
	must(t, a, "kv", "set", "a", "1")
	must(t, a, "seq", "create", "s")
	must(t, a, "seq", "reserve", "s", "9")
	must(t, a, "keyspace", "register", "k")
	for _, step := range []struct {
		args string
		code int
		says string
	}{
		{"kv del nope", 2, `key "nope": there is no such key`},
		{"kv extend nope 5m", 2, `key "nope": there is no such key`},
		{"kv get a --revision 99", 2, "there is no revision 99 of this key"},
		{"lock try l --ttl 25h", 64, "the TTL 25h0m0s is above the largest"},
		{"seq update s --current 3", 64, "--allow-lower"},
		{"limit release l --owner me", 2, `the owner "me" holds no permit of "l"`},
		{"script run -e SET", 1, "-e:1:1: unexpected end of the script"},
		{"script run -e SET --output json", 1, "kahu: Syntax error"},
		{"cluster transfer-leadership", 1, "only voter"},
		{"keyspace unregister k", 0, "unregistered\n"},
		{"keyspace unregister k", 0, "unregistered, as before\n"},
	} {
		s := kahu(t, a, strings.Fields(step.args)...)
		if said := s.out + s.err; s.code != step.code || !strings.Contains(said, step.says) {
			t.Errorf("kahu %s: %d %q, want %d and %q", step.args, s.code, said, step.code, step.says)
		}
	}
}
