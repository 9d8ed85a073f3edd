//! MariaDB in a container: which image is of production's own version, whether an image suits a tree (M-13), and where
//! an image has its data.
//!
//! Nothing in a tree depends on the C library: MariaDB brings its own orders of texts.

use std::path::PathBuf;

use super::MariadbEngine;
use super::config;
use super::facts::Facts;
use super::install::{Series, series};
use crate::session::failed;
use crate::{Baked, EngineError, Finding, ImageContent, ImageLook, Seat, UnitPlan};

/// What to look for.
pub const LOOK: ImageLook = ImageLook { server: "mariadbd", libraries: false };

/// The official image of exactly that version: `mariadb:10.11.19`.
pub fn official(facts: &Facts) -> String {
    // "10.11.19-MariaDB-0+deb12u1-log", and of a server that claims to be a MySQL "5.5.5-10.11.19-MariaDB"
    let version = facts.version.strip_prefix("5.5.5-").unwrap_or(&facts.version);
    format!("mariadb:{}", version.split('-').next().unwrap_or_default())
}

/// Where the official image has its data. There the server is told what it has to be.
pub fn baked(env: &dyn Fn(&str) -> Option<String>) -> Baked {
    let path = "/var/lib/mysql".to_owned();
    let command = vec![LOOK.server.to_owned(), format!("--defaults-extra-file={path}/{}", config::FILE)];
    // "1:10.11.14+maria~ubu2204"
    let version = env("MARIADB_VERSION").and_then(|text| {
        let number = text.rsplit(':').next()?.split(['+', '-', '~']).next()?.to_owned();
        Some(format!("{}  Ver {number}-MariaDB", LOOK.server))
    });
    Baked { path, account: "mysql", port: 3306, version, command: Some(command) }
}

/// The largest tables, with their indexes.
pub fn largest(engine: &MariadbEngine, seat: &Seat) -> Result<Vec<(String, u64)>, EngineError> {
    let asked = "SELECT CONCAT(table_schema, '.', table_name), data_length + index_length FROM information_schema.tables \
                 WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('mysql', 'performance_schema', 'sys') \
                 ORDER BY 2 DESC LIMIT 5";
    let found = engine.sessions.with(&seat.run, |session| session.query(asked));
    let found = found.map_err(failed("asking for the largest tables"))?;
    let text = |cell: Option<&Option<String>>| cell.cloned().flatten().unwrap_or_default();
    Ok(found.rows.iter().map(|row| (text(row.first()), text(row.get(1)).parse().unwrap_or(0))).collect())
}

/// A server's plan without the paths of this machine: an image's server knows its own.
pub fn contained(plan: UnitPlan) -> UnitPlan {
    let args = plan.args.into_iter().filter(|arg| !arg.starts_with("--basedir=")).collect();
    UnitPlan { program: PathBuf::from("/usr/bin").join(LOOK.server), args, ..plan }
}

/// The version in what a server says to `--version`: `mariadbd  Ver 10.11.19-MariaDB-… for …`.
fn said(text: &str) -> Option<&str> {
    let word = text.split("Ver ").nth(1)?.split_whitespace().next()?;
    word.contains("MariaDB").then(|| word.split('-').next().unwrap_or(word))
}

/// The numbers of a version.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|number| number.parse().ok()).collect()
}

/// What of a tree an image does not suit. `written_by`: the version of this machine's server, which wrote the tree.
pub fn suits(of: Series, written_by: &str, image: &ImageContent) -> Vec<Finding> {
    let (major, minor) = of;
    let fix = Some(format!("name an image of MariaDB {major}.{minor}: --image SOURCE=REFERENCE"));
    let Some(version) = image.version.as_deref().and_then(said) else {
        return vec![Finding { what: "it has no MariaDB server".to_owned(), fix, fatal: true }];
    };
    if series(version) != Some(of) {
        let what = format!("it has MariaDB {version}, production is MariaDB {major}.{minor}");
        return vec![Finding { what, fix, fatal: true }];
    }
    // Formats do not change inside a series; that a server is older than the tree is worth a word all the same.
    if numbers(version) < numbers(written_by) {
        let what = format!("it has MariaDB {version}, and the mirror's server, which wrote the data, is {written_by}");
        return vec![Finding { what, fix, fatal: false }];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_image_has_the_exact_version() {
        let of = |version: &str| official(&Facts { version: version.to_owned(), ..Facts::default() });
        assert_eq!(of("10.11.19-MariaDB-0+deb12u1-log"), "mariadb:10.11.19");
        assert_eq!(of("5.5.5-11.4.2-MariaDB-1"), "mariadb:11.4.2");
    }

    #[test]
    fn m13_the_image_says_its_version() {
        let env = |name: &str| (name == "MARIADB_VERSION").then(|| "1:10.11.14+maria~ubu2204".to_owned());
        let content = ImageContent { version: baked(&env).version, ..ImageContent::default() };
        assert!(suits((10, 11), "10.11.9", &content).is_empty());
        assert!(suits((10, 6), "10.6.9", &content)[0].fatal);
    }

    #[test]
    fn m13_an_image_of_another_series_or_make_is_refused() {
        let of = |said: &str| {
            let content = ImageContent { version: Some(said.to_owned()), ..ImageContent::default() };
            suits((10, 11), "10.11.9", &content)
        };
        let line =
            |version: &str| format!("mariadbd  Ver {version}-MariaDB-ubu2204 for debian-linux-gnu on x86_64 (x)");
        assert!(of(&line("10.11.9")).is_empty() && of(&line("10.11.14")).is_empty());
        let older = of(&line("10.11.8"));
        assert!(matches!(older.as_slice(), [one] if !one.fatal && one.what.contains("10.11.9")), "{older:?}");
        let other = of(&line("10.6.18"));
        assert!(matches!(other.as_slice(), [one] if one.fatal && one.what.contains("10.6.18")), "{other:?}");
        assert!(of("mysqld  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)")[0].fatal);
        assert!(suits((10, 11), "10.11.9", &ImageContent::default())[0].fatal);
    }
}
