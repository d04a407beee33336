"""Walk a tuned column through everything that costs it its proofs, and measure what serves after each event.

The events are a first publish, a rebuilt index, an alarm of another class of k and of the class itself, a
bulk load in several refreshes, an import and a change of index method, each followed by a pass of learning.
After each event the searches are timed beside the same query in plain SQL at the right effort, which is the
smallest whose mean recall on the held-out queries reaches the target on the table and index as they are. The
figure to watch is `slower`, the ratio of the two medians: at most 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from benchmarks.scratch import scratch_database
from benchmarks.sets import VectorSet, load
from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.arrays import Ints, Singles
from vectuned.learning.model.ladder import RUNGS, probe_rungs
from vectuned.learning.model.vectors import Vector
from vectuned.sql.install import migrate

TABLE: Final = "walk"
K: Final = 10
# Of the searches that are learned from. The others ask for 1 or 100 rows: a class of their own each.
_SHARE_OF_K: Final = 0.7
_LISTS: Final = 200  # of the IVFFlat index
_SERVER: Final = {"shared_buffers": "512MB", "maintenance_work_mem": "512MB", "autovacuum": "off"}
_BAD_CHECKS: Final = 60  # checks of recall 0 that make an alarm certain


@dataclass(frozen=True)
class Right:
    """The smallest effort that reaches the target on the present table and index, and how to set it."""

    effort: int
    setting: str


@dataclass
class Walk:
    """A tuned column under way: `rows` are in the table, and `points` were measured so far."""

    conn: psycopg.Connection[Any]
    plain: psycopg.Connection[Any]
    worker: Worker
    data: VectorSet
    options: dict[str, Any]
    console: Console
    rows: int = 0
    asked: int = 0
    right: Right | None = None
    points: list[dict[str, Any]] = field(default_factory=list)

    def add_rows(self, count: int) -> None:
        """Add the next rows of the set to the table."""
        statement = f"COPY {TABLE} FROM STDIN (FORMAT BINARY)"
        with self.conn.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(["int4", "vector"])
            for number in range(self.rows, self.rows + count):
                copy.write_row((number, Vector(self.data.rows[number])))
        self.rows += count
        self.changed(f"ANALYZE {TABLE}")

    def changed(self, *statements: str) -> None:
        """Run statements that change table or index, after which another effort may be right."""
        for statement in statements:
            self.conn.execute(statement)
        self.conn.execute("SELECT pg_stat_force_next_flush()")
        self.right = None

    def enable(self) -> None:
        """Enable tuning of the column, with every search recorded."""
        self.conn.execute(
            "SELECT vectuned.enable(%s::regclass, 'embedding', target_recall => %s, sample_rate => 1)",
            (TABLE, self.options["target"]),
        )

    def refresh(self) -> None:
        """Do what the daemon does between two passes of learning."""
        self.worker.refresh_all()

    def learn(self, count: int) -> None:
        """Search, then drain, replay, check and learn, as the daemon does."""
        queries = self.data.training[self.asked : self.asked + count]
        self.asked += count
        rng = np.random.default_rng(self.asked)
        ks = np.where(rng.random(count) < _SHARE_OF_K, K, rng.choice([1, 100], count))
        for query, k in zip(queries, ks, strict=True):
            self.conn.execute(
                "SELECT FROM vectuned.search(%s::regclass, %s, %s)", (TABLE, Vector(query), int(k))
            )
        self.worker.drain()
        self.worker.replay(self.worker.columns()[0], count)
        self.worker.learn_all()

    def alarm(self, k_class: int) -> None:
        """Let the checks of a class of k fail, and let oversight look at them."""
        self.conn.execute(
            "INSERT INTO vectuned.recall_check "
            "(column_id, query_id, recorded_at, k_class, shape, version, recall) "
            "SELECT c.id, gen_random_uuid(), clock_timestamp(), %s, '', "
            "(SELECT max(b.version) FROM vectuned.bank b), 0 "
            "FROM vectuned.tuned_column c, generate_series(1, %s)",
            (k_class, _BAD_CHECKS),
        )
        query = self.data.training[0]
        self.conn.execute("SELECT FROM vectuned.search(%s::regclass, %s, %s)", (TABLE, Vector(query), K))
        self.worker.drain()
        self.worker.replay(self.worker.columns()[0], 1)

    def measure(self, event: str) -> None:
        """Measure what serves now beside plain SQL at the right effort."""
        heldout = self.data.heldout[: self.options["heldout"]]
        truth = _truth(self.data.rows[: self.rows], heldout)
        if self.right is None:
            self.right = self._find_right(truth)
        effort = self.right.effort
        self._set(self.right.setting, effort)
        self.conn.execute("SET vectuned.record = off")
        served, bare, hits = np.zeros(len(heldout)), np.zeros(len(heldout)), np.zeros(len(heldout))
        order = np.random.default_rng(len(self.points)).permutation(len(heldout))
        for i in [*order[:20], *order]:  # the first ones only warm plans and pages
            ids, served[i] = _timed(
                self.conn,
                f"SELECT id FROM vectuned.search('{TABLE}', %s, {K})",
                (Vector(heldout[i]),),
            )
            _, bare[i] = _timed(self.plain, _STATEMENT, (Vector(heldout[i]),))
            hits[i] = len({int(each) for each in ids} & set(truth[i].tolist())) / K
        self.conn.execute("RESET vectuned.record")
        params = self.conn.execute(
            "SELECT access_path, coalesce(ef_search, probes) AS effort "
            "FROM vectuned.params(%s::regclass, %s, %s)",
            (TABLE, Vector(heldout[0]), K),
        ).fetchone()
        bank = self.conn.execute("SELECT certified FROM vectuned.bank WHERE k_class = %s", (K,)).fetchone()
        assert params is not None
        p50, right_p50 = float(np.median(served)), float(np.median(bare))
        point = {
            "event": event,
            "rows": self.rows,
            "path": params[0],
            "effort": params[1],
            "proven": bool(bank and bank[0]),
            "right_effort": effort,
            "p50_ms": p50,
            "right_p50_ms": right_p50,
            "slower": p50 / right_p50,
            "recall": float(hits.mean()),
        }
        self.points.append(point)
        self.console.say(
            f"{event}: {params[0]} {params[1]} (right {effort}), p50 {p50:.2f} ms "
            f"({p50 / right_p50:.2f} x right), recall {hits.mean():.3f}"
        )

    def _find_right(self, truth: Ints) -> Right:
        """Find the smallest effort whose mean recall on the held-out queries reaches the target."""
        methods = [
            row[0]
            for row in self.conn.execute(
                "SELECT m.amname FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid "
                "JOIN pg_am m ON m.oid = r.relam WHERE x.indrelid = %s::regclass",
                (TABLE,),
            ).fetchall()
        ]
        setting, rungs = (
            ("hnsw.ef_search", RUNGS) if "hnsw" in methods else ("ivfflat.probes", probe_rungs(_LISTS))
        )
        recalls = np.array([self._recall(setting, effort, truth) for effort in rungs])
        recalls = np.maximum.accumulate(recalls)
        target = self.options["target"]
        if recalls[-1] < target:
            return Right(rungs[-1], setting)
        return Right(int(np.ceil(np.interp(target, recalls, rungs))), setting)

    def _set(self, setting: str, effort: int) -> None:
        """Let plain SQL search with an effort, and with the index of its method."""
        settings = {"hnsw.ef_search": "1000", "ivfflat.probes": "32768", setting: str(effort)}
        for name, value in settings.items():
            self.plain.execute("SELECT set_config(%s, %s, false)", (name, value))

    def _recall(self, setting: str, effort: int, truth: Ints) -> float:
        """Return the mean recall of plain SQL with a setting."""
        self._set(setting, effort)
        hits = 0
        for query, nearest in zip(self.data.heldout, truth, strict=False):
            ids, _ = _timed(self.plain, _STATEMENT, (Vector(query),))
            hits += len(set(ids) & set(nearest.tolist()))
        return hits / truth.size


_STATEMENT: Final = f"SELECT id FROM {TABLE} ORDER BY embedding <=> %s LIMIT {K}"


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Walk through the events; `options` are the keys of the definition."""
    data = load(options["set"], console)
    with scratch_database(dsn, _SERVER) as conninfo, psycopg.connect(conninfo, autocommit=True) as admin:
        migrate(admin)
        with open_session(conninfo) as conn, open_session(conninfo) as plain:
            # The highest effort of the other method makes its index look expensive to the planner.
            plain.execute("SET enable_seqscan = off")
            settings = load_settings(None, {"learning.replay_batch": 1000}, {})
            walk = Walk(conn, plain, Worker(conn, settings), data, options, console)
            _prepare(walk)
            for name, event in _events(walk):
                event()
                walk.measure(name)
    slower = [point["slower"] for point in walk.points]
    return {
        "set": data.name,
        "dimensions": data.rows.shape[1],
        "metric": data.metric,
        "target": options["target"],
        "heldout": options["heldout"],
        "worst": max(slower),
        "points": walk.points,
    }


def _prepare(walk: Walk) -> None:
    """Make the table, its index, and the tuned column."""
    conn, width = walk.conn, walk.data.rows.shape[1]
    conn.execute("SET client_min_messages = warning")
    conn.execute(f"DROP TABLE IF EXISTS {TABLE}")
    conn.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, embedding vector({width}) NOT NULL)")
    walk.add_rows(walk.options["rows"])
    conn.execute(f"CREATE INDEX {TABLE}_hnsw ON {TABLE} USING hnsw (embedding vector_cosine_ops)")
    walk.changed(f"VACUUM ANALYZE {TABLE}")
    walk.enable()
    walk.refresh()


def _events(walk: Walk) -> list[tuple[str, Callable[[], None]]]:
    """Return the events in order, each with its name."""
    a_pass = walk.options["searches"]
    hnsw = f"CREATE INDEX {TABLE}_hnsw ON {TABLE} USING hnsw (embedding vector_cosine_ops)"
    lists = f"WITH (lists = {_LISTS})"
    ivfflat = f"CREATE INDEX {TABLE}_ivfflat ON {TABLE} USING ivfflat (embedding vector_cosine_ops) {lists}"

    def learn() -> None:
        walk.learn(a_pass)

    def change(*statements: str) -> Callable[[], None]:
        def event() -> None:
            walk.changed(*statements)
            walk.refresh()

        return event

    def grow() -> None:
        walk.add_rows(walk.rows // 4)
        walk.refresh()

    def carry_over() -> None:
        row = walk.conn.execute("SELECT vectuned.export_patterns(%s::regclass)", (TABLE,)).fetchone()
        assert row is not None
        walk.conn.execute("SELECT vectuned.disable(%s::regclass, 'embedding', forget => true)", (TABLE,))
        walk.changed(f"REINDEX INDEX {TABLE}_hnsw")
        walk.enable()
        walk.conn.execute(
            "SELECT vectuned.import_patterns(%s::regclass, 'embedding', %s)", (TABLE, Jsonb(row[0]))
        )
        walk.refresh()

    return [
        ("nothing learned", lambda: None),
        ("first pass", learn),
        ("well learned", lambda: walk.learn(walk.options["well"])),
        ("REINDEX", change(f"REINDEX INDEX {TABLE}_hnsw")),
        ("REINDEX, a pass", learn),
        ("alarm of k = 1", lambda: walk.alarm(1)),
        ("alarm of k = 1, a pass", learn),
        ("alarm of k = 10", lambda: walk.alarm(K)),
        ("alarm of k = 10, a pass", learn),
        ("a quarter more rows", grow),
        ("another quarter", grow),
        ("a third quarter", grow),
        ("growth, a pass", learn),
        ("import elsewhere", carry_over),
        ("import, a pass", learn),
        ("IVFFlat beside HNSW", change(ivfflat)),
        ("HNSW dropped", change(f"DROP INDEX {TABLE}_hnsw")),
        ("IVFFlat, a pass", learn),
        ("HNSW instead", change(hnsw, f"DROP INDEX {TABLE}_ivfflat")),
        ("HNSW, a pass", learn),
    ]


def _truth(rows: Singles, queries: Singles) -> Ints:
    """Return the numbers of the K nearest rows of each query, by cosine distance."""
    units = np.asarray(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.argpartition(-(queries @ units.T), K, axis=1)[:, :K]


def _timed(conn: psycopg.Connection[Any], statement: Any, values: tuple[Any, ...]) -> tuple[list[Any], float]:
    """Run a statement; return the first column of its rows and its milliseconds."""
    began = perf_counter()
    rows = conn.execute(statement, values, prepare=True).fetchall()
    return [row[0] for row in rows], (perf_counter() - began) * 1000
