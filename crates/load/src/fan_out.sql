-- What the writers of a fan-out write to: one table attached, one with the trigger of the textbooks.
CREATE TABLE IF NOT EXISTS load (n bigint NOT NULL, t bigint NOT NULL, lane integer NOT NULL, pad text NOT NULL);
CREATE TABLE IF NOT EXISTS load_textbook (LIKE load);

SELECT bellwether.attach('load', topic => 'load.{lane}', event => 'e', columns => '{n,t,pad}', ops => '{insert}');

CREATE OR REPLACE FUNCTION notify_load() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('load', row_to_json(NEW)::text);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER notify_load AFTER INSERT ON load_textbook FOR EACH ROW EXECUTE FUNCTION notify_load();
