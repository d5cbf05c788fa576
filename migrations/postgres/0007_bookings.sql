-- Whose appointment is being made: one at a time, or somebody who asks twice gets two.
CREATE TABLE booking (
    account     TEXT NOT NULL,
    opportunity TEXT NOT NULL,
    until       TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, opportunity)
);
