//! Option files of MariaDB and MySQL servers, and what in them both have in common.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use pando_model::{Profile, SettingChange};
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// Lines of an option file.
#[derive(Debug)]
pub struct Options {
    section: &'static str,
    lines: Vec<(String, String)>,
}

impl Options {
    /// None yet, for a section of the file.
    pub fn of(section: &'static str) -> Self {
        Self { section, lines: Vec::new() }
    }

    /// One more.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.lines.push((name.to_owned(), value.into()));
        self
    }

    /// One more, a path.
    pub fn path(&mut self, name: &str, value: &Path) -> &mut Self {
        self.set(name, value.to_string_lossy())
    }

    /// Adds what changes the meaning of data or queries, as production has it.
    pub fn shared(&mut self, settings: &BTreeMap<String, String>, names: &[&str]) {
        for (name, value) in names.iter().filter_map(|name| Some((*name, settings.get(*name)?))) {
            match (name, value.as_str()) {
                ("time_zone", "SYSTEM") => {}
                ("time_zone", zone) => drop(self.set("default_time_zone", zone)),
                _ => drop(self.set(name, value)),
            }
        }
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = format!("# Written by Pando; changes are lost. Use `--set name=value`.\n[{}]\n", self.section);
        for (name, value) in &self.lines {
            let _ = writeln!(text, "{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        }
        text
    }
}

/// Where a server lives.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// Its data.
    pub data: &'a Path,
    /// Its socket.
    pub run: &'a Path,
    /// Its own number (M-1).
    pub server_id: u32,
}

/// A number that no other server of production, mirror or clone has.
pub fn server_id(of: &str, production: Option<&String>) -> u32 {
    let production = production.and_then(|id| id.parse::<u32>().ok());
    let mut id = crc32c::crc32c(of.as_bytes()) | 0x4000_0000;
    if Some(id) == production {
        id ^= 1;
    }
    id
}

/// How a clone is to be served; kept in its tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manner {
    /// The port on loopback.
    pub port: Option<u16>,
    /// What its data is worth.
    pub profile: Profile,
    /// What the user set.
    pub set: SettingChange,
    /// What it calls its binary logs, where it records.
    pub record: Option<PathBuf>,
    /// Whether it may be entered.
    pub open: bool,
}

/// Whether a user may set this.
pub fn check(make: &str, ours: &[&str], name: &str, value: &str) -> Result<(), EngineError> {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !plain {
        return Err(EngineError::Invalid(format!("{name:?} is not the name of a {make} setting")));
    }
    let known = name.to_lowercase().replace('-', "_");
    // The server reads `skip_x`, `loose_x` and so on as x.
    let prefixed =
        ["skip_", "loose_", "disable_", "enable_", "maximum_"].iter().any(|prefix| known.starts_with(prefix));
    if prefixed || ours.contains(&known.as_str()) {
        return Err(EngineError::Invalid(format!("the setting {name} belongs to Pando and cannot be changed")));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(EngineError::Invalid(format!("the value of {name} has a line break in it")));
    }
    Ok(())
}
