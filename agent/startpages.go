package agent

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Starting touches much of the program that is never needed again: the packages
// initialise themselves, the command line is built, libraries register their types.
// The kernel keeps those pages mapped for as long as nobody else wants the memory,
// and counts them as this process's. So once an agent runs, its program and the
// libraries are unmapped page by page; what is used is mapped again when it is
// used, from the page cache, at a fraction of a microsecond each.

// mapping is one line of /proc/self/smaps with what was written to it.
type mapping struct {
	from, to  uintptr
	isProgram bool // read-only, private, of the program or a library
	anonymous int  // kB of it that are this process's own
}

// forgetStart gives back the pages of the program that are only read: nothing was
// ever written to those mappings, so what the file has is all there is. With small,
// the kernel maps no more than is used from then on, where it would map 2 MiB at
// once: less memory for code that runs a little slower.
func forgetStart(small bool) error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := readMappings("/proc/self/smaps", strings.TrimSuffix(program, " (deleted)"))
	if err != nil {
		return err
	}
	for _, m := range maps {
		if !m.isProgram || m.anonymous > 0 {
			continue
		}
		if small {
			_ = m.advise(unix.MADV_NOHUGEPAGE) // a kernel without huge pages does not know it
		}
		if err := m.advise(unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("giving back %d bytes of the program: %w", m.to-m.from, err)
		}
	}
	return nil
}

func (m mapping) advise(advice uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, advice); errno != 0 {
		return errno
	}
	return nil
}

// readMappings reads a smaps file of the program of this path.
func readMappings(path, program string) (maps []mapping, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); ; {
		if !s.Scan() {
			return maps, s.Err()
		}
		fields := strings.Fields(s.Text())
		switch {
		case len(fields) == 3 && fields[0] == "Anonymous:" && len(maps) > 0:
			if maps[len(maps)-1].anonymous, err = strconv.Atoi(fields[1]); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"):
			m, err := parseMapping(fields, program)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			maps = append(maps, m)
		}
	}
}

// parseMapping reads the first line of a mapping: its bounds, rights, offset,
// device, inode and path.
func parseMapping(fields []string, program string) (m mapping, err error) {
	from, to, _ := strings.Cut(fields[0], "-")
	low, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return m, err
	}
	high, err := strconv.ParseUint(to, 16, 64)
	if err != nil {
		return m, err
	}
	rights := fields[1]
	readOnly := rights == "r-xp" || rights == "r--p"
	m = mapping{from: uintptr(low), to: uintptr(high)}
	if readOnly && len(fields) > 5 {
		m.isProgram = fields[5] == program || strings.Contains(filepath.Base(fields[5]), ".so")
	}
	return m, nil
}
