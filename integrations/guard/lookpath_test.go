package guard

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// lookPath finds what exec.LookPath finds, and in "." as every shell.
func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, mode := range map[string]os.FileMode{"here": 0o755, "plain": 0o644, "sub/there": 0o755} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/usr/bin:/bin", "", ".", "/nonexistent:" + dir, dir + ":/bin", "/bin:"} {
		t.Setenv("PATH", path)
		for _, name := range []string{"sh", "here", "plain", "sub", "sub/there", "./here", "./plain", "no", "./no", dir} {
			want, wantErr := exec.LookPath(name)
			if errors.Is(wantErr, exec.ErrDot) {
				wantErr = nil
			}
			got, err := lookPath(name)
			if (err == nil) != (wantErr == nil) || err == nil && filepath.Clean(got) != filepath.Clean(want) {
				t.Errorf("PATH=%s: %s is %q (%v), and exec.LookPath says %q (%v)", path, name, got, err, want, wantErr)
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
				t.Errorf("PATH=%s: %s: %v", path, name, err)
			}
		}
	}
}

// What is wrong is said once, and without the name of a system call.
func TestLookPathSaysOnce(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		plain:                      "run " + plain + ": permission denied",
		dir:                        "run " + dir + ": it is a directory: permission denied",
		filepath.Join(dir, "none"): "run " + filepath.Join(dir, "none") + ": no such file or directory",
	} {
		if _, err := lookPath(name); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
