// Package rununit keeps a systemd service under a lock that it cannot be wrapped
// with: the unit is started when this host owns the lock, and is down before the
// lock could be another's.
//
// It promises that the unit runs only while the lock is owned, that a unit whose lock
// is lost is stopped and not restarted without it, and that the lock of a unit that
// is stopped is free before `systemctl stop` returns. Three processes keep that:
//
//   - The Runner (`kahu run-unit NAME`, in kahu-unit@NAME.service) owns the hold. It
//     starts the unit when the lock is granted, gives the lock back when nothing of
//     the unit is left, and stops it when the lease cannot be renewed: with a stop
//     job first, since a unit that is only killed is restarted by systemd
//     (HAZARDS-HOST.md 21), and then by force.
//   - The unit's own drop-in (DropIn) asks before each start whether the lock is owned
//     (Held), and lets each stop wait until it is not (AwaitRelease).
//   - When the Runner is killed, systemd runs End in its place; the kernel kills a
//     Runner that is stopped past its time, so that End runs then, too.
//
// Where systemd itself does not act in time, the fencing token tells holders apart.
// How the lock is reached is left to a guard.Agent, and systemd to a Manager.
package rununit
