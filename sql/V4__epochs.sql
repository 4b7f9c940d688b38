-- Epochs: when the numbers so far cannot simply be continued.

-- To be called by every hub that connects, with what it knows of the stream, if
-- anything. Opens a new epoch where that is due, and returns the newest and its head.
--
-- Due it is in another place than the epoch was opened in: a dump was restored, the
-- database copied, the server upgraded. Transaction ids are then those of somebody
-- else. Due it is after a failover, too, before anything is numbered there: it may have
-- lost its tail, and numbers that clients have seen would be given again. And due it is
-- if the stream went backwards for any other reason.
CREATE FUNCTION bellwether.connect(
    known_epoch text, known_head bigint, OUT epoch text, OUT head bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    newest bellwether.epoch;
    here record;
BEGIN
    SELECT * INTO here FROM bellwether.here();
    FOR attempt IN 1..2 LOOP
        SELECT * INTO STRICT newest FROM bellwether.epoch ORDER BY epoch.n DESC LIMIT 1;
        SELECT batch.last_seq INTO STRICT head FROM bellwether.batch ORDER BY batch.last_seq DESC LIMIT 1;
        epoch := newest.id;
        IF (newest.system_identifier, newest.database, newest.timeline) = (here.system_identifier, here.database, here.timeline)
            AND (known_epoch IS DISTINCT FROM newest.id OR known_head <= head)
        THEN
            RETURN;
        END IF;
        -- Once more with the lock: another hub may be opening it.
        PERFORM pg_advisory_xact_lock(hashtextextended('bellwether.advance', 0));
    END LOOP;

    IF (newest.system_identifier, newest.database) IS DISTINCT FROM (here.system_identifier, here.database) THEN
        head := bellwether.rebaseline();
    END IF;
    INSERT INTO bellwether.epoch (after_seq, system_identifier, database, timeline)
    VALUES (head, here.system_identifier, here.database, here.timeline)
    RETURNING epoch.id INTO epoch;
END $$;

-- Makes a stream whose transaction ids come from elsewhere one of this place. What was
-- never numbered is numbered now; ids that would one day be drawn here again, and be
-- taken for new events then, are made ones of the past. Needs the lock of `advance`.
CREATE FUNCTION bellwether.rebaseline(OUT head bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- Once over everything: here the plans that are right for all else are the wrong ones.
SET enable_seqscan = on
SET enable_bitmapscan = on
SET enable_hashjoin = on
SET enable_mergejoin = on
AS $$
DECLARE
    numbered bigint;
    oldest_running xid8 := pg_snapshot_xmin(pg_current_snapshot());
BEGIN
    SELECT batch.last_seq INTO STRICT head FROM bellwether.batch ORDER BY batch.last_seq DESC LIMIT 1;

    WITH fresh AS MATERIALIZED (
        SELECT event.id, max(event.id) OVER (PARTITION BY event.xid) AS last_id
        FROM bellwether.event
        WHERE NOT EXISTS (SELECT FROM bellwether.stretch(0, head) AS known WHERE known.id = event.id)
    ), ordered AS (
        SELECT fresh.id, rebaseline.head + row_number() OVER (ORDER BY fresh.last_id, fresh.id) AS seq FROM fresh
    ), placed AS (
        -- Few, once: each is a run of its own.
        INSERT INTO bellwether.stream (last_seq, first_seq, first_id)
        SELECT ordered.seq, ordered.seq, ordered.id FROM ordered
    ), recorded AS (
        INSERT INTO bellwether.batch (last_seq, seen)
        SELECT rebaseline.head + count(*), pg_current_snapshot() FROM fresh
        ON CONFLICT (last_seq) DO UPDATE SET seen = excluded.seen
    )
    SELECT head + count(*) INTO numbered FROM fresh;
    PERFORM bellwether.keep_states(head, numbered);
    head := numbered;

    UPDATE bellwether.event SET xid = '3'
    FROM bellwether.stretch(0, head) AS known
    WHERE known.id = event.id AND event.xid >= oldest_running;
END $$;
