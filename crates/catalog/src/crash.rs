//! Crashes of the machine, for tests: the file is made to hold what a disk would that has done every sync and of
//! the rest whatever it liked.
//!
//! What is synced is a length of SQLite's write-ahead log. A checkpoint in between only makes the crash milder:
//! what it has moved counts as synced.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::Catalog;

/// Where the log ended at the last synced commit.
pub(crate) struct Synced(AtomicU64);

fn beside(connection: &Connection, tail: &str) -> PathBuf {
    PathBuf::from(format!("{}{tail}", connection.path().unwrap_or_default()))
}

fn length(connection: &Connection) -> u64 {
    fs::metadata(beside(connection, "-wal")).map_or(0, |meta| meta.len())
}

impl Synced {
    pub fn up_to_now(connection: &Connection) -> Self {
        Self(AtomicU64::new(length(connection)))
    }

    pub fn note(&self, connection: &Connection) {
        self.0.store(length(connection), Ordering::SeqCst);
    }
}

impl Catalog {
    /// The machine crashes: of what was committed since the last sync the disk has what `kept` makes of it. This
    /// catalog is of no use any more; the next one opened at its path finds what is left.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn pull_the_plug(&self, kept: impl FnOnce(&[u8]) -> Vec<u8>) -> std::io::Result<()> {
        let connection = self.lock();
        // Else closing it would tidy up the files of the next one.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(std::io::Error::other)?;
        let (file, log) = (beside(&connection, ""), beside(&connection, "-wal"));
        let (whole, mut written) = (fs::read(&file)?, fs::read(&log)?);
        let synced = usize::try_from(self.synced.0.load(Ordering::SeqCst)).unwrap_or(usize::MAX).min(written.len());
        let left = kept(&written.split_off(synced));
        written.extend(left);
        for (path, content) in [(file, whole), (log, written)] {
            // New files: the old ones are still open.
            fs::remove_file(&path)?;
            fs::write(&path, content)?;
        }
        fs::remove_file(beside(&connection, "-shm"))
    }
}
