//! The MySQL installations of this machine: one per series (`8.4`), with the programs Pando needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pando_host::{Tool, ToolError};

use crate::EngineError;

/// A series: the first two numbers of a version. A replica is of its production's series.
pub type Series = (u32, u32);
/// A whole version. Formats change with the third number too, and only forwards (M-13).
pub type Version = (u32, u32, u32);

/// The oldest version whose statements this engine speaks.
pub const OLDEST: Version = (8, 0, 26);
/// What brings a server here. These packages start none.
pub const INSTALL: &str = "apt-get install mysql-server-core mysql-client-core  # of production's series; Debian has them in \
    its unstable release alone: `scripts/matrix install mysql-sid` unpacks them, and `pando serve --mysql DIR` uses them";

/// One installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Its version.
    pub version: Version,
    /// What its programs must be told to be their home: they were built for another.
    pub prefix: PathBuf,
    dirs: Vec<PathBuf>,
}

impl Installation {
    /// One of its programs.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn tool(&self, name: &str) -> Result<Tool, EngineError> {
        Tool::find_in(self.dirs.iter().map(PathBuf::as_path), name).ok_or_else(|| EngineError::Tool {
            action: format!("looking for {name} of MySQL {}", words(self.version)),
            source: ToolError::Missing { name: name.to_owned(), install: Some(INSTALL.to_owned()) },
        })
    }
}

/// All installations, by series.
#[derive(Debug, Clone, Default)]
pub struct Installations(BTreeMap<Series, Installation>);

impl Installations {
    /// Looks in `extra` prefixes first (each with `bin`, `sbin`), then in the usual places.
    pub fn find(extra: &[PathBuf]) -> Self {
        let mut prefixes = extra.to_vec();
        let own = std::fs::read_dir("/opt/mysql").into_iter().flatten().flatten();
        prefixes.extend(own.map(|entry| entry.path()));
        prefixes.extend(["/usr", "/usr/local", "/usr/local/mysql"].map(PathBuf::from));
        let mut found = BTreeMap::new();
        for prefix in prefixes {
            if let Some(installation) = Self::look(&prefix) {
                let (major, minor, _) = installation.version;
                found.entry((major, minor)).or_insert(installation);
            }
        }
        Self(found)
    }

    fn look(prefix: &Path) -> Option<Installation> {
        let dirs: Vec<PathBuf> =
            ["sbin", "bin"].iter().map(|dir| prefix.join(dir)).filter(|dir| dir.is_dir()).collect();
        let server = Tool::find_in(dirs.iter().map(PathBuf::as_path), "mysqld")?;
        let version = parse_version(&server.command().arg("--no-defaults").arg("--version").run().ok()?.text())?;
        Some(Installation { version, prefix: prefix.to_owned(), dirs })
    }

    /// The installation of a series.
    ///
    /// # Errors
    /// When it is not there; names those that are.
    pub fn of(&self, (major, minor): Series) -> Result<&Installation, EngineError> {
        self.0.get(&(major, minor)).ok_or_else(|| EngineError::Tool {
            action: format!("MySQL {major}.{minor} is needed here; {}", self.words()),
            source: ToolError::Missing {
                name: format!("mysqld (series {major}.{minor})"),
                install: Some(INSTALL.to_owned()),
            },
        })
    }

    /// The newest installation, for its client.
    pub fn newest(&self) -> Option<&Installation> {
        self.0.values().next_back()
    }

    /// What is there, in words.
    pub fn words(&self) -> String {
        if self.0.is_empty() {
            return "no MySQL server is installed".to_owned();
        }
        let versions: Vec<String> = self.0.values().map(|one| words(one.version)).collect();
        format!("installed: {}", versions.join(", "))
    }
}

/// A version as it is written.
pub fn words((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

/// The version at the beginning of a text such as `8.0.36-0ubuntu0.22.04.1`.
pub fn version(text: &str) -> Option<Version> {
    let mut numbers = text.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))`; MariaDB's says of itself that it is that.
fn parse_version(text: &str) -> Option<Version> {
    let word = text.split("Ver ").nth(1)?.split_whitespace().next()?;
    (!text.contains("MariaDB")).then(|| version(word))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_read_and_mariadb_is_not_taken_for_mysql() {
        assert_eq!(parse_version("/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))"), Some((9, 7, 4)));
        assert_eq!(
            parse_version("mysqld  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)"),
            Some((8, 0, 36))
        );
        assert_eq!(parse_version("mysqld  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64"), None);
        assert_eq!((version("8.4.3-log"), version("8.4")), (Some((8, 4, 3)), None));
    }

    proptest! {
        #[test]
        fn any_text_is_a_version_or_none(at in 0_usize..40, less in 0_usize..9, more in ".{0,6}|[0-9.+-]{0,12}") {
            let mut text = "/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))".to_owned();
            text.replace_range(at..(at + less).min(text.len()), &more);
            if let Some(read) = parse_version(&text) {
                prop_assert_eq!(version(&words(read)), Some(read));
            }
            let _ = version(&more);
        }
    }

    #[test]
    fn m13_another_series_is_not_taken_for_the_right_one() {
        let none = Installations::default();
        assert!(none.of((8, 4)).is_err_and(|error| error.to_string().contains("MySQL 8.4 is needed here")));
    }
}
