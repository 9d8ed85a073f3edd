//! The PostgreSQL installations of this machine: one per major version, with the programs Pando needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pando_host::{Tool, ToolError};

use crate::EngineError;

/// The majors this engine knows the file formats of.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 13..=18;

/// One installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Its major version.
    pub major: u32,
    /// Its whole version, such as `15.18`.
    pub version: String,
    pub(super) bin: PathBuf,
}

impl Installation {
    /// One of its programs.
    ///
    /// # Errors
    /// When the program is missing; the hint names Debian's package.
    pub fn tool(&self, name: &str) -> Result<Tool, EngineError> {
        Tool::find_in([self.bin.as_path()], name).ok_or_else(|| EngineError::Tool {
            action: format!("looking for PostgreSQL {}'s {name}", self.major),
            source: ToolError::Missing {
                name: name.to_owned(),
                install: Some(format!("apt-get install postgresql-{}", self.major)),
            },
        })
    }

    /// Where its extensions' libraries lie, if `pg_config` or the usual layout tells.
    pub fn library_exists(&self, library: &str) -> bool {
        let file = format!("{}.so", library.trim_start_matches("$libdir/").trim_end_matches(".so"));
        // Debian and source builds keep libraries in ../lib beside bin, some in ../lib/postgresql.
        ["lib", "lib/postgresql", "lib64"]
            .iter()
            .filter_map(|dir| Some(self.bin.parent()?.join(dir).join(&file)))
            .any(|path| path.is_file())
    }

    /// Whether an extension can be used here: its control file is there.
    pub fn extension_exists(&self, extension: &str) -> bool {
        let file = format!("{extension}.control");
        let prefix = self.bin.parent();
        // Debian's, then those of builds with a prefix of their own.
        let debian = PathBuf::from(format!("/usr/share/postgresql/{}/extension", self.major));
        let own = ["share/extension", "share/postgresql/extension"].map(|dir| prefix.map(|prefix| prefix.join(dir)));
        std::iter::once(Some(debian)).chain(own).flatten().any(|dir| dir.join(&file).is_file())
    }
}

/// All installations, by major.
#[derive(Debug, Clone, Default)]
pub struct Installations(BTreeMap<u32, Installation>);

impl Installations {
    /// Looks in `extra` directories first, then in the usual places of Debian, Red Hat and source builds.
    pub fn find(extra: &[PathBuf]) -> Self {
        let mut bins = extra.to_vec();
        for (root, tail) in [("/usr/lib/postgresql", "bin"), ("/opt/postgresql", "bin")] {
            let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
            bins.extend(entries.map(|entry| entry.path().join(tail)));
        }
        bins.extend(SUPPORTED.map(|major| PathBuf::from(format!("/usr/pgsql-{major}/bin"))));
        bins.extend(["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from));
        let mut found = BTreeMap::new();
        for bin in bins {
            if let Some(installation) = Self::look(&bin) {
                found.entry(installation.major).or_insert(installation);
            }
        }
        Self(found)
    }

    fn look(bin: &Path) -> Option<Installation> {
        let server = Tool::find_in([bin], "postgres")?;
        let version = parse_version(&server.command().arg("--version").run().ok()?.text())?;
        let major = version.split('.').next()?.parse().ok()?;
        Some(Installation { major, version, bin: bin.to_owned() })
    }

    /// The installation of a major version.
    ///
    /// # Errors
    /// When it is not there; names those that are.
    pub fn of(&self, major: u32) -> Result<&Installation, EngineError> {
        self.0.get(&major).ok_or_else(|| EngineError::Tool {
            action: format!("PostgreSQL {major} is needed here; {}", self.words()),
            source: ToolError::Missing {
                name: format!("postgres (major version {major})"),
                install: Some(format!("apt-get install postgresql-{major}")),
            },
        })
    }

    /// The newest installation, for its clients.
    pub fn newest(&self) -> Option<&Installation> {
        self.0.values().next_back()
    }

    /// What is there, in words.
    pub fn words(&self) -> String {
        if self.0.is_empty() {
            return "no PostgreSQL server is installed".to_owned();
        }
        let versions: Vec<&str> = self.0.values().map(|one| one.version.as_str()).collect();
        format!("installed: {}", versions.join(", "))
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` gives `15.18`; betas give their leading number.
pub(super) fn parse_version(text: &str) -> Option<String> {
    let word = text.split("(PostgreSQL)").nth(1)?.split_whitespace().next()?;
    let number: String = word.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (!number.is_empty()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let read = |text: &str| parse_version(text);
        assert_eq!(read("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").as_deref(), Some("15.18"));
        assert_eq!(read("postgres (PostgreSQL) 18beta1").as_deref(), Some("18"));
        assert_eq!(read("nonsense"), None);
    }
}
