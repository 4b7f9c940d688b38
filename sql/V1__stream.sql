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

-- The total order, gapless.
CREATE TABLE bellwether.stream (
    seq      bigint PRIMARY KEY,
    event_id bigint NOT NULL
);

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
