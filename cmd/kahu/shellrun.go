package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kahu-sh/kahu/localapi/client"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication/script"
)

// shellCommand is one that is no script. Names and arguments are those of
// Kahuna's shell.
type shellCommand struct {
	name     string
	usage    string // arguments
	least    int
	most     int
	does     string
	carryOut func(s *shell, ctx context.Context, args []string) error
}

// shellCommands are all but exit and quit.
func shellCommands() []shellCommand {
	persistent, ephemeral := shellLock{}, shellLock{ephemeral: true}
	lock := func(l shellLock, f func(*shell, context.Context, shellLock, []string) error) func(*shell, context.Context, []string) error {
		return func(s *shell, ctx context.Context, args []string) error {
			l.name = args[0]
			return f(s, ctx, l, args[1:])
		}
	}
	return []shellCommand{
		{"run", "FILE [NAME=VALUE]...", 1, 1000, "runs the script in a file, with parameters", (*shell).runFile},
		{"lock", "NAME MS", 2, 2, "locks for so many milliseconds, or until the shell is left", lock(persistent, (*shell).lock)},
		{"unlock", "NAME", 1, 1, "unlocks what was locked here", lock(persistent, (*shell).unlock)},
		{"extend-lock", "NAME MS", 2, 2, "lengthens the lease of what was locked here", lock(persistent, (*shell).extendLock)},
		{"get-lock", "NAME", 1, 1, "shows the fencing token and the owner", lock(persistent, (*shell).getLock)},
		{"elock", "NAME MS", 2, 2, "is lock in the ephemeral table; so are the next three", lock(ephemeral, (*shell).lock)},
		{"eunlock", "NAME", 1, 1, "", lock(ephemeral, (*shell).unlock)},
		{"eextend-lock", "NAME MS", 2, 2, "", lock(ephemeral, (*shell).extendLock)},
		{"eget-lock", "NAME", 1, 1, "", lock(ephemeral, (*shell).getLock)},
		{"create-sequence", "NAME [INITIAL] [INCREMENT] [MAXIMUM]", 1, 4, "creates a sequence", (*shell).createSequence},
		{"get-sequence", "NAME", 1, 1, "shows a sequence", (*shell).getSequence},
		{"next-sequence", "NAME [IDEMPOTENCY-KEY]", 1, 2, "takes the next value", (*shell).nextSequence},
		{"reserve-sequence", "NAME COUNT [IDEMPOTENCY-KEY]", 2, 3, "takes a run of values", (*shell).reserveSequence},
		{"delete-sequence", "NAME", 1, 1, "deletes a sequence", (*shell).deleteSequence},
		{"cluster", "members | ...", 1, 1000, "is kahu cluster", (*shell).cluster},
		{"help", "", 0, 0, "shows this", (*shell).help},
		{"clear", "", 0, 0, "clears the screen", (*shell).clear},
	}
}

func commandNames() []string {
	names := []string{"exit", "quit"}
	for _, c := range shellCommands() {
		names = append(names, c.name)
	}
	return names
}

// isShellCommand reports whether a line is no script. No script begins with one
// of these words.
func isShellCommand(text string) bool {
	words := strings.Fields(text)
	return len(words) > 0 && !strings.Contains(text, "\n") && slices.Contains(commandNames(), strings.ToLower(words[0]))
}

func (s *shell) command(ctx context.Context, name string, args []string) (done bool, err error) {
	if name == "exit" || name == "quit" {
		return true, nil
	}
	for _, c := range shellCommands() {
		if c.name != name {
			continue
		}
		if len(args) < c.least || len(args) > c.most {
			return false, usageError(strings.TrimSpace("usage: " + c.name + " " + c.usage))
		}
		return false, c.carryOut(s, ctx, args)
	}
	return false, usageError("there is no command " + printable(name)) // isShellCommand knows it
}

// say prints an answer and an empty line behind it, as Kahuna's shell does.
func (s *shell) say(v any, format string, args ...any) error {
	return s.show(v, line(format+"\n", args...))
}

func (s *shell) help(context.Context, []string) error {
	var b strings.Builder
	b.WriteString("Anything else is a script, such as: set a 1    get a    begin let n = get a set a n + 1 commit end\n\n")
	for _, c := range shellCommands() {
		fmt.Fprintf(&b, "  %-52s %s\n", c.name+" "+c.usage, c.does)
	}
	fmt.Fprintf(&b, "  %-52s %s\n\n", "exit, quit", "leave; so does Ctrl-D")
	_, err := io.WriteString(s.stdout, b.String())
	return err
}

func (s *shell) clear(context.Context, []string) error {
	if !s.interactive {
		return nil
	}
	_, err := io.WriteString(s.stdout, "\x1b[2J\x1b[H")
	return err
}

// cluster is the command line's own command.
func (s *shell) cluster(ctx context.Context, args []string) error {
	root := newRootCommand(s.globals)
	root.SetArgs(append([]string{"cluster", "--socket", s.client.Socket(), "--output", s.output, "--timeout", s.timeout.String()}, args...))
	root.SetIn(s.stdin)
	root.SetOut(s.stdout)
	root.SetErr(s.stderr)
	return root.ExecuteContext(ctx)
}

func (s *shell) runFile(ctx context.Context, args []string) error {
	text, err := readScriptFile(args[0])
	if err != nil {
		return usageError(fmt.Sprintf("the script cannot be read: %v", err))
	}
	if len(text) > script.MaxTextBytes {
		return usageError(fmt.Sprintf("the script in %s is longer than %d bytes", printable(args[0]), script.MaxTextBytes))
	}
	params, err := readParams(args[1:])
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(text)) == "" {
		return nil
	}
	return s.script(ctx, string(text), params)
}

// script runs a script and prints what its last statement came to.
func (s *shell) script(ctx context.Context, text string, params []wire.ScriptParameter) error {
	began := time.Now()
	res, err := s.client.RunScript(ctx, wire.Script{Script: text, Parameters: params})
	if err != nil {
		return err
	}
	return s.show(res, func(w io.Writer) error {
		_, err := io.WriteString(w, s.resultText(res, elapsedMS(began)))
		return err
	})
}

// resultText is what Kahuna's shell prints.
func (s *shell) resultText(r wire.ScriptResult, ms int64) string {
	var b strings.Builder
	if r.Type == wire.ScriptGot {
		if len(r.Values) == 1 {
			return fmt.Sprintf("%s %s %dms\n\n", revisionText(r.Values[0].Revision), s.paint(cyan, humanValue(r.Values[0])), ms)
		}
		for _, v := range r.Values {
			key := ""
			if v.Key != "" {
				key = s.paint(pink, printable(v.Key)) + " "
			}
			fmt.Fprintf(&b, "%s %s%s\n", revisionText(v.Revision), key, s.paint(cyan, humanValue(v)))
		}
		fmt.Fprintf(&b, "%dms\n\n", ms)
		return b.String()
	}
	color, words := cyan, strings.ReplaceAll(string(r.Type), "-", " ")
	switch r.Type {
	case wire.ScriptNotSet:
		color = yellow
	case wire.ScriptDoesNotExist:
		color, words = yellow, "not found"
	}
	revisions := []int64{-1}
	if len(r.Values) > 0 {
		revisions = nil
		for _, v := range r.Values {
			revisions = append(revisions, v.Revision)
		}
	}
	for _, n := range revisions {
		fmt.Fprintf(&b, "%s %s %dms\n\n", revisionText(n), s.paint(color, words), ms)
	}
	return b.String()
}

func revisionText(n int64) string {
	if n < 0 {
		return "r-"
	}
	return "r" + strconv.FormatInt(n, 10)
}

// humanValue shows a value so that it cannot command the terminal.
func humanValue(v wire.ScriptValue) string {
	switch {
	case v.Value == nil:
		return "(null)"
	case len(v.Value) == 0:
		return "(empty str)"
	}
	return printable(string(v.Value))
}

// shellLock names a lock.
type shellLock struct {
	name      string
	ephemeral bool
}

func (l shellLock) table() wire.Durability {
	if l.ephemeral {
		return wire.Ephemeral
	}
	return wire.Persistent
}

func (l shellLock) options() client.LockOptions {
	return client.LockOptions{Ephemeral: l.ephemeral, Command: "kahu shell"}
}

func milliseconds(text string) (time.Duration, error) {
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms <= 0 || ms > wire.MaxTTL.Milliseconds() {
		return 0, usageError(fmt.Sprintf("%s is no number of milliseconds between 1 and %d", printable(text), wire.MaxTTL.Milliseconds()))
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// notAcquired is an answer at the prompt, and an error in a file: what follows
// counts on the lock.
func (s *shell) notAcquired() error {
	if err := s.say(map[string]bool{"granted": false}, "%s", s.paint(yellow, "not acquired")); err != nil {
		return err
	}
	return &quietError{exitBusy}
}

func (s *shell) lock(ctx context.Context, l shellLock, args []string) error {
	ttl, err := milliseconds(args[0])
	if err != nil {
		return err
	}
	owner := s.locks[l]
	if owner == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		owner = hex.EncodeToString(b[:])
	}
	grant, err := s.client.LockTry(ctx, l.name, []byte(owner), ttl, l.options())
	switch {
	case errors.Is(err, client.ErrBusy), err == nil && !grant.Granted:
		return s.notAcquired()
	case errors.Is(err, client.ErrUnknownOutcome): // to be unlocked on leaving
		s.locks[l] = owner
	}
	if err != nil {
		return err
	}
	s.locks[l] = owner
	return s.say(ownedGrant{grant, owner}, "%s", s.paint(cyan, fmt.Sprintf("f%d acquired %s", grant.Token, owner)))
}

func (s *shell) unlock(ctx context.Context, l shellLock, _ []string) error {
	owner := s.locks[l]
	if owner == "" {
		return s.notAcquired()
	}
	err := s.client.LockUnlock(ctx, l.name, []byte(owner), l.options())
	if errors.Is(err, client.ErrNotOwner) || errors.Is(err, client.ErrNotFound) { // its lease is over
		delete(s.locks, l)
		return s.notAcquired()
	}
	if err != nil {
		return err
	}
	delete(s.locks, l)
	return s.say(map[string]bool{"unlocked": true}, "%s", s.paint(cyan, "unlocked"))
}

func (s *shell) extendLock(ctx context.Context, l shellLock, args []string) error {
	ttl, err := milliseconds(args[0])
	if err != nil {
		return err
	}
	owner := s.locks[l]
	if owner == "" {
		return s.notAcquired()
	}
	grant, err := s.client.LockExtend(ctx, l.name, []byte(owner), ttl, l.options())
	switch {
	case errors.Is(err, client.ErrNotOwner), errors.Is(err, client.ErrNotFound):
		return s.notAcquired()
	case err != nil:
		return err
	}
	return s.say(ownedGrant{grant, owner}, "%s", s.paint(cyan, fmt.Sprintf("f%d extended %s", grant.Token, owner)))
}

// getLock also shows locks of others, by what may be known of them.
func (s *shell) getLock(ctx context.Context, l shellLock, _ []string) error {
	info, err := s.client.LockInfo(ctx, l.name, l.options())
	if errors.Is(err, client.ErrNotFound) {
		return s.say(nil, "%s", s.paint(yellow, "not found"))
	}
	if err != nil {
		return err
	}
	who := info.Owner
	if who == "" {
		who = s.locks[l]
	}
	if who == "" {
		who = strings.TrimSpace(info.Holder.Host + " " + info.Holder.Command)
	}
	return s.say(info, "%s", s.paint(cyan, fmt.Sprintf("f%d %s", info.Token, printable(who))))
}
