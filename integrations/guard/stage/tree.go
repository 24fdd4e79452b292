package stage

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Without a pid namespace a tree is what the kernel's parent links say: every
// descendant of a subreaper stays one, whatever it does with setsid, double forks
// and nohup. A process that runs as another user (setuid) may refuse our signals;
// waiting for it is then all that can be done.

// descendants lists the pids of all living descendants of this process, each
// parent before its children. It reads /proc once: what was forked meanwhile may
// be missing, so callers look again until Wait4 says that there are no children.
func descendants() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := make(map[int][]int)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(pid); ok {
			children[parent] = append(children[parent], pid)
		}
	}
	tree := children[os.Getpid()]
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree
}

// parentOf returns the parent of a process that is not a zombie.
func parentOf(pid int) (parent int, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	// The name in parentheses may contain anything: what follows the last one is
	// " S PPID ...".
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 2 {
		return 0, false
	}
	parent, err = strconv.Atoi(string(f[1]))
	return parent, err == nil
}

// signalDescendants sends signals to every descendant. A pid cannot be reused by
// a stranger between reading and sending without being noticed: the pidfd is
// opened first, and the parent link read again through it being alive.
func signalDescendants(signals ...syscall.Signal) {
	known := make(map[int]bool)
	tree := descendants()
	for _, pid := range tree {
		known[pid] = true
	}
	self := os.Getpid()
	for _, pid := range tree {
		fd, err := pidfdOpen(pid)
		if err != nil {
			continue
		}
		if parent, ok := parentOf(pid); ok && (parent == self || known[parent]) {
			for _, s := range signals {
				_ = pidfdSendSignal(fd, s)
			}
		}
		syscall.Close(fd)
	}
}

// KillDescendants sends SIGKILL to every descendant, again and again, and reaps
// them until none is left. The caller is a subreaper. It gives up at a wall time
// that is not zero and says whether the tree is gone.
func KillDescendants(until time.Time) bool {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if childless() { // most often at once, without a look at the whole of /proc
			return true
		}
		signalDescendants(syscall.SIGKILL)
		// A killed parent hands its children to us: look again after each round.
		if childless() {
			return true
		}
		if !until.IsZero() && time.Now().After(until) {
			return false
		}
		// Nothing tells of a grandchild that is being handed to us, so it is looked
		// for; the wait is short, and the caller has nothing else to do.
		time.Sleep(pause)
	}
}

// childless reaps who has ended and says whether no child is left, nor, for a
// subreaper, any descendant.
func childless() bool {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.ECHILD {
			return true
		}
		if err != syscall.EINTR && (err != nil || pid == 0) {
			return false
		}
	}
}
