package cgroup

import (
	"strconv"
	"strings"
	"testing"
)

// MountOf and Sweep are tested alone.
var (
	MountOf = mountOf
	Sweep   = sweep
)

// NameForTest names the group of a process that has ended.
func NameForTest(t *testing.T, pid int) string {
	t.Helper()
	name, err := nameOf(1)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Split(strings.TrimPrefix(name, prefix), "-")
	return prefix + f[0] + "-" + strings.Join([]string{strconv.Itoa(pid), "1"}, "-")
}
