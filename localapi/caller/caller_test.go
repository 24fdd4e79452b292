package caller_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/caller"
)

// TestMain is also the other end: a process that dials and waits for the end.
func TestMain(m *testing.M) {
	if path := os.Getenv("KAHU_TEST_DIAL"); path != "" {
		conn, err := net.Dial("unix", path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_, _ = io.Copy(io.Discard, conn)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// directory is one that another user may enter.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kahu-caller-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func listen(t *testing.T, path string) *caller.Listener {
	t.Helper()
	ln, err := caller.Listen(path, caller.ListenOptions{GID: -1, Open: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func accept(t *testing.T, ln *caller.Listener) *caller.Conn {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*caller.Conn)
}

// dialFrom starts a process that dials path under another identity.
func dialFrom(t *testing.T, path string, as *syscall.Credential) *exec.Cmd {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(filepath.Dir(path), "dial") // where the other user may run it
	if err := os.WriteFile(program, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "KAHU_TEST_DIAL="+path)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func TestIdentity(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("another user is needed")
	}
	tells, err := caller.TellsUnits()
	if err != nil {
		t.Fatal(err)
	}
	var many []uint32
	for g := range uint32(100) { // more than the first guess
		many = append(many, 3000+g)
	}
	for name, as := range map[string]*syscall.Credential{
		"root":           {Uid: 0, Gid: 0, Groups: []uint32{0}},
		"one group":      {Uid: 1234, Gid: 1235, Groups: []uint32{1236}},
		"no other group": {Uid: 1234, Gid: 1235, Groups: []uint32{}},
		"many groups":    {Uid: 1234, Gid: 1235, Groups: many},
	} {
		t.Run(name, func(t *testing.T) {
			ln := listen(t, filepath.Join(directory(t), "k.sock"))
			cmd := dialFrom(t, ln.Addr().String(), as)
			c := accept(t, ln).Caller()
			if c.UID != as.Uid || c.GID != as.Gid || c.PID != int32(cmd.Process.Pid) {
				t.Errorf("got %+v, want %+v, pid %d", c, as, cmd.Process.Pid)
			}
			if told := c.Pidfd != nil && c.Command == "dial" && c.Cgroup != ""; told != tells {
				t.Errorf("got %+v of a kernel of which it is said that it tells more: %v", c, tells)
			}
			for _, g := range append(slices.Clone(as.Groups), as.Gid) {
				if !c.InGroup(g) {
					t.Errorf("not in group %d: %v", g, c.Groups)
				}
			}
			if c.InGroup(9999) {
				t.Error("in a group that it is not in")
			}
			if c.Ended() {
				t.Error("ended while it runs")
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if !tells {
				t.Skip("this kernel has no SO_PEERPIDFD (it came with 6.5): who has ended, and its unit, cannot be told")
			}
			// Readable when it has ended, reaped or not.
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(c.Pidfd.Fd()), Events: unix.POLLIN}}, 10_000); err != nil {
				t.Fatal(err)
			}
			if !c.Ended() {
				t.Error("not ended after its death")
			}
		})
	}
}

// pair is a client's connection and the server's end of it.
func pair(t *testing.T) (*net.UnixConn, *caller.Conn) {
	t.Helper()
	ln := listen(t, filepath.Join(t.TempDir(), "k.sock"))
	conn, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UnixConn), accept(t, ln)
}

// pipes makes n pipes and returns their writing ends to pass on, and their
// reading ends, which see the end when nobody has the others any more.
func pipes(t *testing.T, n int) (write, read []*os.File) {
	t.Helper()
	for range n {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		read, write = append(read, r), append(write, w)
	}
	return write, read
}

func pass(t *testing.T, conn *net.UnixConn, text string, files []*os.File) {
	t.Helper()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := conn.WriteMsgUnix([]byte(text), unix.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f.Close()
	}
}

func readText(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v, want %q", b, err, want)
	}
}

// wantClosed: nobody has the other end of the pipe.
func wantClosed(t *testing.T, read []*os.File) {
	t.Helper()
	for i, r := range read {
		r.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("file %d is still open: %v", i, err)
		}
	}
}

func TestFilesAreTaken(t *testing.T) {
	from, to := pair(t)
	write, _ := pipes(t, 3)
	pass(t, from, "ab", write[:2])
	readText(t, to, "a")
	readText(t, to, "b")
	pass(t, from, "c", write[2:])
	readText(t, to, "c")
	files, err := to.TakeFiles()
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %x, %v: a child would inherit it", flags, err)
		}
		f.Close()
	}
	if files, err = to.TakeFiles(); err != nil || len(files) != 0 {
		t.Errorf("taken twice: %v, %v", files, err)
	}
}

func TestFilesNobodyTakesAreClosed(t *testing.T) {
	from, to := pair(t)
	write, read := pipes(t, 2)
	pass(t, from, "a", write)
	readText(t, to, "a")
	to.Close()
	wantClosed(t, read)
}

func TestTooManyFilesAreClosed(t *testing.T) {
	for name, batches := range map[string][]int{"at once": {caller.MaxFiles + 5}, "one after the other": {caller.MaxFiles, 1}} {
		t.Run(name, func(t *testing.T) {
			from, to := pair(t)
			var reads []*os.File
			for _, n := range batches {
				write, read := pipes(t, n)
				reads = append(reads, read...)
				pass(t, from, "a", write)
				readText(t, to, "a")
			}
			if files, err := to.TakeFiles(); err == nil || len(files) > 0 {
				t.Errorf("%d files, %v", len(files), err)
			}
			wantClosed(t, reads)
		})
	}
}

func TestNoMoreFiles(t *testing.T) {
	from, to := pair(t)
	to.NoMoreFiles()
	write, read := pipes(t, 1)
	pass(t, from, "a", write)
	readText(t, to, "a")
	wantClosed(t, read)
	from.Close()
	if _, err := to.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestReadSeesTheEnd(t *testing.T) {
	from, to := pair(t)
	from.Close()
	if _, err := to.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestIsPidfd(t *testing.T) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	_, other := pipes(t, 1)
	if !caller.IsPidfd(pidfd) || caller.IsPidfd(other[0]) {
		t.Error("pidfds and pipes are not told apart")
	}
}

func TestParseCgroup(t *testing.T) {
	for _, tc := range []struct{ name, text, cgroup, unit string }{
		{"service", "0::/system.slice/backup.service\n", "/system.slice/backup.service", "backup.service"},
		{"delegated below a service", "0::/system.slice/backup.service/evil.service\n", "/system.slice/backup.service/evil.service", "backup.service"},
		{"a user's own unit", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/backup.service\n",
			"/user.slice/user-1000.slice/user@1000.service/app.slice/backup.service", "user@1000.service"},
		{"scope", "0::/user.slice/user-0.slice/session-3.scope\n", "/user.slice/user-0.slice/session-3.scope", "session-3.scope"},
		{"escaped", "0::/system.slice/_cpu.service\n", "/system.slice/_cpu.service", "cpu.service"},
		{"hybrid", "12:pids:/x\n1:name=systemd:/system.slice/a.service\n0::/\n", "/system.slice/a.service", "a.service"},
		{"hybrid, other order", "0::/\n1:name=systemd:/system.slice/a.service\n", "/system.slice/a.service", "a.service"},
		{"unified wins", "1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n", "/system.slice/b.service", "b.service"},
		{"outside of our namespace", "0::/../../system.slice/a.service\n", "/../../system.slice/a.service", ""},
		{"container", "0::/kubepods/pod1/a.service\n", "/kubepods/pod1/a.service", ""},
		{"colon in a name", "0::/system.slice/a:b.service\n", "/system.slice/a:b.service", "a:b.service"},
		{"root", "0::/\n", "/", ""},
		{"empty", "", "", ""},
		{"nonsense", "what\n0:\n::\n0::relative.service", "", ""},
	} {
		if cgroup, unit := caller.ParseCgroup(tc.text); cgroup != tc.cgroup || unit != tc.unit {
			t.Errorf("%s: got %q, %q, want %q, %q", tc.name, cgroup, unit, tc.cgroup, tc.unit)
		}
	}
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("0::/system.slice/a.service\n1:name=systemd:/\n")
	f.Fuzz(func(t *testing.T, text string) {
		cgroup, unit := caller.ParseCgroup(text)
		if unit != "" && (strings.Contains(unit, "/") || !strings.Contains(cgroup, unit)) {
			t.Errorf("unit %q of cgroup %q", unit, cgroup)
		}
	})
}
