-- Attachments: a table of the user's is captured into events.
--
-- `attach` writes one trigger function for the table, and statement-level triggers
-- that call it: whatever a statement did, a COPY of a million rows, is captured by one
-- INSERT ... SELECT. The function runs with the rights of this schema's owner, so
-- writers need rights on their own table only.
--
-- Capturing must never fail the writer. What the function names are columns of
-- somebody else's table, which may be renamed or dropped at any time: it names them
-- so that a missing one reads as NULL (see `capture_side`), and `drift` tells.

CREATE TABLE bellwether.attachment (
    -- Part of the function's name. Not the table's oid, which a restored dump changes.
    id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL UNIQUE,
    topic    text NOT NULL,
    event    text NOT NULL,
    ops      text[] NOT NULL,
    columns  text[],           -- NULL: all there are, also those added later
    old      boolean NOT NULL,
    retain   boolean NOT NULL,
    doorbell boolean NOT NULL,
    replica  boolean NOT NULL,
    attached_by name NOT NULL,
    attached_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- === Tokens and templates ===

-- A value as one token of a topic: what no token may hold, and `%`, is written as
-- `%XX` for each of its bytes. NULL is `%null` and an empty text `%empty`, which no
-- value becomes.
CREATE FUNCTION bellwether.escape_token(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- White space and control characters as Unicode has them, whatever the locale.
    forbidden CONSTANT text := '[\u0001-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000.*>%]';
    escaped text;
BEGIN
    IF value IS NULL THEN
        RETURN '%null';
    ELSIF value = '' THEN
        RETURN '%empty';
    END IF;
    SELECT string_agg(
        CASE WHEN split.c ~ forbidden
            THEN regexp_replace(upper(encode(convert_to(split.c, 'UTF8'), 'hex')), '(..)', '%\1', 'g')
            ELSE split.c END, '' ORDER BY split.n)
    INTO escaped
    FROM regexp_split_to_table(value, '') WITH ORDINALITY AS split (c, n);
    -- A topic has 255 bytes. What stands for a longer value must not stand for another.
    IF octet_length(escaped) > 100 THEN
        escaped := left(bellwether.token(left(value, 16)), 48) || '%~' || left(encode(sha256(convert_to(value, 'UTF8')), 'hex'), 32);
    END IF;
    RETURN escaped;
END $$;

-- The same, with the usual case short enough to be inlined.
CREATE FUNCTION bellwether.token(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN value ~ '^[A-Za-z0-9_-]{1,64}$' THEN value ELSE bellwether.escape_token(value) END;

-- Takes a template apart: `org.{org_id}.{table}` is literal `org.`, field `org_id`,
-- literal `.`, field `table`. Of each row one is NULL.
CREATE FUNCTION bellwether.template_parts(template text) RETURNS TABLE (n bigint, literal text, field text)
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT part.n,
        CASE WHEN part.match[2] IS NULL THEN part.match[1] END,
        part.match[2]
    FROM regexp_matches(template, '([^{}]+|\{([^{}]*)\}|[{}])', 'g') WITH ORDINALITY AS part (match, n);
END;

-- Fails unless a text is a topic.
CREATE FUNCTION bellwether.check_topic(topic text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(topic, '') = '' OR octet_length(topic) > 255 OR topic ~ '(^|\.)(\.|$)'
        OR topic ~ '[\u0001-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000*>]'
    THEN
        RAISE '% is no topic', coalesce(quote_literal(topic), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A topic is one or more tokens with dots between, of up to 255 bytes in all, without white space, * and >.';
    END IF;
END $$;

-- Fails unless a text is a name for an event. Three are the hub's own.
CREATE FUNCTION bellwether.check_name(name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(name, '') = '' OR octet_length(name) > 255 OR name ~ '[\u0001-\u001f\u007f]' OR name IN ('heartbeat', 'gap', 'expired') THEN
        RAISE '% is no name for an event', coalesce(quote_literal(name), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A name has up to 255 bytes and no control characters, and is not heartbeat, gap or expired, which are the hub''s.';
    END IF;
END $$;

-- === Whose types ===

-- To make a text or JSON of a value calls the casts of its type, which are functions of
-- whoever made the type; and what captures runs with the rights of this schema's owner. So it
-- takes only types as they are that belong to him or to superusers. Of any other it has the
-- text that Postgres itself writes.
CREATE FUNCTION bellwether.is_trusted(owner oid) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM pg_roles WHERE pg_roles.oid = is_trusted.owner AND pg_roles.rolsuper)
        OR EXISTS (SELECT FROM pg_namespace WHERE pg_namespace.nspname = 'bellwether' AND pg_namespace.nspowner = is_trusted.owner);
END;

-- The types of a table's columns, and those that they are made of, without Postgres' own: those
-- have the oids that initdb gives, and are as they were then.
CREATE FUNCTION bellwether.column_types(relation oid) RETURNS TABLE (name name, type oid, kind "char", owner oid)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE used (name, type) AS (
        SELECT pg_attribute.attname, pg_attribute.atttypid FROM pg_attribute
        WHERE pg_attribute.attrelid = column_types.relation AND pg_attribute.attnum > 0 AND NOT pg_attribute.attisdropped
            AND pg_attribute.atttypid >= 16384
        UNION
        SELECT used.name, part.type
        FROM used JOIN pg_type ON pg_type.oid = used.type
        CROSS JOIN LATERAL (
            SELECT pg_type.typelem UNION ALL SELECT pg_type.typbasetype
            UNION ALL SELECT pg_attribute.atttypid FROM pg_attribute
            WHERE pg_attribute.attrelid = pg_type.typrelid AND pg_attribute.attnum > 0 AND NOT pg_attribute.attisdropped
        ) AS part (type)
        WHERE part.type >= 16384
    )
    SELECT used.name, used.type, pg_type.typtype, pg_type.typowner FROM used JOIN pg_type ON pg_type.oid = used.type
    OFFSET 0; -- what is asked of a type is asked of these only
END;

-- The columns of others' types.
CREATE FUNCTION bellwether.foreign_columns(relation regclass) RETURNS TABLE (name text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT DISTINCT used.name::text FROM bellwether.column_types(foreign_columns.relation) AS used
    WHERE NOT bellwether.is_trusted(used.owner);
END;

-- Whether a table was altered and this transaction does not see it: its snapshot is older.
-- What it sees then has been replaced by somebody who has committed.
CREATE FUNCTION bellwether.is_outdated(relation oid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    next CONSTANT bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('repeatable read', 'serializable') THEN
        RETURN false;
    END IF;
    RETURN EXISTS (
        SELECT FROM (
            SELECT pg_class.xmax FROM pg_class WHERE pg_class.oid = is_outdated.relation
            UNION ALL
            SELECT pg_attribute.xmax FROM pg_attribute WHERE pg_attribute.attrelid = is_outdated.relation AND pg_attribute.attnum > 0
        ) AS seen
        -- The number of a transaction has 32 bits there, and of those around it 64.
        CROSS JOIN LATERAL (SELECT (seen.xmax::text::bigint - next) % 4294967296 AS apart) AS from_next
        CROSS JOIN LATERAL (SELECT next + CASE
            WHEN from_next.apart >= 2147483648 THEN from_next.apart - 4294967296
            WHEN from_next.apart < -2147483648 THEN from_next.apart + 4294967296
            ELSE from_next.apart END AS xid) AS replaced
        WHERE seen.xmax <> '0' AND replaced.xid > 0 AND pg_xact_status(replaced.xid::text::xid8) = 'committed');
END $$;

-- === What is generated ===

-- The columns of a table's primary key, in its order.
CREATE FUNCTION bellwether.key_columns(relation regclass) RETURNS text[]
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(array_agg(pg_attribute.attname::text ORDER BY part.n), '{}')
    FROM pg_index
    CROSS JOIN unnest(pg_index.indkey::smallint[]) WITH ORDINALITY AS part (attnum, n)
    JOIN pg_attribute ON pg_attribute.attrelid = pg_index.indrelid AND pg_attribute.attnum = part.attnum
    WHERE pg_index.indrelid = relation AND pg_index.indisprimary;
END;

-- The columns that an attachment publishes, or NULL for the whole row: not if some are of
-- others' types, as those are published in another way.
CREATE FUNCTION bellwether.chosen_columns(attachment bellwether.attachment) RETURNS text[]
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT CASE
        WHEN (attachment).columns IS NOT NULL THEN (attachment).columns
        WHEN EXISTS (SELECT FROM bellwether.foreign_columns((attachment).relation)) THEN ARRAY (
            SELECT pg_attribute.attname::text FROM pg_attribute
            WHERE pg_attribute.attrelid = (attachment).relation AND pg_attribute.attnum > 0
                AND NOT pg_attribute.attisdropped AND pg_attribute.attgenerated <> 'v'
            ORDER BY pg_attribute.attnum)
        END;
END;

-- The columns that an attachment names: in its templates, its list and its key.
CREATE FUNCTION bellwether.named_columns(attachment bellwether.attachment) RETURNS text[]
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(array_agg(DISTINCT named.name ORDER BY named.name), '{}')
    FROM (
        SELECT part.field FROM bellwether.template_parts((attachment).topic) AS part
        UNION ALL SELECT part.field FROM bellwether.template_parts((attachment).event) AS part
        UNION ALL SELECT unnest(bellwether.chosen_columns(attachment))
        UNION ALL SELECT unnest(bellwether.key_columns((attachment).relation))
    ) AS named (name)
    WHERE named.name IS NOT NULL AND named.name NOT IN ('table', 'schema', 'op');
END;

-- Of the columns that an attachment names, those whose types are taken as they are; NULL for
-- all of the row.
CREATE FUNCTION bellwether.trusted_columns(attachment bellwether.attachment) RETURNS text[]
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT CASE WHEN bellwether.chosen_columns(attachment) IS NOT NULL THEN ARRAY (
        SELECT named.name FROM unnest(bellwether.named_columns(attachment)) AS named (name)
        WHERE named.name NOT IN (SELECT found.name FROM bellwether.foreign_columns((attachment).relation) AS found)
        ORDER BY named.name)
        END;
END;

-- An expression for a template over the columns `side` has.
CREATE FUNCTION bellwether.template_expression(
    template text, named text[], side text, op text, as_tokens boolean
) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT coalesce(string_agg(
        CASE
            WHEN part.literal IS NOT NULL THEN quote_literal(part.literal)
            WHEN part.field = 'op' THEN quote_literal(op)
            WHEN part.field IN ('table', 'schema') THEN
                format(CASE WHEN as_tokens THEN 'bellwether.token(%I)' ELSE '%I' END, 'bellwether ' || part.field)
            WHEN side IS NULL THEN quote_literal(CASE WHEN as_tokens THEN '%null' ELSE '' END)
            ELSE format(
                CASE WHEN as_tokens THEN 'bellwether.token(%I.c%s::text)' ELSE 'coalesce(%I.c%s::text, '''')' END,
                side, array_position(named, part.field))
        END, ' || ' ORDER BY part.n), '''''')
    FROM bellwether.template_parts(template) AS part;
END;

-- The rows of one side of a statement, `new` or `old`, with the named columns as c1,
-- c2, ..., the whole row as `whole`, and where asked, their place in the statement as `n`.
--
-- A name that is no column of the rows any more is found one level further out, in
-- `missing`, and is NULL there: SQL looks for a name without a table from the inside
-- out. It costs nothing, for the planner takes the levels away. `concat` makes a text of
-- anything without a cast.
CREATE FUNCTION bellwether.capture_side(side text, rows text, named text[], trusted text[], numbered boolean) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT format(
        '(SELECT present.* FROM (SELECT %s) AS missing CROSS JOIN LATERAL '
            '(SELECT %I AS whole%s%s FROM %s) AS present) AS %I',
        string_agg(format('NULL::text AS %I', part.name), ', '),
        'bellwether ' || side,
        CASE WHEN numbered THEN ', row_number() OVER () AS n' END,
        string_agg(format(CASE WHEN part.name = ANY (trusted) OR trusted IS NULL
            THEN ', %I AS c%s' ELSE ', CASE num_nulls(%1$I) WHEN 0 THEN concat(%1$I) END AS c%2$s' END,
            part.name, part.n), '' ORDER BY part.n),
        rows,
        side)
    FROM unnest(named) WITH ORDINALITY AS part (name, n);
END;

-- One side's row as JSON: the chosen columns, or all.
CREATE FUNCTION bellwether.row_expression(columns text[], named text[], side text) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT CASE
        WHEN side IS NULL THEN 'NULL::json'
        WHEN columns IS NULL THEN format('row_to_json(%I.whole)', side)
        ELSE format('(SELECT row_to_json(chosen) FROM (SELECT %s) AS chosen)',
            string_agg(format('%s.c%s AS %I', side, array_position(named, part.name), part.name), ', ' ORDER BY part.n))
    END
    FROM unnest(columns) WITH ORDINALITY AS part (name, n);
END;

-- One side's key: the primary key's only column as text, or an array of them as JSON.
CREATE FUNCTION bellwether.key_expression(keys text[], named text[], side text) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT CASE count(*)
        WHEN 0 THEN 'NULL::text'
        WHEN 1 THEN min(format('%I.c%s::text', side, array_position(named, part.name)))
        ELSE format('json_build_array(%s)::text',
            string_agg(format('%I.c%s', side, array_position(named, part.name)), ', ' ORDER BY part.n))
    END
    FROM unnest(keys) WITH ORDINALITY AS part (name, n);
END;

-- What makes the event of one row, as a SELECT without its FROM. `new_side` and
-- `old_side` say which rows there are.
CREATE FUNCTION bellwether.capture_select(
    attachment bellwether.attachment, op text, keys text[], named text[],
    new_side text, old_side text
) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    side CONSTANT text := coalesce(new_side, old_side); -- whose row the event is about
    data text := bellwether.row_expression(attachment.columns, named, side);
    brief text;
BEGIN
    IF attachment.old THEN
        data := format('json_build_object(''old'', %s, ''new'', %s)',
            bellwether.row_expression(attachment.columns, named, old_side),
            bellwether.row_expression(attachment.columns, named, new_side));
    END IF;
    SELECT format('json_build_object(%s''truncated'', true)',
        string_agg(format('%L, %I.c%s, ', key.name, side, array_position(named, key.name)), '' ORDER BY key.n))
    INTO brief FROM unnest(keys) WITH ORDINALITY AS key (name, n);

    RETURN format('SELECT %s AS topic, %s AS name, %s AS key, %s AS data, %s AS brief, %s AS retain',
        bellwether.template_expression(attachment.topic, named, side, op, true),
        bellwether.template_expression(attachment.event, named, side, op, false),
        bellwether.key_expression(keys, named, side),
        data, brief,
        CASE WHEN attachment.retain THEN (op <> 'delete')::text ELSE 'NULL::boolean' END);
END $$;

-- What captures one operation, as a SELECT.
--
-- An UPDATE that moves a row to another topic or key is a delete there and an insert
-- here, so that a subscriber of the old topic, and whoever keeps rows by their keys,
-- is told. The deletes come first: another row may have the key by now.
CREATE FUNCTION bellwether.capture_op(attachment bellwether.attachment, op text, each_row boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    keys CONSTANT text[] := bellwether.key_columns(attachment.relation);
    named CONSTANT text[] := bellwether.named_columns(attachment);
    trusted CONSTANT text[] := bellwether.trusted_columns(attachment);
    new_rows CONSTANT text := CASE WHEN each_row THEN '(SELECT NEW.*) AS "bellwether new"' ELSE '"bellwether new"' END;
    old_rows CONSTANT text := CASE WHEN each_row THEN '(SELECT OLD.*) AS "bellwether old"' ELSE '"bellwether old"' END;
    from_new CONSTANT text := ' FROM ' || bellwether.capture_side('new', new_rows, named, trusted, false);
    from_old CONSTANT text := ' FROM ' || bellwether.capture_side('old', old_rows, named, trusted, false);
    -- A row has the same place in both.
    from_both CONSTANT text := format(' FROM %s JOIN %s ON new.n = old.n',
        bellwether.capture_side('new', new_rows, named, trusted, true), bellwether.capture_side('old', old_rows, named, trusted, true));
    moves CONSTANT boolean := cardinality(keys) > 0 OR EXISTS (
        SELECT FROM bellwether.template_parts(attachment.topic) AS part
        WHERE part.field NOT IN ('table', 'schema', 'op'));
    moved CONSTANT text := format(' (%s, %s) IS DISTINCT FROM (%s, %s)',
        bellwether.template_expression(attachment.topic, named, 'new', 'update', true),
        bellwether.key_expression(keys, named, 'new'),
        bellwether.template_expression(attachment.topic, named, 'old', 'update', true),
        bellwether.key_expression(keys, named, 'old'));
BEGIN
    attachment.columns := bellwether.chosen_columns(attachment);
    IF op = 'insert' THEN
        RETURN bellwether.capture_select(attachment, op, keys, named, 'new', NULL) || from_new;
    ELSIF op = 'delete' THEN
        RETURN bellwether.capture_select(attachment, op, keys, named, NULL, 'old') || from_old;
    ELSIF op = 'truncate' THEN
        RETURN format(
            'SELECT %s AS topic, %s AS name, NULL AS key, ''null''::json AS data, NULL::json AS brief, NULL::boolean AS retain',
            bellwether.template_expression(attachment.topic, named, NULL, op, true),
            bellwether.template_expression(attachment.event, named, NULL, op, false));
    ELSIF NOT moves THEN
        RETURN bellwether.capture_select(attachment, op, keys, named, 'new', 'old')
            || CASE WHEN attachment.old THEN from_both ELSE from_new END;
    END IF;
    RETURN format('SELECT event.*%s CROSS JOIN LATERAL (%s, 1 AS part, new.n WHERE NOT%s '
            'UNION ALL %s, 1, new.n WHERE%s%s) AS event ORDER BY event.part, event.n',
        from_both,
        bellwether.capture_select(attachment, 'update', keys, named, 'new', 'old'), moved,
        bellwether.capture_select(attachment,
            CASE WHEN 'insert' = ANY (attachment.ops) THEN 'insert' ELSE 'update' END, keys, named, 'new', NULL), moved,
        CASE WHEN 'delete' = ANY (attachment.ops) THEN format(' UNION ALL %s, 0, old.n WHERE%s',
            bellwether.capture_select(attachment, 'delete', keys, named, NULL, 'old'), moved) END);
END $$;

-- Whether a trigger on this table may do an attachment's work, with the rights of this
-- schema's owner. Who may execute the attachment's function could have made a trigger of it
-- on any table of his; a partition that was detached keeps its triggers; and a column that is
-- taken for `trusted` (NULL: all are) may be of somebody's type by now.
CREATE FUNCTION bellwether.may_capture(attachment integer, relation regclass, trusted text[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF bellwether.is_outdated(relation) THEN
        RAISE 'could not serialize access: % was altered after this transaction began', relation
            USING ERRCODE = 'serialization_failure', HINT = 'Run the transaction again.';
    END IF;
    RETURN EXISTS (
        WITH RECURSIVE above (relation) AS (
            SELECT may_capture.relation
            UNION
            SELECT pg_inherits.inhparent::regclass FROM above JOIN pg_inherits ON pg_inherits.inhrelid = above.relation
        )
        SELECT FROM bellwether.attachment AS existing JOIN above USING (relation)
        WHERE existing.id = may_capture.attachment
    ) AND NOT EXISTS (
        SELECT FROM bellwether.foreign_columns(may_capture.relation) AS found
        WHERE may_capture.trusted IS NULL OR found.name = ANY (may_capture.trusted));
END $$;

-- Whether that needs no asking: all those columns are of types that nobody can make casts
-- for, and that stay what they are, as composite ones may not.
--
-- IMMUTABLE, so that it is asked when a writer's session plans and costs no statement. That is
-- right in a query over a table's transition rows: such a plan is made anew when the table changes,
-- and while it is written to it cannot change.
CREATE FUNCTION bellwether.is_plain(relation oid, trusted text[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF bellwether.is_outdated(relation) OR NOT EXISTS (SELECT FROM pg_class WHERE pg_class.oid = is_plain.relation) THEN
        RETURN false;
    ELSIF NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE pg_attribute.attrelid = is_plain.relation AND pg_attribute.attnum > 0 AND NOT pg_attribute.attisdropped
            AND pg_attribute.atttypid >= 16384)
    THEN
        RETURN true; -- the usual case, and the cheap one
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM bellwether.column_types(is_plain.relation) AS used
        WHERE (is_plain.trusted IS NULL OR used.name = ANY (is_plain.trusted))
            AND (used.kind = 'c' OR NOT bellwether.is_trusted(used.owner)));
END $$;

-- The body of an attachment's trigger function: for whole statements or, where
-- replication applies rows one by one, for each row.
CREATE FUNCTION bellwether.capture_source(attachment bellwether.attachment, each_row boolean) RETURNS text
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT format($body$
#variable_conflict use_column
DECLARE
    "bellwether schema" CONSTANT text := coalesce(TG_ARGV[0], TG_TABLE_SCHEMA);
    "bellwether table" CONSTANT text := coalesce(TG_ARGV[1], TG_TABLE_NAME);
BEGIN
    -- The attached table itself is known.
    IF TG_RELID <> %s AND NOT %s THEN
        RETURN NULL;
    END IF;
    %s END IF;
    %s
    RETURN NULL;
END $body$,
        (attachment).relation::oid,
        ask.may_capture,
        string_agg(format($body$IF TG_OP = %L THEN
        INSERT INTO bellwether.event (topic, name, key, data, retain)
        SELECT captured.topic, captured.name, captured.key,
            CASE WHEN pg_column_size(captured.data) <= %s THEN captured.data ELSE captured.brief END, captured.retain
        FROM (
            %s
            OFFSET 0 -- each expression is evaluated once
        ) AS captured
        WHERE %s;
    $body$,
            upper(op.name), 256 * 1024, bellwether.capture_op(attachment, op.name, each_row),
            CASE WHEN op.name = 'truncate' THEN 'true' WHEN each_row THEN ask.once
                ELSE format('bellwether.is_plain(%s, %L) OR %s', (attachment).relation::oid, ask.trusted, ask.once) END),
            'ELS' ORDER BY op.name),
        CASE WHEN (attachment).doorbell THEN 'IF FOUND AND NOT bellwether.is_awake() THEN PERFORM bellwether.ring(); END IF;' END)
    FROM unnest((attachment).ops) AS op (name)
    CROSS JOIN (
        SELECT known.trusted, known.may_capture, format('(SELECT %s)', known.may_capture) AS once
        FROM (
            SELECT bellwether.trusted_columns(attachment) AS trusted,
                format('bellwether.may_capture(%s, TG_RELID, %L)', (attachment).id, bellwether.trusted_columns(attachment)) AS may_capture
        ) AS known
    ) AS ask
    WHERE NOT (each_row AND op.name = 'truncate')
    GROUP BY ask.trusted, ask.may_capture, ask.once;
END;

-- === Attaching ===

-- Who called, also from within functions that run with this schema's rights.
CREATE FUNCTION bellwether.caller() RETURNS name
LANGUAGE sql STABLE
RETURN coalesce(nullif(current_setting('role'), 'none'), session_user)::name;

-- A table and all that inherits from it or is a partition of it.
CREATE FUNCTION bellwether.with_descendants(relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE tree (relation) AS (
        SELECT with_descendants.relation
        UNION
        SELECT pg_inherits.inhrelid::regclass
        FROM tree JOIN pg_inherits ON pg_inherits.inhparent = tree.relation
    )
    SELECT tree.relation FROM tree JOIN pg_class ON pg_class.oid = tree.relation
    WHERE pg_class.relkind IN ('r', 'p'); -- a foreign table has no such triggers
END;

-- The triggers that an attachment is to have: on the table, and on each table below it
-- for rows that are put straight into those. A statement fires those of the table it
-- names only, so no row is captured twice; but a TRUNCATE fires all, so it has one.
-- Written as `pg_get_triggerdef` writes them.
CREATE FUNCTION bellwether.wanted_triggers(attachment bellwether.attachment)
RETURNS TABLE (relation regclass, name name, enabled "char", definition text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    WITH target AS (
        SELECT tree.relation, leaf.relkind,
            CASE WHEN tree.relation <> ($1).relation
                THEN format('%L, %L', pg_namespace.nspname, root.relname) ELSE '' END AS arguments
        FROM bellwether.with_descendants(($1).relation) AS tree (relation)
        JOIN pg_class AS leaf ON leaf.oid = tree.relation
        CROSS JOIN pg_class AS root
        JOIN pg_namespace ON pg_namespace.oid = root.relnamespace
        WHERE root.oid = ($1).relation
    ), trigger AS (
        SELECT target.relation, ('bellwether_' || op.name)::name AS name,
            CASE WHEN ($1).replica AND op.name = 'truncate' THEN 'A'::"char" ELSE 'O' END AS enabled,
            upper(op.name) AS events,
            CASE op.name
                WHEN 'insert' THEN 'REFERENCING NEW TABLE AS "bellwether new" '
                WHEN 'update' THEN 'REFERENCING OLD TABLE AS "bellwether old" NEW TABLE AS "bellwether new" '
                WHEN 'delete' THEN 'REFERENCING OLD TABLE AS "bellwether old" '
                ELSE '' END || 'FOR EACH STATEMENT' AS how,
            '' AS suffix, target.arguments
        FROM target CROSS JOIN unnest(($1).ops) AS op (name)
        WHERE op.name <> 'truncate' OR target.relation = ($1).relation
        UNION ALL
        -- Replication applies rows, to the tables that hold them, and whole truncates.
        SELECT target.relation, 'bellwether_replicated', 'R',
            (SELECT string_agg(upper(op.name), ' OR ' ORDER BY array_position('{insert,delete,update}', op.name))
             FROM unnest(($1).ops) AS op (name) WHERE op.name <> 'truncate'),
            'FOR EACH ROW', '_row', target.arguments
        FROM target WHERE ($1).replica AND target.relkind = 'r' AND ($1).ops <> '{truncate}'
    )
    SELECT trigger.relation, trigger.name, trigger.enabled,
        format('CREATE TRIGGER %s AFTER %s ON %s %s EXECUTE FUNCTION bellwether.capture_%s%s(%s)',
            trigger.name, trigger.events, trigger.relation, trigger.how, ($1).id, trigger.suffix, trigger.arguments)
    FROM trigger
$$;

-- Those that there are, on whatever table: a partition may have been detached meanwhile.
CREATE FUNCTION bellwether.present_triggers(attachment integer)
RETURNS TABLE (relation regclass, name name, enabled "char", definition text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT pg_trigger.tgrelid::regclass, pg_trigger.tgname, pg_trigger.tgenabled, pg_get_triggerdef(pg_trigger.oid)
    FROM pg_trigger
    WHERE pg_trigger.tgfoid IN (to_regproc('bellwether.capture_' || $1), to_regproc('bellwether.capture_' || $1 || '_row'))
$$;

-- Captures a table. To call it again changes what is different, and takes no lock where
-- nothing is. Its triggers need the lock SHARE ROW EXCLUSIVE, which waits for running
-- writers and holds up others: on a busy table set a `lock_timeout`.
--
--   relation  the table; partitions and tables that inherit from it come along
--   topic, event  templates over {table}, {schema}, {op} and {column}
--   ops       insert, update, delete, truncate
--   columns   those that are published; all if NULL, also those added later
--   old       data is {"old": row or null, "new": row or null}
--   retain    the last event of each topic is given to new clients first; a delete ends that
--   doorbell  false: does not wake hubs (for two-phase commit); they look once a second
--   replica   also rows that logical replication applies, or that are written with
--             session_replication_role = replica
--
-- Returns `attached`, `changed` or `unchanged`. It runs with the caller's rights, who
-- needs those to create triggers on the table; for `replica`, and to attach it again, he
-- must own it or, to attach it again, have attached it.
--
-- A column GENERATED ALWAYS AS ... VIRTUAL (Postgres 18) is null in a row: Postgres does not
-- compute it for triggers.
CREATE FUNCTION bellwether.attach(
    relation regclass,
    topic    text    DEFAULT '{table}',
    event    text    DEFAULT '{table}.{op}',
    ops      text[]  DEFAULT '{insert,update,delete,truncate}',
    columns  text[]  DEFAULT NULL,
    old      boolean DEFAULT false,
    retain   boolean DEFAULT false,
    doorbell boolean DEFAULT true,
    replica  boolean DEFAULT false
) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    recorded record;
    wanted record;
    surplus record;
BEGIN
    SELECT * INTO recorded
    FROM bellwether.record_attachment(relation, topic, event, ops, columns, old, retain, doorbell, replica);

    FOR surplus IN
        -- Of this attachment, and of those of tables that now come along.
        SELECT present.* FROM bellwether.attachment AS existing
        JOIN bellwether.with_descendants(attach.relation) AS tree (relation) USING (relation)
        CROSS JOIN LATERAL bellwether.present_triggers(existing.id) AS present
        WHERE (present.relation, present.name) NOT IN (
            SELECT due.relation, due.name FROM bellwether.wanted_triggers(recorded.attachment) AS due)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', surplus.name, surplus.relation);
        recorded.outcome := replace(recorded.outcome, 'unchanged', 'changed');
    END LOOP;
    FOR wanted IN
        SELECT * FROM bellwether.wanted_triggers(recorded.attachment)
        EXCEPT SELECT * FROM bellwether.present_triggers((recorded.attachment).id)
    LOOP
        EXECUTE regexp_replace(wanted.definition, '^CREATE', 'CREATE OR REPLACE');
        IF wanted.enabled <> 'O' THEN
            EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', wanted.relation,
                CASE wanted.enabled WHEN 'R' THEN 'REPLICA' ELSE 'ALWAYS' END, wanted.name);
        END IF;
        recorded.outcome := replace(recorded.outcome, 'unchanged', 'changed');
    END LOOP;
    PERFORM bellwether.sweep();
    RETURN recorded.outcome;
END $$;

-- The part of `attach` that needs this schema's rights: checks what is asked for, keeps
-- it, and writes the trigger functions.
CREATE FUNCTION bellwether.record_attachment(
    relation regclass, topic text, event text, ops text[], columns text[],
    old boolean, retain boolean, doorbell boolean, replica boolean,
    OUT attachment bellwether.attachment, OUT outcome text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    caller CONSTANT name := bellwether.caller();
    before bellwether.attachment;
    class record;
    above regclass;
    wrong text;
    needs_formats boolean;
    each_row boolean;
    suffix text;
    source text;
BEGIN
    SELECT pg_class.relkind, pg_class.relpersistence, pg_class.relowner, pg_namespace.nspname INTO class
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace WHERE pg_class.oid = relation;
    IF NOT FOUND THEN
        RAISE 'there is no table to attach: NULL was given' USING ERRCODE = 'null_value_not_allowed';
    ELSIF class.relkind NOT IN ('r', 'p') OR class.relpersistence = 't' THEN
        RAISE '% cannot be attached: it is no table, or a foreign or temporary one', relation
            USING ERRCODE = 'wrong_object_type', HINT = 'For a view, attach the tables that it reads.';
    ELSIF class.nspname IN ('bellwether', 'pg_catalog', 'information_schema') THEN
        RAISE '% belongs to the system and cannot be attached', relation USING ERRCODE = 'wrong_object_type';
    ELSIF NOT has_table_privilege(caller, relation, 'TRIGGER') THEN
        RAISE '% may not create triggers on %', caller, relation
            USING ERRCODE = 'insufficient_privilege', HINT = format('GRANT TRIGGER ON %s TO %I', relation, caller);
    END IF;

    SELECT existing.relation INTO above FROM bellwether.attachment AS existing
    WHERE existing.relation <> relation
        AND relation IN (SELECT tree.relation FROM bellwether.with_descendants(existing.relation) AS tree (relation));
    IF FOUND THEN
        RAISE '% comes along with %, which is attached', relation, above
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = format('Detach %s first.', above);
    END IF;

    SELECT coalesce(array_agg(DISTINCT op.name), '{}'),
        string_agg(op.name, ', ') FILTER (WHERE op.name NOT IN ('insert', 'update', 'delete', 'truncate'))
    INTO ops, wrong FROM (SELECT lower(trim(each.name)) AS name FROM unnest(ops) AS each (name)) AS op;
    IF wrong IS NOT NULL OR ops = '{}' THEN
        RAISE 'no such operation: %', coalesce(wrong, 'none is named')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'There are insert, update, delete and truncate.';
    ELSIF columns = '{}' THEN
        RAISE 'no column is named' USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL stands for all.';
    END IF;

    SELECT part.literal INTO wrong
    FROM (
        SELECT * FROM bellwether.template_parts(topic) UNION ALL SELECT * FROM bellwether.template_parts(event)
    ) AS part
    WHERE part.literal ~ '[{}]';
    IF FOUND THEN
        RAISE 'a brace without its pair in the template % or %', quote_literal(topic), quote_literal(event)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- With something for every field, what is left must be a topic.
    PERFORM bellwether.check_topic(regexp_replace(topic, '\{[^{}]*\}', 'x', 'g'));
    PERFORM bellwether.check_name(event);

    SELECT existing.* INTO before FROM bellwether.attachment AS existing WHERE existing.relation = relation FOR UPDATE;
    IF FOUND AND NOT pg_has_role(caller, class.relowner, 'USAGE') AND NOT EXISTS (
        SELECT FROM pg_roles WHERE pg_roles.rolname = before.attached_by AND pg_has_role(caller, pg_roles.oid, 'USAGE'))
    THEN
        RAISE '% was attached by %, and % may not change that', relation, before.attached_by, caller
            USING ERRCODE = 'insufficient_privilege', HINT = format('Have %s or the table''s owner do it.', before.attached_by);
    END IF;
    attachment := (coalesce(before.id, 0), relation, topic, event, ops, columns, old, retain, doorbell, replica,
        coalesce(before.attached_by, caller), before.attached_at);
    SELECT string_agg(quote_ident(named.name), ', ') INTO wrong
    FROM unnest(bellwether.named_columns(attachment)) AS named (name)
    WHERE named.name NOT IN (
        SELECT pg_attribute.attname FROM pg_attribute
        WHERE pg_attribute.attrelid = relation AND pg_attribute.attnum > 0 AND NOT pg_attribute.attisdropped);
    IF wrong IS NOT NULL THEN
        RAISE '% has no column %', relation, wrong USING ERRCODE = 'undefined_column',
            HINT = 'A template names {table}, {schema}, {op} or a column, written as in the catalog.';
    END IF;
    SELECT string_agg(quote_ident(pg_attribute.attname), ', ') INTO wrong
    FROM pg_attribute
    WHERE pg_attribute.attrelid = relation AND pg_attribute.attgenerated = 'v'
        AND pg_attribute.attname = ANY (bellwether.named_columns(attachment));
    IF wrong IS NOT NULL THEN
        RAISE 'the virtual column % of % cannot be captured: no trigger sees its value', wrong, relation
            USING ERRCODE = 'feature_not_supported', HINT = 'Generate it as STORED, or name the columns that it is made of.';
    END IF;
    IF before.id IS NULL THEN
        outcome := 'attached';
        INSERT INTO bellwether.attachment AS existing
            (relation, topic, event, ops, columns, old, retain, doorbell, replica, attached_by)
        VALUES (relation, topic, event, ops, columns, old, retain, doorbell, replica, caller)
        RETURNING existing.* INTO attachment;
    ELSIF before = attachment THEN
        outcome := 'unchanged';
    ELSE
        outcome := 'changed';
        UPDATE bellwether.attachment AS existing
        SET topic = attachment.topic, event = attachment.event, ops = attachment.ops, columns = attachment.columns,
            old = attachment.old, retain = attachment.retain, doorbell = attachment.doorbell, replica = attachment.replica
        WHERE existing.id = attachment.id;
    END IF;

    needs_formats := bellwether.needs_formats(attachment);
    FOREACH each_row IN ARRAY CASE WHEN replica THEN '{f,t}'::boolean[] ELSE '{f}' END LOOP
        suffix := attachment.id || CASE WHEN each_row THEN '_row' ELSE '' END;
        source := bellwether.capture_source(attachment, each_row);
        CONTINUE WHEN (source, needs_formats) = (
            SELECT pg_proc.prosrc, 'TimeZone=UTC' = ANY (pg_proc.proconfig)
            FROM pg_proc WHERE pg_proc.oid = to_regproc('bellwether.capture_' || suffix));
        -- A nested loop would be right for the one row that the first statement had, and be
        -- kept for a million; a plan without one counts as dear enough to be compiled. No
        -- variable makes another plan the better one, so the first is made to serve them all.
        EXECUTE format('CREATE OR REPLACE FUNCTION bellwether.capture_%s() RETURNS trigger LANGUAGE plpgsql '
            'SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off SET plan_cache_mode = force_generic_plan %s AS %L',
            suffix,
            CASE WHEN needs_formats THEN
                'SET timezone = ''UTC'' SET datestyle = ''ISO'' SET intervalstyle = ''postgres'' '
                'SET bytea_output = ''hex'' SET extra_float_digits = 1' END,
            source);
        EXECUTE format('REVOKE ALL ON FUNCTION bellwether.capture_%s() FROM PUBLIC', suffix);
        EXECUTE format('GRANT EXECUTE ON FUNCTION bellwether.capture_%s() TO %I', suffix, caller);
        outcome := replace(outcome, 'unchanged', 'changed');
    END LOOP;
END $$;

-- Whether what is captured would depend on settings of whoever writes, such as his time
-- zone. A time in a row's JSON has its zone with it; as a topic or key, it must be the same
-- whoever wrote it. To set these costs, so it is not done for nothing.
CREATE FUNCTION bellwether.needs_formats(attachment bellwether.attachment) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT EXISTS (
        SELECT FROM pg_attribute JOIN pg_type ON pg_type.oid = pg_attribute.atttypid
        WHERE pg_attribute.attrelid = (attachment).relation AND pg_attribute.attnum > 0
            AND (pg_type.typcategory NOT IN ('N', 'S', 'B', 'E') OR pg_type.typtype = 'd'
                OR pg_type.oid IN ('real'::regtype, 'double precision'::regtype))
            AND pg_type.oid NOT IN ('uuid'::regtype, 'json'::regtype, 'jsonb'::regtype)
            AND (pg_attribute.attname = ANY (bellwether.named_columns(attachment))
                OR (attachment).columns IS NULL AND pg_type.typcategory <> 'D'));
END;

-- Ends an attachment; what was captured stays. Needs the lock ACCESS EXCLUSIVE on the
-- table. Returns whether there was one.
CREATE FUNCTION bellwether.detach(relation regclass) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    attached CONSTANT integer := (SELECT attachment.id FROM bellwether.attachment WHERE attachment.relation = detach.relation);
    present record;
BEGIN
    IF attached IS NULL THEN
        RETURN false;
    END IF;
    FOR present IN SELECT * FROM bellwether.present_triggers(attached) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', present.name, present.relation);
    END LOOP;
    PERFORM bellwether.sweep();
    RETURN true;
END $$;

-- Forgets attachments that have no trigger any more, mostly because their table is gone.
CREATE FUNCTION bellwether.sweep() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    orphan regprocedure;
BEGIN
    FOR orphan IN
        WITH gone AS (
            DELETE FROM bellwether.attachment
            WHERE NOT EXISTS (SELECT FROM bellwether.present_triggers(attachment.id))
            RETURNING attachment.id
        )
        SELECT pg_proc.oid FROM gone
        JOIN pg_proc ON pg_proc.proname IN ('capture_' || gone.id, 'capture_' || gone.id || '_row')
            AND pg_proc.pronamespace = 'bellwether'::regnamespace
    LOOP
        EXECUTE format('DROP FUNCTION %s', orphan);
    END LOOP;
END $$;

-- What is wrong with an attachment and what to do, a line for each.
CREATE FUNCTION bellwether.drift(attachment bellwether.attachment) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'the table is gone: the next attach or detach forgets it'
    WHERE NOT EXISTS (SELECT FROM pg_class WHERE pg_class.oid = ($1).relation)
    UNION ALL
    SELECT format('column %I is gone or renamed and read as NULL: attach the table again', named.name)
    FROM pg_class CROSS JOIN unnest(bellwether.named_columns($1)) AS named (name)
    WHERE pg_class.oid = ($1).relation
        AND named.name NOT IN (
            SELECT pg_attribute.attname FROM pg_attribute
            WHERE pg_attribute.attrelid = pg_class.oid AND pg_attribute.attnum > 0 AND NOT pg_attribute.attisdropped)
    UNION ALL
    SELECT CASE
        WHEN present.name IS NULL AND relation <> ($1).relation
            THEN format('rows put straight into %s are not captured: attach %s again', relation, ($1).relation)
        WHEN present.name IS NULL THEN format('the trigger %s is gone: attach the table again', name)
        WHEN present.enabled = 'D' THEN format('the trigger %s on %s is disabled: enable it or attach again', name, relation)
        ELSE format('the trigger %s on %s is not the one that attach makes: attach %s again', name, relation, ($1).relation)
        END
    FROM bellwether.wanted_triggers($1) AS wanted
    LEFT JOIN bellwether.present_triggers(($1).id) AS present USING (relation, name)
    WHERE (wanted.enabled, wanted.definition) IS DISTINCT FROM (present.enabled, present.definition)
    UNION ALL
    SELECT format('rows put straight into %s are not captured, as its column %I is of a type of somebody else''s: attach %s with a list of columns',
        tree.relation, found.name, ($1).relation)
    FROM bellwether.with_descendants(($1).relation) AS tree (relation)
    CROSS JOIN bellwether.foreign_columns(tree.relation) AS found
    WHERE tree.relation <> ($1).relation AND (bellwether.chosen_columns($1) IS NULL OR found.name = ANY (bellwether.trusted_columns($1)))
    UNION ALL
    SELECT CASE regexp_replace(pg_proc.prosrc, known_table, '\1', 'g') WHEN regexp_replace(due.source, known_table, '\1', 'g')
        THEN 'each statement asks whether this is its table, as a dump was restored: attach the table again'
        ELSE 'its function is not what attach would write now, and may capture nothing: attach the table again' END
    FROM pg_class
    CROSS JOIN bellwether.capture_source($1, false) AS due (source)
    CROSS JOIN (VALUES ('(TG_RELID <> |is_plain\()[0-9]+')) AS pattern (known_table)
    LEFT JOIN pg_proc ON pg_proc.oid = to_regproc('bellwether.capture_' || ($1).id)
    WHERE pg_class.oid = ($1).relation AND due.source IS DISTINCT FROM pg_proc.prosrc
$$;

CREATE VIEW bellwether.attachments AS
SELECT attachment.relation, attachment.topic, attachment.event, attachment.ops, attachment.columns, attachment.old,
    attachment.retain, attachment.doorbell, attachment.replica, attachment.attached_by, attachment.attached_at,
    ARRAY (SELECT bellwether.drift(attachment)) AS problems
FROM bellwether.attachment;
