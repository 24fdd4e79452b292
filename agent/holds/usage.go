package holds

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/kahu-sh/kahu/localapi"
	"github.com/kahu-sh/kahu/replication"
)

// Holds and the pidfds of their witnesses are bounded together, and for each
// user: a process hold outlives its connection for as long as any process lives
// whose pidfd was passed, so that the bounds of connections do not bound it, and
// an agent without file descriptors loses its log.

// usage is what the holds of one user take.
type usage struct{ holds, pidfds int }

// halfOfFiles is how many pidfds are watched at most: the other half of what the
// process may open is for connections and the log.
func halfOfFiles() (int, error) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	return int(min(files.Cur, 1<<30) / 2), nil
}

// checkLimits refuses a hold that would be too many, for the agent or for its
// user: one who is not root may take half of what there is. mu is held.
func (h *Holds) checkLimits(req localapi.HoldRequest) error {
	pidfds := 0
	for _, u := range h.usage {
		pidfds += u.pidfds
	}
	uid, n := req.Info.GetUid(), len(req.Pidfds)
	own := h.usage[uid]
	limit := func(format string, args ...any) error {
		return refuse(replication.Code_CODE_LIMIT, format, args...)
	}
	switch {
	case len(h.byID) >= h.cfg.MaxHolds:
		return limit("this agent keeps %d holds and waiters already, and its limit is %d", len(h.byID), h.cfg.MaxHolds)
	case uid != 0 && own.holds >= h.cfg.MaxHolds/2:
		return limit("this agent keeps %d holds and waiters of user %d already, and the limit of one user is %d", own.holds, uid, h.cfg.MaxHolds/2)
	case pidfds+n > h.cfg.MaxPidfds:
		return limit("this agent watches %d processes already, and its limit is %d: raise its limit of open files", pidfds, h.cfg.MaxPidfds)
	case uid != 0 && own.pidfds+n > h.cfg.MaxPidfds/2:
		return limit("this agent watches %d processes for user %d already, and the limit of one user is %d", own.pidfds, uid, h.cfg.MaxPidfds/2)
	}
	return nil
}

// charge puts a hold on its user's account. mu is held.
func (h *Holds) charge(o *hold) {
	u := h.usage[o.info.GetUid()]
	h.usage[o.info.GetUid()] = usage{u.holds + 1, u.pidfds + o.pidfds}
}

// discharge takes it off again. mu is held.
func (h *Holds) discharge(o *hold) {
	uid := o.info.GetUid()
	u := usage{h.usage[uid].holds - 1, h.usage[uid].pidfds - o.pidfds}
	if u == (usage{}) {
		delete(h.usage, uid)
		return
	}
	h.usage[uid] = u
}

// SetMaxHolds changes the bound on holds and waiters together; those above it stay.
func (h *Holds) SetMaxHolds(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cfg.MaxHolds = n
}
