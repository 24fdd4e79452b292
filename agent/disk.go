package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/agent/config"
)

const (
	// diskRetry is how often a disk that is full or broken is tried again.
	diskRetry = 2 * time.Second
	// diskProbeBytes are written and synced to find out.
	diskProbeBytes = 1 << 20
	diskProbeName  = ".disk-probe"
	// startFreeBytes is the room without which a voter does not start: a file of
	// the log, and what the engine owes. min-free below it counts instead.
	startFreeBytes = 64 << 20
)

// freeBytes is the room left on a directory's file system, for who is not root.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("asking how much room %s has left: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// awaitDisk blocks until the data directory of a voter takes a write, or ctx
// ends. A voter whose disk fails ends at once, and whoever watches over it starts
// it again; here it then waits until the cause is gone, rather than ending again
// and again until nobody starts it any more.
func awaitDisk(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	if cfg.Dev || cfg.Role == config.Proxy {
		return nil
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "agent.json")); err != nil {
		return nil // new, or not usable: who opens it says so
	}
	for said := ""; ; {
		err := probeDisk(cfg.DataDir, min(cfg.MinFreeBytes, startFreeBytes))
		if err == nil || !sick(err) {
			if said != "" {
				log.Info("the disk of the data directory works again", "path", cfg.DataDir)
			}
			return nil // what else may be wrong is found by who opens it
		}
		if err.Error() != said {
			said = err.Error()
			log.Error("the disk of the data directory takes no writes: this voter waits until it does", "path", cfg.DataDir, "error", err)
		}
		t := time.NewTimer(diskRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("stopped while waiting for the disk of %s: %w", cfg.DataDir, err)
		}
	}
}

// sick reports whether an error may pass by itself, or by what an operator does
// to the disk.
func sick(err error) bool {
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// probeDisk writes and syncs a little, and wants so much room beside it.
func probeDisk(dir string, room int64) (err error) {
	if free, err := freeBytes(dir); err != nil {
		return err
	} else if free < room {
		return fmt.Errorf("%d MiB are left, %d MiB are needed to start: free some: %w", free>>20, room>>20, unix.ENOSPC)
	}
	path := filepath.Join(dir, diskProbeName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, diskProbeBytes))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), os.Remove(path))
}

// watchDisk shows the room left in the metrics, and returns what the voter asks.
func (a *agent) watchDisk() func() (int64, error) {
	if a.cfg.Dev {
		return nil
	}
	dir := a.identity.dir
	a.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kahu_min_free_bytes",
		Help: "Room on the data directory's disk below which a leader refuses writes (min-free)."},
		func() float64 { return float64(a.cfg.MinFreeBytes) }))
	return func() (int64, error) { return freeBytes(dir) }
}
