-- How a search chooses its effort: a probe's distances give a signature, and the nearest learned patterns give the
-- effort. (ladder.sql turns an effort into ef_search or probes.) learning/patterns/signature.py and optimizer.py compute the
-- same to the last bit: both use only + - * / and round on float8, and integer coordinates small enough that float4 sums of
-- their squares are exact (4 * 2000^2 < 2^24).

-- The signature of a probe. d1, dk: distances at ranks 1 and k; q1, q2, q3, last: at the quarters from k to the probe's
-- last rank; mean: of the first k. NULL if an array has the wrong size or a number is not finite, which least and greatest
-- would hide.
CREATE OR REPLACE FUNCTION vectuned._signature(
    d1 float8, dk float8, q1 float8, q2 float8, q3 float8, last float8, mean float8,
    center float8[], weights float8[])
RETURNS @extschema@.vector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    spread float8 := last - d1;
    f1 float8; f2 float8; f3 float8; f4 float8; f5 float8; f6 float8; f7 float8; f8 float8;
    w float8[] := weights;
    s1 float8; s2 float8; s3 float8; s4 float8;
BEGIN
    IF spread <= 0 THEN
        spread := 1;
    END IF;
    f1 := d1 - center[1];
    f2 := dk - center[2];
    f3 := last - center[3];
    f4 := mean - center[4];
    f5 := (dk - d1) / spread - center[5];
    f6 := (q1 - dk) / spread - center[6];
    f7 := (q2 - dk) / spread - center[7];
    f8 := (q3 - dk) / spread - center[8];
    s1 := round(f1*w[1] + f2*w[5] + f3*w[9]  + f4*w[13] + f5*w[17] + f6*w[21] + f7*w[25] + f8*w[29]);
    s2 := round(f1*w[2] + f2*w[6] + f3*w[10] + f4*w[14] + f5*w[18] + f6*w[22] + f7*w[26] + f8*w[30]);
    s3 := round(f1*w[3] + f2*w[7] + f3*w[11] + f4*w[15] + f5*w[19] + f6*w[23] + f7*w[27] + f8*w[31]);
    s4 := round(f1*w[4] + f2*w[8] + f3*w[12] + f4*w[16] + f5*w[20] + f6*w[24] + f7*w[28] + f8*w[32]);
    IF (greatest(abs(s1), abs(s2), abs(s3), abs(s4)) < 'Infinity' AND num_nulls(s1, s2, s3, s4) = 0
        AND cardinality(center) = 8 AND cardinality(w) = 32) IS NOT TRUE
    THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY[least(greatest(s1, -1000), 1000), least(greatest(s2, -1000), 1000),
                 least(greatest(s3, -1000), 1000), least(greatest(s4, -1000), 1000)
    ]::float8[]::@extschema@.vector;
END
$$;

-- The decision for a probe with these distances, nearest first.
CREATE OR REPLACE FUNCTION vectuned._decide_by_probe(
    p_column_id int, p_k_class int, distances float8[], center float8[], weights float8[], p_reach float8,
    OUT signature @extschema@.vector, OUT effort float8, OUT expected_recall float8, OUT confidence float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    width constant int := cardinality(distances);
    rest constant int := width - p_k_class;
    total float8 := 0;
BEGIN
    FOR i IN 1 .. p_k_class LOOP
        total := total + distances[i];
    END LOOP;
    signature := vectuned._signature(distances[1], distances[p_k_class], distances[p_k_class + rest / 4], distances[p_k_class + rest / 2],
                                     distances[p_k_class + rest * 3 / 4], distances[width], total / p_k_class, center, weights);
    SELECT d.effort, d.expected_recall, d.confidence INTO effort, expected_recall, confidence
    FROM vectuned._decide(p_column_id, p_k_class, signature, p_reach) d;
END
$$;

-- The decision for a signature: the mean of the three nearest patterns, weighted by 1 / (distance + 8). No row if none is
-- within reach. The function has a parsed body and no SET clause, so that PostgreSQL inlines it into the calling statement.
CREATE OR REPLACE FUNCTION vectuned._decide(
    p_column_id int, p_k_class int, p_signature @extschema@.vector, p_reach float8)
RETURNS TABLE (effort float8, expected_recall float8, confidence float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT sum(n.weight * n.effort) / sum(n.weight),
           sum(n.weight * n.expected_recall) / sum(n.weight),
           sum(n.weight * n.confidence) / sum(n.weight)
    FROM (SELECT 1 / (d.distance + 8) AS weight, d.effort, d.expected_recall, d.confidence, d.distance
          FROM (SELECT p.effort, p.expected_recall, p.confidence, p.pattern_no,
                       p.centroid OPERATOR(@extschema@.<->) p_signature AS distance
                FROM vectuned.pattern p
                WHERE p.column_id = p_column_id AND p.k_class = p_k_class
                ORDER BY distance, p.pattern_no
                LIMIT 3) d) n
    HAVING min(n.distance) <= p_reach AND p_reach < 'Infinity';
END;
