// Package hosts tries what an operator does, on real hosts: Debian systems that
// boot under systemd in systemd-nspawn, each with its own network namespace and
// cgroup tree, with the deb of this commit installed, or the rpm.
//
// `make hosts` runs it as root; it needs systemd-container, debootstrap and
// iproute2, and at its first run a minute for each of the two base systems, with and
// without rpm. Without KAHU_HOSTS=1 the tests
// skip, and say so.
package hosts
