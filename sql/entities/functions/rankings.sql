-- Rankings of answers that were learned from feedback.

-- The neurons of a ranking for one question. The correction of a candidate is the sum of output * tanh(bias + inputs . hidden)
-- over the neurons, plus inputs . hidden of the last row, whose output is NULL. weights: in the order of Network.to_array in
-- reasoning/ranking/network.py. features: the number of inputs of a candidate. details: the inputs that describe the question;
-- they are part of the bias.
CREATE OR REPLACE FUNCTION vectuned_entities._neurons(weights float8[], features int, details float8[])
RETURNS TABLE (hidden @extschema@.vector, bias float8, output float8)
LANGUAGE plpgsql IMMUTABLE ROWS 13
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    size constant int := features + cardinality(details) + 2;
    last constant int := cardinality(weights) - features;
BEGIN
    RETURN QUERY
    SELECT weights[n.start + 1:n.start + features]::@extschema@.vector,
           weights[n.start + size - 1] + (SELECT sum(d.value * weights[n.start + features + d.place])
                                          FROM unnest(details) WITH ORDINALITY AS d (value, place)),
           weights[n.start + size]
    FROM generate_series(0, last - size, size) AS n (start)
    UNION ALL
    SELECT weights[last + 1:]::@extschema@.vector, 0, NULL;
END
$$;

-- Puts a learned ranking into service, which then corrects the prior. 0 puts none into service, and so undoes all that was
-- learned. When the daemon learns again from new feedback, it may put another ranking into service.
CREATE OR REPLACE FUNCTION vectuned_entities.serve_ranking(ranking_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._require('ranking_id', ranking_id IS NOT NULL, 'An id of vectuned_entities.rankings, or 0 for none.');
    IF ranking_id <> 0 AND NOT EXISTS (
        SELECT FROM vectuned_entities.rankings r WHERE r.ranking_id = serve_ranking.ranking_id AND (r.for_named OR r.for_described)
    ) THEN
        RAISE EXCEPTION 'there is no ranking % that is proven for any kind of question', ranking_id
            USING ERRCODE = 'no_data_found', HINT = 'SELECT ranking_id, learned_at, evidence FROM vectuned_entities.rankings';
    END IF;
    LOCK TABLE vectuned_entities.rankings IN SHARE ROW EXCLUSIVE MODE;
    UPDATE vectuned_entities.rankings r SET is_served = false WHERE r.is_served;
    UPDATE vectuned_entities.rankings r SET is_served = true WHERE r.ranking_id = serve_ranking.ranking_id;
END
$$;

-- Stores a learned ranking, serves it where it is proven, and returns its id. Deletes all rankings but the latest ten.
CREATE OR REPLACE FUNCTION vectuned_entities._publish_ranking(
    layout int, model_id int, weights float8[], kinds bigint[], for_named boolean, for_described boolean,
    questions bigint, feedback bigint, evidence jsonb)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    most_rankings constant int := 10;  -- rankings kept, some kilobytes each: enough to go back to
    id bigint;
BEGIN
    -- Before the row is inserted: taken later, two publishes would wait for each other.
    LOCK TABLE vectuned_entities.rankings IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO vectuned_entities.rankings (layout, model_id, weights, kinds, for_named, for_described, questions, feedback, evidence)
    VALUES (layout, model_id, weights, kinds, for_named, for_described, questions, feedback, evidence)
    RETURNING rankings.ranking_id INTO id;
    PERFORM vectuned_entities.serve_ranking(CASE WHEN for_named OR for_described THEN id ELSE 0 END);
    DELETE FROM vectuned_entities.rankings r
    WHERE r.ranking_id IN (SELECT o.ranking_id FROM vectuned_entities.rankings o ORDER BY o.ranking_id DESC OFFSET most_rankings);
    RETURN id;
END
$$;
