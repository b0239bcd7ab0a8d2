-- Keys that callers gave their sends (`Idempotency-Key`), hashed with the recipient, and the message each stands for.
CREATE TABLE IF NOT EXISTS submission_key (
    number      BIGINT     NOT NULL,
    slot        INT        NOT NULL,
    hash        BINARY(16) NOT NULL,
    fingerprint BINARY(16) NOT NULL,
    id_key      BINARY(9)  NOT NULL,
    used_at     BIGINT     NOT NULL,
    PRIMARY KEY (number, slot, hash),
    KEY submission_key_by_use (number, slot, used_at)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
