-- The tables of vectuned as a fresh installation creates them. Installed databases reach the same state through
-- sql/tuner/migrations/ (a test compares the two). @extschema@ stands for pgvector's schema.

CREATE SCHEMA IF NOT EXISTS vectuned;

-- A table, as an argument of functions that PostgreSQL should choose only if no other fits: see typed_search.sql.
CREATE DOMAIN vectuned.table_name AS regclass;

CREATE TABLE vectuned.migration (
    name        text PRIMARY KEY,
    applied_at  timestamptz NOT NULL DEFAULT now()
);

-- The vector columns that vectuned tunes, with the options of vectuned.enable.
CREATE TABLE vectuned.tuned_column (
    id                 int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation           regclass NOT NULL,
    relation_schema    name NOT NULL,
    relation_name      name NOT NULL,
    column_name        name NOT NULL,
    column_number      smallint NOT NULL,
    home               text,
    vector_type        text NOT NULL CHECK (vector_type IN ('vector', 'halfvec')),
    dimensions         int NOT NULL CHECK (dimensions > 0),
    metric             text NOT NULL CHECK (metric IN ('cosine', 'l2', 'ip')),
    key_columns        name[] NOT NULL CHECK (cardinality(key_columns) > 0),
    index_relation     oid NOT NULL,
    last_index_no      int NOT NULL DEFAULT 0,
    passed_over        oid[] NOT NULL DEFAULT '{}',
    default_ef         int NOT NULL CHECK (default_ef BETWEEN 1 AND 1000),
    default_probes     int NOT NULL DEFAULT 1 CHECK (default_probes > 0),
    target_recall      float8 NOT NULL CHECK (target_recall > 0 AND target_recall < 1),
    max_tail           float8 NOT NULL CHECK (max_tail > 0 AND max_tail <= 1),
    sample_rate        float8 NOT NULL CHECK (sample_rate BETWEEN 0 AND 1),
    trajectory_window  int NOT NULL CHECK (trajectory_window > 0),
    learning_rate      float8 NOT NULL CHECK (learning_rate > 0 AND learning_rate <= 1),
    min_samples        int NOT NULL CHECK (min_samples > 0),
    store_vectors      boolean NOT NULL,
    max_effort         int CHECK (max_effort > 0),
    max_ms             float8 CHECK (max_ms > 0),
    exact_if_unreachable boolean NOT NULL DEFAULT false,
    enabled            boolean NOT NULL DEFAULT true,
    alert              boolean NOT NULL DEFAULT false,
    record_at_most     float8 CHECK (record_at_most > 0 AND record_at_most <= 1),
    missing_since      timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    -- Deferred: a refresh may follow columns that exchanged their names one after the other.
    UNIQUE (relation, column_number) DEFERRABLE INITIALLY DEFERRED
);
COMMENT ON COLUMN vectuned.tuned_column.relation_name IS
    'name of the table at the last refresh, as column_name is of the column: the generated functions use these names';
COMMENT ON COLUMN vectuned.tuned_column.home IS
    'server and database of the last refresh: elsewhere, after a restore, the column is found by its name';
COMMENT ON COLUMN vectuned.tuned_column.missing_since IS 'when a refresh found the table or the column missing; NULL = it is there';
COMMENT ON COLUMN vectuned.tuned_column.passed_over IS
    'vector indexes that no statement can be made to use, because the planner takes another one for it';
COMMENT ON COLUMN vectuned.tuned_column.last_index_no IS 'the largest index_no given to an index of the column so far';
COMMENT ON COLUMN vectuned.tuned_column.alert IS
    'true after an alarm or a change of the table: more searches are recorded and checked until recall is proven again';
COMMENT ON COLUMN vectuned.tuned_column.max_effort IS 'highest ef_search or probes that may serve, proven or not; NULL = no cap';
COMMENT ON COLUMN vectuned.tuned_column.max_ms IS
    'highest mean time of a search, in milliseconds by its replays, at the effort that serves; NULL = no cap';
COMMENT ON COLUMN vectuned.tuned_column.exact_if_unreachable IS
    'true: exact search serves where no setting of any index over all rows reaches the target';
COMMENT ON COLUMN vectuned.tuned_column.record_at_most IS
    'largest share of the searches that is worth recording, because no more can be replayed; set by the daemon, NULL = no limit';
COMMENT ON COLUMN vectuned.tuned_column.max_tail IS 'highest tolerated share of searches with a recall under 0.8';
COMMENT ON COLUMN vectuned.tuned_column.index_relation IS
    'main index: it serves until something has been learned. oid, not regclass, because a dump restores rows before '
    'indexes, when the name does not exist yet';

-- The indexes that can answer searches of a column.
CREATE TABLE vectuned.tuned_index (
    column_id       int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    index_no        int NOT NULL CHECK (index_no > 0),
    index_relation  oid NOT NULL,
    method          text NOT NULL CHECK (method IN ('hnsw', 'ivfflat')),
    form            text NOT NULL CHECK (form IN ('plain', 'halfvec', 'bits')),
    marker          text NOT NULL DEFAULT 'true',
    requires        jsonb,
    share           float8 NOT NULL DEFAULT 1 CHECK (share > 0 AND share <= 1),
    lists           int CHECK (lists > 0),
    PRIMARY KEY (column_id, index_no),
    UNIQUE (column_id, index_relation),
    CHECK ((method = 'ivfflat') = (lists IS NOT NULL))
);
COMMENT ON COLUMN vectuned.tuned_index.form IS
    'what is indexed: plain = the column itself, halfvec = its half precision, bits = the signs of its components';
COMMENT ON COLUMN vectuned.tuned_index.marker IS
    'condition in the index predicate that every row meets; a statement repeats it to make the planner use this index '
    'and no similar one';
COMMENT ON COLUMN vectuned.tuned_index.requires IS 'partial indexes: the conditions that a filter must contain to use the index';
COMMENT ON COLUMN vectuned.tuned_index.share IS 'partial indexes: estimated share of the rows in the index';

-- Sampled searches, until the daemon moves them to vectuned.trajectory (_drain). Unlogged and limited in size: a crash
-- may lose rows, a drain never does.
CREATE UNLOGGED TABLE vectuned.inbox (
    query_id      uuid NOT NULL,
    column_id     int NOT NULL,
    recorded_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    query         @extschema@.vector NOT NULL,
    k             int NOT NULL,
    access_path   text NOT NULL,
    ef_search     int,
    probes        int,
    index_no      int,
    bank_version  int,
    signature     @extschema@.vector,
    result_ids    text[] NOT NULL,
    distances     float8[] NOT NULL,
    latency_ms    real NOT NULL,
    filter        jsonb,
    fraction      float8
);
-- record_feedback looks a search up here if it has not been drained yet.
CREATE INDEX inbox_query ON vectuned.inbox (query_id);

-- Counters that bound the inbox by its live rows. Sequences, because they are written without a transaction id and leave no
-- dead rows; unlogged, because a crash empties the inbox.
-- How many searches were recorded since the start, or tried to be.
CREATE UNLOGGED SEQUENCE vectuned.inbox_recorded;
-- How many of these are no longer in the inbox.
CREATE UNLOGGED SEQUENCE vectuned.inbox_drained MINVALUE 0;
-- Mean bytes of the rows drained last.
CREATE UNLOGGED SEQUENCE vectuned.inbox_row_bytes START 1000;

-- 2 while the daemon wants to be woken by searches that are recorded, otherwise 1. A sequence, because what it says is seen at
-- once, by sessions with an older snapshot as well, and costs a search no lock.
CREATE UNLOGGED SEQUENCE vectuned.wake_wanted;

-- Sampled searches, stored durably. One partition a day (UTC), made in advance; the default partition takes rows of days
-- without one.
CREATE TABLE vectuned.trajectory (
    query_id      uuid NOT NULL,
    column_id     int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    recorded_at   timestamptz NOT NULL,
    query         @extschema@.vector,
    k             int NOT NULL,
    access_path   text NOT NULL,
    ef_search     int,
    probes        int,
    index_no      int,
    bank_version  int,
    signature     @extschema@.vector,
    result_ids    text[] NOT NULL,
    distances     float8[] NOT NULL,
    latency_ms    real NOT NULL,
    filter        jsonb,
    fraction      float8,
    source        text NOT NULL DEFAULT 'function' CHECK (source IN ('function', 'log', 'client')),
    condition     text,
    shape         text,
    value_key     text,
    recall        real,
    replayed_at   timestamptz,
    verdict             text CHECK (verdict IN ('success', 'failure', 'unknown')),
    verdict_confidence  real CHECK (verdict_confidence BETWEEN 0 AND 1),
    recommendation      text,
    claimed_by          int,
    PRIMARY KEY (query_id, recorded_at),
    CHECK (condition IS NULL OR (shape IS NOT NULL AND filter IS NULL))
) PARTITION BY RANGE (recorded_at);
COMMENT ON COLUMN vectuned.trajectory.source IS
    'function = vectuned.search recorded it; log and client = a call, SQL of an application, whose answer is not known';
COMMENT ON COLUMN vectuned.trajectory.condition IS
    'calls: SQL over the row, with the table called t, valid with search_path = pg_catalog; deleted with the query';
COMMENT ON COLUMN vectuned.trajectory.shape IS 'calls with a condition: the condition with $1, $2 ... in place of its literals';
COMMENT ON COLUMN vectuned.trajectory.value_key IS
    'calls with a condition: hash of their values, see vectuned.condition_share; only where vectors are stored';
COMMENT ON COLUMN vectuned.trajectory.claimed_by IS
    'process id of the session that replays the search now; the search is free once that session has ended';
COMMENT ON COLUMN vectuned.trajectory.verdict IS 'outcome by learning/oversight/verdict.py; NULL = not judged yet, which counts as unknown';

CREATE TABLE vectuned.trajectory_default PARTITION OF vectuned.trajectory DEFAULT;

CREATE INDEX trajectory_recent ON vectuned.trajectory (column_id, recorded_at DESC);
CREATE INDEX trajectory_pending ON vectuned.trajectory (column_id, recorded_at) WHERE replayed_at IS NULL;
CREATE INDEX trajectory_unjudged ON vectuned.trajectory (column_id) WHERE replayed_at IS NOT NULL AND verdict IS NULL;

-- How much vectuned.trajectory holds, by column and day (UTC): searches, and bytes of their rows as they were drained. Counting
-- the table itself would read all of it.
CREATE TABLE vectuned.recorded (
    column_id  int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    day        date NOT NULL,
    searches   bigint NOT NULL,
    bytes      bigint NOT NULL,
    PRIMARY KEY (column_id, day)
);

-- Users' feedback on the results of recorded searches. Partitioned by the day of the search, so that it is dropped with the
-- trajectories of that day. No foreign key, because feedback may arrive before its search is drained.
CREATE TABLE vectuned.feedback (
    query_id     uuid NOT NULL,
    column_id    int NOT NULL,
    recorded_at  timestamptz NOT NULL,
    given_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    relevant     text[] NOT NULL,
    irrelevant   text[] NOT NULL,
    trusted      boolean NOT NULL,
    revision     int NOT NULL DEFAULT 1,
    judged       int NOT NULL DEFAULT 0,
    PRIMARY KEY (query_id, recorded_at)
) PARTITION BY RANGE (recorded_at);
COMMENT ON COLUMN vectuned.feedback.recorded_at IS 'when the search was recorded';
COMMENT ON COLUMN vectuned.feedback.trusted IS
    'all of it comes from roles that may tune the table: only then may it change the effort of later searches';
COMMENT ON COLUMN vectuned.feedback.judged IS 'revision that the latest verdict took into account';

CREATE TABLE vectuned.feedback_default PARTITION OF vectuned.feedback DEFAULT;

CREATE INDEX feedback_unjudged ON vectuned.feedback (column_id) WHERE judged < revision;

-- When a replay may stop early: after `rows` rows within the distance `bound` and, for filtered searches, `filter_rows`
-- matching rows within `filter_bound`. All NULL = only after the last rung.
CREATE TYPE vectuned._scan_goal AS (rows int, bound float8, filter_rows int, filter_bound float8);

-- Replays: a sampled search, run again through one index at every rung of effort, with recall and cost. Arrays are by rung.
CREATE TABLE vectuned.replay (
    replay_no    bigint GENERATED ALWAYS AS IDENTITY,
    query_id     uuid NOT NULL,
    column_id    int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    recorded_at  timestamptz NOT NULL,
    replayed_at  timestamptz NOT NULL DEFAULT now(),
    generation   oid NOT NULL,
    k            int NOT NULL,
    k_class      int NOT NULL,
    k_classes    int[] NOT NULL,
    probe        float8[] NOT NULL,
    recall       real[],
    blocks       real[] NOT NULL,
    ms           real[] NOT NULL,
    shape            text,
    fraction         float8,
    filtered_recall  real[],
    matches          int[],
    exact_ms         real,
    other_recall     real[],
    other_ms         real[],
    takes_index      boolean[],
    asked_recall           real[],
    asked_filtered_recall  real[],
    fresh_place      int,
    fresh_ms         real,
    is_counter_example boolean NOT NULL DEFAULT false,
    rows             float8,
    PRIMARY KEY (column_id, query_id, generation)
);
CREATE INDEX replay_recent ON vectuned.replay (column_id, generation, replay_no DESC);
COMMENT ON COLUMN vectuned.replay.is_counter_example IS
    'counter-example kept beyond the trajectory window: learning uses it, but it is no random sample and so never part of a proof';
COMMENT ON COLUMN vectuned.replay.generation IS 'vectuned._generation of the index: changes when the index is rebuilt';
COMMENT ON COLUMN vectuned.replay.fraction IS
    'filtered searches: estimated share of the rows in the index that match';
COMMENT ON COLUMN vectuned.replay.matches IS
    'filtered searches: number of matching rows among the rows scanned, by rung; -1 = unknown';
COMMENT ON COLUMN vectuned.replay.rows IS 'number of rows of the table at the time, by its baseline; NULL = unknown';
COMMENT ON COLUMN vectuned.replay.recall IS
    'two dimensions, k_classes x rungs; NULL if only the filtered search was replayed';
COMMENT ON COLUMN vectuned.replay.asked_recall IS
    'recall at the k of the search itself, by rung, where recall is that of each class of k; asked_filtered_recall likewise';
COMMENT ON COLUMN vectuned.replay.other_recall IS
    'filtered searches: recall at their own k of each access path without rungs (other_paths in learning/policy/filtering.py)';
COMMENT ON COLUMN vectuned.replay.takes_index IS
    'whether the planner, free to choose, scans a vector index with the settings of each of these paths; NULL = no statements then';
COMMENT ON COLUMN vectuned.replay.fresh_place IS
    'continued scans: place in the ladder, from 0, of the rung at which the search was also run by itself';
COMMENT ON COLUMN vectuned.replay.fresh_ms IS
    'continued scans: milliseconds of that search by itself; ms, of a scan that returns row by row, is converted by it';

-- Documents imported by vectuned.import_patterns (sql/tuner/functions/exchange/), and where they were learned.
CREATE TABLE vectuned.imported (
    import_no    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    column_id    int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    imported_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    imported_by  name NOT NULL,
    created_at   timestamptz NOT NULL,
    checksum     text NOT NULL,
    source       text NOT NULL,
    proven_here  boolean NOT NULL,
    provenance   jsonb NOT NULL,
    report       jsonb NOT NULL
);
CREATE INDEX imported_of_column ON vectuned.imported (column_id, created_at);
COMMENT ON COLUMN vectuned.imported.proven_here IS
    'true if learned on this same index; otherwise the import serves only until something has been learned here';

-- The published policies: what serves the searches of each column and class of k. A publish replaces all rows of a column.
CREATE TABLE vectuned.bank (
    column_id        int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    k_class          int NOT NULL,
    version          int NOT NULL,
    generation       oid NOT NULL,
    access_path      text NOT NULL CHECK (access_path IN ('hnsw', 'hnsw_adaptive', 'ivfflat', 'ivfflat_adaptive', 'exact')),
    index_no         int,
    ef_search        int CHECK (ef_search BETWEEN 1 AND 1000),
    probes           int CHECK (probes > 0),
    rungs            int[] CHECK (cardinality(rungs) = 14),
    expected_recall  float8,
    recall_bound     float8 NOT NULL,
    tail             float8,
    tail_bound       float8,
    certified        boolean NOT NULL,
    samples          int NOT NULL,
    target_recall    float8 NOT NULL,
    probe_ef         int CHECK (probe_ef BETWEEN 1 AND 1000),
    center           float8[] CHECK (cardinality(center) = 8),
    weights          float8[] CHECK (cardinality(weights) = 32),
    reach            float8 CHECK (reach >= 0 AND reach < 'Infinity'),
    saving           float8,
    reason           text NOT NULL,
    asked_effort     int CHECK (asked_effort > 0),
    learned_effort   int,
    learned_rows     float8,
    exact_ms         float8,
    import_no        bigint REFERENCES vectuned.imported ON DELETE SET NULL,
    sources          jsonb CHECK (jsonb_typeof(sources) = 'object'),
    published_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (column_id, k_class),
    CONSTRAINT bank_one_effort CHECK (
        num_nulls(ef_search, probes) = 1 AND (access_path = 'exact' OR (access_path LIKE 'ivfflat%') = (probes IS NOT NULL))),
    CONSTRAINT bank_adaptive_complete CHECK (
        access_path NOT LIKE '%\_adaptive' OR num_nulls(probe_ef, center, weights, reach) = 0)
);
COMMENT ON COLUMN vectuned.bank.index_no IS 'NULL = the main index, tuned_column.index_relation';
COMMENT ON COLUMN vectuned.bank.tail IS 'share of replays with a recall under 0.8';
COMMENT ON COLUMN vectuned.bank.tail_bound IS 'upper bound of tail with 95 % confidence';
COMMENT ON COLUMN vectuned.bank.import_no IS 'NULL = learned here';
COMMENT ON COLUMN vectuned.bank.sources IS
    'imported: results of the newest document of each source, keyed by vectuned._document_origin; NULL = learned here';
COMMENT ON COLUMN vectuned.bank.asked_effort IS
    'ef_search or probes that the mean of the replays asks for, without the margin of a proof; NULL = not known';
COMMENT ON COLUMN vectuned.bank.access_path IS
    'exact: the effort is the best that the index gives, for searches that have no time for more, and for statements';
COMMENT ON COLUMN vectuned.bank.exact_ms IS
    'mean milliseconds of an exact search, measured where no setting of the index reaches the target';
COMMENT ON COLUMN vectuned.bank.learned_effort IS
    'ef_search or probes as published, if the class has fallen back since: every fall back starts from it; NULL = has not';
COMMENT ON COLUMN vectuned.bank.learned_rows IS 'number of rows of the table that learned_effort was published for';
COMMENT ON COLUMN vectuned.bank.rungs IS 'IVFFlat: the probes at each position of the ladder';
COMMENT ON COLUMN vectuned.bank.reach IS 'largest distance to the nearest pattern; farther away, the fixed setting serves';
COMMENT ON COLUMN vectuned.bank.saving IS
    'time of the fixed setting divided by that of effort by query: lower bound with 95 % confidence';

-- The id of the last transaction that changed the policy of any column, 1 before the first: see kept_efforts.sql. Logged, because
-- sessions on a standby read it too.
CREATE SEQUENCE vectuned.policy_change;
SELECT setval('vectuned.policy_change', 1);

-- Recall and time measured for every access path: the figures behind the bank, and the paths that serve filtered searches.
-- path_no only identifies a row: without a key, a publication FOR ALL TABLES would reject every delete.
CREATE TABLE vectuned.measured_path (
    path_no          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    column_id        int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    k_class          int NOT NULL,
    shape            text,
    bucket           int CHECK (bucket BETWEEN 0 AND 39),
    access_path      text NOT NULL CHECK (
        access_path IN ('hnsw', 'hnsw_continued', 'ivfflat', 'ivfflat_continued', 'exact', 'planner')),
    index_no         int,
    effort           int,
    requires         jsonb,
    share            float8 NOT NULL DEFAULT 1,
    expected_recall  float8,
    recall_bound     float8,
    proven           boolean NOT NULL,
    ms               float8,
    samples          int NOT NULL,
    serves           boolean NOT NULL,
    fell_back        boolean NOT NULL DEFAULT false,
    learned_effort   int,
    learned_rows     float8,
    import_no        bigint REFERENCES vectuned.imported ON DELETE CASCADE,
    CHECK ((shape IS NULL) = (bucket IS NULL))
);
CREATE INDEX measured_path_served ON vectuned.measured_path (column_id, k_class, shape) WHERE serves;
CREATE INDEX measured_path_unfiltered ON vectuned.measured_path (column_id, k_class) WHERE shape IS NULL;
COMMENT ON COLUMN vectuned.measured_path.shape IS
    'filtered searches: columns and operators of the filter, without its values';
COMMENT ON COLUMN vectuned.measured_path.bucket IS
    'filtered searches: selectivity, as -2 log2(matching share of the rows in the index); 0 = over 70 % match, 39 = almost none';
COMMENT ON COLUMN vectuned.measured_path.import_no IS 'measured elsewhere; serves until such filters have been learned here';
COMMENT ON COLUMN vectuned.measured_path.fell_back IS
    'what was measured no longer holds; it serves until such filters have been measured again';
COMMENT ON COLUMN vectuned.measured_path.learned_effort IS 'as in vectuned.bank';
COMMENT ON COLUMN vectuned.measured_path.learned_rows IS 'as in vectuned.bank';
COMMENT ON COLUMN vectuned.measured_path.effort IS 'ef_search or probes; NULL for access paths without';

-- The statements that applications send: texts without values that order a tuned column by a distance, and the settings
-- that serve each. vectuned.client sends the settings along; `vectuned adopt` chooses one group for all of a role.
CREATE TABLE vectuned.statement (
    fingerprint      text NOT NULL CHECK (fingerprint ~ '^[0-9a-f]{16}$'),
    column_id        int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    k_class          int NOT NULL,
    shape            text NOT NULL,
    text             text NOT NULL,
    as_text          boolean NOT NULL DEFAULT false,
    calls            bigint NOT NULL DEFAULT 0 CHECK (calls >= 0),
    first_seen       timestamptz NOT NULL DEFAULT now(),
    last_seen        timestamptz NOT NULL DEFAULT now(),
    settings         jsonb CHECK (jsonb_typeof(settings) = 'object'),
    by_share         jsonb CHECK (jsonb_typeof(by_share) = 'object'),
    expected_recall  float8,
    recall_bound     float8,
    certified        boolean NOT NULL DEFAULT false,
    figures          jsonb,
    published_at     timestamptz,
    import_no        bigint REFERENCES vectuned.imported ON DELETE SET NULL,
    PRIMARY KEY (fingerprint, column_id, k_class, shape),
    CHECK ((settings IS NULL) = (published_at IS NULL))
);
CREATE INDEX statement_of_column ON vectuned.statement (column_id);
COMMENT ON COLUMN vectuned.statement.fingerprint IS 'computed by sql/client/fingerprint.py from the text';
COMMENT ON COLUMN vectuned.statement.text IS 'normalised: a ? in place of every literal and parameter, so it holds no values';
COMMENT ON COLUMN vectuned.statement.shape IS
    'the condition without its values, empty without a condition; of a statement that is replayed as text, why it is';
COMMENT ON COLUMN vectuned.statement.as_text IS
    'true: the statement is more than the rows of one table, such as a join, and its calls are in vectuned.text_call';
COMMENT ON COLUMN vectuned.statement.settings IS
    'values of server settings by name, such as {"hnsw.ef_search": "80"}; NULL = nothing is proven, the statement goes out as it is';
COMMENT ON COLUMN vectuned.statement.by_share IS
    'settings by selectivity bucket of the values, where others than for all values are proven; for vectuned.client';
COMMENT ON COLUMN vectuned.statement.figures IS 'the access paths compared for it, with recall, milliseconds and replays';
COMMENT ON COLUMN vectuned.statement.import_no IS 'measured elsewhere; serves until its calls have been replayed here';

-- How large a share of the rows the values of calls match: what vectuned.client chooses settings by. The key is a hash of a
-- statement's fingerprint and its values (sql/client/values.py). Only of columns that store vectors.
CREATE TABLE vectuned.condition_share (
    column_id  int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    value_key  text NOT NULL,
    bucket     int NOT NULL,
    calls      bigint NOT NULL,
    PRIMARY KEY (column_id, value_key)
);
COMMENT ON COLUMN vectuned.condition_share.bucket IS 'selectivity, as in vectuned.measured_path';

-- Calls of statements that are more than the rows of one table, such as joins and thresholds on the distance. They are
-- replayed as they were sent, with the settings that may serve them.
CREATE TABLE vectuned.text_call (
    call_no      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    column_id    int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    fingerprint  text NOT NULL,
    k_class      int NOT NULL,
    shape        text NOT NULL,
    recorded_at  timestamptz NOT NULL,
    source       text NOT NULL CHECK (source IN ('log', 'client')),
    latency_ms   float8,
    text         text,
    parameters   text[],
    search_path  text,
    replayed_at  timestamptz,
    generations  oid[],
    outcomes     jsonb,
    failure      text
);
CREATE INDEX text_call_of_column ON vectuned.text_call (column_id, call_no);
COMMENT ON COLUMN vectuned.text_call.text IS 'with values where it holds any; deleted with the replay unless the column stores vectors';
COMMENT ON COLUMN vectuned.text_call.search_path IS 'of the role that sent it; NULL = that of the daemon';
COMMENT ON COLUMN vectuned.text_call.generations IS 'generations of the indexes of the column at the replay';
COMMENT ON COLUMN vectuned.text_call.outcomes IS
    'by path and effort: settings, recall and milliseconds; NULL = not replayed, or without an exact answer (failure)';

-- Settings that `vectuned adopt --apply` gave to a role or the database, with the values before. Newest last.
CREATE TABLE vectuned.adoption (
    adoption_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role_name    name,
    applied      jsonb NOT NULL CHECK (jsonb_typeof(applied) = 'object'),
    previous     jsonb NOT NULL CHECK (jsonb_typeof(previous) = 'object'),
    figures      jsonb NOT NULL,
    applied_by   name NOT NULL DEFAULT current_user,
    applied_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    reverted_at  timestamptz,
    alarms       jsonb NOT NULL DEFAULT '[]'
);
COMMENT ON COLUMN vectuned.adoption.alarms IS
    'statements whose recall, by calls replayed since, is under what was proven for the settings: fingerprint, time and why';
COMMENT ON COLUMN vectuned.adoption.role_name IS 'the role, in this database; NULL = every role in the database';
COMMENT ON COLUMN vectuned.adoption.previous IS 'values before, by name of the setting; null = the setting was not set';
COMMENT ON COLUMN vectuned.adoption.reverted_at IS 'when the previous values were put back; NULL = in force';

-- The learned patterns of the published policies: few enough for every search to compare all of them.
CREATE TABLE vectuned.pattern (
    column_id        int NOT NULL,
    k_class          int NOT NULL,
    pattern_no       int NOT NULL,
    centroid         @extschema@.vector NOT NULL CHECK (@extschema@.vector_dims(centroid) = 4),
    effort           float8 NOT NULL CHECK (effort BETWEEN 0 AND 13),
    expected_recall  float8 NOT NULL,
    confidence       float8 NOT NULL,
    samples          int NOT NULL,
    usage            float8 NOT NULL DEFAULT 0 CHECK (usage >= 0 AND usage < 'Infinity'),
    chances          float8 NOT NULL DEFAULT 0 CHECK (chances >= 0 AND chances < 'Infinity'),
    recall           real[] NOT NULL,
    cost             real[] NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (column_id, k_class, pattern_no),
    FOREIGN KEY (column_id, k_class) REFERENCES vectuned.bank ON DELETE CASCADE
);
COMMENT ON COLUMN vectuned.pattern.usage IS
    'number of recorded searches whose nearest pattern it was, earlier ones weighing less';
COMMENT ON COLUMN vectuned.pattern.chances IS
    'number of recorded searches that usage was counted among, earlier ones weighing less';
COMMENT ON COLUMN vectuned.pattern.created_at IS 'when the pattern, or the earlier one that it continues, was first published';
COMMENT ON COLUMN vectuned.pattern.effort IS 'position on the ladder of rungs: 0 = the lowest, fractions lie between rungs';

-- The planner's statistics on the columns that searches may filter by, in a form that is quick to look up.
CREATE TABLE vectuned.filter_statistics (
    column_id       int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    attribute       name NOT NULL,
    null_fraction   float8 NOT NULL,
    other_fraction  float8 NOT NULL,
    common          jsonb NOT NULL,
    bounds          float8[],
    refreshed_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (column_id, attribute)
);
COMMENT ON COLUMN vectuned.filter_statistics.common IS 'most common values, each with its share of the rows';
COMMENT ON COLUMN vectuned.filter_statistics.other_fraction IS 'estimated share of the rows for each value that is not in common';
COMMENT ON COLUMN vectuned.filter_statistics.bounds IS
    'histogram bounds of the values not in common: numbers, or seconds since 1970 for dates and times';

-- Exact checks: searches run as they are served and compared with the exact answer in one snapshot. Newest last. Holds no
-- values of rows.
CREATE TABLE vectuned.recall_check (
    check_no    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    column_id   int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    query_id    uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    checked_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    k_class     int NOT NULL,
    shape       text NOT NULL,
    version     int,
    recall      real CHECK (recall BETWEEN 0 AND 1),
    hardness    float8,
    filter_digest  text
);
CREATE INDEX recall_check_recent ON vectuned.recall_check (column_id, k_class, shape, check_no);
COMMENT ON COLUMN vectuned.recall_check.recorded_at IS 'when the search was recorded';
COMMENT ON COLUMN vectuned.recall_check.shape IS 'columns and operators of the filter; empty without a filter';
COMMENT ON COLUMN vectuned.recall_check.hardness IS
    'distance of the last row of the exact answer: like queries share it, so that bursts of them can be told';
COMMENT ON COLUMN vectuned.recall_check.filter_digest IS
    'the same for equal filters: left(md5(filter::text), 16) of the recorded search; NULL without a filter';
COMMENT ON COLUMN vectuned.recall_check.recall IS 'NULL = the check was abandoned, so the recall is unknown';

-- Claims about the recall that each class of searches gets, proven by exact checks since its policy last changed.
CREATE TABLE vectuned.promise (
    column_id       int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    k_class         int NOT NULL,
    shape           text NOT NULL,
    first_check     bigint NOT NULL,
    since           timestamptz NOT NULL,
    served          jsonb,
    target_recall   float8,
    block           int NOT NULL DEFAULT 1,
    checks          int NOT NULL DEFAULT 0,
    unknown         int NOT NULL DEFAULT 0,
    recall          float8,
    recall_bound    float8 NOT NULL DEFAULT 0,
    below_08        float8,
    below_08_bound  float8 NOT NULL DEFAULT 1,
    epoch_recall    float8,
    epoch_bound     float8,
    epoch_ended     timestamptz,
    heavy_filters   jsonb NOT NULL DEFAULT '[]',
    e_value         float8 NOT NULL DEFAULT 1,
    alarms          int NOT NULL DEFAULT 0,
    confidence      float8 NOT NULL DEFAULT 0.95,
    margin          float8 NOT NULL DEFAULT 0 CHECK (margin BETWEEN 0 AND 13),
    margin_since    timestamptz,
    learn_from      bigint NOT NULL DEFAULT 0,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (column_id, k_class, shape)
);
COMMENT ON COLUMN vectuned.promise.since IS
    'checks count only of searches that were recorded since: when what serves was published, or the claim started over';
COMMENT ON COLUMN vectuned.promise.served IS
    'what serves the class: path, index and effort, of filtered searches for each selectivity bucket; effort is the largest '
    'since the first check';
COMMENT ON COLUMN vectuned.promise.block IS
    'consecutive checks that count as one, because recall came in bursts; 1 = every check counts for itself';
COMMENT ON COLUMN vectuned.promise.recall_bound IS
    'lower bound of the mean recall of what was served since, valid with this confidence whenever and however often it is '
    'read, also if recall drifts; never above recall';
COMMENT ON COLUMN vectuned.promise.epoch_bound IS
    'lower bound of epoch_recall, the mean recall of the last closed epoch of 500 checks, which ended at epoch_ended';
COMMENT ON COLUMN vectuned.promise.heavy_filters IS
    'the filter values with a twentieth or more of the checks: digest as in recall_check, share, checks, recall, recall_bound';
COMMENT ON COLUMN vectuned.promise.margin IS
    'rungs of effort added to the learned effort after failed verdicts; takes into account the verdicts up to margin_since';
COMMENT ON COLUMN vectuned.promise.learn_from IS
    'first replay that is evidence about these searches: an alarm shows that earlier ones were of other queries or data';
COMMENT ON COLUMN vectuned.promise.e_value IS
    'evidence that the target is missed: capital, starting from 1, of a bet against it; 20 is evidence at the 5 % level';

-- The state of a tuned table when learning last read it, to detect changes since.
CREATE TABLE vectuned.baseline (
    column_id   int PRIMARY KEY REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    taken_at    timestamptz NOT NULL DEFAULT now(),
    generation  oid,
    rows        float8 NOT NULL,
    witnesses   jsonb NOT NULL,
    first_replay  bigint NOT NULL DEFAULT 0,
    versions    text NOT NULL DEFAULT ''
);
COMMENT ON COLUMN vectuned.baseline.first_replay IS
    'first replay on the table as it is now: earlier ones, on another number of rows, are learned from and prove nothing';
COMMENT ON COLUMN vectuned.baseline.versions IS 'of PostgreSQL and pgvector: when one changes, the costs of searches are measured again';
COMMENT ON COLUMN vectuned.baseline.witnesses IS 'keys of some rows and digests of their vectors';

-- Log of what happened to a column and why. Newest last.
CREATE TABLE vectuned.event (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    column_id    int REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    happened_at  timestamptz NOT NULL DEFAULT now(),
    action       text NOT NULL,
    details      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX event_recent ON vectuned.event (column_id, id DESC);

-- Requests to the daemon (auto_tune, benchmarks) and their results.
CREATE TABLE vectuned.request (
    request_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    column_id     int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    kind          text NOT NULL CHECK (kind IN ('auto_tune', 'benchmark_recall', 'benchmark_latency')),
    arguments     jsonb NOT NULL,
    state         text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    cancelling    boolean NOT NULL DEFAULT false,
    attempts      int NOT NULL DEFAULT 0,
    done          int NOT NULL DEFAULT 0,
    total         int,
    result        jsonb,
    error         text,
    requested_by  name NOT NULL,
    requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at    timestamptz,
    finished_at   timestamptz,
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'done') = (result IS NOT NULL) AND (state = 'failed') = (error IS NOT NULL))
);
CREATE INDEX request_waiting ON vectuned.request (request_id) WHERE state IN ('queued', 'running');
CREATE INDEX request_of_column ON vectuned.request (column_id);
COMMENT ON COLUMN vectuned.request.done IS 'searches done so far, of total';
COMMENT ON COLUMN vectuned.request.attempts IS 'how often the daemon started it; given up if the daemon dies while running it';

-- Statements that vectuned.client recorded, until the daemon takes them (vectuned.record_statements). Unlogged and bounded.
CREATE UNLOGGED TABLE vectuned.statement_inbox (
    statement_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at   timestamptz NOT NULL,
    text          text,
    parameters    text[],
    latency_ms    float8 NOT NULL,
    search_path   text NOT NULL
);
COMMENT ON COLUMN vectuned.statement_inbox.text IS
    'with $1, $2 ... for its parameters; may hold values; NULL = redacted, for a column with store_vectors => false';

-- What observing the statements of applications came to, since the schema was installed.
CREATE TABLE vectuned.observation (
    source           text PRIMARY KEY CHECK (source IN ('log', 'client')),
    statements       bigint NOT NULL DEFAULT 0,
    searches         bigint NOT NULL DEFAULT 0,
    stored           bigint NOT NULL DEFAULT 0,
    left_out         bigint NOT NULL DEFAULT 0,
    not_planned      bigint NOT NULL DEFAULT 0,
    other_databases  bigint NOT NULL DEFAULT 0,
    damaged          bigint NOT NULL DEFAULT 0,
    observed_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN vectuned.observation.searches IS 'vector searches that can be replayed, of tuned and other columns';
COMMENT ON COLUMN vectuned.observation.stored IS 'searches of tuned columns that were stored to be replayed';
COMMENT ON COLUMN vectuned.observation.left_out IS 'vector searches that cannot be replayed; `vectuned observe` says why';
COMMENT ON COLUMN vectuned.observation.not_planned IS 'statements with a distance that this server refuses to plan';
COMMENT ON COLUMN vectuned.observation.damaged IS 'records of a log that were cut or cannot be read';

-- How far `vectuned observe` has read the files of a log, so that it reads no call twice.
CREATE TABLE vectuned.log_position (
    identity     text PRIMARY KEY,
    head         text NOT NULL,
    head_length  int NOT NULL CHECK (head_length >= 0),
    byte_offset  bigint NOT NULL CHECK (byte_offset >= 0),
    read_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN vectuned.log_position.identity IS 'device and inode of a file, or its name on the server';
COMMENT ON COLUMN vectuned.log_position.head IS 'SHA-256 of the first head_length bytes';

-- Status of the daemon's jobs. Runs that find nothing to do are recorded once a minute, others each time.
CREATE TABLE vectuned.job (
    name          text PRIMARY KEY,
    last_run      timestamptz NOT NULL,
    last_success  timestamptz,
    duration_ms   float8 NOT NULL,
    runs          bigint NOT NULL,
    failures      int NOT NULL,
    last_error    text,
    next_run      timestamptz,
    columns_failing int NOT NULL DEFAULT 0,
    CHECK ((failures > 0) = (last_error IS NOT NULL))
);
COMMENT ON COLUMN vectuned.job.columns_failing IS
    'number of columns on which the job failed the last time (vectuned.column_failure); it goes on with the others';
COMMENT ON COLUMN vectuned.job.failures IS 'consecutive failures; a success sets it to 0 and clears last_error';
COMMENT ON COLUMN vectuned.job.next_run IS 'as planned after last_run; NULL while the daemon is stopping';

-- What passes over a table read to find the exact answers of a column's searches. Hours are those of the clock.
CREATE TABLE vectuned.table_read (
    column_id      int PRIMARY KEY REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    total_bytes    bigint NOT NULL,
    hour           timestamptz NOT NULL,
    hour_bytes     bigint NOT NULL,
    previous_bytes bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN vectuned.table_read.hour IS 'the hour in which the last pass was; hour_bytes are of that hour, previous_bytes of the one before';

-- Work on columns that failed the last time, whether the daemon or a command did it. A success deletes the row.
CREATE TABLE vectuned.column_failure (
    column_id  int NOT NULL REFERENCES vectuned.tuned_column ON DELETE CASCADE,
    job        text NOT NULL,
    failures   int NOT NULL DEFAULT 1 CHECK (failures > 0),
    error      text NOT NULL,
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_run   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (column_id, job)
);
COMMENT ON COLUMN vectuned.column_failure.failures IS 'consecutive failures';
