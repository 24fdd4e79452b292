package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// childVariable makes this test binary the real program.
const childVariable = "KAHU_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Unsetenv(childVariable)
		main()
		return
	}
	os.Exit(m.Run())
}

// ended is how the program ended.
type ended struct {
	code     int
	out, err string
}

// program runs the real program as a child, with a socket that nobody serves.
func program(t *testing.T, stdin string, args ...string) ended {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KAHU_") }),
		childVariable+"=1", "KAHU_SOCKET="+filepath.Join(t.TempDir(), "none.sock"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("kahu %s: %v", strings.Join(args, " "), err)
	}
	return ended{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// Mistakes in how a command is called are found before any agent is asked: 64
// and one line that says what to do.
func TestMistakesAreUsageErrors(t *testing.T) {
	cases := []struct{ args, want string }{
		{"bogus", `no command "bogus"`},
		{"stats", "did you mean status"},
		{"help bogus", `kahu has no command "bogus"`},
		{"help cluster promot", "did you mean promote"},
		{"help status all", "kahu status has no commands of its own"},
		{"--bogus", "unknown flag: --bogus; see kahu --help"},
		{"kv nothing", `kahu kv has no command "nothing"`},
		{"kv get", "takes KEY"},
		{"kv get a b", "got 2 arguments"},
		{"kv get a --bogus", "see kahu kv get --help"},
		{"kv get a --revision x", "invalid argument"},
		{"kv set a b c", "takes KEY VALUE"},
		{"kv set a b --ttl 0s", "--ttl is 0s"},
		{"kv set a b --ttl -5s", "--ttl is -5s"},
		{"kv set a b --ttl soon", "invalid argument"},
		{"kv set a b --if-exists --if-not-exists", "--if-exists and --if-not-exists do not go together; see kahu kv set --help"},
		{"kv get a --revision -1", "the first is 0"},
		{"kv set a b --if-revision 1 --if-value x", "if-value"},
		{"kv set a b --null", "--null takes no value"},
		{"kv extend a tomorrow", "length of time"},
		{"kv extend a -- -1s", "length of time"},
		{"kv ls --limit -1", "--limit is -1"},
		{"kv ls --bucket", "--bucket needs"},
		{"kv ls --as-of yesterday", "--as-of: the time"},
		{"kv get a --as-of 1 --revision 1", "as-of"},
		{"kv get a --as-of -5", "--as-of: the time"},
		{"snapshot hold", "takes HOLDER"},
		{"snapshot hold a --as-of soon", "--as-of: the time"},
		{"seq update a --block-size 1 --no-block-size", "no-block-size"},
		{"seq update a", "nothing to change"},
		{"kv history a --limit -1", "--limit is -1"},
		{"lock unlock a", "--owner is missing"},
		{"lock extend a 30s", "--owner is missing"},
		{"lock extend a never --owner me", "length of time"},
		{"lock break a", "--reason is missing"},
		{"seq reserve a 0", "COUNT"},
		{"seq reserve a many", "COUNT"},
		{"seq update a --maximum 3 --no-maximum", "no-maximum"},
		{"keygen --for everybody", "voter or proxy"},
		{"keygen --for proxy", "--from FILE"},
		{"keygen --from x", "--for proxy"},
		{"bench put --callers 0", "callers is 0"},
		{"bench put --duration 0s", "duration is 0s"},
		{"bench put --keys 0", "--keys is 0"},
		{"bench put --connections 0", "--connections is 0"},
		{"bench put --value-size -1", "--value-size is -1"},
		{"bench everything", `no command "everything"`},
		{"completion tcsh", "no completion"},
		{"version --output yaml", "text or json"},
		{"version --timeout 0s", "--timeout is 0s"},
		{"exec", "no command to run"},
		{"exec -- true", "--lock is missing"},
		{"exec --lock x --ttl 0s -- true", "TTL"},
		{"exec --lock x --wait sometimes -- true", "--wait"},
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			got := program(t, "", strings.Fields(c.args)...)
			if got.code != exitUsage {
				t.Errorf("exit code %d, want %d", got.code, exitUsage)
			}
			if got.out != "" {
				t.Errorf("standard output has %q", got.out)
			}
			if !strings.Contains(got.err, c.want) {
				t.Errorf("it says %q, which does not contain %q", got.err, c.want)
			}
			if !strings.HasPrefix(got.err, "kahu") || strings.Count(got.err, "\n") != 1 {
				t.Errorf("it says more than one line, or does not say who speaks: %q", got.err)
			}
		})
	}
}

// Of a configuration everything that is wrong is said, each thing in a line, however
// much it is.
func TestConfigurationProblemsAreAllSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kahu.yaml")
	text := "voters: three\nbnd: 1\nlimits: {frob: 1}\nlog-level: " + strings.Repeat("loud", 40) + "\ngossip: far\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := program(t, "", "agent", "--config", path, "--check")
	lines := strings.Split(strings.TrimSuffix(got.err, "\n"), "\n")
	if got.code != exitConfig || len(lines) != 5 {
		t.Errorf("%d, in %d lines:\n%s", got.code, len(lines), got.err)
	}
	for _, key := range []string{"voters", "bnd", "limits.frob", "log-level", "gossip"} {
		if !strings.Contains(got.err, "kahu: "+key+" (from ") {
			t.Errorf("%s is missing in\n%s", key, got.err)
		}
	}
}

// --check finds what an agent would not start with.
func TestCheckReadsSecretAndCertificates(t *testing.T) {
	dir := t.TempDir()
	at := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := filepath.Join(dir, "good")
	if got := program(t, "", "keygen", good); got.code != 0 {
		t.Fatal(got.err)
	}
	none := at("kahu.yaml", "")
	for _, c := range []struct {
		name string
		args []string
		want string // "": nothing is wrong
	}{
		{"a secret", []string{"--secret-file", good}, ""},
		{"an empty secret", []string{"--secret-file", at("empty", "")}, "there is no secret in it"},
		{"a password", []string{"--secret-file", at("password", "hunter2\n")}, "not a secret of this version"},
		{"no certificates", []string{"--secret-file", good, "--tls-ca", none, "--tls-cert", none, "--tls-key", none}, none},
		{"alone, and no secret yet", nil, ""},
	} {
		args := append([]string{"agent", "--check", "--config", none, "--data-dir", filepath.Join(dir, "data")}, c.args...)
		switch got := program(t, "", args...); {
		case c.want == "" && (got.code != 0 || got.err != ""):
			t.Errorf("%s: %d, %q", c.name, got.code, got.err)
		case c.want != "" && (got.code != exitConfig || !strings.Contains(got.err, c.want) || strings.Count(got.err, "\n") != 1):
			t.Errorf("%s: %d, %q; want %d and one line with %q", c.name, got.code, got.err, exitConfig, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("--check made the data directory")
	}
}

// Without an agent every command that needs one ends with 69 and says which
// socket it tried.
func TestWithoutAnAgent(t *testing.T) {
	for _, args := range []string{
		"status", "kv get a", "kv set a b", "kv del a", "kv exists a", "kv extend a 5s", "kv ls", "kv history a",
		"lock try a", "lock unlock a --owner me", "lock extend a 5s --owner me", "lock info a", "lock ls", "lock break a --reason because",
		"seq create a", "seq next a", "seq reserve a 5", "seq get a", "seq update a --maximum 5", "seq del a", "seq ls",
		"bench get --keys 1 --duration 1ms --warmup 0s",
		"exec --lock a --wait 0 -- true",
	} {
		t.Run(args, func(t *testing.T) {
			got := program(t, "", strings.Fields(args)...)
			if got.code != exitUnavailable || !strings.Contains(got.err, "none.sock") || strings.Count(got.err, "\n") != 1 {
				t.Errorf("exit code %d, want %d; it says %q, which should be one line that names the socket", got.code, exitUnavailable, got.err)
			}
			if n := strings.Count(got.err, "no agent"); n > 1 {
				t.Errorf("it says so %d times: %q", n, got.err)
			}
		})
	}
}

// Whoever reads help gets an example, and finds every command.
func TestEveryCommandHelps(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, child := range cmd.Commands() {
			walk(child)
		}
		if cmd.Hidden || cmd.Name() == "version" || cmd.Name() == "exit-codes" {
			return
		}
		if cmd.Example == "" && !cmd.HasSubCommands() {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		if strings.HasSuffix(cmd.Short, ".") || cmd.Short == "" {
			t.Errorf("%s: short help is %q; it is a phrase without a full stop", cmd.CommandPath(), cmd.Short)
		}
		for _, line := range strings.Split(cmd.Long, "\n") {
			if utf8.RuneCountInString(line) > 90 {
				t.Errorf("%s: a line of its help is too long for a terminal: %q", cmd.CommandPath(), line)
			}
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if kind, _ := pflag.UnquoteUsage(f); kind == f.DefValue {
				t.Errorf("%s: --%s %s reads as if that were the only value", cmd.CommandPath(), f.Name, kind)
			}
		})
		for _, line := range strings.Split(cmd.Example, "\n") {
			if line != "" && !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example line %q is not indented", cmd.CommandPath(), line)
			}
		}
	}
	walk(newRootCommand(&globals{}))

	got := program(t, "", "--help")
	for _, name := range []string{"exec", "lock", "kv", "seq", "status", "bench", "keygen", "completion", "version", "exit-codes"} {
		if !strings.Contains(got.out, "\n  "+name+" ") {
			t.Errorf("kahu --help does not name %s:\n%s", name, got.out)
		}
	}
	if got.code != 0 || got.err != "" {
		t.Errorf("kahu --help ends with %d and says %q on stderr", got.code, got.err)
	}
	for _, of := range []string{"", "agent", "exit-codes", "cluster peers-recover"} {
		asked, flag := program(t, "", strings.Fields("help "+of)...), program(t, "", strings.Fields(of+" --help")...)
		if asked != flag || asked.code != 0 {
			t.Errorf("kahu help %s ends with %d and is not kahu %s --help:\n%s%s", of, asked.code, of, asked.out, asked.err)
		}
	}
}

// Examples in help are commands that exist, with flags that exist.
func TestExamplesAreRealCommands(t *testing.T) {
	root := newRootCommand(&globals{})
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, child := range cmd.Commands() {
			walk(child)
		}
		for _, line := range strings.Split(cmd.Example, "\n") {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "kahu ") {
				continue
			}
			words := strings.Fields(line)[1:]
			found, rest, err := root.Find(words)
			if err != nil || found == root {
				t.Errorf("%s: the example %q is no command: %v", cmd.CommandPath(), line, err)
				continue
			}
			for _, word := range rest {
				if word == "--" || word == "&&" || word == "|" { // what follows is another's
					break
				}
				name, ok := strings.CutPrefix(word, "--")
				if name, _, _ = strings.Cut(name, "="); ok && found.Flag(name) == nil {
					t.Errorf("%s: the example %q has the flag --%s, which does not exist", cmd.CommandPath(), line, name)
				}
			}
		}
	}
	walk(root)
}

func TestExitCodesAreATable(t *testing.T) {
	seen := map[int]bool{}
	last := -1
	for _, row := range exitTable {
		if seen[row.code] || row.code < last {
			t.Errorf("exit code %d is there twice or out of order", row.code)
		}
		seen[row.code], last = true, row.code
	}
	for _, row := range errorCodes {
		if !seen[row.code] {
			t.Errorf("%v ends in exit code %d, which the table does not explain", row.err, row.code)
		}
		if got := exitCode(fmt.Errorf("asking: %w", row.err)); got != row.code {
			t.Errorf("%v, wrapped, ends in %d, want %d", row.err, got, row.code)
		}
	}
	got := program(t, "", "exit-codes")
	for _, row := range exitTable {
		if !strings.Contains(got.out, fmt.Sprintf("%3d  %s", row.code, row.meaning)) {
			t.Errorf("kahu exit-codes does not explain %d:\n%s", row.code, got.out)
		}
	}
	var shown struct {
		Codes []shownCode `json:"exit_codes"`
	}
	got = program(t, "", "exit-codes", "--output", "json")
	if err := json.Unmarshal([]byte(got.out), &shown); err != nil || len(shown.Codes) != len(exitTable) {
		t.Errorf("kahu exit-codes as JSON: %q (%v)", got.out, err)
	}
}

func TestVersion(t *testing.T) {
	if got := program(t, "", "version"); got.code != 0 || !strings.HasPrefix(got.out, "kahu ") {
		t.Errorf("kahu version ends with %d and says %q", got.code, got.out)
	}
	var v versionInfo
	if got := program(t, "", "version", "--output", "json"); json.Unmarshal([]byte(got.out), &v) != nil || v.Go == "" {
		t.Errorf("kahu version as JSON: %q", got.out)
	}
}

func TestCompletionAndManPages(t *testing.T) {
	for shell, want := range map[string]string{"bash": "__start_kahu", "zsh": "#compdef kahu", "fish": "complete -c kahu"} {
		if got := program(t, "", "completion", shell); got.code != 0 || !strings.Contains(got.out, want) {
			t.Errorf("completion for %s ends with %d and does not contain %q", shell, got.code, want)
		}
	}
	dir := t.TempDir()
	if got := program(t, "", "man", dir); got.code != 0 {
		t.Fatalf("kahu man ends with %d: %s", got.code, got.err)
	}
	for _, page := range []string{"kahu.1", "kahu-exec.1", "kahu-kv-set.1", "kahu-lock-try.1"} {
		if _, err := os.Stat(filepath.Join(dir, page)); err != nil {
			t.Error(err)
		}
	}
}

func TestKeygen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if got := program(t, "", "keygen", path); got.code != 0 || !strings.Contains(got.out, path) {
		t.Fatalf("keygen ends with %d: %s%s", got.code, got.out, got.err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret has mode %v (%v), want 0600", info.Mode(), err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := program(t, "", "keygen", path); got.code != exitRefused || !strings.Contains(got.err, "was not touched") {
		t.Errorf("a second keygen ends with %d: %s", got.code, got.err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("a second keygen changed the file (%v)", err)
	}
	proxy := program(t, "", "keygen", "--for", "proxy", "--from", path)
	if proxy.code != 0 || !strings.HasPrefix(proxy.out, "kahu-proxy-secret") {
		t.Errorf("the proxy's secret: %d, %q, %s", proxy.code, proxy.out, proxy.err)
	}
	if strings.Contains(proxy.out, strings.TrimSpace(string(before))) {
		t.Error("the proxy's secret contains the voter's")
	}
	if again := program(t, "", "keygen", "--for", "proxy", "--from", path); again.out != proxy.out {
		t.Error("the proxy's secret is another one the second time")
	}
	var made madeSecret
	got := program(t, "", "keygen", filepath.Join(dir, "other"), "--output", "json")
	if err := json.Unmarshal([]byte(got.out), &made); err != nil || made.For != forVoter || made.ID == "" {
		t.Errorf("keygen as JSON: %q (%v)", got.out, err)
	}
	var shown madeSecret
	got = program(t, "", "keygen", "--for", "proxy", "--from", path, "--output", "json")
	if err := json.Unmarshal([]byte(got.out), &shown); err != nil || shown.For != forProxy || len(shown.Secrets) != 1 || shown.Secrets[0]+"\n" != proxy.out {
		t.Errorf("the proxy's secret as JSON: %q (%v)", got.out, err)
	}
	if got := program(t, "", "keygen", "--for", "proxy", "--from", path, filepath.Join(dir, "proxy")); got.code != 0 {
		t.Fatalf("the proxy's secret into a file: %+v", got)
	}
	if got := program(t, "", "keygen", "--for", "proxy", "--from", filepath.Join(dir, "proxy")); got.code != exitUsage || !strings.Contains(got.err, "has a proxy's secret already") {
		t.Errorf("a proxy's secret from a proxy's: %+v", got)
	}
	if got := program(t, "", "keygen", "--for", "proxy", "--from", filepath.Join(dir, "missing")); got.code != exitConfig {
		t.Errorf("a missing voter secret ends with %d: %s", got.code, got.err)
	}
}

// A man page is found by its name, and the one of the exit codes has them.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if got := program(t, "", "man", dir); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if page := read("kahu-kv-get.1"); !strings.Contains(page, `.TH "KAHU-KV-GET" "1"`) {
		t.Errorf("the title is not the page's: %.200s", page)
	}
	page := read("kahu-exit-codes.1")
	for _, row := range exitTable {
		if !strings.Contains(page, row.meaning) {
			t.Errorf("%d is missing in\n%s", row.code, page)
		}
	}
}
