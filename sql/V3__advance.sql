-- Numbering: what has committed gets its place in the stream.

-- The events of transactions that have finished since `looked` was taken.
--
-- Finished since are: those that ran then and do not run now, and those that
-- began since and do not run now. The second set has no list, but what is left
-- out of it has: it is the span from the old xmax to the new one, cut at each
-- transaction that still runs. So every range below is over finished ones only,
-- each range is an index scan, and a bulk load that is still open costs nothing,
-- however many rows it has put in.
--
-- Must be inlined to see its caller's snapshot and to keep one plan: SQL, STABLE,
-- one SELECT, no settings of its own.
CREATE FUNCTION bellwether.unseen(looked pg_snapshot) RETURNS TABLE (id bigint, xid xid8, retain boolean)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH now AS (
        SELECT pg_current_snapshot() AS snapshot
    ), running AS (
        SELECT pg_snapshot_xip(now.snapshot) AS xid FROM now
    ), edge AS (
        -- Each running transaction ends one range and begins the next.
        SELECT pg_snapshot_xmax(looked) AS begins, NULL::xid8 AS ends
        UNION ALL
        SELECT (running.xid::text::bigint + 1)::text::xid8, running.xid
        FROM running WHERE running.xid >= pg_snapshot_xmax(looked)
        UNION ALL
        SELECT NULL, pg_snapshot_xmax(now.snapshot) FROM now
    ), span AS (
        -- Sorted by where they end (the first edge has no end and comes first),
        -- an edge's beginning belongs with the next edge's end.
        SELECT lag(edge.begins) OVER in_order AS begins, edge.ends
        FROM edge WINDOW in_order AS (ORDER BY edge.ends NULLS FIRST)
        UNION ALL
        SELECT was.xid, (was.xid::text::bigint + 1)::text::xid8
        FROM now, pg_snapshot_xip(looked) AS was (xid)
        WHERE pg_visible_in_snapshot(was.xid, now.snapshot)
    )
    SELECT event.id, event.xid, event.retain
    FROM span
    CROSS JOIN LATERAL (
        SELECT * FROM bellwether.event WHERE event.xid >= span.begins AND event.xid < span.ends
        OFFSET 0 -- for each range, and never the other way around
    ) AS event
    WHERE span.begins < span.ends;
END;

-- Brings `state` up to what was numbered after a place, up to another. Needs the lock of `advance`.
CREATE FUNCTION bellwether.keep_states(after_seq bigint, up_to bigint) RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    WITH newest AS MATERIALIZED (
        SELECT DISTINCT ON (event.topic)
            event.topic, event.seq, event.name, event.key, event.data, event.at, event.retain
        FROM bellwether.stretch(after_seq, up_to) AS event
        WHERE event.retain IS NOT NULL
        ORDER BY event.topic, event.seq DESC
    ), ended AS (
        DELETE FROM bellwether.state USING newest WHERE state.topic = newest.topic AND NOT newest.retain
    )
    INSERT INTO bellwether.state (topic, seq, name, key, data, at)
    SELECT newest.topic, newest.seq, newest.name, newest.key, newest.data, newest.at FROM newest WHERE newest.retain
    ON CONFLICT (topic) DO UPDATE
    SET seq = excluded.seq, name = excluded.name, key = excluded.key, data = excluded.data, at = excluded.at;
END;

-- Looks for what has committed and numbers it, unless another hub is awake to do
-- so. One statement, one round trip, in autocommit: a caller that vanishes leaves
-- nothing locked behind.
--
-- `hub`, `promise_ms`: who asks, and for how long it promises to look (0: not at all).
-- `known_head`, `known_looked`: `head` and `looked` of the caller's last advance,
-- so that a look begins where the last empty one ended; NULL at first. Only the
-- look relies on them: what is numbered goes by the newest batch alone.
--
-- Returns who is awake, as `promise` does, the stream's epoch and its head; and if it was for
-- this hub to look, the snapshot up to which all is numbered, that snapshot's xmin for
-- `lapse`'s fence, and how many events of how many transactions it numbered. What it tells is for
-- everybody to see, but not durable yet: that is for `settle`.
--
-- The order: transactions by the last event each of them inserted, and the events
-- of one together, as inserted. If A committed before some event of B went in,
-- that event's id is larger than all of A's, so A comes first.
CREATE FUNCTION bellwether.advance(
    hub bigint, promise_ms integer, known_head bigint, known_looked pg_snapshot,
    OUT awake text, OUT epoch text, OUT head bigint, OUT looked pg_snapshot, OUT looked_xmin bigint, OUT numbered bigint, OUT commits bigint
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- Plans made while the tables are small must still be right when they are not.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET jit = off
AS $$
DECLARE
    found_new boolean;
    has_states boolean;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE 'bellwether.advance needs READ COMMITTED, not %: it must see what committed while it waited for its lock',
            upper(current_setting('transaction_isolation'));
    END IF;
    awake := bellwether.promise(hub, promise_ms);
    numbered := 0;
    commits := 0;

    SELECT epoch.id INTO STRICT epoch FROM bellwether.epoch ORDER BY epoch.n DESC LIMIT 1;
    SELECT batch.last_seq, batch.seen INTO STRICT head, looked
    FROM bellwether.batch ORDER BY batch.last_seq DESC LIMIT 1;

    IF awake = 'other' THEN
        looked := NULL;
        RETURN;
    END IF;

    -- The cheap look: no lock, and nothing written where nothing is new.
    IF known_head = head AND known_looked IS NOT NULL THEN
        looked := known_looked;
    END IF;
    -- Where nothing has begun or ended since, there is nothing to find.
    IF pg_current_snapshot()::text = looked::text THEN
        looked_xmin := pg_snapshot_xmin(looked)::text::bigint;
        RETURN;
    END IF;
    SELECT pg_current_snapshot(), EXISTS (SELECT FROM bellwether.unseen(looked))
    INTO known_looked, found_new;

    IF NOT found_new THEN
        looked := known_looked;
        looked_xmin := pg_snapshot_xmin(looked)::text::bigint;
        RETURN;
    END IF;

    -- The commit does not wait for the disk; `settle` does.
    PERFORM set_config('synchronous_commit', 'off', true);

    -- One at a time. Each of the statements below has a fresh snapshot, so it sees
    -- what the holder before us committed.
    PERFORM pg_advisory_xact_lock(hashtextextended('bellwether.advance', 0));

    SELECT batch.last_seq, batch.seen INTO STRICT head, looked
    FROM bellwether.batch ORDER BY batch.last_seq DESC LIMIT 1;

    WITH fresh AS MATERIALIZED (
        SELECT unseen.id, max(unseen.id) OVER (PARTITION BY unseen.xid) AS last_id, unseen.retain
        FROM bellwether.unseen(looked)
    ), batch AS MATERIALIZED (
        SELECT count(*) AS size, count(*) FILTER (WHERE fresh.id = fresh.last_id) AS commits,
            bool_or(fresh.retain IS NOT NULL) AS has_states
        FROM fresh
    ), ordered AS (
        SELECT fresh.id, row_number() OVER in_order AS n, lag(fresh.id) OVER in_order AS previous_id
        FROM fresh WINDOW in_order AS (ORDER BY fresh.last_id, fresh.id)
    ), placed AS (
        -- A run begins where an id does not follow the one before it, and ends before the next one.
        INSERT INTO bellwether.stream (last_seq, first_seq, first_id)
        SELECT advance.head + lead(ordered.n - 1, 1, batch.size) OVER (ORDER BY ordered.n), advance.head + ordered.n, ordered.id
        FROM ordered CROSS JOIN batch
        WHERE ordered.id IS DISTINCT FROM ordered.previous_id + 1
    ), recorded AS (
        INSERT INTO bellwether.batch (last_seq, seen)
        SELECT advance.head + batch.size, pg_current_snapshot() FROM batch WHERE batch.size > 0
    )
    SELECT batch.size, batch.commits, batch.has_states, pg_current_snapshot()
    INTO numbered, commits, has_states, looked FROM batch;

    IF has_states THEN
        PERFORM bellwether.keep_states(head, head + numbered);
    END IF;
    head := head + numbered;
    looked_xmin := pg_snapshot_xmin(looked)::text::bigint;
END $$;

-- Waits until all that is visible now is durable. Nothing that `advance` tells may be
-- shown before: neither what it numbered nor what another hub did.
--
-- Mostly a writer's flush carries it along, and for one this waits up to 2 ms. If none
-- comes, it flushes by itself, as the commit of a transaction does that has written
-- something. Were every batch flushed for itself, a lone writer would wait for
-- ours, too: of his speed that leaves 66 %, and this 93 %.
CREATE FUNCTION bellwether.settle() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    patience_ms CONSTANT integer := 2;
    written CONSTANT pg_lsn := pg_current_wal_insert_lsn();
    now CONSTANT pg_snapshot := pg_current_snapshot();
    -- Then nobody is about to flush.
    is_alone CONSTANT boolean := pg_snapshot_xmin(now) = pg_snapshot_xmax(now);
BEGIN
    -- A flush here says nothing of synchronous standbys. A commit waits for them, too.
    IF current_setting('synchronous_standby_names') = '' THEN
        FOR waited_ms IN 0..patience_ms LOOP
            IF pg_current_wal_flush_lsn() >= written THEN
                RETURN;
            END IF;
            EXIT WHEN is_alone OR waited_ms = patience_ms;
            PERFORM pg_sleep(0.001);
        END LOOP;
    END IF;
    PERFORM pg_logical_emit_message(true, 'bellwether', '');
END $$;

-- What follows a place in the stream, up to another: one array for each column. As many events as fit
-- into a hundred, and into 64 KiB as they are stored; none if the first is larger. Relies on a hub's
-- session for its plan.
CREATE FUNCTION bellwether.page(
    after_seq bigint, up_to bigint,
    OUT seqs bigint[], OUT topics text[], OUT names text[], OUT keys text[], OUT data text[], OUT ats timestamptz[], OUT retains boolean[]
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH follows AS (
        SELECT event.*, sum(pg_column_size(event.data)) OVER (ORDER BY event.seq) AS bytes
        FROM bellwether.stretch(after_seq, least(up_to, after_seq + 100)) AS event
        ORDER BY event.seq
    )
    SELECT array_agg(seq), array_agg(topic), array_agg(name), array_agg(key), array_agg(follows.data::text),
        -- Infinity has no other form.
        array_agg(CASE WHEN isfinite(at) THEN at END), array_agg(retain)
    INTO seqs, topics, names, keys, page.data, ats, retains
    FROM follows WHERE bytes <= 65536;
END $$;

-- One look: has what is new numbered, as `advance` does, waits until that is durable, and reads the first
-- of it, all of it mostly. One statement and one answer, as each wakes somebody who sleeps, which costs
-- more than what most of them do. Nothing is read where no head is known.
CREATE PROCEDURE bellwether.look(
    hub bigint, promise_ms integer, known_head bigint, known_looked text,
    OUT awake text, OUT epoch text, OUT head bigint, OUT looked text, OUT looked_xmin bigint, OUT numbered bigint, OUT commits bigint,
    OUT seqs bigint[], OUT topics text[], OUT names text[], OUT keys text[], OUT data text[], OUT ats timestamptz[], OUT retains boolean[]
)
LANGUAGE plpgsql
AS $$
BEGIN
    SELECT now.awake, now.epoch, now.head, now.looked, now.looked_xmin, now.numbered, now.commits
    INTO awake, epoch, head, looked, looked_xmin, numbered, commits
    FROM bellwether.advance(hub, promise_ms, known_head, known_looked::pg_catalog.pg_snapshot) AS now;
    IF known_head IS NULL OR head OPERATOR(pg_catalog.>) known_head THEN
        COMMIT;
        PERFORM bellwether.settle();
        COMMIT;
        SELECT page.* INTO seqs, topics, names, keys, data, ats, retains FROM bellwether.page(known_head, head);
    END IF;
END $$;
