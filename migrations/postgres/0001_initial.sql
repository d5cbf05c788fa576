-- Every key starts with the account. Times are bound by the program, never taken from the database.
CREATE TABLE connection (
    account     TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    epoch       BIGINT NOT NULL DEFAULT 0,
    body        TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, name)
);

CREATE TABLE contact (
    account     TEXT COLLATE "C" NOT NULL,
    id          UUID NOT NULL,
    version     BIGINT NOT NULL,
    email       TEXT COLLATE "C",
    deleted     BOOLEAN NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL,
    body        TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, id)
);
CREATE INDEX contact_by_email ON contact (account, email) WHERE email IS NOT NULL;

CREATE TABLE opportunity (
    account            TEXT COLLATE "C" NOT NULL,
    id                 UUID NOT NULL,
    version            BIGINT NOT NULL,
    contact            UUID,
    pipeline           UUID,
    stage              UUID,
    status             TEXT COLLATE "C" NOT NULL,
    slot               TEXT COLLATE "C",
    waiting_slot       TEXT COLLATE "C",
    external_reference TEXT COLLATE "C",
    deleted            BOOLEAN NOT NULL,
    updated_at         TIMESTAMPTZ NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (account, id)
);
-- At most one open opportunity of a contact in a pipeline, where the account's policy says so (AX-02).
CREATE UNIQUE INDEX opportunity_slot ON opportunity (account, slot) WHERE slot IS NOT NULL;
-- A second one is quarantined: it waits for the place.
CREATE INDEX opportunity_waiting_slot ON opportunity (account, waiting_slot) WHERE waiting_slot IS NOT NULL;
-- An external reference is unique per account (VX-20).
CREATE UNIQUE INDEX opportunity_external_reference ON opportunity (account, external_reference) WHERE external_reference IS NOT NULL;
CREATE INDEX opportunity_by_contact ON opportunity (account, contact) WHERE contact IS NOT NULL;

CREATE TABLE pipeline (
    account     TEXT COLLATE "C" NOT NULL,
    id          UUID NOT NULL,
    place       BIGINT NOT NULL,
    body        TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, id)
);

CREATE TABLE stage_map (
    account         TEXT COLLATE "C" NOT NULL,
    connection      TEXT COLLATE "C" NOT NULL,
    remote_pipeline TEXT COLLATE "C" NOT NULL,
    remote_stage    TEXT COLLATE "C" NOT NULL,
    body            TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, connection, remote_pipeline, remote_stage)
);

CREATE TABLE link (
    account        TEXT COLLATE "C" NOT NULL,
    connection     TEXT COLLATE "C" NOT NULL,
    kind           TEXT COLLATE "C" NOT NULL,
    local_id       UUID NOT NULL,
    system         TEXT COLLATE "C" NOT NULL,
    remote_account TEXT COLLATE "C" NOT NULL,
    external_id    TEXT COLLATE "C" NOT NULL,
    state          TEXT COLLATE "C" NOT NULL,
    body           TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, connection, kind, local_id)
);
-- A vendor's id stands for one record of an account, whichever connection brought it.
CREATE UNIQUE INDEX link_external_id ON link (account, system, remote_account, kind, external_id);
CREATE INDEX link_by_external ON link (account, connection, kind, external_id);

CREATE TABLE alias (
    account    TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    old_id     TEXT COLLATE "C" NOT NULL,
    new_id     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, connection, kind, old_id)
);

CREATE TABLE dirty (
    account    TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    rank       BIGINT NOT NULL,
    record_key TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    due_at     TIMESTAMPTZ NOT NULL,
    priority   BIGINT NOT NULL,
    attempts   BIGINT NOT NULL,
    PRIMARY KEY (account, connection, kind, record_key)
);
CREATE INDEX dirty_due ON dirty (account, connection, due_at);

CREATE TABLE intent (
    account    TEXT COLLATE "C" NOT NULL,
    id         UUID NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    local_id   UUID NOT NULL,
    sealed     BYTEA NOT NULL,
    PRIMARY KEY (account, id)
);
-- At most one open intent of a record at a vendor.
CREATE UNIQUE INDEX intent_one_open ON intent (account, connection, kind, local_id);

CREATE TABLE cursor (
    account    TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    stream     TEXT COLLATE "C" NOT NULL,
    position   TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, connection, stream)
);

CREATE TABLE conflict (
    account     TEXT COLLATE "C" NOT NULL,
    id          UUID NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    body        TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, id)
);
CREATE UNIQUE INDEX conflict_fingerprint ON conflict (account, fingerprint);

CREATE TABLE history (
    account TEXT COLLATE "C" NOT NULL,
    id      BIGINT GENERATED ALWAYS AS IDENTITY,
    kind    TEXT COLLATE "C" NOT NULL,
    record  UUID NOT NULL,
    at      TIMESTAMPTZ NOT NULL,
    body    TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, id)
);
CREATE INDEX history_by_record ON history (account, kind, record, id);

CREATE TABLE failure (
    account    TEXT COLLATE "C" NOT NULL,
    id         UUID NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    record_key TEXT COLLATE "C" NOT NULL,
    field      TEXT COLLATE "C" NOT NULL,
    body       TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, connection, kind, record_key, field)
);

CREATE TABLE guard_event (
    account    TEXT COLLATE "C" NOT NULL,
    connection TEXT COLLATE "C" NOT NULL,
    class      TEXT COLLATE "C" NOT NULL,
    body       TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, connection, class)
);

CREATE TABLE lease (
    shard      BIGINT NOT NULL PRIMARY KEY,
    owner      TEXT COLLATE "C" NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE api_token (
    digest     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE stored_connection (
    account TEXT COLLATE "C" NOT NULL,
    name    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    sealed  BYTEA NOT NULL
);

-- Grants that a vendor renewed: sealed, and of use only while the configured one is the one they came from.
CREATE TABLE renewed_grant (
    account     TEXT COLLATE "C" NOT NULL,
    connection  TEXT COLLATE "C" NOT NULL,
    came_from   TEXT COLLATE "C" NOT NULL,
    sealed      BYTEA NOT NULL,
    PRIMARY KEY (account, connection)
);

CREATE TABLE installation (
    only_row BIGINT NOT NULL PRIMARY KEY,
    id       TEXT COLLATE "C" NOT NULL
);
