-- A link is stored only over what people decided about its holds: engines and people both change it.
ALTER TABLE link ADD COLUMN rulings INTEGER NOT NULL DEFAULT 0;
