-- The locks of dlock in PostgreSQL 13 or newer: the schema `dlock`, version 1.
--
-- Run it as the owner of the database, or as a role that may create a schema in it. It may be run
-- again. Then give each role that uses locks the right to:
--
--     GRANT USAGE ON SCHEMA dlock TO app;
--     GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app;
--
-- No role needs a right to the table itself. Times are microseconds since 1970 on the server's
-- clock.

BEGIN;

-- Two may run this at a time.
SELECT pg_advisory_xact_lock(hashtext('dlock migration'));

CREATE SCHEMA IF NOT EXISTS dlock;

-- A row stays after a release, so that fencing tokens rise through it. No index may cover a column
-- that changes: then every update would write to the index as well.
CREATE TABLE IF NOT EXISTS dlock.locks (
  key text COLLATE "C" PRIMARY KEY,
  owner text COLLATE "C",  -- null after a release
  fence bigint NOT NULL,
  expires_at bigint NOT NULL,  -- after a release: when that was
  sequence bigint NOT NULL,  -- of the last extend
  holder text NOT NULL
);
REVOKE ALL ON dlock.locks FROM PUBLIC;

CREATE OR REPLACE FUNCTION dlock.now_us() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- What a new connection asks.
CREATE OR REPLACE FUNCTION dlock.hello(OUT version int, OUT now_us bigint, OUT read_only boolean)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT 1, dlock.now_us(),
    pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean
$$;

-- Before a write that must not be lost, and that may wait for a row for so many milliseconds.
-- Without a limit, the server would go on waiting for a client that has given up.
CREATE OR REPLACE FUNCTION dlock.prepare(a_wait_ms bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true);
  -- Otherwise a grant could be forgotten if the server crashes.
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'local', true);
  END IF;
END $$;

-- Deletes some of the rows that were not used for 7 days: of the next few in the order of keys,
-- after the last of all the first. Each new row looks at more rows than one, so their number stays
-- in proportion to the locks in use.
CREATE OR REPLACE FUNCTION dlock.sweep(a_after text, a_now bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_old CONSTANT bigint := a_now - 7 * 86400000000;
  v_keys text[];
BEGIN
  v_keys := ARRAY(SELECT l.key FROM dlock.locks l WHERE l.key > a_after ORDER BY l.key LIMIT 8);
  IF cardinality(v_keys) < 8 THEN
    v_keys := v_keys || ARRAY(SELECT l.key FROM dlock.locks l ORDER BY l.key LIMIT 8);
  END IF;
  DELETE FROM dlock.locks d WHERE d.key IN (
    SELECT l.key FROM dlock.locks l
    WHERE l.key = ANY (v_keys) AND l.expires_at < v_old
    FOR UPDATE SKIP LOCKED);
END $$;

-- o_outcome: 0 refused, 1 granted, 2 too late.
CREATE OR REPLACE FUNCTION dlock.acquire(
  a_key text, a_owner text, a_ttl bigint, a_holder text, a_not_after bigint, a_wait_ms bigint,
  OUT o_outcome int, OUT o_now bigint, OUT o_fence bigint, OUT o_left bigint, OUT o_holder text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
BEGIN
  o_now := dlock.now_us();
  IF o_now >= a_not_after THEN
    o_outcome := 2;
    RETURN;
  END IF;
  -- A refusal reads, and neither locks the row nor writes.
  SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key;
  IF l.owner <> a_owner AND l.expires_at > o_now THEN
    o_outcome := 0;
    o_fence := l.fence;
    o_left := l.expires_at - o_now;
    o_holder := l.holder;
    RETURN;
  END IF;

  PERFORM dlock.prepare(a_wait_ms);
  LOOP
    -- Not FOR NO KEY UPDATE: a transaction in which `dlock.check` has approved the holder's token
    -- ends before anybody else gets the lock.
    SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key FOR UPDATE;
    EXIT WHEN FOUND;
    o_now := dlock.now_us();
    INSERT INTO dlock.locks VALUES (a_key, a_owner, o_now, o_now + a_ttl, 0, a_holder)
      ON CONFLICT DO NOTHING;
    IF FOUND THEN
      o_outcome := 1;
      o_fence := o_now;
      o_left := a_ttl;
      PERFORM dlock.sweep(a_key, o_now);
      -- The insert may have waited for another, which was rolled back.
      IF dlock.now_us() >= a_not_after THEN
        RAISE EXCEPTION 'the claim came too late' USING ERRCODE = 'DL002';
      END IF;
      RETURN;
    END IF;
  END LOOP;

  -- The time before the wait for the row says nothing any more.
  o_now := dlock.now_us();
  IF o_now >= a_not_after THEN
    o_outcome := 2;
  ELSIF l.owner = a_owner AND l.expires_at > o_now THEN
    -- Again. The holder's text and the sequence are those of a later extend, perhaps.
    o_outcome := 1;
    o_fence := l.fence;
    o_left := greatest(l.expires_at - o_now, a_ttl);
    UPDATE dlock.locks t SET expires_at = o_now + o_left WHERE t.key = a_key;
  ELSIF l.owner IS NOT NULL AND l.expires_at > o_now THEN
    o_outcome := 0;
    o_fence := l.fence;
    o_left := l.expires_at - o_now;
    o_holder := l.holder;
  ELSE
    o_outcome := 1;
    o_fence := greatest(l.fence + 1, o_now);
    o_left := a_ttl;
    UPDATE dlock.locks t
      SET owner = a_owner, fence = o_fence, expires_at = o_now + a_ttl, sequence = 0,
        holder = a_holder
      WHERE t.key = a_key;
  END IF;
END $$;

-- o_outcome: 0 lost, 1 extended, 2 too late.
CREATE OR REPLACE FUNCTION dlock.extend(
  a_key text, a_owner text, a_ttl bigint, a_holder text, a_sequence bigint, a_not_after bigint,
  a_wait_ms bigint,
  OUT o_outcome int, OUT o_now bigint, OUT o_left bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
BEGIN
  PERFORM dlock.prepare(a_wait_ms);
  -- First the row, then the clock: an UPDATE whose condition asks for the time asks before it waits
  -- for the row, and would revive a lease that ended meanwhile.
  SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key FOR NO KEY UPDATE;
  o_now := dlock.now_us();
  IF l.owner IS DISTINCT FROM a_owner OR l.expires_at <= o_now THEN
    o_outcome := 0;
  ELSIF o_now >= a_not_after THEN
    o_outcome := 2;
  ELSIF l.sequence >= a_sequence THEN
    o_outcome := 1;
    o_left := l.expires_at - o_now;
  ELSE
    o_outcome := 1;
    o_left := a_ttl;
    UPDATE dlock.locks t
      SET expires_at = o_now + a_ttl, sequence = a_sequence, holder = a_holder
      WHERE t.key = a_key;
  END IF;
END $$;

-- Returns whether the owner held the lock.
CREATE OR REPLACE FUNCTION dlock.release(a_key text, a_owner text, a_wait_ms bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
  v_now bigint;
BEGIN
  PERFORM set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true);
  SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key AND t.owner = a_owner FOR NO KEY UPDATE;
  v_now := dlock.now_us();
  IF NOT FOUND OR l.expires_at <= v_now THEN
    RETURN false;
  END IF;
  UPDATE dlock.locks t SET owner = NULL, expires_at = v_now, holder = '' WHERE t.key = a_key;
  RETURN true;
END $$;

-- Frees the key if the owner's claim holds it, after the end of the claim's call. The claim may have
-- been carried out and not be committed yet, when a read does not show it. So this waits for the row
-- whoever has it; and if there is none, it inserts one, which waits for an insert of the claim.
CREATE OR REPLACE FUNCTION dlock.abandon(a_key text, a_owner text, a_wait_ms bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
  v_now bigint;
BEGIN
  PERFORM set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true);
  LOOP
    SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key FOR NO KEY UPDATE;
    EXIT WHEN FOUND;
    v_now := dlock.now_us();
    INSERT INTO dlock.locks VALUES (a_key, NULL, v_now, v_now, 0, '') ON CONFLICT DO NOTHING;
    IF FOUND THEN
      PERFORM dlock.sweep(a_key, v_now);
      RETURN false;
    END IF;
  END LOOP;
  v_now := dlock.now_us();
  IF l.owner IS DISTINCT FROM a_owner OR l.expires_at <= v_now THEN
    RETURN false;
  END IF;
  UPDATE dlock.locks t SET owner = NULL, expires_at = v_now, holder = '' WHERE t.key = a_key;
  RETURN true;
END $$;

-- The holder of a key: no row if nobody holds it.
CREATE OR REPLACE FUNCTION dlock.holder(a_key text)
RETURNS TABLE (o_fence bigint, o_left bigint, o_holder text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT l.fence, l.expires_at - n.now, l.holder
  FROM dlock.locks l, (SELECT dlock.now_us() AS now OFFSET 0) n
  WHERE l.key = a_key AND l.owner IS NOT NULL AND l.expires_at > n.now
$$;

-- The keys that begin so and are held, in their order, from behind one of them on.
CREATE OR REPLACE FUNCTION dlock.held(a_prefix text, a_after text, a_most int)
RETURNS TABLE (o_key text, o_fence bigint, o_left bigint, o_holder text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT l.key, l.fence, l.expires_at - n.now, l.holder
  FROM dlock.locks l, (SELECT dlock.now_us() AS now OFFSET 0) n
  -- Keys are ASCII.
  WHERE l.key > a_after AND l.key >= a_prefix AND l.key < a_prefix || chr(127)
    AND l.owner IS NOT NULL AND l.expires_at > n.now
  ORDER BY l.key LIMIT a_most
$$;

-- Takes the lock from the holder with this token. Returns whether there was one.
CREATE OR REPLACE FUNCTION dlock.break(a_key text, a_fence bigint, a_wait_ms bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
  v_now bigint;
BEGIN
  PERFORM set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true);
  SELECT * INTO l FROM dlock.locks t
    WHERE t.key = a_key AND t.fence = a_fence AND t.owner IS NOT NULL FOR NO KEY UPDATE;
  v_now := dlock.now_us();
  IF NOT FOUND OR l.expires_at <= v_now THEN
    RETURN false;
  END IF;
  UPDATE dlock.locks t SET owner = NULL, expires_at = v_now, holder = '' WHERE t.key = a_key;
  RETURN true;
END $$;

-- For the transactions of a holder: fails unless the lock is held under this fencing token, and
-- lets nobody else get the lock before the transaction has ended.
CREATE OR REPLACE FUNCTION dlock.check(a_key text, a_fence bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
BEGIN
  -- FOR KEY SHARE: the holder can still extend and release.
  SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key FOR KEY SHARE;
  IF NOT FOUND OR l.owner IS NULL OR l.fence <> a_fence OR l.expires_at <= dlock.now_us() THEN
    RAISE EXCEPTION 'the lock % is not held under the fencing token %', a_key, a_fence
      USING ERRCODE = 'DL001';
  END IF;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA dlock FROM PUBLIC;

COMMIT;
