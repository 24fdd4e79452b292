package cgroup

import (
	"strconv"
	"strings"
	"testing"
)

// Sweep is tested alone, as MountOf is.
var Sweep = sweep

// MountOf is mountOf of a line of text.
func MountOf(line string) (root, point string, ok bool) {
	r, p, ok := mountOf([]byte(line))
	return string(r), string(p), ok
}

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
