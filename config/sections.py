"""The sections of the configuration: every key, its default, its range, and what it is for."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .texts import ApplicationName, Conninfo, Folder, LanguageTag, Name, TextSearch, Url, Variable


class Section(BaseModel):
    # No input in errors: it may be a password.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class DatabaseSettings(Section):
    """Which PostgreSQL server, and how to reach it."""

    dsn: Conninfo = Field(
        default="",
        # A connection string may hold a password.
        repr=False,
        description="Connection string or URI; empty means libpq's own variables (PGHOST, PGSERVICE, ...) "
        "and, without those, the embedded server.",
    )
    replay_dsn: Conninfo = Field(
        default="",
        repr=False,
        description="Connection string or URI of a hot standby of that server, on which searches are "
        "replayed and checked; empty means on the server itself.",
    )
    connect_timeout: int = Field(
        default=10, ge=1, le=3600, description="Seconds to wait for a connection to be made."
    )
    application_name: ApplicationName = Field(
        default="vectuned",
        description="Name of the connections in pg_stat_activity and in the server's log.",
    )


class LearningSettings(Section):
    """How much evidence is gathered, and what is made of it."""

    enabled: bool = Field(
        default=True,
        description="Whether patterns are learned; if not, searches are only recorded and measured.",
    )
    batch_min: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="New replays of a column before it is learned about again.",
    )
    replay_batch: int = Field(
        default=200, ge=1, le=100_000, description="Sampled searches replayed in one pass over the table."
    )
    confidence: float = Field(
        default=0.95, ge=0.5, lt=1, description="Confidence of every statement made about recall."
    )
    false_alarms: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="Probability of a false alarm, within a window of checks, while the promise is kept.",
    )
    drift_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of a table's rows that may come, go or change before it is learned about again.",
    )
    clusters: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Most patterns learned for a column, index and class of searches.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed of everything random, for runs that can be repeated."
    )
    step_aside: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the work a learned policy must save, all its costs paid, to be used at all.",
    )


class ScheduleSettings(Section):
    """How often the daemon does its jobs."""

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
        default=2.0, gt=0, le=604_800, description="Seconds between two looks for what was asked for in SQL."
    )
    refresh_seconds: float = Field(
        default=60.0,
        gt=0,
        le=604_800,
        description="Seconds between two looks at what has become of the tuned tables and their indexes.",
    )
    maintain_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=604_800,
        description="Seconds between two rounds of upkeep: partitions are made ahead, what is past its "
        "retention goes.",
    )
    retention_days: int = Field(
        default=30,
        ge=1,
        le=36_500,
        description="Days that trajectories, their query vectors and finished requests are kept.",
    )


class BudgetSettings(Section):
    """What replaying, checking and learning may take from everybody else."""

    core_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of one core that replaying, checking and learning may take, on the server and in "
        "the daemon together.",
    )
    pause_above: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Other statements running on the server above which replaying waits; 0 means never.",
    )
    statement_timeout_seconds: float = Field(
        default=60.0,
        ge=0.1,
        le=86_400,
        description="Seconds after which the replay or the check of one search is given up as unknown.",
    )
    lag_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Seconds that a standby is given to catch up with its primary before it is replayed on.",
    )


class InboxSettings(Section):
    """The table that searches are recorded in until they are drained."""

    max_mb: int = Field(
        default=64,
        ge=1,
        le=1_048_576,
        description="Size in MB at which searches stop being recorded until the daemon has caught up.",
    )


class ExportSettings(Section):
    """Files of what was learned, for other systems and from them."""

    folder: Folder = Field(
        default="", description="Folder that what was learned is written to; empty means it is not."
    )
    import_folder: Folder = Field(
        default="",
        description="Folder whose newest document of a column is taken over; empty means none is.",
    )
    seconds: float = Field(
        default=3600.0,
        gt=0,
        le=604_800,
        description="Seconds between two exports, and two looks for imports.",
    )
    keep: int = Field(
        default=7, ge=1, le=10_000, description="Documents of each column that are kept in the folder."
    )

    @property
    def in_use(self) -> bool:
        """Whether there is a folder to write to or to look into."""
        return bool(self.folder or self.import_folder)


class LoggingSettings(Section):
    """What goes to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe message that is logged."
    )
    format: Literal["auto", "text", "journald", "json"] = Field(
        default="auto",
        description="Lines for people, lines with priorities for journald, or one JSON object a line; auto "
        "is journald where stderr goes to the journal, else text.",
    )


class MetricsSettings(Section):
    """The endpoint that Prometheus scrapes."""

    listen: str = Field(
        default="",
        pattern=r"^(([^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5})?$",
        json_schema_extra={"expected": "an address and a port, such as 127.0.0.1:9187, or empty"},
        description="Address and port at which the daemon serves metrics; empty means nowhere.",
    )


class EmbeddedSettings(Section):
    """The server that vectuned runs itself when it is given none."""

    home: Folder = Field(
        default="",
        description="Folder of the embedded server's data; empty means VECTUNED_HOME or else the XDG one.",
    )


class ReasoningSettings(Section):
    """How questions are embedded, reasoned about and answered."""

    embedder: Literal["static", "minilm", "sentence-transformers", "endpoint"] = Field(
        default="static",
        description="What turns texts into vectors; it must be what the stored entities were embedded by.",
    )
    embedder_model: Name = Field(
        default="",
        description="Model of sentence-transformers or of the endpoint; the others have their own.",
    )
    embedder_version: Name = Field(
        default="",
        description="Version of that model, as it is stored beside its vectors; empty means unknown.",
    )
    embedder_url: Url = Field(
        default="", description="Address of an OpenAI-compatible embedding endpoint, up to and with /v1."
    )
    embedder_key_variable: Variable = Field(
        default="", description="Environment variable that holds that endpoint's key; empty means no key."
    )
    embedder_dimensions: int = Field(
        default=0,
        ge=0,
        le=16_000,
        description="Dimensions of the endpoint's vectors, or of the static embedder's; 0 means its own.",
    )
    embedder_seconds: float = Field(
        default=10.0, gt=0, le=3600, description="Seconds that endpoint is given for a batch of texts."
    )
    embedder_batch: int = Field(default=32, ge=1, le=4096, description="Texts embedded at a time.")
    embedding_cache: int = Field(
        default=10_000, ge=0, le=1_000_000, description="Vectors kept in memory, by the hash of their texts."
    )
    generator: Literal["extractive", "endpoint"] = Field(
        default="extractive", description="Who writes answers: the facts themselves, or a language model."
    )
    generator_model: Name = Field(default="", description="Model of the generating endpoint.")
    generator_url: Url = Field(
        default="", description="Address of an OpenAI-compatible chat endpoint, up to and with /v1."
    )
    generator_key_variable: Variable = Field(
        default="", description="Environment variable that holds that endpoint's key; empty means no key."
    )
    generator_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that endpoint is given for an answer."
    )
    generator_tokens: int = Field(
        default=400, ge=16, le=32_768, description="Most tokens the model may write."
    )
    language: TextSearch = Field(
        default="english",
        description="Text search configuration of PostgreSQL that questions are read with.",
    )
    messages: LanguageTag = Field(default="en", description="Language of the errors, such as en or de.")
    rounds: int = Field(
        default=2, ge=1, le=2, description="Ways through the graph: 2 lets a run look more widely once."
    )
    min_coherence: float = Field(
        default=0.15, ge=0, le=1, description="Coherence below which a run is sent back."
    )
    min_completeness: float = Field(
        default=0.55, ge=0, le=1, description="Completeness below which a run is sent back."
    )
    relevance: float = Field(
        default=0.35, ge=0, le=1, description="Share of the best score below which entities are pruned."
    )
    max_age_days: int = Field(
        default=0, ge=0, le=36_500, description="Days after which relationships are outdated; 0 means never."
    )
    connections: int = Field(
        default=8, ge=2, le=1000, description="Most connections that one reasoner opens to the database."
    )
    count_uses: bool = Field(
        default=False, description="Whether the uses of cited entities are counted in the store."
    )
