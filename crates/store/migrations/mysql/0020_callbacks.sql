-- An event is for one receiver of callbacks: `endpoint`, 0 for the one of `webhooks.url`. `origin` is the position it
-- had at first, if it is posted again. Each table is changed by one statement, and only if it was not yet.
SET @change = IF(
    (SELECT COUNT(*) FROM information_schema.columns
     WHERE table_schema = DATABASE() AND table_name = 'callback_event' AND column_name = 'endpoint') > 0,
    'DO 0',
    'ALTER TABLE callback_event ADD COLUMN endpoint INT NOT NULL DEFAULT 0 AFTER slot, ADD COLUMN origin BIGINT AFTER seq,
     DROP PRIMARY KEY, ADD PRIMARY KEY (number, slot, endpoint, seq)');
PREPARE change_table FROM @change;
EXECUTE change_table;
DEALLOCATE PREPARE change_table;

SET @change = IF(
    (SELECT COUNT(*) FROM information_schema.columns
     WHERE table_schema = DATABASE() AND table_name = 'dead_letter' AND column_name = 'endpoint') > 0,
    'DO 0',
    'ALTER TABLE dead_letter ADD COLUMN endpoint INT NOT NULL DEFAULT 0 AFTER slot, ADD COLUMN origin BIGINT AFTER seq,
     DROP PRIMARY KEY, ADD PRIMARY KEY (number, slot, endpoint, seq)');
PREPARE change_table FROM @change;
EXECUTE change_table;
DEALLOCATE PREPARE change_table;

-- Callbacks that were taken and may be posted again, under the position they had at first. Removed by age.
CREATE TABLE IF NOT EXISTS callback_delivered (
    number       BIGINT      NOT NULL,
    slot         INT         NOT NULL,
    endpoint     INT         NOT NULL,
    seq          BIGINT      NOT NULL,
    contact      BIGINT,
    kind         VARCHAR(64) NOT NULL,
    created_at   BIGINT      NOT NULL,
    delivered_at BIGINT      NOT NULL,
    body         LONGBLOB    NOT NULL,
    PRIMARY KEY (number, slot, endpoint, seq),
    KEY callback_delivered_by_age (number, delivered_at)
) ENGINE = InnoDB, ROW_FORMAT = DYNAMIC, CHARACTER SET utf8mb4, COLLATE utf8mb4_bin;
