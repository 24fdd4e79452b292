package config

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// Host is what configuration asks the host. Tests set it.
type Host struct {
	UID         int
	HomeDir     string
	HostName    string
	Environ     []string                          // "KEY=value"
	LookupUser  func(name string) (uint32, error) // name to uid
	LookupGroup func(name string) (uint32, error) // name to gid
	Addresses   func() ([]netip.Addr, error)      // of all interfaces
	CanRead     func(path string) error           // nil when the file can be opened
	// Alone says that no other agent is met, and no secret is looked for.
	Alone    bool
	FileMode func(path string) (os.FileMode, bool) // permission bits, false when there is no such file
}

// getentTimeout bounds one look-up: a directory server that hangs must not keep
// an agent from starting for ever.
const getentTimeout = 10 * time.Second

// ThisHost asks the running process and its host.
func ThisHost() Host {
	home, _ := os.UserHomeDir() // empty is reported when it is needed
	name, _ := os.Hostname()
	return Host{
		UID: os.Geteuid(), HomeDir: home, HostName: name, Environ: os.Environ(),
		LookupUser: func(name string) (uint32, error) {
			if u, err := user.Lookup(name); err == nil {
				return parseID(u.Uid)
			}
			return getent("passwd", name)
		},
		LookupGroup: func(name string) (uint32, error) {
			if g, err := user.LookupGroup(name); err == nil {
				return parseID(g.Gid)
			}
			return getent("group", name)
		},
		Addresses: interfaceAddresses,
		CanRead: func(path string) error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			return f.Close()
		},
		FileMode: func(path string) (os.FileMode, bool) {
			info, err := os.Stat(path)
			if err != nil {
				return 0, false
			}
			return info.Mode().Perm(), true
		},
	}
}

// getent asks the host's name services. A binary without cgo reads /etc/passwd
// and /etc/group only, and would not see names from LDAP or sssd
// (HAZARDS-HOST.md 25).
func getent(database, name string) (uint32, error) {
	ctx, cancel := context.WithTimeout(context.Background(), getentTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "getent", "--", database, name).Output()
	if err != nil {
		return 0, fmt.Errorf("no such name in %s on this host", database)
	}
	fields := strings.Split(strings.TrimSpace(string(out)), ":")
	if len(fields) < 3 {
		return 0, fmt.Errorf("getent %s answered %q", database, out)
	}
	return parseID(fields[2]) // name:password:id:…
}

func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("the id %q is not a number", s)
	}
	return uint32(id), nil
}

func interfaceAddresses() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of this host: %w", err)
	}
	var out []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}
