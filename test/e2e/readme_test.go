package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestREADMETour pastes the README's tour into a shell, whole, and looks for
// what the arrows say that it prints.
func TestREADMETour(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the tour uses curl, which is not installed")
	}
	script, arrows := tour(t)
	if len(arrows) < 10 {
		t.Fatalf("the tour has %d arrows only; is the heading still there?", len(arrows))
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(dir, "bin", "kahu")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(bounded(t, 2*time.Minute), "bash", "-eu", "-o", "pipefail")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(script)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	// The agents of a tour that fails halfway end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	t.Cleanup(func() { _ = cmd.Cancel() }) // nothing is left when all went well
	if err := cmd.Run(); err != nil {
		t.Fatalf("the tour ends with %v\nstandard output:\n%s\nstandard error:\n%s", err, out.String(), stderr.String())
	}
	rest := out.String()
	for _, arrow := range arrows {
		_, after, found := strings.Cut(rest, arrow)
		if !found {
			t.Fatalf("the tour does not print %q where the README says so; what is left of its output:\n%s\nall of it:\n%s\nstandard error:\n%s", arrow, rest, out.String(), stderr.String())
		}
		rest = after
	}
}

// tour is the README's shell blocks under "Five minutes", and what their
// arrows say.
func tour(t *testing.T) (script string, arrows []string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Five minutes\n")
	if !found {
		t.Fatal(`README.md has no heading "Five minutes"`)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for i, block := range strings.Split(section, "```") {
		if i%2 == 0 {
			continue
		}
		script += strings.TrimPrefix(block, "sh\n")
	}
	for _, line := range strings.Split(script, "\n") {
		if _, arrow, found := strings.Cut(line, "# → "); found {
			arrows = append(arrows, strings.TrimSpace(arrow))
		}
	}
	return script, arrows
}

// The README's table of exit codes is the program's.
func TestREADMEExitCodes(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary, "exit-codes").Output()
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, line := range strings.Split(string(out), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(line, "  ") {
			continue
		}
		rows++
		if row := "| " + fields[0] + " | " + strings.Join(fields[1:], " ") + " |"; !strings.Contains(string(text), row) {
			t.Errorf("README.md has no row %q", row)
		}
	}
	if rows < 10 {
		t.Fatalf("kahu exit-codes has %d rows only:\n%s", rows, out)
	}
}
