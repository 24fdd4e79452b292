package atomicfile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kahu-sh/kahu/storage/atomicfile"
)

func TestWrite(t *testing.T) {
	const umask = 0o777
	defer syscall.Umask(syscall.Umask(umask)) // it must not count
	for _, c := range []struct {
		name    string
		old     os.FileMode // of what is there before; 0: nothing is
		options atomicfile.Options
		mode    os.FileMode // 0: refused
	}{
		{"new file", 0, atomicfile.Options{}, 0o600},
		{"replaced", 0o644, atomicfile.Options{}, 0o600},
		{"with a mode", 0o600, atomicfile.Options{Mode: 0o644}, 0o644},
		{"keeping the owner of nobody", 0, atomicfile.Options{KeepOwner: true}, 0o600},
		{"keeping the owner", 0o640, atomicfile.Options{KeepOwner: true}, 0o640},
		{"keeping the owner, whatever the mode", 0o640, atomicfile.Options{KeepOwner: true, Mode: 0o600}, 0o640},
		{"only new, and it is", 0, atomicfile.Options{New: true, Mode: 0o755}, 0o755},
		{"only new, and it is not", 0o600, atomicfile.Options{New: true}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil { // made under the umask
				t.Fatal(err)
			}
			path := filepath.Join(dir, "file")
			if c.old != 0 {
				if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(path, c.old); err != nil {
					t.Fatal(err)
				}
			}
			err := atomicfile.WriteBytes(path, c.options, []byte("new"))
			content, mode := "new", c.mode
			if c.mode == 0 {
				if !errors.Is(err, fs.ErrExist) {
					t.Fatalf("refused with %v", err)
				}
				content, mode = "old", c.old
			} else if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != content || info.Mode().Perm() != mode {
				t.Errorf("the file has %q, mode %v (%v), want %q and %v", got, info.Mode(), err, content, mode)
			}
			alone(t, dir)
		})
	}
}

// What fails in the middle leaves the old file, and nothing else.
func TestWriteThatFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := atomicfile.WriteBytes(path, atomicfile.Options{}, []byte("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := atomicfile.Write(path, atomicfile.Options{}, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half"); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
			t.Errorf("in the middle the file has %q (%v)", got, err)
		}
		return broken
	})
	if got, readErr := os.ReadFile(path); !errors.Is(err, broken) || readErr != nil || string(got) != "old" {
		t.Errorf("%v; the file has %q (%v)", err, got, readErr)
	}
	alone(t, dir)
	if err := atomicfile.WriteBytes(filepath.Join(dir, "none", "file"), atomicfile.Options{}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a directory that is not there: %v", err)
	}
	if err := atomicfile.WriteBytes(dir, atomicfile.Options{}, nil); err == nil {
		t.Error("a directory was replaced")
	}
	if rest, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); len(rest) > 0 {
		t.Errorf("left behind: %v", rest)
	}
}

// alone looks that nothing stands beside the file.
func alone(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "file" {
		t.Errorf("the directory has %s, want the file alone", got)
	}
}
