-- Statements of the ranking of answers: find candidates and score them, and learn from feedback.
-- {vectors} stands for the schema of pgvector; a brace of SQL is written twice.

-- name: find_candidates
-- The best candidates for the answer to a question; see vectuned_entities._candidates. Their score is how likely each is the
-- answer. There are two lists of weights of the features, one for questions that name their answer and one for questions that
-- describe it. Each gives every candidate a share of exp(weights . features). gate, a logistic regression on the signature and
-- the shape of the question, says how likely the question is of the first kind; the shares are mixed by that. Entities that
-- were confirmed for the same question are candidates too and score higher, rejected ones lower: votes of one person are 1,
-- those of a program a fifth; doubt is the number of votes that move the score half of the way. Before the votes count, a learned
-- ranking corrects the shares, if one is in service for questions of this kind; signature, shape and wording are its inputs for
-- the question. Each row repeats names_answer (what the gate says), ranking_id (the learned ranking, NULL if none was used),
-- query_id (the id of the vector search, NULL if vectuned did not serve it), and near_ids (the entities that it returned).
WITH ranking AS MATERIALIZED (
    SELECT r.ranking_id, r.weights, r.kinds, r.for_named, r.for_described
    FROM vectuned_entities.rankings r, vectuned_entities.current_embedding_model() m
    WHERE r.is_served AND r.layout = %(layout)s AND r.model_id = m.model_id
), voted AS MATERIALIZED (
    SELECT v.entity_id AS id, v.votes FROM vectuned_entities._answer_votes(%(question)s) v
), candidates AS MATERIALIZED (
    SELECT c.* FROM vectuned_entities._candidates(
        %(query)s, %(lexemes)s, %(weights)s, %(words)s, %(rare)s, %(rare_weights)s,
        (SELECT array_agg(v.id) FROM voted v WHERE v.votes > 0), %(neighbours)s, %(name_matches)s, %(text_matches)s, %(ef_search)s::int,
        (SELECT r.kinds FROM ranking r)) c
), gate AS MATERIALIZED (
    SELECT 1 / (1 + exp(-greatest(-50, least(50, sum(g.value * g.weight))))) AS names_answer
    FROM unnest(1::float8 || (SELECT c.signature FROM candidates c LIMIT 1) || %(shape)s::float8[], %(gate)s::float8[]) AS g (value, weight)
), neurons AS MATERIALIZED (
    SELECT r.ranking_id, n.*
    FROM ranking r CROSS JOIN gate g
    CROSS JOIN LATERAL vectuned_entities._neurons(
        r.weights, %(features)s + cardinality(r.kinds),
        (SELECT c.signature FROM candidates c LIMIT 1) || %(shape)s::float8[] || %(wording)s::float8[]) n
    WHERE CASE WHEN g.names_answer >= 0.5 THEN r.for_named ELSE r.for_described END
), weighted AS (
    SELECT c.*, s.named, s.described
    FROM candidates c
    CROSS JOIN LATERAL (
        SELECT sum(f.value * f.named) AS named, sum(f.value * f.described) AS described
        FROM unnest(c.features[:cardinality(%(named)s::float8[])], %(named)s::float8[], %(described)s::float8[]) AS f (value, named, described)
    ) s
), raised AS (
    SELECT w.*, exp(greatest(w.named - max(w.named) OVER (), -100)) AS named_share,
           exp(greatest(w.described - max(w.described) OVER (), -100)) AS described_share
    FROM weighted w
), likely AS (
    SELECT r.id, r.similarity, r.name_match, r.coverage, r.features, r.query_id, g.names_answer,
           g.names_answer * r.named_share / sum(r.named_share) OVER ()
           + (1 - g.names_answer) * r.described_share / sum(r.described_share) OVER () AS likelihood
    FROM raised r CROSS JOIN gate g
), likely_inputs AS MATERIALIZED (
    -- Materialized, because the inputs are read once for each neuron. 30, here and below, is LARGEST_CORRECTION of
    -- reasoning/ranking/network.py.
    SELECT l.*, CASE WHEN EXISTS (SELECT FROM neurons) THEN
               (l.features || ln(greatest(l.likelihood, exp(-30.0::float8))))::{vectors}.vector END AS inputs
    FROM likely l
), corrected AS MATERIALIZED (
    SELECT l.*, n.ranking_id, greatest(l.likelihood, exp(-30.0::float8)) * exp(greatest(least(n.correction, 30), -30)) AS share
    FROM likely_inputs l
    CROSS JOIN LATERAL (
        SELECT min(n.ranking_id) AS ranking_id,
               sum(CASE WHEN n.output IS NULL THEN -(l.inputs OPERATOR({vectors}.<#>) n.hidden)
                        ELSE n.output * tanh(n.bias - (l.inputs OPERATOR({vectors}.<#>) n.hidden)) END) AS correction
        FROM neurons n
    ) n
), judged AS (
    SELECT c.*, CASE WHEN c.ranking_id IS NULL THEN c.likelihood ELSE c.share / sum(c.share) OVER () END AS chance
    FROM corrected c
), best AS (
    SELECT j.*, v.votes,
           CASE WHEN v.votes > 0 THEN j.chance + (1 - j.chance) * v.votes / (v.votes + %(doubt)s)
                ELSE j.chance * %(doubt)s / (%(doubt)s - coalesce(v.votes, 0)) END AS score
    FROM judged j LEFT JOIN voted v ON v.id = j.id
    ORDER BY score DESC, j.id LIMIT %(max_candidates)s
)
SELECT b.id, e.label, e.name, e.description, b.score, b.similarity, b.name_match, b.coverage, b.features[4] AS text_match, e.embedding, b.names_answer,
       b.votes, b.ranking_id, b.query_id, (SELECT array_agg(c.id) FROM candidates c WHERE c.is_near) AS near_ids
FROM best b JOIN vectuned_entities.entities e ON e.entity_id = b.id
ORDER BY b.score DESC, b.id;

-- name: read_features
-- All candidates for the answer to a question, with the features and signatures that rankings are learned from.
SELECT c.id, c.features::{vectors}.vector AS features, c.signature
FROM vectuned_entities._candidates(
    %(query)s, %(lexemes)s, %(weights)s, %(words)s, %(rare)s, %(rare_weights)s, NULL, %(neighbours)s, %(name_matches)s,
    %(text_matches)s, NULL, %(kinds)s::bigint[]) c;

-- name: may_learn_answers
-- Whether there is an entity store, and whether the role has the privileges to learn a ranking for it.
SELECT coalesce(bool_and(coalesce(has_schema_privilege(t.relnamespace, 'USAGE') AND has_table_privilege(t.oid, r.needed), false)),
                false) AS allowed
FROM (VALUES ('answer_feedback', 'SELECT'), ('entities', 'SELECT'), ('rankings', 'SELECT, INSERT, UPDATE, DELETE')) AS w (name, needs)
CROSS JOIN LATERAL regexp_split_to_table(w.needs, ', ') AS r (needed)
-- Not by to_regclass, which fails in a schema that the role may not use.
LEFT JOIN (SELECT c.oid, c.relnamespace, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = 'vectuned_entities') t ON t.relname = w.name;

-- name: learning_state
-- The number of votes, and what the last ranking was learned from: votes, model and layout (NULLs if there was none).
SELECT (SELECT count(*) FROM vectuned_entities.answer_feedback) AS votes, m.model_id, r.feedback AS learned_votes,
       r.model_id IS NOT DISTINCT FROM m.model_id AND r.layout = %(layout)s AS is_current
FROM vectuned_entities.current_embedding_model() m
LEFT JOIN (SELECT l.* FROM vectuned_entities.rankings l ORDER BY l.ranking_id DESC LIMIT 1) r ON true;

-- name: read_confirmed
-- The latest questions with confirmed answers, which have more votes for them than against them. weight: at most 1; a fifth if
-- only a program confirmed the answer. role: the first in the alphabet of the roles that confirmed it.
SELECT v.question, array_agg(v.entity_id ORDER BY v.entity_id) AS entities, least(max(v.votes), 1)::float8 AS weight,
       (array_agg(v.role ORDER BY v.first))[1] AS role
FROM (
    SELECT f.question, f.entity_id, (array_agg(f.role::text ORDER BY f.feedback_id) FILTER (WHERE f.is_right))[1] AS role,
           min(f.feedback_id) FILTER (WHERE f.is_right) AS first, max(f.given_at) AS given_at,
           sum(CASE WHEN f.is_right THEN 1 ELSE -1 END * CASE WHEN f.by_person THEN 1 ELSE 0.2 END) AS votes
    FROM vectuned_entities.answer_feedback f
    JOIN vectuned_entities.entities e ON e.entity_id = f.entity_id AND e.status = 'active'
    GROUP BY f.question, f.entity_id
) v
WHERE v.votes > 0
GROUP BY v.question ORDER BY max(v.given_at) DESC, v.question LIMIT %(max_questions)s;

-- name: find_kinds
-- The values of the attribute that tells the kind of an entity. It must have 2 to max_kinds values, and nearly every entity must
-- have it exactly once; of several such attributes, the one with the most values is taken. No rows if there is none. Only
-- max_entities entities, spread evenly over the store, are looked at.
WITH looked AS (
    SELECT e.entity_id
    FROM (SELECT min(e.entity_id) AS first, max(e.entity_id) AS last FROM vectuned_entities.entities e) b
    CROSS JOIN LATERAL generate_series(b.first, b.last, greatest((b.last - b.first) / %(max_entities)s, 1)) AS i (entity_id)
    JOIN vectuned_entities.entities e ON e.entity_id = i.entity_id AND e.status = 'active'
), held AS (
    SELECT l.attribute_id, l.value_id, count(*) AS holders
    FROM looked e JOIN vectuned_entities.entity_attribute_link l USING (entity_id)
    GROUP BY l.attribute_id, l.value_id
), attribute AS (
    SELECT h.attribute_id FROM held h GROUP BY h.attribute_id
    HAVING count(*) BETWEEN 2 AND %(max_kinds)s
        AND sum(h.holders) BETWEEN 0.9 * (SELECT count(*) FROM looked) AND (SELECT count(*) FROM looked)
    ORDER BY count(*) DESC, h.attribute_id LIMIT 1
)
SELECT h.value_id FROM held h JOIN attribute a USING (attribute_id) ORDER BY h.value_id;

-- name: publish_ranking
-- Stores a ranking, serves it if it is proven for some kind of question (otherwise none is served), deletes all but the latest
-- ten, and returns its id. A lock makes concurrent calls take turns.
SELECT vectuned_entities._publish_ranking(%(layout)s, %(model_id)s, %(weights)s, %(kinds)s::bigint[], %(for_named)s, %(for_described)s,
                                          %(questions)s, %(feedback)s, %(evidence)s) AS ranking_id;
