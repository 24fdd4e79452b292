package systemd_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/integrations/systemd"
)

var quiet = slog.New(slog.DiscardHandler)

// manager is systemd's end of the notify socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &manager{t, conn}
}

// next is the next message, and the descriptor that came with it, or nil.
func (m *manager) next() (string, *os.File) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	b, oob := make([]byte, 4096), make([]byte, 256)
	n, oobn, _, _, err := m.conn.ReadMsgUnix(b, oob)
	if err != nil {
		m.t.Fatalf("the service manager hears nothing: %v", err)
	}
	if oobn == 0 {
		return string(b[:n]), nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		m.t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		m.t.Fatalf("%d descriptors came, %v", len(fds), err)
	}
	f := os.NewFile(uintptr(fds[0]), "stored")
	m.t.Cleanup(func() { f.Close() })
	return string(b[:n]), f
}

// pidfd opens one of a process.
func pidfd(t *testing.T, pid int) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f
}

// foreign is a pidfd of a process in a pid namespace that this one cannot see into:
// as an agent in a container sees a process of the host.
func foreign(t *testing.T) (self *os.File, inside func(name string) string) {
	t.Helper()
	outside := pidfd(t, os.Getpid())
	return outside, func(name string) string {
		// With a /proc of its own, as in a container: this process has no pid there.
		cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", os.Args[0], "-test.run", "^TestForeignInside$", "-test.v")
		cmd.Env = append(os.Environ(), "KAHU_TEST_FOREIGN="+name)
		cmd.ExtraFiles = []*os.File{outside}
		out, err := cmd.CombinedOutput()
		if err != nil {
			if os.Geteuid() != 0 {
				t.Skipf("a pid namespace needs root: %v: %s", err, out)
			}
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
}

// TestForeignInside runs in another pid namespace, with a pidfd of its parent.
func TestForeignInside(t *testing.T) {
	hold := os.Getenv("KAHU_TEST_FOREIGN")
	if hold == "" {
		t.Skip("it is run by TestOnlyTheUnfindableIsStored")
	}
	s := systemd.NewFDStore(nil, quiet)
	s.Keep("mine", []*os.File{pidfd(t, os.Getpid())})
	s.Keep(hold, []*os.File{os.NewFile(3, "pidfd"), pidfd(t, os.Getpid())})
	s.Forget(hold)
	s.Close()
}

func TestOnlyTheUnfindableIsStored(t *testing.T) {
	m := newManager(t)
	_, inside := foreign(t)
	inside("feed")
	for n, want := range []string{
		"FDSTORE=1\nFDPOLL=0\nFDNAME=hold-feed.0", "FDSTORE=1\nFDPOLL=0\nFDNAME=hold-feed.1",
		"FDSTOREREMOVE=1\nFDNAME=hold-feed.0", "FDSTOREREMOVE=1\nFDNAME=hold-feed.1",
	} {
		text, f := m.next()
		if text != want {
			t.Errorf("message %d is %q, want %q", n, text, want)
		}
		if stores := strings.HasPrefix(text, "FDSTORE="); stores != (f != nil) {
			t.Errorf("message %q came with descriptor %v", text, f)
		}
		if n == 0 && f != nil && unix.PidfdSendSignal(int(f.Fd()), 0, nil, 0) != nil {
			t.Error("what was stored is not the pidfd of this process")
		}
	}
}

func TestTakeBack(t *testing.T) {
	m := newManager(t)
	files := map[string]*os.File{}
	for _, name := range []string{"hold-a.0", "hold-a.1", "hold-torn.0", "hold-torn.2", "hold-left.0", "hold-left.1", "nonsense", "hold-x", "hold-.1", "hold-b.-1", "hold-b.9999"} {
		files[name] = pidfd(t, os.Getpid())
	}
	s := systemd.NewFDStore(files, quiet)
	got := s.Take("a")
	if len(got) != 2 || got[0] != files["hold-a.0"] || got[1] != files["hold-a.1"] {
		t.Errorf("taken for a: %v", got)
	}
	if again := s.Take("a"); again != nil {
		t.Errorf("taken twice: %v", again)
	}
	if torn := s.Take("torn"); torn != nil {
		t.Errorf("taken although one is missing: %v", torn)
	}
	if nobody := s.Take("nobody"); nobody != nil {
		t.Errorf("taken for nobody: %v", nobody)
	}
	s.Settle()
	for n := range 2 {
		if text, _ := m.next(); text != fmt.Sprintf("FDSTOREREMOVE=1\nFDNAME=hold-left.%d", n) {
			t.Errorf("what nobody took is given up by %q", text)
		}
	}
	s.Forget("a") // its hold ends: what systemd has is removed as well
	for n := range 2 {
		if text, _ := m.next(); text != fmt.Sprintf("FDSTOREREMOVE=1\nFDNAME=hold-a.%d", n) {
			t.Errorf("what was taken is removed by %q", text)
		}
	}
	s.Close()
	s.Close()
	s.Keep("late", []*os.File{files["hold-a.0"]})
	s.Forget("late")
	for name, f := range files {
		_, err := f.Stat()
		if open := strings.HasPrefix(name, "hold-a."); open != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Nobody keeps anything where there is no service manager.
func TestNoStore(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	f := pidfd(t, os.Getpid())
	if s := systemd.NewFDStore(map[string]*os.File{"hold-a.0": f}, quiet); s != nil {
		t.Error("there is a store")
	}
	if _, err := f.Stat(); err == nil {
		t.Error("what was passed stays open")
	}
}

// A service manager that does not read costs nothing but the keeping: neither what
// is kept nor a stop waits for it.
func TestTheStoreDoesNotBlock(t *testing.T) {
	newManager(t) // nobody reads
	passed := map[string]*os.File{}
	for i := range 400 {
		passed[fmt.Sprintf("hold-h%d.0", i)] = pidfd(t, os.Getpid())
	}
	s := systemd.NewFDStore(passed, quiet)
	f := pidfd(t, os.Getpid())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 5000 {
			s.Keep(fmt.Sprintf("h%d", i), []*os.File{f})
			s.Forget(fmt.Sprintf("h%d", i))
		}
		s.Settle()
		s.Close()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the store waits for who does not read")
	}
}

// Inherit takes stored descriptors besides the sockets.
func TestInheritStored(t *testing.T) {
	f := pidfd(t, os.Getpid())
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KAHU_TEST_ACTIVATED=stored", "LISTEN_FDS=2", "LISTEN_FDNAMES=hold-a.0:hold-a.1")
	cmd.ExtraFiles = []*os.File{f, f}
	out, err := cmd.Output()
	if err != nil || string(out) != "hold-a.0 hold-a.1\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func inheritedStore(out io.Writer) {
	s, err := systemd.Inherit()
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	if len(s.Stored) == 2 && s.Stored["hold-a.0"] != nil && s.Stored["hold-a.1"] != nil {
		fmt.Fprintln(out, "hold-a.0 hold-a.1")
	}
	s.Close()
}
