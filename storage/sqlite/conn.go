package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/kahu-sh/kahu/storage"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// The format: a database with application_id and user_version set, and
//
//	CREATE TABLE rows (key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID
//
// WITHOUT ROWID keeps key and value in one tree. A row over a quarter of a page
// leaves that page for a chain of others, which is why pages are 8 KiB: rows up
// to 2 KiB stay inside.
const (
	applicationID = 0x6b616875 // "kahu"
	formatVersion = 1
	pageSizeBytes = 8192

	writerCacheBytes = 64 << 20
	readerCacheBytes = 4 << 20
	// openTimeoutMS is how long opening waits for another connection's recovery.
	// Later only a checkpoint can meet a lock, that of a reader: it should give
	// up soon, because writes wait behind it.
	openTimeoutMS = 5000
	busyTimeoutMS = 50
	// rowsAtOnce go into one statement: half of a row's cost is that of starting
	// and ending its statement. More than this gains nothing.
	rowsAtOnce = 16
)

// conn is one connection with its prepared statements. Not for concurrent use.
type conn struct {
	c      driver.Conn
	broken bool // must not be used again

	begin, commit, rollback statement
	getOne                  statement
	scans                   [2][2]statement // [reverse][with an upper bound]
	put, putMany, remove    statement       // of the writer

	args  [2 * rowsAtOnce]driver.NamedValue
	dest  [2]driver.Value
	batch []statement
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

func openReader(path string) (*conn, error) {
	return open(path, readerCacheBytes, false)
}

// openWriter also makes the table in a new database, and checks an old one.
func openWriter(path string) (*conn, error) {
	return open(path, writerCacheBytes, true)
}

func open(path string, cacheBytes int, writer bool) (_ *conn, err error) {
	// As a URI, a path may hold any character.
	uri := url.URL{Scheme: "file", Path: path}
	raw, err := new(sqlite.Driver).Open(uri.String())
	if err != nil {
		return nil, typed(err)
	}
	c := &conn{c: raw}
	defer func() {
		if err != nil {
			_ = c.close()
		}
	}()
	pragmas := []string{
		fmt.Sprintf("PRAGMA busy_timeout=%d", openTimeoutMS),
		fmt.Sprintf("PRAGMA cache_size=-%d", cacheBytes>>10),
		"PRAGMA synchronous=NORMAL",
		"PRAGMA mmap_size=0",
		"PRAGMA temp_store=MEMORY",
		"PRAGMA wal_autocheckpoint=0", // Sync does it, where the time is known
	}
	if writer {
		pragmas = append([]string{fmt.Sprintf("PRAGMA page_size=%d", pageSizeBytes)}, pragmas...)
	} else {
		pragmas = append(pragmas, "PRAGMA query_only=ON")
	}
	for _, p := range pragmas {
		if err := c.exec(p); err != nil {
			return nil, err
		}
	}
	if writer {
		if err := c.prepareDatabase(); err != nil {
			return nil, err
		}
	}
	if err := c.prepareStatements(writer); err != nil {
		return nil, err
	}
	if writer {
		if err := c.exec(fmt.Sprintf("PRAGMA busy_timeout=%d", busyTimeoutMS)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// prepareDatabase makes the table, or checks that it is ours.
func (c *conn) prepareDatabase() error {
	id, err := c.number("PRAGMA application_id")
	if err != nil {
		return err
	}
	version, err := c.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	tables, err := c.number("SELECT count(*) FROM sqlite_master")
	if err != nil {
		return err
	}
	switch {
	case id == 0 && version == 0 && tables == 0: // new, or killed while it was made
	case id != applicationID:
		return fmt.Errorf("%w: the database belongs to another program (application id %d)", storage.ErrCorrupt, id)
	case version > formatVersion:
		return fmt.Errorf("%w: version %d, this kahu reads up to %d", storage.ErrNewerFormat, version, formatVersion)
	case version < 1 || tables != 1:
		return fmt.Errorf("%w: format version %d with %d tables", storage.ErrCorrupt, version, tables)
	}
	if err := c.exec("PRAGMA journal_mode=WAL"); err != nil {
		return err
	}
	if id != 0 {
		return nil
	}
	for _, q := range []string{
		"BEGIN IMMEDIATE",
		"CREATE TABLE rows (key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
		fmt.Sprintf("PRAGMA application_id=%d", applicationID),
		fmt.Sprintf("PRAGMA user_version=%d", formatVersion),
		"COMMIT",
	} {
		if err := c.exec(q); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) prepareStatements(writer bool) error {
	list := []struct {
		to  *statement
		sql string
	}{
		{&c.begin, "BEGIN"},
		{&c.commit, "COMMIT"},
		{&c.rollback, "ROLLBACK"},
		{&c.getOne, "SELECT value FROM rows WHERE key=?1"},
		{&c.scans[0][0], "SELECT key, value FROM rows WHERE key>=?1 ORDER BY key"},
		{&c.scans[0][1], "SELECT key, value FROM rows WHERE key>=?1 AND key<?2 ORDER BY key"},
		{&c.scans[1][0], "SELECT key, value FROM rows WHERE key>=?1 ORDER BY key DESC"},
		{&c.scans[1][1], "SELECT key, value FROM rows WHERE key>=?1 AND key<?2 ORDER BY key DESC"},
	}
	if writer {
		list[0].sql = "BEGIN IMMEDIATE"
		list = append(list, []struct {
			to  *statement
			sql string
		}{
			// Without other indexes or triggers REPLACE is one insertion into the
			// tree, with no look before it.
			{&c.put, "REPLACE INTO rows (key, value) VALUES (?1, ?2)"},
			{&c.putMany, "REPLACE INTO rows (key, value) VALUES (?,?)" + strings.Repeat(",(?,?)", rowsAtOnce-1)},
			{&c.remove, "DELETE FROM rows WHERE key=?1"},
		}...)
	}
	for _, p := range list {
		st, err := c.prepare(p.sql)
		if err != nil {
			return err
		}
		*p.to = st
		c.batch = append(c.batch, st)
	}
	return nil
}

func (c *conn) prepare(sql string) (statement, error) {
	st, err := c.c.Prepare(sql)
	if err != nil {
		return nil, typed(err)
	}
	s, ok := st.(statement)
	if !ok {
		return nil, fmt.Errorf("the SQLite driver has no statements with a context: %T", st)
	}
	return s, nil
}

// blob is never nil: SQLite would store NULL for that.
func blob(b []byte) driver.Value {
	if b == nil {
		return []byte{}
	}
	return b
}

// bind puts values in the connection's argument buffer.
func (c *conn) bind(values ...[]byte) []driver.NamedValue {
	for i, v := range values {
		c.args[i] = driver.NamedValue{Ordinal: i + 1, Value: blob(v)}
	}
	return c.args[:len(values)]
}

// run executes a statement that returns no rows.
func (c *conn) run(s statement, values ...[]byte) error {
	_, err := s.ExecContext(context.Background(), c.bind(values...))
	return typed(err)
}

// exec prepares and runs a statement once, draining what it returns.
func (c *conn) exec(sql string, args ...string) error {
	s, err := c.prepare(sql)
	if err != nil {
		return err
	}
	defer s.Close()
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	_, err = s.ExecContext(context.Background(), named)
	return typed(err)
}

// number runs a query for one integer.
func (c *conn) number(sql string) (int64, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	rows, err := s.QueryContext(context.Background(), nil)
	if err != nil {
		return 0, typed(err)
	}
	defer rows.Close()
	dest := make([]driver.Value, 1)
	if err := rows.Next(dest); err != nil {
		return 0, typed(err)
	}
	n, ok := dest[0].(int64)
	if !ok {
		return 0, fmt.Errorf("%s: not a number: %T", sql, dest[0])
	}
	return n, nil
}

func (c *conn) get(key []byte) (_ []byte, err error) {
	rows, err := c.getOne.QueryContext(context.Background(), c.bind(key))
	if err != nil {
		return nil, typed(err)
	}
	defer func() {
		if e := rows.Close(); e != nil && err == nil {
			err = typed(e)
		}
	}()
	switch err := rows.Next(c.dest[:1]); {
	case errors.Is(err, io.EOF):
		return nil, storage.ErrNotFound
	case err != nil:
		return nil, typed(err)
	}
	return bytesOf(c.dest[0])
}

// page reads rows until one of the limits of a page; more says that there may be
// others behind them.
func (c *conn) page(from, to []byte, reverse bool, limit int) (out []storage.Row, more bool, err error) {
	direction, bounded, args := 0, 0, c.bind(from)
	if reverse {
		direction = 1
	}
	if to != nil {
		bounded, args = 1, c.bind(from, to)
	}
	rows, err := c.scans[direction][bounded].QueryContext(context.Background(), args)
	if err != nil {
		return nil, false, typed(err)
	}
	defer func() {
		if e := rows.Close(); e != nil && err == nil {
			err = typed(e)
		}
	}()
	size := 0
	for len(out) < limit && size < pageBytes {
		err := rows.Next(c.dest[:])
		if errors.Is(err, io.EOF) {
			return out, false, nil
		}
		if err != nil {
			return nil, false, typed(err)
		}
		var row storage.Row
		if row.Key, err = bytesOf(c.dest[0]); err != nil {
			return nil, false, err
		}
		if row.Value, err = bytesOf(c.dest[1]); err != nil {
			return nil, false, err
		}
		size += len(row.Key) + len(row.Value)
		out = append(out, row)
	}
	return out, true, nil
}

// bytesOf takes a column, which the driver has copied.
func bytesOf(v driver.Value) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		if v == nil {
			v = []byte{}
		}
		return v, nil
	case nil:
		return []byte{}, nil // how the driver hands out an empty blob
	}
	return nil, fmt.Errorf("%w: a column holds %T, not bytes", storage.ErrCorrupt, v)
}

func (c *conn) write(b *storage.Batch) (err error) {
	if err := c.run(c.begin); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if e := c.run(c.rollback); e != nil {
			err = errors.Join(err, e)
		}
	}()
	for ops := b.Ops(); len(ops) > 0; {
		n := 1
		switch {
		case ops[0].Delete:
			err = c.run(c.remove, ops[0].Key)
		case allPuts(ops):
			n = rowsAtOnce
			err = c.runMany(ops[:n])
		default:
			err = c.run(c.put, ops[0].Key, ops[0].Value)
		}
		if err != nil {
			return err
		}
		ops = ops[n:]
	}
	return c.run(c.commit)
}

// allPuts reports whether ops begins with rowsAtOnce rows to put.
func allPuts(ops []storage.Op) bool {
	if len(ops) < rowsAtOnce {
		return false
	}
	for _, op := range ops[:rowsAtOnce] {
		if op.Delete {
			return false
		}
	}
	return true
}

// runMany puts rowsAtOnce rows, in order.
func (c *conn) runMany(ops []storage.Op) error {
	for i, op := range ops {
		c.args[2*i] = driver.NamedValue{Ordinal: 2*i + 1, Value: blob(op.Key)}
		c.args[2*i+1] = driver.NamedValue{Ordinal: 2*i + 2, Value: blob(op.Value)}
	}
	_, err := c.putMany.ExecContext(context.Background(), c.args[:2*len(ops)])
	return typed(err)
}

func (c *conn) close() error {
	for _, s := range c.batch {
		_ = s.Close()
	}
	c.batch = nil
	return typed(c.c.Close())
}

// typed gives damage its sentinel.
func typed(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
		}
	}
	return err
}

func isBusy(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff
	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}
