package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pod is two containers' surroundings: the image unpacked, and a directory that
// both mount at /run/kahu, as an emptyDir is.
type pod struct {
	t      *testing.T
	dir    string
	rootfs string
	socket string // directory
}

// newPod builds the image as `make image` does and unpacks it.
func newPod(t *testing.T, uid int) *pod {
	t.Helper()
	if os.Getenv("KAHU_CONTAINERS") == "" {
		t.Skip("containers are run by `make containers` only")
	}
	dir := t.TempDir()
	p := &pod{t: t, dir: dir, rootfs: filepath.Join(dir, "rootfs"), socket: filepath.Join(dir, "socket")}
	archive, layout := filepath.Join(dir, "image.tar"), filepath.Join(dir, "layout")
	p.must("../../packaging/image.sh", archive)
	for _, d := range []string{p.rootfs, p.socket, layout} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.must("tar", "-C", layout, "-xf", archive)
	p.unpack(layout)
	if err := os.Chown(p.socket, uid, uid); err != nil { // fsGroup does this in a pod
		t.Fatal(err)
	}
	return p
}

// unpack extracts the layers of an OCI image directory.
func (p *pod) unpack(layout string) {
	p.t.Helper()
	blob := func(digest string) string {
		return filepath.Join(layout, "blobs", strings.ReplaceAll(digest, ":", "/"))
	}
	type descriptor struct{ Digest string }
	var index struct{ Manifests []descriptor }
	p.read(filepath.Join(layout, "index.json"), &index)
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	p.read(blob(index.Manifests[0].Digest), &manifest)
	var config struct {
		Config struct {
			User       string
			Entrypoint []string
		}
	}
	p.read(blob(manifest.Config.Digest), &config)
	if config.Config.User != "65532:65532" || strings.Join(config.Config.Entrypoint, " ") != "/kahu" {
		p.t.Errorf("the image runs %q as %q", config.Config.Entrypoint, config.Config.User)
	}
	for _, l := range manifest.Layers {
		p.must("tar", "-C", p.rootfs, "-xf", blob(l.Digest))
	}
	entries, err := os.ReadDir(p.rootfs)
	if err != nil || len(entries) != 1 || entries[0].Name() != "kahu" {
		p.t.Errorf("the image has %v, %v; want kahu alone", entries, err)
	}
}

func (p *pod) read(path string, into any) {
	p.t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) must(name string, args ...string) {
	p.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// container is one that runs, or has run.
type container struct {
	p    *pod
	id   string
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

// start runs the image with runc: read-only, without capabilities, in PID, mount,
// IPC and UTS namespaces of its own. The network is the machine's.
func (p *pod) start(name string, uid int, args ...string) *container {
	p.t.Helper()
	bundle := filepath.Join(p.dir, name)
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		p.t.Fatal(err)
	}
	p.must("runc", "spec", "--bundle", bundle)
	var spec map[string]any
	p.read(filepath.Join(bundle, "config.json"), &spec)
	process := spec["process"].(map[string]any)
	delete(process, "rlimits") // needs a capability that this machine may lack
	process["terminal"] = false
	process["noNewPrivileges"] = true
	process["capabilities"] = map[string]any{}
	process["user"] = map[string]any{"uid": uid, "gid": uid}
	process["args"] = append([]string{"/kahu"}, args...)
	process["env"] = []string{"KAHU_SOCKET=/run/kahu/kahu.sock", "TMPDIR=/run/kahu"}
	spec["root"] = map[string]any{"path": p.rootfs, "readonly": true}
	spec["mounts"] = append(spec["mounts"].([]any), map[string]any{"destination": "/run/kahu", "type": "bind", "source": p.socket, "options": []string{"rbind", "rw"}})
	linux := spec["linux"].(map[string]any)
	delete(linux, "resources")
	linux["namespaces"] = []map[string]string{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}
	text, err := json.Marshal(spec)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	c := &container{p: p, id: fmt.Sprintf("kahu-%d-%s", os.Getpid(), name), done: make(chan error, 1)}
	c.cmd = exec.Command("runc", "run", "--bundle", bundle, c.id)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	if err := c.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { c.done <- c.cmd.Wait() }()                                            // ends with the container
	p.t.Cleanup(func() { _ = exec.Command("runc", "delete", "--force", c.id).Run() }) // it may be gone
	return c
}

// wait returns what a container printed and how it ended.
func (c *container) wait() (string, error) {
	c.p.t.Helper()
	select {
	case err := <-c.done:
		c.done <- err
		return c.out.String(), err
	case <-time.After(60 * time.Second):
		c.p.t.Fatalf("%s does not end", c.id)
		return "", nil
	}
}

// exec runs kahu inside a running container.
func (c *container) exec(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "runc", append([]string{"exec", c.id, "/kahu"}, args...)...).CombinedOutput()
	return string(out), err
}

func (c *container) until(what string, ok func() bool) {
	c.p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) { // containers announce nothing
		if time.Now().After(deadline) {
			c.p.t.Fatalf("waited in vain for %s; %s says:\n%s", what, c.id, c.out.String())
		}
	}
}

// The sidecar pair: an agent, and an application in a container of its own that
// reaches it through the shared directory.
func TestSidecarPair(t *testing.T) {
	const uid, stranger = 10001, 10002
	p := newPod(t, uid)
	agent := p.start("agent", uid, "agent", "--dev", "--socket", "/run/kahu/kahu.sock")
	agent.until("the agent to be ready", func() bool { _, err := agent.exec("status", "--ready"); return err == nil })

	app := p.start("app", uid, "exec", "--lock", "job", "--reason", "pair", "--", "/kahu", "exec", "--lock", "inner", "--", "/kahu", "exec", "--lock", "innermost", "--wait", "forever", "--", "/kahu", "agent", "--dev", "--socket", "/run/kahu/other.sock")
	held := func(lock string) bool { _, err := agent.exec("lock", "info", lock); return err == nil }
	app.until("the application to hold its locks", func() bool { return held("job") && held("inner") && held("innermost") })
	info, err := agent.exec("lock", "info", "job", "--output", "json")
	if err != nil {
		t.Fatal(info, err)
	}
	// User and reason are known; the process is in another PID namespace.
	if !strings.Contains(info, fmt.Sprint(uid)) || !strings.Contains(info, "pair") {
		t.Errorf("the holder is shown as %s", info)
	}

	// Another user's container sees the socket and may not use it.
	if out, err := p.start("stranger", stranger, "kv", "get", "a").wait(); err == nil {
		t.Errorf("a stranger was served: %s", out)
	}

	// Killed as the kubelet kills: no process is left to give the lock back.
	killed := time.Now()
	if out, err := exec.Command("runc", "kill", app.id, "KILL").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := app.wait(); err == nil {
		t.Error("the killed application ended well")
	}
	agent.until("the locks to be free", func() bool { return !held("job") && !held("inner") && !held("innermost") })
	if took := time.Since(killed); took > 15*time.Second { // the TTL is 30 s
		t.Errorf("the locks were free %s after the container was killed; the agent says:\n%s", took, agent.out.String())
	}
	if out, err := p.start("next", uid, "exec", "--lock", "job", "--wait", "5s", "--", "/kahu", "version").wait(); err != nil || !strings.Contains(out, "kahu") {
		t.Errorf("the next application: %s %v", out, err)
	}
	var exit *exec.ExitError
	if out, err := p.start("code", uid, "exec", "--lock", "job", "--", "/kahu", "kv", "get", "missing").wait(); !errors.As(err, &exit) || exit.ExitCode() == 0 {
		t.Errorf("the exit code did not come through: %s %v", out, err)
	}
}
