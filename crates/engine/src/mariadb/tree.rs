//! What Pando notes in a tree, and what it takes out of one that belongs to another server.

use std::fs;
use std::io;
use std::path::Path;

use pando_host::{Account, durable};
use serde::{Deserialize, Serialize};

use super::config::{self, Before, Manner, Place};
use super::facts::Facts;
use super::log::Position;
use crate::{EngineError, seat};

/// In a tree: it was shut to production's accounts and stopped cleanly.
pub const PREPARED: &str = "pando.prepared";
const NOTE: &str = "pando.tree";
const MARK: &str = "pando.mark";

/// What is known of a tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tree {
    /// Its stretch of the log, where it writes one.
    pub epoch: Option<u32>,
    /// How it is served; `None`: it is a mirror.
    pub manner: Option<Manner>,
    /// Where its replay must come to.
    pub replay: Option<Position>,
}

/// What stands in a tree while its server is held: what the tree of a snapshot holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    /// The stretch of log it belongs to.
    pub epoch: u32,
    /// What it has of production.
    pub position: Position,
    /// The place in the log, where it is known (recording clones).
    pub place: Option<u64>,
}

fn failed(what: &str) -> impl Fn(io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: what.to_owned(), source }
}

impl Tree {
    /// The note in a tree.
    pub fn read(data: &Path) -> Result<Self, EngineError> {
        seat::noted(&data.join(NOTE))?
            .ok_or_else(|| EngineError::Invalid("a MariaDB tree has no note of Pando".to_owned()))
    }

    /// Writes the note and the server's files to it.
    pub fn configure(
        &self,
        place: &Place<'_>,
        facts: &Facts,
        live: &Path,
        before: &Before,
        account: Option<&Account>,
    ) -> Result<(), EngineError> {
        seat::note(&place.data.join(NOTE), self, account)?;
        let options = match &self.manner {
            Some(manner) => config::clone(facts, place, manner),
            None => config::mirror(facts, place, live),
        };
        seat::write(&place.data.join(config::FILE), &options.text(), account)?;
        seat::write(&place.data.join(config::INIT), &config::init(before), account)
    }
}

impl Mark {
    /// The mark in a tree.
    pub fn read(data: &Path) -> Result<Option<Self>, EngineError> {
        seat::noted(&data.join(MARK))
    }

    /// Leaves it.
    pub fn write(&self, data: &Path, account: Option<&Account>) -> Result<(), EngineError> {
        seat::note(&data.join(MARK), self, account)
    }

    /// Takes it away.
    pub fn clear(data: &Path) -> Result<(), EngineError> {
        durable::remove_if_there(&data.join(MARK)).map(drop).map_err(failed("clearing a tree's mark"))
    }
}

/// Whether a tree is a container's: Pando's note was taken out of it.
pub fn is_handed_over(data: &Path) -> bool {
    !data.join(NOTE).exists()
}

/// What belongs to another server, or to another run of one: its identity (M-1), its replication with the password
/// of production (M-2), its locks, temporary files and caches.
fn is_foreign(name: &str) -> bool {
    const FILES: [&str; 8] = [
        "auto.cnf",
        "ib_buffer_pool",
        "ibtmp1",
        "master.info",
        "multi-master.info",
        "relay-log.info",
        "tc.log",
        "pando.replay",
    ];
    let stem = name.split('.').next().unwrap_or_default();
    FILES.contains(&name)
        || name.starts_with("pando.")
        || name.starts_with("master-")
        || name.starts_with("relay-log-")
        || stem.ends_with("relay-bin")
        || name.starts_with("#sql")
        || [".pid", ".err", ".sock"].iter().any(|end| name.ends_with(end))
}

/// Takes out what is foreign, at the top of the tree: what it costs does not depend on the size of the data.
pub fn clean(data: &Path) -> Result<(), EngineError> {
    let action = failed("cleaning a MariaDB tree");
    for entry in fs::read_dir(data).map_err(&action)? {
        let entry = entry.map_err(&action)?;
        if entry.file_name().to_str().is_some_and(is_foreign) {
            if entry.file_type().map_err(&action)?.is_dir() {
                fs::remove_dir_all(entry.path()).map_err(&action)?;
            } else {
                fs::remove_file(entry.path()).map_err(&action)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m01_m02_identity_and_replication_are_taken_out() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        for file in [
            "auto.cnf",
            "master.info",
            "host-relay-bin.000001",
            "host-relay-bin.index",
            "multi-master.info",
            "master-other.info",
            "relay-log.info",
            "db.pid",
            "ibdata1",
            "ib_logfile0",
            "aria_log_control",
        ] {
            fs::write(dir.path().join(file), "password=hunter2")?;
        }
        fs::create_dir(dir.path().join("pando.replay"))?;
        fs::create_dir(dir.path().join("mysql"))?;
        clean(dir.path())?;
        let mut left: Vec<_> = fs::read_dir(dir.path())?.flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["aria_log_control", "ib_logfile0", "ibdata1", "mysql"]);
        Ok(())
    }
}
