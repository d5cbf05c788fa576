-- Events that were taken: one that a vendor tells again changes nothing.
CREATE TABLE event (
    account    TEXT NOT NULL,
    connection TEXT NOT NULL,
    event      TEXT NOT NULL,
    taken_at   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, connection, event)
);
