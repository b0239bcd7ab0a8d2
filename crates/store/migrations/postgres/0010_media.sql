-- Files whose bytes are in the object store. A file without a row does not exist for anybody.
CREATE TABLE estafet.media (
    number     bigint NOT NULL,
    id         text   NOT NULL,
    mime_type  text   NOT NULL,
    sha256     bytea  NOT NULL,
    size       bigint NOT NULL,
    created_at bigint NOT NULL,
    used_at    bigint NOT NULL,
    PRIMARY KEY (number, id)
);
CREATE INDEX media_by_use ON estafet.media (number, used_at);

-- Whose credentials links of a number may need.
CREATE TABLE estafet.media_provider (
    number bigint NOT NULL,
    name   text   NOT NULL,
    body   text   NOT NULL,
    PRIMARY KEY (number, name)
);
