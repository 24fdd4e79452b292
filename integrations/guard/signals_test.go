package guard_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/integrations/guard"
	"golang.org/x/sys/unix"
)

func TestSignalsReachTheCommandOnce(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		g := a.start(settings{Contain: rung}, "/proc/self/exe", "helper", "signals")
		p := a.accept()
		p.grant(time.Minute)
		g.says("ready")
		face := g.cmd.Process.Pid
		// To the face alone.
		for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, 40} {
			must(t, unix.Kill(face, s))
			g.says("signal " + number(s))
		}
		// To the whole job, as Ctrl-C and kill %1 are. A copy too many would come
		// before the next signal.
		for range 3 {
			for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
				must(t, unix.Kill(-face, s))
				g.says("signal " + number(s))
				must(t, unix.Kill(face, unix.SIGUSR1))
				g.says("signal " + number(unix.SIGUSR1))
			}
		}
		must(t, unix.Kill(face, unix.SIGUSR2))
		g.says("signal " + number(unix.SIGUSR2))
		p.release()
		g.exits(0)
	})
}

func number(s syscall.Signal) string {
	if s < 10 {
		return string(rune('0' + s))
	}
	return string(rune('0'+s/10)) + string(rune('0'+s%10))
}

func TestIgnoredSignalsStayIgnored(t *testing.T) {
	eachRung(t, func(t *testing.T, rung guard.Containment) {
		a := newAgent(t)
		g := a.prepare(settings{Contain: rung}, "sh", "-c", "kill -HUP $$; kill -INT $$; kill -TSTP $$; echo lives >&3")
		// A shell that ignores starts the guard: nohup, and what runs behind an &.
		self, err := os.Executable()
		must(t, err)
		g.cmd.Path, _ = "/bin/sh", self
		g.cmd.Args = append([]string{"sh", "-c", `trap '' HUP INT TSTP; exec "$0" "$@"`, self}, g.cmd.Args[1:]...)
		g.cmd.Stderr = &g.stderr
		g.run()
		p := a.accept()
		p.grant(time.Minute)
		g.says("lives")
		p.release()
		g.exits(0)
	})
}

// A copied marker must not make a process a stage.
func TestAMarkerAloneDoesNothing(t *testing.T) {
	for _, claim := range []string{
		"kahu-keeper 200 1 false 0", "kahu-init 200 0 true 0", "kahu-init 0 0 false 0", "", "nonsense", "kahu-keeper 3 x y z",
	} {
		a := newAgent(t)
		g := a.prepare(settings{}, "sh", "-c", `echo "${KAHU_GUARD_STAGE-unset}" >&3`)
		g.cmd.Env = append(g.cmd.Env, "KAHU_GUARD_STAGE="+claim)
		g.cmd.Stderr = &g.stderr
		g.run()
		p := a.accept()
		p.grant(time.Minute)
		g.says("unset")
		p.release()
		g.exits(0)
	}
}
