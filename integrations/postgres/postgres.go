// Package postgres carries the SQL that lets PostgreSQL refuse the writes of a
// worker that has lost its lock: `kahu postgres` prints it.
//
// The file is the whole integration: fencing.sql says what it promises and how it
// is installed. Its tests run against a real server.
package postgres

import _ "embed"

// FencingSQL is fencing.sql. Running it twice is safe.
//
//go:embed fencing.sql
var FencingSQL string
