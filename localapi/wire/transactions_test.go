package wire_test

import (
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

func TestTxNames(t *testing.T) {
	secret := wire.NewTxSecret()
	if other := wire.NewTxSecret(); len(secret) != 32 || secret == other {
		t.Errorf("secrets %s and %s", secret, other)
	}
	for name, want := range map[string]string{
		"1700000000000-5-" + secret: secret, "1700000000000-4294967295": "", "1-0-a-b": "a-b",
	} {
		id, got, err := wire.ParseTxName(name)
		if err != nil || got != want || wire.TxName(id, got) != name {
			t.Errorf("%s: %v, %q, %v", name, id, got, err)
		}
	}
	for _, name := range []string{"", "-", "5", "5-", "5-5-", "-5-5", "0-5", "5-4294967296", "x-5", "5-x", "1-1-" + strings.Repeat("a", 65)} {
		if id, secret, err := wire.ParseTxName(name); err == nil {
			t.Errorf("%q is %v, %q", name, id, secret)
		}
	}
}

func TestTxNext(t *testing.T) {
	resume := "r"
	for _, c := range []struct {
		e    *replication.Entries
		want string
	}{
		{nil, ""},
		{&replication.Entries{Entries: []*replication.Entry{{Key: "a"}}}, ""},
		{&replication.Entries{Entries: []*replication.Entry{{Key: "a"}}, More: true}, "a"},
		{&replication.Entries{Resume: &resume, More: true}, "r"},
		{&replication.Entries{More: true}, ""},
	} {
		if got := wire.TxNext(c.e); got != c.want {
			t.Errorf("%v: %q, want %q", c.e, got, c.want)
		}
	}
}

// FuzzTxName: what can be read names one transaction, and is written so that it is
// read as the same one again.
func FuzzTxName(f *testing.F) {
	for _, seed := range []string{"1700000000000-5-0123456789abcdef0123456789abcdef", "1-0", "01-00", "+1-0", "", "1--"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		id, secret, err := wire.ParseTxName(name)
		if err != nil {
			return
		}
		again, same, err := wire.ParseTxName(wire.TxName(id, secret))
		if err != nil || same != secret || again.PhysicalMs != id.PhysicalMs || again.Counter != id.Counter {
			t.Errorf("%q: %v %q, then %v %q, %v", name, id, secret, again, same, err)
		}
	})
}
