-- One index both keeps external ids unique and finds links by them.
DROP INDEX link_by_external;
DROP INDEX link_external_id;
CREATE UNIQUE INDEX link_external_id ON link (account, kind, external_id, system, remote_account);
