"""SQLAlchemy's and Django's ORM, and plain psycopg, with the statements that they really send."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from pgvector.sqlalchemy import Vector
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.integration.embedded_helpers import PACKAGE
from tests.integration.framework_helpers import (
    DEFAULTS,
    HELD_OUT,
    IN_FORCE,
    Application,
    K,
    Query,
    check_learned,
    check_served,
    held_out,
    judge,
    vector_text,
)
from tests.integration.frameworks import django_application
from tests.integration.table_helpers import raw
from tests.pages_helpers import ROOT

from vectuned import client
from vectuned.sql.client.snapshot import Snapshot


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "documents"
    id: Mapped[int] = mapped_column(primary_key=True)
    category: Mapped[str]
    embedding = mapped_column(Vector())


def test_sqlalchemy_orm_is_learned_from_and_served(application: Application) -> None:
    application.create_documents()
    engine = create_engine(application.url("psycopg"))

    def find(query: Query) -> list[str]:
        nearest = (
            select(Document)
            .where(Document.category == query.category)
            .order_by(Document.embedding.cosine_distance(query.vector))
            .limit(K)
        )
        with Session(engine) as session:
            return [str(each.id) for each in session.scalars(nearest)]

    came = judge(find, held_out())
    check_learned(application, application.learn_from(find), "public.documents")
    engine.dispose()
    snapshot = client.tune(engine)
    check_served(came, judge(find, held_out()), snapshot)
    with engine.connect() as conn:
        assert tuple(conn.execute(text(IN_FORCE)).one()) == DEFAULTS
    engine.dispose()


def test_django_orm_is_learned_from_and_served(application: Application) -> None:
    pytest.importorskip("django", reason="Django is not installed")
    application.create_documents()

    def answers(engine: str, queries: Sequence[Query]) -> dict[str, list[str]]:
        """Run the application as a program, since Django's settings are made once in a process."""
        info = application.conn.info
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                str(Path(django_application.__file__)),
                engine,
                info.dbname,
                info.host,
                str(info.port),
            ],
            input=json.dumps([[query.vector, query.category] for query in queries]),
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": f"{PACKAGE.parent}:{ROOT}"},
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert tuple(said["in_force"]) == DEFAULTS
        if engine == "vectuned.sql.client.django":
            assert (said["tuned"], said["failures"]) == (len(queries), {})
        return {str(query.vector): found for query, found in zip(queries, said["found"], strict=True)}

    plain = answers("django.db.backends.postgresql", held_out())
    came = judge(lambda query: plain[str(query.vector)], held_out())
    seen = application.learn_from_all(lambda queries: answers("django.db.backends.postgresql", queries))
    check_learned(application, seen, "public.documents")
    tuned = answers("vectuned.sql.client.django", held_out())
    check_served(came, judge(lambda query: tuned[str(query.vector)], held_out()), None)


@pytest.mark.parametrize(
    ("autocommit", "setting"), [(True, "enable_sort = off"), (False, "enable_seqscan = off")]
)
def test_psycopg_is_learned_from_and_served(application: Application, autocommit: bool, setting: str) -> None:
    application.create_documents()
    # What keeps the planner from exact search, as some advise, is no obstacle.
    application.conn.execute(raw(f"ALTER DATABASE {application.conn.info.dbname} SET {setting}"))
    statement = "SELECT id FROM documents WHERE category = %s ORDER BY embedding <=> %s LIMIT %s"
    with psycopg.connect(application.dsn, autocommit=autocommit) as conn:

        def find(query: Query) -> list[str]:
            rows = conn.execute(statement, (query.category, vector_text(query), K))
            return [str(id) for (id,) in rows.fetchall()]

        came = judge(find, held_out())
        check_learned(application, application.learn_from(find), "public.documents")
        conn.rollback()
        snapshot = client.tune(conn, snapshot=Snapshot())
        check_served(came, judge(find, held_out()), snapshot)
        assert conn.execute(IN_FORCE).fetchone() == DEFAULTS
        assert snapshot.counters.tuned == HELD_OUT
