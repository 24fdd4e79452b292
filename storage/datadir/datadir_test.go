package datadir_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/storage"
	"github.com/kahu-sh/kahu/storage/datadir"
)

var options = datadir.Options{
	Engine:     "sqlite",
	Version:    "1.2.3",
	Now:        func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC) },
	FileSystem: func(string) (int64, error) { return 0xef53, nil },
}

func mustOpen(t *testing.T, path string, o datadir.Options) *datadir.Dir {
	t.Helper()
	d, err := datadir.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// made is a directory that was opened once and closed.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	d := mustOpen(t, path, options)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// tree lists every file with its contents, but for the lock file.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == filepath.Join(root, "lock") {
			return err
		}
		if d.IsDir() {
			out[p] = "directory"
			return nil
		}
		b, err := os.ReadFile(p)
		out[p] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOpenMakesAndKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a ?%# b", "data")
	d := mustOpen(t, path, options)
	first := d.Identity()
	if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(first.Node) || first.Engine != "sqlite" ||
		first.Writer != "1.2.3" || first.Format != 1 || !first.Created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("identity: %+v", first)
	}
	for _, dir := range []string{d.LogDir(), d.EngineDir()} {
		info, err := os.Stat(dir)
		if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	later := options
	later.Version, later.Engine = "1.3.0", ""
	d = mustOpen(t, path, later)
	want := first
	want.Writer = "1.3.0"
	if got := d.Identity(); got != want {
		t.Errorf("identity on the second start:\n got %+v\nwant %+v", got, want)
	}
	other := mustOpen(t, filepath.Join(t.TempDir(), "other"), options)
	if other.Identity().Node == first.Node {
		t.Error("two directories have one node id")
	}
}

func TestNewDirectoryNeedsAnEngine(t *testing.T) {
	o := options
	o.Engine = ""
	if _, err := datadir.Open(t.TempDir(), o); err == nil || !strings.Contains(err.Error(), "--storage") {
		t.Errorf("Open = %v", err)
	}
	if _, err := datadir.Open("", options); err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("Open of no name = %v", err)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	d := mustOpen(t, path, options)
	before := tree(t, path)
	_, err := datadir.Open(path, options)
	if !errors.Is(err, datadir.ErrInUse) {
		t.Fatalf("Open = %v; want ErrInUse", err)
	}
	for _, says := range []string{fmt.Sprintf("pid %d", os.Getpid()), "kahu 1.2.3", path} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("the refusal does not say %q: %v", says, err)
		}
	}
	if after := tree(t, path); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the refused agent changed the directory:\n%v\n%v", before, after)
	}
	d.Close()
	mustOpen(t, path, options)
}

func TestOpenRefuses(t *testing.T) {
	edit := func(name, old, new string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			file := filepath.Join(path, name)
			b, err := os.ReadFile(file)
			if err != nil || !bytes.Contains(b, []byte(old)) {
				t.Fatalf("%s has no %q: %v", name, old, err)
			}
			put(t, path, name, strings.Replace(string(b), old, new, 1))
		}
	}
	remove := func(name string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, text string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { put(t, path, name, text) }
	}
	for _, c := range []struct {
		name   string
		break_ func(t *testing.T, path string)
		want   error
		says   string // what was found, or what to do
	}{
		{"agent.json empty", write("agent.json", ""), datadir.ErrCorrupt, "agent.json cannot be read"},
		{"agent.json cut", edit("agent.json", "\n}\n", ""), datadir.ErrCorrupt, "start this agent with an empty directory"},
		{"agent.json not JSON", write("agent.json", "hello\n"), datadir.ErrCorrupt, "agent.json"},
		{"agent.json of something else", write("agent.json", `{"a":1}`), datadir.ErrCorrupt, "agent.json"},
		{"agent.json null", write("agent.json", "null"), datadir.ErrCorrupt, "format 0"},
		{"one letter wrong", edit("agent.json", `"2026-01-02`, `"2026-01-03`), datadir.ErrCorrupt, "checksum"},
		{"node id short", edit("agent.json", `"node": "`, `"node": "0`), datadir.ErrCorrupt, "node id"},
		{"newer format", write("agent.json", `{"format":2,"writer":"9.0","strange":[]}`), datadir.ErrNewerFormat, `kahu "9.0"`},
		{"agent.json gone", func(t *testing.T, path string) {
			put(t, path, "log/segment", "x")
			remove("agent.json")(t, path)
		}, datadir.ErrCorrupt, "agent.json is missing, but log has files"},
		{"agent.json gone, engine used", func(t *testing.T, path string) {
			put(t, path, "engine/0000000001/rows", "x")
			remove("agent.json")(t, path)
		}, datadir.ErrCorrupt, "agent.json is missing"},
		{"agent.json gone, later generation", func(t *testing.T, path string) {
			if err := os.Mkdir(filepath.Join(path, "engine/0000000002"), 0o700); err != nil {
				t.Fatal(err)
			}
			remove("agent.json")(t, path)
		}, datadir.ErrCorrupt, "0000000002"},
		{"log gone", remove("log"), datadir.ErrCorrupt, "directory log is missing"},
		{"engine gone", remove("engine"), datadir.ErrCorrupt, "directory engine is missing"},
		{"CURRENT gone", remove("engine/CURRENT"), datadir.ErrCorrupt, "CURRENT is missing"},
		{"CURRENT empty", write("engine/CURRENT", ""), datadir.ErrCorrupt, "CURRENT"},
		{"CURRENT cut", write("engine/CURRENT", "generation 00000"), datadir.ErrCorrupt, "CURRENT"},
		{"CURRENT leads outside", write("engine/CURRENT", "generation ../../../etc\n"), datadir.ErrCorrupt, "CURRENT"},
		{"generation gone", remove("engine/0000000001"), datadir.ErrCorrupt, "which is missing"},
		{"another engine", func(*testing.T, string) {}, datadir.ErrEngineKind, "start with --storage sqlite"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := made(t)
			c.break_(t, path)
			before := tree(t, path)
			o := options
			if c.want == datadir.ErrEngineKind {
				o.Engine = "rocksdb"
			}
			checkRefusal(t, path, o, c.want, c.says)
			if after := tree(t, path); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("the refused directory was changed:\n%v\n%v", before, after)
			}
			// The lock was given back.
			checkRefusal(t, path, o, c.want, c.says)
		})
	}
	t.Run("foreign", func(t *testing.T) {
		path := t.TempDir()
		for _, name := range []string{"a", "b", "c", "d"} {
			put(t, path, name, "x")
		}
		checkRefusal(t, path, options, datadir.ErrForeign, "use an empty or a new directory")
		if _, err := os.Stat(filepath.Join(path, "lock")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a foreign directory got a lock file: %v", err)
		}
	})
	t.Run("a file", func(t *testing.T) {
		put(t, t.TempDir(), "x", "")
		path := filepath.Join(t.TempDir(), "file")
		put(t, filepath.Dir(path), "file", "x")
		checkRefusal(t, path, options, datadir.ErrNotDirectory, "name a directory")
		checkRefusal(t, filepath.Join(path, "below"), options, datadir.ErrNotDirectory, "name a directory")
	})
	t.Run("damage and newer are told apart", func(t *testing.T) {
		if !errors.Is(datadir.ErrCorrupt, storage.ErrCorrupt) || errors.Is(datadir.ErrCorrupt, storage.ErrNewerFormat) ||
			!errors.Is(datadir.ErrNewerFormat, storage.ErrNewerFormat) || errors.Is(datadir.ErrNewerFormat, storage.ErrCorrupt) {
			t.Error("the sentinels are mixed up")
		}
	})
}

func put(t *testing.T, path, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func checkRefusal(t *testing.T, path string, o datadir.Options, want error, says string) {
	t.Helper()
	d, err := datadir.Open(path, o)
	if d != nil {
		d.Close()
		t.Fatalf("Open took the directory; want %v", want)
	}
	var typed *datadir.Error
	if !errors.Is(err, want) || !errors.As(err, &typed) {
		t.Fatalf("Open = %v; want %v", err, want)
	}
	text := err.Error()
	if strings.Contains(text, "\n") || !strings.Contains(text, says) || !strings.Contains(text, path) || typed.Advice == "" {
		t.Errorf("the refusal should be one line with the path, and say %q: %q", says, text)
	}
}

// A start that was killed at any point is completed by the next one.
func TestHalfMadeIsCompleted(t *testing.T) {
	for name, undo := range map[string][]string{
		"before the identity":   {"agent.json"},
		"before CURRENT":        {"agent.json", "engine/CURRENT"},
		"before the generation": {"agent.json", "engine/CURRENT", "engine/0000000001"},
		"before the engine":     {"agent.json", "engine"},
		"before anything":       {"agent.json", "engine", "log"},
	} {
		t.Run(name, func(t *testing.T) {
			path := made(t)
			for _, f := range undo {
				if err := os.RemoveAll(filepath.Join(path, f)); err != nil {
					t.Fatal(err)
				}
			}
			put(t, path, "agent.json.tmp", `{"form`)
			if err := os.Mkdir(filepath.Join(path, "lost+found"), 0o700); err != nil {
				t.Fatal(err)
			}
			d := mustOpen(t, path, options)
			node := d.Identity().Node
			d.Close()
			if d = mustOpen(t, path, options); d.Identity().Node != node {
				t.Error("the identity did not stay")
			}
		})
	}
}

func TestGenerations(t *testing.T) {
	path := made(t)
	d := mustOpen(t, path, options)
	first := d.EngineDir()
	put(t, first, "rows", "first")
	g, err := d.NewGeneration()
	if err != nil {
		t.Fatal(err)
	}
	dropped, err := d.NewGeneration()
	if err != nil || dropped.Path() == g.Path() || g.Path() == first {
		t.Fatalf("second generation: %v, %v", dropped, err)
	}
	put(t, g.Path(), "rows", "second")
	put(t, dropped.Path(), "rows", "third")
	if err := d.RemoveOrphans(); err != nil { // must leave what is being filled
		t.Fatal(err)
	}
	if d.EngineDir() != first {
		t.Errorf("a generation is in use before Switch")
	}
	if err := dropped.Discard(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dropped.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("discarded: %v", err)
	}
	if err := g.Switch(); err != nil {
		t.Fatal(err)
	}
	if d.EngineDir() != g.Path() {
		t.Errorf("in use: %s, want %s", d.EngineDir(), g.Path())
	}
	if err := g.Switch(); err == nil {
		t.Error("a second Switch of one generation: no error")
	}
	if err := dropped.Switch(); err == nil {
		t.Error("Switch to a discarded generation: no error")
	}
	if err := g.Discard(); err != nil { // deferred by careful callers
		t.Error(err)
	}
	if _, err := os.Stat(first); err != nil {
		t.Errorf("the former generation went before RemoveOrphans: %v", err)
	}
	if err := d.RemoveOrphans(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the former generation is still there: %v", err)
	}
	orphan, err := d.NewGeneration()
	if err != nil {
		t.Fatal(err)
	}
	put(t, orphan.Path(), "rows", "half of a snapshot")
	second := d.EngineDir()
	d.Close() // as if killed while restoring

	d = mustOpen(t, path, options)
	if d.EngineDir() != second {
		t.Errorf("after the restart: %s, want %s", d.EngineDir(), second)
	}
	if b, err := os.ReadFile(filepath.Join(d.EngineDir(), "rows")); string(b) != "second" {
		t.Errorf("rows = %q, %v", b, err)
	}
	if _, err := os.Stat(orphan.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half-filled generation is still there: %v", err)
	}
}

// A switch that did not reach its rename leaves the former generation in use.
func TestSwitchThatWasCutOff(t *testing.T) {
	path := made(t)
	put(t, path, "engine/CURRENT.tmp", "generation 00000")
	d := mustOpen(t, path, options)
	if filepath.Base(d.EngineDir()) != "0000000001" {
		t.Errorf("in use: %s", d.EngineDir())
	}
	g, err := d.NewGeneration()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Switch(); err != nil {
		t.Fatal(err)
	}
}

func TestVolatile(t *testing.T) {
	for name, c := range map[string]struct {
		kind int64
		want bool
	}{
		"ext4":    {0xef53, false},
		"xfs":     {0x58465342, false},
		"btrfs":   {0x9123683e, false},
		"tmpfs":   {0x01021994, true},
		"ramfs":   {0x858458f6, true},
		"overlay": {0x794c7630, true},
	} {
		o := options
		o.FileSystem = func(string) (int64, error) { return c.kind, nil }
		if d := mustOpen(t, t.TempDir(), o); d.Volatile() != c.want {
			t.Errorf("Volatile on %s = %v", name, d.Volatile())
		}
	}
	if _, err := os.Stat("/dev/shm"); err == nil {
		dir, err := os.MkdirTemp("/dev/shm", "kahu-test")
		if err != nil {
			t.Skip(err)
		}
		defer os.RemoveAll(dir)
		o := options
		o.FileSystem = nil // the kernel
		if d := mustOpen(t, dir, o); !d.Volatile() {
			t.Error("/dev/shm is not volatile")
		}
	}
}

func TestFilesOfOthers(t *testing.T) {
	path := made(t)
	d := mustOpen(t, path, options)
	if _, err := d.ReadFile("pledge"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of nothing = %v", err)
	}
	for _, text := range []string{"a longer text", "short", ""} {
		if err := d.WriteFile("pledge", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := d.ReadFile("pledge"); err != nil || string(b) != text {
			t.Errorf("ReadFile = %q, %v; want %q", b, err, text)
		}
	}
	for _, name := range []string{"agent.json", "lock", "engine", "log", "../outside"} {
		if err := d.WriteFile(name, nil); err == nil {
			t.Errorf("WriteFile(%q): no error", name)
		}
	}
	if _, err := os.Stat(filepath.Join(path, "pledge.tmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a temporary file is left: %v", err)
	}
}

// The test binary opens this directory in a child, as somebody else or on a
// file system that it has made read-only, and prints what Open says.
const childEnv = "KAHU_DATADIR_CHILD"

func TestMain(m *testing.M) {
	path := os.Getenv(childEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	if os.Getenv(childEnv+"_RO") != "" {
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			fmt.Println("SKIP", err)
			os.Exit(0)
		}
		if err := syscall.Mount(path, path, "", syscall.MS_BIND, ""); err != nil {
			fmt.Println("SKIP", err)
			os.Exit(0)
		}
		if err := syscall.Mount("", path, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			fmt.Println("SKIP", err)
			os.Exit(0)
		}
	}
	_, err := datadir.Open(path, options)
	fmt.Println(errors.Is(err, datadir.ErrNoRights), errors.Is(err, datadir.ErrReadOnly), err)
	os.Exit(0)
}

func child(t *testing.T, path string, attr *syscall.SysProcAttr, env ...string) string {
	t.Helper()
	// Through /proc, because somebody else may not walk to the binary.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, childEnv+"="+path)...)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Skipf("cannot start the child: %v", err)
	}
	if strings.HasPrefix(string(out), "SKIP") {
		t.Skipf("the child cannot mount: %s", out)
	}
	return strings.TrimSpace(string(out))
}

func TestNoRights(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"readable": 0o555, "closed": 0} {
		t.Run(name, func(t *testing.T) {
			path := made(t)
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(path, 0o700) })
			attr := &syscall.SysProcAttr{}
			if os.Geteuid() == 0 {
				attr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
				attr.Credential.NoSetGroups = true
				for p := filepath.Dir(path); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
					if err := os.Chmod(p, 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			out := child(t, path, attr)
			if !strings.HasPrefix(out, "true false ") || !strings.Contains(out, "chown") {
				t.Errorf("as somebody without rights: %s", out)
			}
		})
	}
}

// Root has repaired the directory of an agent that does not run as root.
func TestFilesOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const agent = 65534
	path := made(t)
	err := filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, agent, agent))
	})
	for p := filepath.Dir(path); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		err = errors.Join(err, os.Chmod(p, 0o755))
	}
	outside := filepath.Join(t.TempDir(), "of root")
	err = errors.Join(err, os.WriteFile(outside, nil, 0o600), os.Symlink(outside, filepath.Join(path, "log", "link")))
	err = errors.Join(err, os.WriteFile(filepath.Join(path, "log", "of-root"), nil, 0o600), os.WriteFile(filepath.Join(path, "secret"), nil, 0o640))
	if err != nil {
		t.Fatal(err)
	}
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: agent, Gid: agent, NoSetGroups: true}}
	if out := child(t, path, attr); !strings.HasPrefix(out, "true false ") || !strings.Contains(out, "has log/of-root of user 0") || !strings.Contains(out, "chown -R 65534 "+path) {
		t.Errorf("with a file of root: %s", out)
	}
	if err := datadir.GiveToOwner(path); err != nil {
		t.Fatal(err)
	}
	if out := child(t, path, attr); out != "false false <nil>" {
		t.Errorf("after its owner got all of it: %s", out)
	}
	if info, err := os.Stat(outside); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("a link led out of the directory: %v, %v", info, err)
	}
}

func TestReadOnly(t *testing.T) {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	for name, path := range map[string]string{"in use before": made(t), "new": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			out := child(t, path, attr, childEnv+"_RO=1")
			if !strings.HasPrefix(out, "false true ") || !strings.Contains(out, "remount it for writing") {
				t.Errorf("on a read-only file system: %s", out)
			}
		})
	}
}

// Whatever stands in agent.json is taken whole or refused with a reason.
func FuzzIdentity(f *testing.F) {
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`{"format":2,"writer":"x"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := datadir.DecodeIdentity("/x", b)
		var typed *datadir.Error
		if err != nil && !errors.As(err, &typed) {
			t.Errorf("an error that is not typed: %v", err)
		}
		if err == nil && (len(i.Node) != 32 || i.Engine == "" || i.Format != 1) {
			t.Errorf("took %+v", i)
		}
	})
}
