-- A connection is stored only over the version it was changed from: engines and people both change it.
ALTER TABLE connection ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
