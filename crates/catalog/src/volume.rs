//! The record of a volume: a name that a container engine knows, for one directory of a clone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pando_model::{CloneId, Name};
use serde::{Deserialize, Serialize};

use crate::Record;

/// A directory of a clone, under a name of a container engine's. Several volumes of one clone are one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The engine's name for it; also one of the clone's names.
    pub name: Name,
    /// Whose directory it is.
    pub clone: CloneId,
    /// Which one.
    pub source: Name,
    /// What the engine was asked for, without secrets.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Record for VolumeRecord {
    const TABLE: &'static str = "volumes";
    fn id(&self) -> String {
        self.name.to_string()
    }
    fn key(&self) -> String {
        self.clone.to_string()
    }
}
