-- The doorbell: a NOTIFY without a payload, and not even that while a hub is
-- awake. A notifying commit holds a lock of the whole cluster through its flush,
-- so a busy table must hardly ever notify.

-- Two memory cells: until when a hub has promised to look by itself (ms since
-- 1970, server clock), and which. Sequences, because reading and setting one takes
-- no part in any transaction: a writer sees the value of this very moment.
-- UNLOGGED: setting them writes no WAL and takes no transaction id, and a crash
-- resets them to "nobody is awake".
--
--   awake_until   awake_hub
--   later         its number   it looks, and numbers; all others leave it to it
--   0             its number   it took its promise back and waits for stragglers
--   0             0            all sleep
--   past          its number   it died, or hangs, while it was awake
CREATE UNLOGGED SEQUENCE bellwether.awake_until AS bigint MINVALUE 0 START 0;
CREATE UNLOGGED SEQUENCE bellwether.awake_hub AS bigint MINVALUE 0 START 0;

-- The server's clock, in ms since 1970.
CREATE FUNCTION bellwether.now_ms() RETURNS bigint
LANGUAGE sql VOLATILE
RETURN (date_part('epoch', clock_timestamp()) * 1000)::bigint;

-- Whether a notification does no harm. The cluster's queue of them grows while any
-- session that listens is inside a transaction, and once it is full, every commit that
-- notifies fails. At half of it we stop: hubs find events without being called, too.
CREATE FUNCTION bellwether.can_notify() RETURNS boolean
LANGUAGE sql VOLATILE
RETURN pg_notification_queue_usage() < 0.5;

-- Notifies all hubs, if that does no harm.
CREATE FUNCTION bellwether.notify(payload text) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF bellwether.can_notify() THEN
        PERFORM pg_notify('bellwether', payload);
    END IF;
END $$;

-- Whether a hub has promised to look. Short enough to be inlined.
CREATE FUNCTION bellwether.is_awake() RETURNS boolean
LANGUAGE sql VOLATILE
RETURN coalesce(pg_sequence_last_value('bellwether.awake_until'), 0) >= bellwether.now_ms();

-- Wakes a hub, unless one is awake. To be called after the event's row is in:
-- by then the transaction has its id, and `lapse` relies on that.
--
-- `SET LOCAL bellwether.doorbell = off` silences it: a transaction that is to be
-- prepared (two-phase commit) must not notify. Its events then wait for whoever
-- looks next, at the latest for the safety poll.
--
-- No settings of its own, which would cost the writer: the functions that call it
-- have them.
CREATE FUNCTION bellwether.ring() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT bellwether.is_awake() AND current_setting('bellwether.doorbell', true) IS DISTINCT FROM 'off' THEN
        PERFORM bellwether.notify('');
    END IF;
END $$;

-- Promises that `hub` will look for the next `promise_ms`, unless another has
-- promised already; with 0, promises nothing and only tells. Returns how things
-- stand: `me`, `other`, `lapsing` (another waits for stragglers), `abandoned`
-- (somebody's promise ran out) or `nobody`.
CREATE FUNCTION bellwether.promise(hub bigint, promise_ms integer) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_ms CONSTANT bigint := bellwether.now_ms();
    holder bigint := coalesce(pg_sequence_last_value('bellwether.awake_hub'), 0);
    until_ms bigint := coalesce(pg_sequence_last_value('bellwether.awake_until'), 0);
BEGIN
    IF promise_ms > 0 AND holder <> hub AND until_ms < now_ms THEN
        -- One claims it at a time. Who hears the same bell finds it claimed.
        PERFORM pg_advisory_xact_lock(hashtextextended('bellwether.advance', 0));
        until_ms := coalesce(pg_sequence_last_value('bellwether.awake_until'), 0);
        IF until_ms < now_ms THEN
            PERFORM setval('bellwether.awake_hub', hub);
            holder := hub;
        END IF;
    END IF;
    IF holder <> hub AND until_ms >= now_ms THEN
        RETURN 'other';
    ELSIF promise_ms > 0 THEN
        -- Renewed only once half of it is gone: a hub promises with every look.
        IF until_ms < now_ms + promise_ms / 2 THEN
            PERFORM setval('bellwether.awake_until', now_ms + promise_ms);
        END IF;
        RETURN 'me';
    ELSIF holder = hub THEN
        RETURN 'me';
    ELSIF until_ms <> 0 THEN
        -- Past, and not taken back: whosever it was, somebody may have relied on it.
        RETURN 'abandoned';
    ELSIF holder = 0 THEN
        RETURN 'nobody';
    ELSE
        RETURN 'lapsing';
    END IF;
END $$;

-- Takes the promise back: from now on writers ring. Returns the fence, and whether all below it
-- have ended already, so that there will be nothing to wait for after the next look: then this
-- is `sleep`, too.
--
-- A writer that still saw the promise had its transaction id before it looked at
-- the cell, hence a smaller one than the fence, which is drawn after the cell was
-- cleared. Whoever goes on looking until all below the fence have ended therefore
-- misses nobody. A snapshot's xmax would not do: it is one more than the newest
-- transaction that has *ended*, and says nothing of those that run beyond it.
--
-- If another hub has taken over meanwhile, this takes that one's promise back,
-- which costs a ring and no more: it promises anew with its next look.
CREATE FUNCTION bellwether.lapse(hub bigint, OUT fence bigint, OUT is_asleep boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM setval('bellwether.awake_until', 0);
    fence := pg_current_xact_id()::text::bigint;
    is_asleep := pg_snapshot_xmin(pg_current_snapshot())::text::bigint = fence
        AND pg_try_advisory_xact_lock(hashtextextended('bellwether.advance', 0));
    IF is_asleep AND pg_sequence_last_value('bellwether.awake_hub') = hub THEN
        PERFORM setval('bellwether.awake_hub', 0);
    END IF;
END $$;

-- Says that the stragglers have come in, too. With the lock, so as not to wipe out
-- the number of a hub that claims the promise at the same moment.
CREATE FUNCTION bellwether.sleep(hub bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('bellwether.advance', 0));
    IF pg_sequence_last_value('bellwether.awake_hub') = hub THEN
        PERFORM setval('bellwether.awake_hub', 0);
    END IF;
END $$;

-- How many hubs are connected, dead ones excepted: each listener holds this lock in
-- shared mode. Ask for the lock's number here, so that both mean the same.
CREATE FUNCTION bellwether.hub_lock() RETURNS bigint
LANGUAGE sql IMMUTABLE RETURN hashtextextended('bellwether.hub', 0);

CREATE FUNCTION bellwether.count_hubs() RETURNS bigint
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT count(*) FROM pg_locks
    WHERE pg_locks.locktype = 'advisory' AND pg_locks.mode = 'ShareLock' AND pg_locks.granted
        AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (pg_locks.classid::bigint << 32 | pg_locks.objid::bigint) = bellwether.hub_lock();
END;
