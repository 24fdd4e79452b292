package guard_test

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/boottime"
	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

const (
	settingsVariable = "GUARD_TEST_SETTINGS" // makes "exec" of the test binary a guard
	idVariable       = "GUARD_TEST_ID"       // in every process of one guard
)

// settings are the guard's flags.
type settings struct {
	Agent                     string
	TTL                       time.Duration
	Wait                      time.Duration
	Grace                     time.Duration
	Contain                   guard.Containment
	Require                   bool
	OnLost                    string
	PIDFile, TokenFile        string
	Standby, Restart, Verbose bool
}

// TestMain lets the test binary be the program that is guarded and guards: "exec"
// is what `kahu exec` is, "helper" are commands to be guarded.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "helper" {
		helper(os.Args[2], os.Args[3:])
		os.Exit(0)
	}
	if s, ok := os.LookupEnv(settingsVariable); ok && len(os.Args) > 2 && os.Args[1] == "exec" {
		os.Exit(runGuard(s))
	}
	// Under nohup these would be ignored, and so by every command that is guarded
	// here. What this process handles, its children have at the default.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	os.Exit(m.Run())
}

func runGuard(text string) int {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		panic(err)
	}
	onLost, err := guard.ParseOnLost(cmp.Or(s.OnLost, "term"))
	if err != nil {
		panic(err)
	}
	return guard.Run(guard.Options{
		OnLost: onLost, PIDFile: s.PIDFile, TokenFile: s.TokenFile, Standby: s.Standby, Restart: s.Restart, Verbose: s.Verbose,
		Lock: "invoices", TTL: s.TTL, Wait: s.Wait, Grace: s.Grace,
		Contain: s.Contain, RequireContain: s.Require,
		Command: os.Args[2:], Socket: "/run/kahu/test.sock",
		Agent: agentClient{s.Agent}, Stderr: os.Stderr,
	})
}

// helper is a command to be guarded.
func helper(what string, args []string) {
	report := os.NewFile(3, "report")
	switch what {
	case "signals": // says what it gets, and ends on SIGUSR2
		c := make(chan os.Signal, 100)
		signal.Notify(c, unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGQUIT, syscall.Signal(40))
		fmt.Fprintln(report, "ready")
		for s := range c {
			fmt.Fprintf(report, "signal %d\n", s)
			if s == unix.SIGUSR2 {
				return
			}
		}
	case "reader": // reads a line from the terminal, and says when it goes on
		c := make(chan os.Signal, 10)
		signal.Notify(c, unix.SIGCONT)
		go func() {
			for range c {
				fmt.Println("cont")
			}
		}()
		fmt.Println("run")
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		fmt.Printf("got %s", line)
		os.Exit(4)
	case "clock": // writes the boot time into a file for as long as it lives
		signal.Ignore(unix.SIGTERM, unix.SIGHUP, unix.SIGINT)
		f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			panic(err)
		}
		var b [8]byte
		fmt.Fprintln(report, "ready")
		for range time.Tick(200 * time.Microsecond) {
			binary.LittleEndian.PutUint64(b[:], uint64(boottime.Boottime()))
			if _, err := f.WriteAt(b[:], 0); err != nil {
				panic(err)
			}
		}
	}
}

// guarded is a running guard.
type guarded struct {
	t      testing.TB
	cmd    *exec.Cmd
	id     string
	stdout bytes.Buffer
	stderr bytes.Buffer
	report *bufio.Reader // what the command writes to descriptor 3
	stdin  *os.File      // closing it ends the command's "read x"
}

// start runs a guard around a command. The zero settings are a minute's TTL, no
// limit to the wait, and a second of grace.
func (a *fakeAgent) start(s settings, command ...string) *guarded {
	a.t.Helper()
	g := a.prepare(s, command...)
	g.cmd.Stdout, g.cmd.Stderr = &g.stdout, &g.stderr
	g.run()
	return g
}

// prepare does all of start but running.
func (a *fakeAgent) prepare(s settings, command ...string) *guarded {
	a.t.Helper()
	s.Agent = a.path
	if s.TTL == 0 {
		s.TTL = time.Minute
	}
	if s.Wait == 0 {
		s.Wait = -1
	}
	if s.Grace == 0 {
		s.Grace = time.Second
	}
	if s.Contain == "" {
		s.Contain = guard.Auto
	}
	text, err := json.Marshal(s)
	must(a.t, err)
	g := &guarded{t: a.t, id: fmt.Sprintf("%s-%d", a.t.Name(), time.Now().UnixNano())}
	g.cmd = exec.Command("/proc/self/exe", append([]string{"exec"}, command...)...)
	g.cmd.Env = append(os.Environ(), settingsVariable+"="+string(text), idVariable+"="+g.id)
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell does with a job
	return g
}

func (g *guarded) run() {
	g.t.Helper()
	r, w, err := os.Pipe()
	must(g.t, err)
	g.t.Cleanup(func() { r.Close() })
	g.report = bufio.NewReader(r)
	g.cmd.ExtraFiles = []*os.File{w}
	if g.cmd.Stdin == nil {
		in, out, err := os.Pipe()
		must(g.t, err)
		g.cmd.Stdin, g.stdin = in, out
		defer in.Close()
		g.t.Cleanup(func() { out.Close() })
	}
	must(g.t, g.cmd.Start())
	w.Close()
	must(g.t, r.SetReadDeadline(time.Now().Add(patience)))
	g.t.Cleanup(func() {
		for _, p := range g.processes() {
			if g.t.Failed() {
				g.t.Logf("left over: %v", p)
			} else {
				g.t.Errorf("left over: %v", p)
			}
			_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
		}
		if g.cmd.ProcessState == nil {
			_ = g.cmd.Wait()
		}
		if g.t.Failed() {
			g.t.Logf("the guard's stderr: %s", &g.stderr)
		}
	})
}

// says waits for lines of the command on descriptor 3.
func (g *guarded) says(lines ...string) {
	g.t.Helper()
	for _, want := range lines {
		got, err := g.report.ReadString('\n')
		if err != nil || got != want+"\n" {
			g.t.Fatalf("the command said %q (%v), want %q; stderr: %s", got, err, want, &g.stderr)
		}
	}
}

// wait waits for the end of the face.
func (g *guarded) wait() unix.WaitStatus {
	g.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = g.cmd.Process.Kill() })
	defer timer.Stop()
	err := g.cmd.Wait()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		g.t.Fatal(err)
	}
	return unix.WaitStatus(g.cmd.ProcessState.Sys().(syscall.WaitStatus))
}

// exits waits for the face to exit with a code.
func (g *guarded) exits(code int) {
	g.t.Helper()
	if s := g.wait(); !s.Exited() || s.ExitStatus() != code {
		g.t.Fatalf("the guard ended with %s, want exit code %d; stderr: %s", describe(s), code, &g.stderr)
	}
}

func describe(s unix.WaitStatus) string {
	if s.Signaled() {
		return "signal " + s.Signal().String()
	}
	return "exit code " + strconv.Itoa(s.ExitStatus())
}

// A process is one of a guard, seen from outside.
type process struct {
	pid, pidfd int
	name       string // comm
}

func (p process) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.name) }

// processes finds every living process that has the guard's mark in its
// environment.
func (g *guarded) processes() (found []process) {
	g.t.Helper()
	entries, err := os.ReadDir("/proc")
	must(g.t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !strings.Contains("\x00"+string(env), "\x00"+idVariable+"="+g.id+"\x00") {
			unix.Close(fd)
			continue
		}
		comm, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		g.t.Cleanup(func() { unix.Close(fd) })
		found = append(found, process{pid, fd, strings.TrimSpace(string(comm))})
	}
	return found
}

// stages are the three processes of a guard; rest is the command's tree.
type stages struct {
	face, keeper, init process
	rest               []process
}

func (g *guarded) stages() (s stages) {
	g.t.Helper()
	for _, p := range g.processes() {
		switch {
		case p.pid == g.cmd.Process.Pid:
			s.face = p
		case p.name == "kahu-keeper":
			s.keeper = p
		case p.name == "kahu-init":
			if s.init.pid != 0 {
				g.t.Errorf("there are two inits: %v and %v", s.init, p)
			}
			s.init = p
		default:
			s.rest = append(s.rest, p)
		}
	}
	if s.face.pid == 0 || s.keeper.pid == 0 || s.init.pid == 0 {
		g.t.Fatalf("not all stages are there: %+v", s)
	}
	return s
}

func (s stages) all() []process { return append([]process{s.face, s.keeper, s.init}, s.rest...) }

func fds(ps []process) (fds []int) {
	for _, p := range ps {
		fds = append(fds, p.pidfd)
	}
	return fds
}

// dead waits until all of them have ended.
func (g *guarded) dead(ps ...process) {
	g.t.Helper()
	for _, p := range ps {
		if len(pollDead(g.t, patience, p.pidfd)) > 0 {
			g.t.Fatalf("%v still lives", p)
		}
	}
}

func (g *guarded) kill(s syscall.Signal, ps ...process) {
	g.t.Helper()
	for _, p := range ps {
		err := unix.PidfdSendSignal(p.pidfd, s, nil, 0)
		if s == unix.SIGKILL && err == unix.ESRCH {
			continue // of those before
		}
		must(g.t, err)
	}
}
