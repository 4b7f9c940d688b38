-- The stream: what was captured, the order it was given, and how far that went.
--
-- Writers only ever insert into `event`; they never wait for each other and
-- draw no number. Once their transactions have committed, `advance` (V3) gives
-- every event its place in `stream`.

-- Every event, in the transaction that caused it.
CREATE TABLE bellwether.event (
    -- Insertion order. CACHE 1, because a cached range would let a later insert
    -- draw a smaller id than an insert that committed before it.
    id    bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    -- The top-level transaction, also inside savepoints. `advance` finds what is
    -- new by it, so nobody but the column's default may set it.
    xid   xid8 NOT NULL DEFAULT pg_current_xact_id(),
    topic text NOT NULL,
    name  text NOT NULL,
    key   text,
    data  json NOT NULL, -- json, not jsonb: it is only ever sent on, as it came
    at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Whether new clients are given it first, as its topic's state, until another
    -- follows; false: from here on the topic has none. Mostly it is no state at all.
    retain boolean
);
CREATE INDEX event_xid ON bellwether.event (xid);

-- The total order, gapless. Each row is a run: events whose ids follow each other, as their
-- numbers do. Those of a statement mostly do, and those of short transactions one after the
-- other, so there are far fewer rows than events: with one for each, numbering them takes twice
-- as long, and reading them half as long again.
CREATE TABLE bellwether.stream (
    last_seq  bigint PRIMARY KEY,
    first_seq bigint NOT NULL,
    first_id  bigint NOT NULL
);

-- The events after a place in the stream, up to another, with their numbers. In no order.
--
-- Must be inlined, to be planned with what it is asked for: SQL, STABLE, one SELECT, no settings
-- of its own.
CREATE FUNCTION bellwether.stretch(after_seq bigint, up_to bigint)
RETURNS TABLE (seq bigint, id bigint, topic text, name text, key text, data json, at timestamptz, retain boolean)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT run.first_seq + (event.id - run.first_id),
        event.id, event.topic, event.name, event.key, event.data, event.at, event.retain
    FROM bellwether.stream AS run
    CROSS JOIN LATERAL (
        SELECT * FROM bellwether.event
        WHERE event.id >= run.first_id + greatest(after_seq + 1 - run.first_seq, 0)
            AND event.id <= run.first_id + (least(run.last_seq, up_to) - run.first_seq)
        OFFSET 0 -- for each run, and never the other way around
    ) AS event
    WHERE run.last_seq > after_seq AND run.last_seq <= coalesce(
        -- The run that `up_to` is in.
        (SELECT last.last_seq FROM bellwether.stream AS last WHERE last.last_seq >= up_to ORDER BY last.last_seq LIMIT 1),
        up_to);
END;

-- One row for each batch that was numbered; the newest is the head. Insert-only:
-- a head row that is updated in place leaves dead versions that no vacuum may
-- remove while any transaction is long.
CREATE TABLE bellwether.batch (
    last_seq bigint PRIMARY KEY,
    -- What the numbering statement saw: all that had finished by then is
    -- numbered, and nothing else is.
    seen     pg_snapshot NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The state of each topic that has one: its last event with `retain`, in the stream's
-- order. A copy, because retention deletes the event itself one day.
CREATE TABLE bellwether.state (
    topic text PRIMARY KEY,
    seq   bigint NOT NULL,
    name  text NOT NULL,
    key   text,
    data  json NOT NULL,
    at    timestamptz NOT NULL
);

-- Which stream a cursor belongs to; the newest row counts. The id is random, so that
-- a database dropped and made again does not honour the cursors of the old one.
-- The rows before it are its ancestors: what they numbered up to the next one's
-- `after_seq` is part of this stream, too.
CREATE TABLE bellwether.epoch (
    n         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id        text NOT NULL DEFAULT left(replace(gen_random_uuid()::text, '-', ''), 8),
    after_seq bigint NOT NULL,
    -- Where it was opened. A restored dump brings this row along, but not the place.
    system_identifier bigint NOT NULL,
    database  oid NOT NULL,
    -- Which of the server's histories it was opened in: each promotion of a standby
    -- begins another, and may leave out what the old primary did last.
    timeline  integer NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The place we are in: this server's data folder, since initdb, and this database; and
-- the timeline that is being written. A file of the log is named after its timeline.
CREATE FUNCTION bellwether.here(OUT system_identifier bigint, OUT database oid, OUT timeline integer)
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT pg_control_system.system_identifier, pg_database.oid,
        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
    FROM pg_control_system(), pg_database WHERE datname = current_database();
END;

INSERT INTO bellwether.epoch (after_seq, system_identifier, database, timeline)
SELECT 0, here.system_identifier, here.database, here.timeline FROM bellwether.here();
INSERT INTO bellwether.batch (last_seq, seen) VALUES (0, pg_current_snapshot());
