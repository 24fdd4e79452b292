package caller

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxPathBytes is how long the path of a Unix socket can be (sun_path, less the
// ending zero).
const MaxPathBytes = 107

// ListenOptions configure Listen.
type ListenOptions struct {
	// GID owns the socket, and its directory when it is made here; negative: the
	// process's own group.
	GID int
	// Open lets every user connect and leaves the rest to the policy; else the
	// own user and GID only.
	Open bool
	// Logger gets a line about every caller that could not be identified. Nil: none.
	Logger *slog.Logger
}

// place is a path that this process owns by the lock file beside it.
type place struct {
	path string
	lock *os.File
	id   fileID // of the socket file that was made
}

type fileID struct{ dev, inode uint64 }

// umask is one per process; it is only ever made stricter, and under this lock.
var umask sync.Mutex

// Listen makes the socket at path. It takes the place of an agent that died
// without removing its socket, and never that of one that lives. Errors are one
// line that says what to do: the path is too long, another agent lives there,
// the directory or the file cannot be used.
func Listen(path string, o ListenOptions) (*Listener, error) {
	if len(path) > MaxPathBytes {
		return nil, fmt.Errorf("socket path %s has %d bytes, and the kernel takes %d: choose a shorter one with --socket", path, len(path), MaxPathBytes)
	}
	if path == "" || !filepath.IsAbs(path) {
		return nil, fmt.Errorf("socket path %q must be absolute", path)
	}
	path = filepath.Clean(path)
	if err := makeDirectory(filepath.Dir(path), o); err != nil {
		return nil, err
	}
	p, err := claim(path)
	if err != nil {
		return nil, err
	}
	ln, err := p.bind(o)
	if err != nil {
		p.unlock()
		return nil, err
	}
	l := Wrap(ln, o.Logger)
	l.addr = &net.UnixAddr{Name: path, Net: "unix"}
	l.place = p
	return l, nil
}

// makeDirectory makes the last directory of the path with rights for those who
// may connect, and refuses one in which strangers could replace the socket.
func makeDirectory(dir string, o ListenOptions) error {
	mode := fs.FileMode(0o750)
	if o.Open {
		mode = 0o755
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(dir), 0o755); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	switch {
	case err == nil:
		if o.GID >= 0 {
			if err := os.Chown(dir, -1, o.GID); err != nil {
				return fmt.Errorf("give the socket directory to group %d: %w", o.GID, err)
			}
		}
		if err := os.Chmod(dir, mode); err != nil {
			return fmt.Errorf("set the rights of the socket directory: %w", err)
		}
	case !errors.Is(err, fs.ErrExist):
		return fmt.Errorf("make the socket directory: %w; choose another path with --socket", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the socket directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory; choose another path with --socket", dir)
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("everybody can write to %s and replace the socket there; take that right away, or choose another path with --socket", dir)
	}
	return nil
}

// claim locks path for this process. The lock file is removed in the end, so
// the one that was locked has to be the one that is there.
func claim(path string) (*place, error) {
	for {
		name := path + ".lock"
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the lock file beside the socket: %w; choose another path with --socket", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = f.Close() // nothing was written
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("another agent serves %s; stop it, or choose another path with --socket", path)
			}
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		mine, err1 := idOf(f.Stat())
		there, err2 := idOf(os.Lstat(name))
		if err1 == nil && err2 == nil && mine == there {
			return &place{path: path, lock: f}, nil
		}
		_ = f.Close() // an agent removed it between our two calls
	}
}

func idOf(info fs.FileInfo, err error) (fileID, error) {
	if err != nil {
		return fileID{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, errors.New("no inode number")
	}
	return fileID{dev: st.Dev, inode: st.Ino}, nil
}

// bind listens under a name beside path, sets the rights, and renames: the
// path never shows a socket with other rights, or none where one was.
func (p *place) bind(o ListenOptions) (*net.UnixListener, error) {
	if err := p.checkFree(); err != nil {
		return nil, err
	}
	beside, err := p.beside()
	if err != nil {
		return nil, err
	}
	defer beside.unlock()
	temporary := beside.path
	umask.Lock()
	before := unix.Umask(0o177)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	unix.Umask(before)
	umask.Unlock()
	if err != nil {
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	if err := p.publish(temporary, o); err != nil {
		_ = ln.Close()           // nobody has connected
		_ = os.Remove(temporary) // may be gone
		return nil, err
	}
	return ln, nil
}

// beside claims a name in the same directory at which nothing is. It is as long as
// path, so that it fits when path does, and other agents may have sockets there whose
// names differ from it by no more.
func (p *place) beside() (*place, error) {
	var failed error
	for _, last := range "~#%+=@^," {
		name := p.path[:len(p.path)-1] + string(last)
		if name == p.path {
			continue
		}
		b, err := claim(name)
		if err == nil {
			if err = b.checkFree(); err == nil {
				err = os.Remove(name) // a leftover of a crash
			}
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				return b, nil
			}
			b.unlock()
		}
		failed = err
	}
	return nil, fmt.Errorf("find a name to make the socket at: %w", failed)
}

func (p *place) publish(temporary string, o ListenOptions) error {
	if o.GID >= 0 {
		if err := os.Chown(temporary, -1, o.GID); err != nil {
			return fmt.Errorf("give the socket to group %d: %w", o.GID, err)
		}
	}
	mode := fs.FileMode(0o660)
	if o.Open {
		mode = 0o666
	}
	if err := os.Chmod(temporary, mode); err != nil {
		return fmt.Errorf("set the rights of the socket: %w", err)
	}
	var err error
	if p.id, err = idOf(os.Lstat(temporary)); err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	if err := os.Rename(temporary, p.path); err != nil {
		return fmt.Errorf("put the socket into place: %w", err)
	}
	return nil
}

// checkFree refuses what is not a dead socket. Somebody may serve it who does
// not know of the lock file.
func (p *place) checkFree() error {
	info, err := os.Lstat(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a socket; move it away, or choose another path with --socket", p.path)
	}
	conn, err := net.DialTimeout("unix", p.path, time.Second)
	if err == nil {
		_ = conn.Close() // it only asked whether somebody lives
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("something else serves %s; stop it, or choose another path with --socket", p.path)
	}
	return nil
}

// remove removes the socket file if it is the one that was made.
func (p *place) remove() {
	if there, err := idOf(os.Lstat(p.path)); err == nil && there == p.id {
		_ = os.Remove(p.path) // a leftover is replaced by the next agent
	}
}

// unlock removes the lock file and with it gives up the lock.
func (p *place) unlock() {
	_ = os.Remove(p.path + ".lock") // while it is held: see claim
	_ = p.lock.Close()
}
