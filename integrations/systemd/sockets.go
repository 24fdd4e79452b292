package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// Names of the socket units' descriptors (FileDescriptorName= in the units).
// systemd passes sockets in no order that one could rely on, so that they are
// told apart by name (HAZARDS-HOST.md 19).
const (
	AppSocket   = "app"   // kahu.socket: applications
	AdminSocket = "admin" // kahu-admin.socket: administration
)

// Sockets are what the service manager passed: the listening Unix sockets that it
// made, and what the agent before had it keep.
type Sockets struct {
	App, Admin *net.UnixListener // nil: not passed
	// Stored are descriptors from its store, by name: see NewFDStore.
	Stored map[string]*os.File
}

// Close closes the sockets, and what is stored unless NewFDStore has it. The
// sockets' files stay: they are systemd's.
func (s Sockets) Close() error {
	var errs []error
	for _, f := range s.Stored {
		_ = f.Close() // often taken and closed already; a pidfd has nothing to lose
	}
	for _, l := range []*net.UnixListener{s.App, s.Admin} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// Inherit takes over the sockets that were passed to this process, and removes
// what says so from its environment, so that no child believes they are its
// own. Call it once, before anything else opens descriptors. An error says
// which unit file to mend; then nothing stays open.
func Inherit() (Sockets, error) {
	var s Sockets
	var errs []error
	for _, f := range activation.Files(true) {
		errs = append(errs, s.take(f))
	}
	if err := errors.Join(errs...); err != nil {
		return Sockets{}, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Sockets) take(f *os.File) error {
	if strings.HasPrefix(f.Name(), storedPrefix) {
		if s.Stored == nil {
			s.Stored = map[string]*os.File{}
		}
		if s.Stored[f.Name()] != nil { // systemd lets names repeat; ours do not
			return f.Close()
		}
		s.Stored[f.Name()] = f
		return nil
	}
	defer f.Close() // FileListener has a duplicate
	var place **net.UnixListener
	switch f.Name() {
	case AppSocket:
		place = &s.App
	case AdminSocket:
		place = &s.Admin
	default:
		return fmt.Errorf("systemd passed a descriptor named %q: a socket unit of kahu needs FileDescriptorName=%s or %s", f.Name(), AppSocket, AdminSocket)
	}
	if *place != nil {
		return fmt.Errorf("systemd passed two sockets named %q: one ListenStream= is enough", f.Name())
	}
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("taking over socket %q from systemd: %w", f.Name(), err)
	}
	unix, ok := l.(*net.UnixListener)
	if !ok {
		return errors.Join(fmt.Errorf("socket %q from systemd is no Unix stream socket: its unit needs ListenStream=/path", f.Name()), l.Close())
	}
	// The file belongs to the socket unit, which keeps listening while the
	// agent restarts.
	unix.SetUnlinkOnClose(false)
	*place = unix
	return nil
}
