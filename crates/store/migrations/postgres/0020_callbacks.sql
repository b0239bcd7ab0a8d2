-- An event is for one receiver of callbacks: `endpoint`, 0 for the one of `webhooks.url`. `origin` is the position it
-- had at first, if it is posted again.
ALTER TABLE estafet.callback_event ADD COLUMN endpoint integer NOT NULL DEFAULT 0, ADD COLUMN origin bigint;
ALTER TABLE estafet.callback_event DROP CONSTRAINT callback_event_pkey, ADD PRIMARY KEY (number, slot, endpoint, seq);
ALTER TABLE estafet.callback_event ALTER COLUMN endpoint DROP DEFAULT;

ALTER TABLE estafet.dead_letter ADD COLUMN endpoint integer NOT NULL DEFAULT 0, ADD COLUMN origin bigint;
ALTER TABLE estafet.dead_letter DROP CONSTRAINT dead_letter_pkey, ADD PRIMARY KEY (number, slot, endpoint, seq);
ALTER TABLE estafet.dead_letter ALTER COLUMN endpoint DROP DEFAULT;

-- Callbacks that were taken and may be posted again, under the position they had at first. Removed by age.
CREATE TABLE estafet.callback_delivered (
    number       bigint  NOT NULL,
    slot         integer NOT NULL,
    endpoint     integer NOT NULL,
    seq          bigint  NOT NULL,
    contact      bigint,
    created_at   bigint  NOT NULL,
    delivered_at bigint  NOT NULL,
    kind         text    NOT NULL,
    body         bytea   NOT NULL,
    PRIMARY KEY (number, slot, endpoint, seq)
);
CREATE INDEX callback_delivered_by_age ON estafet.callback_delivered (number, delivered_at);
