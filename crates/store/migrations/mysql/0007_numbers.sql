-- The numbers of the cluster and how each is cut into shards. While that changes, `phase` says how far it is.

CREATE TABLE IF NOT EXISTS business_number (
    number      BIGINT         NOT NULL PRIMARY KEY,
    host        VARBINARY(253) UNIQUE,
    created_at  BIGINT         NOT NULL,
    wanted      INT            NOT NULL,
    phase       VARCHAR(16)    NOT NULL,
    shard_count INT            NOT NULL,
    next_count  INT,
    master_term BIGINT         NOT NULL
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
