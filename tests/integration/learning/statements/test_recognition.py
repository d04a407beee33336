"""Recognition of statements against the real server: what they come down to, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest
from tests.integration.recognition_helpers import BY, DOCS, VECTOR, Connection, call, recognize, rows_of
from tests.integration.table_helpers import raw

from vectuned.learning.statements.calls import Call, TextCall
from vectuned.learning.statements.recognition import Recognizer, may_be_search
from vectuned.learning.statements.tokens import shape_of


@pytest.mark.parametrize(
    ("text", "values", "column", "operator", "k"),
    [
        (f"SELECT * FROM {DOCS} {BY}", (VECTOR,), "embedding", "<=>", 5),
        (
            f"SELECT id, embedding <=> $1 AS d FROM {DOCS} ORDER BY d LIMIT $2",
            (VECTOR, "7"),
            "embedding",
            "<=>",
            7,
        ),
        (f"SELECT 1 - (embedding <=> $1) FROM {DOCS} {BY} OFFSET 3", (VECTOR,), "embedding", "<=>", 8),
        (f"SELECT id FROM {DOCS} {BY} OFFSET $2", (VECTOR, "10"), "embedding", "<=>", 15),
        (f"SELECT id FROM {DOCS} ORDER BY $1 <=> embedding LIMIT 5", (VECTOR,), "embedding", "<=>", 5),
        (
            f"SELECT id FROM {DOCS} ORDER BY $1::vector <#> embedding LIMIT 5",
            (VECTOR,),
            "embedding",
            "<#>",
            5,
        ),
        (
            f"SELECT id FROM app.{DOCS} x ORDER BY x.embedding <-> $1 LIMIT 5",
            (VECTOR,),
            "embedding",
            "<->",
            5,
        ),
        (f"SELECT id FROM {DOCS} ORDER BY embedding <-> '{VECTOR}' LIMIT 5", (), "embedding", "<->", 5),
        (f"SELECT id FROM {DOCS} ORDER BY half <-> $1 FETCH FIRST 4 ROWS ONLY", (VECTOR,), "half", "<->", 4),
        (
            f"SELECT id FROM {DOCS} ORDER BY embedding OPERATOR(public.<=>) $1 LIMIT 5",
            (VECTOR,),
            "embedding",
            "<=>",
            5,
        ),
        (
            f"SELECT id FROM {DOCS} ORDER BY embedding::halfvec(3) <=> $1::halfvec(3) LIMIT 5",
            (VECTOR,),
            "embedding",
            "<=>",
            5,
        ),
        (
            f"SELECT id FROM {DOCS} ORDER BY embedding::halfvec(3) <=> '{VECTOR}'::halfvec(3) LIMIT 5",
            (),
            "embedding",
            "<=>",
            5,
        ),
        (
            f"WITH q AS (SELECT id, embedding <=> $1 d FROM {DOCS}) SELECT * FROM q ORDER BY d LIMIT 5",
            (VECTOR,),
            "embedding",
            "<=>",
            5,
        ),
        (f"SELECT id FROM (SELECT * FROM {DOCS}) s {BY}", (VECTOR,), "embedding", "<=>", 5),
        (f"SELECT id FROM {DOCS} ORDER BY embedding <=> $1, id LIMIT 5", (VECTOR,), "embedding", "<=>", 5),
        (
            f"DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT id FROM {DOCS} {BY}",
            (VECTOR,),
            "embedding",
            "<=>",
            5,
        ),
        (f"/* app */ SELECT id -- it\nFROM {DOCS} {BY} FOR UPDATE;", (VECTOR,), "embedding", "<=>", 5),
        (
            f"SELECT id FROM {DOCS} ORDER BY embedding <=> $1::float4[]::vector LIMIT 5",
            ("{1,2,3}",),
            "embedding",
            "<=>",
            5,
        ),
        (
            f"SELECT id FROM {DOCS} ORDER BY embedding <=> array[1,2,3]::vector LIMIT 5",
            (),
            "embedding",
            "<=>",
            5,
        ),
    ],
)
def test_recognize_reads_every_form_of_the_order(
    conn: Connection, text: str, values: Sequence[str], column: str, operator: str, k: int
) -> None:
    found = call(conn, text, *values)
    assert (found.schema, found.table, found.column, found.operator, found.k) == (
        "app",
        "My Docs",
        column,
        operator,
        k,
    )
    assert found.vector.tolist() == [1.0, 2.0, 3.0]
    assert found.metric == {"<=>": "cosine", "<->": "l2", "<#>": "ip"}[operator]
    assert (found.condition, found.shape) == (None, None)
    assert conn.execute("SELECT oid::bigint FROM pg_class WHERE relname = 'My Docs'").fetchone() == (
        found.relation,
    )


CONDITIONS = [
    ("category = %s", ("c1",)),
    ("category = %s AND n > %s", ("c1", "50")),
    ("meta @> %s", ('{"a": 1}',)),
    ("meta->>'a' = %s", ("1",)),
    ("meta #>> '{b,c}' = %s", ("12",)),
    ("(meta->'b'->>'c')::int BETWEEN %s AND %s", ("5", "30")),
    ("meta @@ '$.a == 1'", ()),
    ("jsonb_path_exists(meta, '$.b.c ? (@ > 50)')", ()),
    ("tags && %s", ("{x1,x2}",)),
    ("%s = ANY (tags)", ("x1",)),
    ("n = ANY (%s)", ("{1,2,3}",)),
    ("n IN (%s, %s, 3)", ("1", "2")),
    ("category LIKE %s OR category ILIKE 'C2'", ("c1%",)),
    ("NOT (category = %s) AND n NOT IN (1, 2)", ("c1",)),
    ("to_tsvector('english', category) @@ plainto_tsquery('english', %s)", ("c1",)),
    ("made > %s AND made <= date '2024-03-01'", ("2024-02-01",)),
    ("at > now() - interval '3 days'", ()),
    ('"Odd Col" IS NOT NULL AND price < %s', ("50.5",)),
    ("\"Odd Col\" = 'it''s \"My Docs\".n' OR score >= %s", ("1e1",)),
    ("ok AND kind = %s", ("k1",)),
    ("ok IS TRUE AND category IS DISTINCT FROM %s", ("c1",)),
    ("category = %s", ("a\\b'c",)),
    ("spot <-> point(1, 1) < %s", ("20",)),
    ("COALESCE(category, %s) = %s", ("x", "c1")),
    ("CASE WHEN n > 5 THEN category = %s ELSE false END", ("c1",)),
    ("(category, n) = (%s, %s)", ("c1", "1")),
]


@pytest.mark.parametrize(("condition", "values"), CONDITIONS)
def test_recognize_gives_the_same_condition_for_parameters_and_literals(
    conn: Connection, condition: str, values: tuple[str, ...]
) -> None:
    parameters = iter(range(2, 99))
    numbered = "".join(
        part if not at else f"${next(parameters)}{part}" for at, part in enumerate(condition.split("%s"))
    )
    literals = condition
    for value in values:
        quoted = value.replace("'", "''")
        literals = literals.replace("%s", f"'{quoted}'", 1)
    with_parameters = call(conn, f"SELECT id FROM {DOCS} WHERE {numbered} {BY}", VECTOR, *values)
    with_literals = call(
        conn, f"SELECT id FROM {DOCS} d WHERE {literals} ORDER BY embedding <=> '{VECTOR}' LIMIT 5"
    )
    expected = {row[0] for row in conn.execute(raw(f"SELECT id FROM {DOCS} WHERE {literals}")).fetchall()}
    assert rows_of(conn, with_parameters) == rows_of(conn, with_literals) == expected
    assert with_literals.shape is not None
    assert shape_of(with_literals.condition or "") == with_literals.shape
    assert shape_of(with_parameters.condition or "") == with_parameters.shape
    # What literals alone make up, such as a tsquery, the planner computes.
    if not any(word in condition for word in ("COALESCE", "CASE", "tsquery")):
        assert with_parameters.shape == with_literals.shape


def test_recognize_takes_ten_thousand_ids(conn: Connection) -> None:
    ids = [str(i) for i in range(50, 10_050)]
    literal = call(
        conn,
        f"SELECT id FROM {DOCS} WHERE id IN ({', '.join(ids)}) ORDER BY embedding <=> '{VECTOR}' LIMIT 5",
    )
    assert rows_of(conn, literal) == set(range(50, 101))
    array = call(conn, f"SELECT id FROM {DOCS} WHERE id = ANY ($2) {BY}", VECTOR, f"{{{','.join(ids)}}}")
    assert rows_of(conn, array) == set(range(50, 101))
    assert literal.shape == array.shape == "(t.id = ANY ($1))"


def test_recognize_plans_a_text_with_parameters_once(conn: Connection) -> None:
    recognizer = Recognizer(conn)
    text = f"SELECT id FROM {DOCS} WHERE category = $2 ORDER BY embedding <=> $1 LIMIT $3"
    for number in range(20):
        found = recognizer.recognize(text, (f"[{number},2,3]", f"c{number}", str(number + 1)))
        assert isinstance(found, Call)
        assert (found.k, found.condition) == (number + 1, f"(t.category = 'c{number}'::text)")
        assert found.vector[0] == number
    assert recognizer.planned == 1


def test_recognize_plans_with_values_where_they_change_the_condition(conn: Connection) -> None:
    text = f"SELECT id FROM {DOCS} WHERE ($2::text IS NULL OR category = $2) {BY}"
    recognizer = Recognizer(conn)
    some, none = recognizer.recognize(text, (VECTOR, "c1")), recognizer.recognize(text, (VECTOR, None))
    assert isinstance(some, Call)
    assert isinstance(none, Call)
    assert (some.condition, none.condition) == ("(t.category = 'c1'::text)", None)


def test_recognize_plans_again_after_a_while(conn: Connection) -> None:
    seconds = 0.0
    recognizer = Recognizer(conn, clock=lambda: seconds)
    text = f"SELECT id FROM later {BY}"
    missing = recognizer.recognize(text, (VECTOR,))
    assert isinstance(missing, TextCall)
    assert missing.reason == 'relation "later" does not exist'
    conn.execute("CREATE TABLE later (id int, embedding vector(3))")
    seconds = 1e6
    assert isinstance(recognizer.recognize(text, (VECTOR,)), Call)


def test_recognize_finds_the_table_of_partitions_and_views(conn: Connection) -> None:
    for condition, shape in (("n > 3", "(t.n > $1)"), ("n > 13", "(t.n > $1)")):
        found = call(conn, f"SELECT id FROM parts WHERE {condition} {BY}", VECTOR)
        assert (found.table, found.shape) == ("parts", shape)
    found = call(conn, f"SELECT id FROM parts_2 {BY}", VECTOR)
    assert found.table == "parts_2"
    found = call(conn, f"SELECT id FROM recent WHERE category = 'c1' {BY}", VECTOR)
    assert (found.table, found.shape) == ("My Docs", "((t.n > $1) AND (t.category = $2))")


def test_recognize_uses_the_search_path_it_is_given(conn: Connection) -> None:
    conn.execute("SET search_path = public")
    recognizer = Recognizer(conn)
    text = f"SELECT id FROM {DOCS} {BY}"
    assert isinstance(recognizer.recognize(text, (VECTOR,)), TextCall)
    assert isinstance(recognizer.recognize(text, (VECTOR,), search_path="app, public"), Call)
    assert conn.execute("SHOW search_path").fetchone() == ("public",)


def test_recognize_qualifies_names_of_extensions(conn: Connection) -> None:
    try:
        conn.execute("CREATE EXTENSION citext SCHEMA public")
    except psycopg.Error:
        pytest.skip("the server has no citext")
    conn.execute('ALTER TABLE app."My Docs" ADD COLUMN ci public.citext')
    conn.execute('UPDATE app."My Docs" SET ci = category')
    for found in (
        call(
            conn,
            f"SELECT id FROM {DOCS} WHERE ci = $2 AND category = $3 AND ci <> 'x' {BY}",
            VECTOR,
            "C1",
            "c1",
        ),
        call(
            conn,
            f"SELECT id FROM {DOCS} WHERE ci = 'C1' AND category = 'c1' AND ci <> 'x' "
            f"ORDER BY embedding <=> '{VECTOR}' LIMIT 5",
        ),
    ):
        assert rows_of(conn, found) == {i for i in range(1, 101) if i % 5 == 1}
        assert "OPERATOR(public.=) 'C1'::public.citext" in (found.condition or "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"SELECT d.id FROM {DOCS} d JOIN people p ON p.id = d.n {BY}", "a join"),
        (f"SELECT id FROM {DOCS} d WHERE EXISTS (SELECT FROM people p WHERE p.id = d.n) {BY}", "a join"),
        (f"SELECT id FROM {DOCS} WHERE n NOT IN (SELECT id FROM people) {BY}", "a subquery"),
        (f"SELECT id FROM {DOCS} WHERE n > (SELECT max(id) FROM people) {BY}", "a subquery"),
        (f"SELECT id, (SELECT count(*) FROM people) FROM {DOCS} {BY}", "a subquery"),
        (f"SELECT id FROM {DOCS} ORDER BY embedding <=> (SELECT $1::vector) LIMIT 5", "a subquery"),
        (
            f"SELECT DISTINCT ON (category) id FROM {DOCS} ORDER BY category, embedding <=> $1 LIMIT 5",
            "DISTINCT",
        ),
        (f"SELECT id FROM {DOCS} WHERE embedding <=> $1 < 0.5 {BY}", "a threshold on the distance"),
        (
            f"SELECT id FROM {DOCS} WHERE cosine_distance(embedding, $1) < 0.5 {BY}",
            "a threshold on the distance",
        ),
        (f"(SELECT id FROM {DOCS} {BY}) UNION ALL (SELECT id FROM {DOCS} {BY})", "a set operation"),
        (
            f"SELECT category, min(embedding <=> $1) m FROM {DOCS} GROUP BY 1 ORDER BY m LIMIT 5",
            "an aggregate",
        ),
        (f"SELECT id, rank() OVER (ORDER BY embedding <=> $1) FROM {DOCS} {BY}", "a window function"),
        (f"SELECT id FROM {DOCS} TABLESAMPLE SYSTEM (50) {BY}", "TABLESAMPLE"),
        (f"SELECT id FROM {DOCS} ORDER BY embedding <=> $1 DESC LIMIT 5", "a descending order"),
        (f"SELECT id FROM {DOCS} ORDER BY embedding <=> $1", "it has no LIMIT"),
        (f"SELECT id FROM {DOCS} ORDER BY embedding <=> $1 LIMIT 2 + 3", "its LIMIT is an expression"),
        (f"SELECT id FROM {DOCS} ORDER BY embedding <+> $1 LIMIT 5", "the operator <+>, which is not tuned"),
        (
            f"SELECT id FROM {DOCS} ORDER BY cosine_distance(embedding, $1) LIMIT 5",
            "an order by a function, which no index serves",
        ),
        (f"SELECT id FROM {DOCS} WHERE random() < 0.5 {BY}", "a condition with the volatile function random"),
        (
            f"SELECT id FROM {DOCS} ORDER BY (embedding <=> $1) + n LIMIT 5",
            "an order by something else than a column's distance to a vector",
        ),
        (
            f"SELECT id FROM {DOCS} WHERE category = 'x' AND false {BY}",
            "its condition is never true or does not depend on the row",
        ),
    ],
)
def test_recognize_gives_the_reason_why_a_search_is_more_than_one_table(
    conn: Connection, text: str, expected: str
) -> None:
    found = recognize(conn, text, VECTOR)
    assert isinstance(found, TextCall)
    assert (found.reason, found.is_search) == (expected, True)


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        (f"SELECT id FROM nowhere {BY}", (VECTOR,), 'relation "nowhere" does not exist'),
        (f"SELEC id FROM {DOCS} {BY}", (VECTOR,), None),
        (f"SELECT id FROM {DOCS} WHERE {BY}", (VECTOR,), 'syntax error at or near "ORDER"'),
        (
            f"SELECT id FROM {DOCS} {BY}; DROP TABLE people",
            (VECTOR,),
            "cannot insert multiple commands into a prepared statement",
        ),
        (
            f"SELECT id FROM {DOCS} ORDER BY embedding <=> '[1,2' LIMIT 5",
            (),
            'invalid input syntax for type vector: "[1,2"',
        ),
        (f"SELECT id FROM {DOCS} {BY} -- \0", (VECTOR,), None),
        (f"SELECT id FROM {DOCS} WHERE category = '\ud800' {BY}", (VECTOR,), None),
        (f"SELECT id FROM {DOCS} {BY} /* {'x' * 1_000_000} */", (VECTOR,), "longer than 500,000 characters"),
        ("SELECT 'a' <-> 'b' 'never closed", (), None),
        (f"SELECT id FROM {DOCS} WHERE {'(' * 20_000} n = 1 {BY}", (VECTOR,), None),
    ],
)
def test_recognize_gives_a_reason_for_texts_that_fail(
    conn: Connection, text: str, values: Sequence[str], expected: str | None
) -> None:
    found = Recognizer(conn).recognize(text, values)
    if text.startswith("SELEC "):
        assert found is None
        return
    assert isinstance(found, TextCall)
    assert not found.is_search
    assert expected is None or found.reason == expected
    assert conn.execute("SELECT count(*) FROM people").fetchone() == (0,)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (None, "its values were not logged"),
        ((), "0 values for 1 parameters"),
        (("[1,2",), "a vector that cannot be read"),
        (("[1,x,3]",), "a vector that cannot be read"),
        (("[nan,1,1]",), "a vector that cannot be read"),
        ((None,), "its vector is NULL"),
    ],
)
def test_recognize_gives_a_reason_for_values_that_fail(
    conn: Connection, values: Sequence[str | None] | None, expected: str
) -> None:
    recognizer = Recognizer(conn)
    text = f"SELECT id FROM {DOCS} {BY}"
    for _ in range(2):
        found = recognizer.recognize(text, values)
        assert isinstance(found, TextCall)
        assert (found.reason, found.is_search) == (expected, True)
    assert isinstance(recognizer.recognize(text, (VECTOR,)), Call)


@pytest.mark.parametrize(
    "text",
    [
        f"INSERT INTO people SELECT id FROM {DOCS} {BY}",
        f"UPDATE {DOCS} SET n = 1 WHERE id IN (SELECT id FROM {DOCS} {BY})",
        f"EXPLAIN ANALYZE SELECT id FROM {DOCS} {BY}",
        f"SELECT embedding <=> $1 FROM {DOCS} WHERE id = 5",
        f"SELECT id FROM {DOCS} ORDER BY spot <-> $1 LIMIT 5",
        "SELECT 1",
        "",
        "SELECT vectuned.search('x', $1) <-> 1",
    ],
)
def test_recognize_returns_none_for_what_is_no_vector_search(conn: Connection, text: str) -> None:
    assert Recognizer(conn).recognize(text, ("(1,2)" if "spot" in text else VECTOR,)) is None


def test_may_be_search_reads_the_text_only() -> None:
    assert may_be_search("SELECT 1 ORDER BY a <=> b")
    assert may_be_search("ORDER BY cosine_distance(a, b)")
    assert not may_be_search("SELECT a <= b, c -> 'd' FROM vector")
    assert not may_be_search("SELECT * FROM vectuned.search('items', '[1]') -- <=>")
