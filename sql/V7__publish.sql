-- Publishing: events that are no row of anybody's table.

-- Publishes one event when this transaction commits. Returns its id, which is not its
-- place in the stream: that it gets afterwards.
--
--   retain  new clients are given it first, as the topic's state, until another
--           follows; with the data `null` the topic has no state from then on
CREATE FUNCTION bellwether.publish(topic text, name text, data json, key text DEFAULT NULL, retain boolean DEFAULT false)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    max_bytes CONSTANT integer := 256 * 1024;
    id bigint;
BEGIN
    PERFORM bellwether.check_topic(topic), bellwether.check_name(name);
    data := coalesce(data, 'null');
    IF octet_length(data::text) > max_bytes THEN
        RAISE 'the data of an event has at most % bytes, not %', max_bytes, octet_length(data::text)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Publish where it is to be found instead.';
    END IF;
    INSERT INTO bellwether.event (topic, name, key, data, retain)
    VALUES (topic, name, key, data, CASE WHEN retain THEN json_typeof(data) <> 'null' END)
    RETURNING event.id INTO id;
    PERFORM bellwether.ring();
    RETURN id;
END $$;

-- The same for other types. A literal is text.
CREATE FUNCTION bellwether.publish(topic text, name text, data jsonb, key text DEFAULT NULL, retain boolean DEFAULT false)
RETURNS bigint LANGUAGE sql RETURN bellwether.publish(topic, name, data::json, key, retain);
CREATE FUNCTION bellwether.publish(topic text, name text, data text, key text DEFAULT NULL, retain boolean DEFAULT false)
RETURNS bigint LANGUAGE sql RETURN bellwether.publish(topic, name, data::json, key, retain);

-- What was published with an idempotency key, so that it is published once.
CREATE TABLE bellwether.publication (
    key       text PRIMARY KEY,
    request   bytea NOT NULL,  -- a digest, tells it from another request with the same key
    ids       bigint[] NOT NULL,
    after_seq bigint NOT NULL, -- the events were numbered beyond this
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX publication_at ON bellwether.publication (at);

-- Publishes what several requests over HTTP ask for, in one transaction: they share its
-- flush. Request `r` has the next `sizes[r]` of the events; one with an idempotency key
-- that was used before publishes nothing and gets the answer of that time (`repeated`, or
-- `conflict` if it was another request: `requests` has their texts).
--
-- In the order of the keys, so that two hubs with the same ones cannot wait for each other.
CREATE FUNCTION bellwether.publish_requests(
    keys text[], requests text[], sizes integer[],
    topics text[], names text[], event_keys text[], data text[], retains boolean[]
) RETURNS TABLE (request integer, ids bigint[], after_seq bigint, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    head CONSTANT bigint := (SELECT batch.last_seq FROM bellwether.batch ORDER BY batch.last_seq DESC LIMIT 1);
    has_published boolean := false;
    due record;
    found_request bytea;
BEGIN
    FOR due IN
        SELECT part.n::integer, part.key, sha256(convert_to(part.request, 'UTF8')) AS request, sum(part.size) OVER (ORDER BY part.n) - part.size + 1 AS first, part.size
        FROM unnest(keys, requests, sizes) WITH ORDINALITY AS part (key, request, size, n)
        ORDER BY part.key, part.n
    LOOP
        request := due.n;
        outcome := 'published';
        after_seq := head;
        IF due.key IS NOT NULL THEN
            INSERT INTO bellwether.publication (key, request, ids, after_seq) VALUES (due.key, due.request, '{}', head)
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                SELECT publication.request, publication.ids, publication.after_seq
                INTO STRICT found_request, publish_requests.ids, publish_requests.after_seq
                FROM bellwether.publication WHERE publication.key = due.key;
                outcome := CASE WHEN found_request = due.request THEN 'repeated' ELSE 'conflict' END;
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        WITH added AS (
            INSERT INTO bellwether.event (topic, name, key, data, retain)
            SELECT part.topic, part.name, part.key, part.data::json,
                CASE WHEN part.retain THEN json_typeof(part.data::json) <> 'null' END
            FROM unnest(
                topics[due.first:due.first + due.size - 1], names[due.first:due.first + due.size - 1],
                event_keys[due.first:due.first + due.size - 1], data[due.first:due.first + due.size - 1],
                retains[due.first:due.first + due.size - 1]
            ) WITH ORDINALITY AS part (topic, name, key, data, retain, n)
            ORDER BY part.n
            RETURNING event.id
        )
        SELECT array_agg(added.id ORDER BY added.id) INTO publish_requests.ids FROM added;
        has_published := true;
        IF due.key IS NOT NULL THEN
            UPDATE bellwether.publication SET ids = publish_requests.ids WHERE publication.key = due.key;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF has_published THEN
        PERFORM bellwether.ring();
    END IF;
END $$;

-- The places in the stream of events that were published when its head was `after_seq`, in
-- order; fewer, if some have none yet, or are gone. Looked for where they must be by now.
CREATE FUNCTION bellwether.places(ids bigint[], after_seq bigint) RETURNS SETOF bigint
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT run.first_seq + (event.id - run.first_id) AS seq
    FROM (
        SELECT * FROM bellwether.stream WHERE stream.last_seq > places.after_seq
        ORDER BY stream.last_seq LIMIT 100000
    ) AS run
    JOIN unnest(places.ids) AS event (id)
        ON event.id BETWEEN run.first_id AND run.first_id + (run.last_seq - run.first_seq)
    ORDER BY seq;
END;
