package imports_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/test/imports"
)

// TestImportDirection asserts the map over the production imports of every
// package, with and without the RocksDB engine.
func TestImportDirection(t *testing.T) {
	for _, tags := range []string{"", "rocksdb"} {
		packages := goList(t, tags)
		if len(packages) < 10 {
			t.Fatalf("go list -tags %q found %d packages; the test looks at the wrong place", tags, len(packages))
		}
		for _, sentence := range imports.Check(packages) {
			t.Errorf("[tags %q] %s", tags, sentence)
		}
	}
}

// TestCheckFindsWhatIsBroken makes sure that the rules bite.
func TestCheckFindsWhatIsBroken(t *testing.T) {
	const module = "github.com/kahu-sh/kahu/"
	cases := []struct {
		name, path, imported, pkgName string
		want                          string // "" when fine
	}{
		{name: "upward", path: "storage/memory", imported: module + "replication", want: "storage/memory must not import replication"},
		{name: "sideways into the server", path: "localapi/client", imported: module + "localapi", want: "localapi/client must not import localapi"},
		{name: "handlers reaching the voter", path: "localapi/wire", imported: module + "replication/voter", want: "must not import"},
		{name: "integration reaching up", path: "integrations/guard", imported: module + "localapi/client", want: "must not import"},
		{name: "main reaching into raft", path: "cmd/kahu", imported: module + "replication/voter", want: "main turns flags"},
		{name: "the contract stays a leaf", path: "replication", imported: module + "storage", want: "every room can name it"},
		{name: "clock in the state machine", path: "replication/statemachine", imported: "time", want: "fork the voters"},
		{name: "locks in the state machine", path: "replication/statemachine", imported: "sync/atomic", want: "fork the voters"},
		{name: "randomness in the state machine", path: "replication/statemachine", imported: "math/rand/v2", want: "fork the voters"},
		{name: "a stage that starts late", path: "integrations/guard/stage", imported: "golang.org/x/sys/unix", want: "have it wait"},
		{name: "a keeper that starts late", path: "replication/stream", imported: "log/slog", want: "until protobuf and gRPC"},
		{name: "testing in production", path: "replication/voter", imported: "testing", want: "must not import testing"},
		{name: "unknown room", path: "elsewhere/thing", imported: "fmt", want: "not on the map"},
		{name: "name that says nothing", path: "agent/util", pkgName: "util", imported: "fmt", want: "says nothing"},

		{name: "downward", path: "replication/voter", imported: module + "storage/memtable"},
		{name: "conformance suite", path: "storage/enginetest", imported: "testing"},
		{name: "composition", path: "agent", imported: module + "replication/voter"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			name := c.pkgName
			if name == "" {
				name = filepath.Base(c.path)
			}
			got := imports.Check([]imports.Package{{ImportPath: module + c.path, Name: name, Imports: []string{c.imported}}})
			joined := strings.Join(got, "\n")
			if c.want == "" && joined != "" {
				t.Errorf("%s importing %s is allowed, but the check says:\n%s", c.path, c.imported, joined)
			}
			if !strings.Contains(joined, c.want) {
				t.Errorf("%s importing %s: the check says %q, which does not contain %q", c.path, c.imported, joined, c.want)
			}
		})
	}
}

// TestREADMENamesEveryPackage keeps the map that a stranger walks by whole.
func TestREADMENamesEveryPackage(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range goList(t, "rocksdb") {
		path := strings.TrimPrefix(p.ImportPath, "github.com/kahu-sh/kahu/")
		if !strings.HasPrefix(path, "test/") && !bytes.Contains(readme, []byte("`"+path+"`")) {
			t.Errorf("the map in README.md does not name %s", path)
		}
	}
}

// TestTopLevel keeps the rooms of the house as DESIGN.md §2 names them.
func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if !imports.IsTopLevel(e.Name()) {
			t.Errorf("%s/ is not one of the rooms that DESIGN.md §2 names; put it inside the one whose job it does", e.Name())
		}
	}
}

// TestFileLength finds files that have become about more than one thing.
func TestFileLength(t *testing.T) {
	eachGoFile(t, func(path string, text []byte) {
		if n := bytes.Count(text, []byte("\n")); !generated(text) && n > imports.MaxFileLines {
			t.Errorf("%s has %d lines, more than %d: split it by subject (STYLE.md 20)", path, n, imports.MaxFileLines)
		}
	})
}

// bareSleep is a sleep without a word on why.
var bareSleep = regexp.MustCompile(`(?m)time\.Sleep\(.*\)\s*$`)

// TestTestsDoNotSleep finds tests that wait for a duration. Inside a synctest
// bubble a sleep only moves the fake clock; a child process that has to last may
// sleep, and says so behind the call.
func TestTestsDoNotSleep(t *testing.T) {
	eachGoFile(t, func(path string, text []byte) {
		ofTests := strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/test/")
		if ofTests && bareSleep.Match(text) && !bytes.Contains(text, []byte("testing/synctest")) {
			t.Errorf("%s sleeps: wait for a condition, or test under testing/synctest (STYLE.md 8)", path)
		}
	})
}

// eachGoFile calls f for every Go file of the repository.
func eachGoFile(t *testing.T, f func(path string, text []byte)) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); strings.HasPrefix(name, ".") && name != "." || name == "bin" || name == "dist" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		f(path, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 10 {
		t.Fatalf("looked at %d Go files only", seen)
	}
}

// generated reports whether the file says so in the line that Go defines for it.
func generated(text []byte) bool {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "// Code generated ") && strings.HasSuffix(line, " DO NOT EDIT.") {
			return true
		}
		if strings.HasPrefix(line, "package ") {
			return false
		}
	}
	return false
}

// root is the repository's top folder.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// goList reads what Go itself knows of the packages.
func goList(t *testing.T, tags string) []imports.Package {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Dir,Imports,Standard", "-tags", tags, "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -tags %q: %v", tags, err)
	}
	var packages []imports.Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p imports.Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("reading go list: %v", err)
		}
		packages = append(packages, p)
	}
}
