package machine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("KAHU_MACHINE") == "" {
		fmt.Println("SKIPPED: the machine for arm64 is booted by `make machine` only")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// names are all results that testdata/checks.sh has.
func names(rocksdb bool) []string {
	engines := []string{"sqlite"}
	if rocksdb {
		engines = append(engines, "rocksdb")
	}
	var all []string
	for _, engine := range engines {
		for _, what := range []string{"put-", "lock-", "get-", "held-", "sequence-"} {
			all = append(all, what+engine)
		}
	}
	return append(all, "float", "exec-auto", "exec-pidns", "exec-cgroup", "exec-pgroup", "tree", "free",
		"clock-steps", "suspend", "after-suspend", "no-overlap", "ends", "log")
}

var result = regexp.MustCompile(`(?m)^(ok|not ok) ([a-z-]+)(?:: (.*))?$`)

func TestArm64(t *testing.T) {
	system := debianSystem(t)
	root := t.TempDir()
	run(t, "dpkg-deb", "-x", os.Getenv("KAHU_MACHINE"), filepath.Join(root, "package"))
	binary := filepath.Join(root, "package/usr/bin/kahu")
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	rocksdb := strings.Contains(string(content), "rocksdb_open")
	if !rocksdb {
		t.Log("SKIPPED: rocksdb is not in this package (make arm64-libraries packages)")
	}

	said := boot(t, system, binary, rocksdb)
	if !strings.Contains(said, "up: Linux 6.1") || !strings.Contains(said, "aarch64") || !strings.Contains(said, "\nend: 0") {
		t.Errorf("the machine did not come up, or not to its end")
	}
	got := map[string][]string{}
	for _, m := range result.FindAllStringSubmatch(said, -1) {
		if got[m[2]] != nil {
			t.Errorf("two results for %s", m[2])
		}
		got[m[2]] = m
	}
	for _, name := range names(rocksdb) {
		switch m := got[name]; {
		case m == nil:
			t.Errorf("%s: no result", name)
		case m[1] != "ok":
			t.Errorf("%s: %s", name, m[3])
		case m[3] != "":
			t.Logf("%s: %s", name, m[3])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("results that nobody knows: %v", got)
	}
	if t.Failed() {
		t.Logf("the machine said:\n%s", said)
	}
}

// debianSystem returns where kernel and busybox are, as their packages have them.
func debianSystem(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "kahu-machine", "arm64")
	if _, err := os.Stat(filepath.Join(dir, "bin/busybox")); err != nil {
		run(t, "../../packaging/foreign.sh", "arm64", dir, "linux-image-arm64", "busybox-static")
	}
	return dir
}

// boot runs the machine to its end, and returns what its console said.
func boot(t *testing.T, system, binary string, rocksdb bool) string {
	t.Helper()
	dir := t.TempDir()
	files := filepath.Join(dir, "files")
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "run", "etc", "root"} {
		if err := os.MkdirAll(filepath.Join(files, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	checks, err := os.ReadFile("testdata/checks.sh")
	if err != nil {
		t.Fatal(err)
	}
	if !rocksdb {
		checks = []byte(strings.Replace(string(checks), "in sqlite rocksdb;", "in sqlite;", 1))
	}
	if err := os.WriteFile(filepath.Join(files, "checks.sh"), checks, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "install", "-m", "755", "testdata/init.sh", filepath.Join(files, "init"))
	run(t, "install", "-m", "755", binary, filepath.Join(system, "bin/busybox"), filepath.Join(files, "bin"))
	disk := filepath.Join(dir, "initrd")
	run(t, "sh", "-c", "cd $0 && find . | cpio --create --format newc --quiet >$1", files, disk)
	kernels, err := filepath.Glob(filepath.Join(system, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		t.Fatalf("kernels in %s: %q, %v", system, kernels, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024",
		"-nographic", "-no-reboot", "-nic", "none", "-kernel", kernels[0], "-initrd", disk,
		"-append", "console=ttyAMA0 quiet loglevel=3 panic=-1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("qemu-system-aarch64 (Debian: qemu-system-arm): %v", err)
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}
