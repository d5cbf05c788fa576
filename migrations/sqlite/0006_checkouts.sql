-- What checkouts were asked for as: asked again, one says the same, or the till takes it for another.
CREATE TABLE checkout (
    account    TEXT NOT NULL,
    connection TEXT NOT NULL,
    wish       TEXT NOT NULL,
    asked_at   TEXT NOT NULL,
    body       TEXT NOT NULL,
    PRIMARY KEY (account, connection, wish)
) STRICT;
