package holdwire

import (
	"net/url"
	"testing"
)

func TestUnlockPathEscapesAsURLs(t *testing.T) {
	for _, lock := range []string{"a", "jobs/a b", "100%", "ä?#&=+", "\xff;,:@$", "~-_."} {
		path := UnlockPath(lock)
		u, err := url.ParseRequestURI(path)
		if err != nil || u.RawQuery != "" || u.Path != "/kahu/v1/locks/"+lock+"/unlock" {
			t.Errorf("%q: %q is read as %q (%v)", lock, path, u, err)
		}
	}
}

func TestNumbersNameOneKind(t *testing.T) {
	for _, k := range Kinds() {
		if got := KindOfNumber(k.Number()); got != k {
			t.Errorf("%s has the number %d, which is %s", k, k.Number(), got)
		}
		if k.Title() == "" || k.Status() < 400 || k.Status() > 599 {
			t.Errorf("%s: %q, %d", k, k.Title(), k.Status())
		}
	}
	if got := Kind("no such"); got.Title() != Internal.Title() || KindOfNumber(999) != Internal {
		t.Errorf("what is none is %q", got.Title())
	}
}
