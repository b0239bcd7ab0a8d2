-- Same tables as the SQLite schema. Times are milliseconds since 1970, numbers and wa_ids bigint.

CREATE TABLE estafet.shard_owner (
    number      bigint  NOT NULL,
    shard_count integer NOT NULL,
    shard       integer NOT NULL,
    epoch       bigint  NOT NULL,
    owner_id    text    NOT NULL,
    owner_boot  bytea   NOT NULL,
    state       text    NOT NULL,
    master_term bigint  NOT NULL,
    updated_at  bigint  NOT NULL,
    PRIMARY KEY (number, shard_count, shard)
);

-- Append only; lets an owner notice that the database went back in time.
CREATE TABLE estafet.epoch_audit (
    number      bigint  NOT NULL,
    shard_count integer NOT NULL,
    shard       integer NOT NULL,
    epoch       bigint  NOT NULL,
    owner_id    text    NOT NULL,
    owner_boot  bytea   NOT NULL,
    at          bigint  NOT NULL,
    PRIMARY KEY (number, shard_count, shard, epoch)
);

-- The fence of every write (I2). FOR SHARE conflicts with the UPDATE of a takeover, so an epoch that
-- was current here stays current until the commit; FOR KEY SHARE would not conflict.
CREATE FUNCTION estafet.fence(p_number bigint, p_shard integer, p_count integer, p_epoch bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_epoch bigint;
BEGIN
    SELECT o.epoch INTO v_epoch FROM estafet.shard_owner o
     WHERE o.number = p_number AND o.shard_count = p_count AND o.shard = p_shard FOR SHARE;
    IF v_epoch IS DISTINCT FROM p_epoch THEN
        RAISE EXCEPTION 'fenced: epoch % was replaced by %', p_epoch, v_epoch USING ERRCODE = 'EF001';
    END IF;
END
$$;

CREATE TABLE estafet.cluster (
    id          integer PRIMARY KEY CHECK (id = 1),
    master_term bigint  NOT NULL
);
INSERT INTO estafet.cluster (id, master_term) VALUES (1, 0);

-- Who holds a number alone; the lock itself is an advisory lock of the holder's session.
CREATE TABLE estafet.holder (
    number bigint PRIMARY KEY,
    holder text   NOT NULL
);

CREATE TABLE estafet.message_out (
    number      bigint  NOT NULL,
    slot        integer NOT NULL,
    seq         bigint  NOT NULL,
    id_key      bytea   NOT NULL UNIQUE,
    recipient   bigint  NOT NULL,
    accepted_at bigint  NOT NULL,
    epoch       bigint  NOT NULL,
    body        bytea   NOT NULL,
    PRIMARY KEY (number, slot, seq)
);

-- A row exists once the message has a status; absent means accepted and not settled.
-- Room on each page and no index on what changes keep updates on their page.
CREATE TABLE estafet.message_state (
    number     bigint   NOT NULL,
    slot       integer  NOT NULL,
    statuses   smallint NOT NULL,
    seq        bigint   NOT NULL,
    changed_at bigint   NOT NULL,
    error_code integer,
    PRIMARY KEY (number, slot, seq)
) WITH (fillfactor = 70);

CREATE TABLE estafet.outbox_cursor (
    number bigint  NOT NULL,
    slot   integer NOT NULL,
    seq    bigint  NOT NULL,
    PRIMARY KEY (number, slot)
) WITH (fillfactor = 70);

CREATE TABLE estafet.message_in (
    number       bigint  NOT NULL,
    id           text    NOT NULL,
    slot         integer NOT NULL,
    sender       bigint  NOT NULL,
    profile_name text    NOT NULL,
    sent_at      bigint  NOT NULL,
    read_at      bigint,
    body         bytea   NOT NULL,
    PRIMARY KEY (number, id)
) WITH (fillfactor = 90);

-- A queue: every row is deleted soon, so the dead ones are swept often.
CREATE TABLE estafet.callback_event (
    number     bigint  NOT NULL,
    slot       integer NOT NULL,
    seq        bigint  NOT NULL,
    contact    bigint,
    created_at bigint  NOT NULL,
    kind       text    NOT NULL,
    body       bytea   NOT NULL,
    PRIMARY KEY (number, slot, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);

CREATE TABLE estafet.dead_letter (
    number      bigint  NOT NULL,
    slot        integer NOT NULL,
    seq         bigint  NOT NULL,
    contact     bigint,
    created_at  bigint  NOT NULL,
    given_up_at bigint  NOT NULL,
    kind        text    NOT NULL,
    reason      text    NOT NULL,
    body        bytea   NOT NULL,
    PRIMARY KEY (number, slot, seq)
);

CREATE TABLE estafet.e2e_session (
    number bigint  NOT NULL,
    peer   bigint  NOT NULL,
    slot   integer NOT NULL,
    state  bytea   NOT NULL,
    PRIMARY KEY (number, peer)
) WITH (fillfactor = 70);

CREATE TABLE estafet.secret (
    name  text  PRIMARY KEY,
    value bytea NOT NULL
);

CREATE TABLE estafet.tag_counter (
    id    integer PRIMARY KEY CHECK (id = 1),
    value integer NOT NULL
);
INSERT INTO estafet.tag_counter (id, value) VALUES (1, 0);

CREATE TABLE estafet.app_user (
    number             bigint  NOT NULL,
    username           text    NOT NULL,
    role               text    NOT NULL,
    password_hash      text    NOT NULL,
    must_change        boolean NOT NULL,
    tokens_valid_after bigint  NOT NULL,
    generation         bigint  NOT NULL,
    PRIMARY KEY (number, username)
);

CREATE TABLE estafet.revoked_token (
    number     bigint NOT NULL,
    id         text   NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (number, id)
);

CREATE TABLE estafet.application_settings (
    number  bigint PRIMARY KEY,
    version bigint NOT NULL,
    body    text   NOT NULL
);

CREATE TABLE estafet.contact (
    number     bigint  NOT NULL,
    wa_id      bigint  NOT NULL,
    on_network boolean NOT NULL,
    checked_at bigint  NOT NULL,
    PRIMARY KEY (number, wa_id)
);

CREATE TABLE estafet.change_counter (
    number  bigint NOT NULL,
    topic   text   NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (number, topic)
);
