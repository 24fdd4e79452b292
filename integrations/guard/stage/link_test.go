package stage

import (
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func pair(t interface{ Fatal(...any) }) (a, b *Link) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return newLink(fds[0]), newLink(fds[1])
}

func TestAMessageArrivesAsItWasSent(t *testing.T) {
	a, b := pair(t)
	defer a.Close()
	defer b.Close()
	rapid.Check(t, func(t *rapid.T) {
		want := Message{
			Kind: Kind(rapid.Byte().Draw(t, "kind")), BySig: rapid.Bool().Draw(t, "bySig"),
			Number: int(rapid.Int32().Draw(t, "number")), Text: rapid.StringN(-1, -1, 4000).Draw(t, "text"),
		}
		want.At = 1 << 60
		if err := a.Send(want); err != nil {
			t.Fatal(err)
		}
		got, err := b.Recv()
		if err != nil || got != want {
			t.Fatalf("got %+v (%v), want %+v", got, err, want)
		}
	})
	if err := a.Send(Message{Text: strings.Repeat("x", maxMessageBytes)}); err == nil {
		t.Error("a message over the limit was sent")
	}
}

// A stage that ends without having read everything must not take its last words
// with it: the kernel reports the reset ahead of them.
func TestTheLastWordsOfAStageArrive(t *testing.T) {
	a, b := pair(t)
	defer b.Close()
	if err := errors.Join(b.Send(Message{Kind: Signal}), a.Send(Message{Kind: Ended, Number: 3}), a.Close()); err != nil {
		t.Fatal(err)
	}
	if m, err := b.Recv(); err != nil || m.Kind != Ended || m.Number != 3 {
		t.Errorf("got %+v (%v), want the last words", m, err)
	}
	if _, err := b.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end", err)
	}
}

func TestClaimsAreReadStrictly(t *testing.T) {
	c := claim{stage: initName, fd: 204, parent: 17, mode: asUser, ignored: 0x80000003, cgroup: "/sys/fs/cgroup/a b"}
	text := strings.TrimPrefix(c.String(), marker+"=")
	if got, err := parseClaim(text); err != nil || got != c {
		t.Errorf("%q was read as %+v (%v), want %+v", text, got, err, c)
	}
	for _, bad := range []string{"", "kahu-init", "kahu-init 204 17 namespace 80000003", "kahu-init 204 17 namespace 80000003 1", "kahu-init x 17 namespace 0", "kahu-init 204 17 maybe 0", "kahu-init 204 17 namespace zz"} {
		if got, err := parseClaim(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func FuzzParseClaim(f *testing.F) {
	f.Add("kahu-init 204 17 namespace 80000003 ")
	f.Add("kahu-init 204 17 namespace 80000003 /a b")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseClaim(s)
		if err != nil {
			return
		}
		again, err := parseClaim(strings.TrimPrefix(c.String(), marker+"="))
		if err != nil || again != c {
			t.Errorf("%q is %+v, and then %+v (%v)", s, c, again, err)
		}
	})
}
