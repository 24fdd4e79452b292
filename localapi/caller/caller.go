package caller

import "os"

// Caller is the process that connected, as it was at accept.
type Caller struct {
	UID    uint32
	GID    uint32
	Groups []uint32 // all, GID included
	PID    int32    // 0 when it is in another pid namespace
	// Pidfd refers to that very process, nil when the kernel has none to give
	// (before 6.5). It belongs to the connection, which closes it.
	Pidfd *os.File
	// Cgroup is the path in the cgroup2 tree (or in systemd's own), and Unit the
	// systemd unit in it. Empty when they could not be read for certain.
	Cgroup string
	Unit   string
}
