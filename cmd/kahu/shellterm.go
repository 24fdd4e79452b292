package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/kahu-sh/kahu/replication/script"
	"github.com/kahu-sh/kahu/storage/atomicfile"
)

const (
	shellPrompt = "kahu> "
	morePrompt  = "  ... "
	// shellHistoryLines are kept, of shellHistoryLineBytes at most.
	shellHistoryLines     = 1000
	shellHistoryLineBytes = 4 << 10
)

// terminalLines reads lines with editing, history and completion. The terminal
// is raw only while a line is being read: then Ctrl-C is a key, and else a signal.
type terminalLines struct {
	in       *os.File
	out      *os.File
	terminal *term.Terminal
	keys     *keyFilter
	history  *shellHistory
	prompt   string
}

func newTerminalLines(in, out *os.File, historyFile, prompt string) *terminalLines {
	t := &terminalLines{in: in, out: out, keys: &keyFilter{in: in}, history: loadShellHistory(historyFile), prompt: prompt}
	t.terminal = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{t.keys, out}, prompt)
	t.terminal.History = t.history
	t.terminal.AutoCompleteCallback = t.complete
	return t
}

func (t *terminalLines) readLine(more bool) (string, error) {
	before, err := term.MakeRaw(int(t.in.Fd()))
	if err != nil {
		return "", fmt.Errorf("preparing the terminal: %w", err)
	}
	defer func() { _ = term.Restore(int(t.in.Fd()), before) }() // nothing else can be done
	if width, height, err := term.GetSize(int(t.out.Fd())); err == nil && width > 0 {
		_ = t.terminal.SetSize(width, height) // what cannot be drawn is not
	}
	prompt := t.prompt
	if more {
		prompt = morePrompt
	}
	t.terminal.SetPrompt(prompt)
	t.keys.typed = false
	line, err := t.terminal.ReadLine()
	if t.keys.interrupted {
		t.keys.interrupted = false
		if !t.keys.typed && !more {
			return "", io.EOF
		}
		return "", errInterrupted
	}
	if errors.Is(err, term.ErrPasteIndicator) {
		err = nil
	}
	if errors.Is(err, io.EOF) {
		_, _ = t.terminal.Write([]byte("\n"))
	}
	return line, err
}

// Close writes the history.
func (t *terminalLines) Close() error { return t.history.save() }

// keyFilter turns Ctrl-C into the keys that empty the line and end it: the
// terminal's own reading would take it for the end of everything.
type keyFilter struct {
	in          io.Reader
	rest        []byte
	typed       bool // something came since it was made false
	interrupted bool
}

const (
	keyCtrlC = 3
	keyCtrlE = 5
	keyCtrlU = 21
)

// Read implements io.Reader.
func (k *keyFilter) Read(p []byte) (int, error) {
	if len(k.rest) == 0 {
		n, err := k.in.Read(p)
		i := bytes.IndexByte(p[:n], keyCtrlC)
		k.typed = k.typed || i > 0 || i < 0 && n > 0
		if i >= 0 {
			// What stands before and was not read is dropped as well.
			k.interrupted = true
			k.rest = append([]byte{keyCtrlE, keyCtrlU, '\r'}, p[i+1:n]...)
		} else {
			return n, err
		}
	}
	n := copy(p, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}

// complete is asked for every key that edits nothing by itself.
func (t *terminalLines) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		return "", 0, false
	}
	start := strings.LastIndexAny(line[:pos], " \t(,;=") + 1
	found := candidates(line[:start], line[start:pos])
	switch {
	case len(found) == 0:
		return line, pos, true
	case len(found) == 1:
		end := " "
		if strings.HasSuffix(found[0], "/") {
			end = ""
		}
		return line[:start] + found[0] + end + line[pos:], start + len(found[0]) + len(end), true
	}
	common := found[0]
	for _, word := range found[1:] {
		n := 0
		for n < len(common) && n < len(word) && common[n] == word[n] {
			n++
		}
		common = common[:n]
	}
	if len(common) <= pos-start {
		_, _ = t.terminal.Write([]byte(strings.Join(found, "  ") + "\n")) // shown or not
		return line, pos, true
	}
	return line[:start] + common + line[pos:], start + len(common), true
}

// candidates are the words that one could be meant to become: file names behind
// run, commands at the beginning of a line, and those of the language.
func candidates(before, word string) []string {
	if strings.TrimSpace(strings.ToLower(before)) == "run" {
		return fileCandidates(word)
	}
	if word == "" {
		return nil
	}
	words := scriptWords()
	if strings.TrimSpace(before) == "" {
		words = append(words, commandNames()...)
	}
	var found []string
	for _, w := range words {
		if strings.HasPrefix(w, strings.ToLower(word)) {
			if word == strings.ToUpper(word) {
				w = strings.ToUpper(w)
			}
			found = append(found, w)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func fileCandidates(word string) []string {
	dir, base := filepath.Split(word)
	entries, err := os.ReadDir(filepath.Join(".", dir))
	if filepath.IsAbs(word) {
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, base) && (base != "" || name[0] != '.') {
			if e.IsDir() {
				name += "/"
			}
			found = append(found, dir+name)
		}
	}
	return found
}

// scriptWords are those of the language, without the commands of the shell.
func scriptWords() []string { return append(script.Words(), script.Functions()...) }

// shellHistory implements term.History, newest first.
type shellHistory struct {
	path  string // empty: not kept
	lines []string
	fresh []string // typed in this session
}

// loadShellHistory reads what there is: a history that cannot be read is empty.
func loadShellHistory(path string) *shellHistory {
	h := &shellHistory{path: path}
	if path == "-" {
		h.path = ""
		return h
	}
	if path == "" {
		state := os.Getenv("XDG_STATE_HOME")
		if home, err := os.UserHomeDir(); state == "" && err == nil {
			state = filepath.Join(home, ".local", "state")
		}
		if state == "" {
			return h
		}
		h.path = filepath.Join(state, "kahu", "shell_history")
	}
	h.lines = readHistory(h.path)
	return h
}

func readHistory(path string) (lines []string) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	scanner := bufio.NewScanner(io.LimitReader(f, shellHistoryLines*shellHistoryLineBytes))
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	return lines[max(len(lines)-shellHistoryLines, 0):]
}

// Add implements term.History.
func (h *shellHistory) Add(line string) {
	if strings.TrimSpace(line) == "" || len(line) > shellHistoryLineBytes || len(h.lines) > 0 && h.lines[len(h.lines)-1] == line {
		return
	}
	h.lines = append(h.lines, line)
	h.fresh = append(h.fresh, line)
}

// Len implements term.History.
func (h *shellHistory) Len() int { return len(h.lines) }

// At implements term.History.
func (h *shellHistory) At(i int) string { return h.lines[len(h.lines)-1-i] }

// save writes what was typed behind what others have written meanwhile. The file
// is for its owner alone: values are typed as well.
func (h *shellHistory) save() error {
	if h.path == "" || len(h.fresh) == 0 {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(h.path), 0o700); err != nil {
		return fmt.Errorf("keeping the history: %w", err)
	}
	lines := append(readHistory(h.path), h.fresh...)
	lines = lines[max(len(lines)-shellHistoryLines, 0):]
	if err := atomicfile.WriteBytes(h.path, atomicfile.Options{}, []byte(strings.Join(lines, "\n")+"\n")); err != nil {
		return fmt.Errorf("keeping the history: %w", err)
	}
	return nil
}
