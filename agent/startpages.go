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
//
// With one page the kernel maps what lies around it: 64 KiB by default, and from
// Linux 6.18 on the whole of a large folio, as the page cache makes them of a file
// that was written in large parts, such as a program just built or installed. Those
// of 2 MiB brought all of it back within a second. What lies beyond the bounds of a
// mapping is never mapped with it, so the mappings are cut up first: for less memory,
// as a proxy shall have, the program runs a little slower then, a tenth for a request
// over HTTP. A voter has no cuts.

// pieceBytes is how much of the program one use of it maps at most. A piece costs the
// kernel some 200 bytes, and 700 of 65,530 mappings that a process may have.
const pieceBytes = 64 << 10

// mapping is one line of /proc/self/smaps with what was written to it.
type mapping struct {
	from, to  uintptr
	isProgram bool // read-only, private, of the program or a library
	anonymous int  // kB of it that are this process's own
}

// forgetStart gives back the pages of the program that are only read: nothing was
// ever written to those mappings, so what the file has is all there is. With small,
// the kernel maps no more than pieceBytes with a page that is used from then on.
func forgetStart(small bool) error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := readMappings("/proc/self/smaps", strings.TrimSuffix(program, " (deleted)"))
	if err != nil {
		return err
	}
	var uncut error // which only gives back less
	for _, m := range maps {
		if !m.isProgram || m.anonymous > 0 {
			continue
		}
		if small && uncut == nil {
			uncut = m.cut()
		}
		if err := m.advise(unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("giving back %d bytes of the program: %w", m.to-m.from, err)
		}
	}
	return uncut
}

// cut has the kernel see the mapping as many of pieceBytes: every second one is told
// to be left out of core dumps, where pages of the program are not anyway. The first
// one is not: it may have the header, by which a debugger knows the program.
func (m mapping) cut() error {
	for from := (m.from/pieceBytes + 1) * pieceBytes; from < m.to; from += 2 * pieceBytes {
		piece := mapping{from: from, to: min(from+pieceBytes, m.to)}
		if err := piece.advise(unix.MADV_DONTDUMP); err != nil {
			return fmt.Errorf("cutting %d bytes of the program up: %w", m.to-m.from, err)
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
