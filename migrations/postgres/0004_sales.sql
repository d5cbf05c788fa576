-- A pipeline is stored only over the version it was changed from, in a place of its own: several engines take over pipelines.
ALTER TABLE pipeline ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
UPDATE pipeline SET place = (
    SELECT COUNT(*) FROM pipeline AS before
     WHERE before.account = pipeline.account
       AND (before.place < pipeline.place OR (before.place = pipeline.place AND before.id < pipeline.id)));
CREATE UNIQUE INDEX pipeline_place ON pipeline (account, place);

-- Sales at the till, and what became of them.
CREATE TABLE evidence (
    account     TEXT NOT NULL,
    connection  TEXT NOT NULL,
    sale        TEXT NOT NULL,
    version     BIGINT NOT NULL,
    state       TEXT NOT NULL,
    opportunity UUID,
    sold_at     TIMESTAMPTZ NOT NULL,
    body        TEXT NOT NULL,
    PRIMARY KEY (account, connection, sale)
);
CREATE INDEX evidence_for ON evidence (account, opportunity) WHERE opportunity IS NOT NULL;
CREATE INDEX evidence_in ON evidence (account, state, sold_at);

-- The last digits of a telephone number, as a buyer is looked for.
ALTER TABLE contact ADD COLUMN phone TEXT;
CREATE INDEX contact_by_phone ON contact (account, phone) WHERE phone IS NOT NULL;
