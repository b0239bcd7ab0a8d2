-- Same tables as the PostgreSQL schema. Times are milliseconds since 1970, numbers and wa_ids integers.

CREATE TABLE shard_owner (
    number      INTEGER NOT NULL,
    shard_count INTEGER NOT NULL,
    shard       INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    owner_id    TEXT    NOT NULL,
    owner_boot  BLOB    NOT NULL,
    state       TEXT    NOT NULL,
    master_term INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (number, shard_count, shard)
) STRICT, WITHOUT ROWID;

-- Append only; lets an owner notice that the database went back in time.
CREATE TABLE epoch_audit (
    number      INTEGER NOT NULL,
    shard_count INTEGER NOT NULL,
    shard       INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    owner_id    TEXT    NOT NULL,
    owner_boot  BLOB    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (number, shard_count, shard, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE cluster (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    master_term INTEGER NOT NULL
) STRICT;
INSERT INTO cluster (id, master_term) VALUES (1, 0);

CREATE TABLE message_out (
    number      INTEGER NOT NULL,
    slot        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    id_key      BLOB    NOT NULL UNIQUE,
    recipient   INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    body        BLOB    NOT NULL,
    PRIMARY KEY (number, slot, seq)
) STRICT;

-- A row exists once the message has a status; absent means accepted and not settled.
CREATE TABLE message_state (
    number     INTEGER NOT NULL,
    slot       INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    statuses   INTEGER NOT NULL,
    error_code INTEGER,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (number, slot, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox_cursor (
    number INTEGER NOT NULL,
    slot   INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (number, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE message_in (
    number       INTEGER NOT NULL,
    id           TEXT    NOT NULL,
    slot         INTEGER NOT NULL,
    sender       INTEGER NOT NULL,
    profile_name TEXT    NOT NULL,
    sent_at      INTEGER NOT NULL,
    read_at      INTEGER,
    body         BLOB    NOT NULL,
    PRIMARY KEY (number, id)
) STRICT;

CREATE TABLE callback_event (
    number     INTEGER NOT NULL,
    slot       INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    contact    INTEGER,
    kind       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    body       BLOB    NOT NULL,
    PRIMARY KEY (number, slot, seq)
) STRICT;

CREATE TABLE dead_letter (
    number      INTEGER NOT NULL,
    slot        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    contact     INTEGER,
    kind        TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    given_up_at INTEGER NOT NULL,
    body        BLOB    NOT NULL,
    PRIMARY KEY (number, slot, seq)
) STRICT;

CREATE TABLE e2e_session (
    number INTEGER NOT NULL,
    peer   INTEGER NOT NULL,
    slot   INTEGER NOT NULL,
    state  BLOB    NOT NULL,
    PRIMARY KEY (number, peer)
) STRICT;

CREATE TABLE secret (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE tag_counter (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO tag_counter (id, value) VALUES (1, 0);

CREATE TABLE app_user (
    number             INTEGER NOT NULL,
    username           TEXT    NOT NULL,
    role               TEXT    NOT NULL,
    password_hash      TEXT    NOT NULL,
    must_change        INTEGER NOT NULL,
    tokens_valid_after INTEGER NOT NULL,
    generation         INTEGER NOT NULL,
    PRIMARY KEY (number, username)
) STRICT;

CREATE TABLE revoked_token (
    number     INTEGER NOT NULL,
    id         TEXT    NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (number, id)
) STRICT;

CREATE TABLE application_settings (
    number  INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    body    TEXT    NOT NULL
) STRICT;

CREATE TABLE contact (
    number     INTEGER NOT NULL,
    wa_id      INTEGER NOT NULL,
    on_network INTEGER NOT NULL,
    checked_at INTEGER NOT NULL,
    PRIMARY KEY (number, wa_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE change_counter (
    number  INTEGER NOT NULL,
    topic   TEXT    NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (number, topic)
) STRICT, WITHOUT ROWID;
