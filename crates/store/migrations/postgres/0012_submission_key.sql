-- Keys that callers gave their sends (`Idempotency-Key`), hashed with the recipient, and the message each stands for.
CREATE TABLE estafet.submission_key (
    number      bigint  NOT NULL,
    slot        integer NOT NULL,
    hash        bytea   NOT NULL,
    fingerprint bytea   NOT NULL,
    id_key      bytea   NOT NULL,
    used_at     bigint  NOT NULL,
    PRIMARY KEY (number, slot, hash)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
CREATE INDEX submission_key_by_use ON estafet.submission_key (number, slot, used_at);
