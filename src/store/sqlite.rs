//! The store on `SQLite`: one file that a second process reads while the first one writes.
//!
//! Owns tables, versions and durability. Claims survive power loss, step records the death of any
//! process. On a network file system a rollback journal takes the place of the write-ahead log.

#![expect(clippy::disallowed_methods, reason = "opens the state's folder and its lock")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use rustix::fs::FlockOperation;

use super::journal::{Journal, machine};
use super::tables::{TABLES, UPDATE_SPEC, VERSION, migrate};
use super::{
    Commit, FileText, Lease, RunSpec, StepState, Store, StoreError, StoredPipeline, StoredRun,
};
use crate::plan::{Ledger, Run};
use crate::types::{PipelineId, RunName};

/// Tells whoever waits that another look could give another plan.
const PULSE: &str = "INSERT INTO meta VALUES ('pulse', '1')
    ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1";

/// Gives a run that ended the next place in the order of ends.
const COUNT_END: &str = "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'ended'";
const NAME_END: &str = "UPDATE runs SET ended =
    (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'ended') WHERE name = ?1";

/// The store.
pub struct SqliteStore {
    connection: Connection,
    folder: PathBuf,
    /// Device and inode of the file as it was opened.
    file: Option<(u64, u64)>,
}

const FILE: &str = "state.db";

fn identity(folder: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(folder.join(FILE)).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl SqliteStore {
    /// Opens the state in a folder, creating or migrating it under a lock. It serves one root.
    ///
    /// # Errors
    /// The folder cannot be used, is of a newer version, or belongs to another root.
    pub fn open(folder: &Path, root: &Path) -> Result<Self, StoreError> {
        let broken = |message: String| StoreError::Database {
            folder: folder.display().to_string(),
            message,
        };
        std::fs::create_dir_all(folder).map_err(|error| broken(error.to_string()))?;
        let ignore = folder.join(".gitignore");
        if !ignore.exists() {
            std::fs::write(&ignore, "*\n").map_err(|error| broken(error.to_string()))?;
        }
        // Two processes that both create the tables, or both choose a journal, would see "locked".
        let lock = std::fs::File::create(folder.join("create.lock"))
            .map_err(|error| broken(error.to_string()))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| broken(error.to_string()))?;
        let connection =
            Connection::open(folder.join(FILE)).map_err(|error| broken(error.to_string()))?;
        let mut store = Self { connection, folder: folder.to_owned(), file: None };
        store.prepare(root)?;
        store.file = identity(folder);
        drop(lock);
        Ok(store)
    }

    /// Opens a state that must be there already: one that was moved is not made anew.
    ///
    /// # Errors
    /// As [`Self::open`]; also where there is none.
    pub fn open_again(folder: &Path, root: &Path) -> Result<Self, StoreError> {
        if identity(folder).is_none() {
            let folder = folder.display().to_string();
            return Err(StoreError::Database {
                folder,
                message: "it is not there any more".into(),
            });
        }
        Self::open(folder, root)
    }

    /// Opens a state for reading only: it may lie on a medium that cannot be written, and nothing
    /// of it is created or migrated. None where there is none.
    ///
    /// # Errors
    /// The state cannot be read, or is of another version.
    pub fn open_to_read(folder: &Path) -> Result<Option<Self>, StoreError> {
        let file = folder.join(FILE);
        if !file.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let open = |path: &str| -> rusqlite::Result<(Connection, i64)> {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(Duration::from_secs(30))?;
            let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok((connection, version))
        };
        let path = file.display().to_string();
        // Without the right to write, the log beside the file cannot be shared: what was merged
        // into the file is all that there is.
        let escaped = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let opened = open(&path).or_else(|_| open(&format!("file:{escaped}?immutable=1")));
        let (connection, found) = opened.map_err(|error| StoreError::Database {
            folder: folder.display().to_string(),
            message: error.to_string(),
        })?;
        if found > VERSION {
            let folder = folder.display().to_string();
            return Err(StoreError::Newer { folder, found, known: VERSION });
        }
        let file = identity(folder);
        let store = Self { connection, folder: folder.to_owned(), file };
        match (found, store.root()) {
            (VERSION, _) => Ok(Some(store)),
            (1.., Some(root)) => Self::open(folder, &root).map(Some),
            _ => Ok(None),
        }
    }

    /// A state that nobody keeps, for looks at a place that has none.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn in_memory() -> Result<Self, StoreError> {
        let folder = PathBuf::from("memory");
        let broken = |error: rusqlite::Error| StoreError::Database {
            folder: "memory".into(),
            message: error.to_string(),
        };
        let connection = Connection::open_in_memory().map_err(broken)?;
        connection.execute_batch(TABLES).map_err(broken)?;
        Ok(Self { connection, folder, file: None })
    }

    /// The root that the state serves.
    pub fn root(&self) -> Option<PathBuf> {
        self.connection
            .query_row("SELECT value FROM meta WHERE key = 'root'", [], |row| row.get(0))
            .map(|root: String| PathBuf::from(root))
            .ok()
    }

    /// The sources that the state serves, as whoever configured them wrote it; none where that is its
    /// root.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn configuration(&self) -> Result<Option<String>, StoreError> {
        self.connection
            .query_row("SELECT value FROM meta WHERE key = 'configuration'", [], |row| row.get(0))
            .optional()
            .map_err(|error| self.broken(&error))
    }

    /// Writes them.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn set_configuration(&self, text: &str) -> Result<(), StoreError> {
        self.connection
            .execute("INSERT OR REPLACE INTO meta VALUES ('configuration', ?1)", [text])
            .map(|_| ())
            .map_err(|error| self.broken(&error))
    }

    /// How many runs have not ended.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn open_runs(&self) -> Result<u64, StoreError> {
        let count: i64 = self
            .connection
            .query_row("SELECT COUNT(*) FROM runs WHERE open = 1", [], |row| row.get(0))
            .map_err(|error| self.broken(&error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The folder of the state.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn broken(&self, error: &impl std::fmt::Display) -> StoreError {
        StoreError::Database {
            folder: self.folder.display().to_string(),
            message: error.to_string(),
        }
    }

    fn prepare(&mut self, root: &Path) -> Result<(), StoreError> {
        let sql = |store: &Self, result: rusqlite::Result<()>| {
            result.map_err(|error| store.broken(&error))
        };
        sql(self, self.connection.busy_timeout(Duration::from_secs(30)))?;
        let found: i64 = self
            .connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|error| self.broken(&error))?;
        if found > VERSION {
            let folder = self.folder.display().to_string();
            return Err(StoreError::Newer { folder, found, known: VERSION });
        }
        let mode = match Journal::for_folder(&self.folder) {
            Journal::WriteAhead => "WAL",
            Journal::Rollback => "TRUNCATE",
        };
        sql(self, self.connection.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(())))?;
        sql(self, self.connection.pragma_update(None, "synchronous", "NORMAL"))?;
        sql(self, migrate(&self.connection, found))?;
        let root = root.display().to_string();
        let known: Option<String> = self
            .connection
            .query_row("SELECT value FROM meta WHERE key = 'root'", [], |row| row.get(0))
            .optional()
            .map_err(|error| self.broken(&error))?;
        match known {
            Some(known) if known == root => Ok(()),
            // A state inside the root it serves moved with it; elsewhere it is another's.
            Some(known) if !self.folder.starts_with(&root) => {
                let folder = self.folder.display().to_string();
                Err(StoreError::OtherRoot { folder, root: known })
            }
            _ => {
                let insert = "INSERT OR REPLACE INTO meta VALUES ('root', ?1)";
                sql(self, self.connection.execute(insert, [&root]).map(|_| ()))
            }
        }
    }

    fn read_runs(
        &self,
        filter: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<StoredRun>, StoreError> {
        let columns = "source, folder, document, spec, stop, ended, stopped_by";
        let text = format!("SELECT {columns} FROM runs {filter}");
        let mut statement =
            self.connection.prepare_cached(&text).map_err(|error| self.broken(&error))?;
        let rows =
            statement.query_map(parameters, read_run).map_err(|error| self.broken(&error))?;
        rows.collect::<rusqlite::Result<Vec<_>>>().map_err(|error| self.broken(&error))
    }

    /// Runs a write that must survive power loss.
    fn durably<T>(
        &mut self,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let folder = self.folder.display().to_string();
        let broken =
            |error: rusqlite::Error| StoreError::Database { folder, message: error.to_string() };
        let connection = &mut self.connection;
        let result = (|| {
            connection.pragma_update(None, "synchronous", "FULL")?;
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = write(&transaction)?;
            if result.is_ok() {
                transaction.prepare_cached(PULSE)?.execute([])?;
                transaction.commit()?;
            }
            Ok(result)
        })();
        let _ = connection.pragma_update(None, "synchronous", "NORMAL");
        result.map_err(broken)?
    }
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data has a JSON form")
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<StoredRun> {
    let run: Run = json(row, 2)?;
    let pipeline = PipelineId {
        source: row.get(0)?,
        folder: row.get(1)?,
        name: run.pipeline.parse().map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(
                2,
                rusqlite::types::Type::Text,
                Box::<crate::types::InvalidName>::new(error),
            )
        })?,
    };
    let spec: RunSpec = json(row, 3)?;
    let stopped_by: Option<String> = row.get(6)?;
    Ok(StoredRun {
        pipeline,
        run,
        spec,
        stop_requested: row.get(4)?,
        stopped_by: stopped_by.and_then(|name| RunName::from_stored(&name).ok()),
        ended: row.get::<_, Option<i64>>(5)?.and_then(|place| u64::try_from(place).ok()),
    })
}

/// Inserts a run. "Exists already" is success for the same identity.
fn insert_run(
    transaction: &Transaction<'_>,
    stored: &StoredRun,
) -> rusqlite::Result<Result<(), StoreError>> {
    let (run, id) = (&stored.run, &stored.pipeline);
    let known: Option<String> = transaction
        .prepare_cached("SELECT id FROM runs WHERE name = ?1")?
        .query_row([run.name.as_str()], |row| row.get(0))
        .optional()?;
    match known {
        Some(known) if known == run.id.to_string() => return Ok(Ok(())),
        Some(_) => return Ok(Err(StoreError::NameTaken(run.name.clone()))),
        None => {}
    }
    transaction
        .prepare_cached(
            "INSERT INTO runs (name, id, source, folder, pipeline, open, document, spec)
             VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7)",
        )?
        .execute(params![
            run.name.as_str(),
            run.id.to_string(),
            id.source,
            id.folder,
            id.name.as_str(),
            text(run),
            text(&stored.spec),
        ])?;
    Ok(Ok(()))
}

fn insert_step(
    transaction: &Transaction<'_>,
    run: &RunName,
    step: &StepState,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO steps (run, name, state) VALUES (?1, ?2, ?3)
             ON CONFLICT (run, name) DO UPDATE SET state = excluded.state",
        )?
        .execute(params![run.as_str(), step.record.name, text(step)])
        .map(|_| ())
}

impl Store for SqliteStore {
    fn pipelines(&self) -> Result<Vec<StoredPipeline>, StoreError> {
        let read = |row: &Row<'_>| {
            let name: String = row.get(2)?;
            let definition: Option<String> = row.get(5)?;
            let id = name.parse().map(|name| {
                Ok::<_, rusqlite::Error>(PipelineId {
                    source: row.get(0)?,
                    folder: row.get(1)?,
                    name,
                })
            });
            let Ok(id) = id else { return Ok(None) };
            Ok(Some(StoredPipeline {
                id: id?,
                version: row.get(3)?,
                ledger: json::<Ledger>(row, 4)?,
                definition: definition
                    .and_then(|text| serde_json::from_str::<FileText>(&text).ok()),
            }))
        };
        let query = "SELECT source, folder, name, version, ledger, definition FROM pipelines";
        let mut statement =
            self.connection.prepare_cached(query).map_err(|error| self.broken(&error))?;
        let rows = statement.query_map([], read).map_err(|error| self.broken(&error))?;
        let rows: rusqlite::Result<Vec<_>> = rows.collect();
        Ok(rows.map_err(|error| self.broken(&error))?.into_iter().flatten().collect())
    }

    fn runs_of(&self, pipeline: &PipelineId) -> Result<Vec<StoredRun>, StoreError> {
        let of = "WHERE source = ?1 AND folder = ?2 AND pipeline = ?3";
        let key = params![pipeline.source, pipeline.folder, pipeline.name.as_str()];
        let mut runs = self.read_runs(&format!("{of} AND open = 1 ORDER BY seq"), key)?;
        runs.extend(
            self.read_runs(&format!("{of} AND open = 0 ORDER BY ended DESC LIMIT 20"), key)?,
        );
        Ok(runs)
    }

    fn runs(&self, limit: usize) -> Result<Vec<StoredRun>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read_runs("ORDER BY seq DESC LIMIT ?1", [limit])
    }

    fn busy_pipelines(&self) -> Result<Vec<PipelineId>, StoreError> {
        let query = "SELECT DISTINCT source, folder, pipeline FROM runs WHERE open = 1";
        let mut statement =
            self.connection.prepare_cached(query).map_err(|error| self.broken(&error))?;
        let read = |row: &Row<'_>| {
            let name: String = row.get(2)?;
            let (source, folder) = (row.get(0)?, row.get(1)?);
            Ok(name.parse().ok().map(|name| PipelineId { source, folder, name }))
        };
        let rows = statement.query_map([], read).map_err(|error| self.broken(&error))?;
        let rows: rusqlite::Result<Vec<_>> = rows.collect();
        Ok(rows.map_err(|error| self.broken(&error))?.into_iter().flatten().collect())
    }

    fn is_in_place(&self) -> bool {
        self.file == identity(&self.folder)
    }

    fn is_shared(&self) -> bool {
        Journal::for_folder(&self.folder) == Journal::Rollback
    }

    fn lease(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        self.connection
            .prepare_cached("SELECT machine, beat FROM leases WHERE name = ?1")
            .and_then(|mut statement| {
                let read = |row: &Row<'_>| {
                    let holder: String = row.get(0)?;
                    Ok(Lease { ours: holder == machine(), beat: row.get(1)? })
                };
                statement.query_row([name], read).optional()
            })
            .map_err(|error| self.broken(&error))
    }

    fn hold(&mut self, name: &str, over: Option<i64>) -> Result<bool, StoreError> {
        // One statement, so that of two machines one takes it.
        let write = "INSERT INTO leases VALUES (?1, ?2, 1)
            ON CONFLICT (name) DO UPDATE SET machine = ?2, beat = beat + 1
            WHERE machine = ?2 OR beat = ?3";
        let count = self.connection.execute(write, params![name, machine(), over]);
        count.map(|count| count > 0).map_err(|error| self.broken(&error))
    }

    fn release(&mut self, name: &str) -> Result<(), StoreError> {
        let write = "DELETE FROM leases WHERE name = ?1 AND machine = ?2";
        let count = self.connection.execute(write, params![name, machine()]);
        count.map(|_| ()).map_err(|error| self.broken(&error))
    }

    fn pulse(&self) -> Result<i64, StoreError> {
        self.connection
            .prepare_cached("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'pulse'")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
            .map(|pulse| pulse.unwrap_or(0))
            .map_err(|error| self.broken(&error))
    }

    fn run(&self, name: &str) -> Result<Option<StoredRun>, StoreError> {
        let Some(mut stored) = self.read_runs("WHERE name = ?1", [name])?.pop() else {
            return Ok(None);
        };
        let steps = self.steps(&stored.run.name)?;
        if !steps.is_empty() {
            stored.run.steps = steps.into_iter().map(|step| step.record).collect();
        }
        Ok(Some(stored))
    }

    fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        let id = commit.id;
        let key = [id.source.as_str(), &id.folder, id.name.as_str()];
        self.durably(|transaction| {
            let version: Option<i64> = transaction
                .prepare_cached(
                    "SELECT version FROM pipelines WHERE source = ?1 AND folder = ?2 AND name = ?3",
                )?
                .query_row(key, |row| row.get(0))
                .optional()?;
            if version != commit.version {
                return Ok(Err(StoreError::Conflict));
            }
            transaction
                .prepare_cached("INSERT OR REPLACE INTO pipelines VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![
                    key[0],
                    key[1],
                    key[2],
                    version.unwrap_or(0) + 1,
                    text(commit.ledger),
                    commit.definition.map(text),
                ])?;
            for claim in &commit.claims {
                if let Err(error) = insert_run(transaction, claim)? {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        })
    }

    fn request(&mut self, run: &StoredRun) -> Result<(), StoreError> {
        self.durably(|transaction| {
            for step in &run.spec.kept {
                insert_step(transaction, &run.run.name, step)?;
            }
            insert_run(transaction, run)
        })
    }

    fn request_stop(&mut self, run: &RunName, by: Option<&RunName>) -> Result<(), StoreError> {
        self.durably(|transaction| {
            // The first who wants it gives the reason.
            let write = "UPDATE runs SET stop = 1, stopped_by = ?2 WHERE name = ?1 AND stop = 0";
            transaction.execute(write, params![run.as_str(), by.map(RunName::as_str)])?;
            Ok(Ok(()))
        })
    }

    fn update_run(&mut self, run: &Run) -> Result<(), StoreError> {
        let mut document = run.clone();
        document.steps.clear();
        let write = |connection: &Connection| {
            connection
                .prepare_cached(
                    "UPDATE runs SET document = ?2, open = ?3 WHERE name = ?1 AND open = 1",
                )?
                .execute(params![run.name.as_str(), text(&document), !run.phase.is_ended()])
        };
        if !run.phase.is_ended() {
            return write(&self.connection).map(|_| ()).map_err(|error| self.broken(&error));
        }
        self.durably(|transaction| {
            if write(transaction)? > 0 {
                transaction.prepare_cached(COUNT_END)?.execute([])?;
                transaction.prepare_cached(NAME_END)?.execute([run.name.as_str()])?;
            }
            Ok(Ok(()))
        })
    }

    fn update_spec(&mut self, run: &Run, spec: &RunSpec) -> Result<bool, StoreError> {
        self.durably(|transaction| {
            let written =
                transaction.execute(UPDATE_SPEC, params![run.name.as_str(), text(spec)])?;
            Ok(Ok(written > 0))
        })
    }

    fn steps(&self, run: &RunName) -> Result<Vec<StepState>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT state FROM steps WHERE run = ?1 ORDER BY seq")
            .map_err(|error| self.broken(&error))?;
        let rows = statement
            .query_map([run.as_str()], |row| json::<StepState>(row, 0))
            .map_err(|error| self.broken(&error))?;
        rows.collect::<rusqlite::Result<_>>().map_err(|error| self.broken(&error))
    }

    fn update_steps(&mut self, run: &RunName, steps: &[&StepState]) -> Result<(), StoreError> {
        let write = |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for step in steps {
                insert_step(&transaction, run, step)?;
            }
            transaction.commit()
        };
        write(&mut self.connection).map_err(|error: rusqlite::Error| self.broken(&error))
    }

    fn forget(&mut self, runs: &[RunName]) -> Result<(), StoreError> {
        self.durably(|transaction| {
            for run in runs {
                transaction
                    .execute("DELETE FROM runs WHERE name = ?1 AND open = 0", [run.as_str()])?;
                transaction.execute("DELETE FROM steps WHERE run = ?1", [run.as_str()])?;
            }
            Ok(Ok(()))
        })
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
