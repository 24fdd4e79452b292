package partitions_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/replication/link"
	"github.com/kahu-sh/kahu/test/cluster"
)

// agentPort is where agents listen in their namespaces.
const agentPort = "7350"

// A host is a network namespace with one address on the lab's bridge.
type host struct {
	name    string
	address string
	netns   string
	agent   *cluster.Agent
}

// A lab is a bridge with hosts on it. It goes with the test.
type lab struct {
	t        *testing.T
	hosts    []*host
	unmarked string // why streams cannot be told apart; empty: they can
}

// needs skips the test when this machine cannot have a lab.
func needs(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: network namespaces need root")
	}
	for _, tool := range []string{"ip", "iptables", "iptables-restore"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %v (apt-get install iproute2 iptables)", err)
		}
	}
	probe := fmt.Sprintf("kahuprobe%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", probe).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no network namespace can be made here: %v: %s", err, out)
	}
	defer func() { _ = exec.Command("ip", "netns", "del", probe).Run() }()
	if out, err := exec.Command("ip", "netns", "exec", probe, "iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: iptables does not work in a namespace: %v: %s", err, out)
	}
}

// streams are what agents say over TCP, on one port: by the mark that a connection
// gets when its first packet names the protocol, in the open (ALPN).
var streams = map[string]struct {
	alpn string
	mark int
}{
	"raft":   {link.ProtocolRaft, 1},
	"link":   {link.ProtocolLink, 2},
	"gossip": {link.ProtocolGossip, 3},
}

// markStreams are the rules that mark them, at both ends.
func markStreams() string {
	rules := "*mangle\n"
	for _, s := range streams {
		for _, chain := range []string{"INPUT", "OUTPUT"} {
			rules += fmt.Sprintf("-A %s -p tcp -m string --algo bm --string %s -j CONNMARK --set-mark %d\n", chain, s.alpn, s.mark)
		}
	}
	return rules + "COMMIT\n"
}

// restore adds rules in a namespace.
func restore(netns, rules string) ([]byte, error) {
	cmd := exec.Command("ip", "netns", "exec", netns, "iptables-restore", "--noflush")
	cmd.Stdin = strings.NewReader(rules)
	return cmd.CombinedOutput()
}

// newLab makes n hosts.
func newLab(t *testing.T, n int) *lab {
	t.Helper()
	needs(t)
	l := &lab{t: t}
	id := fmt.Sprintf("kahup%d", os.Getpid())
	l.addNamespace(id)
	l.must("ip", "-n", id, "link", "add", "br0", "type", "bridge")
	l.must("ip", "-n", id, "link", "set", "br0", "up")
	for i := range n {
		h := &host{address: fmt.Sprintf("10.78.0.%d", i+1), netns: fmt.Sprintf("%s-%d", id, i+1)}
		port := fmt.Sprintf("port%d", i+1)
		l.addNamespace(h.netns)
		l.must("ip", "-n", h.netns, "link", "add", "host0", "type", "veth", "peer", "name", port, "netns", id)
		l.must("ip", "-n", id, "link", "set", port, "master", "br0", "up")
		l.must("ip", "-n", h.netns, "link", "set", "lo", "up")
		l.must("ip", "-n", h.netns, "addr", "add", h.address+"/24", "dev", "host0")
		l.must("ip", "-n", h.netns, "link", "set", "host0", "up")
		if out, err := restore(h.netns, markStreams()); err != nil {
			l.unmarked = fmt.Sprintf("iptables cannot tell the protocols on one port apart here (CONFIG_NETFILTER_XT_MATCH_STRING, XT_CONNMARK): %v: %s", err, out)
		}
		l.hosts = append(l.hosts, h)
	}
	return l
}

func (l *lab) addNamespace(name string) {
	l.t.Helper()
	l.must("ip", "netns", "add", name)
	l.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			l.t.Errorf("removing the namespace %s: %v: %s", name, err, out)
		}
	})
}

// places says where the agents go, one on each host.
func (l *lab) places() (places []cluster.Place) {
	for _, h := range l.hosts {
		places = append(places, cluster.Place{Bind: h.address + ":" + agentPort, Namespace: h.netns})
	}
	return places
}

// settle puts the agents on the hosts that they were started on.
func (l *lab) settle(c *cluster.Cluster) {
	for i, a := range c.Agents {
		l.hosts[i].agent, l.hosts[i].name = a, a.Name
	}
}

// A drop is what does not arrive: all that from sends to to, or one protocol.
type drop struct {
	from, to *host
	protocol string // udp, tcp, one of streams; empty: all
}

// rules are the drop for iptables.
func (d drop) rules() string {
	from := "-A INPUT -s " + d.from.address
	switch s, one := streams[d.protocol]; {
	case d.protocol == "":
		return from + " -j DROP\n"
	case one:
		return fmt.Sprintf("%s -p tcp -m connmark --mark %d -j DROP\n", from, s.mark)
	default:
		return from + " -p " + d.protocol + " -j DROP\n"
	}
}

// cut drops all of it until heal, without a word to the senders. It skips the test
// when a stream is to be dropped and none can be told from the others.
func (l *lab) cut(drops []drop) {
	l.t.Helper()
	if l.unmarked != "" && slices.ContainsFunc(drops, func(d drop) bool { _, one := streams[d.protocol]; return one }) {
		l.t.Skip("SKIPPED: " + l.unmarked)
	}
	for _, h := range l.hosts {
		rules := "*filter\n"
		for _, d := range drops {
			if d.to != h {
				continue
			}
			rules += d.rules()
		}
		if out, err := restore(h.netns, rules+"COMMIT\n"); err != nil {
			l.t.Fatalf("iptables-restore on %s: %v: %s", h.name, err, out)
		}
	}
}

// heal ends what cut began.
func (l *lab) heal() {
	l.t.Helper()
	for _, h := range l.hosts {
		l.must("ip", "netns", "exec", h.netns, "iptables", "-F", "INPUT")
	}
}

// dropped is how many packets each host has been denied since the cut.
func (l *lab) dropped() map[*host]int {
	l.t.Helper()
	dropped := map[*host]int{}
	for _, h := range l.hosts {
		for line := range strings.Lines(l.must("ip", "netns", "exec", h.netns, "iptables", "-nvxL", "INPUT")) {
			fields := strings.Fields(line)
			if len(fields) < 3 || fields[2] != "DROP" {
				continue
			}
			packets, err := strconv.Atoi(fields[0])
			if err != nil {
				l.t.Fatalf("reading the counters of %s: %q: %v", h.name, line, err)
			}
			dropped[h] += packets
		}
	}
	return dropped
}

func (l *lab) must(name string, args ...string) string {
	l.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}
