package stage

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// restAfter is when a stage that still lives is taken for one that waits, or runs
// with its command: the start of most of them is in a hurry.
const restAfter = time.Second

// RestLater gives memory back in a while that only the start of this process has
// needed. Many guards may wait on a host, and each is three processes.
func RestLater() { time.AfterFunc(restAfter, rest) }

// rest unmaps what is in the program's file: the kernel maps again what is still
// used of it, in pieces. It collects no garbage: at this size that costs more than
// it frees.
func rest() {
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range fileMappings(text) {
		// Nothing in it differs from the file, and nobody may write to it.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.start, m.end-m.start, syscall.MADV_DONTNEED)
	}
}

type mapping struct{ start, end uintptr }

// fileMappings finds those in smaps that are of files, cannot be written to, and
// have no page that was: relocated data of a shared library looks the same but for
// that, and is lost when it is dropped.
func fileMappings(smaps []byte) (found []mapping) {
	var m mapping
	ofFile := false
	for line := range bytes.Lines(smaps) {
		f := bytes.Fields(line)
		switch {
		case len(f) >= 5 && bytes.IndexByte(f[0], '-') > 0:
			first, last, _ := bytes.Cut(f[0], []byte("-"))
			start, err1 := strconv.ParseUint(string(first), 16, 64)
			end, err2 := strconv.ParseUint(string(last), 16, 64)
			m = mapping{uintptr(start), uintptr(end)}
			ofFile = err1 == nil && err2 == nil && f[1][1] == '-' && f[1][3] == 'p' && string(f[4]) != "0"
		case ofFile && len(f) == 3 && string(f[0]) == "Anonymous:":
			if string(f[1]) == "0" {
				found = append(found, m)
			}
		}
	}
	return found
}
