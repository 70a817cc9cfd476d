-- Schema 2. Few pages and few trees are touched by a capture: `event` and `ready` at their right edges, `submission` when a key was sent.

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value BLOB NOT NULL
) WITHOUT ROWID;

-- One row each time the machine has started with this file; the high bits of a tick. The last 4096 are kept.
CREATE TABLE boot (
  boot   INTEGER PRIMARY KEY,
  id     TEXT NOT NULL,        -- the kernel's boot id
  "offset" INTEGER,            -- wall clock minus uptime, ms, once the clock could be believed
  seen   INTEGER,              -- the wall time at which that was
  open   INTEGER               -- written at an orderly stop: the first event whose time may still be put right
);

-- The log. `seq` is the commit order and is never used twice. A lead's key is the seq of its lead.created event (lead = seq).
CREATE TABLE event (
  seq    INTEGER PRIMARY KEY,
  lead   INTEGER,              -- null: not about a lead
  kind   TEXT NOT NULL,
  at     INTEGER NOT NULL,     -- wall clock, ms
  tick   INTEGER NOT NULL,     -- boot number and ms since boot
  random INTEGER NOT NULL,     -- the random half of its public id
  body   BLOB NOT NULL         -- the JSON as it is signed and sent
);
CREATE INDEX event_of_lead ON event (lead, seq) WHERE lead <> seq;

-- Present once a lead has changed; before that its created event says all.
CREATE TABLE lead (
  lead    INTEGER PRIMARY KEY,
  version INTEGER NOT NULL,
  at      INTEGER NOT NULL,
  state   BLOB NOT NULL
);

-- Idempotency. `bucket` is seq / 256 of the event, so that neighbours in time are neighbours on the page.
CREATE TABLE submission (
  bucket INTEGER NOT NULL,
  digest BLOB NOT NULL,
  event  INTEGER NOT NULL,
  PRIMARY KEY (bucket, digest)
) WITHOUT ROWID;

-- Numbers are never given to another name. Negative ones are kept for receivers inside the daemon.
CREATE TABLE destination (
  dest   INTEGER PRIMARY KEY,
  name   TEXT NOT NULL UNIQUE,
  paused INTEGER NOT NULL DEFAULT 0,   -- written by the operator's commands only
  nudge  INTEGER NOT NULL DEFAULT 0,   -- likewise: counts "try now"
  state  TEXT NOT NULL DEFAULT 'open', -- written by the lane only, when it changes
  since  INTEGER,
  reason TEXT
);

-- A delivery is in exactly one of ready, waiting, dead, history. One that was made at the first attempt stays in ready, on the page that
-- the next capture writes anyway, with `at` filled in; it is moved to history along with others.
CREATE TABLE ready (
  dest     INTEGER NOT NULL,
  event    INTEGER NOT NULL,
  at       INTEGER,            -- when it was delivered; null: it still has to be
  attempts INTEGER,
  status   INTEGER,
  PRIMARY KEY (dest, event)
) WITHOUT ROWID;

CREATE TABLE waiting (
  dest     INTEGER NOT NULL,
  event    INTEGER NOT NULL,
  due      INTEGER NOT NULL,           -- tick; the greatest integer: held behind an earlier event of the same lead
  attempts INTEGER NOT NULL,           -- counted ones
  age      INTEGER NOT NULL,           -- ms between the first counted attempt and `seen`, powered time only
  seen     INTEGER NOT NULL,           -- tick of the latest counted attempt
  code     TEXT,
  reason   TEXT,
  PRIMARY KEY (dest, event)
) WITHOUT ROWID;
CREATE INDEX waiting_due ON waiting (dest, due);

-- The bytes of a delivery whose body is not the event's own, from the first attempt that may have reached the receiver.
CREATE TABLE rendered (
  dest  INTEGER NOT NULL,
  event INTEGER NOT NULL,
  body  BLOB NOT NULL,
  PRIMARY KEY (dest, event)
) WITHOUT ROWID;

CREATE TABLE dead (
  dest     INTEGER NOT NULL,
  event    INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  class    TEXT NOT NULL,
  code     TEXT NOT NULL,
  status   INTEGER,
  reason   TEXT NOT NULL,
  answer   TEXT NOT NULL,
  PRIMARY KEY (dest, event)
) WITHOUT ROWID;

CREATE TABLE history (
  event    INTEGER NOT NULL,
  dest     INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  result   TEXT NOT NULL,              -- delivered, dropped
  status   INTEGER,
  PRIMARY KEY (event, dest)
) WITHOUT ROWID;
