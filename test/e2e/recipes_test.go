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

// TestRecipes pastes each recipe of integrations/recipes into a shell, beside an agent
// of its own, and looks for what the arrows say that it prints.
func TestRecipes(t *testing.T) {
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("the recipes use %s, which is not installed", program)
		}
	}
	files, err := filepath.Glob("../../integrations/recipes/*.md")
	if err != nil || len(files) < 8 {
		t.Fatalf("recipes found: %q, %v", files, err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if name == "README.md" {
			namesAll(t, file, files)
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if now := time.Now().UTC(); name == "cron.md" && now.Hour() == 23 && now.Minute() >= 55 {
				t.Skip("the day that this recipe counts in is about to end")
			}
			script, arrows := recipe(string(text))
			if len(arrows) < 2 {
				t.Fatalf("the recipe has %d arrows only", len(arrows))
			}
			out := paste(t, script)
			rest := out
			for _, arrow := range arrows {
				_, after, found := strings.Cut(rest, arrow)
				if !found {
					t.Fatalf("the recipe does not print %q where it says so; what is left of its output:\n%s\nall of it:\n%s", arrow, rest, out)
				}
				rest = after
			}
		})
	}
}

// namesAll: the list of recipes has each of them.
func namesAll(t *testing.T, list string, files []string) {
	t.Helper()
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if name := filepath.Base(f); name != "README.md" && !strings.Contains(string(text), "]("+name+")") {
			t.Errorf("%s does not name %s", list, name)
		}
	}
}

// recipe is a file's shell blocks, and what their arrows say.
func recipe(text string) (script string, arrows []string) {
	for i, block := range strings.Split(text, "```") {
		if i%2 == 1 && strings.HasPrefix(block, "sh\n") {
			script += strings.TrimPrefix(block, "sh\n")
		}
	}
	for _, line := range strings.Split(script, "\n") {
		if _, arrow, found := strings.Cut(line, "# → "); found {
			arrows = append(arrows, strings.TrimSpace(arrow))
		}
	}
	return script, arrows
}

// paste runs a script in a directory of its own, beside an agent in memory.
func paste(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(dir, "kahu")); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(bounded(t, 2*time.Minute), "bash", "-eu", "-o", "pipefail")
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "KAHU_SOCKET="+filepath.Join(dir, "k.sock"))
	cmd.Stdin = strings.NewReader("kahu agent --dev 2>agent.log & AGENT=$!\nuntil kahu status --ready >status 2>&1; do sleep 0.05; done\n" +
		// wait without arguments waits for the agent as well.
		"wait() { if [ $# -gt 0 ]; then builtin wait \"$@\"; else for job in $(jobs -p); do [ \"$job\" = \"$AGENT\" ] || builtin wait \"$job\" || true; done; fi; }\n" +
		script + "\nkill $AGENT; builtin wait $AGENT || true\n")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	// What a recipe that fails halfway leaves behind ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	t.Cleanup(func() { _ = cmd.Cancel() }) // nothing is left when all went well
	if err := cmd.Run(); err != nil {
		t.Fatalf("the recipe ends with %v\nstandard output:\n%s\nstandard error:\n%s", err, out.String(), stderr.String())
	}
	return out.String()
}
