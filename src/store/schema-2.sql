-- Schema 1 to 2: boots have rows of their own, so that times taken with a wrong clock can be put right; what is delivered at the first
-- attempt is first noted in ready.

CREATE TABLE boot (
  boot   INTEGER PRIMARY KEY,
  id     TEXT NOT NULL,
  "offset" INTEGER,
  seen   INTEGER,
  open   INTEGER
);
INSERT INTO boot (boot, id)
  SELECT value, ifnull((SELECT value FROM meta WHERE key = 'boot_id'), '') FROM meta WHERE key = 'boot';
DELETE FROM meta WHERE key IN ('boot', 'boot_id');

ALTER TABLE ready ADD COLUMN at INTEGER;
ALTER TABLE ready ADD COLUMN attempts INTEGER;
ALTER TABLE ready ADD COLUMN status INTEGER;
