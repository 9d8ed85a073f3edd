//! The MariaDB installations of this machine: one per series (`10.11`), with the programs Pando needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pando_host::{Tool, ToolError};

use crate::EngineError;

/// A series: the first two numbers of a version. Formats change between series, not inside one (M-13).
pub type Series = (u32, u32);

/// The series this engine knows.
pub const SUPPORTED: std::ops::RangeInclusive<Series> = (10, 5)..=(12, 99);

/// One installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Its whole version, such as `10.11.19`.
    pub version: String,
    /// What its programs must be told to be their home: they were built for another.
    pub prefix: PathBuf,
    dirs: Vec<PathBuf>,
}

impl Installation {
    /// One of its programs.
    ///
    /// # Errors
    /// When the program is missing; the hint names Debian's package.
    pub fn tool(&self, name: &str) -> Result<Tool, EngineError> {
        Tool::find_in(self.dirs.iter().map(PathBuf::as_path), name).ok_or_else(|| EngineError::Tool {
            action: format!("looking for {name} of MariaDB {}", self.version),
            source: ToolError::Missing {
                name: name.to_owned(),
                install: Some(format!("apt-get install {}", package(name))),
            },
        })
    }
}

/// Debian's package of a program. These packages start no server.
fn package(name: &str) -> &'static str {
    match name {
        "mariadbd" | "mariadb-install-db" => "mariadb-server-core",
        "mariadb-backup" => "mariadb-backup",
        _ => "mariadb-client",
    }
}

/// All installations, by series.
#[derive(Debug, Clone, Default)]
pub struct Installations(BTreeMap<Series, Installation>);

impl Installations {
    /// Looks in `extra` prefixes first (each with `bin`, `sbin` or `usr/…`), then in the usual places.
    pub fn find(extra: &[PathBuf]) -> Self {
        let mut prefixes = extra.to_vec();
        let own = std::fs::read_dir("/opt/mariadb").into_iter().flatten().flatten();
        prefixes.extend(own.map(|entry| entry.path()));
        prefixes.extend(["/usr", "/usr/local", "/usr/local/mysql"].map(PathBuf::from));
        let mut found = BTreeMap::new();
        for prefix in prefixes {
            if let Some((series, installation)) = Self::look(&prefix) {
                found.entry(series).or_insert(installation);
            }
        }
        Self(found)
    }

    fn look(prefix: &Path) -> Option<(Series, Installation)> {
        let dirs: Vec<PathBuf> = ["sbin", "bin", "libexec", "scripts"]
            .iter()
            .map(|dir| prefix.join(dir))
            .filter(|dir| dir.is_dir())
            .collect();
        let server = Tool::find_in(dirs.iter().map(PathBuf::as_path), "mariadbd")?;
        let version = parse_version(&server.command().arg("--no-defaults").arg("--version").run().ok()?.text())?;
        Some((series(&version)?, Installation { version, prefix: prefix.to_owned(), dirs }))
    }

    /// The installation of a series.
    ///
    /// # Errors
    /// When it is not there; names those that are.
    pub fn of(&self, (major, minor): Series) -> Result<&Installation, EngineError> {
        self.0.get(&(major, minor)).ok_or_else(|| EngineError::Tool {
            action: format!("MariaDB {major}.{minor} is needed here; {}", self.words()),
            source: ToolError::Missing {
                name: format!("mariadbd (series {major}.{minor})"),
                install: Some("apt-get install mariadb-server-core mariadb-client".to_owned()),
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
            return "no MariaDB server is installed".to_owned();
        }
        let versions: Vec<&str> = self.0.values().map(|one| one.version.as_str()).collect();
        format!("installed: {}", versions.join(", "))
    }
}

/// The series of a version.
pub fn series(version: &str) -> Option<Series> {
    let mut numbers = version.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (…)` gives `10.11.19`.
fn parse_version(text: &str) -> Option<String> {
    let word = text.split("Ver ").nth(1)?.split_whitespace().next()?;
    word.contains("MariaDB").then(|| word.split('-').next().unwrap_or(word).to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_read() {
        let text = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        assert_eq!(parse_version(text).as_deref(), Some("10.11.19"));
        assert_eq!(parse_version("mysqld  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)"), None);
        assert_eq!(series("10.11.19-MariaDB-log"), Some((10, 11)));
        assert_eq!(series("x"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_a_version_or_none(at in 0_usize..60, less in 0_usize..9, more in ".{0,6}|[0-9.-]{0,9}") {
            let mut text = "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64".to_owned();
            text.replace_range(at..(at + less).min(text.len()), &more);
            let version = parse_version(&text);
            prop_assert!(version.as_ref().is_none_or(|version| !version.contains(char::is_whitespace)), "{:?}", version);
            let _ = (version.as_deref().and_then(series), series(&more));
        }
    }

    #[test]
    fn m13_another_series_is_not_taken_for_the_right_one() {
        let none = Installations::default();
        assert!(none.of((10, 6)).is_err_and(|error| error.to_string().contains("MariaDB 10.6 is needed here")));
    }
}
