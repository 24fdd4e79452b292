// Package hosts tries what an operator does, on real hosts: Debian systems that
// boot under systemd in systemd-nspawn, each with its own network namespace and
// cgroup tree, with the deb of this commit installed.
//
// `make hosts` runs it as root; it needs systemd-container, debootstrap and
// iproute2, and 35 s for the first base system. Without KAHU_HOSTS=1 the tests
// skip, and say so.
package hosts
