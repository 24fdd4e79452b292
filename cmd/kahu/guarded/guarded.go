// Package guarded is `kahu exec` between its flags and package guard: what the
// flags mean, and how the guard speaks to the agent.
//
// It promises that the keeper (see package guard) starts before the rest of the
// program is initialised, as package stage does it for the face and the init: a
// guard that waits is a process for each command, and what the other commands of
// kahu need would cost it milliseconds and megabytes. It imports little for that
// reason, and a test holds it to that. What it cannot read by itself (a wrong
// flag, --help) it leaves to the command in package main, which has the same
// flags and says what is wrong.
package guarded

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path" // not path/filepath: see package stage
	"strings"

	"github.com/kahu-sh/kahu/integrations/guard"
	"github.com/kahu-sh/kahu/integrations/guard/stage"
	"github.com/kahu-sh/kahu/localapi/client/hold"
	"github.com/kahu-sh/kahu/localapi/holdwire"
)

func init() {
	if stage.Keeper() == nil || len(os.Args) < 2 || os.Args[1] != "exec" {
		return
	}
	var f Flags
	command, ok := f.parse(os.Args[2:])
	if !ok {
		return
	}
	if o, err := f.Options(f.socket, command, os.Stderr); err == nil {
		os.Exit(guard.Run(o))
	}
}

// Flags are those of kahu exec as they were written.
type Flags struct {
	lock, ttl, wait, grace, contain, onLost string
	reason, name, pidFile, tokenFile        string
	ephemeral, require, restart, verbose    bool
	standby                                 bool

	socket string // of parse alone; elsewhere it is a flag of every command
}

// Register adds the flags to a set.
func (f *Flags) Register(s *flag.FlagSet) {
	s.StringVar(&f.lock, "lock", "", "the lock's `name`")
	s.StringVar(&f.ttl, "ttl", "30s", "`length` of the lease: how long an unreachable host keeps the lock")
	s.StringVar(&f.wait, "wait", holdwire.Forever, "how long to stand in line: a `duration`, 0 for not at all, or forever")
	s.StringVar(&f.grace, "grace", "5s", "`time` between SIGTERM and SIGKILL; a part of the lease is kept for it")
	s.StringVar(&f.contain, "contain", string(guard.Auto), "what keeps its processes together: auto, pidns, cgroup, pgroup, userns or ptrace")
	s.BoolVar(&f.require, "require-contain", false, "rather fail than use something weaker than --contain; with auto, than pidns")
	s.BoolVar(&f.ephemeral, "ephemeral", false, "use the table of locks that is not backed up")
	s.StringVar(&f.onLost, "on-lost", "term", "what the command gets when the lease is lost: term, kill, freeze, signal:`NAME` or run:COMMAND; SIGKILL follows after --grace")
	s.StringVar(&f.pidFile, "pid-file", "", "`file` with the pid to send signals to, there while the command runs")
	s.StringVar(&f.tokenFile, "token-file", "", "`file` with the fencing token, there while the command runs")
	s.BoolVar(&f.standby, "standby", false, "stay ready: wait for ever, also for the agent, and run when the other is gone")
	s.BoolVar(&f.restart, "restart", false, "after a lost lease stand in line again, as with --standby, and run the command again under its new token")
	s.BoolVar(&f.verbose, "verbose", false, "say when the lock is held, and what contains the command")
	s.StringVar(&f.name, "name", "", "shown in place of the command to whoever asks who holds the lock")
	s.StringVar(&f.reason, "reason", "", "shown to whoever asks who holds the lock")
}

// Exclusive are the pairs of flags that do not go together.
var Exclusive = [][2]string{{"standby", "wait"}}

// parse reads "--flag value", "--flag=value" and "--flag" up to the command. It is
// not ok when there is anything else in it, or no command.
func (f *Flags) parse(args []string) (command []string, ok bool) {
	s := flag.NewFlagSet("exec", flag.ContinueOnError)
	f.Register(s)
	s.StringVar(&f.socket, "socket", "", "")
	given := map[string]bool{}
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" {
			args = args[1:]
			break
		}
		if !strings.HasPrefix(arg, "-") {
			break
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		known := s.Lookup(name)
		if !strings.HasPrefix(arg, "--") || known == nil {
			return nil, false
		}
		args = args[1:]
		if b, ok := known.Value.(interface{ IsBoolFlag() bool }); !hasValue && ok && b.IsBoolFlag() {
			value, hasValue = "true", true
		}
		if !hasValue {
			if len(args) == 0 {
				return nil, false
			}
			value, args = args[0], args[1:]
		}
		if s.Set(name, value) != nil {
			return nil, false
		}
		given[name] = true
	}
	for _, pair := range Exclusive {
		if given[pair[0]] && given[pair[1]] {
			return nil, false
		}
	}
	return args, len(args) > 0
}

// Options checks what was written, for a command of at least one word. The error
// is for the user.
func (f *Flags) Options(socket string, command []string, stderr io.Writer) (o guard.Options, err error) {
	if f.lock == "" {
		return o, errors.New("--lock is missing: name the lock that the command needs")
	}
	o.Lock = f.lock
	if o.TTL, err = holdwire.ParseTTL(f.ttl); err != nil {
		return o, fmt.Errorf("--ttl: %w", err)
	}
	if o.Wait, err = holdwire.ParseWait(f.wait); err != nil {
		return o, fmt.Errorf("--wait: %w", err)
	}
	if o.Grace, err = holdwire.ParseGrace(f.grace); err != nil {
		return o, fmt.Errorf("--grace: %w", err)
	}
	if o.Contain, err = guard.ParseContainment(f.contain); err != nil {
		return o, fmt.Errorf("--contain: %w", err)
	}
	if o.OnLost, err = guard.ParseOnLost(f.onLost); err != nil {
		return o, fmt.Errorf("--on-lost: %w", err)
	}
	if o.Socket = hold.DefaultSocket(socket); !path.IsAbs(o.Socket) {
		dir, err := os.Getwd()
		if err != nil {
			return o, err
		}
		o.Socket = path.Join(dir, o.Socket)
	}
	o.PIDFile, o.TokenFile = f.pidFile, f.tokenFile
	o.Standby, o.Restart, o.Verbose = f.standby, f.restart, f.verbose
	o.RequireContain, o.Command, o.Stderr = f.require, command, stderr
	o.Agent = &agent{
		where: hold.Where{Socket: o.Socket},
		hold: hold.Options{
			Lock: f.lock, Ephemeral: f.ephemeral, TTL: o.TTL, Wait: o.Wait, Grace: o.Grace,
			// Without the arguments: they may hold a secret, and go to every voter's disk.
			Command: cmp.Or(f.name, command[0]), Reason: f.reason,
			Process: true, NeedAck: true,
		},
	}
	return o, nil
}
