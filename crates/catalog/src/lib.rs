//! What Pando means: apps, snapshots, clones, bookmarks, operations with their journal, and events.
//!
//! One SQLite file in WAL mode, one connection behind a lock. Each record is a typed document with an id
//! and one key it is looked up by; names of apps and clones share one namespace in a table of their own,
//! so that "the same name twice at once" has one winner.
//!
//! # Crash consistency
//! Commits reach the disk in order. [`Durability::Synced`] commits are on disk when the call returns;
//! [`Durability::Ordered`] ones may be lost by a crash of the machine (never of the process), but only
//! from the end. The journal relies on that order alone: an operation's birth and end are synced, its
//! steps are ordered. After a commit that failed, everything is written anew before the next one.

#[cfg(any(test, feature = "crash"))]
mod crash;
mod image;
mod record;
#[cfg(test)]
mod tests;
mod volume;

use std::fs::{self, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pando_model::{EventView, Name, OwnerId};
use rusqlite::{Connection, OptionalExtension, params};
use thiserror::Error;

pub use image::{BaseRecord, ImageName, ImageRecord};
pub use record::{
    AppRecord, AppSource, BookmarkRecord, CloneRecord, CloneSource, ComposeProject, ComposeVolume, Former,
    OperationRecord, Record, Sealed, SnapshotRecord, SnapshotSource, StepRecord,
};
pub use volume::VolumeRecord;

/// Why the catalog did not do its work.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// SQLite failed.
    #[error("the catalog could not be {action}")]
    Sql {
        /// `opened`, `read`, `written`.
        action: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
    /// Its file cannot be made, or not be made private.
    #[error("the catalog could not be opened")]
    File(#[source] std::io::Error),
    /// A stored document is not what this version writes.
    #[error("a record of the catalog ({table} {id}) cannot be read")]
    Damaged {
        /// The kind of record.
        table: &'static str,
        /// Its id.
        id: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The catalog was written by a newer Pando.
    #[error("the catalog has version {found}, this Pando knows up to {known}")]
    TooNew {
        /// The version found.
        found: i64,
        /// The newest one known.
        known: i64,
    },
    /// The name is in use.
    #[error("the name {0} is taken")]
    NameTaken(Name),
}

fn sql(action: &'static str) -> impl Fn(rusqlite::Error) -> CatalogError {
    move |source| CatalogError::Sql { action, source }
}

/// Makes the catalog's file when it is missing, and lets nobody else read what is there: SQLite gives the files beside it the
/// same mode, but not those that an earlier Pando has left.
fn keep_private(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match fs::set_permissions(&file, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a commit must be on disk when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On disk when the call returns.
    Synced,
    /// On disk before any later commit is.
    Ordered,
}

const VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE names (name TEXT PRIMARY KEY, owner TEXT NOT NULL) STRICT;
    CREATE TABLE apps (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE TABLE clones (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE TABLE snapshots (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE TABLE bookmarks (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE TABLE operations (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE INDEX clones_key ON clones (key);
    CREATE INDEX snapshots_key ON snapshots (key);
    CREATE INDEX bookmarks_key ON bookmarks (key);
    CREATE INDEX operations_key ON operations (key);
    CREATE TABLE events (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT, text TEXT NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
";
/// Tables that a catalog of an older Pando does not have yet.
const LATER: &str = "
    CREATE TABLE IF NOT EXISTS volumes (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS volumes_key ON volumes (key);
    CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS images_key ON images (key);
    CREATE TABLE IF NOT EXISTS image_names (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS image_names_key ON image_names (key);
    CREATE TABLE IF NOT EXISTS image_bases (id TEXT PRIMARY KEY, key TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS image_bases_key ON image_bases (key);
";

/// The catalog of one home.
pub struct Catalog {
    connection: Mutex<Connection>,
    /// A commit has failed, maybe at its sync.
    suspect: AtomicBool,
    #[cfg(any(test, feature = "crash"))]
    synced: crash::Synced,
    /// For those who may not wait until another's commit has reached the disk.
    reader: Option<Mutex<Connection>>,
}

impl Catalog {
    /// Opens the catalog at `path`, made when missing, and for nobody else to read.
    ///
    /// # Errors
    /// When the file cannot be used, or was written by a newer Pando.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        keep_private(path).map_err(CatalogError::File)?;
        let mut catalog = Self::prepare(Connection::open(path).map_err(sql("opened"))?)?;
        let reader = Connection::open(path).map_err(sql("opened"))?;
        reader.execute_batch("PRAGMA query_only = ON; PRAGMA busy_timeout = 1000;").map_err(sql("opened"))?;
        catalog.reader = Some(Mutex::new(reader));
        Ok(catalog)
    }

    /// A catalog in memory, for tests.
    ///
    /// # Errors
    /// When SQLite cannot start.
    pub fn in_memory() -> Result<Self, CatalogError> {
        Self::prepare(Connection::open_in_memory().map_err(sql("opened"))?)
    }

    fn prepare(connection: Connection) -> Result<Self, CatalogError> {
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;")
            .map_err(sql("opened"))?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql("opened"))?;
        match found {
            0 => connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;")).map_err(sql("opened"))?,
            VERSION => {}
            newer => return Err(CatalogError::TooNew { found: newer, known: VERSION }),
        }
        connection.execute_batch(LATER).map_err(sql("opened"))?;
        Ok(Self {
            #[cfg(any(test, feature = "crash"))]
            synced: crash::Synced::up_to_now(&connection),
            connection: Mutex::new(connection),
            suspect: AtomicBool::new(false),
            reader: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a failed sync the kernel may have dropped what that covered, commits that were ordered before it too,
    /// and the next sync succeeds all the same. So everything is written anew, into the file itself, and synced.
    fn mend(&self, connection: &Connection) -> Result<(), CatalogError> {
        if !self.suspect.load(Ordering::SeqCst) {
            return Ok(());
        }
        connection.pragma_update(None, "synchronous", "FULL").map_err(sql("written"))?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(sql("written"))?;
        self.suspect.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Runs `change` as one transaction: all of it happens, or nothing.
    ///
    /// # Errors
    /// What `change` returns, or a failed commit.
    pub fn change<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Change<'_>) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let mut connection = self.lock();
        self.mend(&connection)?;
        let level = match durability {
            Durability::Synced => "FULL",
            Durability::Ordered => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", level).map_err(sql("written"))?;
        let transaction = connection.transaction().map_err(sql("written"))?;
        let answer = change(&Change { connection: &transaction })?;
        if let Err(error) = transaction.commit() {
            self.suspect.store(true, Ordering::SeqCst);
            return Err(sql("written")(error));
        }
        #[cfg(any(test, feature = "crash"))]
        if durability == Durability::Synced {
            self.synced.note(&connection);
        }
        Ok(answer)
    }

    /// Writes one record, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put<R: Record>(&self, record: &R) -> Result<(), CatalogError> {
        self.change(Durability::Synced, |change| change.put(record))
    }

    /// Writes one record in order, not yet durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note<R: Record>(&self, record: &R) -> Result<(), CatalogError> {
        self.change(Durability::Ordered, |change| change.put(record))
    }

    /// Removes one record. That it was not there is no error.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn delete<R: Record>(&self, id: &str) -> Result<(), CatalogError> {
        self.change(Durability::Synced, |change| change.delete::<R>(id))
    }

    /// One record.
    ///
    /// # Errors
    /// When the catalog or the record cannot be read.
    pub fn get<R: Record>(&self, id: &str) -> Result<Option<R>, CatalogError> {
        get(&self.lock(), id)
    }

    /// One record, without waiting for anybody's commit to reach the disk.
    ///
    /// # Errors
    /// When the catalog or the record cannot be read.
    pub fn peek<R: Record>(&self, id: &str) -> Result<Option<R>, CatalogError> {
        match &self.reader {
            Some(reader) => get(&reader.lock().unwrap_or_else(PoisonError::into_inner), id),
            None => self.get(id),
        }
    }

    /// All records of a kind, by id, without waiting for anybody's commit to reach the disk.
    ///
    /// # Errors
    /// When the catalog or a record cannot be read.
    pub fn peek_all<R: Record>(&self) -> Result<Vec<R>, CatalogError> {
        match &self.reader {
            Some(reader) => {
                let text = format!("SELECT id, doc FROM {} ORDER BY id", R::TABLE);
                select(&reader.lock().unwrap_or_else(PoisonError::into_inner), &text, [])
            }
            None => self.all(),
        }
    }

    /// All records of a kind, by id, which is by birth.
    ///
    /// # Errors
    /// When the catalog or a record cannot be read.
    pub fn all<R: Record>(&self) -> Result<Vec<R>, CatalogError> {
        self.select(&format!("SELECT id, doc FROM {} ORDER BY id", R::TABLE), [])
    }

    /// All records with that key, by id.
    ///
    /// # Errors
    /// When the catalog or a record cannot be read.
    pub fn of<R: Record>(&self, key: &str) -> Result<Vec<R>, CatalogError> {
        self.select(&format!("SELECT id, doc FROM {} WHERE key = ?1 ORDER BY id", R::TABLE), [key])
    }

    /// The newest `limit` records of a kind, newest first.
    ///
    /// # Errors
    /// When the catalog or a record cannot be read.
    pub fn newest<R: Record>(&self, limit: usize) -> Result<Vec<R>, CatalogError> {
        self.select(&format!("SELECT id, doc FROM {} ORDER BY id DESC LIMIT {limit}", R::TABLE), [])
    }

    fn select<R: Record>(&self, text: &str, parameters: impl rusqlite::Params) -> Result<Vec<R>, CatalogError> {
        select(&self.lock(), text, parameters)
    }

    /// Whom a name belongs to.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn owner(&self, name: &Name) -> Result<Option<OwnerId>, CatalogError> {
        let found: Option<String> = self
            .lock()
            .query_row("SELECT owner FROM names WHERE name = ?1", [name.as_str()], |row| row.get(0))
            .optional()
            .map_err(sql("read"))?;
        Ok(found.and_then(|text| text.parse().ok()))
    }

    /// Forgets finished operations but the newest `keep`.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn forget_operations(&self, keep: usize) -> Result<(), CatalogError> {
        self.change(Durability::Ordered, |change| {
            change
                .connection
                .execute(
                    "DELETE FROM operations WHERE key IN ('done', 'failed') AND id <=
                     (SELECT id FROM operations ORDER BY id DESC LIMIT 1 OFFSET ?1)",
                    [i64::try_from(keep).unwrap_or(i64::MAX)],
                )
                .map_err(sql("written"))?;
            Ok(())
        })
    }

    /// All names with whom they belong to.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn names(&self) -> Result<Vec<(String, String)>, CatalogError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT name, owner FROM names ORDER BY name").map_err(sql("read"))?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(sql("read"))?;
        rows.collect::<Result<_, _>>().map_err(sql("read"))
    }

    /// Adds an event and answers its sequence number. Keeps the newest 10,000.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn add_event(
        &self,
        at: Timestamp,
        kind: &str,
        subject: Option<&Name>,
        text: &str,
    ) -> Result<u64, CatalogError> {
        self.change(Durability::Ordered, |change| {
            change
                .connection
                .execute(
                    "INSERT INTO events (at, kind, subject, text) VALUES (?1, ?2, ?3, ?4)",
                    params![at.to_string(), kind, subject.map(Name::as_str), text],
                )
                .map_err(sql("written"))?;
            let sequence = change.connection.last_insert_rowid();
            change
                .connection
                .execute("DELETE FROM events WHERE sequence <= ?1", [sequence - 10_000])
                .map_err(sql("written"))?;
            Ok(u64::try_from(sequence).unwrap_or(0))
        })
    }

    /// At most 1,000 events above `since`, oldest first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn events(&self, since: u64) -> Result<Vec<EventView>, CatalogError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT sequence, at, kind, subject, text FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT 1000",
            )
            .map_err(sql("read"))?;
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        let rows = statement
            .query_map([since], |row| {
                Ok(EventView {
                    sequence: row.get::<_, i64>(0)?.unsigned_abs(),
                    at: row.get::<_, String>(1)?.parse().unwrap_or(Timestamp::UNIX_EPOCH),
                    kind: row.get(2)?,
                    subject: row.get::<_, Option<String>>(3)?.and_then(|name| name.parse().ok()),
                    text: row.get(4)?,
                })
            })
            .map_err(sql("read"))?;
        rows.collect::<Result<_, _>>().map_err(sql("read"))
    }
}

/// A transaction under way.
pub struct Change<'a> {
    connection: &'a Connection,
}

impl Change<'_> {
    /// Writes one record, new or not.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put<R: Record>(&self, record: &R) -> Result<(), CatalogError> {
        let doc = serde_json::to_string(record).map_err(|source| CatalogError::Damaged {
            table: R::TABLE,
            id: record.id(),
            source,
        })?;
        self.connection
            .prepare_cached(&format!("INSERT OR REPLACE INTO {} (id, key, doc) VALUES (?1, ?2, ?3)", R::TABLE))
            .and_then(|mut statement| statement.execute(params![record.id(), record.key(), doc]))
            .map_err(sql("written"))?;
        Ok(())
    }

    /// One record, as this transaction sees it.
    ///
    /// # Errors
    /// When the catalog or the record cannot be read.
    pub fn get<R: Record>(&self, id: &str) -> Result<Option<R>, CatalogError> {
        get(self.connection, id)
    }

    /// All records of a kind, as this transaction sees them.
    ///
    /// # Errors
    /// When the catalog or a record cannot be read.
    pub fn all<R: Record>(&self) -> Result<Vec<R>, CatalogError> {
        select(self.connection, &format!("SELECT id, doc FROM {} ORDER BY id", R::TABLE), [])
    }

    /// Removes one record. That it was not there is no error.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn delete<R: Record>(&self, id: &str) -> Result<(), CatalogError> {
        self.connection.execute(&format!("DELETE FROM {} WHERE id = ?1", R::TABLE), [id]).map_err(sql("written"))?;
        Ok(())
    }

    /// Takes a name for an owner; that it has it already is no error.
    ///
    /// # Errors
    /// [`CatalogError::NameTaken`] when it is another's.
    pub fn take_name(&self, name: &Name, owner: &OwnerId) -> Result<(), CatalogError> {
        let holder: String = self
            .connection
            .execute("INSERT OR IGNORE INTO names (name, owner) VALUES (?1, ?2)", [name.as_str(), owner.as_str()])
            .and_then(|_| {
                self.connection.query_row("SELECT owner FROM names WHERE name = ?1", [name.as_str()], |row| row.get(0))
            })
            .map_err(sql("written"))?;
        if holder == owner.as_str() { Ok(()) } else { Err(CatalogError::NameTaken(name.clone())) }
    }

    /// Gives back one name, if it is this owner's.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn free_name(&self, name: &Name, owner: &OwnerId) -> Result<(), CatalogError> {
        self.connection
            .execute("DELETE FROM names WHERE name = ?1 AND owner = ?2", [name.as_str(), owner.as_str()])
            .map_err(sql("written"))?;
        Ok(())
    }

    /// All records of a kind with that key, as this transaction sees them.
    ///
    /// # Errors
    /// When the catalog or a record cannot be read.
    pub fn of<R: Record>(&self, key: &str) -> Result<Vec<R>, CatalogError> {
        select(self.connection, &format!("SELECT id, doc FROM {} WHERE key = ?1 ORDER BY id", R::TABLE), [key])
    }

    /// Gives back all names of an owner.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub fn free_names(&self, owner: &OwnerId) -> Result<(), CatalogError> {
        self.connection.execute("DELETE FROM names WHERE owner = ?1", [owner.as_str()]).map_err(sql("written"))?;
        Ok(())
    }
}

fn select<R: Record>(
    connection: &Connection,
    text: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<R>, CatalogError> {
    let mut statement = connection.prepare_cached(text).map_err(sql("read"))?;
    let rows = statement
        .query_map(parameters, |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(sql("read"))?;
    rows.map(|row| {
        let (id, doc) = row.map_err(sql("read"))?;
        decode(&id, &doc)
    })
    .collect()
}

fn get<R: Record>(connection: &Connection, id: &str) -> Result<Option<R>, CatalogError> {
    let doc: Option<String> = connection
        .prepare_cached(&format!("SELECT doc FROM {} WHERE id = ?1", R::TABLE))
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)).optional())
        .map_err(sql("read"))?;
    doc.map(|doc| decode(id, &doc)).transpose()
}

fn decode<R: Record>(id: &str, doc: &str) -> Result<R, CatalogError> {
    serde_json::from_str(doc).map_err(|source| CatalogError::Damaged { table: R::TABLE, id: id.to_owned(), source })
}
