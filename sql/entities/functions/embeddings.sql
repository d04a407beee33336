-- Embeddings: which texts wait for one, storing them in batches, and moving the whole store to another model. A client does
-- the embedding itself (reasoning/store/rebase.py): it fetches texts and stores vectors.

-- Replaces the embedding of an entity; the previous one and its model go to the history.
CREATE OR REPLACE FUNCTION vectuned_entities.update_entity_embedding(
    target_entity_id bigint, new_embedding @extschema@.vector, model_name text DEFAULT NULL, model_version text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    model int;
BEGIN
    PERFORM vectuned_entities._check_entity('target_entity_id', target_entity_id),
            vectuned_entities._check_embedding('new_embedding', new_embedding, vectuned_entities._dimensions());
    model := vectuned_entities._model_for(model_name, model_version);
    PERFORM FROM vectuned_entities.entities e WHERE e.entity_id = target_entity_id AND e.status = 'active' FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'entity % is archived and has no embedding', target_entity_id
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT vectuned_entities.restore_entity(...) first.';
    END IF;
    INSERT INTO vectuned_entities.embedding_history (entity_id, embedding, model_id, reason)
    SELECT e.entity_id, e.embedding, e.embedding_model, 'updated' FROM vectuned_entities.entities e
    WHERE e.entity_id = target_entity_id AND e.embedding OPERATOR(@extschema@.<>) new_embedding;
    UPDATE vectuned_entities.entities e
    SET embedding = new_embedding, embedding_model = model, needs_embedding = false WHERE e.entity_id = target_entity_id;
END
$$;

-- Where the texts of a kind are stored: the table, its key, and the expression for the text of a row t.
CREATE OR REPLACE FUNCTION vectuned_entities._texts(kind text, OUT relation name, OUT key name, OUT content text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.relation, k.key, k.content
    FROM (VALUES ('entity', 'entities', 'entity_id', 'vectuned_entities.entity_text(t.name, t.description)'),
                 ('resource', 'external_resources', 'resource_id', 't.content')) AS k (kind, relation, key, content)
    WHERE k.kind = _texts.kind
$$;

-- The next texts to embed, in order of id and after after_id: those of entities (kind 'entity') or resources ('resource')
-- that have no embedding, or whose text has changed since; with a job, those that the job has not embedded yet.
-- Pass text_hash back to put_embedding_batch, which skips a text that has changed meanwhile; it is returned again later.
-- stripe (0 to 15) limits the ids to every sixteenth. Neighbouring rows are then updated in different transactions, so that
-- each update reuses the space that the last one freed on its page, as a heap-only tuple (HOT) without index writes.
CREATE OR REPLACE FUNCTION vectuned_entities.next_embedding_batch(
    kind text DEFAULT 'entity', batch_size int DEFAULT 512, after_id bigint DEFAULT 0, job_id bigint DEFAULT NULL,
    stripe int DEFAULT NULL)
RETURNS TABLE (id bigint, content text, text_hash bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    texts record;
BEGIN
    PERFORM vectuned_entities._check_choice('kind', kind, '{entity,resource}'),
            vectuned_entities._check_range('batch_size', batch_size, 1, 10000),
            vectuned_entities._require('after_id', after_id IS NOT NULL, 'The last id of the previous batch, 0 for the first.'),
            vectuned_entities._check_range('stripe', coalesce(stripe, 0), 0, 15);
    IF job_id IS NOT NULL THEN
        PERFORM vectuned_entities._running_job(job_id);
    END IF;
    SELECT * INTO STRICT texts FROM vectuned_entities._texts(kind);
    RETURN QUERY EXECUTE format(
        'SELECT b.id, b.content, hashtextextended(b.content, 0) FROM (SELECT t.%I AS id, %s AS content '
        'FROM vectuned_entities.%I t WHERE %s AND %s AND t.%1$I > $2 AND ($3 IS NULL OR t.%1$I %% 16 = $3) '
        'ORDER BY t.%1$I LIMIT $1) b ORDER BY b.id',
        texts.key, texts.content, texts.relation,
        CASE kind WHEN 'entity' THEN 't.status = ''active''' ELSE 't.content <> ''''' END,
        CASE WHEN job_id IS NULL THEN 't.needs_embedding' ELSE 't.embedding_next IS NULL' END)
    USING batch_size, after_id, stripe;
END
$$;

-- Stores embeddings of texts from next_embedding_batch and returns how many; skips texts that have changed since.
CREATE OR REPLACE FUNCTION vectuned_entities.put_embedding_batch(
    kind text, ids bigint[], embeddings @extschema@.vector[], text_hashes bigint[], model_id int, job_id bigint DEFAULT NULL)
RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    model int;
    expected int;
    bad @extschema@.vector;
    stored int;
    texts record;
BEGIN
    PERFORM vectuned_entities._check_choice('kind', kind, '{entity,resource}'),
            vectuned_entities._check_array('ids', ids, 10000), vectuned_entities._check_array('embeddings', embeddings, 10000),
            vectuned_entities._check_array('text_hashes', text_hashes, 10000),
            vectuned_entities._require('embeddings and text_hashes',
                cardinality(ids) = cardinality(embeddings) AND cardinality(ids) = cardinality(text_hashes), 'One embedding and one text_hash for every id.');
    model := CASE WHEN job_id IS NULL THEN vectuned_entities._model_for(NULL, NULL)
                  ELSE (vectuned_entities._running_job(job_id)).model_id END;
    IF model_id IS DISTINCT FROM model THEN
        RAISE EXCEPTION 'the embeddings are of model %, but model % is expected', coalesce(model_id::text, 'NULL'), model
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT * FROM vectuned_entities.embedding_model_versions';
    END IF;
    SELECT m.dimensions INTO STRICT expected FROM vectuned_entities.embedding_model_versions m WHERE m.model_id = model;
    SELECT u.embedding INTO bad FROM unnest(embeddings) AS u (embedding)
    WHERE @extschema@.vector_dims(u.embedding) <> expected OR @extschema@.vector_norm(u.embedding) = 0 LIMIT 1;
    IF FOUND THEN
        PERFORM vectuned_entities._check_embedding('an embedding', bad, expected);
    END IF;
    SELECT * INTO STRICT texts FROM vectuned_entities._texts(kind);
    EXECUTE format(
        'UPDATE vectuned_entities.%I t SET %s FROM unnest($1, $2, $3) AS u (id, embedding, text_hash) '
        'WHERE t.%I = u.id AND %s AND hashtextextended(%s, 0) = u.text_hash',
        texts.relation,
        CASE WHEN job_id IS NULL THEN 'embedding = u.embedding, embedding_model = $4, needs_embedding = false'
             ELSE 'embedding_next = u.embedding, embedding_next_model = $4' END,
        texts.key, CASE kind WHEN 'entity' THEN 't.status = ''active''' ELSE 'true' END, texts.content)
    USING ids, embeddings, text_hashes, model;
    GET DIAGNOSTICS stored = ROW_COUNT;
    IF job_id IS NOT NULL THEN
        UPDATE vectuned_entities.rebase_jobs j
        SET embedded = least(j.total, j.embedded + stored), progress_at = clock_timestamp() WHERE j.job_id = job_id;
    END IF;
    RETURN stored;
END
$$;

-- The running rebase with this number; an error if there is none.
CREATE OR REPLACE FUNCTION vectuned_entities._running_job(job_id bigint) RETURNS vectuned_entities.rebase_jobs
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    job vectuned_entities.rebase_jobs;
BEGIN
    SELECT * INTO job FROM vectuned_entities.rebase_jobs j WHERE j.job_id = job_id AND j.state = 'running';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no running rebase %', coalesce(job_id::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT * FROM vectuned_entities.rebase_jobs';
    END IF;
    RETURN job;
END
$$;

-- Starts moving the store to another model, or resumes it; returns the number of the job. Searches use the current model
-- until rebase_switch. The caller embeds the texts, by next_embedding_batch and put_embedding_batch.
CREATE OR REPLACE FUNCTION vectuned_entities.rebase_all_embeddings(model_name text, model_version text, dimensions int)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    model int := vectuned_entities.register_embedding_model(model_name, model_version, dimensions);
    job vectuned_entities.rebase_jobs;
    relation name;
BEGIN
    SELECT * INTO job FROM vectuned_entities.rebase_jobs j WHERE j.state = 'running';
    IF job.model_id = model THEN
        UPDATE vectuned_entities.rebase_jobs j
        SET total = t.total, embedded = t.embedded, progress_at = now()
        FROM vectuned_entities._rebase_progress() t WHERE j.job_id = job.job_id;
        RETURN job.job_id;
    ELSIF job.job_id IS NOT NULL THEN
        RAISE EXCEPTION 'the store is being moved to another model by rebase %', job.job_id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Let it finish, or SELECT vectuned_entities.rebase_cancel(%s).', job.job_id);
    ELSIF model = (SELECT m.model_id FROM vectuned_entities.current_embedding_model() m) THEN
        RAISE EXCEPTION 'the store already uses model % %', model_name, model_version
            USING ERRCODE = 'invalid_parameter_value', HINT = 'next_embedding_batch() lists the texts that wait to be embedded.';
    END IF;
    FOREACH relation IN ARRAY '{entities,external_resources}'::name[] LOOP
        PERFORM vectuned_entities._reset_next_columns(relation, dimensions),
                vectuned_entities._require_model(relation, 'embedding_next', model);
    END LOOP;
    INSERT INTO vectuned_entities.rebase_jobs AS j (model_id, total)
    SELECT model, t.total FROM vectuned_entities._rebase_progress() t RETURNING j.job_id INTO job.job_id;
    RETURN job.job_id;
END
$$;

-- How many texts a rebase has to embed, and how many of them it has embedded.
CREATE OR REPLACE FUNCTION vectuned_entities._rebase_progress(OUT total bigint, OUT embedded bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sum(c.total)::bigint, sum(c.embedded)::bigint
    FROM (SELECT count(*) AS total, count(e.embedding_next_model) AS embedded
          FROM vectuned_entities.entities e WHERE e.status = 'active'
          UNION ALL
          SELECT count(*), count(r.embedding_next_model) FROM vectuned_entities.external_resources r WHERE r.content <> '') c
$$;

-- Replaces the columns for the next model's embeddings with empty ones, which changes only the catalog. The constraints and
-- indexes on the old columns are dropped with them.
CREATE OR REPLACE FUNCTION vectuned_entities._reset_next_columns(relation name, dimensions int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = format('vectuned_entities.%I', relation)::regclass AND a.attname = 'embedding_next') THEN
        EXECUTE format('ALTER TABLE vectuned_entities.%I DROP COLUMN embedding_next, DROP COLUMN embedding_next_model', relation);
    END IF;
    EXECUTE format(
        'ALTER TABLE vectuned_entities.%1$I ADD COLUMN embedding_next @extschema@.vector%2$s, '
        'ADD COLUMN embedding_next_model int REFERENCES vectuned_entities.embedding_model_versions, '
        'ADD CONSTRAINT %3$I CHECK ((embedding_next IS NULL) = (embedding_next_model IS NULL)), '
        'ADD CONSTRAINT %4$I CHECK (embedding_next IS NULL OR @extschema@.vector_norm(embedding_next) > 0)',
        relation, '(' || dimensions || ')', relation || '_embedding_next_check', relation || '_embedding_next_zero');
    IF relation = 'entities' THEN
        ALTER TABLE vectuned_entities.entities
            ADD CONSTRAINT entities_inactive_next_check CHECK (status = 'active' OR embedding_next IS NULL);
    END IF;
END
$$;

-- Makes the next model the current one by renaming columns and indexes, which takes no time. Every text must have been
-- embedded. Build the indexes on embedding_next first; without them searches read the whole table.
CREATE OR REPLACE FUNCTION vectuned_entities.rebase_switch(job_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    job vectuned_entities.rebase_jobs := vectuned_entities._running_job(job_id);
    progress record;
    relation name;
    part text;
BEGIN
    LOCK TABLE vectuned_entities.entities, vectuned_entities.external_resources IN ACCESS EXCLUSIVE MODE;
    SELECT * INTO progress FROM vectuned_entities._rebase_progress();
    IF progress.embedded < progress.total THEN
        RAISE EXCEPTION '% of % texts are not yet embedded with the next model', progress.total - progress.embedded, progress.total
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Embed them by next_embedding_batch and put_embedding_batch.';
    END IF;
    FOREACH relation IN ARRAY '{entities,external_resources}'::name[] LOOP
        EXECUTE format('ALTER TABLE vectuned_entities.%I DROP COLUMN embedding, DROP COLUMN embedding_model', relation);
        EXECUTE format('ALTER TABLE vectuned_entities.%I RENAME COLUMN embedding_next TO embedding', relation);
        EXECUTE format('ALTER TABLE vectuned_entities.%I RENAME COLUMN embedding_next_model TO embedding_model', relation);
        IF to_regclass(format('vectuned_entities.%I', relation || '_embedding_next_idx')) IS NOT NULL THEN
            EXECUTE format('ALTER INDEX vectuned_entities.%I RENAME TO %I', relation || '_embedding_next_idx', relation || '_embedding_idx');
        END IF;
        EXECUTE format('ALTER TABLE vectuned_entities.%I RENAME CONSTRAINT %I TO %I', relation, relation || '_next_model', relation || '_one_model');
        FOREACH part IN ARRAY '{check,zero}'::text[] LOOP
            EXECUTE format('ALTER TABLE vectuned_entities.%I RENAME CONSTRAINT %I TO %I', relation,
                           relation || '_embedding_next_' || part, relation || '_embedding_' || part);
        END LOOP;
        IF relation = 'entities' THEN
            ALTER TABLE vectuned_entities.entities RENAME CONSTRAINT entities_inactive_next_check TO entities_inactive_check;
        END IF;
        EXECUTE format('ALTER TABLE vectuned_entities.%I RENAME CONSTRAINT %I TO %I', relation,
                       relation || '_embedding_next_model_fkey', relation || '_embedding_model_fkey');
        PERFORM vectuned_entities._reset_next_columns(relation, (SELECT m.dimensions FROM vectuned_entities.embedding_model_versions m
                                                         WHERE m.model_id = job.model_id));
    END LOOP;
    UPDATE vectuned_entities.entities e SET needs_embedding = false WHERE e.needs_embedding AND e.status = 'active';
    UPDATE vectuned_entities.external_resources r SET needs_embedding = false WHERE r.needs_embedding AND r.content <> '';
    UPDATE vectuned_entities.embedding_model_versions m SET status = 'retired' WHERE m.status = 'current';
    UPDATE vectuned_entities.embedding_model_versions m SET status = 'current', current_since = now() WHERE m.model_id = job.model_id;
    UPDATE vectuned_entities.rebase_jobs j
    SET state = 'done', total = progress.total, embedded = progress.embedded, progress_at = now(), finished_at = now()
    WHERE j.job_id = job_id;
    PERFORM vectuned_entities._restart_tuning();
END
$$;

-- Discards what vectuned learned, since it concerned vectors and queries of another model, and continues to tune with the same settings.
CREATE OR REPLACE FUNCTION vectuned_entities._restart_tuning() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c record;
BEGIN
    IF to_regclass('vectuned.tuned_column') IS NULL THEN
        RETURN;
    END IF;
    FOR c IN SELECT t.* FROM vectuned.tuned_column t
        WHERE t.relation IN ('vectuned_entities.entities'::regclass, 'vectuned_entities.external_resources'::regclass)
    LOOP
        PERFORM vectuned.disable(c.relation, c.column_name, true);
        PERFORM vectuned.enable(c.relation, c.column_name, c.target_recall, c.sample_rate, c.trajectory_window, c.learning_rate,
                                c.min_samples, c.store_vectors, c.max_tail, c.max_effort, c.max_ms)
        WHERE c.enabled AND EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam
                                    WHERE x.indrelid = c.relation AND x.indisvalid AND a.amname IN ('hnsw', 'ivfflat'));
    END LOOP;
END
$$;

-- Cancels a rebase: keeps the current model and deletes the embeddings of the other one.
CREATE OR REPLACE FUNCTION vectuned_entities.rebase_cancel(job_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._running_job(job_id),
            vectuned_entities._reset_next_columns('entities', vectuned_entities._dimensions()),
            vectuned_entities._reset_next_columns('external_resources', vectuned_entities._dimensions());
    UPDATE vectuned_entities.rebase_jobs j
    SET state = 'cancelled', progress_at = now(), finished_at = now() WHERE j.job_id = job_id;
END
$$;
