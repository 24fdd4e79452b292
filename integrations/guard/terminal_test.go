package guard_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

// A terminal is a pseudo-terminal with an interactive shell in it, as a user has.
type terminal struct {
	t      *testing.T
	master *os.File
	id     string      // in the environment of every process below
	output chan string // what the shell and its jobs write, as it comes
	seen   string      // not yet matched
}

// newTerminal starts a shell in which $guard is a guard on this rung.
func newTerminal(t *testing.T, a *fakeAgent, rung guard.Containment) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer slave.Close()

	text, err := json.Marshal(settings{Agent: a.path, TTL: time.Minute, Wait: -1, Grace: time.Second, Contain: rung, Require: true})
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command("bash", "--norc", "--noprofile", "-i")
	id := fmt.Sprintf("terminal-%d-%d", n, time.Now().UnixNano())
	cmd.Env = append(os.Environ(), idVariable+"="+id, settingsVariable+"="+string(text), "guard="+self, "PS1=prompt> ", "PS2=", "TERM=dumb")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())

	term := &terminal{t: t, id: id, master: os.NewFile(uintptr(fd), "terminal"), output: make(chan string, 1000)}
	done := make(chan struct{})
	go func() { // ends when the terminal is closed
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := term.master.Read(b)
			if err != nil {
				close(term.output)
				return
			}
			term.output <- string(b[:n])
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		term.master.Close() // hangs up
		<-done
	})
	term.types("stty -echo; bind 'set enable-bracketed-paste off' 2>/dev/null; echo re\"\"ady\n")
	term.shows("ready\r\n")
	return term
}

func (term *terminal) types(s string) {
	term.t.Helper()
	_, err := term.master.WriteString(s)
	must(term.t, err)
}

// shows waits for text and forgets what came before it.
func (term *terminal) shows(want string) {
	term.t.Helper()
	timeout := time.After(patience)
	for {
		if _, rest, ok := strings.Cut(term.seen, want); ok {
			term.seen = rest
			return
		}
		select {
		case s, ok := <-term.output:
			if !ok {
				term.t.Fatalf("the terminal closed; want %q after %q", want, term.seen)
			}
			term.seen += s
		case <-timeout:
			term.t.Fatalf("the terminal shows %q, want %q", term.seen, want)
		}
	}
}

// stopped waits until a process with the variable and the words in its command
// line is there and stopped, with each of its threads: /proc/PID/stat shows the
// first alone, and another may be in the middle of a read that was woken by the
// signal and still takes the line that is typed next.
func stopped(t *testing.T, variable, words string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); runtime.Gosched() {
		entries, err := os.ReadDir("/proc")
		must(t, err)
		for _, e := range entries {
			line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
			if err != nil || !strings.Contains(string(line), words) || strings.HasPrefix(string(line), "kahu-") {
				continue
			}
			env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
			if strings.Contains(string(env), variable+"\x00") && !strings.Contains(string(line), "exec\x00") && allStopped(filepath.Join("/proc", e.Name(), "task")) {
				return
			}
		}
	}
	t.Fatalf("no %q was stopped", words)
}

// allStopped looks at the threads in /proc/PID/task.
func allStopped(task string) bool {
	threads, err := os.ReadDir(task)
	for _, thread := range threads {
		stat, _ := os.ReadFile(filepath.Join(task, thread.Name(), "stat"))
		_, state, _ := strings.Cut(string(stat), ") ")
		if !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return err == nil && len(threads) > 0
}

func TestJobControl(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash here")
	}
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		start := func(t *testing.T, line string) (*terminal, *peer) {
			t.Helper()
			a := newAgent(t)
			term := newTerminal(t, a, rung)
			term.types(line + "; echo status=$?\n")
			p := a.accept()
			p.grant(time.Minute)
			return term, p
		}
		t.Run("Ctrl-C", func(t *testing.T) {
			term, p := start(t, `"$guard" exec sh -c 'echo run; exec sleep 1000'`)
			term.shows("run\r\n")
			term.types("\x03")
			p.release()
			// Dead by SIGINT, so the shell drops the rest of the line.
			term.types("echo status=$?\n")
			term.shows("status=130\r\n")
		})
		t.Run("Ctrl-C that the command handles", func(t *testing.T) {
			term, p := start(t, `"$guard" exec sh -c 'n=0; trap "n=\$((n+1)); echo int" INT; echo run; read x; read x; echo n=$n; exit 3'`)
			term.shows("run\r\n")
			term.types("\x03")
			term.shows("int\r\n")
			term.types("x\nx\n")
			term.shows("n=1\r\n")
			p.release()
			term.shows("status=3\r\n")
		})
		t.Run("Ctrl-backslash", func(t *testing.T) {
			term, p := start(t, `"$guard" exec sh -c 'echo run; exec sleep 1000'`)
			term.shows("run\r\n")
			term.types("\x1c")
			p.release()
			term.shows("status=131\r\n")
		})
		t.Run("Ctrl-Z and fg", func(t *testing.T) {
			term, p := start(t, `"$guard" exec "$guard" helper reader`)
			term.shows("run\r\n")
			for range 2 {
				term.types("\x1a")
				term.shows("Stopped")
				term.shows("status=148\r\n")
				term.shows("prompt> ")
				// A reader that was woken by the signal and has not run since would
				// still take a line that comes first.
				stopped(t, idVariable+"="+term.id, "helper\x00reader")
				term.types("jobs; echo in the shell\n")
				term.shows("in the shell\r\n")
				term.shows("prompt> ")
				// The lock stays: a stopped command may go on at any time.
				p.event(until(guard.Renewed, time.Minute))
				term.types("fg; echo status=$?\n")
				term.shows("cont\r\n") // in the foreground again
			}
			term.types("hello\n")
			term.shows("got hello\r\n")
			p.release()
			term.shows("status=4\r\n")
		})
		t.Run("bg and kill", func(t *testing.T) {
			term, p := start(t, `"$guard" exec sh -c 'echo run; exec sleep 1000'`)
			term.shows("run\r\n")
			term.types("\x1a")
			term.shows("status=148\r\n")
			term.shows("prompt> ")
			term.types("bg; kill %1; wait %1; echo status=$?\n")
			p.release()
			term.shows("status=143\r\n")
		})
		t.Run("pipe", func(t *testing.T) {
			term, p := start(t, `"$guard" exec sh -c 'echo a; echo b' | tr ab xy`)
			p.release()
			term.shows("x\r\ny\r\n")
			term.shows("status=0\r\n")
		})
		t.Run("shell inside", func(t *testing.T) {
			term, p := start(t, `"$guard" exec bash --norc --noprofile -i`)
			term.types("echo inner$((1+1)) $KAHU_FENCING_TOKEN\n")
			term.shows("inner2 7\r\n")
			term.types("\"$guard\" helper reader\n") // the inner shell's own job
			term.shows("run\r\n")
			term.types("\x1a")
			term.shows("Stopped")
			term.shows("prompt> ")
			term.types("fg\n")
			term.shows("cont\r\n")
			term.types("\x03") // and the terminal forgets what was typed ahead
			term.shows("prompt> ")
			term.types("echo inner=$?\n")
			term.shows("inner=130\r\n")
			term.types("exit 7\n")
			p.release()
			term.shows("status=7\r\n")
			term.types("echo outer$((1+1))\n")
			term.shows("outer2\r\n")
		})
		t.Run("hang-up", func(t *testing.T) {
			term, p := start(t, `"$guard" exec sh -c 'echo run; exec sleep 1000'`)
			term.shows("run\r\n")
			term.master.Close()
			p.release()
			if rung == guard.PIDNS && len(pollDead(t, patience, p.pidfds[0])) > 0 {
				t.Error("the tree outlived its terminal")
			}
		})
	})
}
