-- When each thing happened to a message, as far as it was noted: milliseconds since 1970.
ALTER TABLE estafet.message_state
    ADD COLUMN left_at bigint, ADD COLUMN sent_at bigint, ADD COLUMN delivered_at bigint, ADD COLUMN seen_at bigint,
    ADD COLUMN failed_at bigint;
ALTER TABLE estafet.message_in ADD COLUMN stored_at bigint;
