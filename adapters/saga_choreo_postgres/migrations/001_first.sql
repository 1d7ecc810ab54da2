-- The saga tables, first version. Never edit a migration that has been released: add the next number.
-- Names sort by bytes (COLLATE "C"), as the toolkit sorts them. Wide columns first: less padding in a row.
CREATE TABLE saga_meta (name text PRIMARY KEY, value text NOT NULL);

-- One row per step and saga: inbox, barrier and outbox in one.
CREATE TABLE saga_record (
  saga_id uuid NOT NULL,
  done_in bigint NOT NULL,
  skip_in bigint NOT NULL,
  clear_in bigint NOT NULL,
  choice bigint NOT NULL,
  deadline_ms bigint,
  deadline_own_ms bigint,
  due_ms bigint,
  lease_ms bigint,
  tried_since_ms bigint,
  changed_ms bigint NOT NULL,
  version bigint NOT NULL,
  announced bigint NOT NULL,
  step integer NOT NULL,
  key_no integer NOT NULL,
  attempt integer NOT NULL,
  nudges integer NOT NULL,
  cancel integer NOT NULL,
  pending boolean NOT NULL,
  abort boolean NOT NULL,
  vetoer boolean NOT NULL,
  debt boolean NOT NULL,
  service text COLLATE "C" NOT NULL,
  definition text COLLATE "C" NOT NULL,
  state text COLLATE "C" NOT NULL,
  parked text COLLATE "C" NOT NULL,
  cause text COLLATE "C" NOT NULL,
  outcome text COLLATE "C" NOT NULL,
  operator text NOT NULL,
  choreography text COLLATE "C" NOT NULL,
  origin text COLLATE "C" NOT NULL,
  business_key text NOT NULL,
  reason text NOT NULL,
  error text NOT NULL,
  resolution text,
  trace text NOT NULL,
  lock_name text NOT NULL,
  inputs bytea,
  results bytea,
  kept bytea,
  undo_result bytea,
  PRIMARY KEY (service, saga_id, definition, step)
) WITH (
  -- A row is written about three times in its life. Cleaned and counted early, so that the two partial indexes stay small.
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_analyze_scale_factor = 0.05
);
CREATE INDEX saga_record_due ON saga_record (service, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX saga_record_parked ON saga_record (service, saga_id) WHERE parked <> '';
CREATE INDEX saga_record_unannounced ON saga_record (service, changed_ms) WHERE announced < version;

CREATE TABLE saga_business_key (
  saga_id uuid NOT NULL,
  key text COLLATE "C" NOT NULL,
  choreography text COLLATE "C" NOT NULL,
  service text COLLATE "C" NOT NULL,
  digest text NOT NULL,
  PRIMARY KEY (key, choreography, service)
);
CREATE INDEX saga_business_key_saga ON saga_business_key (service, saga_id);

CREATE TABLE saga_quarantine (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  received_ms bigint NOT NULL,
  service text COLLATE "C" NOT NULL,
  code text NOT NULL,
  detail text NOT NULL,
  channel text NOT NULL,
  headers text NOT NULL,
  saga_id text NOT NULL,
  body bytea NOT NULL
);
CREATE INDEX saga_quarantine_received ON saga_quarantine (service, received_ms);

CREATE TABLE saga_held (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  received_ms bigint NOT NULL,
  service text COLLATE "C" NOT NULL,
  definition text COLLATE "C" NOT NULL,
  channel text NOT NULL,
  headers text NOT NULL,
  body bytea NOT NULL,
  told boolean NOT NULL DEFAULT false
);
CREATE INDEX saga_held_definition ON saga_held (service, definition, number);
CREATE INDEX saga_held_received ON saga_held (service, told, received_ms);

CREATE TABLE saga_lock (
  saga_id uuid NOT NULL,
  service text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  PRIMARY KEY (service, name)
);

CREATE TABLE saga_definition (hash text COLLATE "C" PRIMARY KEY, canonical bytea NOT NULL);
CREATE TABLE saga_holder (
  definition text COLLATE "C" NOT NULL, service text COLLATE "C" NOT NULL, PRIMARY KEY (definition, service)
);

-- A counter is the sum of its slots. A connection writes one slot of its own, so that writers do not queue at one row.
CREATE TABLE saga_counter (
  value bigint NOT NULL,
  slot integer NOT NULL,
  service text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  PRIMARY KEY (service, name, slot)
) WITH (fillfactor = 50);
