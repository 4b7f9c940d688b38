-- Rights: what is not given is not to be had.
--
-- The functions that change something run with the rights of this schema's owner, so
-- nobody else needs to write to its tables: not the hub, not who publishes, and not who
-- writes to an attached table. So nobody sets an event's `xid` or `seq`, or puts
-- something on a topic that he was not let publish on.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA bellwether FROM PUBLIC;

-- Lets a role do one of these:
--   hub      run a hub: read the events, number them, delete old ones
--   attach   attach tables on which it may create triggers
--   publish  call bellwether.publish, on any topic
-- It may be called again, and is to be after an upgrade.
CREATE FUNCTION bellwether.allow(role name, what text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    functions text[];
    tables text[] := '{}';
    routine regprocedure;
BEGIN
    functions := CASE what
        WHEN 'hub' THEN '{advance,lapse,sleep,connect,retain,hub_lock,count_hubs,publish_requests,places,drift,
            capture_source,capture_op,capture_select,capture_side,row_expression,key_expression,template_expression,
            template_parts,key_columns,named_columns,with_descendants,wanted_triggers,present_triggers}'
        WHEN 'attach' THEN '{attach,detach,record_attachment,sweep,drift,
            capture_source,capture_op,capture_select,capture_side,row_expression,key_expression,template_expression,
            template_parts,key_columns,named_columns,with_descendants,wanted_triggers,present_triggers}'
        WHEN 'publish' THEN '{publish}'
    END;
    tables := CASE what
        WHEN 'hub' THEN '{event,stream,batch,epoch,state,migration,attachment,attachments}'
        WHEN 'attach' THEN '{attachment,attachments}'
        ELSE '{}'
    END;
    IF functions IS NULL THEN
        RAISE 'nobody can be allowed to %', quote_literal(what)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'There are hub, attach and publish.';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA bellwether TO %I', role);
    FOR routine IN
        SELECT pg_proc.oid::regprocedure FROM pg_proc
        WHERE pg_proc.pronamespace = 'bellwether'::regnamespace AND pg_proc.proname = ANY (functions)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', routine, role);
    END LOOP;
    FOR i IN 1..cardinality(tables) LOOP
        EXECUTE format('GRANT SELECT ON bellwether.%I TO %I', tables[i], role);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION bellwether.allow FROM PUBLIC;
