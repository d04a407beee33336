-- What tests/integration/sql/rights/test_hostile.py runs. `attack` and `name_all` return one answer per word: 'ok', or
-- the SQLSTATE and the message of the error.

-- name: tables
-- Columns to filter by on the tuned table, and a table that no attack may touch.
ALTER TABLE items ADD COLUMN label text, ADD COLUMN kind int, ADD COLUMN day date, ADD COLUMN size numeric;
UPDATE items SET label = 'l' || id, kind = id % 3;
ANALYZE items;
CREATE TABLE canary AS SELECT id FROM generate_series(1, 10) AS id;

-- name: attack
-- Runs a statement once for each word, with the word as $1.
CREATE FUNCTION public.attack(statement text, words text[]) RETURNS text[] LANGUAGE plpgsql AS $attack$
DECLARE
    answers text[] := '{}';
BEGIN
    FOR i IN 1 .. cardinality(words) LOOP
        BEGIN
            EXECUTE statement USING words[i];
            answers[i] := 'ok';
        EXCEPTION WHEN others THEN
            answers[i] := SQLSTATE || ' ' || SQLERRM;
        END;
    END LOOP;
    RETURN answers;
END
$attack$;

-- name: name_all
-- For each word, makes a table whose schema, name, columns, index and role are all named by the word; then tunes it,
-- searches it through every function, and stops tuning it.
CREATE FUNCTION public.name_all(words text[]) RETURNS text[] LANGUAGE plpgsql AS $named$
DECLARE
    answers text[] := '{}';
    expected text[];
    result text[];
    subject regclass;
    word text;
    key text;
    q vector := '[1,-1,0.5,2]';
BEGIN
    FOR i IN 1 .. cardinality(words) LOOP
        word := words[i];
        key := left(word, 15) || '#';
        BEGIN
            EXECUTE format('CREATE SCHEMA %I', word);
            EXECUTE format('CREATE TABLE %1$I.%1$I (%1$I vector(4), %2$I text, PRIMARY KEY (%2$I))', word, key);
            EXECUTE format('INSERT INTO %1$I.%1$I SELECT ARRAY[n, 1, 2, sin(n)]::vector, %1$L || n FROM generate_series(1, 30) n',
                           word);
            EXECUTE format('CREATE INDEX %1$I ON %2$I.%2$I USING hnsw (%2$I vector_cosine_ops)', left(word, 15) || '!', word);
            subject := format('%1$I.%1$I', word)::regclass;
            PERFORM vectuned.enable(subject, word::name, sample_rate => 1);

            SELECT array_agg(s.id) INTO expected FROM vectuned.search(subject, q, 5) s;
            EXECUTE format('SELECT array_agg(r.%2$I) FROM vectuned.search_rows(NULL::%1$I.%1$I, $1, 5) r', word, key)
                INTO result USING q;
            IF cardinality(expected) <> 5 OR expected <> result OR NOT starts_with(expected[1], word) THEN
                RAISE 'search returned %, search_rows %', expected, result;
            END IF;
            SELECT array_agg(s.id) INTO result
            FROM vectuned.search(subject, q, 5, jsonb_build_object(key, jsonb_build_array(expected[2], word))) s;
            IF result <> expected[2:2] THEN
                RAISE 'the filtered search returned %, not %', result, expected[2];
            END IF;
            PERFORM vectuned.params(subject, q), vectuned.apply(subject, q), vectuned.stats(subject, word::name);
            PERFORM vectuned.recommend_params(subject, word::name);
            PERFORM vectuned._refresh_column(c.id), vectuned._set_baseline(c.id), vectuned._since_baseline(c.id),
                    vectuned._replay(c.id, 1, q, '{10,20}')
            FROM vectuned.tuned_column c WHERE c.relation = subject;
            PERFORM vectuned._drain(10);

            EXECUTE format('CREATE ROLE %I', word);
            EXECUTE format('GRANT USAGE ON SCHEMA %1$I TO %1$I; GRANT SELECT ON %1$I.%1$I TO %1$I', word);
            IF vectuned._unreadable(subject, word::name) IS NOT NULL OR vectuned._may_tune(subject, word::name) THEN
                RAISE 'the rights of the role are wrong';
            END IF;
            EXECUTE format('SET LOCAL ROLE %I', word);
            SELECT array_agg(s.id) INTO result FROM vectuned.search(subject, q, 5) s;
            RESET ROLE;
            EXECUTE format('DROP OWNED BY %1$I; DROP ROLE %1$I', word);
            IF expected <> result THEN
                RAISE 'the role''s search returned %', result;
            END IF;

            PERFORM vectuned.disable(subject, word::name, forget => true);
            EXECUTE format('DROP SCHEMA %I CASCADE', word);
            answers[i] := 'ok';
        EXCEPTION WHEN others THEN
            answers[i] := SQLSTATE || ' ' || SQLERRM;
        END;
    END LOOP;
    RETURN answers;
END
$named$;

-- name: arguments
-- Names and types of the arguments of every function that PUBLIC may execute or that has no leading underscore.
SELECT p.proname AS function, array_agg(coalesce(a.name, '') ORDER BY a.place) AS arguments,
       array_agg(format_type(a.type, NULL) ORDER BY a.place) AS types
FROM pg_proc p CROSS JOIN LATERAL unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[]) WITH ORDINALITY AS a (name, type, place)
WHERE p.pronamespace = 'vectuned'::regnamespace
  AND (p.proname !~ '^_' OR has_function_privilege('pg_monitor', p.oid, 'EXECUTE'))
GROUP BY p.oid
ORDER BY 1;

-- name: state
-- Digests of all that an attack could change: rows, relations, functions, roles, schemas, tuned columns.
SELECT ARRAY[
    (SELECT md5(string_agg(t::text, ',' ORDER BY t.id)) FROM canary t),
    (SELECT md5(string_agg(t::text, ',' ORDER BY t.id)) FROM items t),
    (SELECT md5(string_agg(concat_ws(' ', relnamespace, relname, relkind, relacl, relowner), ',' ORDER BY oid)) FROM pg_class
     WHERE relnamespace <> 'pg_toast'::regnamespace),
    (SELECT md5(string_agg(concat_ws(' ', oid::regprocedure, prosrc, proacl, prosecdef, proconfig), ',' ORDER BY oid)) FROM pg_proc),
    (SELECT md5(string_agg(t::text, ',' ORDER BY t.oid)) FROM pg_roles t),
    (SELECT md5(string_agg(concat_ws(' ', nspname, nspacl), ',' ORDER BY oid)) FROM pg_namespace),
    (SELECT md5(string_agg((t.id, t.relation, t.column_name, t.target_recall, t.enabled)::text, ','))
     FROM vectuned.tuned_column t)];
