package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/kahu-sh/kahu/test/cluster"
)

// hosts are network namespaces on one bridge, one for each agent. They go with
// the test. What a partition does to everything else is the business of
// test/partitions.
type hosts struct{ names []string }

// newHosts makes n of them, or returns nil where that cannot be had.
func newHosts(t *testing.T, n int) (*hosts, []cluster.Place) {
	t.Helper()
	bridge := fmt.Sprintf("kahuo%d", os.Getpid())
	h := &hosts{}
	run := func(line ...string) error {
		out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", line, err, bytes.TrimSpace(out))
		}
		return nil
	}
	add := func(name string) error {
		err := run("ip", "netns", "add", name)
		if err == nil {
			t.Cleanup(func() {
				if err := run("ip", "netns", "del", name); err != nil {
					t.Error(err)
				}
			})
		}
		return err
	}
	if err := add(bridge); err != nil {
		t.Logf("without partitions: %v", err)
		return nil, nil
	}
	lines := [][]string{{"-n", bridge, "link", "add", "br0", "type", "bridge"}, {"-n", bridge, "link", "set", "br0", "up"}}
	var places []cluster.Place
	for i := range n {
		name, port, address := fmt.Sprintf("%s-%d", bridge, i+1), fmt.Sprintf("port%d", i+1), fmt.Sprintf("10.79.0.%d", i+1)
		if err := add(name); err != nil {
			t.Fatal(err)
		}
		lines = append(lines,
			[]string{"-n", name, "link", "add", "host0", "type", "veth", "peer", "name", port, "netns", bridge},
			[]string{"-n", bridge, "link", "set", port, "master", "br0", "up"},
			[]string{"-n", name, "link", "set", "lo", "up"},
			[]string{"-n", name, "addr", "add", address + "/24", "dev", "host0"},
			[]string{"-n", name, "link", "set", "host0", "up"})
		h.names = append(h.names, name)
		places = append(places, cluster.Place{Bind: address + ":7350", Namespace: name})
	}
	for _, line := range lines {
		if err := run(append([]string{"ip"}, line...)...); err != nil {
			t.Fatal(err)
		}
	}
	return h, places
}

// cable pulls the cable of a host, or plugs it in again.
func (h *hosts) cable(i int, in bool) error {
	state := map[bool]string{true: "up", false: "down"}[in]
	out, err := exec.Command("ip", "-n", h.names[i], "link", "set", "host0", state).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cable of %s %s: %w: %s", h.names[i], state, err, bytes.TrimSpace(out))
	}
	return nil
}
