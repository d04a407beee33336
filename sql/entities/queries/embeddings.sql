-- Statements that embed texts of the entity store and move it to another model.

-- name: update_embedding
-- Replaces the embedding of an entity; the former one goes to embedding_history.
SELECT vectuned_entities.update_entity_embedding(%(entity_id)s, %(embedding)s, %(model_name)s, %(model_version)s);

-- name: next_batch
-- The next texts to embed, by id, each with a hash of the text.
SELECT id, content, text_hash
FROM vectuned_entities.next_embedding_batch(%(kind)s, %(batch_size)s, %(after_id)s, %(job_id)s, %(stripe)s);

-- name: put_batch
-- Stores the vectors of texts whose hash is still the same and returns their number.
SELECT vectuned_entities.put_embedding_batch(%(kind)s, %(ids)s::bigint[], %(embeddings)b, %(hashes)s::bigint[], %(model_id)s,
                                             %(job_id)s) AS stored;

-- name: count_pending
-- Number of texts without an up-to-date embedding.
SELECT (SELECT count(*) FROM vectuned_entities.entities WHERE needs_embedding AND status = 'active')
     + (SELECT count(*) FROM vectuned_entities.external_resources WHERE needs_embedding AND content <> '') AS pending;

-- name: rebase_start
-- Starts a rebase to a model or resumes the one that was started; returns its job id.
SELECT vectuned_entities.rebase_all_embeddings(%(name)s, %(version)s, %(dimensions)s) AS job_id;

-- name: limit_lock_wait
-- Bounds how long the next statements of this transaction wait for a lock.
SET LOCAL lock_timeout = '2s';

-- name: rebase_switch
-- Swaps the next embeddings and their indexes with the current ones.
SELECT vectuned_entities.rebase_switch(%(job_id)s);

-- name: rebase_cancel
-- Cancels a rebase and deletes the embeddings made for it.
SELECT vectuned_entities.rebase_cancel(%(job_id)s);

-- name: rebase_job
-- The running rebase, otherwise the last one; no row if there never was one.
SELECT j.job_id, j.model_id, m.name, m.version, m.dimensions, j.state, j.total, j.embedded, j.started_at, j.progress_at,
       j.finished_at
FROM vectuned_entities.rebase_jobs j JOIN vectuned_entities.embedding_model_versions m USING (model_id)
ORDER BY j.state = 'running' DESC, j.job_id DESC LIMIT 1;

-- name: rebase_lock
-- Takes the lock that lets one process at a time rebase; the server releases it when the connection ends.
SELECT pg_try_advisory_lock(hashtextextended('vectuned_entities.rebase', 0)) AS locked;

-- name: rebase_unlock
-- Releases the lock taken by rebase_lock.
SELECT pg_advisory_unlock(hashtextextended('vectuned_entities.rebase', 0)) AS unlocked;
