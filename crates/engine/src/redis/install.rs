//! The Redis and Valkey servers of this machine, and which of them reads what a production sends.

use std::fmt;
use std::path::{Path, PathBuf};

use pando_host::Tool;
use pando_host::tool::SEARCH_PATH;
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Redis.
    Redis,
    /// Valkey, which went its own way after Redis 7.2.
    Valkey,
}

/// A server's kind and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Whose.
    pub family: Family,
    /// Its first two numbers.
    pub number: (u32, u32),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Redis => "Redis",
            Family::Valkey => "Valkey",
        };
        write!(f, "{family} {}.{}", self.number.0, self.number.1)
    }
}

impl Version {
    /// Reads `7.0.15`.
    pub fn parse(family: Family, text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(str::parse::<u32>);
        Some(Self { family, number: (numbers.next()?.ok()?, numbers.next()?.ok()?) })
    }

    /// Whether a server of this version loads what the other one wrote: the formats grow with the versions,
    /// and are shared by both families up to Redis 7.2.
    pub fn loads(self, other: Self) -> bool {
        match (self.family, other.family) {
            (one, two) if one == two => self.number >= other.number,
            (Family::Valkey, _) => other.number <= (7, 2),
            (Family::Redis, _) => self.number >= (7, 2) && other.number < (9, 0),
        }
    }
}

/// A server that is installed.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Its version.
    pub version: Version,
    /// The whole of it: `7.0.15`.
    pub exact: String,
    program: PathBuf,
}

impl Installation {
    /// The server's program.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

/// The first version that notes the time in its append-only file.
pub const OLDEST: (u32, u32) = (7, 0);

/// All servers that are installed and can be used.
#[derive(Debug, Clone, Default)]
pub struct Installations(Vec<Installation>);

impl Installations {
    /// Looks in `extra` directories and their `bin` first, then in the usual places.
    pub fn find(extra: &[PathBuf]) -> Self {
        let extra: Vec<PathBuf> = extra.iter().flat_map(|dir| [dir.clone(), dir.join("bin")]).collect();
        let dirs = extra.iter().map(PathBuf::as_path).chain(SEARCH_PATH.iter().map(Path::new));
        let mut found: Vec<Installation> = Vec::new();
        for dir in dirs {
            for (family, name) in [(Family::Redis, "redis-server"), (Family::Valkey, "valkey-server")] {
                let Some(tool) = Tool::find_in([dir], name) else { continue };
                let said = tool.command().arg("--version").run().map(|finished| finished.text()).unwrap_or_default();
                // Debian's valkey has links of Redis' names.
                let family = if said.starts_with("Valkey") { Family::Valkey } else { family };
                let version = words(&said, family).filter(|version| version.number >= OLDEST);
                if let Some(version) = version.filter(|version| found.iter().all(|one| one.version != *version)) {
                    let exact = number(&said).unwrap_or_default().to_owned();
                    found.push(Installation { version, exact, program: tool.path().to_owned() });
                }
            }
        }
        found.sort_by_key(|one| one.version.number);
        Self(found)
    }

    /// The oldest server that loads what a production of that version writes.
    pub fn for_production(&self, production: Version) -> Result<&Installation, EngineError> {
        self.0.iter().find(|one| one.version.loads(production)).ok_or_else(|| {
            EngineError::Invalid(format!(
                "production is {production}; the servers of this machine cannot read its data: {}",
                self.words()
            ))
        })
    }

    /// In words.
    pub fn words(&self) -> String {
        if self.0.is_empty() {
            return "none of version 7.0 or later".to_owned();
        }
        self.0.iter().map(|one| one.version.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads `Redis server v=7.0.15 sha=…`.
pub fn words(said: &str, family: Family) -> Option<Version> {
    Version::parse(family, number(said)?)
}

fn number(said: &str) -> Option<&str> {
    said.split_whitespace().find_map(|word| word.strip_prefix("v="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r08_a_server_loads_what_is_not_newer_than_itself() {
        let version = |family, text| Version::parse(family, text).expect("a version");
        let redis = |text| version(Family::Redis, text);
        let valkey = |text| version(Family::Valkey, text);
        assert_eq!(words("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc", Family::Redis), Some(redis("7.0.15")));
        assert!(redis("7.0.15").loads(redis("6.2.6")) && !redis("7.0.15").loads(redis("7.2.4")));
        assert!(valkey("8.0.1").loads(redis("7.2.4")) && !valkey("8.0.1").loads(redis("7.4.0")));
        assert!(redis("7.2.4").loads(valkey("8.0.1")) && !redis("7.0.15").loads(valkey("7.2.5")));
        assert!(!valkey("8.0.1").loads(valkey("8.1.0")));
    }
}
