-- The locks of dlock in PostgreSQL 13 or newer: the schema `dlock`, version 2.
--
-- Run it as the owner of the database, or as a role that may create a schema in it. It may be run
-- again, and it brings an older version up to date. The first time, give each role that uses locks
-- the right to:
--
--     GRANT USAGE ON SCHEMA dlock TO app;
--     GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app;
--
-- No role needs a right to the tables themselves. Times are microseconds since 1970 on the server's
-- clock.
--
-- Functions with SECURITY DEFINER set the search path. Those that only they call do not: setting it
-- takes longer than most of them, and the server would not expand `now_us` where it is called.

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
  sequence bigint NOT NULL,  -- of the last extend; -1: handed to a waiter that has not claimed it
  holder text NOT NULL
);
REVOKE ALL ON dlock.locks FROM PUBLIC;

-- Those who wait, in their order. All changes of a key's queue are made under the lock of the key's
-- row. After a crash the table is empty, and the waiters queue again: so nothing here waits for the
-- disk or for a standby.
CREATE UNLOGGED TABLE IF NOT EXISTS dlock.waiters (
  key text COLLATE "C" NOT NULL,
  owner text COLLATE "C" NOT NULL,
  process text COLLATE "C" NOT NULL,
  place bigint NOT NULL,
  handed boolean NOT NULL,  -- the lock was handed to it, so it is in the queue no more
  holder text NOT NULL,
  PRIMARY KEY (owner, key)
);
-- Even with IF NOT EXISTS, to create an index waits for all who write to the table, and keeps
-- others from it meanwhile.
DO $$
BEGIN
  IF to_regclass('dlock.waiters_in_order') IS NULL THEN
    CREATE INDEX waiters_in_order ON dlock.waiters (key, place);
    CREATE INDEX waiters_of_process ON dlock.waiters (process);
  END IF;
END $$;
REVOKE ALL ON dlock.waiters FROM PUBLIC;

-- The processes that have waiters.
CREATE UNLOGGED TABLE IF NOT EXISTS dlock.processes (
  process text COLLATE "C" PRIMARY KEY,
  backend int NOT NULL,  -- that of its connection which listens; 0 if none does
  alive_until bigint NOT NULL  -- unless its heart beats again
);
REVOKE ALL ON dlock.processes FROM PUBLIC;

-- Functions of older versions, with other parameters or another result.
DROP FUNCTION IF EXISTS dlock.acquire(text, text, bigint, text, bigint, bigint);
DROP FUNCTION IF EXISTS dlock.prepare(bigint);
DROP FUNCTION IF EXISTS dlock.free(dlock.locks, bigint);

CREATE OR REPLACE FUNCTION dlock.now_us() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- What a new connection asks.
CREATE OR REPLACE FUNCTION dlock.hello(OUT version int, OUT now_us bigint, OUT read_only boolean)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT 2, dlock.now_us(),
    pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean
$$;

-- Before a write that must not be lost, and that may wait for a row for so many milliseconds.
-- Without a limit, the server would go on waiting for a client that has given up. This is called in
-- an assignment, which is evaluated at once; PERFORM would make it a query.
CREATE OR REPLACE FUNCTION dlock.limit_wait(a_wait_ms bigint) RETURNS text
LANGUAGE sql VOLATILE AS $$
  SELECT set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true)
    -- Otherwise a grant could be forgotten if the server crashes.
    || CASE current_setting('synchronous_commit')
         WHEN 'off' THEN set_config('synchronous_commit', 'local', true) ELSE '' END
    -- A warning says that no standby has confirmed it.
    || CASE current_setting('client_min_messages')
         WHEN 'error' THEN set_config('client_min_messages', 'warning', true) ELSE '' END
$$;

-- Deletes some of the rows that were not used for 7 days: of the next few in the order of keys,
-- after the last of all the first. Each new row looks at more rows than one, so their number stays
-- in proportion to the locks in use.
CREATE OR REPLACE FUNCTION dlock.sweep(a_after text, a_now bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
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

-- Whether a process can still claim what is handed to it. The end of its connection shows at once
-- that it was killed; a lost network or a stopped process shows by the heartbeats.
CREATE OR REPLACE FUNCTION dlock.is_alive(a_process text, a_now bigint) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
  SELECT EXISTS (
    SELECT FROM dlock.processes p
    WHERE p.process = a_process AND p.alive_until > a_now
      AND (p.backend = 0 OR EXISTS (SELECT FROM pg_stat_get_activity(p.backend))))
$$;

-- The number of a connection's backend, or 0 if that has ended.
CREATE OR REPLACE FUNCTION dlock.still_open(a_backend int) RETURNS int
LANGUAGE sql VOLATILE AS $$
  SELECT CASE WHEN EXISTS (SELECT FROM pg_stat_get_activity(a_backend))
    THEN a_backend ELSE 0 END
$$;

-- Hands a lock that is free to the first waiter that is alive, unless that is `a_claimant`, who is
-- here. Returns whether it was handed to one. Takes the dead before it off the queue. The caller
-- has locked the row `l`, and has read the clock after that.
--
-- The waiter must claim the lock within 1.2 s, which is longer than the time between two
-- heartbeats. To claim it is to repeat a claim that was granted. It could not claim it while
-- another transaction has locked the row, as `dlock.check` does: its turn would be over, and the
-- lock would go round the queue. So the lock stays free then, and the waiter's process looks for
-- the end of that transaction. A caller that has locked the row FOR UPDATE is not affected.
CREATE OR REPLACE FUNCTION dlock.hand_over(l dlock.locks, a_now bigint, a_claimant text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  w dlock.waiters;
  v_can_claim boolean;
BEGIN
  FOR w IN
    SELECT * FROM dlock.waiters t WHERE t.key = l.key AND NOT t.handed ORDER BY t.place
  LOOP
    IF w.owner = a_claimant THEN
      RETURN false;
    ELSIF dlock.is_alive(w.process, a_now) THEN
      PERFORM FROM dlock.locks t WHERE t.key = l.key FOR UPDATE SKIP LOCKED;
      v_can_claim := FOUND;
      IF v_can_claim THEN
        UPDATE dlock.locks t
          SET owner = w.owner, fence = greatest(l.fence + 1, a_now), expires_at = a_now + 1200000,
            sequence = -1, holder = w.holder
          WHERE t.key = l.key;
        UPDATE dlock.waiters t SET handed = true WHERE t.owner = w.owner AND t.key = w.key;
      END IF;
      -- Commits that notify somebody come one after the other. The owner is a secret, so the
      -- message has a part of it. A message without one leads to a heartbeat.
      IF EXISTS (SELECT FROM dlock.processes p WHERE p.process = w.process AND p.backend <> 0) THEN
        PERFORM pg_notify('dlock_' || w.process,
          CASE WHEN v_can_claim THEN left(w.owner, 16) ELSE '' END);
      END IF;
      RETURN v_can_claim;
    END IF;
    DELETE FROM dlock.waiters t WHERE t.owner = w.owner AND t.key = w.key;
  END LOOP;
  RETURN false;
END $$;

-- Frees a key: its next holder is the first waiter, or nobody. The caller has locked the row `l`.
-- Returns true.
CREATE OR REPLACE FUNCTION dlock.free(l dlock.locks, a_now bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_for_nobody boolean := false;
BEGIN
  LOOP
    UPDATE dlock.locks t SET owner = NULL, expires_at = a_now, holder = ''
      WHERE t.key = l.key AND (v_for_nobody OR NOT EXISTS (
        SELECT FROM dlock.waiters w WHERE w.key = l.key AND NOT w.handed));
    IF FOUND OR dlock.hand_over(l, a_now, NULL) THEN
      RETURN true;
    END IF;
    -- Those who waited are dead, or the first of them cannot claim it yet.
    v_for_nobody := true;
  END LOOP;
END $$;

-- Whether an owner is the next in the queue; null if it is not in the queue.
CREATE OR REPLACE FUNCTION dlock.is_next(a_key text, a_owner text) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
  SELECT NOT EXISTS (
    SELECT FROM dlock.waiters t WHERE t.key = a_key AND t.place < w.place AND NOT t.handed)
  FROM dlock.waiters w WHERE w.owner = a_owner AND w.key = a_key AND NOT w.handed
$$;

-- Deletes some of the processes that ended hours ago, and what they have left in the queues. It
-- waits for nobody: its caller has locked a key's row or a process's.
CREATE OR REPLACE FUNCTION dlock.forget(a_now bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_gone text[];
BEGIN
  v_gone := ARRAY(
    SELECT p.process FROM dlock.processes p WHERE p.alive_until < a_now - 3600000000
    LIMIT 16 FOR UPDATE SKIP LOCKED);
  IF cardinality(v_gone) > 0 THEN
    DELETE FROM dlock.waiters d WHERE (d.owner, d.key) IN (
      SELECT w.owner, w.key FROM dlock.waiters w WHERE w.process = ANY (v_gone)
      FOR UPDATE SKIP LOCKED);
    DELETE FROM dlock.processes d
      WHERE d.process = ANY (v_gone)
        AND NOT EXISTS (SELECT FROM dlock.waiters w WHERE w.process = d.process);
  END IF;
END $$;

-- Puts an owner at the end of the queue, unless it is there. Returns whether it is the next. The
-- caller has locked the key's row.
CREATE OR REPLACE FUNCTION dlock.enter(
  a_key text, a_owner text, a_process text, a_holder text, a_now bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  -- One that was handed the lock and missed its turn comes again.
  DELETE FROM dlock.waiters t WHERE t.owner = a_owner AND t.key = a_key AND t.handed;
  INSERT INTO dlock.waiters
    SELECT a_key, a_owner, a_process,
      -- In the order of coming also when the clock was set back.
      greatest(a_now, (SELECT max(t.place) + 1 FROM dlock.waiters t WHERE t.key = a_key)),
      false, a_holder
    ON CONFLICT DO NOTHING;
  -- Each new row looks for more rows than one to delete, so their number stays in proportion to the
  -- processes that wait.
  IF NOT EXISTS (SELECT FROM dlock.processes p WHERE p.process = a_process) THEN
    PERFORM dlock.forget(a_now);
  END IF;
  INSERT INTO dlock.processes AS p VALUES (a_process, 0, a_now + 3000000)
    ON CONFLICT (process) DO UPDATE
      SET backend = dlock.still_open(p.backend), alive_until = excluded.alive_until
      WHERE p.alive_until < a_now + 1000000 OR p.backend <> dlock.still_open(p.backend);
  -- What is lost with the queue need not be on disk.
  PERFORM set_config('synchronous_commit', 'off', true);
  RETURN dlock.is_next(a_key, a_owner);
END $$;

-- o_outcome: 0 refused, 1 granted, 2 too late, 3 refused and queued, 4 the same and the next.
--
-- Only a claim with a process is queued.
CREATE OR REPLACE FUNCTION dlock.acquire(
  a_key text, a_owner text, a_ttl bigint, a_holder text, a_not_after bigint, a_wait_ms bigint,
  a_process text,
  OUT o_outcome int, OUT o_now bigint, OUT o_fence bigint, OUT o_left bigint, OUT o_holder text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
  v_next boolean;
  v_set text;
BEGIN
  v_set := dlock.limit_wait(a_wait_ms);
  LOOP
    o_now := dlock.now_us();
    IF o_now >= a_not_after THEN
      o_outcome := 2;
      RETURN;
    END IF;
    -- A row that somebody holds is not locked, and a refusal writes nothing.
    --
    -- Not FOR NO KEY UPDATE: a transaction in which `dlock.check` has approved the holder's token
    -- ends before anybody else gets the lock.
    SELECT * INTO l FROM dlock.locks t
      WHERE t.key = a_key AND (t.owner IS NULL OR t.owner = a_owner OR t.expires_at <= o_now)
      FOR UPDATE;
    EXIT WHEN FOUND;

    SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key;
    IF NOT FOUND THEN
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
      CONTINUE;
    END IF;

    o_now := dlock.now_us();
    CONTINUE WHEN l.owner IS NULL OR l.owner = a_owner OR l.expires_at <= o_now;
    IF a_process IS NOT NULL THEN
      v_next := dlock.is_next(a_key, a_owner);
      IF v_next IS NULL THEN
        BEGIN
          -- The first time it waits. The row is locked against a release, which must not miss it,
          -- and not against `dlock.check`.
          SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key FOR NO KEY UPDATE;
          o_now := dlock.now_us();
          IF o_now >= a_not_after THEN
            o_outcome := 2;
            RETURN;
          ELSIF l.owner IS NULL OR l.owner = a_owner OR l.expires_at <= o_now THEN
            RAISE EXCEPTION USING ERRCODE = 'DL003';
          END IF;
          v_next := dlock.enter(a_key, a_owner, a_process, a_holder, o_now);
        EXCEPTION WHEN SQLSTATE 'DL003' THEN
          -- This lock is given back, before the row is locked FOR UPDATE. A transaction that has
          -- locked it in both modes, while another one had it FOR KEY SHARE, would leave a grant
          -- that PostgreSQL does not hold against a `dlock.check` with an older snapshot: that
          -- would approve the token of before.
          CONTINUE;
        END;
      ELSE
        -- A process that has no connection for heartbeats is kept alive by its waiters' claims. The
        -- number of one that it has lost, and cannot replace, would make it seem dead all the same.
        UPDATE dlock.processes p
          SET backend = dlock.still_open(p.backend), alive_until = o_now + 3000000
          WHERE p.process = a_process
            AND (p.alive_until < o_now + 1200000 OR p.backend <> dlock.still_open(p.backend));
        IF FOUND THEN
          PERFORM set_config('synchronous_commit', 'off', true);
        END IF;
      END IF;
    END IF;
    o_outcome := CASE v_next WHEN true THEN 4 WHEN false THEN 3 ELSE 0 END;
    o_fence := l.fence;
    o_left := l.expires_at - o_now;
    o_holder := l.holder;
    RETURN;
  END LOOP;

  -- The time before the wait for the row says nothing any more.
  o_now := dlock.now_us();
  IF o_now >= a_not_after THEN
    o_outcome := 2;
    RETURN;
  ELSIF l.owner = a_owner AND l.sequence < 0 THEN
    -- It was handed to it. If it is late, nobody has got the lock meanwhile.
    o_outcome := 1;
    o_fence := l.fence;
    o_left := a_ttl;
    UPDATE dlock.locks t SET expires_at = o_now + a_ttl, sequence = 0, holder = a_holder
      WHERE t.key = a_key;
    DELETE FROM dlock.waiters t WHERE t.owner = a_owner AND t.key = a_key;
    RETURN;
  ELSIF l.owner = a_owner AND l.expires_at > o_now THEN
    -- Again. The holder's text and the sequence are those of a later extend, perhaps.
    o_outcome := 1;
    o_fence := l.fence;
    o_left := greatest(l.expires_at - o_now, a_ttl);
    UPDATE dlock.locks t SET expires_at = o_now + o_left WHERE t.key = a_key;
    RETURN;
  ELSIF l.owner IS NULL OR l.expires_at <= o_now THEN
    o_outcome := 1;
    o_fence := greatest(l.fence + 1, o_now);
    o_left := a_ttl;
    v_next := false;
    LOOP
      -- Nobody overtakes those who wait.
      UPDATE dlock.locks t
        SET owner = a_owner, fence = o_fence, expires_at = o_now + a_ttl, sequence = 0,
          holder = a_holder
        WHERE t.key = a_key AND (v_next OR NOT EXISTS (
          SELECT FROM dlock.waiters w
          WHERE w.key = a_key AND w.owner <> a_owner AND NOT w.handed));
      IF FOUND THEN
        IF a_process IS NOT NULL THEN
          DELETE FROM dlock.waiters t WHERE t.owner = a_owner AND t.key = a_key;
        END IF;
        RETURN;
      END IF;
      EXIT WHEN dlock.hand_over(l, o_now, a_owner);
      v_next := true;
    END LOOP;
    SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key;
  END IF;

  o_outcome := 0;
  o_fence := l.fence;
  o_left := l.expires_at - o_now;
  o_holder := l.holder;
  IF a_process IS NOT NULL THEN
    v_next := dlock.enter(a_key, a_owner, a_process, a_holder, o_now);
    o_outcome := CASE WHEN v_next THEN 4 ELSE 3 END;
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
  v_set text;
BEGIN
  v_set := dlock.limit_wait(a_wait_ms);
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
  v_set text;
BEGIN
  v_set := set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true);
  SELECT * INTO l FROM dlock.locks t WHERE t.key = a_key AND t.owner = a_owner FOR NO KEY UPDATE;
  v_now := dlock.now_us();
  IF NOT FOUND OR l.expires_at <= v_now THEN
    RETURN false;
  END IF;
  RETURN dlock.free(l, v_now);
END $$;

-- Takes an owner off the queue, and frees the key if its claim holds it, after the end of the
-- claim's call. The claim may have been carried out and not be committed yet, when a read does not
-- show it. So this waits for the row in any case; and if there is none, it inserts one, which waits
-- for an insert of the claim.
CREATE OR REPLACE FUNCTION dlock.abandon(a_key text, a_owner text, a_wait_ms bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
  v_now bigint;
  v_set text;
BEGIN
  v_set := set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true);
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
  DELETE FROM dlock.waiters t WHERE t.owner = a_owner AND t.key = a_key;
  v_now := dlock.now_us();
  IF l.owner IS DISTINCT FROM a_owner OR l.expires_at <= v_now THEN
    RETURN false;
  END IF;
  RETURN dlock.free(l, v_now);
END $$;

-- Takes a waiter that gave up off the queue. If the lock was handed to it, the next one gets it.
CREATE OR REPLACE FUNCTION dlock.leave(a_owner text, a_wait_ms bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l dlock.locks;
  v_key text;
  v_now bigint;
BEGIN
  SELECT t.key INTO v_key FROM dlock.waiters t WHERE t.owner = a_owner;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true);
  PERFORM set_config('synchronous_commit', 'off', true);
  SELECT * INTO l FROM dlock.locks t WHERE t.key = v_key FOR NO KEY UPDATE;
  DELETE FROM dlock.waiters t WHERE t.owner = a_owner AND t.key = v_key;
  v_now := dlock.now_us();
  IF l.owner = a_owner AND l.sequence < 0 AND l.expires_at > v_now THEN
    RETURN dlock.free(l, v_now);
  END IF;
  RETURN false;
END $$;

-- Keeps the waiters of a process in their queues. Hands the locks for which they wait over if these
-- are free, to the first in each queue. `a_listens`: this connection receives the process's
-- messages.
--
-- o_backend: the server's process that has run this. o_is_known: false if its waiters may have been
-- taken off their queues. o_next: when the next lock for which they wait is free, in µs from now,
-- if nobody extends it, or sooner if the row of a free one is locked. o_handed: the owners to which
-- locks were handed.
CREATE OR REPLACE FUNCTION dlock.heartbeat(
  a_process text, a_listens boolean,
  OUT o_backend int, OUT o_is_known boolean, OUT o_next bigint, OUT o_handed text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  k record;
  l dlock.locks;
  p dlock.processes;
  v_now bigint := dlock.now_us();
BEGIN
  o_backend := pg_backend_pid();
  PERFORM set_config('synchronous_commit', 'off', true);
  FOR k IN
    SELECT t.* FROM (SELECT DISTINCT w.key FROM dlock.waiters w WHERE w.process = a_process) w
    JOIN dlock.locks t ON t.key = w.key
  LOOP
    IF k.owner IS NULL OR k.expires_at <= v_now THEN
      -- Without waiting for the row. Nobody is handed a lock that a transaction has locked: in that
      -- `dlock.check` may have approved a token, and nobody could claim the lock before its end.
      SELECT * INTO l FROM dlock.locks t WHERE t.key = k.key FOR UPDATE SKIP LOCKED;
      IF NOT FOUND THEN
        IF EXISTS (
          SELECT FROM dlock.waiters w
          WHERE w.key = k.key AND w.process = a_process AND dlock.is_next(w.key, w.owner))
        THEN
          o_next := least(o_next, 50000);
        END IF;
      ELSIF l.owner IS NULL OR l.expires_at <= dlock.now_us() THEN
        PERFORM dlock.hand_over(l, dlock.now_us(), NULL);
      END IF;
    ELSE
      o_next := least(o_next, k.expires_at - v_now);
    END IF;
  END LOOP;
  o_handed := (
    SELECT string_agg(t.owner, ' ') FROM dlock.waiters t WHERE t.process = a_process AND t.handed);

  -- The last of all, so that nobody waits for the process's row while this waits.
  SELECT * INTO p FROM dlock.processes t WHERE t.process = a_process;
  -- If it is the number of another connection, one of before has come late with a heartbeat. That
  -- connection has ended, or soon will, and the process has seemed dead since.
  o_is_known := FOUND AND p.alive_until > v_now AND p.backend IN (0, o_backend);
  p.backend := CASE WHEN a_listens THEN o_backend ELSE 0 END;
  INSERT INTO dlock.processes AS t VALUES (a_process, p.backend, v_now + 3000000)
    ON CONFLICT (process) DO UPDATE
      SET backend = excluded.backend, alive_until = excluded.alive_until
      -- One that polls calls more often.
      WHERE t.backend <> excluded.backend OR t.alive_until < v_now + 2200000;
  IF NOT o_is_known THEN
    PERFORM dlock.forget(v_now);
  END IF;
END $$;

-- How many wait for a key.
CREATE OR REPLACE FUNCTION dlock.waiting(a_key text) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) FROM dlock.waiters t, (SELECT dlock.now_us() AS now OFFSET 0) n
  WHERE t.key = a_key AND NOT t.handed AND dlock.is_alive(t.process, n.now)
$$;

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
  v_set text;
BEGIN
  v_set := set_config('lock_timeout', greatest(a_wait_ms, 1)::text, true);
  SELECT * INTO l FROM dlock.locks t
    WHERE t.key = a_key AND t.fence = a_fence AND t.owner IS NOT NULL FOR NO KEY UPDATE;
  v_now := dlock.now_us();
  IF NOT FOUND OR l.expires_at <= v_now THEN
    RETURN false;
  END IF;
  RETURN dlock.free(l, v_now);
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

-- A role that could use an older version can use this one.
DO $$
DECLARE
  v_role text;
BEGIN
  FOR v_role IN
    SELECT a.grantee::regrole::text
    FROM pg_proc f, aclexplode(f.proacl) a
    WHERE f.oid = 'dlock.hello()'::regprocedure
      AND a.privilege_type = 'EXECUTE' AND a.grantee NOT IN (0, f.proowner)
  LOOP
    EXECUTE 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO ' || v_role;
  END LOOP;
END $$;

COMMIT;
