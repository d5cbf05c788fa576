-- Every key starts with the account. Times are bound by the program, never taken from the database.
CREATE TABLE connection (
    account     TEXT NOT NULL,
    name        TEXT NOT NULL,
    epoch       INTEGER NOT NULL DEFAULT 0,
    body        TEXT NOT NULL,
    PRIMARY KEY (account, name)
) STRICT;

CREATE TABLE contact (
    account     TEXT NOT NULL,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    version     INTEGER NOT NULL,
    email       TEXT,
    deleted     INTEGER NOT NULL,
    updated_at  TEXT NOT NULL,
    body        TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
CREATE INDEX contact_by_email ON contact (account, email) WHERE email IS NOT NULL;

CREATE TABLE opportunity (
    account            TEXT NOT NULL,
    id                 BLOB NOT NULL CHECK (length(id) = 16),
    version            INTEGER NOT NULL,
    contact            BLOB,
    pipeline           BLOB,
    stage              BLOB,
    status             TEXT NOT NULL,
    slot               TEXT,
    waiting_slot       TEXT,
    external_reference TEXT,
    deleted            INTEGER NOT NULL,
    updated_at         TEXT NOT NULL,
    body               TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
-- At most one open opportunity of a contact in a pipeline, where the account's policy says so (AX-02).
CREATE UNIQUE INDEX opportunity_slot ON opportunity (account, slot) WHERE slot IS NOT NULL;
-- A second one is quarantined: it waits for the place.
CREATE INDEX opportunity_waiting_slot ON opportunity (account, waiting_slot) WHERE waiting_slot IS NOT NULL;
-- An external reference is unique per account (VX-20).
CREATE UNIQUE INDEX opportunity_external_reference ON opportunity (account, external_reference) WHERE external_reference IS NOT NULL;
CREATE INDEX opportunity_by_contact ON opportunity (account, contact) WHERE contact IS NOT NULL;

CREATE TABLE pipeline (
    account     TEXT NOT NULL,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    place       INTEGER NOT NULL,
    body        TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;

CREATE TABLE stage_map (
    account         TEXT NOT NULL,
    connection      TEXT NOT NULL,
    remote_pipeline TEXT NOT NULL,
    remote_stage    TEXT NOT NULL,
    body            TEXT NOT NULL,
    PRIMARY KEY (account, connection, remote_pipeline, remote_stage)
) STRICT;

CREATE TABLE link (
    account        TEXT NOT NULL,
    connection     TEXT NOT NULL,
    kind           TEXT NOT NULL,
    local_id       BLOB NOT NULL CHECK (length(local_id) = 16),
    system         TEXT NOT NULL,
    remote_account TEXT NOT NULL,
    external_id    TEXT NOT NULL,
    state          TEXT NOT NULL,
    body           TEXT NOT NULL,
    PRIMARY KEY (account, connection, kind, local_id)
) STRICT;
-- A vendor's id stands for one record of an account, whichever connection brought it.
CREATE UNIQUE INDEX link_external_id ON link (account, system, remote_account, kind, external_id);
CREATE INDEX link_by_external ON link (account, connection, kind, external_id);

CREATE TABLE alias (
    account    TEXT NOT NULL,
    connection TEXT NOT NULL,
    kind       TEXT NOT NULL,
    old_id     TEXT NOT NULL,
    new_id     TEXT NOT NULL,
    PRIMARY KEY (account, connection, kind, old_id)
) STRICT;

CREATE TABLE dirty (
    account    TEXT NOT NULL,
    connection TEXT NOT NULL,
    kind       TEXT NOT NULL,
    rank       INTEGER NOT NULL,
    record_key TEXT NOT NULL,
    generation INTEGER NOT NULL,
    due_at     TEXT NOT NULL,
    priority   INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    PRIMARY KEY (account, connection, kind, record_key)
) STRICT;
CREATE INDEX dirty_due ON dirty (account, connection, due_at);

CREATE TABLE intent (
    account    TEXT NOT NULL,
    id         BLOB NOT NULL CHECK (length(id) = 16),
    connection TEXT NOT NULL,
    kind       TEXT NOT NULL,
    local_id   BLOB NOT NULL CHECK (length(local_id) = 16),
    sealed     BLOB NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
-- At most one open intent of a record at a vendor.
CREATE UNIQUE INDEX intent_one_open ON intent (account, connection, kind, local_id);

CREATE TABLE cursor (
    account    TEXT NOT NULL,
    connection TEXT NOT NULL,
    stream     TEXT NOT NULL,
    position   TEXT NOT NULL,
    PRIMARY KEY (account, connection, stream)
) STRICT;

CREATE TABLE conflict (
    account     TEXT NOT NULL,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    fingerprint TEXT NOT NULL,
    state       TEXT NOT NULL,
    body        TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
CREATE UNIQUE INDEX conflict_fingerprint ON conflict (account, fingerprint);

CREATE TABLE history (
    account TEXT NOT NULL,
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    kind    TEXT NOT NULL,
    record  BLOB NOT NULL,
    at      TEXT NOT NULL,
    body    TEXT NOT NULL
) STRICT;
CREATE INDEX history_by_record ON history (account, kind, record, id);

CREATE TABLE failure (
    account    TEXT NOT NULL,
    id         BLOB NOT NULL CHECK (length(id) = 16),
    connection TEXT NOT NULL,
    kind       TEXT NOT NULL,
    record_key TEXT NOT NULL,
    field      TEXT NOT NULL,
    body       TEXT NOT NULL,
    PRIMARY KEY (account, connection, kind, record_key, field)
) STRICT;

CREATE TABLE guard_event (
    account    TEXT NOT NULL,
    connection TEXT NOT NULL,
    class      TEXT NOT NULL,
    body       TEXT NOT NULL,
    PRIMARY KEY (account, connection, class)
) STRICT;

CREATE TABLE lease (
    shard      INTEGER NOT NULL PRIMARY KEY,
    owner      TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    expires_at TEXT NOT NULL
) STRICT;

CREATE TABLE api_token (
    digest     TEXT NOT NULL PRIMARY KEY,
    account    TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE stored_connection (
    account TEXT NOT NULL,
    name    TEXT NOT NULL PRIMARY KEY,
    sealed  BLOB NOT NULL
) STRICT;

-- Grants that a vendor renewed: sealed, and of use only while the configured one is the one they came from.
CREATE TABLE renewed_grant (
    account     TEXT NOT NULL,
    connection  TEXT NOT NULL,
    came_from   TEXT NOT NULL,
    sealed      BLOB NOT NULL,
    PRIMARY KEY (account, connection)
) STRICT;

CREATE TABLE installation (
    only_row INTEGER NOT NULL PRIMARY KEY,
    id       TEXT NOT NULL
) STRICT;
