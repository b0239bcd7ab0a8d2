-- Same tables as the PostgreSQL schema, in the database the URL names. Times are milliseconds since 1970,
-- numbers and wa_ids bigint. Text that is a key is varbinary (UTF-8): compared byte by byte, trailing spaces too.
-- DDL commits by itself, so a migration that died midway is run again: every statement may be repeated.

CREATE TABLE IF NOT EXISTS shard_owner (
    number      BIGINT     NOT NULL,
    shard_count INT        NOT NULL,
    shard       INT        NOT NULL,
    epoch       BIGINT     NOT NULL,
    owner_id    TEXT       NOT NULL,
    owner_boot  BINARY(16) NOT NULL,
    state       TEXT       NOT NULL,
    master_term BIGINT     NOT NULL,
    updated_at  BIGINT     NOT NULL,
    PRIMARY KEY (number, shard_count, shard)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

-- Append only; lets an owner notice that the database went back in time.
CREATE TABLE IF NOT EXISTS epoch_audit (
    number      BIGINT     NOT NULL,
    shard_count INT        NOT NULL,
    shard       INT        NOT NULL,
    epoch       BIGINT     NOT NULL,
    owner_id    TEXT       NOT NULL,
    owner_boot  BINARY(16) NOT NULL,
    at          BIGINT     NOT NULL,
    PRIMARY KEY (number, shard_count, shard, epoch)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS cluster (
    id          INT    NOT NULL PRIMARY KEY CHECK (id = 1),
    master_term BIGINT NOT NULL
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
INSERT INTO cluster (id, master_term) VALUES (1, 0) ON DUPLICATE KEY UPDATE id = 1;

-- Who holds a number alone; the lock itself is a named lock of the holder's session.
CREATE TABLE IF NOT EXISTS holder (
    number BIGINT   NOT NULL PRIMARY KEY,
    holder LONGTEXT NOT NULL
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS message_out (
    number      BIGINT    NOT NULL,
    slot        INT       NOT NULL,
    seq         BIGINT    NOT NULL,
    id_key      BINARY(9) NOT NULL,
    recipient   BIGINT    NOT NULL,
    accepted_at BIGINT    NOT NULL,
    epoch       BIGINT    NOT NULL,
    body        LONGBLOB  NOT NULL,
    PRIMARY KEY (number, slot, seq),
    UNIQUE KEY message_out_id_key (id_key)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

-- A row exists once the message has a status; absent means accepted and not settled.
CREATE TABLE IF NOT EXISTS message_state (
    number     BIGINT NOT NULL,
    slot       INT    NOT NULL,
    seq        BIGINT NOT NULL,
    statuses   INT    NOT NULL,
    error_code INT,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (number, slot, seq)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS outbox_cursor (
    number BIGINT NOT NULL,
    slot   INT    NOT NULL,
    seq    BIGINT NOT NULL,
    PRIMARY KEY (number, slot)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS message_in (
    number       BIGINT          NOT NULL,
    id           VARBINARY(1024) NOT NULL,
    slot         INT             NOT NULL,
    sender       BIGINT          NOT NULL,
    profile_name LONGTEXT        NOT NULL,
    sent_at      BIGINT          NOT NULL,
    read_at      BIGINT,
    body         LONGBLOB        NOT NULL,
    PRIMARY KEY (number, id)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS callback_event (
    number     BIGINT      NOT NULL,
    slot       INT         NOT NULL,
    seq        BIGINT      NOT NULL,
    contact    BIGINT,
    kind       VARCHAR(64) NOT NULL,
    created_at BIGINT      NOT NULL,
    body       LONGBLOB    NOT NULL,
    PRIMARY KEY (number, slot, seq)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS dead_letter (
    number      BIGINT      NOT NULL,
    slot        INT         NOT NULL,
    seq         BIGINT      NOT NULL,
    contact     BIGINT,
    kind        VARCHAR(64) NOT NULL,
    created_at  BIGINT      NOT NULL,
    reason      LONGTEXT    NOT NULL,
    given_up_at BIGINT      NOT NULL,
    body        LONGBLOB    NOT NULL,
    PRIMARY KEY (number, slot, seq)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS e2e_session (
    number BIGINT   NOT NULL,
    peer   BIGINT   NOT NULL,
    slot   INT      NOT NULL,
    state  LONGBLOB NOT NULL,
    PRIMARY KEY (number, peer)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS secret (
    name  VARBINARY(255) NOT NULL PRIMARY KEY,
    value LONGBLOB       NOT NULL
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS tag_counter (
    id    INT NOT NULL PRIMARY KEY CHECK (id = 1),
    value INT NOT NULL
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
INSERT INTO tag_counter (id, value) VALUES (1, 0) ON DUPLICATE KEY UPDATE id = 1;

CREATE TABLE IF NOT EXISTS app_user (
    number             BIGINT          NOT NULL,
    username           VARBINARY(1024) NOT NULL,
    role               VARCHAR(64)     NOT NULL,
    password_hash      TEXT            NOT NULL,
    must_change        BOOLEAN         NOT NULL,
    tokens_valid_after BIGINT          NOT NULL,
    generation         BIGINT          NOT NULL,
    PRIMARY KEY (number, username)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS revoked_token (
    number     BIGINT          NOT NULL,
    id         VARBINARY(1024) NOT NULL,
    expires_at BIGINT          NOT NULL,
    PRIMARY KEY (number, id)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS application_settings (
    number  BIGINT   NOT NULL PRIMARY KEY,
    version BIGINT   NOT NULL,
    body    LONGTEXT NOT NULL
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS contact (
    number     BIGINT  NOT NULL,
    wa_id      BIGINT  NOT NULL,
    on_network BOOLEAN NOT NULL,
    checked_at BIGINT  NOT NULL,
    PRIMARY KEY (number, wa_id)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS change_counter (
    number  BIGINT         NOT NULL,
    topic   VARBINARY(64)  NOT NULL,
    version BIGINT         NOT NULL,
    PRIMARY KEY (number, topic)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
