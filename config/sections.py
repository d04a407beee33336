"""The sections of the configuration: the default, range and description of every setting.

`reference.py` generates vectuned.toml from them, so a description is all that is documented of a setting.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from .field_types import (
    ApplicationName,
    Conninfo,
    Folder,
    LanguageTag,
    LogPrefix,
    ModelName,
    TextSearchConfiguration,
    Url,
    VariableName,
)

LISTEN_PATTERN: Final = re.compile(r"([^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
"""An address or name of a host, and a port; IPv6 addresses in brackets."""


class Section(BaseModel):
    """A section of the configuration: frozen, without unknown keys."""

    # hide_input_in_errors: the input may be a password.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class DatabaseSettings(Section):
    """The PostgreSQL server and how to connect to it."""

    dsn: Conninfo = Field(
        default="",
        # A connection string may hold a password.
        repr=False,
        description="Connection string or URI, such as host=db1 dbname=shop user=vectuned or "
        "postgresql://db1/shop. Empty: libpq's variables (PGHOST, PGDATABASE, PGSERVICE, ...) "
        "or, without those, the embedded server. Keep passwords in ~/.pgpass or PGPASSFILE "
        "rather than here.",
    )
    replay_dsn: Conninfo = Field(
        default="",
        repr=False,
        description="Connection string or URI of a physical hot standby of that server, on which searches "
        "are replayed and checked. Empty: on the server itself. While the standby lags or is "
        "down, replaying waits; it never moves to the primary. Set hot_standby_feedback = on "
        "on the standby, or vacuum on the primary may cancel replays.",
    )
    connect_timeout: int = Field(
        default=10, ge=1, le=3600, description="Timeout of a connection attempt, in seconds."
    )
    application_name: ApplicationName = Field(
        default="vectuned",
        description="Name of the connections in pg_stat_activity and in the server's log: printable ASCII, "
        "at most 63 characters. PGAPPNAME and the connection string take precedence.",
    )


class LearningSettings(Section):
    """How much evidence learning takes, and what it concludes."""

    enabled: bool = Field(
        default=True,
        description="Whether to learn patterns. If false, searches are only recorded and measured.",
    )
    batch_min: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="New replays of a column after which it is learned about again. The min_samples of "
        "vectuned.enable decides about the first publication.",
    )
    replay_batch: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="Sampled searches replayed in one pass over the table. Larger batches share the cost "
        "of that pass.",
    )
    confidence: float = Field(
        default=0.95, ge=0.5, lt=1, description="Confidence level of every claim about recall."
    )
    false_alarms: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="Probability of a false alarm while the promise is kept, for a class of searches "
        "within a window of checks (the trajectory_window of vectuned.enable).",
    )
    drift_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of a table's rows that may be inserted, deleted or updated before it is learned "
        "about again.",
    )
    max_effort: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Highest ef_search or number of probes that may serve any column, proven or not. The "
        "max_effort of vectuned.enable may be lower. 0: no cap.",
    )
    max_ms: float = Field(
        default=0.0,
        ge=0,
        le=1e9,
        description="Highest mean time of a search in milliseconds, by its replays, at the effort that may "
        "serve any column. The max_ms of vectuned.enable may be lower. 0: no cap.",
    )
    clusters: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Largest number of patterns learned for a column, index and class of searches.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed of all random choices, for reproducible runs."
    )
    step_aside: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the work that a learned policy must save, its own costs included, to be used "
        "at all. If it saves less, searches use the best fixed setting.",
    )


class ScheduleSettings(Section):
    """How often the daemon runs each of its jobs."""

    drain_seconds: float = Field(
        default=10.0,
        gt=0,
        le=604_800,
        description="Seconds between two drains of the inbox of recorded searches.",
    )
    replay_seconds: float = Field(
        default=60.0, gt=0, le=604_800, description="Seconds between two replays of sampled searches."
    )
    learn_seconds: float = Field(
        default=300.0, gt=0, le=604_800, description="Seconds between two passes of learning and publishing."
    )
    request_seconds: float = Field(
        default=2.0,
        gt=0,
        le=604_800,
        description="Seconds between two checks for requests made in SQL, by vectuned.auto_tune and the "
        "benchmarks.",
    )
    refresh_seconds: float = Field(
        default=60.0,
        gt=0,
        le=604_800,
        description="Seconds between two checks of the tuned tables and their indexes for changes.",
    )
    maintain_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=604_800,
        description="Seconds between two rounds of maintenance, which creates partitions ahead of time and "
        "deletes what is past its retention.",
    )
    idle_seconds: float = Field(
        default=300.0,
        ge=0,
        le=604_800,
        description="Seconds in which no job finds anything to do, after which the daemon sleeps: it makes "
        "no statement until a search is recorded, a request or feedback arrives, or a day has passed. "
        "Databases that suspend themselves when idle can do so then. 0: never.",
    )
    retention_days: int = Field(
        default=30,
        ge=1,
        le=36_500,
        description="Days to keep trajectories, their query vectors and finished requests.",
    )
    trajectory_mb: int = Field(
        default=2048,
        ge=1,
        le=1_048_576,
        description="Size in MB of a column's recorded searches above which the oldest are deleted.",
    )


class BudgetSettings(Section):
    """Limits on what replaying, checking and learning take from other users of the server."""

    core_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of one core that replaying, checking and learning may use: computing time of "
        "the daemon and time that the server is busy for it, reading the table included, taken "
        "together. A pause follows each piece of work. `vectuned learn --once` ignores this "
        "limit unless it has --within-budget.",
    )
    mb_per_hour: float = Field(
        default=50_000.0,
        ge=0,
        le=1_000_000_000,
        description="MB that replaying may read in an hour to find the exact answers of searches: each pass "
        "reads the vectors of the whole table. What is not used may be saved up for 10 minutes, and one pass "
        "may exceed it; the next one then waits. Indexes that are searched do not count. 0: no limit. "
        "`vectuned learn --once` ignores this limit unless it has --within-budget, and ends there instead of "
        "waiting for more than a minute.",
    )
    pause_above: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Number of other statements running on the server above which replaying pauses and "
        "looks again every few seconds. Counted in pg_stat_activity, for which the role needs "
        "pg_read_all_stats. The number of the server's cores is a good choice if the server is "
        "often busy. 0: never pause.",
    )
    statement_timeout_seconds: float = Field(
        default=60.0,
        ge=0.1,
        le=86_400,
        description="Timeout of the replay or the check of one search, in seconds. Its result is then "
        "unknown, and counts as neither success nor failure.",
    )
    lag_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Seconds to wait, before each pass, for the standby of replay_dsn to catch up with "
        "what the primary had written when the pass began. If it takes longer, replaying waits "
        "for the next pass and logs that.",
    )


class IndexBuildSettings(Section):
    """What an index build may take: of vectuned advise, of the demonstration and of the entity store."""

    memory_mb: int = Field(
        default=0,
        ge=0,
        le=2_000_000,
        description="Most maintenance_work_mem of a build, in MB; a build takes what its graph or its "
        "k-means needs, and never less than the server's own. 0: half of the free memory of the server's "
        "machine, where the role may read it (pg_read_server_files) or the connection is a local socket, "
        "else a quarter of effective_cache_size.",
    )
    workers: int = Field(
        default=-1,
        ge=-1,
        le=1024,
        description="Parallel workers of a build. -1: one less than the machine's cores, where these are "
        "known, else the server's max_parallel_maintenance_workers. None with a pgvector whose "
        "parallel builds can overflow a buffer (0.6.0 to 0.8.1).",
    )


class InboxSettings(Section):
    """The table that holds recorded searches until the daemon drains them."""

    max_mb: int = Field(
        default=64,
        ge=1,
        le=1_048_576,
        description="Size in MB at which recording stops until the daemon has drained the inbox.",
    )


class ExportSettings(Section):
    """Export of what was learned to files, and import from them."""

    folder: Folder = Field(
        default="",
        description="Folder to export to, one file for each column that has changed. Empty: no export.",
    )
    import_folder: Folder = Field(
        default="",
        description="Folder to import from, such as the export folder of another system. The newest "
        "document for a table and column of the same names is imported. The folder must not be "
        "writable by everyone. Empty: no import.",
    )
    seconds: float = Field(
        default=3600.0,
        gt=0,
        le=604_800,
        description="Seconds between two exports, and between two checks for documents to import.",
    )
    keep: int = Field(
        default=7,
        ge=1,
        le=10_000,
        description="Number of documents of each column to keep in the export folder.",
    )


class ObserveSettings(Section):
    """The statements of applications that the daemon learns from."""

    log: Folder = Field(
        default="",
        description="Log of the server to observe: a file, a folder of log files, or server, for the "
        "server's own log, read through the connection. Files are read from where the daemon stopped. Empty: "
        "no log is observed.",
    )
    prefix: LogPrefix = Field(
        default="",
        description="The log_line_prefix of that log, if it is in the format stderr and of another server. "
        "Empty: that of the server.",
    )
    seconds: float = Field(
        default=10.0,
        gt=0,
        le=604_800,
        description="Seconds between two looks at the log and at the statements that vectuned.client "
        "recorded.",
    )


class LoggingSettings(Section):
    """The log on stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe messages to log: DEBUG, INFO, WARNING or ERROR."
    )
    format: Literal["auto", "text", "journald", "json"] = Field(
        default="auto",
        description="Format of the log: text for people; journald for lines with a priority and no time; "
        "json for one JSON object per line; auto for journald if stderr goes to the journal "
        "(as that of a systemd service does), else text.",
    )


class MetricsSettings(Section):
    """The endpoint for Prometheus, and for the report."""

    listen: str = Field(
        default="",
        pattern=f"^({LISTEN_PATTERN.pattern})?$",
        json_schema_extra={"expected": "an address and a port, such as 127.0.0.1:9187, or empty"},
        description="Address and port at which Prometheus may scrape the daemon, such as 127.0.0.1:9187. "
        "Anyone who can connect to it can read the names of tables and columns and all figures "
        "of `vectuned status`, but no rows. Empty: no endpoint.",
    )
    report: bool = Field(
        default=False,
        description="Also serve the page of `vectuned report` at /, at the same address. It holds statements "
        "without their values, and filter values for which an index is recommended.",
    )


class EmbeddedSettings(Section):
    """The PostgreSQL server that vectuned runs itself if no other is configured."""

    home: Folder = Field(
        default="",
        description="Data folder of the embedded server. Empty: $VECTUNED_HOME or, without that, vectuned "
        "in the XDG data folder.",
    )


class ReasoningSettings(Section):
    """How questions are embedded and answered."""

    embedder: Literal["static", "minilm", "sentence-transformers", "endpoint"] = Field(
        default="static",
        description="Embedding model: static (installed by the extra demo), minilm (by the extra minilm), "
        "sentence-transformers or endpoint. It must be the model that embedded the stored "
        "entities: vectors of two models cannot be compared.",
    )
    embedder_model: ModelName = Field(
        default="",
        description="Name of the model, for sentence-transformers and endpoint. The other embedders have "
        "their own.",
    )
    embedder_version: ModelName = Field(
        default="",
        description="Version of that model, stored beside its vectors. Empty: that of the package "
        "sentence-transformers or, for an endpoint, unversioned.",
    )
    embedder_url: Url = Field(
        default="",
        description="Address of an OpenAI-compatible embedding endpoint, up to and including /v1, such as "
        "http://127.0.0.1:8080/v1.",
    )
    embedder_key_variable: VariableName = Field(
        default="",
        description="Environment variable that holds the key of the embedding endpoint. Empty: no key is "
        "sent.",
    )
    embedder_dimensions: int = Field(
        default=0,
        ge=0,
        le=16_000,
        description="Dimensions of the vectors of the embedding endpoint, or of the static embedder (256, "
        "128 or 64). 0: the model's own, which an endpoint is asked for once.",
    )
    embedder_seconds: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Timeout of the embedding endpoint for a batch of texts, in seconds.",
    )
    embedder_batch: int = Field(default=32, ge=1, le=4096, description="Texts to embed in one batch.")
    embedding_cache: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000,
        description="Number of vectors to keep in memory, by the hash of their texts. 0: no cache.",
    )
    generator: Literal["extractive", "endpoint"] = Field(
        default="extractive",
        description="Writer of answers: extractive uses the facts as they are, endpoint asks a language "
        "model, which must cite them. If the model fails, the answer is written without it, "
        "and the trace says so.",
    )
    generator_model: ModelName = Field(default="", description="Name of the model, for endpoint.")
    generator_url: Url = Field(
        default="",
        description="Address of an OpenAI-compatible chat endpoint, up to and including /v1, such as "
        "http://127.0.0.1:8080/v1 of llama.cpp's server.",
    )
    generator_key_variable: VariableName = Field(
        default="",
        description="Environment variable that holds the key of the chat endpoint. Empty: no key is sent.",
    )
    generator_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Timeout of the chat endpoint for an answer, in seconds."
    )
    generator_tokens: int = Field(
        default=400, ge=16, le=32_768, description="Largest number of tokens in an answer of the model."
    )
    language: TextSearchConfiguration = Field(
        default="english",
        description="Text search configuration of PostgreSQL that parses questions, such as english or "
        "simple.",
    )
    messages: LanguageTag = Field(
        default="en", description="Language of the error messages of reasoning: en or de."
    )
    rounds: int = Field(
        default=2,
        ge=1,
        le=2,
        description="Largest number of passes through the graph. 2: a run may be repeated once, with a "
        "wider search. 1: never.",
    )
    min_coherence: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Coherence below which a run is repeated; see reasoning/README.md.",
    )
    min_completeness: float = Field(
        default=0.55,
        ge=0,
        le=1,
        description="Completeness below which a run is repeated; see reasoning/README.md.",
    )
    relevance: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the best score below which entities are pruned. It rises with the load.",
    )
    max_age_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="Days without confirmation after which a relationship is outdated. 0: never.",
    )
    connections: int = Field(
        default=8, ge=2, le=1000, description="Largest number of database connections of one reasoner."
    )
    count_uses: bool = Field(
        default=False,
        description="Whether to count in the store how often each entity is cited, which makes every run "
        "write.",
    )
