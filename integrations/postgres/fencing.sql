-- kahu: fencing tokens in PostgreSQL 12 and later.
--
-- A worker that was paused past its lease does not know that another holds the
-- lock now. With this, the database knows: it keeps the highest token that it has
-- seen of each lock, and refuses to change protected tables for a lower one.
--
-- Install, as a role that may create schemas; running it again is safe:
--     kahu postgres | psql
--     psql -c "SELECT kahu.protect('public.ledger', 'billing')"
--     psql -c "GRANT kahu_writer TO app"
-- Work, in a command that `kahu exec --lock billing` runs:
--     export PGOPTIONS="-c kahu.lock=$KAHU_LOCK -c kahu.token=$KAHU_FENCING_TOKEN"
--     psql -c "CALL kahu.enter()"       # first, in a transaction of its own
--     psql -c "INSERT INTO ledger ..."  # refused from the moment another entered
--
-- What holds: once kahu.enter() of a token has returned, no transaction with a
-- lower token of that lock commits a change to a protected table, not even one
-- that was open before. So whatever is read after kahu.enter() stays true but for
-- one's own changes. Without kahu.enter(), the first committed change of a token
-- is what shuts out the lower ones.
--
-- How: each change is checked twice. At once, so that the error comes early. And
-- when the transaction commits, under a lock on the row of the fence that is held
-- to the end of the commit: a transaction that sits idle blocks nobody.

BEGIN;

CREATE SCHEMA IF NOT EXISTS kahu;

DO $$
BEGIN
	CREATE ROLE kahu_writer NOLOGIN;
EXCEPTION WHEN duplicate_object THEN
	NULL; -- from an earlier installation, or another database of this server
END
$$;

-- The highest token seen of each lock. Rows are never deleted: a token that is
-- forgotten could come back.
CREATE TABLE IF NOT EXISTS kahu.fence (
	lock       text        PRIMARY KEY,
	token      bigint      NOT NULL CHECK (token >= 0),
	entered_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The lock that guards each protected table.
CREATE TABLE IF NOT EXISTS kahu.protected (
	relation regclass PRIMARY KEY,
	lock     text     NOT NULL
);

-- The token of this session: kahu.lock and kahu.token, set by PGOPTIONS or SET.
CREATE OR REPLACE FUNCTION kahu.session_token(wanted text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
	held text := nullif(current_setting('kahu.lock', true), '');
	tok  text := nullif(current_setting('kahu.token', true), '');
BEGIN
	IF held IS NULL OR tok IS NULL THEN
		RAISE EXCEPTION 'this session holds no lock, and lock % is needed', quote_literal(wanted)
			USING ERRCODE = 'insufficient_privilege',
			      HINT = 'Run under kahu exec, with PGOPTIONS="-c kahu.lock=$KAHU_LOCK -c kahu.token=$KAHU_FENCING_TOKEN".';
	END IF;
	IF held IS DISTINCT FROM wanted THEN
		RAISE EXCEPTION 'this session holds lock %, and lock % is needed', quote_literal(held), quote_literal(wanted)
			USING ERRCODE = 'insufficient_privilege';
	END IF;
	IF tok !~ '^[0-9]{1,18}$' THEN
		RAISE EXCEPTION 'kahu.token is %, and no fencing token', quote_literal(tok)
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN tok::bigint;
END
$$;

CREATE OR REPLACE FUNCTION kahu.refuse(lock text, mine bigint, seen bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	-- A class of its own, so that clients can tell it from everything else.
	RAISE EXCEPTION 'stale fencing token % of lock %: token % was seen', mine, quote_literal(lock), seen
		USING ERRCODE = 'KF001',
		      HINT = 'Another holds the lock now. Stop: nothing of this transaction was kept.';
END
$$;

-- Raises the fence to a token, or refuses it. The row stays locked until the
-- transaction ends.
CREATE OR REPLACE FUNCTION kahu.raise_fence(wanted text, mine bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	seen bigint;
BEGIN
	INSERT INTO kahu.fence AS f (lock, token) VALUES (wanted, mine)
		ON CONFLICT (lock) DO NOTHING;
	SELECT f.token INTO STRICT seen FROM kahu.fence f WHERE f.lock = wanted FOR UPDATE;
	IF seen > mine THEN
		PERFORM kahu.refuse(wanted, mine, seen);
	ELSIF seen < mine THEN
		UPDATE kahu.fence f SET token = mine, entered_at = clock_timestamp() WHERE f.lock = wanted;
	END IF;
END
$$;

-- Shuts out every lower token, before anything is read.
CREATE OR REPLACE PROCEDURE kahu.enter()
LANGUAGE plpgsql AS $$
DECLARE
	held text := current_setting('kahu.lock', true);
BEGIN
	PERFORM kahu.raise_fence(held, kahu.session_token(held));
END
$$;

-- Early: at each statement, without waiting for anybody.
CREATE OR REPLACE FUNCTION kahu.check_statement() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	wanted text := TG_ARGV[0];
	mine   bigint := kahu.session_token(wanted);
	seen   bigint;
BEGIN
	IF TG_OP = 'TRUNCATE' THEN -- there is no row whose commit could be checked
		PERFORM kahu.raise_fence(wanted, mine);
		RETURN NULL;
	END IF;
	SELECT f.token INTO seen FROM kahu.fence f WHERE f.lock = wanted;
	IF seen > mine THEN
		PERFORM kahu.refuse(wanted, mine, seen);
	END IF;
	RETURN NULL;
END
$$;

-- Late: when the transaction commits, once for each lock.
CREATE OR REPLACE FUNCTION kahu.check_commit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	wanted text := TG_ARGV[0];
	mine   bigint := kahu.session_token(wanted);
	done   text := txid_current() || ':' || mine || ':' || wanted;
BEGIN
	IF current_setting('kahu.checked', true) IS DISTINCT FROM done THEN
		PERFORM kahu.raise_fence(wanted, mine);
		PERFORM set_config('kahu.checked', done, true);
	END IF;
	RETURN NULL;
END
$$;

-- Makes a table refuse changes without the newest token of a lock.
CREATE OR REPLACE FUNCTION kahu.protect(relation regclass, lock text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF length(lock) = 0 THEN
		RAISE EXCEPTION 'a lock has a name' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM kahu.unprotect(relation);
	EXECUTE format('CREATE TRIGGER kahu_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION kahu.check_statement(%L)', relation, lock);
	EXECUTE format('CREATE CONSTRAINT TRIGGER kahu_commit AFTER INSERT OR UPDATE OR DELETE ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION kahu.check_commit(%L)', relation, lock);
	-- Also for rows that replication applies or that a session tries to smuggle
	-- past with session_replication_role.
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER kahu_statement', relation);
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER kahu_commit', relation);
	INSERT INTO kahu.protected VALUES (relation, lock);
END
$$;

-- Protects every table that a schema has now.
CREATE OR REPLACE FUNCTION kahu.protect_schema(schema regnamespace, lock text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
	found bigint := 0;
	r     regclass;
BEGIN
	FOR r IN SELECT c.oid::regclass FROM pg_catalog.pg_class c
		WHERE c.relnamespace = schema AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.oid
	LOOP
		PERFORM kahu.protect(r, lock);
		found := found + 1;
	END LOOP;
	RETURN found;
END
$$;

CREATE OR REPLACE FUNCTION kahu.unprotect(relation regclass) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('DROP TRIGGER IF EXISTS kahu_statement ON %s', relation);
	EXECUTE format('DROP TRIGGER IF EXISTS kahu_commit ON %s', relation);
	DELETE FROM kahu.protected p WHERE p.relation = unprotect.relation;
END
$$;

-- Who may write to protected tables needs no more than this; the fence itself is
-- out of reach for everybody but the role that installed it.
REVOKE ALL ON ALL TABLES IN SCHEMA kahu FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA kahu FROM PUBLIC;
GRANT USAGE ON SCHEMA kahu TO kahu_writer;
GRANT SELECT ON kahu.fence, kahu.protected TO kahu_writer;
GRANT EXECUTE ON FUNCTION kahu.session_token(text), kahu.refuse(text, bigint, bigint), kahu.raise_fence(text, bigint) TO kahu_writer;
GRANT EXECUTE ON PROCEDURE kahu.enter() TO kahu_writer;

COMMIT;
