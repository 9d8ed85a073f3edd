//! What Pando notes in a tree, and what it takes out of one that belongs to another server.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pando_host::{Account, durable};
use serde::{Deserialize, Serialize};

use super::config::{self, Before, Manner, Place};
use super::facts::Facts;
use super::flavor::Flavor;
use super::install::{Version, words};
use super::io;
use crate::{EngineError, seat};

/// In a tree: it was shut to production's accounts and stopped cleanly.
pub const PREPARED: &str = "pando.prepared";
const NOTE: &str = "pando.tree";
const MARK: &str = "pando.mark";

/// What is known of a tree.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Tree<F: Flavor> {
    /// Its stretch of the log, where it writes one.
    pub epoch: Option<u32>,
    /// How it is served; `None`: it is a mirror.
    pub manner: Option<Manner>,
    /// Where its replay must come to.
    pub replay: Option<F::Position>,
    /// The newest server that has run on it; zeros: not known.
    #[serde(default)]
    pub version: Version,
    /// What production had set when it was of the series of that server.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// What stands in a tree while its server is held: what the tree of a snapshot holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Mark<F: Flavor> {
    /// The stretch of log it belongs to.
    pub epoch: u32,
    /// What it has of production.
    pub position: F::Position,
    /// The place in the log, where it is known (recording clones).
    pub place: Option<u64>,
}

impl<F: Flavor> Tree<F> {
    /// A mirror's.
    pub fn of_mirror(epoch: Option<u32>, version: Version, facts: &Facts) -> Self {
        Self { epoch, manner: None, replay: None, version, settings: facts.settings.clone() }
    }

    /// The note in a tree, where there is one.
    pub fn find(data: &Path) -> Result<Option<Self>, EngineError> {
        seat::noted(&data.join(NOTE))
    }

    /// The note in a tree.
    pub fn read(data: &Path) -> Result<Self, EngineError> {
        Self::find(data)?
            .ok_or_else(|| EngineError::Invalid(format!("a {} tree has no note of Pando", F::PROGRAMS.make)))
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
            Some(manner) => config::clone::<F>(facts, place, manner),
            None if self.epoch.is_none() => config::mirror::<F>(facts, place, live),
            None => config::following::<F>(facts, place, live),
        };
        seat::write(&place.data.join(config::FILE), &options.text(), account)?;
        seat::write(&place.data.join(config::INIT), &config::init::<F>(before), account)
    }

    /// Whether a server of a version may run on it: one that goes on from what it finds, and never back, must not be
    /// older (M-13).
    pub fn suits(&self, version: Version) -> Result<(), EngineError> {
        if F::READS_NEWER || self.version <= version {
            return Ok(());
        }
        let make = F::PROGRAMS.make;
        Err(EngineError::Invalid(format!(
            "these data were written by {make} {}, and this machine has {}, which cannot read them",
            words(self.version),
            words(version)
        )))
    }
}

impl<F: Flavor> Mark<F> {
    /// The mark in a tree.
    pub fn read(data: &Path) -> Result<Option<Self>, EngineError> {
        seat::noted(&data.join(MARK))
    }

    /// Leaves it.
    pub fn write(&self, data: &Path, account: Option<&Account>) -> Result<(), EngineError> {
        seat::note(&data.join(MARK), self, account)
    }
}

/// Takes a mark away.
pub fn clear_mark(data: &Path) -> Result<(), EngineError> {
    durable::remove_if_there(&data.join(MARK)).map(drop).map_err(io("clearing a tree's mark"))
}

/// Notes in a stopped tree that is nobody's what wrote it.
pub fn remember<F: Flavor>(data: &Path, wrote: Option<Tree<F>>, account: Option<&Account>) -> Result<(), EngineError> {
    let Some(Tree { version, settings, .. }) = wrote else { return Ok(()) };
    seat::note(&data.join(NOTE), &Tree::<F> { epoch: None, manner: None, replay: None, version, settings }, account)
}

/// Whether a tree is a container's: Pando's note was taken out of it.
pub fn is_handed_over(data: &Path) -> bool {
    !data.join(NOTE).exists()
}

/// What belongs to another server, or to another run of one: its identity (M-1), its replication, perhaps with the
/// password of production (M-2), its persisted settings, its locks, temporary files and caches.
fn is_foreign(name: &str) -> bool {
    const FILES: [&str; 10] = [
        "auto.cnf",
        // Components that a server loads, where its installation lets the tree say so.
        "mysqld.my",
        "mysqld-auto.cnf",
        "binlog.index",
        "ib_buffer_pool",
        "ibtmp1",
        "master.info",
        "multi-master.info",
        "relay-log.info",
        "tc.log",
    ];
    FILES.contains(&name)
        || ["pando.", "master-", "relay-log-", "#sql"].iter().any(|begin| name.starts_with(begin))
        || name.split('.').next().is_some_and(|stem| stem.ends_with("relay-bin"))
        || [".pid", ".err", ".sock", ".lock"].iter().any(|end| name.ends_with(end))
}

/// Takes out what is foreign, at the top of the tree: what it costs does not depend on the size of the data.
pub fn clean(data: &Path) -> Result<(), EngineError> {
    let action = io("cleaning a tree");
    for entry in fs::read_dir(data).map_err(&action)? {
        let entry = entry.map_err(&action)?;
        if entry.file_name().to_str().is_some_and(is_foreign) {
            if !entry.file_type().map_err(&action)?.is_dir() {
                fs::remove_file(entry.path()).map_err(&action)?;
            } else if entry.file_name().to_string_lossy().starts_with("pando.") {
                // Others are databases, whose names may be any.
                fs::remove_dir_all(entry.path()).map_err(&action)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;

    #[test]
    fn m01_m02_identity_and_replication_are_taken_out() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        for file in [
            "auto.cnf",
            "mysqld-auto.cnf",
            "mysqld.my",
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
            "mysql.ibd",
        ] {
            fs::write(dir.path().join(file), "password=hunter2")?;
        }
        for name in ["pando.replay", "mysql", "#innodb_redo"] {
            fs::create_dir(dir.path().join(name))?;
        }
        clean(dir.path())?;
        let mut left: Vec<_> = fs::read_dir(dir.path())?.flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["#innodb_redo", "aria_log_control", "ib_logfile0", "ibdata1", "mysql", "mysql.ibd"]);
        Ok(())
    }

    #[test]
    fn m13_an_older_server_than_the_one_that_wrote_a_tree_is_refused_where_it_cannot_read_it() {
        let tree = Tree::<Mysql>::of_mirror(None, (9, 7, 4), &Facts::default());
        assert!(tree.suits((9, 7, 4)).is_ok() && tree.suits((9, 7, 12)).is_ok());
        let refused = tree.suits((9, 7, 3)).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|words| words.contains("written by MySQL 9.7.4")));
        // MariaDB's formats do not change inside a series.
        assert!(Tree::<Mariadb>::of_mirror(None, (10, 11, 9), &Facts::default()).suits((10, 11, 8)).is_ok());
    }
}
