-- Statements of the demonstration.

-- name: disable
-- Stops tuning a column, with `forget` deletes everything recorded and learned about it.
SELECT vectuned.disable(%(relation)s::regclass, %(column_name)s, forget => %(forget)s);

-- name: demo_table
-- Creates the table of WordNet's glosses. `topic` is a filter unrelated to the vectors.
CREATE TABLE {table} (id text PRIMARY KEY, category text NOT NULL, topic text NOT NULL, lemmas text NOT NULL,
                      gloss text NOT NULL, embedding vector({dimensions}) NOT NULL);

-- name: demo_index
-- Builds an HNSW index with pgvector's defaults: m = 16, ef_construction = 64.
CREATE INDEX {index} ON {table} USING hnsw (embedding vector_cosine_ops);

-- name: demo_enable
-- Tunes the column for a target recall, and records a share of its searches.
SELECT vectuned.enable(%(relation)s::regclass, 'embedding', target_recall => %(target)s, sample_rate => %(sample_rate)s);

-- name: demo_search
-- Searches as an application does, with a filter (JSON) or NULL.
SELECT id, distance FROM vectuned.search(%(relation)s::regclass, %(query)s, %(k)s, %(filter)s);
