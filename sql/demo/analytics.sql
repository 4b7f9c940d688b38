-- Figures of a site, from the table `events` (sql/events.sql).
CREATE SCHEMA IF NOT EXISTS demo;
CREATE INDEX IF NOT EXISTS events_created_at ON public.events (created_at);

CREATE TABLE IF NOT EXISTS public.metrics_snapshots (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    page_views      bigint NOT NULL,  -- since the beginning
    active_sessions bigint NOT NULL,  -- in the five minutes before
    events_count    bigint NOT NULL,  -- since the beginning
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    -- The place in the stream up to which these figures count; 0 for the made-up past.
    counted_to      bigint NOT NULL DEFAULT 0
);

SELECT bellwether.attach('public.metrics_snapshots', topic => 'metrics', event => 'snapshot', ops => '{insert}');

-- The next figures: those before, and what the stream has brought since. Its numbers have no
-- holes and are given after commit, so no event is counted twice or not at all, and the cost
-- is that of what is new, however long the table. No writer waits for a counter.
CREATE OR REPLACE FUNCTION demo.take_snapshot() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
    INSERT INTO public.metrics_snapshots (page_views, active_sessions, events_count, counted_to)
    SELECT before.page_views + new.page_views, active.sessions,
        before.events_count + new.events_count, head.seq
    FROM (
        SELECT page_views * sign(counted_to)::bigint AS page_views,
            events_count * sign(counted_to)::bigint AS events_count, counted_to
        FROM public.metrics_snapshots ORDER BY id DESC LIMIT 1
    ) AS before,
    (SELECT last_seq AS seq FROM bellwether.batch ORDER BY last_seq DESC LIMIT 1) AS head,
    LATERAL (
        SELECT count(*) AS events_count, count(*) FILTER (WHERE event.name = 'page_view') AS page_views
        FROM bellwether.stretch(before.counted_to, head.seq) AS event WHERE event.topic = 'events'
    ) AS new,
    (
        SELECT count(DISTINCT properties ->> 'session') AS sessions FROM public.events
        WHERE created_at > now() - interval '5 minutes'
    ) AS active;
$$;

-- An hour as it might have been, once: 25 visitors at a time, of whom one leaves after a dozen
-- things done; independent of each other, so at random times, in slow waves.
DO $$
BEGIN
    IF EXISTS (SELECT FROM public.metrics_snapshots) THEN
        RETURN;
    END IF;
    PERFORM setseed(0.6); -- the same for everybody
    INSERT INTO public.events (name, properties, created_at)
    WITH drawn AS (
        SELECT n, floor(25 * random())::int AS visitor,
            sum(-ln(1 - random()) / (0.8 + n / 9000.0 + sin(n / 190.0) / 6)) OVER (ORDER BY n) AS since
        FROM generate_series(1, 4000) AS n
    )
    SELECT coalesce((ARRAY['button_click', 'button_click', 'button_click', 'button_click', 'search', 'search',
            'form_submit', 'share', 'signup', 'purchase'])[1 + n * 7 % 20], 'page_view'),
        json_build_object('page', (ARRAY['/', '/pricing', '/docs', '/blog', '/signup'])[1 + n * 3 % 5],
            'session', 'past-' || visitor || '-' || (n / 25 + visitor) / 12),
        now() - interval '1 hour' * (1 - since / (SELECT max(since) FROM drawn))
    FROM drawn ORDER BY n;

    -- The last minutes, which a page shows at once, as often as it goes on.
    INSERT INTO public.metrics_snapshots (page_views, active_sessions, events_count, recorded_at, counted_to)
    SELECT figures.page_views, active.sessions, figures.events_count, at, 0
    FROM (
        SELECT generate_series(now() - interval '1 hour', now() - interval '430 seconds', '10 seconds')
        UNION ALL SELECT generate_series(now() - interval '420 seconds', now(), '2 seconds')
    ) AS moments (at),
    LATERAL (
        SELECT count(*) AS events_count, count(*) FILTER (WHERE name = 'page_view') AS page_views
        FROM public.events WHERE created_at <= at
    ) AS figures,
    LATERAL (
        SELECT count(DISTINCT properties ->> 'session') AS sessions FROM public.events
        WHERE created_at > at - interval '5 minutes' AND created_at <= at
    ) AS active
    ORDER BY at;
END $$;
