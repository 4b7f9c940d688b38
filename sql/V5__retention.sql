-- Retention: what is old is deleted from the beginning of the stream on, by number.
-- Never by the time of insertion: a transaction may commit long after it inserted,
-- and what has no number yet has been seen by nobody.

-- Deletes up to `at_most` of the oldest events: those numbered more than `max_age` ago
-- and those beyond the newest `max_events` (NULL: no such limit). Returns how many. One
-- instance at a time does it; to the others there is nothing to do.
CREATE FUNCTION bellwether.retain(
    max_age interval, max_events bigint, at_most integer, OUT deleted bigint
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    head bigint;
    floor bigint;
    too_old bigint;
    up_to bigint;
BEGIN
    deleted := 0;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('bellwether.retain', 0)) THEN
        RETURN;
    END IF;
    -- Nobody repeats a request after a day.
    DELETE FROM bellwether.publication WHERE publication.at < now() - interval '1 day';

    SELECT batch.last_seq INTO STRICT head FROM bellwether.batch ORDER BY batch.last_seq DESC LIMIT 1;
    SELECT stream.first_seq - 1 INTO floor FROM bellwether.stream ORDER BY stream.last_seq LIMIT 1;
    IF floor IS NULL THEN
        RETURN;
    END IF;

    -- Batches are in the order of their times. Each has an event at least, so these are enough.
    SELECT max(oldest.last_seq) INTO too_old
    FROM (
        SELECT batch.last_seq, batch.at FROM bellwether.batch
        WHERE batch.last_seq > floor ORDER BY batch.last_seq LIMIT at_most
    ) AS oldest
    WHERE oldest.at < now() - max_age;

    -- greatest and least pass over a NULL, which here means: nothing is due.
    up_to := greatest(too_old, head - max_events);
    IF up_to IS NULL OR up_to <= floor THEN
        RETURN;
    END IF;
    up_to := least(up_to, floor + at_most);

    DELETE FROM bellwether.event WHERE event.id IN (SELECT gone.id FROM bellwether.stretch(floor, up_to) AS gone);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    DELETE FROM bellwether.stream WHERE stream.last_seq <= up_to;
    -- What is left of a run begins where that ended.
    UPDATE bellwether.stream SET first_seq = up_to + 1, first_id = stream.first_id + (up_to + 1 - stream.first_seq)
    WHERE stream.last_seq = (SELECT oldest.last_seq FROM bellwether.stream AS oldest ORDER BY oldest.last_seq LIMIT 1)
        AND stream.first_seq <= up_to;

    -- The head stays: it is where the next number comes from.
    DELETE FROM bellwether.batch WHERE batch.last_seq <= up_to AND batch.last_seq < head;
END $$;
