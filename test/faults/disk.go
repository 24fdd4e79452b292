package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Disk is a file system over a directory, with faults that can be switched on and
// off while it is in use. Its methods may be called concurrently, but for Mount,
// Unmount and PowerCut.
//
// What a power cut takes are bytes written and not synced. Names and sizes that
// shrank survive it: a disk may be faster with them than with the data, and so
// this is the harder case.
type Disk struct {
	backing, mountpoint string
	server              *fuse.Server

	mu     sync.Mutex
	stall  chan struct{} // non-nil: syncs wait until it is closed
	sync   syscall.Errno // of every sync, 0: none
	write  syscall.Errno // of every write that needs room, 0: none
	free   int64         // bytes that Statfs tells, < 0: the truth
	undo   map[uint64]*undo
	syncs  int // how many came, also those that failed
	denied int // how many writes and syncs failed
}

// undo is what a power cut does to one file: the blocks as they were at the last sync.
type undo struct {
	file   *os.File
	size   int64
	blocks map[int64][]byte // by number, each as much as there was
}

const blockBytes = 4096

// ErrNoFUSE says why no Disk can be mounted here.
var ErrNoFUSE = errors.New("no FUSE here")

// NewDisk mounts a disk over the directory backing at mountpoint; both must exist.
// The error wraps ErrNoFUSE where the host does not let us.
func NewDisk(backing, mountpoint string) (*Disk, error) {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	_ = f.Close() // it was only tried
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: mounting needs root", ErrNoFUSE)
	}
	d := &Disk{backing: backing, mountpoint: mountpoint, free: -1, undo: map[uint64]*undo{}}
	return d, d.Mount()
}

// Mount makes the disk appear.
func (d *Disk) Mount() error {
	root := &fs.LoopbackRoot{Path: d.backing}
	//nolint:staticcheck // its successor wraps a node that is there, and ours has fields of its own
	root.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &node{LoopbackNode: fs.LoopbackNode{RootData: r}, disk: d}
	}
	root.RootNode = &node{LoopbackNode: fs.LoopbackNode{RootData: root}, disk: d}
	server, err := fs.Mount(d.mountpoint, root.RootNode, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "kahufaults", Name: "kahufaults", MaxBackground: 128}})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	d.server = server
	return nil
}

// unmountTimeout bounds Unmount. It ends within milliseconds unless something holds the
// disk.
const unmountTimeout = 30 * time.Second

// Unmount takes the disk away, whoever uses it. It blocks for unmountTimeout at most: a
// mount namespace that was made meanwhile has a copy of the mount, which keeps the disk
// alive although nobody sees it here any more. That is an error, and the disk is served
// until the copy is gone.
func (d *Disk) Unmount() error {
	d.Heal()
	over := make(chan error, 1)
	go func() { // ends when nobody has the disk mounted
		err := d.server.Unmount()
		if err != nil {
			err = syscall.Unmount(d.mountpoint, syscall.MNT_DETACH)
		}
		d.server.Wait()
		over <- err
	}()
	timeout := time.NewTimer(unmountTimeout)
	defer timeout.Stop()
	select {
	case err := <-over:
		return err
	case <-timeout.C:
		return fmt.Errorf("%s is unmounted here and in use all the same after %s: by a process with an open file, or in another mount namespace (grep kahufaults /proc/*/mountinfo)",
			d.mountpoint, unmountTimeout)
	}
}

// PowerCut forgets what was not synced. Nobody may have a file open.
func (d *Disk) PowerCut() (lostBlocks int, err error) {
	if err := d.Unmount(); err != nil {
		return 0, fmt.Errorf("cutting the power: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, u := range d.undo {
		lostBlocks += len(u.blocks)
		err = errors.Join(err, u.restore())
		delete(d.undo, key)
	}
	return lostBlocks, errors.Join(err, d.Mount())
}

// Stall has every sync wait until Heal.
func (d *Disk) Stall() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stall == nil {
		d.stall = make(chan struct{})
	}
}

// FailSyncs has every sync fail until Heal.
func (d *Disk) FailSyncs() { d.set(func() { d.sync = syscall.EIO }) }

// FailWrites has everything fail with errno that would need room: EIO, ENOSPC.
func (d *Disk) FailWrites(errno syscall.Errno) { d.set(func() { d.write = errno }) }

// Free has the disk tell that it has so many bytes left.
func (d *Disk) Free(bytes int64) { d.set(func() { d.free = bytes }) }

// Heal ends every fault.
func (d *Disk) Heal() {
	d.set(func() {
		d.sync, d.write, d.free = 0, 0, -1
		if d.stall != nil {
			close(d.stall)
			d.stall = nil
		}
	})
}

// Denied is how many writes and syncs have failed.
func (d *Disk) Denied() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.denied
}

// Syncs is how many syncs came.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

func (d *Disk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// mayWrite is the errno of something that needs room.
func (d *Disk) mayWrite() syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.write != 0 {
		d.denied++
	}
	return d.write
}

// synced waits while the disk stalls, and forgets how the file was before.
func (d *Disk) synced(key uint64) syscall.Errno {
	d.mu.Lock()
	d.syncs++
	stall := d.stall
	d.mu.Unlock()
	if stall != nil {
		<-stall
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sync != 0 {
		d.denied++
		return d.sync
	}
	if u := d.undo[key]; u != nil {
		_ = u.file.Close() // nothing was written through it
		delete(d.undo, key)
	}
	return 0
}

// remember keeps what a write is about to change. mu is held.
func (d *Disk) remember(key uint64, fd int, off int64, n int) error {
	u := d.undo[key]
	if u == nil {
		f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		u = &undo{file: f, size: info.Size(), blocks: map[int64][]byte{}}
		d.undo[key] = u
	}
	for b := off / blockBytes; b*blockBytes < off+int64(n); b++ {
		if _, known := u.blocks[b]; known || b*blockBytes >= u.size {
			continue
		}
		old := make([]byte, min(blockBytes, u.size-b*blockBytes))
		if _, err := u.file.ReadAt(old, b*blockBytes); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		u.blocks[b] = old
	}
	return nil
}

// shrunk takes note of a truncation, which is durable at once. mu is held.
func (d *Disk) shrunk(key uint64, size int64) {
	u := d.undo[key]
	if u == nil || size >= u.size {
		return
	}
	u.size = size
	for b, old := range u.blocks {
		switch from := b * blockBytes; {
		case from >= size:
			delete(u.blocks, b)
		case from+int64(len(old)) > size:
			u.blocks[b] = old[:size-from]
		}
	}
}

func (u *undo) restore() error {
	for b, old := range u.blocks {
		if _, err := u.file.WriteAt(old, b*blockBytes); err != nil {
			return err
		}
	}
	return errors.Join(u.file.Truncate(u.size), u.file.Close())
}

// node is a file or directory.
type node struct {
	fs.LoopbackNode
	disk *Disk
}

// Statfs implements fs.NodeStatfser.
func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	errno := n.LoopbackNode.Statfs(ctx, out)
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	if n.disk.free >= 0 && out.Bsize > 0 {
		out.Bfree = uint64(n.disk.free) / uint64(out.Bsize)
		out.Bavail = out.Bfree
	}
	return errno
}

// Open implements fs.NodeOpener.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_TRUNC != 0 {
		n.disk.mu.Lock()
		n.disk.shrunk(n.StableAttr().Ino, 0)
		n.disk.mu.Unlock()
	}
	fh, _, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return wrap(fh, n.disk, n.StableAttr().Ino), 0, 0
}

// Create implements fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags uint32, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.disk.mayWrite(); errno != 0 {
		return nil, nil, 0, errno
	}
	inode, fh, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	return inode, wrap(fh, n.disk, inode.StableAttr().Ino), 0, 0
}

// Mkdir implements fs.NodeMkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.mayWrite(); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

// Setattr implements fs.NodeSetattrer.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		n.disk.mu.Lock()
		n.disk.shrunk(n.StableAttr().Ino, int64(size))
		n.disk.mu.Unlock()
	}
	return n.LoopbackNode.Setattr(ctx, f, in, out)
}

// handle is an open file. It has only what an agent uses.
type handle struct {
	inner interface {
		fs.FileReader
		fs.FileWriter
		fs.FileReleaser
		fs.FileGetattrer
		fs.FileSetattrer
		fs.FileAllocater
		fs.FileLseeker
	}
	disk *Disk
	key  uint64
	fd   int
}

var (
	_ fs.FileReader    = (*handle)(nil)
	_ fs.FileWriter    = (*handle)(nil)
	_ fs.FileFsyncer   = (*handle)(nil)
	_ fs.FileFlusher   = (*handle)(nil)
	_ fs.FileReleaser  = (*handle)(nil)
	_ fs.FileGetattrer = (*handle)(nil)
	_ fs.FileSetattrer = (*handle)(nil)
	_ fs.FileAllocater = (*handle)(nil)
	_ fs.FileLseeker   = (*handle)(nil)
)

func wrap(fh fs.FileHandle, d *Disk, key uint64) *handle {
	h := &handle{disk: d, key: key, fd: -1}
	h.inner = fh.(interface {
		fs.FileReader
		fs.FileWriter
		fs.FileReleaser
		fs.FileGetattrer
		fs.FileSetattrer
		fs.FileAllocater
		fs.FileLseeker
	})
	h.fd, _ = fh.(fs.FilePassthroughFder).PassthroughFd()
	return h
}

func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return h.inner.Read(ctx, dest, off)
}

func (h *handle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := h.disk.mayWrite(); errno != 0 {
		return 0, errno
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.remember(h.key, h.fd, off, len(data)); err != nil {
		return 0, syscall.EIO
	}
	return h.inner.Write(ctx, data, off)
}

func (h *handle) Fsync(context.Context, uint32) syscall.Errno { return h.disk.synced(h.key) }

// Flush is called by close, which syncs nothing.
func (h *handle) Flush(context.Context) syscall.Errno { return 0 }

func (h *handle) Release(ctx context.Context) syscall.Errno { return h.inner.Release(ctx) }

func (h *handle) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return h.inner.Getattr(ctx, out)
}

func (h *handle) Setattr(ctx context.Context, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return h.inner.Setattr(ctx, in, out)
}

func (h *handle) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if errno := h.disk.mayWrite(); errno != 0 {
		return errno
	}
	return h.inner.Allocate(ctx, off, size, mode)
}

func (h *handle) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	return h.inner.Lseek(ctx, off, whence)
}
