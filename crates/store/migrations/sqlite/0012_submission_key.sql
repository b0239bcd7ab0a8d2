-- Keys that callers gave their sends (`Idempotency-Key`), hashed with the recipient, and the message each stands for.
CREATE TABLE submission_key (
    number      INTEGER NOT NULL,
    slot        INTEGER NOT NULL,
    hash        BLOB    NOT NULL,
    fingerprint BLOB    NOT NULL,
    id_key      BLOB    NOT NULL,
    used_at     INTEGER NOT NULL,
    PRIMARY KEY (number, slot, hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX submission_key_by_use ON submission_key (number, slot, used_at);
