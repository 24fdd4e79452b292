// Package suspend tries what a host does that sleeps: a virtual machine, whose
// kernel suspends it to RAM, whose wall clock is stepped, and whose agent is a
// proxy of, or a voter among, agents outside. What its guard runs must not run
// once more after the lock is another's, and what its voter answers must not be
// what was true before the sleep.
//
// No Linux that is shared with other tests can be suspended, nor can its clock be
// stepped; hence the machine, which qemu emulates in software (about ten seconds
// to boot) with a kernel of Debian and nothing on it but busybox and kahu.
//
// The machine here is one host of a cluster whose other hosts go on; what the
// arm64 package does alone on a machine is in test/machine.
//
// `make suspend` runs it as root; it needs qemu-system-x86, busybox-static
// and iproute2, and downloads the kernel with apt-get the first time. Without KAHU_SUSPEND=1 the tests skip, and say so.
package suspend
