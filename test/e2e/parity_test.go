package e2e_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/test/cluster"
)

// What kahuna-cli does with one command, kahu does with one command. A line of the
// story is a command of kahuna-cli, that of kahu, and what it says; what cannot be
// asked of one partition has no line.
var parity = []struct{ kahuna, kahu, says string }{
	{"--set orders/1 --value hello", "kv set orders/1 hello", `^revision 0$`},
	{"--set orders/2 --value hi --expires 900000", "kv set orders/2 hi --ttl 15m", `^revision 0$`},
	{"--get orders/1", "kv get orders/1", `^hello$`},
	{"--extend orders/2 --expires 1800000", "kv extend orders/2 30m", `^revision 0$`},
	{"(script) SET orders/1/lines '7'", "kv set orders/1/lines 7", `^revision 0$`},
	{"--get-by-prefix orders", "kv ls orders --bucket", `(?s)orders/1 .*orders/2 `},
	{"--scan-by-prefix orders", "kv ls orders", `(?s)orders/1 .*orders/1/lines .*orders/2 `},
	{"(script) GET orders/1 AT 0", "kv get orders/1 --revision 0", `^hello$`},
	{"(script) EXISTS orders/1", "kv exists orders/1", `^revision 0$`},
	{"(script) DELETE orders/1", "kv del orders/1", `^revision 1$`},

	{"--lock backup --expires 60000", "lock try backup --ttl 1m --owner me", `fencing token 0`},
	{"(shell) get-lock backup", "lock info backup", `(?s)backup \(persistent\).*fencing token +0`},
	{"--extend-lock backup --owner me --expires 120000", "lock extend backup 2m --owner me", `fencing token 0`},
	{"--unlock backup --owner me", "lock unlock backup --owner me", `^unlocked$`},
	{"(shell) elock backup 60000", "lock try backup --ttl 1m --owner me --ephemeral", `fencing token 0`},
	{"(shell) eget-lock backup", "lock info backup --ephemeral", `(?s)backup \(ephemeral\).*fencing token +0`},
	{"(shell) eextend-lock backup 120000", "lock extend backup 2m --owner me --ephemeral", `fencing token 0`},
	{"(shell) eunlock backup", "lock unlock backup --owner me --ephemeral", `^unlocked$`},

	{"--create-sequence invoices --initial-value 10 --increment 2 --max-value 100", "seq create invoices --initial 10 --increment 2 --maximum 100 --block-size 1", `(?s)current +10\b.*block size 1`},
	{"--get-sequence invoices", "seq get invoices", `(?s)current +10\n.*increment +2\n.*maximum +100`},
	{"--next-sequence invoices --idempotency-key o7", "seq next invoices --idempotency-key o7", `^12$`},
	{"--next-sequence invoices --idempotency-key o7", "seq next invoices --idempotency-key o7", `^12$`},
	{"--reserve-sequence invoices --count 5", "seq reserve invoices 5", `^14 22$`},
	{"(kahuna-ts) updateSequence", "seq update invoices --current 50 --no-maximum --no-block-size", `(?s)current +50\n.*maximum +-`},
	{"--delete-sequence invoices", "seq del invoices", `^deleted$`},

	{"(kahuna-ts) acquireSnapshotHold", "snapshot hold export --as-of 1700000000123.4 --lease 1h", `^hold [0-9a-f]{32} as of 1700000000123\.4 for 1h`},
	{"(kahuna-ts) getSnapshotFloor", "snapshot ls", `(?s)HOLD.*export +1700000000123\.4`},

	{"--register-key-range orders", "keyspace register orders", `^registered$`},
	{"--register-key-range orders", "keyspace register orders", `^registered, as before$`},
	{"--ranges", "keyspace ls", `(?s)KEY SPACE\norders`},
	{"--unregister-key-range orders", "keyspace unregister orders", `^unregistered$`},

	{"--cluster-members", "cluster members", `voter`},
	{"--cluster-placement", "status", `(?m)^role `},
}

func TestWhatKahunaCLIDoes(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1, Proxies: 1})
	proxy := c.Proxies()[0]
	for _, row := range parity {
		if got := must(t, proxy, strings.Fields(row.kahu)...); !regexp.MustCompile(row.says).MatchString(got) {
			t.Errorf("kahuna-cli %s\nkahu %s says\n%s\nwhich does not match %s", row.kahuna, row.kahu, got, row.says)
		}
	}
	// A hold is renewed and released by the id that it showed.
	id := strings.Fields(must(t, proxy, "snapshot", "hold", "export", "--as-of", "1700000000123.4"))[1]
	if got := must(t, proxy, "snapshot", "renew", id, "--lease", "2h"); !strings.Contains(got, "for 2h") {
		t.Errorf("a renewal says %q", got)
	}
	if got := must(t, proxy, "snapshot", "release", id); got != "released" {
		t.Errorf("a release says %q", got)
	}
	if s := kahu(t, proxy, "snapshot", "release", id); s.code != 2 {
		t.Errorf("what was released is released again: %d %s", s.code, s.err)
	}
	// Old values, by time: what was deleted above is still there before that.
	first := must(t, proxy, "kv", "history", "orders/1", "--output", "json")
	at := regexp.MustCompile(`"revision":0,.*?"modified":"([^"]+)"`).FindStringSubmatch(first)
	if at == nil {
		t.Fatalf("the history of orders/1 is %s", first)
	}
	if got := must(t, proxy, "kv", "get", "orders/1", "--as-of", at[1]); got != "hello" {
		t.Errorf("as of %s it reads %q", at[1], got)
	}
	if s := kahu(t, proxy, "kv", "get", "orders/1"); s.code != 2 {
		t.Errorf("what was deleted reads %d %q", s.code, s.out)
	}
}
