package systemd_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/systemd"
)

// The test binary is its own activated service: systemd hands over descriptors
// from 3 on, with LISTEN_PID set in the new process.
func TestMain(m *testing.M) {
	if os.Getenv("KAHU_TEST_ACTIVATED") != "" {
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
		if os.Getenv("KAHU_TEST_ACTIVATED") == "stored" {
			inheritedStore(os.Stdout)
			return
		}
		activated()
		return
	}
	os.Exit(m.Run())
}

func activated() {
	s, err := systemd.Inherit()
	if err != nil {
		fmt.Printf("error: %v\n", err)
		return
	}
	if os.Getenv("LISTEN_FDS") != "" {
		fmt.Println("LISTEN_FDS is still in the environment")
	}
	for _, l := range []struct {
		name string
		l    *net.UnixListener
	}{{"app", s.App}, {"admin", s.Admin}} {
		if l.l == nil {
			fmt.Printf("%s: none\n", l.name)
			continue
		}
		c, err := l.l.Accept()
		if err != nil {
			fmt.Printf("%s: %v\n", l.name, err)
			continue
		}
		fmt.Fprintf(c, "I am %s", l.name)
		c.Close()
		fmt.Printf("%s: served\n", l.name)
	}
	s.Close()
}

func TestInherit(t *testing.T) {
	unixSocket := func(t *testing.T, name string) (*os.File, string) {
		path := filepath.Join(t.TempDir(), name)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		defer l.Close()
		f, err := l.(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		return f, path
	}
	run := func(t *testing.T, names string, files []*os.File, during func()) string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "KAHU_TEST_ACTIVATED=1", fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+names)
		cmd.ExtraFiles = files
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			f.Close()
		}
		during()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, out.String())
		}
		return out.String()
	}
	says := func(t *testing.T, path, want string) {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, _ := io.ReadAll(c)
		if string(got) != want {
			t.Errorf("behind %s: %q, want %q", path, got, want)
		}
	}

	t.Run("by name, in any order", func(t *testing.T) {
		admin, adminPath := unixSocket(t, "admin.sock")
		app, appPath := unixSocket(t, "app.sock")
		out := run(t, "admin:app", []*os.File{admin, app}, func() {
			says(t, appPath, "I am app")
			says(t, adminPath, "I am admin")
		})
		if want := "app: served\nadmin: served\n"; out != want {
			t.Errorf("the service said %q, want %q", out, want)
		}
		if _, err := os.Stat(appPath); err != nil {
			t.Errorf("the socket of systemd was removed: %v", err)
		}
	})
	t.Run("one", func(t *testing.T) {
		app, path := unixSocket(t, "app.sock")
		if out := run(t, "app", []*os.File{app}, func() { says(t, path, "I am app") }); out != "app: served\nadmin: none\n" {
			t.Errorf("the service said %q", out)
		}
	})
	t.Run("none", func(t *testing.T) {
		if out := run(t, "", nil, func() {}); out != "app: none\nadmin: none\n" {
			t.Errorf("the service said %q", out)
		}
	})
	for name, c := range map[string]struct {
		names string
		files func(t *testing.T) []*os.File
		want  string
	}{
		"unknown name": {"kahu.socket", func(t *testing.T) []*os.File { f, _ := unixSocket(t, "s"); return []*os.File{f} }, "needs FileDescriptorName=app or admin"},
		"twice": {"app:app", func(t *testing.T) []*os.File {
			a, _ := unixSocket(t, "a")
			b, _ := unixSocket(t, "b")
			return []*os.File{a, b}
		}, "two sockets named \"app\""},
		"tcp": {"app", func(t *testing.T) []*os.File {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f, _ := l.(*net.TCPListener).File()
			return []*os.File{f}
		}, "no Unix stream socket"},
		"no socket": {"app", func(t *testing.T) []*os.File { f, _ := os.Open(os.DevNull); return []*os.File{f} }, "taking over socket \"app\""},
	} {
		t.Run(name, func(t *testing.T) {
			if out := run(t, c.names, c.files(t), func() {}); !strings.Contains(out, c.want) {
				t.Errorf("the service said %q, want something with %q", out, c.want)
			}
		})
	}
}

func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	n, err := systemd.NewNotifier()
	if err != nil {
		t.Fatal(err)
	}
	if n.WatchdogInterval() != 30*time.Second {
		t.Errorf("the watchdog wants %s", n.WatchdogInterval())
	}
	for _, c := range []struct {
		send func() error
		want string
	}{
		{n.Ready, "READY=1"},
		{n.Alive, "WATCHDOG=1"},
		{n.Reloading, "RELOADING=1\nMONOTONIC_USEC="},
		{n.Stopping, "STOPPING=1"},
		{func() error { return n.Status("two\nlines") }, "STATUS=two lines"},
	} {
		if err := c.send(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 512)
		size, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(buf[:size]); !strings.HasPrefix(got, c.want) {
			t.Errorf("systemd got %q, want %q", got, c.want)
		}
	}
}

func TestNotifierWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n, err := systemd.NewNotifier()
	if err != nil || n.WatchdogInterval() != 0 {
		t.Fatalf("%v, watchdog %s", err, n.WatchdogInterval())
	}
	for _, send := range []func() error{n.Ready, n.Alive, n.Stopping, n.Reloading} {
		if err := send(); err != nil {
			t.Error(err)
		}
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := systemd.NewNotifier(); err == nil {
		t.Error("WATCHDOG_USEC=soon was taken")
	}
}
