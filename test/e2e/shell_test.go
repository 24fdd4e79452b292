package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/test/cluster"
)

// shellVaries are the parts of a shell's answers that differ from run to run.
var shellVaries = regexp.MustCompile(`\b\d+ms\b|\b[0-9a-f]{32}\b`)

// pipedShell runs kahu shell with an input.
func pipedShell(t *testing.T, a *cluster.Agent, input string, args ...string) (out, errs string, code int) {
	t.Helper()
	cmd := a.Command(t.Context(), append([]string{"shell"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return shellVaries.ReplaceAllString(stdout.String(), "~"), stderr.String(), cmd.ProcessState.ExitCode()
}

// A shell that reads a file answers as Kahuna's does, and stops at the first
// error with its exit code.
func TestShellReadsFiles(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	a := c.Agents[0]
	file := filepath.Join(t.TempDir(), "s.kahuna")
	if err := os.WriteFile(file, []byte("let v = get sha\nreturn concat(v, @suffix)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, a, "kv", "set", "escape", "\x1b[2Jx")
	for _, step := range []struct {
		name, input string
		out, errs   string
		code        int
	}{
		{"keys", "set `sha` 1\nGET `sha`\n\nset `sha` 2 nx\nget nope\nexists `sha`\ndel `sha`\nget `sha`\n",
			"r0 set ~\n\nr0 1 ~\n\nr0 not set ~\n\nr- not found ~\n\nr0 exists ~\n\nr1 deleted ~\n\nr- not found ~\n\n", "", 0},
		{"several lines", "if true then\n  set sha 'x'\n\n  let v = get sha\n  return [v, 1, null]\nend\neset e ''\r\neget e\r\n",
			"r2 x\nr- 1\nr- (empty str)\n~\n\nr0 set ~\n\nr0 (empty str) ~\n\n", "", 0},
		{"a file", "run " + file + " suffix=!\n", "r- x! ~\n\n", "", 0},
		{"locks", "lock l 60000\nlock l 60000\nextend-lock l 90000\nget-lock l\nelock l 60000\nunlock l\nget-lock l\nexit\nset z 1\n",
			"f0 acquired ~\n\nf0 acquired ~\n\nf0 extended ~\n\nf0 ~\n\nf0 acquired ~\n\nunlocked\n\nnot found\n\n", "", 0},
		{"sequences", "create-sequence s 0 2 100\nnext-sequence s\nreserve-sequence s 3 key\nreserve-sequence s 3 key\nget-sequence s\ndelete-sequence s\nget-sequence s\n",
			"r0 created s current 0 increment 2 max 100\n\nnext s 2\n\nreserved s 4..8 count 3\n\nreserved s 4..8 count 3\n\nr2 get s current 8 increment 2 max 100\n\ndeleted\n\nnot found\n\n", "", 0},
		{"a syntax error", "set a 1\nset a 2 2\nset a 3\n", "r0 set ~\n\n", "kahu: Syntax error, unexpected", 1},
		{"a thrown error", "set a 4 throw 'no'\nset a 5\n", "", "kahu: no at line 1\n", 1},
		{"no end", "set a 6\nbegin set a 7\n", "r1 set ~\n\n", "unexpected EOF", 1},
		{"wrong arguments", "lock l\nset a 8\n", "", "kahu: usage: lock NAME MS\n", 64},
		{"no such file", "run /nowhere/at/all\n", "", "cannot be read", 64},
		{"the value that counts", "get a\n", "r1 6 ~\n\n", "", 0},
		{"what a terminal must not get", "get escape\n", "r0 \"\\x1b[2Jx\" ~\n\n", "", 0},
	} {
		out, errs, code := pipedShell(t, a, step.input)
		if out != step.out || code != step.code || !strings.Contains(errs, step.errs) || (step.errs == "") != (errs == "") {
			t.Errorf("%s: exit code %d\n%q\n%q\nwant %d\n%q\n%q", step.name, code, out, errs, step.code, step.out, step.errs)
		}
	}
	// A lock of another stops a file; what the shell has locked itself is free again.
	must(t, a, "lock", "try", "gate", "--owner", "me", "--ttl", "10m")
	if out, errs, code := pipedShell(t, a, "lock mine 60000\nlock gate 60000\nset a never\n"); code != 3 || out != "f0 acquired ~\n\nnot acquired\n\n" || errs != "" {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
	must(t, a, "lock", "try", "mine", "--owner", "me", "--ttl", "10m")
	if out, _, code := pipedShell(t, a, "set j 1\nget-lock none\nlock j 1000\n", "--output", "json"); code != 0 ||
		!strings.HasPrefix(out, `{"type":"set","values":[{"key":"j"`) || !strings.Contains(out, "\nnull\n") || !strings.Contains(out, `"fencing_token":0`) {
		t.Errorf("exit code %d, %s", code, out)
	}
	if out, errs, code := pipedShell(t, a, "cluster members\n"); code != 0 || !strings.Contains(out, "voter") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
}

// A terminalSession is a shell on a terminal of its own.
type terminalSession struct {
	t    *testing.T
	cmd  *exec.Cmd
	ptmx *os.File
	read sync.WaitGroup

	mu   sync.Mutex
	seen string
}

// openTerminal starts kahu shell on a new pseudo-terminal.
func openTerminal(t *testing.T, a *cluster.Agent, history string) *terminalSession {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(ptmx.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 200}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	s := &terminalSession{t: t, ptmx: ptmx, cmd: a.Command(t.Context(), "shell", "--history", history)}
	s.cmd.Env = append(s.cmd.Environ(), "NO_COLOR=1", "TERM=xterm")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.read.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, err := ptmx.Read(buffer)
			s.mu.Lock()
			s.seen += string(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				return // the shell has ended
			}
		}
	})
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		_ = s.cmd.Wait()
		_ = ptmx.Close()
		s.read.Wait()
	})
	s.expect("kahu> ")
	return s
}

// expect waits for a text, and forgets what came before its end.
func (s *terminalSession) expect(text string) {
	s.t.Helper()
	ctx := bounded(s.t, 20*time.Second)
	if err := cluster.Wait(ctx, fmt.Sprintf("the terminal shows %q", text), func(context.Context) (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, after, ok := strings.Cut(s.seen, text)
		if ok {
			s.seen = after
		}
		return ok, nil
	}); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Fatalf("%v; it shows %q", err, s.seen)
	}
}

// running waits until the terminal is no longer read from: Ctrl-C is a signal.
func (s *terminalSession) running() {
	s.t.Helper()
	if err := cluster.Wait(bounded(s.t, 20*time.Second), "Ctrl-C is a signal", func(context.Context) (bool, error) {
		now, err := unix.IoctlGetTermios(int(s.ptmx.Fd()), unix.TCGETS)
		return err == nil && now.Lflag&unix.ISIG != 0, err
	}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *terminalSession) enter(keys string) {
	s.t.Helper()
	if _, err := s.ptmx.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// At a terminal there are a prompt, history over sessions, completion, lines that
// go on, and errors that do not end it.
func TestShellAtATerminal(t *testing.T) {
	c := startCluster(t, cluster.Options{Voters: 1})
	a := c.Agents[0]
	history := filepath.Join(t.TempDir(), "state", "history")
	s := openTerminal(t, a, history)
	s.enter("set a 41\r")
	s.expect("r0 set ")
	s.enter("begin\r")
	s.expect("  ... ")
	s.enter("let n = get a\rset a n + 1\rcommit\rend\r")
	s.expect("ms\r\n\r\nkahu> ")
	s.enter("get a\r")
	s.expect("r1 42 ")
	s.enter("throw 'no'\r")
	s.expect("no at line 1")
	s.enter("create-s\t t\r") // one word fits
	s.expect("created t current 0")
	s.enter("to_b\t\t") // two do, both with to_bool
	s.expect("to_bool  to_boolean")
	s.enter("\x03")
	s.expect("kahu> ")
	s.enter("begin\rset a 0\r")
	s.expect("  ... ")
	s.enter("set a\x03") // drops all of it
	s.expect("kahu> ")
	s.enter("get a\r")
	s.expect("r1 42 ")
	s.enter("lock l 600000\r")
	s.expect("f0 acquired ")
	s.enter("sleep 60000\r")
	s.expect("sleep 60000\r\n")
	s.running()
	s.enter("\x03") // now a signal
	s.expect("kahu> ")
	s.enter("\x04")
	s.expect("Disposing persistent lock ")
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("leaving: %v", err)
	}
	must(t, a, "lock", "try", "l", "--owner", "me", "--ttl", "10m")
	if info, err := os.Stat(history); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the history: %v, %v", info, err)
	}
	again := openTerminal(t, a, history)
	again.enter("\x1b[A\x1b[A\x1b[A\r") // up to "get a", over sleep and lock
	again.expect("r1 42 ")
	again.enter("exit\r")
	if err := again.cmd.Wait(); err != nil {
		t.Errorf("leaving: %v", err)
	}
}
