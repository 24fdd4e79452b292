package upgrade_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// asked is a command, and what it prints; with "…" at an end, how it begins.
type asked struct {
	command string
	prints  string
	fails   bool
}

// found is what record.sh has written in each of its parts.
func found(part string, level string) []asked {
	p := func(name string) string { return part + "/" + name }
	all := []asked{
		{command: "kv get " + p("revised"), prints: "value 2"},
		{command: "kv get --revision 0 " + p("revised"), prints: "value 0"},
		{command: "kv get " + p("gone"), fails: true},
		{command: "kv get " + p("expires"), prints: "in a day"},
		{command: "kv get --ephemeral " + p("ephemeral"), prints: "e"},
		{command: "kv get " + p("large"), prints: strings.Repeat(part, 20000)},
		{command: "kv ls --keys-only " + p("many/"), prints: "KEY REVISION EXPIRES VALUE " + p("many/100") + " …"},
		{command: "lock try --owner another " + p("held"), fails: true},
		{command: "lock extend --owner someone " + p("held") + " 24h", prints: "…"},
		{command: "lock try --ephemeral --owner another " + p("ephemeral"), fails: true},
		{command: "seq next --idempotency-key once " + p("numbers"), prints: "12"},
		{command: "seq next " + p("numbers"), prints: "13"},
		{command: "kv set " + p("revised") + " anew", prints: "revision 3"},
	}
	if level == "level1" {
		return all
	}
	return append(all,
		asked{command: "kv get " + p("scripted"), prints: "by a script"},
		asked{command: "limit take " + p("limit") + " --rate 2/24h", fails: true},
	)
}

// nextToken is what a lock that record.sh has given out three times gives out next:
// the tokens were 0, 1 and 2. From level 3 on there is a recovery between the parts,
// with a floor of 2,000,000, which stands above both.
func nextToken(part, level string) string {
	switch {
	case level == "level1", level == "level2":
		return "token 3"
	case part == "a":
		return "token 2000001"
	}
	return "token 2000004"
}

// Directories that earlier builds wrote are opened by this one, with everything in
// them: what their engine had, and what was only in the log when they were killed.
func TestEarlierDataDirectories(t *testing.T) {
	files, err := filepath.Glob("testdata/level*.tar.gz")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d directories: %v", len(files), err)
	}
	rocksDB, err := cluster.HaveRocksDB(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".tar.gz")
		level, engine, _ := strings.Cut(name, "-")
		t.Run(name, func(t *testing.T) {
			if engine == "rocksdb" && !rocksDB {
				t.Skip("this kahu was built without RocksDB")
			}
			openEarlier(t, file, level, engine)
		})
	}
}

// Rows of before formats were kept cannot be read. That is told from damage.
func TestDirectoryOfTheFirstDays(t *testing.T) {
	a := onDirectory(t, "testdata/first-sqlite.tar.gz", "sqlite")
	if last := endsByItself(bounded(t, time.Minute), t, a); !strings.Contains(last, "from before its formats were kept") || strings.Contains(last, "damaged") {
		t.Errorf("it ended with: %s", last)
	}
}

// onDirectory is an agent that is to run on an archive of record.sh.
func onDirectory(t *testing.T, file, engine string) *cluster.Agent {
	t.Helper()
	c := newCluster(t, cluster.Options{Voters: 1, Storage: engine})
	a := c.Agents[0]
	extract(t, file, a.Dir)
	secret, err := os.ReadFile(filepath.Join(a.Dir, "data", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.SecretFile(), secret, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func openEarlier(t *testing.T, file, level, engine string) {
	a := onDirectory(t, file, engine)
	ctx := bounded(t, time.Minute)
	start(ctx, t, a)
	for _, part := range []string{"a", "b"} {
		for _, q := range found(part, level) {
			got, ok := says(t, a, strings.Fields(q.command)...)
			want, begins := strings.CutSuffix(q.prints, "…")
			switch {
			case ok == q.fails:
				t.Errorf("kahu %s: %.200s", q.command, got)
			case !q.fails && got != want && !(begins && strings.HasPrefix(got, want)):
				t.Errorf("kahu %s: %.200q, want %.200q", q.command, got, q.prints)
			}
		}
		if got, _ := says(t, a, "lock", "try", "--owner", "me", part+"/free"); !strings.Contains(got, nextToken(part, level)) {
			t.Errorf("the lock that was granted three times: %s, want %s", got, nextToken(part, level))
		}
	}
	// What was to end in a second does so on the clock that stood still meanwhile.
	for _, key := range []string{"a/short", "b/short"} {
		if err := cluster.Wait(ctx, key+" has expired", func(context.Context) (bool, error) {
			text, ok := says(t, a, "kv", "get", key)
			return !ok, errors.New(text)
		}); err != nil {
			t.Error(err)
		}
	}
	// A hold whose guard is gone with its host's last boot is left to its lease.
	if got, _ := says(t, a, "lock", "info", "b/guarded"); !strings.Contains(got, "b/guarded") {
		t.Errorf("the lock of a guard: %s", got)
	}
	// The level rises, and a build that knew only the old one is refused.
	raised(ctx, t, a)
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	a.Args = []string{"--feature-level-cap", strconv.Itoa(int(before))}
	refusesToStart(ctx, t, a)
}

// extract unpacks an archive of record.sh.
func extract(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(strings.TrimSuffix(h.Name, "/"), 0o700)
		case tar.TypeReg, tar.TypeGNUSparse:
			err = write(root, h.Name, r)
		default:
			t.Fatalf("%s in %s is of type %c", h.Name, file, h.Typeflag)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func write(root *os.Root, name string, r io.Reader) error {
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return errors.Join(err, out.Close())
}
