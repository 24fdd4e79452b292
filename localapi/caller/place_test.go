package caller_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
)

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
	} else if info.Mode().Perm() != want {
		t.Errorf("%s has rights %o, want %o", path, info.Mode().Perm(), want)
	}
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("in the directory are %v, want %v", got, want)
	}
}

func TestListenMakesAndRemoves(t *testing.T) {
	for name, tc := range map[string]struct {
		open        bool
		dir, socket fs.FileMode
	}{"closed": {false, 0o750, 0o660}, "open": {true, 0o755, 0o666}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run", "kahu")
			path := filepath.Join(dir, "kahu.sock")
			ln, err := caller.Listen(path, caller.ListenOptions{GID: os.Getgid(), Open: tc.open})
			if err != nil {
				t.Fatal(err)
			}
			wantMode(t, dir, tc.dir)
			wantMode(t, path, tc.socket)
			wantMode(t, path+".lock", 0o600)
			wantFiles(t, dir, "kahu.sock", "kahu.sock.lock")
			if ln.Addr().String() != path {
				t.Errorf("address %s", ln.Addr())
			}
			if err := ln.Close(); err != nil {
				t.Error(err)
			}
			wantFiles(t, dir)
		})
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	served := filepath.Join(dir, "served.sock")
	listen(t, served)
	foreign := filepath.Join(dir, "foreign.sock") // by somebody who knows no lock file
	other, err := net.Listen("unix", foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for name, tc := range map[string]struct{ path, says string }{
		"too long":       {"/" + strings.Repeat("x", 107), "107"},
		"relative":       {"kahu.sock", "absolute"},
		"empty":          {"", "absolute"},
		"second agent":   {served, "another agent serves " + served},
		"foreign server": {foreign, "something else serves " + foreign},
		"a file":         {file, "not a socket"},
		"under a file":   {filepath.Join(file, "k.sock"), "file"},
		"open to all":    {filepath.Join(open, "k.sock"), "everybody can write"},
	} {
		ln, err := caller.Listen(tc.path, caller.ListenOptions{GID: -1})
		if err == nil {
			ln.Close()
			t.Errorf("%s: taken", name)
			continue
		}
		if !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q, want one line that says %q", name, err, tc.says)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file has %q, %v", b, err)
	}
	for _, path := range []string{served, foreign} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Errorf("who was there first is not reached any more: %v", err)
			continue
		}
		conn.Close()
	}
}

// A path of exactly the longest length works: the name before the rename is no
// longer than it.
func TestListenLongestPath(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/" + strings.Repeat("s", caller.MaxPathBytes-len(dir)-1)
	ln := listen(t, path)
	conn, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// Agents whose sockets are in one directory begin at the same time.
func TestListenBesideOthers(t *testing.T) {
	dir := t.TempDir()
	for range 50 {
		var begin, all sync.WaitGroup
		begin.Add(1)
		for _, name := range []string{"s0", "s1", "s2", "s3"} {
			path := filepath.Join(dir, name)
			all.Go(func() {
				begin.Wait()
				ln, err := caller.Listen(path, caller.ListenOptions{GID: -1})
				if err != nil {
					t.Error(err)
					return
				}
				defer ln.Close()
				conn, err := net.Dial("unix", path)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				// Of another's socket it would be that one's listener which accepts.
				late := time.AfterFunc(10*time.Second, func() { ln.Close() })
				defer late.Stop()
				in, err := ln.Accept()
				if err != nil {
					t.Errorf("%s leads to another listener: %v", path, err)
					return
				}
				in.Close()
			})
		}
		begin.Done()
		all.Wait()
	}
	wantFiles(t, dir)
}

func TestListenReplacesTheDead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k.sock")
	for _, leftover := range []string{path, filepath.Join(dir, "k.soc~")} { // the second: died before the rename
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: leftover, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
	}
	if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listen(t, path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// Whoever replaced the socket meanwhile keeps it.
func TestCloseKeepsAForeignSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.sock")
	ln := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ln.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("removed: %v", err)
	}
}
