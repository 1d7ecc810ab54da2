-- Records by the UTC day on which their saga started, one partition a day, so that retention drops whole days. A release from before
-- must be gone a week later: it addresses rows by their place in the table, which is no address across partitions. Until then all
-- rows are in one of them: the old table becomes the partition of all days before `days_from`, without being read or copied (see days.py).
SET LOCAL lock_timeout = '2s';

ALTER TABLE saga_record RENAME TO saga_record_before;
ALTER INDEX saga_record_pkey RENAME TO saga_record_before_pkey;
ALTER INDEX saga_record_due RENAME TO saga_record_before_due;
ALTER INDEX saga_record_parked RENAME TO saga_record_before_parked;
ALTER INDEX saga_record_unannounced RENAME TO saga_record_before_unannounced;

CREATE TABLE saga_record (LIKE saga_record_before) PARTITION BY RANGE (saga_id);
ALTER TABLE saga_record ADD PRIMARY KEY (service, saga_id, definition, step);
CREATE INDEX saga_record_due ON saga_record (service, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX saga_record_parked ON saga_record (service, saga_id) WHERE parked <> '';
CREATE INDEX saga_record_unannounced ON saga_record (service, changed_ms) WHERE announced < version;

DO $$
DECLARE
  days_from text := (SELECT value FROM saga_meta WHERE name = 'days_from');
BEGIN
  IF days_from IS NULL THEN -- made a moment ago, in this very transaction
    DROP TABLE saga_record_before;
  ELSE
    EXECUTE format('ALTER TABLE saga_record ATTACH PARTITION saga_record_before FOR VALUES FROM (MINVALUE) TO (%L)', days_from);
    ALTER TABLE saga_record_before DROP CONSTRAINT saga_record_before_days;
  END IF;
END $$;

-- An insert never fails for want of a day: what belongs to none is here.
CREATE TABLE saga_record_default PARTITION OF saga_record DEFAULT WITH (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_analyze_scale_factor = 0.05
);
