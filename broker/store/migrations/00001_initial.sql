-- One schema for SQLite and PostgreSQL. Times are microseconds since 1970 UTC, 0 or NULL = none.
-- JSON is text. A column of sealed bytes is bound to its tenant, secret, version and column name.

-- +goose Up
-- Key-encryption keys. The one with the highest number seals; the others open what they have sealed, until
-- it is sealed anew. A column sealed_by is the key's id out of the sealed bytes themselves (see package seal),
-- so no key can be removed that a value needs, and no value stored that a removed key seals.
CREATE TABLE seal_keys (
    id         BYTEA PRIMARY KEY,
    number     BIGINT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);
CREATE TABLE seal_wrappings (      -- each of them as each seal of the operator's wraps it
    kek        BYTEA NOT NULL REFERENCES seal_keys (id),
    seal       TEXT NOT NULL,
    wrapped    BYTEA NOT NULL,
    earlier    BYTEA,              -- what wrapped has replaced, until wrapped was opened once more
    created_at BIGINT NOT NULL,
    PRIMARY KEY (kek, seal)
);

CREATE TABLE settings (            -- of the installation, none of them secret
    name  TEXT PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE own_keys (            -- the broker's own: of fingerprints, tokens, API keys
    name      TEXT PRIMARY KEY,
    sealed    BYTEA NOT NULL,
    sealed_by BYTEA GENERATED ALWAYS AS (CASE WHEN length(sealed) >= 105 THEN substr(sealed, 2, 16) END) STORED
        REFERENCES seal_keys (id)
);
CREATE INDEX own_keys_sealed_by ON own_keys (sealed_by) WHERE sealed_by IS NOT NULL;

CREATE TABLE secrets (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    name        TEXT NOT NULL,
    origin      TEXT NOT NULL,
    state       TEXT NOT NULL,
    backend     TEXT NOT NULL,
    issuer      TEXT NOT NULL,
    probe       TEXT NOT NULL,
    policy      TEXT NOT NULL,     -- rotation policy, pair: as in its definition
    pair        TEXT NOT NULL,
    definition  TEXT NOT NULL,
    current     BIGINT NOT NULL,
    generation  BIGINT NOT NULL,
    next_due_at BIGINT,
    notice_at   BIGINT,            -- when its consumers are to be told of next_due_at
    noticed_due BIGINT,            -- the next_due_at that they were told of last
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    revision    BIGINT NOT NULL,
    last_version BIGINT NOT NULL DEFAULT 0, -- number given to its newest version; never given twice
    last_try    BIGINT NOT NULL DEFAULT 0,  -- seq given to its newest try
    UNIQUE (tenant, name)
);
CREATE INDEX secrets_due ON secrets (next_due_at, id) WHERE next_due_at IS NOT NULL AND state = 'active';
CREATE INDEX secrets_notice ON secrets (notice_at, id) WHERE notice_at IS NOT NULL AND state = 'active';
CREATE INDEX secrets_of_name ON secrets (name);
CREATE INDEX secrets_of_pair ON secrets (tenant, pair) WHERE pair <> '';

CREATE TABLE versions (
    secret_id       TEXT NOT NULL REFERENCES secrets (id),
    number          BIGINT NOT NULL,
    tenant          TEXT NOT NULL,
    stage           TEXT NOT NULL,
    rotation_id     TEXT NOT NULL,
    attempt         BIGINT NOT NULL,
    tag             TEXT NOT NULL,
    environment     TEXT NOT NULL, -- the secret's label when it was made
    backend         TEXT NOT NULL,
    issuer          TEXT NOT NULL,
    probe           TEXT NOT NULL,
    settings        TEXT NOT NULL,
    slot            TEXT NOT NULL, -- the account that holds it, at issuers that have slots
    seen            TEXT NOT NULL, -- handles that the issuer held before the mint, where it knows no tags
    handle          TEXT NOT NULL,
    backend_version TEXT NOT NULL,
    sealed          BYTEA,
    created_at      BIGINT NOT NULL,
    published_at    BIGINT,
    overlap_until   BIGINT,
    not_after       BIGINT,
    sealed_by       BYTEA GENERATED ALWAYS AS (CASE WHEN length(sealed) >= 105 THEN substr(sealed, 2, 16) END) STORED
        REFERENCES seal_keys (id),
    PRIMARY KEY (secret_id, number)
);
CREATE UNIQUE INDEX versions_tag ON versions (tag) WHERE tag <> '';
CREATE UNIQUE INDEX versions_current ON versions (secret_id) WHERE stage = 'current';
CREATE INDEX versions_pending ON versions (secret_id, number) WHERE stage = 'pending';
CREATE INDEX versions_foreign ON versions (secret_id, number) WHERE stage = 'retired' AND tag = '' AND sealed IS NOT NULL;
CREATE INDEX versions_open ON versions (secret_id, number) WHERE stage <> 'retired';
CREATE INDEX versions_ending ON versions ((created_at + 2 * not_after)) WHERE stage = 'current' AND not_after IS NOT NULL;
CREATE INDEX versions_handle ON versions (substr(handle, 1, 100)) WHERE handle <> 'null';
CREATE INDEX versions_sealed_by ON versions (sealed_by) WHERE sealed_by IS NOT NULL;

CREATE TABLE fingerprints (        -- of every field of every version ever, kept for ever
    tenant      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    secret_id   TEXT NOT NULL REFERENCES secrets (id),
    number      BIGINT NOT NULL,
    field       TEXT NOT NULL,     -- keyed like the fingerprint: the name itself says too much
    PRIMARY KEY (secret_id, number, field)
);
CREATE INDEX fingerprints_lookup ON fingerprints (tenant, fingerprint, secret_id);

CREATE TABLE rotations (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    secret_id   TEXT NOT NULL REFERENCES secrets (id),
    trigger_kind TEXT NOT NULL,
    state       TEXT NOT NULL,
    occupies    BIGINT NOT NULL,
    waiting_for TEXT,              -- while it has not ended
    record      TEXT NOT NULL,
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT,
    next_at     BIGINT,
    lease_until BIGINT,
    revision    BIGINT NOT NULL
);
CREATE UNIQUE INDEX rotations_one_per_secret ON rotations (secret_id) WHERE occupies = 1;
CREATE INDEX rotations_due ON rotations (next_at, id) WHERE next_at IS NOT NULL AND ended_at IS NULL;
CREATE INDEX rotations_by_secret ON rotations (secret_id, started_at, id);
CREATE INDEX rotations_by_start ON rotations (started_at, id);
CREATE INDEX rotations_failed ON rotations (started_at, id) WHERE state = 'failed';
CREATE INDEX rotations_live ON rotations (secret_id, started_at, id) WHERE ended_at IS NULL;
CREATE INDEX rotations_live_by_start ON rotations (started_at, id) WHERE ended_at IS NULL;
CREATE INDEX rotations_waiting ON rotations (waiting_for, id) WHERE waiting_for IS NOT NULL;
CREATE INDEX rotations_making ON rotations (secret_id, id) WHERE state IN ('minting', 'staging', 'verifying', 'publishing');

CREATE TABLE rotation_steps (
    rotation_id TEXT NOT NULL REFERENCES rotations (id),
    seq         BIGINT NOT NULL,
    step        TEXT NOT NULL,
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT,
    outcome     TEXT NOT NULL,
    detail      TEXT NOT NULL,
    PRIMARY KEY (rotation_id, seq)
);
CREATE INDEX rotation_steps_by_end ON rotation_steps (rotation_id, step, ended_at);

CREATE TABLE retirements (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    secret_id   TEXT NOT NULL REFERENCES secrets (id),
    version     BIGINT NOT NULL,
    rotation_id TEXT NOT NULL,
    state       TEXT NOT NULL,
    cause       TEXT NOT NULL,
    record      TEXT NOT NULL,
    requested_at BIGINT NOT NULL,
    next_at     BIGINT,
    lease_until BIGINT,
    soaking     BIGINT NOT NULL, -- 1: disabled at its issuer, and still to be removed there; 2: which fails
    revision    BIGINT NOT NULL,
    UNIQUE (secret_id, version)
);
CREATE INDEX retirements_soaking ON retirements (secret_id, version) WHERE soaking > 0;
CREATE INDEX retirements_stuck ON retirements (requested_at, id) WHERE soaking = 2;
CREATE INDEX retirements_due ON retirements (next_at, id) WHERE next_at IS NOT NULL;
CREATE INDEX retirements_open ON retirements (secret_id, version)
    WHERE state <> 'proven_dead' AND state <> 'unprovable' AND next_at IS NOT NULL;
CREATE INDEX retirements_troubled ON retirements (requested_at, id) WHERE state IN ('unconfirmed', 'resurrected');
CREATE INDEX retirements_by_rotation ON retirements (rotation_id, version);
CREATE INDEX retirements_by_secret ON retirements (secret_id, requested_at, id);
CREATE INDEX retirements_by_request ON retirements (requested_at, id);

CREATE TABLE incidents (           -- emergencies, with what was asked for
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,     -- empty: its secrets are of several
    state       TEXT NOT NULL,
    trigger_name TEXT NOT NULL,    -- the block that declared it; empty: none did
    hold        BOOLEAN NOT NULL,  -- nothing is pruned that may be evidence
    record      TEXT NOT NULL,
    declared_at BIGINT NOT NULL,
    next_at     BIGINT,
    revision    BIGINT NOT NULL
);
CREATE INDEX incidents_by_time ON incidents (declared_at, id);
CREATE INDEX incidents_of_trigger ON incidents (trigger_name, declared_at, id) WHERE trigger_name <> '';
CREATE INDEX incidents_due ON incidents (next_at, id) WHERE next_at IS NOT NULL;
CREATE INDEX incidents_holding ON incidents (id) WHERE hold = TRUE;
CREATE TABLE incident_targets (    -- the secrets of each
    incident_id TEXT NOT NULL REFERENCES incidents (id),
    secret_id   TEXT NOT NULL REFERENCES secrets (id),
    versions    TEXT NOT NULL,     -- JSON array: those pinned
    state       TEXT NOT NULL,
    rotation_id TEXT NOT NULL,     -- the emergency; empty: there is none
    error       TEXT NOT NULL,
    PRIMARY KEY (incident_id, secret_id)
);
CREATE INDEX incident_targets_undeclared ON incident_targets (incident_id, secret_id) WHERE state IN ('pending', 'failed');
CREATE INDEX incident_targets_of_secret ON incident_targets (secret_id, incident_id);
CREATE INDEX incident_targets_of_rotation ON incident_targets (rotation_id) WHERE rotation_id <> '';
CREATE TABLE incident_versions (   -- what of them is compromised, and what turns it off
    incident_id   TEXT NOT NULL REFERENCES incidents (id),
    secret_id     TEXT NOT NULL,
    version       BIGINT NOT NULL,
    retirement_id TEXT NOT NULL REFERENCES retirements (id),
    PRIMARY KEY (incident_id, secret_id, version)
);
CREATE INDEX incident_versions_of_version ON incident_versions (secret_id, version);
CREATE TABLE incident_skipped (    -- what was meant, too, and is not turned off
    incident_id TEXT NOT NULL REFERENCES incidents (id),
    secret_id   TEXT NOT NULL REFERENCES secrets (id),
    why         TEXT NOT NULL,
    PRIMARY KEY (incident_id, secret_id)
);
CREATE TABLE incident_notes (      -- what people write down
    incident_id TEXT NOT NULL REFERENCES incidents (id),
    seq         BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    by_whom     TEXT NOT NULL,
    text        TEXT NOT NULL,
    PRIMARY KEY (incident_id, seq)
);
CREATE TABLE incident_checks (     -- what they have to do themselves
    incident_id TEXT NOT NULL REFERENCES incidents (id),
    item        BIGINT NOT NULL,   -- from 1
    text        TEXT NOT NULL,
    done_at     BIGINT,
    done_by     TEXT NOT NULL,
    remark      TEXT NOT NULL,
    PRIMARY KEY (incident_id, item)
);

CREATE TABLE placements (          -- what one vault holds of a secret, and should hold
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    secret_id   TEXT NOT NULL REFERENCES secrets (id),
    backend     TEXT NOT NULL,
    state       TEXT NOT NULL,
    record      TEXT NOT NULL,
    next_at     BIGINT,
    lease_until BIGINT,
    revision    BIGINT NOT NULL,
    UNIQUE (secret_id, backend)
);
CREATE INDEX placements_due ON placements (next_at, id) WHERE next_at IS NOT NULL;
CREATE INDEX placements_out_of_step ON placements (backend, state) WHERE state <> 'in_step';

CREATE TABLE tries (               -- every verdict: the lines of a proof
    secret_id     TEXT NOT NULL REFERENCES secrets (id),
    seq           BIGINT NOT NULL, -- per secret
    tenant        TEXT NOT NULL,
    rotation_id   TEXT NOT NULL,
    retirement_id TEXT NOT NULL,
    version       BIGINT NOT NULL,
    at            BIGINT NOT NULL,
    record        TEXT NOT NULL,
    PRIMARY KEY (secret_id, seq)
);
CREATE INDEX tries_by_retirement ON tries (retirement_id, seq);
CREATE INDEX tries_by_rotation ON tries (rotation_id, seq);

CREATE TABLE deliveries (
    id              TEXT PRIMARY KEY,
    tenant          TEXT NOT NULL,
    secret_id       TEXT REFERENCES secrets (id), -- NULL: of none, somebody tries the way to the consumer
    consumer        TEXT NOT NULL,
    version         BIGINT NOT NULL,
    generation      BIGINT NOT NULL,
    event           TEXT NOT NULL,
    trigger_kind    TEXT NOT NULL,
    reason          TEXT NOT NULL,
    state           TEXT NOT NULL,
    instances       BIGINT NOT NULL,   -- that are to acknowledge it
    attempts        BIGINT NOT NULL,
    error           TEXT NOT NULL,
    due_at          BIGINT,            -- of a rotation that is told of ahead of time
    created_at      BIGINT NOT NULL,
    since           BIGINT NOT NULL,   -- when its schedule began
    next_attempt_at BIGINT,            -- NULL while pending: it is collected, or its consumer is disabled
    lease_until     BIGINT,
    received_at     BIGINT,
    fetched_at      BIGINT,
    applied_at      BIGINT,
    revision        BIGINT NOT NULL
);
CREATE INDEX deliveries_due ON deliveries (next_attempt_at, id) WHERE state = 'pending';
CREATE INDEX deliveries_pending ON deliveries (secret_id, consumer, generation) WHERE state = 'pending';
CREATE INDEX deliveries_waiting ON deliveries (consumer, created_at, id) WHERE state = 'pending';
CREATE INDEX deliveries_held ON deliveries (created_at, id) WHERE state = 'pending' AND next_attempt_at IS NULL;
CREATE INDEX deliveries_dead ON deliveries (created_at, id) WHERE state = 'dead';
CREATE INDEX deliveries_unreplaced ON deliveries (created_at, id) WHERE trigger_kind = 'emergency' AND state IN ('pending', 'dead');
CREATE INDEX deliveries_leased ON deliveries (secret_id, consumer) WHERE lease_until IS NOT NULL;
CREATE INDEX deliveries_of_generation ON deliveries (secret_id, generation);
CREATE INDEX deliveries_by_secret ON deliveries (secret_id, created_at, id);
CREATE INDEX deliveries_of_consumer ON deliveries (consumer, created_at, id);
CREATE INDEX deliveries_by_creation ON deliveries (created_at, id);

CREATE TABLE delivery_acks (       -- what the instances of a consumer say
    delivery_id TEXT NOT NULL REFERENCES deliveries (id),
    instance    TEXT NOT NULL,
    applied     BOOLEAN NOT NULL,  -- it uses the version; else it only has the message
    at          BIGINT NOT NULL,
    by_whom     TEXT NOT NULL,
    PRIMARY KEY (delivery_id, instance)
);

CREATE TABLE consumers (           -- what is kept of one beside its configuration
    name        TEXT PRIMARY KEY,
    disabled_at BIGINT,            -- it wants no more deliveries
    why         TEXT NOT NULL,
    endpoint    TEXT NOT NULL      -- keyed digest of where it said so
);

CREATE TABLE signing_keys (        -- that messages to consumers are signed with; not those of the operator
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    consumer   TEXT NOT NULL,
    algorithm  TEXT NOT NULL,
    public     TEXT NOT NULL,
    sealed     BYTEA NOT NULL,
    sealed_by  BYTEA GENERATED ALWAYS AS (CASE WHEN length(sealed) >= 105 THEN substr(sealed, 2, 16) END) STORED
        REFERENCES seal_keys (id),
    created_at BIGINT NOT NULL,
    until      BIGINT,             -- it signs beside a newer one until then; NULL: it is the newest
    wanted_at  BIGINT NOT NULL     -- when a node last had the consumer in its configuration
);
CREATE UNIQUE INDEX signing_keys_newest ON signing_keys (tenant, consumer) WHERE until IS NULL;
CREATE INDEX signing_keys_of_consumer ON signing_keys (tenant, consumer);
CREATE INDEX signing_keys_sealed_by ON signing_keys (sealed_by) WHERE sealed_by IS NOT NULL;

CREATE TABLE consumer_reads (      -- which versions consumers' roles have read, to the minute
    secret_id TEXT NOT NULL REFERENCES secrets (id),
    consumer  TEXT NOT NULL,
    version   BIGINT NOT NULL,
    first_at  BIGINT NOT NULL,
    last_at   BIGINT NOT NULL,
    PRIMARY KEY (secret_id, consumer, version)
);
CREATE TABLE reads (               -- who was given which version, to the minute: what a compromise reaches
    secret_id TEXT NOT NULL REFERENCES secrets (id),
    version   BIGINT NOT NULL,
    who       TEXT NOT NULL,       -- METHOD/SUBJECT; of whom nobody knows: the id of the token
    role      TEXT NOT NULL,
    address   BYTEA NOT NULL,      -- 16 bytes, those of IPv4 mapped into IPv6; empty: unknown
    actor     TEXT NOT NULL,       -- the token, or who, by which it was read last
    first_at  BIGINT NOT NULL,
    last_at   BIGINT NOT NULL,
    PRIMARY KEY (secret_id, version, who, role, address)
);
CREATE INDEX reads_of_role ON reads (role, secret_id, version);
CREATE INDEX reads_of_who ON reads (who, secret_id, version);
CREATE INDEX reads_of_address ON reads (address);

-- The feed of changes. Its sequence is taken from change_counter inside the transaction: the counter's
-- row lock is held until commit, so the order of seq is the order of commits and no reader skips a late one.
CREATE TABLE change_counter (id BIGINT PRIMARY KEY, last BIGINT NOT NULL);
INSERT INTO change_counter (id, last) VALUES (1, 0);
CREATE TABLE changes (
    seq        BIGINT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    secret     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    object_id  TEXT NOT NULL,
    generation BIGINT NOT NULL,
    at         BIGINT NOT NULL
);

CREATE TABLE audit_counter (id BIGINT PRIMARY KEY, last BIGINT NOT NULL);
INSERT INTO audit_counter (id, last) VALUES (1, 0);
CREATE TABLE audit_outbox (        -- committed with the change they tell of, until the log has them
    seq     BIGINT PRIMARY KEY,    -- of the last of them
    node    TEXT NOT NULL,         -- whose log they are to come into; empty: any
    since   BIGINT NOT NULL,       -- when they became that node's
    records TEXT NOT NULL          -- JSON array
);

CREATE TABLE tokens (
    id           TEXT PRIMARY KEY, -- public: shown, logged
    kind         TEXT NOT NULL,    -- 'root', 'break_glass' or empty
    tenant       TEXT NOT NULL,
    environment  TEXT NOT NULL,
    name         TEXT NOT NULL,
    hash         BYTEA NOT NULL UNIQUE,
    method       TEXT NOT NULL,    -- the auth block by which the identity logged in; empty: made by hand
    identity     TEXT NOT NULL,
    role         TEXT NOT NULL,    -- empty: the policies are its own
    policies     TEXT NOT NULL,    -- JSON array
    cidrs        TEXT NOT NULL,    -- JSON array
    parent       TEXT NOT NULL,    -- the token that it ends with; empty: none
    lineage      TEXT NOT NULL,    -- whose it is: ids of tokens, joined by "/"
    uses         BIGINT NOT NULL,  -- 0: any number
    uses_left    BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    ttl          BIGINT NOT NULL,  -- microseconds by which it is renewed; 0: none
    expires_at   BIGINT,
    ends_at      BIGINT,           -- beyond which no renewal goes
    idle         BIGINT NOT NULL,  -- microseconds that it lives unused; 0: any
    last_used_at BIGINT,
    revoked_at   BIGINT
);
CREATE INDEX tokens_by_creation ON tokens (created_at, id);
CREATE INDEX tokens_of_root ON tokens (kind) WHERE kind = 'root';
CREATE INDEX tokens_of_parent ON tokens (parent) WHERE parent <> '';
CREATE INDEX tokens_of_login ON tokens (method, identity, role, expires_at) WHERE method <> '';
CREATE INDEX tokens_of_role ON tokens (role) WHERE role <> '' AND revoked_at IS NULL;

CREATE TABLE quarantines (         -- of whom is kept out, and of whom was
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,     -- 'consumer' or 'role'
    name        TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    role        TEXT NOT NULL,     -- of a consumer: that is kept out with it
    incident_id TEXT NOT NULL,     -- empty: of none
    reason      TEXT NOT NULL,
    by_whom     TEXT NOT NULL,
    at          BIGINT NOT NULL,
    lifted_at   BIGINT,            -- NULL: it goes on
    lifted_by   TEXT NOT NULL,
    lifting     TEXT NOT NULL      -- why it was lifted
);
CREATE UNIQUE INDEX quarantines_going_on ON quarantines (kind, name, incident_id) WHERE lifted_at IS NULL;
CREATE INDEX quarantines_of_incident ON quarantines (incident_id) WHERE incident_id <> '';

CREATE TABLE api_keys (            -- issued by the api_key issuer
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL,
    secret         TEXT NOT NULL,
    version        BIGINT NOT NULL,
    tag            TEXT NOT NULL,
    pepper_version BIGINT NOT NULL,
    hash           BYTEA NOT NULL UNIQUE,
    created_at     BIGINT NOT NULL,
    revoked_at     BIGINT,
    UNIQUE (tenant, tag)
);
CREATE INDEX api_keys_tag ON api_keys (tag);

CREATE TABLE events (              -- inbound events, so that a repeated one is one, and what came of each
    id           TEXT PRIMARY KEY,
    trigger_name TEXT NOT NULL,
    event_key    TEXT NOT NULL,
    tenant       TEXT NOT NULL,    -- whose trigger; empty: of all
    outcome      TEXT NOT NULL,
    received_at  BIGINT NOT NULL,
    repeats      BIGINT NOT NULL,  -- how often it came again
    last_at      BIGINT NOT NULL,
    incident_id  TEXT NOT NULL,    -- empty: none
    record       TEXT NOT NULL,    -- no value
    UNIQUE (trigger_name, event_key)
);
CREATE INDEX events_by_time ON events (received_at, id);
CREATE INDEX events_of_trigger ON events (trigger_name, received_at, id);
CREATE INDEX events_held ON events (trigger_name, received_at, id) WHERE outcome = 'held';
CREATE INDEX events_receiving ON events (received_at) WHERE outcome = 'receiving';
CREATE INDEX events_unresolved ON events (received_at) WHERE outcome = 'unresolved';
CREATE TABLE event_acts (          -- on which secrets triggers acted: they do so for a number of them at a time
    event_id     TEXT NOT NULL,
    secret_id    TEXT NOT NULL REFERENCES secrets (id),
    trigger_name TEXT NOT NULL,
    at           BIGINT NOT NULL,
    versions     TEXT NOT NULL,    -- JSON array: turned off by it
    rotation_id  TEXT NOT NULL,
    incident_id  TEXT NOT NULL,
    applied      BOOLEAN NOT NULL, -- somebody asked for it: it does not count
    PRIMARY KEY (event_id, secret_id)
);
CREATE INDEX event_acts_lately ON event_acts (trigger_name, at);

CREATE TABLE alerts (              -- what people should be told
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    subject     TEXT NOT NULL,
    node        TEXT NOT NULL,     -- the only one that can tell whether it is over; empty: all
    text        TEXT NOT NULL,
    next        TEXT NOT NULL,     -- the command to run
    count       BIGINT NOT NULL,
    opened_at   BIGINT NOT NULL,
    last_at     BIGINT NOT NULL,
    seen_at     BIGINT NOT NULL,   -- by the node
    acked_at    BIGINT,
    acked_by    TEXT NOT NULL,
    ack_reason  TEXT NOT NULL,
    resolved_at BIGINT,
    settled_at  BIGINT,            -- everybody was told that it is over
    revision    BIGINT NOT NULL
);
CREATE UNIQUE INDEX alerts_open ON alerts (kind, tenant, subject) WHERE resolved_at IS NULL;
CREATE INDEX alerts_unsettled ON alerts (opened_at, id) WHERE settled_at IS NULL;
CREATE INDEX alerts_by_opening ON alerts (opened_at, id);
CREATE INDEX alerts_ended ON alerts (kind, subject) WHERE acked_at IS NOT NULL;

CREATE TABLE alert_notices (       -- what one notifier is told of one alert; alert_id '' is a heartbeat
    id         TEXT PRIMARY KEY,
    alert_id   TEXT NOT NULL,
    rule       TEXT NOT NULL,
    notifier   TEXT NOT NULL,
    event      TEXT NOT NULL,
    seq        BIGINT NOT NULL,
    state      TEXT NOT NULL,
    told       BIGINT NOT NULL,    -- events that arrived
    attempts   BIGINT NOT NULL,
    error      TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    sent_at    BIGINT,
    next_at    BIGINT,
    lease_until BIGINT,
    owner      TEXT NOT NULL,
    revision   BIGINT NOT NULL,
    UNIQUE (alert_id, rule, notifier)
);

CREATE TABLE local_secrets (       -- the embedded backend
    tenant  TEXT NOT NULL,
    name    TEXT NOT NULL,
    current BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE TABLE local_versions (
    tenant       TEXT NOT NULL,
    name         TEXT NOT NULL,
    number       BIGINT NOT NULL,
    sealed       BYTEA,
    sealed_by    BYTEA GENERATED ALWAYS AS (CASE WHEN length(sealed) >= 105 THEN substr(sealed, 2, 16) END) STORED
        REFERENCES seal_keys (id),
    created_at   BIGINT NOT NULL,
    destroyed_at BIGINT,
    PRIMARY KEY (tenant, name, number)
);
CREATE INDEX local_versions_sealed_by ON local_versions (sealed_by) WHERE sealed_by IS NOT NULL;

-- +goose Down
DROP TABLE local_versions;
DROP TABLE local_secrets;
DROP TABLE alert_notices;
DROP TABLE alerts;
DROP TABLE event_acts;
DROP TABLE events;
DROP TABLE api_keys;
DROP TABLE quarantines;
DROP TABLE tokens;
DROP TABLE audit_outbox;
DROP TABLE audit_counter;
DROP TABLE changes;
DROP TABLE change_counter;
DROP TABLE reads;
DROP TABLE consumer_reads;
DROP TABLE signing_keys;
DROP TABLE consumers;
DROP TABLE delivery_acks;
DROP TABLE deliveries;
DROP TABLE tries;
DROP TABLE placements;
DROP TABLE incident_checks;
DROP TABLE incident_notes;
DROP TABLE incident_skipped;
DROP TABLE incident_versions;
DROP TABLE incident_targets;
DROP TABLE incidents;
DROP TABLE retirements;
DROP TABLE rotation_steps;
DROP TABLE rotations;
DROP TABLE fingerprints;
DROP TABLE versions;
DROP TABLE secrets;
DROP TABLE own_keys;
DROP TABLE settings;
DROP TABLE seal_wrappings;
DROP TABLE seal_keys;
