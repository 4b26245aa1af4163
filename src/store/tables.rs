//! The tables of the state's database, and the way from each earlier version to this one.
//!
//! Owns the text of both. A migration is one transaction: a crash leaves the earlier version.

use rusqlite::Connection;

/// Version of the tables.
pub const VERSION: i64 = 2;

/// Of a run that has not ended, and for which no other handle is kept.
pub const UPDATE_SPEC: &str = "
UPDATE runs SET spec = ?2 WHERE name = ?1 AND open = 1
    AND ifnull(json_extract(spec, '$.handle'), json_extract(?2, '$.handle')) IS json_extract(?2, '$.handle')";

pub const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (name TEXT PRIMARY KEY, machine TEXT NOT NULL, beat INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE pipelines (
    source TEXT NOT NULL, folder TEXT NOT NULL, name TEXT NOT NULL,
    version INTEGER NOT NULL, ledger TEXT NOT NULL, definition TEXT,
    PRIMARY KEY (source, folder, name)
) WITHOUT ROWID;
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE, id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL, folder TEXT NOT NULL, pipeline TEXT NOT NULL,
    open INTEGER NOT NULL, stop INTEGER NOT NULL DEFAULT 0,
    document TEXT NOT NULL, spec TEXT NOT NULL,
    ended INTEGER, stopped_by TEXT
);
CREATE INDEX runs_of ON runs (source, folder, pipeline, open, ended);
CREATE TABLE steps (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
    UNIQUE (run, name)
);
INSERT INTO meta VALUES ('ended', '0');
";

/// From version 1: runs know their place in the order of ends, and which run took theirs.
const FROM_1: &str = "
ALTER TABLE runs ADD COLUMN ended INTEGER;
ALTER TABLE runs ADD COLUMN stopped_by TEXT;
UPDATE runs SET ended = seq WHERE open = 0;
DROP INDEX runs_of;
CREATE INDEX runs_of ON runs (source, folder, pipeline, open, ended);
INSERT INTO meta SELECT 'ended', CAST(COALESCE(MAX(seq), 0) AS TEXT) FROM runs;
";

/// Brings an empty database, or one of an earlier version, to this one.
pub fn migrate(connection: &Connection, found: i64) -> rusqlite::Result<()> {
    let steps = match found {
        0 => TABLES,
        1 => FROM_1,
        _ => return Ok(()),
    };
    let text = format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;");
    connection.execute_batch(&text)
}
