-- One table three times: by itself, attached, and with the trigger of the textbooks.
CREATE TABLE plain (t bigint NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text NOT NULL);
CREATE TABLE attached (LIKE plain INCLUDING ALL);
CREATE TABLE textbook (LIKE plain INCLUDING ALL);

SELECT bellwether.attach('attached', topic => 'load');

CREATE FUNCTION notify_new_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('new_event', row_to_json(NEW)::text);
    RETURN NEW;
END $$;
CREATE TRIGGER notify_new_event AFTER INSERT ON textbook FOR EACH ROW EXECUTE FUNCTION notify_new_event();
