package guard

import (
	"errors"
	"fmt"
	"os"
	slashed "path"
	"strconv"
	"strings"
	"syscall"

	"github.com/kahu-sh/kahu/integrations/guard/stage"
	"golang.org/x/sys/unix"
)

// OnLost says how the command is told that its lease is lost. Whatever it says,
// SIGKILL follows one grace later, and before the deadline in any case. The zero
// value sends SIGTERM.
type OnLost struct {
	signal syscall.Signal // 0: SIGTERM
	run    string         // for sh, inside the tree, in place of a signal
}

// ParseOnLost reads the value of a flag: term, kill, freeze, signal:NAME or
// run:COMMAND.
func ParseOnLost(s string) (OnLost, error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch {
	case s == "term":
		return OnLost{}, nil
	case s == "kill":
		return OnLost{signal: unix.SIGKILL}, nil
	case s == "freeze":
		return OnLost{signal: unix.SIGSTOP}, nil
	case kind == "run" && strings.TrimSpace(rest) != "" && !strings.Contains(rest, "\x00"):
		if len(rest) > maxRunBytes {
			return OnLost{}, fmt.Errorf("the command of run: has %d bytes, and may have %d", len(rest), maxRunBytes)
		}
		return OnLost{run: rest}, nil
	case kind == "signal":
		name := strings.ToUpper(rest)
		if !strings.HasPrefix(name, "SIG") {
			name = "SIG" + name
		}
		if n := unix.SignalNum(name); n != 0 {
			return OnLost{signal: n}, nil
		}
		return OnLost{}, fmt.Errorf("there is no signal %q; one is signal:USR1", rest)
	}
	return OnLost{}, fmt.Errorf("%q is none of term, kill, freeze, signal:NAME and run:COMMAND", s)
}

// maxRunBytes keeps the command well below what one message between stages takes.
const maxRunBytes = 8 << 10

// files are the pid file and the token file of one command.
func (o *Options) files(token int64) stage.Files {
	f := stage.Files{}
	if o.PIDFile != "" {
		f[o.PIDFile] = strconv.Itoa(stage.FacePID()) + "\n" // who signals the face signals the command
	}
	if o.TokenFile != "" {
		f[o.TokenFile] = strconv.FormatInt(token, 10) + "\n"
	}
	return f
}

// writeFiles makes them, each whole or not at all. It is called before the command
// starts.
func writeFiles(files stage.Files) error {
	var failed error
	for path, text := range files {
		failed = errors.Join(failed, replaceFile(path, text))
	}
	return failed
}

func replaceFile(path, text string) error {
	f, err := os.CreateTemp(slashed.Dir(path), "."+slashed.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
