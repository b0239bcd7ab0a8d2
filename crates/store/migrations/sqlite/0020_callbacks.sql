-- An event is for one receiver of callbacks: `endpoint`, 0 for the one of `webhooks.url`. `origin` is the position it
-- had at first, if it is posted again.
CREATE TABLE callback_event_new (
    number     INTEGER NOT NULL,
    slot       INTEGER NOT NULL,
    endpoint   INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    origin     INTEGER,
    contact    INTEGER,
    kind       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    body       BLOB    NOT NULL,
    PRIMARY KEY (number, slot, endpoint, seq)
) STRICT;
INSERT INTO callback_event_new (number, slot, endpoint, seq, contact, kind, created_at, body)
SELECT number, slot, 0, seq, contact, kind, created_at, body FROM callback_event;
DROP TABLE callback_event;
ALTER TABLE callback_event_new RENAME TO callback_event;

CREATE TABLE dead_letter_new (
    number      INTEGER NOT NULL,
    slot        INTEGER NOT NULL,
    endpoint    INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    origin      INTEGER,
    contact     INTEGER,
    kind        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    given_up_at INTEGER NOT NULL,
    body        BLOB    NOT NULL,
    PRIMARY KEY (number, slot, endpoint, seq)
) STRICT;
INSERT INTO dead_letter_new (number, slot, endpoint, seq, contact, kind, created_at, reason, given_up_at, body)
SELECT number, slot, 0, seq, contact, kind, created_at, reason, given_up_at, body FROM dead_letter;
DROP TABLE dead_letter;
ALTER TABLE dead_letter_new RENAME TO dead_letter;

-- Callbacks that were taken and may be posted again, under the position they had at first. Removed by age.
CREATE TABLE callback_delivered (
    number       INTEGER NOT NULL,
    slot         INTEGER NOT NULL,
    endpoint     INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    contact      INTEGER,
    kind         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    delivered_at INTEGER NOT NULL,
    body         BLOB    NOT NULL,
    PRIMARY KEY (number, slot, endpoint, seq)
) STRICT;
CREATE INDEX callback_delivered_by_age ON callback_delivered (number, delivered_at);
