package hosts

import (
	"os"
	"strings"
	"testing"
	"time"
)

// cron runs a timer on all hosts that fires on all of them at once: the job runs on
// one, once (integrations/recipes/cron.md).
func cron(t *testing.T, lab *Lab, hosts []*Host) {
	text, err := os.ReadFile("../../integrations/recipes/cron.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "cat >once-per <<'EOF'\n")
	script, _, found := strings.Cut(rest, "EOF\n")
	if !found {
		t.Fatal("the recipe has no once-per")
	}
	at := time.Now().Add(5 * time.Second).UTC().Format("2006-01-02 15:04:05 UTC")
	for _, h := range hosts {
		h.write("/usr/local/bin/once-per", script)
		h.Run("chmod", "755", "/usr/local/bin/once-per")
		// A period that does not end before the test does.
		h.write("/etc/systemd/system/report.service", "[Service]\nType=oneshot\nExecStart=/usr/local/bin/once-per 31536000 report sh -c 'echo ran >>/root/runs'\n")
		h.write("/etc/systemd/system/report.timer", "[Timer]\nOnCalendar="+at+"\nAccuracySec=1us\n")
		h.Run("systemctl", "daemon-reload")
		h.Run("systemctl", "start", "report.timer")
	}
	for _, h := range hosts {
		lab.until(60*time.Second, "the timer's service to have ended on "+h.Name, func() bool {
			return h.Shell("systemctl show -P ExecMainExitTimestampMonotonic report.service") != "0" &&
				h.Run("systemctl", "show", "-P", "ActiveState", "report.service") == "inactive"
		})
		if result := h.Run("systemctl", "show", "-P", "Result", "report.service"); result != "success" {
			t.Errorf("on %s the service ended with %s", h.Name, result)
		}
	}
	runs := ""
	for _, h := range hosts {
		runs += h.Shell("cat /root/runs 2>/dev/null; true")
	}
	if runs != "ran" {
		t.Errorf("the job ran %d times: %q", strings.Count(runs, "ran"), runs)
	}
}

// reload changes the configuration of a host that runs, well and badly.
func reload(t *testing.T, lab *Lab, h *Host) {
	before := h.Shell("cat /etc/kahu/kahu.yaml; systemctl show -P MainPID kahu >/root/kahu.pid")
	h.write("/etc/kahu/kahu.yaml", before+"\nlog-level: debug\nvoters: 5\n")
	h.Run("systemctl", "reload", "kahu")
	lab.until(10*time.Second, "the reload to be told", func() bool {
		return strings.Contains(h.Run("kahu", "status"), "wait for a restart: voters")
	})
	if out := h.Run("kahu", "status"); !strings.HasPrefix(out, "healthy: ") {
		t.Errorf("after a reload the status is\n%s", out)
	}
	h.write("/etc/kahu/kahu.yaml", before+"\nvoters: 4\n")
	if out, err := h.Try("systemctl", "reload", "kahu"); err == nil {
		t.Errorf("a wrong configuration is taken: %s", out)
	}
	h.write("/etc/kahu/kahu.yaml", before+"\n")
	h.Run("systemctl", "reload", "kahu")
	lab.until(10*time.Second, "nothing to wait for a restart", func() bool {
		return !strings.Contains(h.Run("kahu", "status"), "restart")
	})
	if out := h.Shell("systemctl show -P MainPID kahu | diff - /root/kahu.pid && systemctl show -P ActiveState kahu"); out != "active" {
		t.Errorf("the agent was restarted: %s", out)
	}
}
