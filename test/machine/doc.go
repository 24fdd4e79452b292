// Package machine runs the arm64 package on a machine of its own: a kernel of Debian
// 12 for arm64, under qemu, whose clock may be set and which may be suspended. No host
// of ours can do either, nor is its processor an ARM, nor its kernel as old as 6.1.
//
// The machine has the kernel, busybox and the package's binary in memory, no disk and
// no network. testdata/checks.sh is what it does: the engines, the guard on each rung
// and what is left when all of it is killed, steps of the wall clock, and a suspend
// that is longer than the lease of a running command, with another in line.
//
// `make machine` runs it; it needs qemu-system-arm and cpio, and apt for the kernel and
// busybox, which it keeps in the cache. Without KAHU_MACHINE=DEB the test skips, and
// says so.
package machine
