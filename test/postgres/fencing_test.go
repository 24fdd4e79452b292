package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kahu-sh/kahu/integrations/postgres"
)

func connect(dir, role string, settings map[string]string) string {
	var options []string
	for k, v := range settings {
		options = append(options, fmt.Sprintf("-c %s=%s", k, v))
	}
	return fmt.Sprintf("host=%s user=%s dbname=postgres options='%s'", dir, role, strings.Join(options, " "))
}

type session struct {
	*pgx.Conn
	t *testing.T
}

// as connects like a command under `kahu exec`: with the token in its settings.
func as(t *testing.T, dir, role, lock string, token int) session {
	t.Helper()
	settings := map[string]string{}
	if lock != "" {
		settings = map[string]string{"kahu.lock": lock, "kahu.token": strconv.Itoa(token)}
	}
	c, err := pgx.Connect(t.Context(), connect(dir, role, settings))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return session{c, t}
}

func (s session) do(sql string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	_, err := s.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

func (s session) must(sql string) {
	s.t.Helper()
	if err := s.do(sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// refused wants an error of a class.
func (s session) refused(sql, code string) {
	s.t.Helper()
	err := s.do(sql)
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != code {
		s.t.Errorf("%s: %v, want an error of class %s", sql, err, code)
	}
}

func (s session) value(sql string) (out string) {
	s.t.Helper()
	if err := s.QueryRow(s.t.Context(), sql).Scan(&out); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

const (
	stale   = "KF001"
	noLock  = "42501"
	badName = "22023"
)

// installed is a server with a table that lock "billing" protects, and an
// ordinary role that writes to it.
func installed(t *testing.T) (dir string, admin session) {
	dir = server(t)
	admin = as(t, dir, "postgres", "", 0)
	admin.must(postgres.FencingSQL)
	admin.must(postgres.FencingSQL) // twice is safe
	admin.must("CREATE TABLE ledger (id int PRIMARY KEY, amount int); CREATE ROLE app LOGIN IN ROLE kahu_writer; GRANT ALL ON ledger TO app")
	admin.must("SELECT kahu.protect('ledger', 'billing')")
	return dir, admin
}

func TestFencing(t *testing.T) {
	dir, admin := installed(t)

	t.Run("who holds nothing changes nothing", func(t *testing.T) {
		for _, s := range []session{as(t, dir, "app", "", 0), as(t, dir, "app", "shipping", 9)} {
			for _, sql := range []string{"INSERT INTO ledger VALUES (1, 1)", "UPDATE ledger SET amount = 2", "DELETE FROM ledger", "TRUNCATE ledger"} {
				s.refused(sql, noLock)
			}
			s.must("SELECT * FROM ledger")
		}
		as(t, dir, "app", "billing", -1).refused("INSERT INTO ledger VALUES (1, 1)", badName)
	})

	t.Run("a lower token is refused", func(t *testing.T) {
		old, young := as(t, dir, "app", "billing", 0), as(t, dir, "app", "billing", 1)
		old.must("CALL kahu.enter()")
		old.must("INSERT INTO ledger VALUES (10, 1)")
		young.must("CALL kahu.enter()")
		for _, sql := range []string{"INSERT INTO ledger VALUES (11, 1)", "UPDATE ledger SET amount = 2", "DELETE FROM ledger", "TRUNCATE ledger", "CALL kahu.enter()"} {
			old.refused(sql, stale)
		}
		young.must("UPDATE ledger SET amount = 3")
		if got := admin.value("SELECT string_agg(id || '=' || amount, ' ') FROM ledger"); got != "10=3" {
			t.Errorf("the ledger has %s", got)
		}
	})

	t.Run("a write without enter shuts out lower ones as well", func(t *testing.T) {
		as(t, dir, "app", "billing", 5).must("INSERT INTO ledger VALUES (20, 1)")
		as(t, dir, "app", "billing", 4).refused("INSERT INTO ledger VALUES (21, 1)", stale)
		if got := admin.value("SELECT token::text FROM kahu.fence WHERE lock = 'billing'"); got != "5" {
			t.Errorf("the fence is at %s", got)
		}
	})

	t.Run("a transaction that was open before cannot commit", func(t *testing.T) {
		for _, isolation := range []string{"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"} {
			admin.must("DELETE FROM kahu.fence")
			old, young := as(t, dir, "app", "billing", 6), as(t, dir, "app", "billing", 7)
			old.must("CALL kahu.enter()")
			old.must("BEGIN ISOLATION LEVEL " + isolation)
			old.must("INSERT INTO ledger VALUES (30, 1)")
			// The worker is paused here. Its open transaction blocks nobody.
			young.must("CALL kahu.enter()")
			young.must("INSERT INTO ledger VALUES (31, 1)")
			if err := old.do("COMMIT"); err == nil {
				t.Errorf("%s: committed with a stale token", isolation)
			}
			if got := admin.value("SELECT string_agg(id::text, ' ') FROM ledger WHERE id IN (30, 31)"); got != "31" {
				t.Errorf("%s: the ledger has %s", isolation, got)
			}
			young.must("DELETE FROM ledger WHERE id = 31")
		}
	})

	t.Run("nothing of a refused transaction is kept", func(t *testing.T) {
		admin.must("CREATE TABLE free (id int); GRANT ALL ON free TO app")
		as(t, dir, "app", "billing", 8).must("CALL kahu.enter()")
		old := as(t, dir, "app", "billing", 7)
		old.must("BEGIN")
		old.must("INSERT INTO free VALUES (1)")
		old.refused("INSERT INTO ledger VALUES (40, 1)", stale)
		old.must("ROLLBACK")
		if got := admin.value("SELECT count(*)::text FROM free"); got != "0" {
			t.Errorf("%s rows of a refused transaction", got)
		}
	})

	t.Run("ways around", func(t *testing.T) {
		s := as(t, dir, "app", "billing", 1)
		s.refused("UPDATE kahu.fence SET token = 0", noLock)
		s.refused("DELETE FROM kahu.fence", noLock)
		s.refused("SELECT kahu.unprotect('ledger')", noLock)
		s.refused("ALTER TABLE ledger DISABLE TRIGGER ALL", noLock)
		s.refused("WITH x AS (INSERT INTO ledger VALUES (50, 1) RETURNING 1) SELECT * FROM x", stale)
		s.refused("MERGE INTO ledger USING (VALUES (50)) AS v(id) ON ledger.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (50, 1)", stale)
		s.refused("COPY ledger FROM '/dev/null'", noLock)
		root := as(t, dir, "postgres", "billing", 1)
		root.must("SET session_replication_role = replica")
		root.refused("INSERT INTO ledger VALUES (51, 1)", stale)
	})

	t.Run("schemas and partitions", func(t *testing.T) {
		admin.must(`CREATE SCHEMA app; CREATE TABLE app.a (id int); CREATE TABLE app.p (id int) PARTITION BY RANGE (id);
			CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (10); GRANT USAGE ON SCHEMA app TO app; GRANT ALL ON ALL TABLES IN SCHEMA app TO app`)
		if got := admin.value("SELECT kahu.protect_schema('app', 'app')::text"); got != "2" {
			t.Errorf("%s tables protected, want 2", got)
		}
		as(t, dir, "app", "app", 2).must("CALL kahu.enter()")
		s := as(t, dir, "app", "app", 1)
		for _, table := range []string{"app.a", "app.p", "app.p1"} {
			s.refused("INSERT INTO "+table+" VALUES (1)", stale)
		}
		admin.must("SELECT kahu.unprotect('app.a')")
		s.must("INSERT INTO app.a VALUES (1)")
	})
}

// Two tokens at once, many times over: whoever enters second wins, and the
// ledger has no row of a lower token after one of a higher.
func TestFencingUnderConcurrency(t *testing.T) {
	dir, admin := installed(t)
	admin.must("CREATE TABLE log (n serial, token int); GRANT ALL ON log TO app; GRANT ALL ON log_n_seq TO app; SELECT kahu.protect('log', 'race')")
	const tokens = 8
	done := make(chan error, tokens)
	for token := range tokens {
		c := as(t, dir, "app", "race", token)
		go func() { // ends when its token is refused, or after its rows
			for range 40 {
				// The number is drawn when the fence is already ours to commit.
				err := c.do(fmt.Sprintf("BEGIN; INSERT INTO log (token) VALUES (%d); SET CONSTRAINTS ALL IMMEDIATE; UPDATE log SET n = nextval('log_n_seq') WHERE n = currval('log_n_seq'); COMMIT", token))
				if err != nil {
					_ = c.do("ROLLBACK") // it may be over already
					var e *pgconn.PgError
					if !errors.As(err, &e) || e.Code != stale {
						done <- err
						return
					}
					break
				}
			}
			done <- nil
		}()
	}
	for range tokens {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := admin.value("SELECT count(*)::text FROM (SELECT token, max(token) OVER (ORDER BY n) AS top FROM log) x WHERE token < top"); got != "0" {
		t.Errorf("%s rows were written with a token below one that was there already", got)
	}
	if got := admin.value("SELECT max(token)::text FROM log"); got != strconv.Itoa(tokens-1) {
		t.Errorf("the highest token written is %s", got)
	}
}
