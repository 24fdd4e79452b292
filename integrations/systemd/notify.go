package systemd

import (
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Notifier tells the service manager how its service is (sd_notify(3)). Its
// methods may be called concurrently; they block only as long as a datagram
// takes. Without a service manager all of them do nothing and return nil.
type Notifier struct {
	watchdog time.Duration
}

// NewNotifier reads what the service manager asks for.
func NewNotifier() (*Notifier, error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("reading WATCHDOG_USEC of this service: %w", err)
	}
	return &Notifier{watchdog: interval}, nil
}

// WatchdogInterval is how often Alive has to be called at least, 0 for never
// (WatchdogSec= of the unit). Call it twice as often.
func (n *Notifier) WatchdogInterval() time.Duration { return n.watchdog }

// Ready says that the service is up, or that a reload is done.
func (n *Notifier) Ready() error { return send(daemon.SdNotifyReady) }

// Alive resets the watchdog.
func (n *Notifier) Alive() error { return send(daemon.SdNotifyWatchdog) }

// Stopping says that an orderly stop has begun.
func (n *Notifier) Stopping() error { return send(daemon.SdNotifyStopping) }

// Reloading says that the configuration is read anew; Ready has to follow.
func (n *Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("reading the monotonic clock: %w", err)
	}
	// The stamp is for Type=notify-reload of systemd 253; older ones ignore it.
	return send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Status shows one line in `systemctl status`.
func (n *Notifier) Status(line string) error {
	return send("STATUS=" + strings.ReplaceAll(line, "\n", " "))
}

func send(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("notifying the service manager: %w", err)
	}
	return nil
}
