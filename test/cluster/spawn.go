package cluster

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// A spawner forks every process from one thread that lives until close.
// PDEATHSIG fires when the thread that forked ends, not when the process does,
// so an ordinary goroutine would kill agents at random.
type spawner struct {
	work chan func()
	once sync.Once
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{work: make(chan func()), done: make(chan struct{})}
	go func() { // ends with close
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range s.work {
			f()
		}
	}()
	return s
}

// start starts cmd so that it dies with this program.
func (s *spawner) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error, 1)
	s.work <- func() { result <- cmd.Start() }
	return <-result
}

// close ends the thread, and with it every process that still lives.
func (s *spawner) close() {
	s.once.Do(func() { close(s.work) })
	<-s.done
}

// A process is one started command, reaped by its own goroutine.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it was reaped
	err    error         // of Wait; read after exited
}

func (s *spawner) run(cmd *exec.Cmd) (*process, error) {
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() { // ends with the process
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// signal sends a signal; to a process that has ended it does nothing.
func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// alive reports whether the process has not been reaped.
func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}
