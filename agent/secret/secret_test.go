package secret_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kahu-sh/kahu/agent/secret"
)

func TestFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	first, second := secret.Generate(), secret.Generate()
	if err := secret.Write(path, first, second); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	k, err := secret.Read(path, secret.ForVoter)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(k.IDs()), fmt.Sprint([]string{first.ID(), second.ID()}); got != want {
		t.Fatalf("secrets %s, want %s", got, want)
	}
	before, _ := os.ReadFile(path)
	if err := secret.Write(path, secret.Generate()); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("writing over a secret: %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Fatal("the secret was overwritten")
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Fatalf("left behind: %v", names)
	}
}

// Two agents that start at once on one host make one secret.
func TestWriteRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	for range 16 {
		wg.Go(func() { errs <- secret.Write(path, secret.Generate()) })
	}
	wg.Wait()
	close(errs)
	won := 0
	for err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Fatalf("%d writers won", won)
	}
	if _, err := secret.Read(path, secret.ForVoter); err != nil {
		t.Fatal(err)
	}
}

func TestProxySecret(t *testing.T) {
	dir := t.TempDir()
	v := secret.Generate()
	p := v.Proxy()
	if p.ID() != v.ID() || p.IsVoter() || p.Proxy().Line() != p.Line() {
		t.Fatalf("%v of %v", p, v)
	}
	path := filepath.Join(dir, "proxy")
	if err := secret.Write(path, p); err != nil {
		t.Fatal(err)
	}
	if _, err := secret.Read(path, secret.ForVoter); err == nil || !strings.Contains(err.Error(), "proxy's secret, but a voter needs") {
		t.Fatalf("a voter with a proxy's secret: %v", err)
	}
	k, err := secret.Read(path, secret.ForProxy)
	if err != nil {
		t.Fatal(err)
	}
	voters, _ := secret.New(v)
	if !bytes.Equal(k.GossipKeys()[0], voters.GossipKeys()[0]) || len(k.GossipKeys()[0]) != 32 {
		t.Fatal("voters and proxies have different gossip keys")
	}
	if _, err := k.VoterServerTLS("n1"); err == nil {
		t.Fatal("a proxy made a voter's configuration")
	}
	if _, err := k.VoterClientTLS("n1"); err == nil {
		t.Fatal("a proxy made a voter's configuration")
	}
}

func TestRefusedFiles(t *testing.T) {
	good := secret.Generate().Line()
	for name, c := range map[string]struct {
		text, says string
		mode       fs.FileMode
	}{
		"group may read":    {good, "chmod 600", 0o640},
		"others may read":   {good, "chmod 600", 0o604},
		"others may write":  {good, "chmod 600", 0o602},
		"empty":             {"\n# nothing\n", "there is no secret", 0o600},
		"cut":               {good[:len(good)-8], "has 27 bytes instead of 32", 0o600},
		"wrapped":           {good[:40] + "\n" + good[40:], "line 1: what follows the prefix is not base64", 0o600},
		"other version":     {strings.Replace(good, "v1", "v2", 1), "not a secret of this version", 0o600},
		"no prefix":         {"aGVsbG8=", "not a secret of this version", 0o600},
		"two kinds":         {good + "\n" + secret.Generate().Proxy().Line(), "line 2: voter and proxy", 0o600},
		"twice":             {good + "\n" + good, "line 2: the same secret twice", 0o600},
		"proxy, key is cut": {"kahu-proxy-secret-v1:" + good[len("kahu-voter-secret-v1:"):], "has 32 bytes instead of 64", 0o600},
		"huge":              {strings.Repeat("#\n", 40<<10), "it is something else", 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := secret.Read(path, secret.ForProxy)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Fatalf("%v does not say %q and %q", err, c.says, path)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), good[30:40]) {
				t.Fatalf("more than a line, or the secret itself, in %q", err)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		if _, err := secret.Read(filepath.Join(t.TempDir(), "x"), secret.ForProxy); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
	t.Run("directory", func(t *testing.T) {
		if _, err := secret.Read(t.TempDir(), secret.ForProxy); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Fatal(err)
		}
	})
}

func TestSecretsPrintWithoutContent(t *testing.T) {
	s := secret.Generate()
	for _, format := range []string{"%v", "%s", "%+v", "%#v", "%q"} {
		if got := fmt.Sprintf(format, s); !strings.Contains(got, s.ID()) || strings.Contains(got, s.Line()[25:40]) {
			t.Errorf("%s prints %s", format, got)
		}
	}
}

// The derivation is a wire format: agents of two versions have to agree on it.
// The values were computed by another implementation of HKDF.
func TestDerivationIsFixed(t *testing.T) {
	const line = "kahu-voter-secret-v1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	s, err := secret.Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := secret.New(s...)
	got := fmt.Sprintf("%s %x %s", s[0].ID(), k.GossipKeys()[0], s[0].Proxy().Line())
	const want = "e720b657 f9da93a6758442c70c0420f875497596b7d0181750c5e169e52838d29d374655 " +
		"kahu-proxy-secret-v1:ckASpXBLjSKID5Xx21l4u4XbLI8z6WAIXf2jlvW0QxPZ6b0A7rNU7KZot/0uXAOeGzOWNSzk7p+48+foxCPjcA=="
	if got != want {
		t.Fatalf("derived\n%s, want\n%s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(secret.Generate().Line())
	f.Add(secret.Generate().Proxy().Line() + "\n# x\n")
	f.Add("kahu-voter-secret-v1:\nkahu-proxy-secret-v1:====")
	f.Fuzz(func(t *testing.T, text string) {
		secrets, err := secret.Parse(text)
		if err != nil {
			return
		}
		for _, s := range secrets {
			again, err := secret.Parse(s.Line())
			if err != nil || again[0].ID() != s.ID() || again[0].IsVoter() != s.IsVoter() {
				t.Fatalf("%v became %v, %v", s, again, err)
			}
		}
		if _, err := secret.New(secrets...); err != nil {
			t.Fatal(err)
		}
	})
}
