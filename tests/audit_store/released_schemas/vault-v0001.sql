BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v0001');
CREATE TABLE vault_entry (
	record TEXT NOT NULL, 
	key_id BLOB NOT NULL, 
	kept_us BIGINT NOT NULL, 
	expires_us BIGINT NOT NULL, 
	box BLOB, 
	erasure TEXT, 
	PRIMARY KEY (record)
);
INSERT INTO "vault_entry" VALUES('019a-1',X'00',1763632800000000,1863632800000000,X'03',NULL);
CREATE TABLE vault_key (
	id BLOB NOT NULL, 
	tenant TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	handle BLOB NOT NULL, 
	master TEXT NOT NULL, 
	wrapped BLOB NOT NULL, 
	created_us BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (tenant, subject)
);
INSERT INTO "vault_key" VALUES(X'00','acme','ab',X'01','0123456789abcdef',X'02',1763632800000000);
CREATE TABLE vault_tombstone (
	key_id BLOB NOT NULL, 
	erasure TEXT NOT NULL, 
	erased_us BIGINT NOT NULL, 
	tenant TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	PRIMARY KEY (key_id)
);
INSERT INTO "vault_tombstone" VALUES(X'04','e1',1763632800000000,'','');
CREATE INDEX vault_key_handle ON vault_key (handle);
CREATE INDEX vault_entry_key ON vault_entry (key_id);
CREATE INDEX vault_entry_expires ON vault_entry (expires_us);
COMMIT;
