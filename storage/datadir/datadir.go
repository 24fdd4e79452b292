// Package datadir owns the layout of an agent's data directory.
//
//	lock                 held with flock by the agent that uses the directory
//	agent.json           who this agent is: written last, when all else is there
//	log/                 Raft's log (raft-wal)
//	engine/CURRENT       which generation of the engine is in use
//	engine/0000000001/   a generation: the directory of one storage engine
//	being-filled         while a backup is restored into it: nobody else opens it
//
// The identity of a voter is its disk: the node id is random and made together
// with the directory, and never given to another one. So a directory is used as
// a whole or refused as a whole, with one sentence that says what to do.
//
// Every file here is replaced atomically, file and directory synced. A process
// that is killed while it makes a directory leaves one that the next start
// completes; after agent.json exists, nothing may be missing.
//
// The main type is Dir. What is inside log/ and a generation is left to others.
package datadir

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockName     = "lock"
	identityName = "agent.json"
	fillingName  = "being-filled"
	logName      = "log"
	engineName   = "engine"
	tempSuffix   = ".tmp"

	dirMode  = 0o700
	fileMode = 0o600
)

// Options of Open.
type Options struct {
	// Engine is the kind that --storage asks for. A directory with another kind
	// is refused. Empty takes what a directory has; a new one needs a kind.
	Engine string
	// Version of this kahu, for agent.json and the lock file.
	Version string
	// Now is wall time for the date of creation. Nil is time.Now.
	Now func() time.Time
	// FileSystem tells the type of the file system that path is on, as statfs
	// names it. Nil asks the kernel.
	FileSystem func(path string) (int64, error)
	// Logger hears what was repaired. Nil discards.
	Logger *slog.Logger
	// Fill makes a directory that nobody else opens before Filled: it gets what an
	// agent may not begin without.
	Fill bool
}

// Dir is a data directory that this process has locked. Its methods may be
// called concurrently.
type Dir struct {
	path     string
	root     *os.Root
	lock     *os.File
	volatile bool
	log      *slog.Logger

	mu       sync.Mutex // guards what follows
	identity Identity
	current  uint64              // generation
	building map[uint64]struct{} // generations that NewGeneration made
}

// Open locks the directory, making it when it is missing or empty, and checks
// that it is whole and ours. Errors are *Error, and wrap one of the Err values
// of this package. It changes nothing in a directory that it refuses, but for
// the lock file.
func Open(path string, o Options) (_ *Dir, err error) {
	if path == "" {
		return nil, errors.New("the data directory has no name: give one with --data-dir")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FileSystem == nil {
		o.FileSystem = fileSystem
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := makePath(path); err != nil {
		return nil, explain(path, "make it", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, explain(path, "open it", err)
	}
	d := &Dir{path: path, root: root, log: o.Logger, building: map[uint64]struct{}{}}
	defer func() {
		if err != nil {
			_ = d.Close()
		}
	}()
	// Before the lock, so that a foreign directory does not even get that file.
	if err := d.checkForeign(); err != nil {
		return nil, err
	}
	if err := d.checkRights(); err != nil {
		return nil, err
	}
	if err := d.takeLock(o.Version); err != nil {
		return nil, err
	}
	kind, err := o.FileSystem(path)
	if err != nil {
		return nil, explain(path, "ask what file system it is on", err)
	}
	d.volatile = volatileTypes[kind]
	if err := d.checkFilled(o.Fill); err != nil {
		return nil, err
	}
	known, err := d.loadIdentity(o.Engine)
	if err != nil {
		return nil, err
	}
	if !known {
		err = d.create(o)
	} else {
		err = d.resume(o.Version)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// resume takes up a directory that is known to be ours.
func (d *Dir) resume(version string) error {
	if err := d.check(); err != nil {
		return err
	}
	if err := d.RemoveOrphans(); err != nil {
		return err
	}
	return d.signVersion(version)
}

// Path of the directory, absolute.
func (d *Dir) Path() string { return d.path }

// LogDir is where Raft's log lives.
func (d *Dir) LogDir() string { return filepath.Join(d.path, logName) }

// Identity says who the agent of this directory is.
func (d *Dir) Identity() Identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.identity
}

// Volatile says that the directory does not survive a reboot or the container:
// it is on tmpfs, ramfs or an overlay. A volatile directory must never vote.
func (d *Dir) Volatile() bool { return d.volatile }

// Close gives the lock back. The directory must not be used any more.
func (d *Dir) Close() error {
	var errs []error
	if d.lock != nil {
		errs = append(errs, d.lock.Close()) // the kernel drops the lock with it
		d.lock = nil
	}
	if d.root != nil {
		errs = append(errs, d.root.Close())
		d.root = nil
	}
	return errors.Join(errs...)
}

// ReadFile reads a small file at the top of the directory. What is not there is
// fs.ErrNotExist.
func (d *Dir) ReadFile(name string) ([]byte, error) { return d.root.ReadFile(name) }

// WriteFile replaces a small file at the top of the directory, atomically and
// durably: after a crash it is the old or the new one, whole. It blocks for the
// disk. Concurrent calls for one name are the caller's to avoid.
func (d *Dir) WriteFile(name string, data []byte) error {
	if slices.Contains([]string{lockName, identityName, logName, engineName}, name) {
		return fmt.Errorf("%s in the data directory is not for others to write", name)
	}
	return replace(d.root, ".", name, data)
}

// checkFilled refuses a directory that was never filled, and marks one that is to be.
func (d *Dir) checkFilled(fill bool) error {
	if !fill {
		_, err := d.root.Lstat(fillingName)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return explain(d.path, "look for "+fillingName, err)
		}
		return &Error{d.path, ErrUnfinished, "was being restored from a backup when that was cut short", "empty it, and restore the backup again", nil}
	}
	f, err := d.root.OpenFile(fillingName, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	if err != nil {
		return explain(d.path, "make "+fillingName, err)
	}
	if err := errors.Join(f.Sync(), f.Close(), syncDir(d.root, ".")); err != nil {
		return explain(d.path, "make "+fillingName, err)
	}
	return nil
}

// Unfinished reports whether a directory was to be filled (Options.Fill), and never was.
func Unfinished(path string) bool {
	_, err := os.Lstat(filepath.Join(path, fillingName))
	return err == nil
}

// Filled ends what Options.Fill began: from now on it is a directory as any other.
// It is durable when Filled returns nil.
func (d *Dir) Filled() error {
	if err := errors.Join(d.root.Remove(fillingName), syncDir(d.root, ".")); err != nil {
		return explain(d.path, "remove "+fillingName, err)
	}
	return nil
}

// create fills a directory that was empty, or that an earlier create did not
// finish. agent.json comes last: with it the directory counts.
func (d *Dir) create(o Options) error {
	if o.Engine == "" {
		return fmt.Errorf("data directory %s is new: name the storage engine with --storage", d.path)
	}
	if err := d.checkUnused(); err != nil {
		return err
	}
	for _, name := range []string{logName, engineName, generationDir(1)} {
		if err := d.root.Mkdir(name, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return explain(d.path, "make "+name, err)
		}
	}
	if err := syncDir(d.root, engineName); err != nil {
		return explain(d.path, "sync it", err)
	}
	if err := d.writeCurrent(1); err != nil {
		return err
	}
	var id [16]byte
	rand.Read(id[:]) // never fails
	identity := Identity{
		Format:  formatVersion,
		Writer:  o.Version,
		Node:    hex.EncodeToString(id[:]),
		Engine:  o.Engine,
		Created: o.Now().UTC().Truncate(time.Second),
	}
	if err := d.writeIdentity(identity); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity, d.current = identity, 1
	return nil
}

// checkForeign refuses a directory without agent.json that holds anything which
// this package did not make.
func (d *Dir) checkForeign() error {
	names, err := list(d.root, ".")
	if err != nil {
		return explain(d.path, "list it", err)
	}
	if slices.Contains(names, identityName) {
		return nil
	}
	foreign := slices.DeleteFunc(names, func(n string) bool {
		switch n {
		case lockName, identityName + tempSuffix, logName, engineName, fillingName,
			"lost+found": // the root of a file system has it
			return true
		}
		return false
	})
	if len(foreign) == 0 {
		return nil
	}
	const most = 3
	if len(foreign) > most {
		foreign = append(foreign[:most:most], "…")
	}
	return &Error{d.path, ErrForeign, "holds files that are not kahu's (" + strings.Join(foreign, ", ") + ")",
		"use an empty or a new directory", nil}
}

// checkUnused refuses a directory that was in use although agent.json is gone.
func (d *Dir) checkUnused() error {
	for _, name := range []string{logName, generationDir(1)} {
		names, err := list(d.root, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return explain(d.path, "list "+name, err)
		}
		if len(names) > 0 {
			return corrupt(d.path, fmt.Sprintf("%s is missing, but %s has files", identityName, name), nil)
		}
	}
	names, err := list(d.root, engineName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return explain(d.path, "list "+engineName, err)
	}
	for _, n := range names {
		if n != currentName && n != currentName+tempSuffix && n != filepath.Base(generationDir(1)) {
			return corrupt(d.path, fmt.Sprintf("%s is missing, but %s has %s", identityName, engineName, n), nil)
		}
	}
	return nil
}

// check looks for what must be there beside agent.json.
func (d *Dir) check() error {
	for _, name := range []string{logName, engineName} {
		info, err := d.root.Stat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			return corrupt(d.path, fmt.Sprintf("the directory %s is missing", name), nil)
		}
		if err != nil {
			return explain(d.path, "look at "+name, err)
		}
	}
	return d.loadCurrent()
}

// makePath makes the directory and syncs the entry of it in its parent.
func makePath(path string) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
		}
		return nil
	}
	if err := os.MkdirAll(path, dirMode); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	return parent.Sync()
}

// volatileTypes are the file systems that forget.
var volatileTypes = map[int64]bool{
	unix.TMPFS_MAGIC:           true,
	unix.RAMFS_MAGIC:           true,
	unix.OVERLAYFS_SUPER_MAGIC: true,
}

func fileSystem(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Type), nil
}
