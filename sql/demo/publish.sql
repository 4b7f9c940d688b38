-- What the demos share. In a schema of its own, and only ever in a private database.
CREATE SCHEMA IF NOT EXISTS demo;

-- Publishes the rows of a statement. The trigger's arguments are the topic and the name; in
-- the topic, `{org}` stands for the row's column `org`.
CREATE OR REPLACE FUNCTION demo.publish() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO bellwether.event (topic, name, key, data)
    SELECT replace(TG_ARGV[0], '{org}', coalesce(row.data ->> 'org', '')), TG_ARGV[1],
        row.data ->> 'id', row.data
    FROM rows CROSS JOIN LATERAL (SELECT row_to_json(rows) AS data) AS row;
    IF FOUND THEN
        PERFORM bellwether.ring();
    END IF;
    RETURN NULL;
END $$;

-- Publishes a state that no single row holds.
CREATE OR REPLACE FUNCTION demo.publish_state(topic text, name text, data json) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO bellwether.event (topic, name, data) VALUES (topic, name, data);
    PERFORM bellwether.ring();
END $$;
