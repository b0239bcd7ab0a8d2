-- When each thing happened to a message, as far as it was noted: milliseconds since 1970.
SET @change = IF(
    (SELECT COUNT(*) FROM information_schema.columns
     WHERE table_schema = DATABASE() AND table_name = 'message_state' AND column_name = 'left_at') > 0,
    'DO 0',
    'ALTER TABLE message_state ADD COLUMN left_at BIGINT, ADD COLUMN sent_at BIGINT, ADD COLUMN delivered_at BIGINT,
     ADD COLUMN seen_at BIGINT, ADD COLUMN failed_at BIGINT');
PREPARE change_table FROM @change;
EXECUTE change_table;
DEALLOCATE PREPARE change_table;

SET @change = IF(
    (SELECT COUNT(*) FROM information_schema.columns
     WHERE table_schema = DATABASE() AND table_name = 'message_in' AND column_name = 'stored_at') > 0,
    'DO 0',
    'ALTER TABLE message_in ADD COLUMN stored_at BIGINT');
PREPARE change_table FROM @change;
EXECUTE change_table;
DEALLOCATE PREPARE change_table;
