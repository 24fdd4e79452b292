package hosts

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A unit that is not wrapped, under a lock: started when it is owned, by nobody else;
// restarted under the same lock; its lock free when systemctl stop returns; down
// before another has the lock, whatever happens to who keeps it.
func TestRunUnit(t *testing.T) {
	package1 := deb(t, "1.0.0")
	lab := NewLab(t)
	h := lab.Boot("unit", 31)
	h.install(package1)
	h.write("/etc/systemd/system/app.service", "[Service]\nExecStart=/bin/sh -c 'exec sleep 1000000'\nRestart=always\nRestartSec=0\n")
	h.write("/etc/kahu/unit/app.env", "TTL=8s\nGRACE=1s\n")
	h.Run("systemctl", "daemon-reload")
	if out, err := h.Try("kahu", "run-unit", "app"); err == nil || !strings.Contains(out, "--print-drop-in") {
		t.Errorf("without its drop-in a unit is taken: %s", out)
	}
	h.Shell("mkdir -p /etc/systemd/system/app.service.d && kahu run-unit --print-drop-in >/etc/systemd/system/app.service.d/kahu.conf && systemctl daemon-reload")
	h.Run("kahu", "lock", "ls") // the agent is up
	t.Run("reload", func(t *testing.T) { reload(t, lab, h) })

	is := func(unit, state string) func() bool {
		return func() bool { return h.Shell("systemctl is-active "+unit+"; true") == state }
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		lab.until(30*time.Second, what, ok)
	}
	token := func() string {
		return h.Shell("kahu lock info app -o json 2>/dev/null | grep -o '\"fencing_token\": *[0-9]*'; true")
	}
	pid := func() string { return h.Run("systemctl", "show", "-P", "MainPID", "app") }

	// Somebody else has the lock: the unit is not started, by nobody.
	h.Run("systemd-run", "--quiet", "--unit=other", "kahu", "exec", "--lock", "app", "--", "sleep", "infinity")
	until("the lock to be another's", func() bool { return token() != "" })
	_, _ = h.Try("systemctl", "start", "app")
	if !is("app", "inactive")() || !is("kahu-unit@app", "active")() {
		t.Errorf("without the lock app is %s, its keeper %s", h.Shell("systemctl is-active app; true"), h.Shell("systemctl is-active kahu-unit@app; true"))
	}
	until("the keeper to stand in line", func() bool {
		return strings.Contains(h.Run("systemctl", "show", "-P", "StatusText", "kahu-unit@app"), "position 1")
	})
	h.Run("systemctl", "stop", "other")
	until("the unit to run under its lock", is("app", "active"))
	first := token()

	// Its own restarts change nothing about the lock.
	before := pid()
	h.Run("kill", "-9", before)
	until("the unit to be restarted", func() bool { return is("app", "active")() && pid() != before && pid() != "0" })
	h.Run("systemctl", "restart", "app")
	if got := token(); got != first {
		t.Errorf("after restarts of the unit the token is %q, was %q", got, first)
	}

	// Stopped: the lock is free at once, and stays so.
	h.Run("systemctl", "stop", "app")
	if out, err := h.Try("kahu", "lock", "info", "app"); err == nil {
		t.Errorf("after systemctl stop app the lock is held: %s", out)
	}
	until("the keeper to end", is("kahu-unit@app", "inactive"))

	// The keeper stopped: the unit as well, and the lock is free.
	h.Run("systemctl", "start", "kahu-unit@app")
	until("the unit to run again", is("app", "active"))
	h.Run("systemctl", "stop", "kahu-unit@app")
	if out, err := h.Try("kahu", "lock", "info", "app"); err == nil || !is("app", "inactive")() {
		t.Errorf("after systemctl stop kahu-unit@app the lock is held or the unit runs: %s", out)
	}

	for name, hit := range map[string]string{
		"keeper killed":  "kill -9 $(systemctl show -P MainPID kahu-unit@app)",
		"keeper stopped": "kill -STOP $(systemctl show -P MainPID kahu-unit@app)",
		"agent stopped":  "systemctl stop kahu.socket kahu-admin.socket kahu.service",
		"lock broken":    "kahu lock break app --reason test",
	} {
		t.Run(name, func(t *testing.T) {
			h.Run("systemctl", "start", "kahu.socket", "kahu-admin.socket", "kahu-unit@app")
			until("the unit to run", is("app", "active"))
			was, old := token(), pid()
			began := time.Now()
			h.Shell(hit)
			// Under whatever token comes next, nothing of the old one is left.
			until("the unit to be down", func() bool { _, err := h.Try("kill", "-0", old); return err != nil })
			t.Logf("down after %s", time.Since(began).Round(10*time.Millisecond))
			if name == "agent stopped" {
				until("the unit to stay down", func() bool { return is("app", "inactive")() || is("app", "failed")() })
				h.Run("systemctl", "start", "kahu.socket", "kahu-admin.socket", "kahu.service")
			}
			until("the unit to run under a new token", func() bool { return is("app", "active")() && token() != "" && token() != was })
		})
	}

	// What outlives its service does not outlive its lock.
	h.Run("systemctl", "stop", "kahu-unit@app")
	h.write("/etc/systemd/system/app.service", "[Service]\nExecStart=/bin/sh -c 'setsid sleep 999999 & exec sleep 1000000'\nKillMode=process\n")
	h.Run("systemctl", "daemon-reload")
	h.Run("systemctl", "start", "kahu-unit@app")
	until("the unit to run", is("app", "active"))
	until("its child", func() bool { return h.Shell("pgrep -f 'sleep 999999' | head -1; true") != "" })
	h.Run("systemctl", "stop", "app")
	if left := h.Shell("pgrep -xf 'sleep 999999'; true"); left != "" {
		t.Errorf("after the stop this is left: %s", left)
	}
	if out, err := h.Try("kahu", "lock", "info", "app"); err == nil {
		t.Errorf("after the stop the lock is held: %s", out)
	}

	h.Run("systemctl", "start", "kahu-unit@app")
	until("the unit to run", is("app", "active"))
	h.Run("apt-get", "purge", "-qqy", "kahu")
	if is("app", "active")() {
		t.Error("the unit runs without kahu")
	}
	if left := h.Shell("ls -d /run/kahu* /etc/kahu 2>/dev/null; true"); left != "" {
		t.Errorf("purge leaves %s", fmt.Sprint(strings.Fields(left)))
	}
}
