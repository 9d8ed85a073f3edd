//! The MariaDB or MySQL installations of this machine: one per series (`10.11`), with the programs Pando needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pando_host::{Tool, ToolError};
use pando_model::SourceUrl;

use crate::EngineError;

/// A series: the first two numbers of a version. A mirror is of its production's series (M-13).
pub type Series = (u32, u32);
/// A whole version.
pub type Version = (u32, u32, u32);

/// The programs of one make of server.
#[derive(Debug)]
pub struct Programs {
    /// Its name.
    pub make: &'static str,
    /// The server.
    pub server: &'static str,
    /// The client.
    pub client: &'static str,
    /// What makes a dump.
    pub dump: &'static str,
    /// Where its series have directories of their own.
    pub home: &'static str,
    /// What installs a program of it.
    pub install: fn(&str) -> &'static str,
    /// How an address says what the client does about TLS.
    pub secure: fn(&SourceUrl) -> Vec<(&'static str, String)>,
}

/// One installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Its version.
    pub version: Version,
    /// What its programs must be told to be their home: they were built for another.
    pub prefix: PathBuf,
    /// What they are called.
    pub programs: &'static Programs,
    dirs: Vec<PathBuf>,
}

impl Installation {
    /// One of its programs.
    ///
    /// # Errors
    /// When the program is missing; the hint says what installs it.
    pub fn tool(&self, name: &str) -> Result<Tool, EngineError> {
        Tool::find_in(self.dirs.iter().map(PathBuf::as_path), name).ok_or_else(|| EngineError::Tool {
            action: format!("looking for {name} of {} {}", self.programs.make, words(self.version)),
            source: ToolError::Missing {
                name: name.to_owned(),
                install: Some((self.programs.install)(name).to_owned()),
            },
        })
    }

    /// Its client.
    ///
    /// # Errors
    /// When it is missing.
    pub fn client(&self) -> Result<Tool, EngineError> {
        self.tool(self.programs.client)
    }
}

/// All installations of a make, by series.
#[derive(Debug, Clone)]
pub struct Installations {
    programs: &'static Programs,
    found: BTreeMap<Series, Installation>,
}

impl Installations {
    /// None.
    pub fn none(programs: &'static Programs) -> Self {
        Self { programs, found: BTreeMap::new() }
    }

    /// Looks in `extra` prefixes first (each with `bin`, `sbin` or `usr/…`), then in the usual places.
    pub fn find(programs: &'static Programs, extra: &[PathBuf]) -> Self {
        let mut prefixes = extra.to_vec();
        let own = std::fs::read_dir(programs.home).into_iter().flatten().flatten();
        prefixes.extend(own.map(|entry| entry.path()));
        prefixes.extend(["/usr", "/usr/local", "/usr/local/mysql"].map(PathBuf::from));
        let mut all = Self::none(programs);
        for prefix in prefixes {
            if let Some(installation) = all.look(&prefix) {
                let (major, minor, _) = installation.version;
                all.found.entry((major, minor)).or_insert(installation);
            }
        }
        all
    }

    fn look(&self, prefix: &Path) -> Option<Installation> {
        let dirs: Vec<PathBuf> = ["sbin", "bin", "libexec", "scripts"]
            .iter()
            .map(|dir| prefix.join(dir))
            .filter(|dir| dir.is_dir())
            .collect();
        let server = Tool::find_in(dirs.iter().map(PathBuf::as_path), self.programs.server)?;
        let text = server.command().arg("--no-defaults").arg("--version").run().ok()?.text();
        let version = said(self.programs.make, &text)?;
        Some(Installation { version, prefix: prefix.to_owned(), programs: self.programs, dirs })
    }

    /// The installation of a series.
    ///
    /// # Errors
    /// When it is not there; names those that are.
    pub fn of(&self, (major, minor): Series) -> Result<&Installation, EngineError> {
        let Programs { make, server, .. } = self.programs;
        self.found.get(&(major, minor)).ok_or_else(|| EngineError::Tool {
            action: format!("{make} {major}.{minor} is needed here; {}", self.words()),
            source: ToolError::Missing {
                name: format!("{server} (series {major}.{minor})"),
                install: Some((self.programs.install)(server).to_owned()),
            },
        })
    }

    /// The newest installation, for its client.
    pub fn newest(&self) -> Option<&Installation> {
        self.found.values().next_back()
    }

    /// The make.
    pub fn make(&self) -> &'static str {
        self.programs.make
    }

    /// What installs a server.
    pub fn hint(&self) -> &'static str {
        (self.programs.install)(self.programs.server)
    }

    /// What is there, in words.
    pub fn words(&self) -> String {
        if self.found.is_empty() {
            return format!("no {} server is installed", self.programs.make);
        }
        let versions: Vec<String> = self.found.values().map(|one| words(one.version)).collect();
        format!("installed: {}", versions.join(", "))
    }
}

/// A version as it is written.
pub fn words((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

/// The version at the beginning of a text such as `8.0.36-0ubuntu0.22.04.1`. A MariaDB may claim to be a MySQL first:
/// `5.5.5-10.11.19-MariaDB`.
pub fn version(text: &str) -> Option<Version> {
    let mut numbers = text.strip_prefix("5.5.5-").unwrap_or(text).split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The version in what a server says to `--version`, if it is of a make: `mariadbd  Ver 10.11.19-MariaDB-… for …`. Only
/// MariaDB names itself; both may be called `mysqld`.
pub fn said(make: &str, text: &str) -> Option<Version> {
    let word = text.split("Ver ").nth(1)?.split_whitespace().next()?;
    (text.contains("MariaDB") == (make == "MariaDB")).then(|| version(word))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;
    use crate::mysql_family::flavor::Flavor;

    #[test]
    fn versions_are_read_and_mariadb_is_not_taken_for_mysql() {
        let mariadb = "mysqld  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        let mysql = "/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))";
        assert_eq!((said("MariaDB", mariadb), said("MySQL", mariadb)), (Some((10, 11, 19)), None));
        assert_eq!((said("MariaDB", mysql), said("MySQL", mysql)), (None, Some((9, 7, 4))));
        let ubuntu = "mysqld  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)";
        assert_eq!(said("MySQL", ubuntu), Some((8, 0, 36)));
        assert_eq!((version("8.4.3-log"), version("8.4"), version("x")), (Some((8, 4, 3)), None, None));
        assert_eq!(version("5.5.5-11.4.2-MariaDB-1"), Some((11, 4, 2)));
    }

    proptest! {
        #[test]
        fn any_text_is_a_version_or_none(at in 0_usize..60, less in 0_usize..9, more in ".{0,6}|[0-9.+-]{0,12}") {
            for (make, text) in [
                ("MariaDB", "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64"),
                ("MySQL", "/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian)) (MySQL Community)"),
            ] {
                let mut text = text.to_owned();
                text.replace_range(at..(at + less).min(text.len()), &more);
                if let Some(read) = said(make, &text) {
                    prop_assert_eq!(version(&words(read)), Some(read));
                }
            }
            let _ = version(&more);
        }
    }

    #[test]
    fn m13_another_series_is_not_taken_for_the_right_one() {
        for (programs, words) in
            [(&Mariadb::PROGRAMS, "MariaDB 10.6 is needed here"), (&Mysql::PROGRAMS, "MySQL 10.6 is needed here")]
        {
            let none = Installations::none(programs);
            assert!(none.of((10, 6)).is_err_and(|error| error.to_string().contains(words)));
        }
    }
}
