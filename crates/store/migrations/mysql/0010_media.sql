-- Files whose bytes are in the object store. A file without a row does not exist for anybody.
CREATE TABLE IF NOT EXISTS media (
    number     BIGINT         NOT NULL,
    id         VARBINARY(36)  NOT NULL,
    mime_type  TEXT           NOT NULL,
    sha256     BINARY(32)     NOT NULL,
    size       BIGINT         NOT NULL,
    created_at BIGINT         NOT NULL,
    used_at    BIGINT         NOT NULL,
    PRIMARY KEY (number, id),
    KEY media_by_use (number, used_at)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

-- Whose credentials links of a number may need.
CREATE TABLE IF NOT EXISTS media_provider (
    number BIGINT         NOT NULL,
    name   VARBINARY(255) NOT NULL,
    body   LONGTEXT       NOT NULL,
    PRIMARY KEY (number, name)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
