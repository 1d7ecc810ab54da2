-- What people need of dead letters, and replays as rows. Only adds: an older release goes on writing beside this.
ALTER TABLE saga_record ADD COLUMN failure text;

ALTER TABLE saga_quarantine
  ADD COLUMN attempts integer NOT NULL DEFAULT 1,
  ADD COLUMN last_ms bigint NOT NULL DEFAULT 0,
  ADD COLUMN state_ms bigint NOT NULL DEFAULT 0,
  ADD COLUMN state text COLLATE "C" NOT NULL DEFAULT 'open',
  ADD COLUMN agent text NOT NULL DEFAULT '',
  ADD COLUMN version text NOT NULL DEFAULT '',
  ADD COLUMN operator text NOT NULL DEFAULT '',
  ADD COLUMN note text NOT NULL DEFAULT '';

CREATE TABLE saga_job (
  created_ms bigint NOT NULL,
  changed_ms bigint NOT NULL,
  finished_ms bigint,
  lease_ms bigint NOT NULL,
  version bigint NOT NULL,
  total integer NOT NULL,
  rate_per_min integer NOT NULL,
  in_flight_max integer NOT NULL,
  stop_percent integer NOT NULL,
  id text COLLATE "C" PRIMARY KEY,
  service text COLLATE "C" NOT NULL,
  state text COLLATE "C" NOT NULL,
  owner text COLLATE "C" NOT NULL,
  operator text NOT NULL,
  reason text NOT NULL,
  wanted text NOT NULL,
  detail text NOT NULL
);
CREATE INDEX saga_job_finished ON saga_job (service, finished_ms);
CREATE INDEX saga_job_active ON saga_job (service, id) WHERE finished_ms IS NULL;

CREATE TABLE saga_job_item (
  changed_ms bigint NOT NULL,
  place integer NOT NULL,
  tries integer NOT NULL,
  round integer NOT NULL,
  job text COLLATE "C" NOT NULL,
  letter text NOT NULL,
  state text COLLATE "C" NOT NULL,
  verdict text NOT NULL,
  detail text NOT NULL,
  PRIMARY KEY (job, place)
);
CREATE INDEX saga_job_item_state ON saga_job_item (job, state, place);
