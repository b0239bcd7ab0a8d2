-- When each thing happened to a message, as far as it was noted: milliseconds since 1970.
ALTER TABLE message_state ADD COLUMN left_at INTEGER;
ALTER TABLE message_state ADD COLUMN sent_at INTEGER;
ALTER TABLE message_state ADD COLUMN delivered_at INTEGER;
ALTER TABLE message_state ADD COLUMN seen_at INTEGER;
ALTER TABLE message_state ADD COLUMN failed_at INTEGER;
ALTER TABLE message_in ADD COLUMN stored_at INTEGER;
