package suspend_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A kernel is Debian's, unpacked into the user's cache.
type kernel struct {
	image string
	card  string // the module of the machine's network card, which needs no other
}

// findKernel downloads the kernel unless an earlier run did.
func findKernel(t *testing.T) kernel {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(cache, "kahu-suspend", "kernel")
	if _, err := os.Stat(root); err != nil {
		downloadKernel(t, root)
	}
	only := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s in %s: %q, %v", pattern, root, found, err)
		}
		return found[0]
	}
	return kernel{
		image: only("boot/vmlinuz-*"),
		card:  only("lib/modules/*/kernel/drivers/net/ethernet/intel/e1000/e1000.ko"),
	}
}

func downloadKernel(t *testing.T, root string) {
	t.Helper()
	making := root + ".part"
	if err := os.RemoveAll(making); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(making, 0o755); err != nil { // apt downloads as a user of its own
		t.Fatal(err)
	}
	for line := range strings.Lines(run(t, "apt-cache", "depends", "linux-image-amd64")) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if !ok || !strings.HasPrefix(name, "linux-image-") {
			continue
		}
		t.Logf("downloading %s", name)
		run(t, "sh", "-ec", `cd "$0"; apt-get download -q "$1"; dpkg-deb -x "$1"_*.deb .; rm -- *.deb`, making, name)
		if err := os.Rename(making, root); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("apt-cache knows no linux-image-amd64 (apt-get update?)")
}

// shellPort is where the machine takes commands. A serial line will not do: what
// qemu's takes, it may keep until there is something else to do.
const shellPort = "23"

// start is what the machine runs as its first process.
const start = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
insmod /e1000.ko
ip link set lo up
ip addr add ` + machineAddress + `/24 dev eth0
ip link set eth0 up
exec nc -ll -p ` + shellPort + ` -e /bin/sh
`

// image makes the machine's first file system, with these files besides what
// every machine has: path inside, path outside.
func image(t *testing.T, k kernel, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, sub := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "cp", k.card, root+"/e1000.ko")
	write(t, root+"/init", start, 0o755)
	run(t, "cp", "/bin/busybox", root+"/bin/")
	for inside, outside := range files {
		run(t, "cp", outside, root+inside)
	}
	archive := filepath.Join(dir, "initrd")
	run(t, "sh", "-ec", `cd "$0"; find . | busybox cpio -o -H newc >"$1"`, root, archive)
	return archive
}

// program builds the shipped program for a machine that has no libraries.
func program(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "../../cmd/kahu")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building kahu: %w: %s", err, out)
	}
	return nil
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// run runs a command that must succeed, and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
