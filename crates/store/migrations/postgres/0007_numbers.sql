-- The numbers of the cluster and how each is cut into shards. While that changes, `phase` says how far it is.

CREATE TABLE estafet.business_number (
    number      bigint  NOT NULL PRIMARY KEY,
    host        text    UNIQUE,
    created_at  bigint  NOT NULL,
    wanted      integer NOT NULL,
    phase       text    NOT NULL,
    shard_count integer NOT NULL,
    next_count  integer,
    master_term bigint  NOT NULL
);

-- Shards retire and others of the same slots arise: the new epoch, or NULL if anything is not as it was said.
-- Everything is looked at, and locked, before anything is changed. A retired row has an epoch that nobody was
-- given, so the fence refuses its last owner.
CREATE FUNCTION estafet.switch_shards(
    p_number bigint, p_from integer, p_to integer, p_retire integer[], p_seen bigint[],
    p_claim integer[], p_owner text[], p_boot bytea[], p_above bigint, p_term bigint, p_now bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_rows integer;
    v_epoch bigint;
BEGIN
    PERFORM 1 FROM estafet.business_number b
     WHERE b.number = p_number AND b.phase = 'switch' AND b.shard_count = p_from AND b.next_count = p_to
       AND b.master_term <= p_term FOR UPDATE;
    IF NOT FOUND THEN RETURN NULL; END IF;
    PERFORM 1 FROM estafet.shard_owner o JOIN unnest(p_retire, p_seen) AS w (shard, seen) ON o.shard = w.shard
     WHERE o.number = p_number AND o.shard_count = p_from AND o.epoch = w.seen AND o.state <> 'retired'
       AND o.master_term <= p_term ORDER BY o.shard FOR UPDATE OF o;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows <> cardinality(p_retire) THEN RETURN NULL; END IF;
    PERFORM 1 FROM estafet.shard_owner o, unnest(p_claim) AS w (shard)
     WHERE o.number = p_number AND o.state <> 'retired' AND o.shard * p_to < (w.shard + 1) * o.shard_count
       AND w.shard * o.shard_count < (o.shard + 1) * p_to AND NOT (o.shard_count = p_from AND o.shard = ANY (p_retire));
    IF FOUND THEN RETURN NULL; END IF;

    UPDATE estafet.business_number SET master_term = p_term WHERE number = p_number;
    UPDATE estafet.shard_owner SET epoch = epoch + 1, state = 'retired', master_term = p_term, updated_at = p_now
     WHERE number = p_number AND shard_count = p_from AND shard = ANY (p_retire);
    SELECT 1 + greatest(p_above, max(o.epoch)) INTO v_epoch FROM estafet.shard_owner o, unnest(p_claim) AS w (shard)
     WHERE o.number = p_number AND o.shard * p_to < (w.shard + 1) * o.shard_count
       AND w.shard * o.shard_count < (o.shard + 1) * p_to;
    INSERT INTO estafet.shard_owner
        (number, shard_count, shard, epoch, owner_id, owner_boot, state, master_term, updated_at)
    SELECT p_number, p_to, w.shard, v_epoch, w.owner, w.boot, 'claimed', p_term, p_now
      FROM unnest(p_claim, p_owner, p_boot) AS w (shard, owner, boot)
        ON CONFLICT (number, shard_count, shard) DO UPDATE SET epoch = excluded.epoch, owner_id = excluded.owner_id,
           owner_boot = excluded.owner_boot, state = excluded.state, master_term = excluded.master_term,
           updated_at = excluded.updated_at;
    INSERT INTO estafet.epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at)
    SELECT p_number, p_to, w.shard, v_epoch, w.owner, w.boot, p_now
      FROM unnest(p_claim, p_owner, p_boot) AS w (shard, owner, boot);
    RETURN v_epoch;
END
$$;
