package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/replication/script"
)

func newShellCommand(g *globals) *cobra.Command {
	var history string
	cmd := &cobra.Command{
		Use:   "shell",
		Short: "A prompt for scripts, locks and sequences",
		Long: `A prompt that understands what Kahuna's own shell does: scripts, of one line or
of several (it asks on until begin has its end), locks, sequences, run FILE.
help lists them. Tab completes words, the arrows walk through what was typed in
this and earlier sessions. Ctrl-C drops what was typed or stops what runs; at an
empty prompt it leaves, as Ctrl-D does. Locks taken here are unlocked on leaving.

Without a terminal it reads standard input in the same way, without prompts, and
stops at the first error with its exit code; a lock that another holds is an
error then (3). A condition that did not hold and a key that does not exist are
answers, and no errors.`,
		Example: `  kahu shell
  kahu shell < setup.kahuna
  echo 'set a 1; set b 2 nx' | kahu shell`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := &shell{globals: g, client: client.New(client.Options{Socket: client.DefaultSocket(g.socket)}), locks: map[shellLock]string{}}
			defer s.client.Close()
			err := s.open(history)
			if err == nil {
				err = s.loop(cmd.Context())
			}
			return errors.Join(err, s.close(cmd.Context()))
		},
	}
	cmd.Flags().StringVar(&history, "history", "", "`file` of what was typed (default $XDG_STATE_HOME/kahu/shell_history, else ~/.local/state/kahu/shell_history); - for none")
	return cmd
}

// errInterrupted is what a line is when Ctrl-C has dropped it.
var errInterrupted = errors.New("interrupted")

// lineReader gives one line after the other; io.EOF at the end.
type lineReader interface {
	// readLine shows more or less of a prompt: more says that the line goes on
	// with what came before.
	readLine(more bool) (string, error)
	io.Closer
}

// shell is one session. It is used by one goroutine.
type shell struct {
	*globals
	client      *client.Client
	lines       lineReader
	interactive bool
	color       bool
	locks       map[shellLock]string // owner, of those taken here
}

// open finds out who is asking.
func (s *shell) open(history string) error {
	in, ok1 := s.stdin.(*os.File)
	out, ok2 := s.stdout.(*os.File)
	if ok1 && ok2 && term.IsTerminal(int(in.Fd())) && term.IsTerminal(int(out.Fd())) {
		s.interactive = true
		s.color = os.Getenv("NO_COLOR") == "" && s.output == outputText
		fmt.Fprintf(s.stdout, "%s\n\n", s.paint(green, "kahu shell "+version))
		s.lines = newTerminalLines(in, out, history, s.paint(cyan, shellPrompt))
		return nil
	}
	scanner := bufio.NewScanner(s.stdin)
	scanner.Buffer(nil, script.MaxTextBytes+2)
	s.lines = &pipedLines{scanner: scanner}
	return nil
}

// close unlocks what was locked here.
func (s *shell) close(ctx context.Context) error {
	var errs []error
	if s.lines != nil {
		errs = append(errs, s.lines.Close())
	}
	ctx, cancel := s.deadline(context.WithoutCancel(ctx))
	defer cancel()
	for lock, owner := range s.locks {
		if s.interactive {
			fmt.Fprintln(s.stdout, s.paint(yellow, fmt.Sprintf("Disposing %s lock %s...", lock.table(), owner)))
		}
		err := s.client.LockUnlock(ctx, lock.name, []byte(owner), client.LockOptions{Ephemeral: lock.ephemeral})
		if err != nil && !errors.Is(err, client.ErrNotOwner) && !errors.Is(err, client.ErrNotFound) { // lapsed
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// loop reads and carries out until the end.
func (s *shell) loop(ctx context.Context) error {
	for {
		text, err := s.read()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errInterrupted):
			continue
		case err != nil:
			return err
		}
		if text == "" {
			continue
		}
		done, err := s.carryOut(ctx, text)
		switch {
		case err != nil && !s.interactive:
			return err
		case err != nil:
			if words := oneLine(err); words != "" {
				fmt.Fprintf(s.stdout, "%s\n\n", s.paint(red, words))
			}
		}
		if done {
			return nil
		}
	}
}

// read reads one command or script, which may take several lines.
func (s *shell) read() (string, error) {
	var text strings.Builder
	for more := false; ; more = true {
		line, err := s.lines.readLine(more)
		if errors.Is(err, io.EOF) && more {
			return strings.TrimSpace(text.String()), nil // to be told what is missing
		}
		if err != nil {
			return "", err
		}
		if text.Len()+len(line) > script.MaxTextBytes {
			return "", usageError(fmt.Sprintf("the script is longer than %d bytes", script.MaxTextBytes))
		}
		text.WriteString(line)
		text.WriteByte('\n')
		whole := strings.TrimSpace(text.String())
		gaveUp := more && s.interactive && strings.TrimSpace(line) == ""
		if gaveUp || whole == "" || isShellCommand(whole) || !incomplete(whole) {
			return whole, nil
		}
	}
}

// incomplete reports whether a text would be a script if it went on: it ends in
// the middle of a statement, a block or a quote over several lines.
func incomplete(text string) bool {
	_, err := script.Parse(text)
	var syntax *script.SyntaxError
	if !errors.As(err, &syntax) || syntax.Line == 0 {
		return false
	}
	return syntax.Token == "EOF" || syntax.Problem == "the quote ` is not closed" // others end on their line
}

// carryOut runs one command or script, until its time is over or Ctrl-C. done
// says that the shell shall end.
func (s *shell) carryOut(ctx context.Context, text string) (done bool, err error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	if words := strings.Fields(text); isShellCommand(text) {
		return s.command(ctx, strings.ToLower(words[0]), words[1:])
	}
	return false, s.script(ctx, text, nil)
}

// pipedLines are those of standard input.
type pipedLines struct{ scanner *bufio.Scanner }

func (p *pipedLines) readLine(bool) (string, error) {
	if p.scanner.Scan() {
		return strings.TrimSuffix(p.scanner.Text(), "\r"), nil
	}
	switch err := p.scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return "", usageError(fmt.Sprintf("a line is longer than %d bytes", script.MaxTextBytes))
	case err != nil:
		return "", fmt.Errorf("reading standard input: %w", err)
	}
	return "", io.EOF
}

// Close implements io.Closer.
func (p *pipedLines) Close() error { return nil }

// The colours of Kahuna's shell, as numbers of the terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
	pink   = "95"
)

func (s *shell) paint(color, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

func elapsedMS(since time.Time) int64 { return time.Since(since).Milliseconds() }
