-- Snapshots: queries that are run every so often, by one hub of several.

CREATE TABLE bellwether.snapshot (
    name     text PRIMARY KEY,
    taken_at timestamptz NOT NULL
);

-- Whether the caller is to take a snapshot now: nobody has for most of its interval. Most,
-- because clocks that tick at the same pace never tick at quite the same time.
CREATE FUNCTION bellwether.claim_snapshot(name text, every interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO bellwether.snapshot AS last (name, taken_at)
    VALUES (claim_snapshot.name, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET taken_at = excluded.taken_at
    WHERE last.taken_at <= excluded.taken_at - 0.9 * claim_snapshot.every;
    RETURN FOUND;
END $$;
