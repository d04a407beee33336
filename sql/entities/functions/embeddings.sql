-- Embeddings: what waits for one, storing them in batches, and moving the whole store to another model. The embedding
-- itself is done outside (reasoning/rebase.py): it asks for texts and gives vectors back.

-- Gives an entity another embedding; the one before goes to the history with its model.
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

-- Where the texts of a kind are: the table, its key, and of a row t what is embedded.
CREATE OR REPLACE FUNCTION vectuned_entities._texts(kind text, OUT relation name, OUT key name, OUT content text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.relation, k.key, k.content
    FROM (VALUES ('entity', 'entities', 'entity_id', 'vectuned_entities.entity_text(t.name, t.description)'),
                 ('resource', 'external_resources', 'resource_id', 't.content')) AS k (kind, relation, key, content)
    WHERE k.kind = _texts.kind
$$;

-- The next texts to embed, by number and after the one given: those of entities ('entity') and resources ('resource')
-- without an embedding or with another text since; with a job those that it has not embedded yet.
-- text_hash goes back to put_embedding_batch: what was changed meanwhile is not stored, and comes again.
-- stripe (0 to 15) takes every sixteenth number. Rows side by side are then updated in different transactions, so that each
-- finds the room that the one before left on its page, and no index is touched (a heap-only tuple).
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
            vectuned_entities._check_given('after_id', after_id IS NOT NULL, 'The last id of the batch before, 0 for the first.'),
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

-- Stores embeddings of texts from next_embedding_batch; returns how many, without those whose text is another by now.
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
            vectuned_entities._check_given('as many embeddings and text_hashes as ids',
                cardinality(ids) = cardinality(embeddings) AND cardinality(ids) = cardinality(text_hashes), 'One of each for every text.');
    model := CASE WHEN job_id IS NULL THEN vectuned_entities._model_for(NULL, NULL)
                  ELSE (vectuned_entities._running_job(job_id)).model_id END;
    IF model_id IS DISTINCT FROM model THEN
        RAISE EXCEPTION 'the embeddings are of model %, those asked for of model %', coalesce(model_id::text, 'NULL'), model
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
        RAISE EXCEPTION 'there is no running rebase %', coalesce(job_id::text, 'without a number')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT * FROM vectuned_entities.rebase_jobs';
    END IF;
    RETURN job;
END
$$;

-- Begins to move the store to another model, or goes on with it; returns the number of the job. Searches stay with the
-- current model until rebase_switch. Texts are embedded by whoever calls next_embedding_batch and put_embedding_batch.
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
        RAISE EXCEPTION 'the store is being moved to another model, by rebase %', job.job_id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Let that go on, or SELECT vectuned_entities.rebase_cancel(%s).', job.job_id);
    ELSIF model = (SELECT m.model_id FROM vectuned_entities.current_embedding_model() m) THEN
        RAISE EXCEPTION 'the store is of model % % already', model_name, model_version
            USING ERRCODE = 'invalid_parameter_value', HINT = 'What waits to be embedded is listed by next_embedding_batch().';
    END IF;
    FOREACH relation IN ARRAY '{entities,external_resources}'::name[] LOOP
        PERFORM vectuned_entities._renew_next(relation, dimensions),
                vectuned_entities._require_model(relation, 'embedding_next', model);
    END LOOP;
    INSERT INTO vectuned_entities.rebase_jobs AS j (model_id, total)
    SELECT model, t.total FROM vectuned_entities._rebase_progress() t RETURNING j.job_id INTO job.job_id;
    RETURN job.job_id;
END
$$;

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

-- Empty columns for the next model; only the catalogue changes, and what hung on the old ones goes with them.
CREATE OR REPLACE FUNCTION vectuned_entities._renew_next(relation name, dimensions int) RETURNS void
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

-- Puts the next model in the place of the current one, in no time: columns and indexes are renamed. Every text must be
-- embedded. The new indexes (queries.sql: create_next_...) should stand by then; without them searches read the table.
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
        RAISE EXCEPTION '% of % texts are not embedded with the next model yet', progress.total - progress.embedded, progress.total
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Embed them: next_embedding_batch, put_embedding_batch.';
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
        PERFORM vectuned_entities._renew_next(relation, (SELECT m.dimensions FROM vectuned_entities.embedding_model_versions m
                                                         WHERE m.model_id = job.model_id));
    END LOOP;
    UPDATE vectuned_entities.entities e SET needs_embedding = false WHERE e.needs_embedding AND e.status = 'active';
    UPDATE vectuned_entities.external_resources r SET needs_embedding = false WHERE r.needs_embedding AND r.content <> '';
    UPDATE vectuned_entities.embedding_model_versions m SET status = 'retired' WHERE m.status = 'current';
    UPDATE vectuned_entities.embedding_model_versions m SET status = 'current', current_since = now() WHERE m.model_id = job.model_id;
    UPDATE vectuned_entities.rebase_jobs j
    SET state = 'done', total = progress.total, embedded = progress.embedded, progress_at = now(), finished_at = now()
    WHERE j.job_id = job_id;
    PERFORM vectuned_entities._retune();
END
$$;

-- What vectuned learned was about vectors and queries of another model. It goes on with the settings it had.
CREATE OR REPLACE FUNCTION vectuned_entities._retune() RETURNS void
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
                                c.min_samples, c.store_vectors, c.max_tail)
        WHERE c.enabled AND EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam
                                    WHERE x.indrelid = c.relation AND x.indisvalid AND a.amname IN ('hnsw', 'ivfflat'));
    END LOOP;
END
$$;

-- Stays with the current model, and forgets what was embedded with the other one.
CREATE OR REPLACE FUNCTION vectuned_entities.rebase_cancel(job_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._running_job(job_id),
            vectuned_entities._renew_next('entities', vectuned_entities._dimensions()),
            vectuned_entities._renew_next('external_resources', vectuned_entities._dimensions());
    UPDATE vectuned_entities.rebase_jobs j
    SET state = 'cancelled', progress_at = now(), finished_at = now() WHERE j.job_id = job_id;
END
$$;
