package hosts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("KAHU_HOSTS") == "" {
		fmt.Println("SKIPPED: hosts under systemd-nspawn are booted by `make hosts` only")
		os.Exit(0)
	}
	code := m.Run()
	for _, p := range built {
		_ = os.Remove(p.deb) // temporary files
		_ = os.Remove(p.rpm)
	}
	os.Exit(code)
}

// packagePair is a deb and an rpm of one version, as temporary files.
type packagePair struct{ deb, rpm string }

// built are those that were built, by version: building them takes minutes.
var built = map[string]packagePair{}

// deb returns a deb of this tree, of a given version.
func deb(t *testing.T, version string) string {
	t.Helper()
	return build(t, version).deb
}

// build returns packages of this tree, of a given version.
func build(t *testing.T, version string) packagePair {
	t.Helper()
	if kept, ok := built[version]; ok {
		return kept
	}
	cmd := exec.Command("packaging/build.sh", "amd64")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "PKG_VERSION="+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the packages: %v: %s", err, out)
	}
	keep := func(pattern string) string {
		found, err := filepath.Glob("../../dist/" + pattern)
		if err != nil || len(found) != 1 {
			t.Fatalf("packages built: %q, %v", found, err)
		}
		content, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.CreateTemp("", "kahu-"+version+"-"+pattern)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		return file.Name()
	}
	p := packagePair{deb: keep("*_amd64.deb"), rpm: keep("*.x86_64.rpm")}
	built[version] = p
	return p
}

func (h *Host) install(deb string) {
	h.lab.t.Helper()
	h.copy(deb, "/root/kahu.deb")
	h.Run("apt-get", "install", "-qqy", "--allow-downgrades", "/root/kahu.deb")
}

// token is the fencing token in the environment of the process that runs under
// a lock on this host.
func (h *Host) token(unit string) string {
	return h.Shell("for p in $(cat /sys/fs/cgroup/system.slice/system-kahu\\\\x2dexec.slice/" + unit + "/cgroup.procs /sys/fs/cgroup/system.slice/system-kahu\\\\x2dexec.slice/" + unit + "/*/cgroup.procs 2>/dev/null); do " +
		"grep -qx sleep /proc/$p/comm 2>/dev/null && tr '\\0' '\\n' </proc/$p/environ | sed -n 's/^KAHU_FENCING_TOKEN=//p'; done; true")
}

// One host: two commands to a held lock, and nothing left after purge.
func TestInstallUseAndPurge(t *testing.T) {
	package1 := deb(t, "1.0.0")
	lab := NewLab(t)
	h := lab.Boot("one", 11)
	before := h.files()
	h.install(package1)
	if out := h.Run("kahu", "exec", "--lock", "a", "--", "echo", "held"); out != "held" {
		t.Errorf("the second command printed %q", out)
	}
	if out := h.Run("systemctl", "show", "-P", "StatusText", "kahu.service"); !strings.Contains(out, "voter (") {
		t.Errorf("systemctl status shows %q", out)
	}
	if out, err := h.Try("dpkg", "--verify", "kahu"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("dpkg --verify: %s %v", out, err)
	}
	score := regexp.MustCompile(`exposure level for kahu.service: ([0-9.]+)`).FindStringSubmatch(h.Run("systemd-analyze", "security", "--no-pager", "kahu.service"))
	if len(score) != 2 {
		t.Fatal("systemd-analyze security gives no score")
	}
	if s, _ := strconv.ParseFloat(score[1], 64); s > 2 {
		t.Errorf("systemd-analyze security rates %s, the limit is 2.0", score[1])
	}
	if out, err := h.Try("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "kahu", "--socket", "/run/kahu/kahu.sock", "kv", "get", "a"); err == nil {
		t.Errorf("nobody may use the socket: %s", out)
	}
	h.Run("apt-get", "purge", "-qqy", "kahu")
	if left := difference(before, h.files()); len(left) > 0 {
		t.Errorf("purge leaves or takes:\n%s", strings.Join(left, "\n"))
	}
	if out, err := h.Try("getent", "passwd", "kahu"); err == nil {
		t.Errorf("the user is left: %s", out)
	}
}

// files lists what could be left behind. What apt, dpkg and systemd write on
// their own account is not.
func (h *Host) files() map[string]bool {
	found := make(map[string]bool)
	for _, line := range strings.Split(h.Shell("find / -xdev \\( -path /proc -o -path /sys -o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/log -o -path /root -o -path /tmp -o -path /var/tmp \\) -prune -o -print; find /run /tmp -name '*kahu*'"), "\n") {
		if !regexp.MustCompile(`^/etc/(passwd|group|shadow|gshadow)-$|^/etc/\.pwd\.lock$`).MatchString(line) {
			found[line] = true
		}
	}
	return found
}

func difference(before, after map[string]bool) (out []string) {
	for f := range after {
		if !before[f] {
			out = append(out, "+ "+f)
		}
	}
	for f := range before {
		if !after[f] {
			out = append(out, "- "+f)
		}
	}
	return out
}

// Three hosts: a quorum, a singleton unit that moves when its host loses power,
// an upgrade under held locks, and a stop that gives the lock back.
func TestThreeHosts(t *testing.T) {
	package1, package2 := deb(t, "1.0.0"), deb(t, "1.0.1")
	lab := NewLab(t)
	var hosts []*Host
	for i, name := range []string{"h1", "h2", "h3"} {
		hosts = append(hosts, lab.Boot(name, 21+i))
	}
	secret := ""
	for _, h := range hosts {
		h.install(package1)
		if secret == "" {
			secret = h.Run("kahu", "keygen")
		}
		h.write("/etc/credstore/kahu-secret", secret+"\n")
		h.write("/etc/kahu/kahu.yaml", fmt.Sprintf("bind: %s:7350\njoin: [10.77.0.21:7350, 10.77.0.22:7350, 10.77.0.23:7350]\nbootstrap-expect: 3\n", h.Address))
		h.write("/etc/kahu/exec/job.env", "COMMAND=exec sleep infinity\nTTL=5s\nGRACE=1s\n")
	}
	began := time.Now()
	for _, h := range hosts {
		h.Run("systemctl", "restart", "--no-block", "kahu")
	}
	lab.ready(hosts...)
	t.Logf("three hosts have a quorum %s after their agents were started", time.Since(began).Round(time.Millisecond))

	t.Run("upgrade under held locks", func(t *testing.T) { upgrade(t, lab, hosts, package2) })
	t.Run("singleton unit", func(t *testing.T) { singleton(t, lab, hosts) })
	t.Run("cron", func(t *testing.T) { cron(t, lab, hosts) })
	t.Run("purge", func(t *testing.T) {
		for _, h := range hosts {
			h.Run("apt-get", "purge", "-qqy", "kahu")
			if out := h.Shell("ls -d /etc/kahu /var/lib/kahu /run/kahu* 2>/dev/null; true"); out != "" {
				t.Errorf("%s keeps %s", h.Name, out)
			}
		}
	})
}

func (l *Lab) ready(hosts ...*Host) {
	l.t.Helper()
	for _, h := range hosts {
		l.until(30*time.Second, h.Name+" to be ready", func() bool {
			_, err := h.Try("kahu", "status", "--ready")
			return err == nil
		})
	}
}

// upgrade installs another version on one host after the other, while each runs
// a command under a lock.
func upgrade(t *testing.T, lab *Lab, hosts []*Host, deb string) {
	pids := make([]string, len(hosts))
	running := func(h *Host) string {
		return h.Shell("systemctl show -P ActiveState holder; pgrep -x tail; true")
	}
	for i, h := range hosts {
		h.Run("systemd-run", "--quiet", "--unit=holder", "-p", "Delegate=yes", "kahu", "exec", "--lock", "of-"+h.Name, "--", "tail", "-f", "/dev/null")
		lab.until(10*time.Second, "a guarded command", func() bool { return strings.Contains(running(h), "\n") })
		pids[i] = running(h)
	}
	tokens := hosts[0].Run("kahu", "lock", "ls", "--output", "json")
	for i, h := range hosts {
		h.install(deb)
		lab.ready(h)
		for j, other := range hosts {
			if got := running(other); got != pids[j] {
				t.Errorf("after the upgrade of host %d the command on %s is %q, and was %q", i+1, other.Name, got, pids[j])
			}
		}
		hosts[(i+1)%3].Run("kahu", "kv", "set", "upgraded", h.Name)
	}
	for _, h := range hosts {
		if got := h.Shell("kahu status --output json | grep -o '\"version\": *\"[^\"]*\"'"); !strings.Contains(got, "1.0.1") {
			t.Errorf("%s runs %s after the upgrade", h.Name, got)
		}
	}
	was, is := tokensOf(tokens), tokensOf(hosts[0].Run("kahu", "lock", "ls", "--output", "json"))
	if strings.Join(was, " ") != strings.Join(is, " ") || len(is) != 3 {
		t.Errorf("locks and tokens were %q, are %q", was, is)
	}
	for _, h := range hosts {
		h.Run("systemctl", "stop", "holder")
	}
}

var lockToken = regexp.MustCompile(`"(?:name|token)": *"?([^",}]+)`)

func tokensOf(list string) (out []string) {
	for _, m := range lockToken.FindAllStringSubmatch(list, -1) {
		out = append(out, m[1])
	}
	return out
}

const jobUnit = "kahu-exec@job.service"

// singleton runs one unit on three hosts.
func singleton(t *testing.T, lab *Lab, hosts []*Host) {
	holder := func(among []*Host) *Host {
		var found []*Host
		for _, h := range among {
			if h.leader != 0 && h.token(jobUnit) != "" {
				found = append(found, h)
			}
		}
		if len(found) > 1 {
			t.Fatalf("the job runs on %s and %s", found[0].Name, found[1].Name)
		}
		if len(found) == 0 {
			return nil
		}
		return found[0]
	}
	await := func(among []*Host) *Host {
		t.Helper()
		var h *Host
		lab.until(30*time.Second, "the job to run somewhere", func() bool { h = holder(among); return h != nil })
		return h
	}
	for _, h := range hosts {
		h.Run("systemctl", "start", jobUnit)
	}
	first := await(hosts)
	token1, _ := strconv.Atoi(first.token(jobUnit))

	// Stopped in order: the lock is free when systemctl returns.
	first.Run("systemctl", "stop", jobUnit)
	if now := first.Shell("pgrep -x sleep; true"); now != "" {
		t.Errorf("the job runs on after systemctl stop: %s", now)
	}
	second := await(hosts)
	token2, _ := strconv.Atoi(second.token(jobUnit))
	if second == first || token2 != token1+1 {
		t.Errorf("after %s with token %d comes %s with token %d", first.Name, token1, second.Name, token2)
	}
	first.Run("systemctl", "start", jobUnit)

	// Without power: the lease has to end first.
	second.PowerOff()
	cut := time.Now()
	third := await(hosts)
	token3, _ := strconv.Atoi(third.token(jobUnit))
	if token3 <= token2 {
		t.Errorf("the token went from %d to %d", token2, token3)
	}
	t.Logf("the job runs on %s %s after %s lost its power, TTL 5 s", third.Name, time.Since(cut).Round(time.Millisecond), second.Name)
	second.PowerOn()
	lab.ready(second)

	// Cut off: the command ends before the others may run it.
	third.Cut(true)
	others := slices.DeleteFunc(slices.Clone(hosts), func(h *Host) bool { return h == third })
	fourth := await(others)
	if token := third.token(jobUnit); token != "" {
		t.Errorf("the job runs on %s, and still with token %s on %s, which is cut off", fourth.Name, token, third.Name)
	}
	third.Cut(false)
	lab.ready(third)
	for _, h := range hosts {
		h.Run("systemctl", "stop", jobUnit)
	}
}
