-- Visits that a clinic told us of: what may leave a clinic, and nothing else.
CREATE TABLE visit (
    account    TEXT NOT NULL,
    connection TEXT NOT NULL,
    visit      TEXT NOT NULL,
    version    INTEGER NOT NULL,
    body       TEXT NOT NULL,
    PRIMARY KEY (account, connection, visit)
) STRICT;

-- Who comes.
CREATE TABLE visitor (
    account    TEXT NOT NULL,
    contact    BLOB NOT NULL,
    connection TEXT NOT NULL,
    visit      TEXT NOT NULL,
    PRIMARY KEY (account, contact, connection, visit)
) STRICT;
CREATE INDEX visitor_of ON visitor (account, connection, visit);
