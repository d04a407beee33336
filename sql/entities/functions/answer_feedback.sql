-- Feedback on answers. The functions run with the rights of the caller: a role may give feedback after
-- GRANT SELECT, INSERT, UPDATE, DELETE ON vectuned_entities.answer_feedback.

-- A question as it is kept: in small letters, with single spaces.
CREATE OR REPLACE FUNCTION vectuned_entities._asked(question text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT lower(btrim(regexp_replace(_asked.question, '\s+', ' ', 'g')))
$$;

-- What was said of entities as the answer to a question: the people who confirmed each less those who rejected it. A program
-- counts a fifth. A role counts once.
CREATE OR REPLACE FUNCTION vectuned_entities._answer_votes(question text) RETURNS TABLE (entity_id bigint, votes float8)
LANGUAGE sql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.entity_id, sum(CASE WHEN f.is_right THEN 1 ELSE -1 END * CASE WHEN f.by_person THEN 1 ELSE 0.2 END)::float8
    FROM vectuned_entities.answer_feedback f
    WHERE f.question_hash = hashtextextended(vectuned_entities._asked(_answer_votes.question), 0)
      AND f.question = vectuned_entities._asked(_answer_votes.question)
    GROUP BY f.entity_id
$$;

-- Records that an entity is the answer to a question, or is not. The question need not have been asked before. Returns what
-- became of it: recorded, or unchanged if the role said the same before. A role that has given max_feedback loses its oldest.
CREATE OR REPLACE FUNCTION vectuned_entities.record_answer_feedback(
    question text, target_entity_id bigint, is_right boolean, by_person boolean DEFAULT true)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    max_feedback constant bigint := 20000;  -- rows of a role: years of a person's answers, and some megabytes
    asked text := vectuned_entities._asked(question);
    changed boolean;
BEGIN
    PERFORM vectuned_entities._require('question', char_length(asked) BETWEEN 1 AND 4000, 'A text of 1 to 4000 characters.'),
            vectuned_entities._require('is_right', is_right IS NOT NULL, 'true if the entity is the answer, false if it is not.'),
            vectuned_entities._require('by_person', by_person IS NOT NULL, 'true if a person judged the answer, false if a program did.'),
            vectuned_entities._check_entity('target_entity_id', target_entity_id);
    -- A program does not overrule the person of the same role.
    INSERT INTO vectuned_entities.answer_feedback AS f (question, entity_id, is_right, by_person)
    VALUES (asked, target_entity_id, is_right, by_person)
    ON CONFLICT ON CONSTRAINT answer_feedback_once DO UPDATE
        SET is_right = EXCLUDED.is_right, by_person = EXCLUDED.by_person, given_at = now()
        WHERE (f.is_right, f.by_person) <> (EXCLUDED.is_right, EXCLUDED.by_person) AND (EXCLUDED.by_person OR NOT f.by_person);
    changed := FOUND;
    IF changed THEN
        DELETE FROM vectuned_entities.answer_feedback f
        WHERE f.feedback_id IN (SELECT o.feedback_id FROM vectuned_entities.answer_feedback o WHERE o.role = session_user
                                ORDER BY o.given_at DESC, o.feedback_id DESC OFFSET max_feedback);
    END IF;
    RETURN CASE WHEN changed THEN 'recorded' ELSE 'unchanged' END;
END
$$;

-- Deletes the feedback of a role since a time; returns the number of rows. Only the table's owner may name another role.
CREATE OR REPLACE FUNCTION vectuned_entities.forget_answer_feedback(of_role text, since timestamptz DEFAULT '-infinity')
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    forgotten bigint;
BEGIN
    PERFORM vectuned_entities._require('of_role', of_role IS NOT NULL, 'The name of the role whose feedback is to be forgotten.'),
            vectuned_entities._require('since', since IS NOT NULL, 'Omit it to forget all.');
    IF of_role <> session_user
       AND NOT pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = 'vectuned_entities.answer_feedback'::regclass), 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('the feedback of %s may only be forgotten by that role and by the owner of the entity store', left(of_role, 63));
    END IF;
    DELETE FROM vectuned_entities.answer_feedback f WHERE f.role::text = of_role AND f.given_at >= since;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;
