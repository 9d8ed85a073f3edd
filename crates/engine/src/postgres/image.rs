//! PostgreSQL in a container: which image is of production's own version, whether an image suits production's data,
//! and what mends indexes where it sorts texts in another order (T-14, T-15).

use postgres::Client;

use super::facts::{Facts, identifier};
use super::session::{Server, connect, connect_somewhere, connect_to_work};
use super::{settings, tree};
use crate::{Baked, EngineError, Finding, ImageContent, Seat, Stage};

/// The official image of exactly that version: `postgres:15.4`.
pub fn official(facts: &Facts) -> String {
    // "15.4 (Debian 15.4-1.pgdg120+1)", "17beta2"
    format!("postgres:{}", facts.version.split_whitespace().next().unwrap_or_default())
}

/// The official image's data directory: another since version 18, so it is asked for.
pub fn baked(env: &dyn Fn(&str) -> Option<String>) -> Baked {
    let path = env("PGDATA").unwrap_or_else(|| "/var/lib/postgresql/data".to_owned());
    // "15.14-1.pgdg120+1", or "15" alone.
    let number = env("PG_VERSION").or_else(|| env("PG_MAJOR"));
    let version = number.map(|text| format!("postgres (PostgreSQL) {}", text.split('-').next().unwrap_or_default()));
    Baked { path, account: "postgres", port: 5432, version, command: None }
}

/// Makes a stopped tree one for a server in a container of the user's.
pub fn hand_over(seat: &Seat, facts: &Facts, stage: &Stage) -> Result<(), EngineError> {
    let account = tree::owner(&seat.data)?;
    tree::clean(&seat.data, false)?;
    let settings = settings::container(facts, stage.profile, &stage.set)?;
    tree::write(&seat.data.join("postgresql.conf"), &settings.text(), Some(&account))?;
    tree::write(&seat.data.join("pg_hba.conf"), settings::CONTAINER_DOOR, Some(&account))?;
    tree::write(&seat.data.join("pg_ident.conf"), "", Some(&account))
}

/// The largest tables of all databases, with their indexes and what is kept beside them.
pub fn largest(server: &Server) -> Result<Vec<(String, u64)>, EngineError> {
    let failed = |source: postgres::Error| EngineError::Server {
        action: "asking for the largest tables".to_owned(),
        source: Box::new(source),
    };
    let asked = "SELECT pg_catalog.format('%s.%s.%s', pg_catalog.current_database(), n.nspname, c.relname),
            pg_catalog.pg_total_relation_size(c.oid)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
        ORDER BY 2 DESC LIMIT 5";
    let mut found = Vec::new();
    for name in databases(server).map_err(failed)? {
        let mut client = connect(server, &name).map_err(failed)?;
        let rows = client.query(asked, &[]).map_err(failed)?;
        found.extend(rows.iter().map(|row| (row.get(0), u64::try_from(row.get::<_, i64>(1)).unwrap_or(0))));
    }
    found.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    found.truncate(5);
    Ok(found)
}

/// The databases that can be entered.
pub fn databases(server: &Server) -> Result<Vec<String>, postgres::Error> {
    let mut client = connect_somewhere(server, "postgres")?;
    // -2 is what an interrupted DROP DATABASE leaves: it can only be dropped.
    let asked = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2";
    let rows = client.query(asked, &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What of production's data an image does not suit. `preload`: the libraries that a clone's server loads.
pub fn suits(facts: &Facts, preload: &[String], image: &ImageContent) -> Vec<Finding> {
    let mut findings: Vec<Finding> = other_version(facts, image.version.as_deref()).into_iter().collect();
    findings.extend(order(facts, image.libc.as_deref()));
    let lacks = |suffix: &str| !image.files.iter().any(|file| file.ends_with(suffix));
    let libraries: Vec<&str> =
        preload.iter().map(String::as_str).filter(|name| lacks(&format!("/{name}.so"))).collect();
    if !libraries.is_empty() {
        findings.push(Finding {
            what: format!("it lacks libraries that production's server loads at its start: {}", libraries.join(", ")),
            fix: Some("name an image that has them: --image SOURCE=REFERENCE".to_owned()),
            fatal: true,
        });
    }
    let extensions: Vec<&str> = facts
        .extensions
        .iter()
        .map(String::as_str)
        .filter(|name| lacks(&format!("/extension/{name}.control")))
        .collect();
    if !extensions.is_empty() {
        findings.push(Finding {
            what: format!("it lacks extensions of production, what they define fails: {}", extensions.join(", ")),
            fix: Some("name an image that has them: --image SOURCE=REFERENCE".to_owned()),
            fatal: false,
        });
    }
    findings
}

/// A server reads only trees of its own major version (T-24).
fn other_version(facts: &Facts, said: Option<&str>) -> Option<Finding> {
    // "postgres (PostgreSQL) 15.4 (Debian 15.4-1.pgdg120+1)", "postgres (PostgreSQL) 17beta2"
    let version = said.and_then(|said| said.split_once("(PostgreSQL) ")).map(|(_, rest)| rest);
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    if version.is_some_and(|version| digits(version) == facts.major.to_string()) {
        return None;
    }
    Some(Finding {
        what: match version {
            Some(version) => format!("it has PostgreSQL {version}, production is PostgreSQL {}", facts.major),
            None => "it has no PostgreSQL server".to_owned(),
        },
        fix: Some(format!("name an image of PostgreSQL {}: --image SOURCE=REFERENCE", facts.major)),
        fatal: true,
    })
}

/// Another C library may sort texts in another order: an index made by the one is wrong under the other.
fn order(facts: &Facts, image: Option<&str>) -> Option<Finding> {
    let production = facts.libc.as_ref().map(|version| format!("glibc {version}"));
    if !facts.sorts() || (production.is_some() && production.as_deref() == image) {
        return None;
    }
    let words = |libc: Option<&str>| libc.unwrap_or("an unknown C library").to_owned();
    Some(Finding {
        what: format!(
            "production sorts texts by {}, the image by {}: indexes on texts would miss rows",
            words(production.as_deref()),
            words(image)
        ),
        fix: Some("--reindex makes them again in the clone; or name an image of production's release".to_owned()),
        fatal: true,
    })
}

/// Makes every index that sorts texts again, in all databases, and notes the order they are in now.
pub fn reindex(server: &Server) -> Result<(), EngineError> {
    let failed = |source: postgres::Error| EngineError::Server {
        action: "making indexes again in another order of texts".to_owned(),
        source: Box::new(source),
    };
    for name in databases(server).map_err(failed)? {
        let mut client = connect_to_work(server, &name).map_err(failed)?;
        reindex_database(&mut client, &name, server.major).map_err(failed)?;
    }
    Ok(())
}

fn reindex_database(client: &mut Client, name: &str, major: u32) -> Result<(), postgres::Error> {
    let quoted = identifier(name);
    client.batch_execute(&format!("REINDEX DATABASE {quoted}"))?;
    if major >= 15 {
        client.batch_execute(&format!("ALTER DATABASE {quoted} REFRESH COLLATION VERSION"))?;
    }
    let stale = "SELECT pg_catalog.format('ALTER COLLATION %I.%I REFRESH VERSION', n.nspname, c.collname)
        FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
        WHERE c.collversion IS DISTINCT FROM pg_catalog.pg_collation_actual_version(c.oid)
          AND c.collversion IS NOT NULL AND c.collencoding IN (-1, pg_catalog.pg_char_to_encoding(pg_catalog.getdatabaseencoding()))";
    for row in client.query(stale, &[])? {
        client.batch_execute(row.get(0))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: serde_json::Value) -> Facts {
        serde_json::from_value(json).unwrap()
    }

    fn image(libc: &str, files: &[&str]) -> ImageContent {
        ImageContent {
            version: Some("postgres (PostgreSQL) 15.4".to_owned()),
            libc: (!libc.is_empty()).then(|| libc.to_owned()),
            files: files.iter().map(|&file| file.to_owned()).collect(),
        }
    }

    #[test]
    fn the_official_image_has_the_exact_version() {
        let of = |version: &str| official(&facts(serde_json::json!({ "version": version })));
        assert_eq!(of("15.4 (Debian 15.4-1.pgdg120+1)"), "postgres:15.4");
        assert_eq!(of("17beta2"), "postgres:17beta2");
    }

    #[test]
    fn t24_an_image_of_another_major_version_or_of_something_else_is_refused() {
        let known = facts(serde_json::json!({ "major": 15 }));
        let of = |said: Option<&str>| {
            let content = ImageContent { version: said.map(str::to_owned), ..ImageContent::default() };
            suits(&known, &[], &content).into_iter().map(|finding| (finding.what, finding.fatal)).collect::<Vec<_>>()
        };
        assert_eq!(of(Some("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)")), []);
        let found = of(Some("postgres (PostgreSQL) 14.2"));
        assert_eq!(found, [("it has PostgreSQL 14.2, production is PostgreSQL 15".to_owned(), true)]);
        assert!(of(Some("postgres (PostgreSQL) 150")).len() == 1);
        assert_eq!(of(None), [("it has no PostgreSQL server".to_owned(), true)]);
        assert_eq!(of(Some("sh: postgres: not found")).len(), 1);
    }

    #[test]
    fn the_image_says_where_its_data_is() {
        assert_eq!(baked(&|_| None).path, "/var/lib/postgresql/data");
        let newer = |name: &str| (name == "PGDATA").then(|| "/var/lib/postgresql/18/docker".to_owned());
        assert_eq!(baked(&newer).path, "/var/lib/postgresql/18/docker");
        let exact = |name: &str| (name == "PG_VERSION").then(|| "15.14-1.pgdg120+1".to_owned());
        assert_eq!(baked(&exact).version.as_deref(), Some("postgres (PostgreSQL) 15.14"));
    }

    #[test]
    fn t14_an_image_that_sorts_differently_is_found() {
        let of = |libc: Option<&str>, locale: &str| {
            facts(serde_json::json!({ "major": 15, "libc": libc, "locales": ["C", locale], "extensions": [] }))
        };
        let english = of(Some("2.31"), "en_US.utf8");
        assert!(suits(&english, &[], &image("glibc 2.31", &[])).is_empty());
        let other = suits(&english, &[], &image("glibc 2.36", &[]));
        assert!(other[0].fatal && other[0].what.contains("glibc 2.31") && other[0].what.contains("glibc 2.36"));
        assert!(suits(&english, &[], &image("musl", &[]))[0].fatal);
        assert!(suits(&english, &[], &image("", &[]))[0].fatal, "unknown is not the same");
        assert!(suits(&of(None, "en_US.utf8"), &[], &image("glibc 2.36", &[]))[0].fatal);
        assert!(suits(&of(Some("2.31"), "C"), &[], &image("musl", &[])).is_empty(), "bytes are bytes");
        assert!(suits(&of(None, "C.UTF-8"), &[], &image("glibc 2.36", &[])).is_empty(), "no order of the C library");
    }

    #[test]
    fn t15_what_an_image_lacks_is_named() {
        let known = facts(serde_json::json!({ "major": 15, "extensions": ["plpgsql", "postgis"] }));
        let files = ["/usr/share/postgresql/15/extension/plpgsql.control", "/usr/lib/postgresql/15/lib/pg_cron.so"];
        let found = suits(&known, &["pg_cron".to_owned()], &image("musl", &files));
        assert!(matches!(found.as_slice(), [one] if !one.fatal && one.what.ends_with(": postgis")), "{found:?}");
        let found = suits(&known, &["timescaledb".to_owned()], &image("musl", &files));
        assert!(found[0].fatal && found[0].what.ends_with(": timescaledb"), "{found:?}");
    }
}
