// Package backup has the file that a cluster's state is carried in, in both
// directions, and the directory that scheduled backups are kept in.
//
// It promises that what Reader hands out is exactly what Writer was given, or an
// error; that damage (ErrDamaged) is told from a newer format (ErrNewer); that
// nothing is allocated by a length which was not checked; and that a file in a
// Dir is whole or not there. A backup is streamed: neither side keeps more than a
// chunk of it in memory.
//
// Which rows belong into a backup, and what becomes of them in a new cluster, is
// decided by package statemachine; where they come from is left to package voter,
// and the data directory that they are restored into to package agent.
package backup
