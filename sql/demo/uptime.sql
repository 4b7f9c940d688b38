-- Monitors of several organisations. What concerns one is published on `org.<its number>.…` and
-- nowhere else. The database itself decides what is down, and opens and closes incidents.
CREATE SCHEMA IF NOT EXISTS demo;

CREATE TABLE IF NOT EXISTS public.organisations (
    id   integer PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE IF NOT EXISTS public.monitors (
    id    integer PRIMARY KEY,
    org   integer NOT NULL REFERENCES public.organisations,
    name  text NOT NULL,
    url   text NOT NULL,
    state text NOT NULL DEFAULT 'up' CHECK (state IN ('up', 'down')),
    since timestamptz NOT NULL DEFAULT now() - interval '1 day'
);

CREATE TABLE IF NOT EXISTS public.probes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org        integer NOT NULL,
    monitor_id integer NOT NULL REFERENCES public.monitors,
    is_ok      boolean NOT NULL,
    latency_ms integer NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS probes_monitor_id_id ON public.probes (monitor_id, id);
CREATE INDEX IF NOT EXISTS probes_monitor_id_at ON public.probes (monitor_id, at);

CREATE TABLE IF NOT EXISTS public.incidents (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org        integer NOT NULL,
    monitor_id integer NOT NULL REFERENCES public.monitors,
    monitor    text NOT NULL,
    opened_at  timestamptz NOT NULL DEFAULT now(),
    closed_at  timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS incidents_open ON public.incidents (monitor_id) WHERE closed_at IS NULL;

SELECT bellwether.attach('public.probes', topic => 'org.{org}.probes', event => 'probe', ops => '{insert}'),
    bellwether.attach('public.monitors', topic => 'org.{org}.monitors', event => 'state', ops => '{update}'),
    bellwether.attach('public.incidents', topic => 'org.{org}.incidents', event => 'incident', ops => '{insert,update}');

-- Three organisations, and an hour of probes as it might have been, once.
DO $$
DECLARE
    at_minute integer;
    org_id integer;
    monitor_number integer;
    monitor_name text;
    is_opened boolean;
BEGIN
    IF EXISTS (SELECT FROM public.organisations) THEN
        RETURN;
    END IF;
    INSERT INTO public.organisations (id, name) VALUES
        (1, 'Northwind Freight'), (2, 'Halcyon Clinics'), (3, 'Juniper Press');
    INSERT INTO public.monitors (id, org, name, url) VALUES
        (1, 1, 'Website', 'https://northwind.example'), (2, 1, 'Tracking API', 'https://api.northwind.example'),
        (3, 1, 'Customs feed', 'https://customs.northwind.example'), (4, 1, 'Driver app', 'https://drive.northwind.example'),
        (5, 1, 'Invoices', 'https://billing.northwind.example'), (6, 1, 'Warehouse', 'https://wms.northwind.example'),
        (7, 2, 'Appointments', 'https://book.halcyon.example'), (8, 2, 'Patient portal', 'https://my.halcyon.example'),
        (9, 2, 'Lab results', 'https://labs.halcyon.example'), (10, 2, 'Telephony', 'https://voice.halcyon.example'),
        (11, 3, 'Storefront', 'https://juniper.example'), (12, 3, 'Reader', 'https://read.juniper.example');
    -- Some were down for a while: from so many minutes ago, for so many.
    CREATE TEMPORARY TABLE trouble (monitor integer, ago integer, lasted integer) ON COMMIT DROP;
    INSERT INTO trouble VALUES (2, 52, 2), (5, 41, 5), (3, 27, 1), (2, 23, 4), (6, 8, 2),
        (8, 47, 3), (10, 31, 6), (7, 12, 2), (12, 38, 4), (11, 15, 1);
    INSERT INTO public.probes (org, monitor_id, is_ok, latency_ms, at)
    SELECT org, id, NOT is_down, CASE WHEN is_down THEN 5000 WHEN n * 31 % 43 = id THEN 480 + n * 3 ELSE usual END,
        now() - interval '1 minute' * n
    FROM generate_series(60, 1, -1) AS n CROSS JOIN public.monitors,
    LATERAL (SELECT 60 + id * 11 + (n * 37 + id * 13) % 50) AS latency (usual),
    LATERAL (SELECT EXISTS (
        SELECT FROM trouble WHERE monitor = id AND n <= ago AND n > ago - lasted)) AS state (is_down)
    ORDER BY n DESC, id;
    -- Opened and closed in the order in which that happened.
    FOR at_minute, org_id, monitor_number, monitor_name, is_opened IN
        SELECT minute, org, id, name, minute = ago
        FROM trouble JOIN public.monitors ON id = monitor, LATERAL (VALUES (ago), (ago - lasted)) AS times (minute)
        ORDER BY minute DESC
    LOOP
        IF is_opened THEN
            INSERT INTO public.incidents (org, monitor_id, monitor, opened_at)
            VALUES (org_id, monitor_number, monitor_name, now() - interval '1 minute' * at_minute);
        ELSE
            UPDATE public.incidents SET closed_at = now() - interval '1 minute' * at_minute
            WHERE monitor_id = monitor_number AND closed_at IS NULL;
        END IF;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION demo.own_probe() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.org := (SELECT org FROM public.monitors WHERE id = NEW.monitor_id);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER own_probe BEFORE INSERT ON public.probes
FOR EACH ROW EXECUTE FUNCTION demo.own_probe();

-- Two failures in a row: it is down. One success: it is up.
CREATE OR REPLACE FUNCTION demo.judge() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.is_ok THEN
        UPDATE public.monitors SET state = 'up', since = now() WHERE id = NEW.monitor_id AND state <> 'up';
        UPDATE public.incidents SET closed_at = now() WHERE monitor_id = NEW.monitor_id AND closed_at IS NULL;
    ELSIF NOT (
        SELECT is_ok FROM public.probes WHERE monitor_id = NEW.monitor_id AND id < NEW.id
        ORDER BY id DESC LIMIT 1
    ) THEN
        UPDATE public.monitors SET state = 'down', since = now() WHERE id = NEW.monitor_id AND state <> 'down';
        INSERT INTO public.incidents (org, monitor_id, monitor)
        SELECT org, id, name FROM public.monitors WHERE id = NEW.monitor_id
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER judge AFTER INSERT ON public.probes
FOR EACH ROW EXECUTE FUNCTION demo.judge();

-- Everything a page of each organisation needs to begin with.
CREATE OR REPLACE FUNCTION demo.summarise() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    SELECT bellwether.publish('org.' || organisations.id || '.summary', 'summary', retain => true, data => json_build_object(
        'organisation', organisations.name,
        'monitors', (
            SELECT json_agg(json_build_object('id', monitors.id, 'name', name, 'url', url, 'state', state,
                'since', since, 'uptime', hour.uptime, 'latency_ms', hour.latency_ms) ORDER BY monitors.id)
            FROM public.monitors, LATERAL (
                SELECT round(100.0 * count(*) FILTER (WHERE is_ok) / nullif(count(*), 0), 2) AS uptime,
                    round(avg(latency_ms)) AS latency_ms
                FROM public.probes
                WHERE probes.monitor_id = monitors.id AND at > now() - interval '1 hour'
            ) AS hour
            WHERE org = organisations.id)))
    FROM public.organisations;
$$;
