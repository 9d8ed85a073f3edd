//! A server in a container: which image is of production's own version, whether an image suits a tree (M-13), and where
//! an image has its data.
//!
//! Nothing in a tree depends on the C library: both bring their own orders of texts.

use std::path::Path;

use super::FamilyEngine;
use super::config;
use super::flavor::Flavor;
use super::install::{Version, said, words};
use super::session::failed;
use crate::{Baked, EngineError, Finding, ImageContent, ImageLook, Seat, UnitPlan};

/// What to look for.
pub fn look<F: Flavor>() -> ImageLook {
    ImageLook { server: F::PROGRAMS.server, libraries: false }
}

/// The official image of exactly that version: `mariadb:10.11.19`.
pub fn official<F: Flavor>(version: Version) -> String {
    let [name, _] = F::IMAGE;
    format!("{name}:{}", words(version))
}

/// Where the official image has its data. There the server is told what it has to be.
pub fn baked<F: Flavor>(env: &dyn Fn(&str) -> Option<String>) -> Baked {
    let path = "/var/lib/mysql".to_owned();
    let server = F::PROGRAMS.server;
    let command = vec![server.to_owned(), format!("--defaults-extra-file={path}/{}", config::FILE)];
    let [_, said] = F::IMAGE;
    // "1:10.11.14+maria~ubu2204", "9.7.0-1.el9"
    let version = env(said).and_then(|text| {
        let number = text.rsplit(':').next()?.split(['+', '-', '~']).next()?.to_owned();
        Some(format!("{server}  Ver {number}-{}", F::PROGRAMS.make))
    });
    Baked { path, account: "mysql", port: 3306, version, command: Some(command) }
}

/// The largest tables, with their indexes.
pub fn largest<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat) -> Result<Vec<(String, u64)>, EngineError> {
    let asked = "SELECT CONCAT(table_schema, '.', table_name), data_length + index_length FROM information_schema.tables \
                 WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('mysql', 'performance_schema', 'sys') \
                 ORDER BY 2 DESC LIMIT 5";
    let found = engine.sessions.with(&seat.run, |session| session.query(asked));
    let found = found.map_err(failed("asking for the largest tables"))?;
    let text = |cell: Option<&Option<String>>| cell.cloned().flatten().unwrap_or_default();
    Ok(found.rows.iter().map(|row| (text(row.first()), text(row.get(1)).parse().unwrap_or(0))).collect())
}

/// A server's plan without the paths of this machine: an image's server knows its own.
pub fn contained<F: Flavor>(plan: UnitPlan) -> UnitPlan {
    let args = plan.args.into_iter().filter(|arg| !arg.starts_with("--basedir=")).collect();
    UnitPlan { program: Path::new("/usr/bin").join(F::PROGRAMS.server), args, ..plan }
}

/// What of a tree an image does not suit. `written_by`: the version of this machine's server, which wrote the tree.
pub fn suits<F: Flavor>(written_by: Version, image: &ImageContent) -> Vec<Finding> {
    let (major, minor, _) = written_by;
    let make = F::PROGRAMS.make;
    let fix = Some(format!("name an image of {make} {major}.{minor}: --image SOURCE=REFERENCE"));
    let Some(version) = image.version.as_deref().and_then(|text| said(make, text)) else {
        return vec![Finding { what: format!("it has no {make} server"), fix, fatal: true }];
    };
    let has = words(version);
    if (version.0, version.1) != (major, minor) {
        let what = format!("it has {make} {has}, production is {make} {major}.{minor}");
        return vec![Finding { what, fix, fatal: true }];
    }
    // Where formats do not change inside a series, it is worth a word all the same.
    if version < written_by {
        let what =
            format!("it has {make} {has}, and the mirror's server, which wrote the data, is {}", words(written_by));
        return vec![Finding { what, fix, fatal: !F::READS_NEWER }];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;

    #[test]
    fn the_official_image_has_the_exact_version() {
        let of = |version: &str| crate::mysql_family::install::version(version).expect("a version");
        assert_eq!(official::<Mariadb>(of("10.11.19-MariaDB-0+deb12u1-log")), "mariadb:10.11.19");
        assert_eq!(official::<Mariadb>(of("5.5.5-11.4.2-MariaDB-1")), "mariadb:11.4.2");
        assert_eq!(official::<Mysql>(of("9.7.4-2")), "mysql:9.7.4");
    }

    #[test]
    fn m13_the_image_says_its_version() {
        let env = |name: &str| match name {
            "MARIADB_VERSION" => Some("1:10.11.14+maria~ubu2204".to_owned()),
            "MYSQL_VERSION" => Some("9.7.4-1.el9".to_owned()),
            _ => None,
        };
        let of = |baked: Baked| ImageContent { version: baked.version, ..ImageContent::default() };
        let (mariadb, mysql) = (of(baked::<Mariadb>(&env)), of(baked::<Mysql>(&env)));
        assert!(suits::<Mariadb>((10, 11, 9), &mariadb).is_empty());
        assert!(suits::<Mariadb>((10, 6, 9), &mariadb)[0].fatal);
        assert!(suits::<Mysql>((9, 7, 4), &mysql).is_empty());
        assert!(suits::<Mysql>((8, 4, 4), &mysql)[0].fatal);
    }

    #[test]
    fn m13_an_image_of_another_series_or_make_is_refused() {
        let of = |said: &str| ImageContent { version: Some(said.to_owned()), ..ImageContent::default() };
        let line =
            |version: &str| of(&format!("mariadbd  Ver {version}-MariaDB-ubu2204 for debian-linux-gnu on x86_64 (x)"));
        let mysql =
            |version: &str| of(&format!("mysqld  Ver {version} for Linux on x86_64 (MySQL Community Server - GPL)"));
        let written = (10, 11, 9);
        assert!(suits::<Mariadb>(written, &line("10.11.9")).is_empty());
        assert!(suits::<Mariadb>(written, &line("10.11.14")).is_empty());
        let older = suits::<Mariadb>(written, &line("10.11.8"));
        assert!(matches!(older.as_slice(), [one] if !one.fatal && one.what.contains("10.11.9")), "{older:?}");
        let other = suits::<Mariadb>(written, &line("10.6.18"));
        assert!(matches!(other.as_slice(), [one] if one.fatal && one.what.contains("10.6.18")), "{other:?}");
        assert!(suits::<Mariadb>(written, &mysql("8.0.36"))[0].fatal);
        assert!(suits::<Mariadb>(written, &ImageContent::default())[0].fatal);
        // MySQL goes never back, not even inside a series.
        assert!(suits::<Mysql>((8, 0, 36), &mysql("8.0.36")).is_empty());
        assert!(suits::<Mysql>((8, 0, 36), &mysql("8.0.35"))[0].fatal);
        assert!(suits::<Mysql>((8, 0, 36), &line("10.11.9"))[0].fatal);
    }
}
