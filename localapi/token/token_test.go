package token_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/token"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// clock is set by the test.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func create(t *testing.T, path string, e token.Entry) (string, token.Entry) {
	t.Helper()
	text, made, err := token.Create(path, e, noon)
	if err != nil {
		t.Fatal(err)
	}
	return text, made
}

func TestLifeOfAToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	c := &clock{t: noon}
	var log bytes.Buffer
	store, err := token.Open(path, c.now, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ci, entry := create(t, path, token.Entry{Name: "ci", Allow: []string{"lock", "read"}, Prefixes: []string{"ci/"}})
	short, _ := create(t, path, token.Entry{Name: "short", Expires: noon.Add(time.Hour)})
	if _, _, err := token.Create(path, token.Entry{Name: "ci"}, noon); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second token of one name: %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || bytes.Contains(content, []byte(ci[len("kahu_")+17:])) {
		t.Errorf("the file has the secret itself, or %v:\n%s", err, content)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if _, ok := store.Verify(ci); ok {
		t.Error("the store looked at the file before its second was over")
	}
	c.add(2 * time.Second)
	if e, ok := store.Verify(ci); !ok || e.Name != "ci" || e.ID != entry.ID {
		t.Fatalf("a valid token is %+v, %v", e, ok)
	}
	for _, wrong := range []string{"", "kahu_", ci[:len(ci)-1], ci + "A", strings.ToUpper(ci), ci[5:], "Bearer " + ci,
		ci[:len(ci)-1] + map[bool]string{true: "A", false: "E"}[ci[len(ci)-1] != 'A'], short[:21] + ci[21:]} {
		if _, ok := store.Verify(wrong); ok {
			t.Errorf("%q is valid", wrong)
		}
	}

	rules, err := policy.New([]policy.Rule{{Tokens: []string{"short"}, Allow: []policy.Verb{policy.Write}}})
	if err != nil {
		t.Fatal(err)
	}
	p := rules.WithTokens(store)
	ciCaller := caller.OfToken("ci", entry.ID, "192.0.2.1:5")
	for _, tc := range []struct {
		verb policy.Verb
		name string
		want bool
	}{{policy.Lock, "ci/1", true}, {policy.Read, "ci/", true}, {policy.Write, "ci/1", false}, {policy.Lock, "other", false}} {
		if got := p.Allows(ciCaller, tc.verb, tc.name); got != tc.want {
			t.Errorf("ci may %s %q: %v, want %v", tc.verb, tc.name, got, tc.want)
		}
	}
	e, _ := store.Verify(short)
	shortCaller := caller.OfToken("short", e.ID, "192.0.2.1:5")
	if !p.Allows(shortCaller, policy.Write, "x") || !p.AllowsSomewhere(shortCaller, policy.Write) || p.Allows(shortCaller, policy.Read, "x") {
		t.Error("a rule of the configuration that names the token counts for something else")
	}
	if rules.Allows(shortCaller, policy.Write, "x") {
		t.Error("a policy that knows no tokens took one")
	}
	if p.Allows(caller.OfToken("short", entry.ID[:15]+"x", ""), policy.Write, "x") {
		t.Error("the name alone was enough")
	}
	if p.AllowsSomewhere(&caller.Caller{UID: caller.NoID, Names: []string{"short"}}, policy.Write) {
		t.Error("a process passed as a token")
	}

	c.add(time.Hour)
	if _, ok := store.Verify(short); ok || p.Allows(shortCaller, policy.Write, "x") || p.AllowsSomewhere(shortCaller, policy.Write) {
		t.Error("an expired token is valid")
	}
	if err := token.Revoke(path, "ci"); err != nil {
		t.Fatal(err)
	}
	if err := token.Revoke(path, "ci"); !errors.Is(err, token.ErrNoToken) {
		t.Errorf("revoked twice: %v", err)
	}
	c.add(2 * time.Second)
	if _, ok := store.Verify(ci); ok || p.Allows(ciCaller, policy.Lock, "ci/1") {
		t.Error("a revoked token is valid")
	}
	again, _ := create(t, path, token.Entry{Name: "ci", Allow: []string{"admin"}})
	c.add(2 * time.Second)
	if _, ok := store.Verify(again); !ok || p.Allows(ciCaller, policy.Lock, "ci/1") {
		t.Error("a new token of the name revived the old one")
	}
	if list, err := token.List(path); err != nil || len(list) != 2 || list[0].Name != "short" || list[1].Name != "ci" {
		t.Errorf("listed %+v, %v", list, err)
	}
	if strings.Contains(log.String(), "kahu_") {
		t.Errorf("a token is in the log:\n%s", &log)
	}
}

// A file that became useless changes nothing; one that is gone ends all tokens.
func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	text, _ := create(t, path, token.Entry{Name: "a", Allow: []string{"read"}})
	c := &clock{t: noon}
	var log bytes.Buffer
	store, err := token.Open(path, c.now, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	step := func(what string, want bool, says string) {
		t.Helper()
		log.Reset()
		c.add(2 * time.Second)
		if _, ok := store.Verify(text); ok != want {
			t.Errorf("%s: valid %v, want %v", what, ok, want)
		}
		if !strings.Contains(log.String(), says) {
			t.Errorf("%s: the log does not say %q: %q", what, says, log.String())
		}
	}
	step("as it was", true, "")
	for _, f := range []func() error{
		func() error { return os.WriteFile(path, good[:len(good)/2], 0o600) },
		func() error { return os.Chmod(path, 0o620) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		step("damaged", true, "is not used")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step("gone", false, "no token is valid")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	step("back", true, "")
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := token.Open(path, c.now, slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a useless file was opened: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	for says, e := range map[string]token.Entry{
		"1 to 128 bytes":      {},
		"and is not *":        {Name: "*", Allow: []string{"read"}},
		"no spaces":           {Name: "a b"},
		"no verb \"fly\"":     {Name: "a", Allow: []string{"fly"}},
		"allows nothing":      {Name: "a", Prefixes: []string{"x"}},
		"an empty prefix":     {Name: "a", Allow: []string{"read"}, Prefixes: []string{""}},
		"would have expired":  {Name: "a", Expires: noon},
		"1 to 128 bytes, and": {Name: strings.Repeat("n", 129)},
	} {
		_, _, err := token.Create(path, e, noon)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, want one line that says %q", e, err, says)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused token made the file: %v", err)
	}
	const entry = `{"id":"0123456789abcdef","name":"a","sha256":"` + "ab" // and the rest
	rest := strings.Repeat("00", 31) + `"`
	for says, text := range map[string]string{
		"no token file":   `[`,
		"unknown field":   `{"format":1,"tokens":[` + entry + rest + `,"prefix":["x"]}]}`,
		"after its end":   `{"format":1,"tokens":[]}{}`,
		"newer kahu":      `{"format":2,"tokens":[]}`,
		"format is 0":     `{"tokens":[]}`,
		"is there twice":  `{"format":1,"tokens":[` + entry + rest + `},` + entry + rest + `}]}`,
		"its sha256":      `{"format":1,"tokens":[` + entry + `"}]}`,
		"its id":          `{"format":1,"tokens":[{"name":"a"}]}`,
		"the limit is 10": `{"format":1,"tokens":[` + strings.Repeat(`{},`, token.MaxTokens) + `{}]}`,
	} {
		if _, err := token.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.80s: %v, want it to say %q", text, err, says)
		}
	}
}

// Edits at once lose none.
func TestConcurrentEdits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, _, err := token.Create(path, token.Entry{Name: string(rune('a' + i))}, noon); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := token.List(path); err != nil || len(list) != 8 {
		t.Errorf("%d of 8 are there, %v", len(list), err)
	}
}

func FuzzParse(f *testing.F) {
	path := filepath.Join(f.TempDir(), "tokens")
	text, _, err := token.Create(path, token.Entry{Name: "a", Allow: []string{"read"}, Prefixes: []string{"x"}}, noon)
	if err != nil {
		f.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content, text)
	f.Add([]byte(`{"format":1,"tokens":[]}`), "kahu_")
	f.Add([]byte(`{"format":1,"tokens":[{}]}`), strings.Repeat("x", 65))
	f.Fuzz(func(t *testing.T, content []byte, bearer string) {
		set, err := token.Parse(content)
		if err != nil {
			return
		}
		if e, ok := set.Verify(bearer, noon); ok && (e.Name == "" || !strings.HasPrefix(bearer, "kahu_"+e.ID+"_")) {
			t.Errorf("%q is valid as %+v", bearer, e)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	path := filepath.Join(b.TempDir(), "tokens")
	text, _, err := token.Create(path, token.Entry{Name: "a", Allow: []string{"read"}}, noon)
	if err != nil {
		b.Fatal(err)
	}
	s, err := token.Open(path, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.Verify(text); !ok {
			b.Fatal("not valid")
		}
	}
}
