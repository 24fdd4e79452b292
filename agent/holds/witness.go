package holds

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxWitnesses bounds the pidfds of one hold: a guard has three stages and a command.
const maxWitnesses = 16

// witnesses are the processes of one hold that still live. Guarded by Holds.mu.
type witnesses struct {
	o    *hold
	live map[uint64]*os.File // by the reaper's key
	// group is the control group that all of them are in with their tree, or nil.
	group    *group
	groupKey uint64
	last     uint64 // key of the one whose end is the tree's and whose life counts for nothing; 0: none
}

// reaper watches the pidfds of all holds with one goroutine and one epoll
// instance, which the runtime's poller waits for: thousands of processes cost
// no thread, and nothing while they live.
//
// It starts with the first process hold. close ends the goroutine and waits.
type reaper struct {
	h     *Holds
	epoll *os.File
	done  chan struct{}
	once  sync.Once

	// Guarded by Holds.mu. Keys are given once, so that an event that was read
	// before its pidfd was closed cannot be taken for another's.
	next uint64
	of   map[uint64]*witnesses
}

// startReaper makes the epoll instance and starts the goroutine. mu is held.
func (h *Holds) startReaper() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	// Non-blocking, so that os.NewFile hands it to the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	h.reaper = &reaper{h: h, epoll: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}), of: map[uint64]*witnesses{}}
	go h.reaper.run()
	return nil
}

// watchWitnesses registers all pidfds of a hold, or none. The files are owned by
// the reaper when it succeeds. mu is held.
func (h *Holds) watchWitnesses(o *hold, files []*os.File, g *group) error {
	if h.reaper == nil {
		if err := h.startReaper(); err != nil {
			return fmt.Errorf("watching processes: %w", err)
		}
	}
	r := h.reaper
	w := &witnesses{o: o, live: make(map[uint64]*os.File, len(files))}
	for _, f := range files {
		r.next++
		if err := r.control(unix.EPOLL_CTL_ADD, r.next, f, unix.EPOLLIN); err != nil {
			for key, f := range w.live {
				_ = r.control(unix.EPOLL_CTL_DEL, key, f, 0)
				delete(r.of, key)
			}
			return refuse(invalidCode, "one of the pidfds cannot be watched: %v", err)
		}
		w.live[r.next] = f
		r.of[r.next] = w
	}
	if o.lastEnds && len(files) > 1 {
		w.last = r.next
	}
	o.witnesses = w
	if g != nil {
		h.watchGroup(w, g)
	}
	return nil
}

// unwatch closes what is left of a hold's pidfds. mu is held.
func (h *Holds) unwatch(o *hold) {
	if o.witnesses == nil {
		return
	}
	for key, f := range o.witnesses.live {
		h.reaper.drop(key, f)
	}
	h.unwatchGroup(o.witnesses)
	o.witnesses = nil
}

// drop ends the watch of one pidfd and closes it. mu is held.
func (r *reaper) drop(key uint64, f *os.File) {
	// Closing alone would not do: another process may have the same open file,
	// which then stays registered.
	if err := r.control(unix.EPOLL_CTL_DEL, key, f, 0); err != nil && !errors.Is(err, os.ErrClosed) {
		r.h.cfg.Logger.Warn("a pidfd stays watched", "error", err)
	}
	_ = f.Close() // a pidfd has nothing to lose
	delete(r.of, key)
}

// control adds a pidfd to the epoll instance or takes it off. The key is the
// event's 64 bits of user data.
func (r *reaper) control(op int, key uint64, f *os.File, events uint32) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ep, err := r.epoll.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = ep.Control(func(epfd uintptr) {
		result = conn.Control(func(fd uintptr) {
			e := unix.EpollEvent{Events: events, Fd: int32(uint32(key)), Pad: int32(uint32(key >> 32))}
			err = unix.EpollCtl(int(epfd), op, int(fd), &e)
		})
		result = errors.Join(result, err)
	})
	return errors.Join(err, result)
}

// run waits for processes to end. It returns when the epoll instance is closed.
func (r *reaper) run() {
	defer close(r.done)
	conn, err := r.epoll.SyscallConn()
	if err != nil {
		r.h.cfg.Logger.Error("processes are not watched", "error", err)
		return
	}
	events := make([]unix.EpollEvent, 128)
	for {
		var n int
		var failed error
		closed := conn.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events, 0)
			return n != 0 && !errors.Is(failed, unix.EINTR) // false: wait until the poller has something
		})
		switch {
		case closed != nil:
			return
		case failed != nil:
			r.h.cfg.Logger.Error("processes are not watched", "error", os.NewSyscallError("epoll_wait", failed))
			return
		}
		r.ended(events[:n])
	}
}

// ended takes processes that have ended.
func (r *reaper) ended(events []unix.EpollEvent) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for _, e := range events {
		key := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
		w := r.of[key]
		if w == nil {
			continue // its hold ended meanwhile
		}
		if w.group != nil && key == w.groupKey {
			w.o.groupChanged()
			continue
		}
		r.drop(key, w.live[key])
		delete(w.live, key)
		switch {
		case key == w.last:
			w.o.treeEnded()
		case w.signsOfLife() == 0 && w.group != nil:
			w.o.endGroup()
		case w.signsOfLife() == 0:
			w.o.witnessesEnded()
		}
	}
}

// signsOfLife counts the living witnesses that say that somebody still wants the
// lock. mu is held.
func (w *witnesses) signsOfLife() int {
	n := len(w.live)
	if w.live[w.last] != nil {
		n--
	}
	return n
}

// close ends the watch of everything. mu is not held.
func (r *reaper) close() {
	r.once.Do(func() { _ = r.epoll.Close() })
	<-r.done
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for key, w := range r.of {
		if w.group != nil && key == w.groupKey {
			closeAll(w.group.files())
		} else {
			_ = w.live[key].Close()
		}
		delete(r.of, key)
	}
}
