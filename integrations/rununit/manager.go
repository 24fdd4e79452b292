package rununit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// A Unit is where a service stands.
type Unit struct {
	Loaded  bool
	Active  string // active, reloading, activating, deactivating, inactive, failed
	Sub     string // stop-post, auto-restart, ...
	Result  string // success, or how it ended
	Job     string // start, stop, restart, ... ; empty: none is queued or runs
	BindsTo []string
	// Processes are all of it but AwaitRelease's, and Awaiting says that this one is
	// there: it is the last that a unit runs when it stops (DropIn).
	Processes []int
	Awaiting  bool
}

// Down reports that nothing of the unit runs, and that systemd will not start it by
// itself.
func (u Unit) Down() bool {
	return len(u.Processes) == 0 && (u.Active == "inactive" || u.Active == "failed") && u.Job != "start" && u.Job != "restart"
}

// Stopping reports that somebody waits for the unit to be stopped, and that nothing
// of it is left but what waits for the lock to be given back.
func (u Unit) Stopping() bool { return len(u.Processes) == 0 && u.Awaiting && u.Job == "stop" }

// Left reports that the unit has ended, and left processes behind.
func (u Unit) Left() bool {
	return len(u.Processes) > 0 && (u.Active == "inactive" || u.Active == "failed" || u.Awaiting)
}

// A Manager is systemd. Its methods may be called concurrently.
type Manager interface {
	Unit(ctx context.Context, name string) (Unit, error)
	// Start starts a unit, and returns when it is up, or why it is not.
	Start(ctx context.Context, name string) error
	// Stop begins to stop a unit, for good: its Restart= counts for nothing.
	Stop(ctx context.Context, name string) error
	// Kill kills those processes.
	Kill(pids []int)
	// Changed receives when a unit may have changed.
	Changed() <-chan struct{}
}

// Systemd is the Manager of this host.
type Systemd struct {
	conn    *dbus.Conn
	changed chan struct{}
	end     context.CancelFunc
	done    chan struct{}
}

var _ Manager = (*Systemd)(nil)

const (
	// lookEvery is between two looks at a unit that nothing is heard of: signals of
	// D-Bus may be lost, processes say nothing.
	lookEvery = 500 * time.Millisecond
	// updatesKept wait to be read; more are one.
	updatesKept = 64
)

// Dial connects to systemd. Close ends it.
func Dial(ctx context.Context) (*Systemd, error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to systemd: %w; it takes root, and a host that was booted by systemd", err)
	}
	if err := conn.Subscribe(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("subscribing to systemd: %w", err)
	}
	s := &Systemd{conn: conn, changed: make(chan struct{}, 1), done: make(chan struct{})}
	updates := make(chan *dbus.PropertiesUpdate, updatesKept)
	conn.SetPropertiesSubscriber(updates, make(chan error, 1))
	watch, end := context.WithCancel(context.Background())
	s.end = end
	go s.watch(watch, updates) // ends with Close
	return s, nil
}

// watch turns updates, and time, into wake-ups.
func (s *Systemd) watch(ctx context.Context, updates <-chan *dbus.PropertiesUpdate) {
	defer close(s.done)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-updates:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		select {
		case s.changed <- struct{}{}:
		default: // one wake-up is already there
		}
	}
}

// Close ends the connection.
func (s *Systemd) Close() {
	s.end()
	<-s.done
	s.conn.Close()
}

// Changed implements Manager.
func (s *Systemd) Changed() <-chan struct{} { return s.changed }

// Unit implements Manager.
func (s *Systemd) Unit(ctx context.Context, name string) (Unit, error) {
	all, err := s.conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return Unit{}, fmt.Errorf("asking systemd for %s: %w", name, err)
	}
	text := func(key string) string { v, _ := all[key].(string); return v }
	u := Unit{Loaded: text("LoadState") == "loaded", Active: text("ActiveState"), Sub: text("SubState"), Result: text("Result")}
	u.BindsTo, _ = all["BindsTo"].([]string)
	control, _ := all["ControlPID"].(uint32)
	but := 0
	if u.Awaiting = awaits(int(control)); u.Awaiting {
		but = int(control)
	}
	if u.Processes, err = processes(text("ControlGroup"), but); err != nil {
		return Unit{}, err
	}
	jobs, err := s.conn.ListJobsContext(ctx)
	if err != nil {
		return Unit{}, fmt.Errorf("asking systemd for its jobs: %w", err)
	}
	for _, j := range jobs {
		if j.Unit == name {
			u.Job = j.JobType
		}
	}
	return u, nil
}

// Start implements Manager.
func (s *Systemd) Start(ctx context.Context, name string) error {
	result := make(chan string, 1)
	if _, err := s.conn.StartUnitContext(ctx, name, "replace", result); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	select {
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("%s was not started (%s): systemctl status %s says why", name, r, name)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop implements Manager.
func (s *Systemd) Stop(ctx context.Context, name string) error {
	if _, err := s.conn.StopUnitContext(ctx, name, "replace", nil); err != nil {
		return fmt.Errorf("stopping %s: %w", name, err)
	}
	return nil
}

// Kill implements Manager.
func (s *Systemd) Kill(pids []int) {
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // gone is what is wanted
	}
}

// awaits reports whether a process is AwaitRelease's.
func awaits(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return pid > 0 && err == nil && strings.Contains(string(text), "\x00run-unit\x00"+releasedFlag+"\x00")
}

// cgroupRoots is where systemd's groups are: v2, hybrid, v1.
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"}

// processes lists what lives in a control group and below it, but for one.
func processes(group string, but int) (pids []int, err error) {
	if group == "" {
		return nil, nil
	}
	for _, root := range cgroupRoots {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		err := filepath.WalkDir(filepath.Join(root, group), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return gone(err)
			}
			text, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, line := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(line); err == nil && pid != but && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return gone(err)
		})
		if err != nil {
			return nil, fmt.Errorf("listing the processes of %s: %w", group, err)
		}
	}
	return pids, nil
}

// gone is err unless it says that a group was removed meanwhile.
func gone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
