//! What the simulated engine keeps on disk, so that pools, crashes and lost directories are real.

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::Path;

use jiff::Timestamp;
use pando_host::durable::{remove_if_there, remove_tree_if_there};
use pando_model::Lsn;
use serde::{Deserialize, Serialize};

use crate::{EngineError, Stretch};

/// What a tree stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlaceOf {
    pub epoch: u32,
    pub index: u64,
    pub through: Timestamp,
}

/// One stretch of log.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Epoch {
    pub epoch: u32,
    pub first: u64,
    pub last: u64,
    pub through: Timestamp,
}

impl Epoch {
    pub fn stretch(&self) -> Stretch {
        Stretch { epoch: self.epoch, first: Lsn(self.first), last: Lsn(self.last), through: Some(self.through) }
    }
}

impl PlaceOf {
    pub fn read(data: &Path) -> Result<Self, EngineError> {
        let text = read_text(data, "place")?;
        serde_json::from_str(&text).map_err(|_| EngineError::Invalid(format!("{} is no sim tree", data.display())))
    }

    pub fn write(&self, data: &Path) -> Result<(), EngineError> {
        write_text(data, "place", &serde_json::json!(self).to_string())
    }
}

pub fn io<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(Error) -> EngineError + 'a {
    move |source| EngineError::Io { action: format!("{action} {}", path.display()), source }
}

pub fn empty(data: &Path) -> Result<(), EngineError> {
    remove_tree_if_there(data).and_then(|_| fs::create_dir_all(data)).map_err(io("emptying", data))
}

pub fn remove(data: &Path, name: &str) -> Result<(), EngineError> {
    let path = data.join(name);
    remove_if_there(&path).map(drop).map_err(io("removing", &path))
}

pub fn read_text(dir: &Path, name: &str) -> Result<String, EngineError> {
    let path = dir.join(name);
    fs::read_to_string(&path).map_err(io("reading", &path))
}

/// Whole or not at all, without the syncs that only a crash of the machine would need.
pub fn write_text(dir: &Path, name: &str, text: &str) -> Result<(), EngineError> {
    let (path, next) = (dir.join(name), dir.join(format!(".{name}.tmp")));
    fs::write(&next, text).and_then(|()| fs::rename(&next, &path)).map_err(io("writing", &path))
}

pub fn read_stretches(log: &Path) -> Result<Vec<Epoch>, EngineError> {
    let path = log.join("stretches");
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io("reading", &path)(error)),
        Ok(text) => serde_json::from_str(&text)
            .map_err(|_| EngineError::Invalid(format!("{} is no list of stretches", path.display()))),
    }
}

pub fn write_stretches(log: &Path, epochs: &[Epoch]) -> Result<(), EngineError> {
    fs::create_dir_all(log).map_err(io("making", log))?;
    write_text(log, "stretches", &serde_json::json!(epochs).to_string())
}
