package systemd

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// storedPrefix begins the names of pidfds in systemd's store: hold-ID.N.
	storedPrefix = "hold-"
	// maxStored bounds the store; FileDescriptorStoreMax= of the unit is the same.
	// systemd looks through all names for each (HAZARDS-HOST.md: 9,000 took 45 s).
	maxStored = 512
	// storeQueue bounds what waits for systemd; more is not kept.
	storeQueue = 256
	// storeTimeout bounds one message to a systemd that does not read.
	storeTimeout = time.Second
)

// FDStore keeps pidfds in the service manager's file descriptor store while no
// agent runs (sd_pid_notify_with_fds(3), FDSTORE=1), so that the next one sees
// whether processes live that it could not find by their pid: those of another pid
// namespace, as containers have, and those that /proc does not show. Others are not
// stored. They outlive restarts and kills of the agent, and not a stop.
//
// It implements holds.PidfdKeeper. Its methods may be called concurrently and do
// not block, but for Close, which waits for what was asked for while
// systemd reads.
type FDStore struct {
	socket string
	log    *slog.Logger
	jobs   chan storeJob
	done   chan struct{}

	mu     sync.Mutex // guards what follows
	passed map[string]map[int]*os.File
	closed bool

	// Of run alone, after NewFDStore.
	stored map[string]int // pidfds by hold
	deaf   bool           // the last message was not taken
}

// storeJob has pidfds stored, or those of a hold removed.
type storeJob struct {
	hold   string
	pidfds []*os.File // own duplicates; none: remove
}

// NewFDStore returns the store of this service, with what the agent before left in
// it (Sockets.Stored, which it owns from here on); nil when nobody keeps anything:
// then there is no service manager.
func NewFDStore(passed map[string]*os.File, log *slog.Logger) *FDStore {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		for _, f := range passed {
			_ = f.Close() // a pidfd has nothing to lose
		}
		return nil
	}
	s := &FDStore{socket: socket, log: log, jobs: make(chan storeJob, storeQueue), done: make(chan struct{}),
		passed: map[string]map[int]*os.File{}, stored: map[string]int{}}
	for name, f := range passed {
		hold, n, ok := parseStored(name)
		if !ok {
			_ = f.Close()
			continue
		}
		if s.passed[hold] == nil {
			s.passed[hold] = map[int]*os.File{}
		}
		s.passed[hold][n] = f
		s.stored[hold] = max(s.stored[hold], n+1)
	}
	go s.run() // ends with Close
	return s
}

func storedName(hold string, n int) string { return storedPrefix + hold + "." + strconv.Itoa(n) }

func parseStored(name string) (hold string, n int, ok bool) {
	rest, ok := strings.CutPrefix(name, storedPrefix)
	hold, number, dot := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	return hold, n, ok && dot && err == nil && hold != "" && n >= 0 && n < maxStored
}

// Keep has the pidfds of a hold kept, if the next agent could not find them by
// itself. The files stay the caller's.
func (s *FDStore) Keep(hold string, pidfds []*os.File) {
	job := storeJob{hold: hold}
	for _, f := range pidfds {
		d, err := duplicate(f)
		if err != nil {
			s.log.Debug("a pidfd is not kept over a restart", "hold", hold, "error", err)
			closeFiles(job.pidfds)
			return
		}
		job.pidfds = append(job.pidfds, d)
	}
	if len(job.pidfds) > 0 && !s.enqueue(job) {
		closeFiles(job.pidfds)
	}
}

// Forget has what was kept for a hold closed.
func (s *FDStore) Forget(hold string) { s.enqueue(storeJob{hold: hold}) }

// Take returns what the agent before has kept for a hold, in the order given to
// Keep, once; nil when there is nothing, or not all of it: a missing one could be
// taken for an ended one. The files are the caller's.
func (s *FDStore) Take(hold string) []*os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.passed[hold]
	delete(s.passed, hold)
	files := make([]*os.File, 0, len(found))
	for n := range len(found) {
		f := found[n]
		if f == nil {
			closeFiles(slices.Collect(maps.Values(found)))
			return nil
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil
	}
	return files
}

// Settle gives up what nobody has taken: its holds are gone.
func (s *FDStore) Settle() {
	s.mu.Lock()
	left := s.passed
	s.passed = map[string]map[int]*os.File{}
	s.mu.Unlock()
	for hold, files := range left {
		closeFiles(slices.Collect(maps.Values(files)))
		s.Forget(hold)
	}
}

// Close waits until systemd was told everything, and ends the goroutine. Kept
// pidfds stay kept.
func (s *FDStore) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.jobs)
	}
	s.mu.Unlock()
	<-s.done
}

func (s *FDStore) enqueue(job storeJob) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	select {
	case s.jobs <- job:
		return true
	default:
		s.log.Debug("the service manager is slow: pidfds are not kept over a restart", "hold", job.hold)
		return false
	}
}

// run tells systemd, one message at a time.
func (s *FDStore) run() {
	defer close(s.done)
	total := 0
	for _, n := range s.stored {
		total += n
	}
	for job := range s.jobs {
		if s.deaf && s.ending() {
			closeFiles(job.pidfds) // a stop does not wait for a systemd that does not read
			continue
		}
		if len(job.pidfds) == 0 {
			for n := range s.stored[job.hold] {
				s.tell(job.hold, "FDSTOREREMOVE=1\nFDNAME="+storedName(job.hold, n), nil)
			}
			total -= s.stored[job.hold]
			delete(s.stored, job.hold)
			continue
		}
		if total+len(job.pidfds) <= maxStored && slices.ContainsFunc(job.pidfds, unfindable) {
			for n, f := range job.pidfds {
				// FDPOLL=0: one whose process has ended is news for the next agent.
				s.tell(job.hold, "FDSTORE=1\nFDPOLL=0\nFDNAME="+storedName(job.hold, n), f)
			}
			s.stored[job.hold] = len(job.pidfds)
			total += len(job.pidfds)
		}
		closeFiles(job.pidfds)
	}
}

func (s *FDStore) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *FDStore) tell(hold, state string, f *os.File) {
	err := notifyWithFile(s.socket, state, f)
	s.deaf = err != nil
	if err != nil {
		s.log.Debug("the service manager was not told about a pidfd", "hold", hold, "error", err)
	}
}

// notifyWithFile sends one message of sd_notify, with a descriptor if f is one.
func notifyWithFile(socket, state string, f *os.File) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("connecting to the service manager: %w", err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(storeTimeout)); err != nil {
		return fmt.Errorf("notifying the service manager: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("notifying the service manager: %w", err)
	}
	// net's WriteMsgUnix refuses connected datagram sockets.
	send := func(rights []byte) (err error) {
		return cmp.Or(raw.Write(func(fd uintptr) bool {
			err = unix.Sendmsg(int(fd), []byte(state), rights, nil, 0)
			return !errors.Is(err, unix.EAGAIN)
		}), err)
	}
	if f == nil {
		err = send(nil)
	} else {
		err = withFD(f, func(fd int) error { return send(unix.UnixRights(fd)) })
	}
	if err != nil {
		return fmt.Errorf("notifying the service manager: %w", err)
	}
	return nil
}

// withFD calls do with the descriptor of f, which stays open meanwhile.
func withFD(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = do(int(fd)) })
	return cmp.Or(err, failed)
}

// duplicate is another descriptor of the same process.
func duplicate(f *os.File) (d *os.File, err error) {
	err = withFD(f, func(old int) error {
		fd, err := unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			d = os.NewFile(uintptr(fd), "pidfd")
		}
		return os.NewSyscallError("fcntl", err)
	})
	return d, err
}

// unfindable reports whether a living process could not be found by its pid.
func unfindable(pidfd *os.File) bool {
	var info []byte
	err := withFD(pidfd, func(fd int) (err error) {
		info, err = os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
		return err
	})
	if err != nil {
		return false
	}
	for line := range bytes.Lines(info) {
		rest, ok := bytes.CutPrefix(line, []byte("Pid:"))
		if !ok {
			continue
		}
		pid, err := strconv.Atoi(string(bytes.TrimSpace(rest)))
		if err != nil || pid < 0 {
			return false // it has ended
		}
		if pid == 0 {
			return true // of another pid namespace
		}
		_, err = os.Stat("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil // hidden
	}
	return false
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // a pidfd has nothing to lose
	}
}
