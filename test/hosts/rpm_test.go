package hosts

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The rpm with its scriptlets on a host that boots, as Fedora's systemd would have it:
// nothing is enabled unless a preset says so. No Fedora can be had here, so that it is
// Debian with rpm: what rpm does, its scriptlets and systemd are the same; what dnf,
// SELinux and Fedora's own triggers do is not shown.
func TestRPM(t *testing.T) {
	one, two := build(t, "1.0.0").rpm, build(t, "1.0.1").rpm
	lab := NewLab(t)
	lab.base = lab.baseSystem("bookworm-rpm", packages+",rpm")
	h := lab.Boot("rpm", 51)
	h.write("/usr/lib/systemd/system-preset/99-default-disable.preset", "disable *\n")
	rpm := func(args ...string) string {
		t.Helper()
		// Debian's rpm asks to be used for nothing but looking. What a package needs is
		// written in names of Fedora's.
		return h.Run(append([]string{"rpm", "--force-debian", "--nodeps"}, args...)...)
	}
	quiet := func(what, said string) {
		t.Helper()
		if said != "" {
			t.Errorf("%s: rpm says %s", what, said)
		}
	}
	// Of Fedora's package "filesystem".
	h.Run("mkdir", "-p", "/usr/share/licenses", "/usr/share/fish/vendor_completions.d", "/usr/share/zsh/site-functions")
	h.Run("rpm", "--query", "--all") // so that its database is there
	before := h.files()
	h.copy(one, "/root/one.rpm")
	h.copy(two, "/root/two.rpm")

	quiet("install", rpm("--install", "/root/one.rpm"))
	quiet("verify", rpm("--verify", "kahu"))
	for _, unit := range []string{"kahu.service", "kahu.socket", "kahu-admin.socket"} {
		if out := h.Shell("systemctl is-enabled " + unit + "; systemctl is-active " + unit + "; true"); out != "disabled\ninactive" {
			t.Errorf("against the preset %s is %q", unit, out)
		}
	}
	if out := h.Run("id", "kahu"); !regexp.MustCompile(`^uid=\d+\(kahu\) gid=\d+\(kahu\)`).MatchString(out) {
		t.Errorf("the user is %q", out)
	}
	h.Run("getent", "group", "kahu-admin")
	h.Run("systemctl", "enable", "--now", "kahu.socket", "kahu-admin.socket")

	// Held over an upgrade and back.
	h.Run("systemd-run", "--quiet", "--unit=holder", "-p", "Delegate=yes", "kahu", "exec", "--lock", "held", "--", "tail", "-f", "/dev/null")
	holder := func() string {
		return h.Shell("pgrep -x tail; kahu lock info held -o json 2>/dev/null | grep -o '\"fencing_token\": *[0-9]*'; true")
	}
	lab.until(30*time.Second, "a lock to be held", func() bool { return strings.Count(holder(), "\n") == 1 })
	was := holder()
	socket := h.Run("systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", "kahu.socket")
	for _, step := range []struct{ name, file, flag, version string }{
		{"upgrade", "/root/two.rpm", "--replacepkgs", "1.0.1"},
		{"downgrade", "/root/one.rpm", "--oldpackage", "1.0.0"},
	} {
		quiet(step.name, rpm("--upgrade", step.flag, step.file))
		lab.ready(h)
		if got := h.Shell("kahu status --output json | grep -o '\"version\": *\"[^\"]*\"'"); !strings.Contains(got, `"`+step.version) {
			t.Errorf("after the %s the agent is of %s", step.name, got)
		}
		if got := holder(); got != was {
			t.Errorf("after the %s the lock's holder and token are %q, were %q", step.name, got, was)
		}
		if got := h.Run("systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", "kahu.socket"); got != socket {
			t.Errorf("the %s has stopped the socket", step.name)
		}
		quiet("verify", rpm("--verify", "kahu"))
	}

	// A service that is stopped is not started by an upgrade.
	h.Run("systemctl", "stop", "holder", "kahu.socket", "kahu-admin.socket", "kahu.service")
	quiet("upgrade", rpm("--upgrade", "/root/two.rpm"))
	if out := h.Shell("systemctl is-active kahu.service; true"); out != "inactive" {
		t.Errorf("an upgrade makes a stopped agent %s", out)
	}
	h.Run("systemctl", "start", "kahu.socket", "kahu-admin.socket")
	h.Run("kahu", "lock", "ls")

	// Erased: what its operator has written stays beside, and what the agent stored.
	h.Shell("echo '# by the operator' >>/etc/kahu/kahu.yaml")
	if said := rpm("--erase", "kahu"); !strings.Contains(said, "kahu.yaml.rpmsave") || strings.Contains(said, "\n") {
		t.Errorf("erase: rpm says %q", said)
	}
	if out := h.Shell("systemctl is-active kahu.service kahu.socket kahu-admin.socket; pgrep -x kahu; true"); strings.Contains(out, "\nactive") || strings.HasPrefix(out, "active") {
		t.Errorf("after erase: %s", out)
	}
	left := difference(before, h.files())
	expected := regexp.MustCompile(`^\+ (/etc/kahu|/etc/kahu/kahu\.yaml\.rpmsave|/var/lib/kahu(/.*)?)$`)
	for _, f := range left {
		if !expected.MatchString(f) {
			t.Errorf("erase leaves or takes: %s", f)
		}
	}
	if len(left) == 0 {
		t.Error("erase has taken what the agent stored")
	}

	// With a preset that asks for it, it is there after the install.
	h.Run("rm", "-r", "/var/lib/kahu", "/etc/kahu")
	h.write("/usr/lib/systemd/system-preset/50-ours.preset", "enable kahu.socket\nenable kahu-admin.socket\n")
	quiet("install", rpm("--install", "/root/one.rpm"))
	if out := h.Shell("systemctl is-enabled kahu.socket kahu-admin.socket kahu.service; true"); out != "enabled\nenabled\ndisabled" {
		t.Errorf("with a preset for the sockets: %q", out)
	}
	quiet("erase", rpm("--erase", "kahu"))
	if left := difference(before, h.files()); !slices.Equal(left, []string{"+ /usr/lib/systemd/system-preset/50-ours.preset"}) {
		t.Errorf("erase leaves of an agent that never ran: %s", left)
	}
}

// copy puts a file of this machine onto the host.
func (h *Host) copy(from, to string) {
	h.lab.t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		h.lab.t.Fatal(err)
	}
	h.write(to, string(content))
}
