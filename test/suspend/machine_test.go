package suspend_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kahu-sh/kahu/test/cluster"
)

// A machine is an emulated one. It goes with the test.
type machine struct {
	t       *testing.T
	console string        // file of what it printed
	in      io.Writer     // of its shell
	out     *bufio.Reader // of its shell
	script  string        // the last of them
	monitor net.Conn      // qemu's own protocol (QMP)
	events  *json.Decoder
}

// boot starts a machine in the network namespace, on the tap device, and waits for its shell.
func boot(ctx context.Context, t *testing.T, l *lab, k kernel, initrd string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, console: filepath.Join(dir, "console")}
	monitor := filepath.Join(dir, "monitor")
	args := []string{"netns", "exec", l.netns, "qemu-system-x86_64",
		"-accel", "tcg", "-cpu", "max", "-machine", "pc", "-m", "768", "-nodefaults", "-nographic", "-no-reboot",
		"-kernel", k.image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet no_console_suspend panic=-1",
		"-netdev", "tap,id=net,ifname=" + tap + ",script=no,downscript=no", "-device", "e1000,netdev=net",
		"-serial", "file:" + m.console,
		"-qmp", "unix:" + monitor + ",server=on,wait=off",
	}
	cmd := exec.Command("ip", args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends when qemu does, which the cleanup waits for
		defer close(ended)
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("qemu ended: %v: %s", err, said.String())
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			console, err := os.ReadFile(m.console)
			t.Logf("the end of the machine's console (%v):\n%s", err, tail(string(console), 60))
		}
		_ = cmd.Process.Kill() // ended: nothing to kill
		<-ended
	})
	m.monitor = dial(ctx, t, monitor)
	m.events = json.NewDecoder(m.monitor)
	m.command("qmp_capabilities")
	m.login(ctx, l)
	return m
}

// dial connects to a socket of qemu as soon as it is there.
func dial(ctx context.Context, t *testing.T, path string) net.Conn {
	t.Helper()
	var conn net.Conn
	if err := cluster.Wait(ctx, "qemu to listen on "+path, func(context.Context) (_ bool, err error) {
		conn, err = net.Dial("unix", path)
		return err == nil, nil //nolint:nilerr // not yet
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// login connects to the shell as soon as the machine has one.
func (m *machine) login(ctx context.Context, l *lab) {
	m.t.Helper()
	for {
		cmd := exec.CommandContext(ctx, "ip", "netns", "exec", l.netns, "busybox", "nc", machineAddress, shellPort)
		in, err := cmd.StdinPipe()
		if err != nil {
			m.t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			m.t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			m.t.Fatal(err)
		}
		m.in, m.out = in, bufio.NewReader(out)
		_, _ = io.WriteString(in, "echo here\n") // not there yet: nothing to read either
		if here, err := m.out.ReadString('\n'); err == nil && here == "here\n" {
			m.t.Cleanup(func() { in.Close(); _ = cmd.Wait() }) // ended by qemu's end
			return
		}
		in.Close()
		if err := cmd.Wait(); ctx.Err() != nil {
			m.t.Fatalf("the machine has no shell: %v (%v)", context.Cause(ctx), err)
		}
	}
}

// do runs lines of sh in the machine, waits for their end, and returns what they
// printed. That they fail ends the test.
func (m *machine) do(ctx context.Context, script string) string {
	m.t.Helper()
	m.send(script)
	return m.await(ctx)
}

// send begins lines of sh; await waits for their end.
func (m *machine) send(script string) {
	m.t.Helper()
	m.script = script
	if _, err := fmt.Fprintf(m.in, "{\n%s\n} >/tmp/out 2>&1; echo $? $(base64 /tmp/out | tr -d '\\n')\n", script); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) await(ctx context.Context) string {
	m.t.Helper()
	answer, err := m.out.ReadString('\n')
	if err != nil {
		m.t.Fatalf("waiting for the machine to end %q: %v (%v)", m.script, err, context.Cause(ctx))
	}
	status, out, _ := strings.Cut(strings.TrimSpace(answer), " ")
	text, err := base64.StdEncoding.DecodeString(out)
	if err != nil {
		m.t.Fatalf("the machine answered %q to %q: %v", answer, m.script, err)
	}
	if status != "0" {
		m.t.Fatalf("%q in the machine ended with %s: %s", m.script, status, text)
	}
	return strings.TrimSpace(string(text))
}

// command gives qemu a command without waiting for what it answers.
func (m *machine) command(name string) {
	m.t.Helper()
	if err := json.NewEncoder(m.monitor).Encode(map[string]string{"execute": name}); err != nil {
		m.t.Fatal(err)
	}
}

// event waits until qemu tells of something.
func (m *machine) event(ctx context.Context, name string) {
	m.t.Helper()
	deadline, _ := ctx.Deadline()
	if err := m.monitor.SetReadDeadline(deadline); err != nil {
		m.t.Fatal(err)
	}
	for {
		var e struct {
			Event string
			Error struct{ Desc string }
		}
		if err := m.events.Decode(&e); err != nil {
			m.t.Fatalf("waiting for qemu to say %s: %v", name, err)
		}
		if e.Error.Desc != "" {
			m.t.Fatalf("waiting for qemu to say %s: %s", name, e.Error.Desc)
		}
		if e.Event == name {
			return
		}
	}
}

const goToSleep = "echo mem >/sys/power/state"

// sleep suspends the machine, and returns when it sleeps. The shell is of no use until wake.
func (m *machine) sleep(ctx context.Context) {
	m.t.Helper()
	m.send(goToSleep)
	m.event(ctx, "SUSPEND")
}

// wake has the machine go on, and returns when its shell does.
func (m *machine) wake(ctx context.Context) {
	m.t.Helper()
	m.command("system_wakeup")
	m.event(ctx, "WAKEUP")
	m.await(ctx)
}

// uptime is the machine's CLOCK_BOOTTIME.
func (m *machine) uptime(ctx context.Context) time.Duration {
	m.t.Helper()
	text, _, _ := strings.Cut(m.do(ctx, "cat /proc/uptime"), " ")
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	return time.Duration(seconds * float64(time.Second))
}

// printed waits until a worker or guard has printed a line that begins with start,
// and returns its rest.
func (m *machine) printed(ctx context.Context, start string) (found string) {
	m.t.Helper()
	until(ctx, m.t, fmt.Sprintf("the machine prints %q", start), func(ctx context.Context) (bool, error) {
		for line := range strings.Lines(m.do(ctx, "cat "+printed) + "\n") {
			if rest, ok := strings.CutPrefix(line, start); ok {
				found = strings.TrimSpace(rest)
				return true, nil
			}
		}
		return false, nil
	})
	return found
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
