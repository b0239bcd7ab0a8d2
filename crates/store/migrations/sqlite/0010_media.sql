-- Files whose bytes are in the object store. A file without a row does not exist for anybody.
CREATE TABLE media (
    number     INTEGER NOT NULL,
    id         TEXT    NOT NULL,
    mime_type  TEXT    NOT NULL,
    sha256     BLOB    NOT NULL,
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    PRIMARY KEY (number, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX media_by_use ON media (number, used_at);

-- Whose credentials links of a number may need.
CREATE TABLE media_provider (
    number INTEGER NOT NULL,
    name   TEXT    NOT NULL,
    body   TEXT    NOT NULL,
    PRIMARY KEY (number, name)
) STRICT, WITHOUT ROWID;
