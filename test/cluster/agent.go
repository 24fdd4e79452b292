package cluster

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// An Agent is one agent process of a Cluster, running or not. What starts or ends
// it is for one goroutine at a time; others may look and wait meanwhile.
type Agent struct {
	Name   string
	Voter  bool
	Dir    string // holds data/, kahu.sock and agent.log
	Socket string
	Bind   string // address that it listens on
	// What the next start takes: a kahu other than Options.Binary, empty for that
	// one, and arguments after those of all agents.
	Binary string
	Args   []string

	namespace string   // see Place
	upstream  []string // see AddUpstream
	cluster   *Cluster
	process   atomic.Pointer[process] // nil before the first start
}

// Pid is the process id, or 0 when it does not run.
func (a *Agent) Pid() int {
	if !a.Running() {
		return 0
	}
	return a.process.Load().cmd.Process.Pid
}

// Running reports whether the process has been started and not been reaped.
func (a *Agent) Running() bool {
	p := a.process.Load()
	return p != nil && p.alive()
}

// Start starts the process with the flags of its role, and returns at once; see
// Cluster.WaitServing. What it logs is appended to agent.log.
func (a *Agent) Start() error {
	if a.Running() {
		return fmt.Errorf("agent %s runs already", a.Name)
	}
	log, err := os.OpenFile(filepath.Join(a.Dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of agent %s: %w", a.Name, err)
	}
	defer log.Close() // the child has its own descriptor
	line := append([]string{cmp.Or(a.Binary, a.cluster.binary)}, a.args()...)
	if a.namespace != "" {
		line = append([]string{"ip", "netns", "exec", a.namespace}, line...) // ip becomes the agent: one process
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(environment(), a.cluster.options.Env...)
	p, err := a.cluster.spawner.run(cmd)
	if err != nil {
		return fmt.Errorf("starting agent %s: %w", a.Name, err)
	}
	a.process.Store(p)
	return nil
}

// args is the command line.
func (a *Agent) args() []string {
	c := a.cluster
	if len(a.upstream) > 0 {
		return append([]string{"agent", "--node-name", a.Name, "--data-dir", filepath.Join(a.Dir, "data"), "--socket", a.Socket,
			"--upstream", strings.Join(a.upstream, ",")}, a.Args...)
	}
	args := []string{
		"agent",
		"--node-name", a.Name,
		"--data-dir", filepath.Join(a.Dir, "data"),
		"--socket", a.Socket,
		"--bind", a.Bind,
		"--secret-file", c.secretFile,
	}
	if joins := c.joins(a); len(joins) > 0 {
		args = append(args, "--join", strings.Join(joins, ","))
	}
	if a.Voter {
		args = append(args, "--role", "voter", "--storage", c.options.Storage, "--bootstrap-expect", strconv.Itoa(c.options.Voters))
	} else {
		args = append(args, "--role", "proxy")
	}
	return append(append(args, c.options.Args...), a.Args...)
}

// Kill ends the process by SIGKILL and waits until it is reaped.
func (a *Agent) Kill() error { return a.end(syscall.SIGKILL) }

// Terminate asks the process to end and waits until it is reaped, for at most
// 20 seconds; then it is killed, and that is an error.
func (a *Agent) Terminate() error { return a.end(syscall.SIGTERM) }

func (a *Agent) end(sig syscall.Signal) error {
	if !a.Running() {
		return fmt.Errorf("agent %s does not run", a.Name)
	}
	if err := a.process.Load().signal(sig); err != nil {
		return fmt.Errorf("sending %s to agent %s: %w", sig, a.Name, err)
	}
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	select {
	case <-a.process.Load().exited:
		return nil
	case <-late.C:
		_ = a.process.Load().signal(syscall.SIGKILL) // it runs: a zombie would have been reaped
		<-a.process.Load().exited
		return fmt.Errorf("agent %s did not end within 20 s of %s; the end of its log:\n%s", a.Name, sig, a.LogTail(20))
	}
}

// Pause stops the process as SIGSTOP does; Resume lets it go on.
func (a *Agent) Pause() error { return a.process.Load().signal(syscall.SIGSTOP) }

// Resume is the counterpart of Pause.
func (a *Agent) Resume() error { return a.process.Load().signal(syscall.SIGCONT) }

// LogTail is the last lines of what the agent wrote, for messages.
func (a *Agent) LogTail(lines int) string {
	text, err := os.ReadFile(filepath.Join(a.Dir, "agent.log"))
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	all := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Command returns `kahu ARGS` with its environment set to this agent's socket.
// It is killed when ctx ends. It has a process group of its own: when a test
// stops one process of a guard and ends another, the kernel may hang up on the
// group (POSIX: a newly orphaned process group with a stopped member), and that
// must not be the test's own.
func (a *Agent) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, a.cluster.binary, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(environment(), "KAHU_SOCKET="+a.Socket)
	return cmd
}

// Dial returns a client of this agent. Close it.
func (a *Agent) Dial() *client.Client { return client.New(client.Options{Socket: a.Socket}) }

// Status asks the agent about itself.
func (a *Agent) Status(ctx context.Context) (wire.Status, error) {
	c := a.Dial()
	defer c.Close()
	s, err := c.Status(ctx)
	if err != nil {
		return wire.Status{}, fmt.Errorf("asking agent %s for its status: %w", a.Name, err)
	}
	return s, nil
}

// environment is this program's, without what would configure an agent.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KAHU_") })
}
