-- The doorbell: a NOTIFY without a payload, and not even that while a hub is
-- awake. A notifying commit holds a lock of the whole cluster through its flush,
-- so a busy table must hardly ever notify.

-- A memory cell: the time (ms since 1970, server clock) until which a hub has
-- promised to look by itself. A sequence, because reading and setting one takes
-- no part in any transaction: a writer sees the value of this very moment.
-- UNLOGGED: setting it writes no WAL and takes no transaction id, and a crash
-- resets it to "nobody is awake".
CREATE UNLOGGED SEQUENCE bellwether.awake_until AS bigint MINVALUE 0 START 0;

-- The server's clock, in ms since 1970.
CREATE FUNCTION bellwether.now_ms() RETURNS bigint
LANGUAGE sql VOLATILE
RETURN (date_part('epoch', clock_timestamp()) * 1000)::bigint;

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
    IF coalesce(pg_sequence_last_value('bellwether.awake_until'), 0) < bellwether.now_ms()
        AND current_setting('bellwether.doorbell', true) IS DISTINCT FROM 'off'
    THEN
        PERFORM pg_notify('bellwether', '');
    END IF;
END $$;

-- Promises to look for the next `promise_ms`. Renewed only once half of it is
-- gone, as a hub promises anew with every look.
CREATE FUNCTION bellwether.promise(promise_ms integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_ms bigint := bellwether.now_ms();
BEGIN
    IF coalesce(pg_sequence_last_value('bellwether.awake_until'), 0) < now_ms + promise_ms / 2 THEN
        PERFORM setval('bellwether.awake_until', now_ms + promise_ms);
    END IF;
END $$;

-- Takes the promise back: from now on writers ring. Returns the fence.
--
-- A writer that still saw the promise had its transaction id before it looked at
-- the cell, hence a smaller one than the fence, which is drawn after the cell was
-- cleared. Whoever goes on looking until all below the fence have ended therefore
-- misses nobody. A snapshot's xmax would not do: it is one more than the newest
-- transaction that has *ended*, and says nothing of those that run beyond it.
CREATE FUNCTION bellwether.lapse(OUT fence bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM setval('bellwether.awake_until', 0);
    fence := pg_current_xact_id()::text::bigint;
END $$;
