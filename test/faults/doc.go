// Package faults runs real agents on disks that fail.
//
// Disk is a FUSE file system of the tests' own: it stalls, refuses to sync or to
// write, is full, or forgets at a power cut what was never synced. The tests say
// what must hold meanwhile and after: nothing acknowledged is lost, a sick leader
// does not take the cluster with it, and whoever was sick comes back by himself.
//
// It needs root and /dev/fuse; without them the tests are skipped.
package faults
