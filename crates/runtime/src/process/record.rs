//! What the process runtime keeps of a unit: `HOME/units/<unit-id>/unit.json`, beside the unit's log.
//!
//! ```text
//!   (no record) --start--> Starting --pid known--> Running --ended by itself--> Exited
//!                             |                       |                           |
//!                             +-- spawn failed -------+------ stopped ------------+--> Stopped
//! ```
//!
//! # Crash consistency
//! A record is replaced whole (written beside, then renamed), so a reader sees the old or the new one. It is
//! not synced: what it describes are processes, and they do not survive the machine either. After a crash of
//! the machine a record may be missing, empty or old; an unreadable one counts as none, an old one is
//! recognised by its boot id. A crash of the daemon between `Starting` and `Running` loses the process id,
//! not the process: the census finds it by its environment.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pando_host::process::ProcessId;
use pando_model::UnitId;
use serde::{Deserialize, Serialize};

use crate::UnitSpec;

const NAME: &str = "unit.json";

/// How far a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// About to be started; whether it was, only the census knows.
    Starting,
    /// Started; this is its first process.
    Running(ProcessId),
    /// Ended by itself, with this code.
    Exited(Option<i32>),
    /// Stopped by us, no process left.
    Stopped,
}

/// A unit's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked for. Its environment may hold secrets: hence mode 0600.
    pub spec: UnitSpec,
    /// The boot in which `phase` was true.
    pub boot: String,
    /// How far it is.
    pub phase: Phase,
}

/// The directory of all records of one home.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    /// Makes the directory, closed to others: records and logs are nobody else's business.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// Where all units' directories lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of one unit.
    pub fn unit_dir(&self, unit: &UnitId) -> PathBuf {
        self.dir.join(unit.as_str())
    }

    /// The log of one unit.
    pub fn log_path(&self, unit: &UnitId) -> PathBuf {
        self.unit_dir(unit).join("log")
    }

    /// Reads a record; none when there is none that can be read.
    pub fn load(&self, unit: &UnitId) -> io::Result<Option<Record>> {
        let path = self.unit_dir(unit).join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if record.spec.id == *unit => Ok(Some(record)),
            // The content is not shown: it may hold secrets.
            _ => {
                tracing::warn!(%unit, path = %path.display(), "an unreadable unit record is passed over");
                Ok(None)
            }
        }
    }

    /// Replaces a record.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let dir = self.unit_dir(&record.spec.id);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let hidden = dir.join(".unit.json.tmp");
        pando_host::durable::remove_if_there(&hidden)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&hidden, dir.join(NAME))
    }

    /// The units that something is kept of.
    pub fn units(&self) -> io::Result<Vec<UnitId>> {
        let entries = fs::read_dir(&self.dir)?.flatten();
        Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Drops a unit's record and log.
    pub fn remove(&self, unit: &UnitId) -> io::Result<()> {
        pando_host::durable::remove_tree_if_there(&self.unit_dir(unit)).map(|_| ())
    }
}
