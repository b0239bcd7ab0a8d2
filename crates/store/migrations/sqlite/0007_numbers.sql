-- The numbers of the cluster and how each is cut into shards. While that changes, `phase` says how far it is.

CREATE TABLE business_number (
    number      INTEGER NOT NULL PRIMARY KEY,
    host        TEXT    UNIQUE,
    created_at  INTEGER NOT NULL,
    wanted      INTEGER NOT NULL,
    phase       TEXT    NOT NULL,
    shard_count INTEGER NOT NULL,
    next_count  INTEGER,
    master_term INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
