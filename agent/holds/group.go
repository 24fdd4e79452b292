package holds

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi/caller"
)

// A guard on the rung cgroup hands over the control group that its command's tree
// is in: the right to end it, and the news of its being empty. Killing all stages
// of the guard at once leaves descendants behind, and the agent is the one that is
// left to end them. Until they are gone the hold is renewed as if the guard lived.

// group is one such control group. The files are owned by whoever has the group.
type group struct {
	kill, events *os.File
	ending       bool // end was called, or is about to be; guarded by Holds.mu
}

// groupID tells a control group from all others of this boot. Zero: none.
type groupID struct {
	Path  string `json:"path"`  // its folder, as this agent sees it
	Inode uint64 `json:"inode"` // of cgroup.events
}

// splitGroup takes the files of a control group off the end of the witnesses; nil
// when there are none.
func splitGroup(files []*os.File) ([]*os.File, *group) {
	n := len(files) - 2
	if n < 0 || caller.GroupFile(files[n]) != caller.GroupKill || caller.GroupFile(files[n+1]) != caller.GroupEvents {
		return files, nil
	}
	return files[:n:n], &group{kill: files[n], events: files[n+1]}
}

func (g *group) files() []*os.File {
	if g == nil {
		return nil
	}
	return []*os.File{g.kill, g.events}
}

// id names the group for the agent after this one; zero when it cannot.
func (g *group) id() (id groupID) {
	if g == nil {
		return id
	}
	info, err := g.events.Stat()
	if err != nil {
		return id
	}
	raw, err := g.events.SyscallConn()
	if err != nil {
		return id
	}
	var at string
	if failed := raw.Control(func(fd uintptr) {
		at, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(int(fd)))
	}); failed != nil || err != nil {
		return id
	}
	return groupID{filepath.Dir(at), inodeOf(info)}
}

func inodeOf(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

// reopen opens the group again; nil when it is gone, or this agent may not or
// cannot: its guard hands it over again, if it lives.
func (id groupID) reopen() *group {
	if id.Path == "" {
		return nil
	}
	events, err := os.Open(filepath.Join(id.Path, caller.GroupEvents))
	if err != nil {
		return nil
	}
	info, err := events.Stat()
	if err == nil && inodeOf(info) == id.Inode {
		kill, err := os.OpenFile(filepath.Join(id.Path, caller.GroupKill), os.O_WRONLY, 0)
		if err == nil {
			return &group{kill: kill, events: events}
		}
	}
	_ = events.Close() // another's, or not to be ended by this agent
	return nil
}

// end sends SIGKILL to all of it, and to what it forks meanwhile. A group that was
// removed was empty.
func (g *group) end() error {
	raw, err := g.kill.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { _, failed = unix.Pwrite(int(fd), []byte("1"), 0) }); err != nil {
		return err
	}
	if errors.Is(failed, unix.ENODEV) {
		return nil
	}
	return failed
}

// empty reports whether no process is left in it, and takes the news of the
// change from the file.
func (g *group) empty() bool {
	raw, err := g.events.SyscallConn()
	if err != nil {
		return false
	}
	var text [256]byte
	var n int
	var failed error
	if raw.Control(func(fd uintptr) { n, failed = unix.Pread(int(fd), text[:], 0) }) != nil {
		return false
	}
	return errors.Is(failed, unix.ENODEV) || bytes.Contains(text[:max(n, 0)], []byte("populated 0"))
}

// watchGroup owns the group from here on. mu is held.
func (h *Holds) watchGroup(w *witnesses, g *group) {
	r := h.reaper
	r.next++
	if err := r.control(unix.EPOLL_CTL_ADD, r.next, g.events, unix.EPOLLPRI); err != nil {
		h.cfg.Logger.Warn("a control group cannot be watched", "lock", w.o.lock, "hold", w.o.id, "error", err)
		closeAll(g.files())
		return
	}
	w.group, w.groupKey = g, r.next
	r.of[r.next] = w
}

// unwatchGroup closes the group of a hold that has ended. mu is held.
func (h *Holds) unwatchGroup(w *witnesses) {
	if w.group != nil {
		h.reaper.drop(w.groupKey, w.group.events)
		closeAll([]*os.File{w.group.kill})
		w.group = nil
	}
}

// groupChanged takes news of the group: when the guard is gone as well, the tree
// is. mu is held.
func (o *hold) groupChanged() {
	if w := o.witnesses; w.group.empty() && w.signsOfLife() == 0 {
		o.treeEnded()
	}
}

// endGroup ends what is left in the group: the guard is gone, or was to end it by
// now. mu is held.
func (o *hold) endGroup() {
	w := o.witnesses
	if w == nil || w.group == nil || w.group.ending || o.h.ctx.Err() != nil {
		return
	}
	g := w.group
	g.ending = true
	// The kernel may take its time over it, and a hold that ends closes the files:
	// then the write fails, and nothing is left to be ended.
	o.h.wg.Go(func() {
		err := g.end()
		o.h.mu.Lock()
		defer o.h.mu.Unlock()
		switch {
		case o.state == gone || w.group != g || w.signsOfLife() > 0:
		case err != nil:
			o.h.cfg.Logger.Warn("what a guard has left behind cannot be ended", "lock", o.lock, "hold", o.id, "error", err)
			o.witnessesEnded()
		case g.empty():
			o.treeEnded()
		default: // groupChanged is next, once the last one is dead
			o.h.cfg.Logger.Info("ending what a guard has left behind", "lock", o.lock, "hold", o.id, "group", o.group.Path)
		}
	})
}
