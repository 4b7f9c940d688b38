-- Rights: what is not given is not to be had.
--
-- The functions that change something run with the rights of this schema's owner, so
-- nobody else needs to write to its tables: not the hub, not who publishes, and not who
-- writes to an attached table. So nobody sets an event's `xid` or `seq`, or puts
-- something on a topic that he was not let publish on.

REVOKE ALL ON ALL ROUTINES IN SCHEMA bellwether FROM PUBLIC;

-- What is needed, beside USAGE of the schema, to
--   hub      run a hub: read the events, have them numbered, delete old ones
--   attach   attach tables on which one may create triggers
--   publish  call bellwether.publish, on any topic
CREATE FUNCTION bellwether.rights_to(what text) RETURNS TABLE (right_to text, object text, is_there boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'EXECUTE ON ' || CASE pg_proc.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
        pg_proc.oid::regprocedure::text, has_function_privilege(pg_proc.oid, 'EXECUTE')
    FROM pg_proc
    WHERE pg_proc.pronamespace = 'bellwether'::regnamespace AND CASE what
        WHEN 'hub' THEN pg_proc.proname IN ('look', 'advance', 'settle', 'page', 'lapse', 'sleep', 'connect', 'retain', 'ring', 'is_awake', 'notify', 'can_notify', 'now_ms', 'promise',
            'hub_lock', 'count_hubs', 'unseen', 'stretch', 'publish_requests', 'places',
            'publish', 'claim_snapshot')
        WHEN 'attach' THEN pg_proc.proname IN ('attach', 'detach', 'record_attachment', 'sweep')
        WHEN 'publish' THEN pg_proc.proname = 'publish'
        END
    UNION ALL
    -- To look at attachments, and at what is wrong with them.
    SELECT 'EXECUTE ON FUNCTION', pg_proc.oid::regprocedure::text, has_function_privilege(pg_proc.oid, 'EXECUTE')
    FROM pg_proc
    WHERE pg_proc.pronamespace = 'bellwether'::regnamespace AND what IN ('hub', 'attach')
        AND pg_proc.proname IN ('drift', 'capture_source', 'capture_op', 'capture_select', 'capture_side',
            'row_expression', 'key_expression', 'template_expression', 'template_parts', 'key_columns',
            'named_columns', 'with_descendants', 'wanted_triggers', 'present_triggers', 'foreign_columns', 'column_types',
            'is_trusted', 'chosen_columns', 'trusted_columns')
    UNION ALL
    SELECT 'SELECT ON', pg_class.oid::regclass::text, has_table_privilege(pg_class.oid, 'SELECT')
    FROM pg_class
    WHERE pg_class.relnamespace = 'bellwether'::regnamespace AND CASE what
        WHEN 'hub' THEN pg_class.relname IN ('event', 'stream', 'batch', 'epoch', 'state', 'migration', 'attachment', 'attachments')
        WHEN 'attach' THEN pg_class.relname IN ('migration', 'attachment', 'attachments')
        END
$$;

-- Everybody may ask what he lacks.
GRANT EXECUTE ON FUNCTION bellwether.rights_to TO PUBLIC;

-- Lets a role do one of these. To be called again after an upgrade.
CREATE FUNCTION bellwether.allow(role name, what text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    needed record;
BEGIN
    IF what IS NULL OR what NOT IN ('hub', 'attach', 'publish') THEN
        RAISE 'nobody can be allowed to %', coalesce(quote_literal(what), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'There are hub, attach and publish.';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA bellwether TO %I', role);
    FOR needed IN SELECT * FROM bellwether.rights_to(what) LOOP
        EXECUTE format('GRANT %s %s TO %I', needed.right_to, needed.object, role);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION bellwether.allow FROM PUBLIC;
