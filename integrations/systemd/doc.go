// Package systemd is the agent's side of its service manager: sockets that
// systemd opened before the agent started, what the agent reports back, and what it
// has kept while it is restarted (sd_listen_fds(3), sd_notify(3), the file
// descriptor store).
//
// Nothing here needs systemd to be there: without it Inherit returns nothing,
// and a Notifier keeps silent. The protocols are go-systemd's; this package
// adds which names kahu's units use, and checks.
package systemd
