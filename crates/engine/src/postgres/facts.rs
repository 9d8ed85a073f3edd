//! What preflight learns about a production cluster, and what is wrong with it.

use std::collections::BTreeMap;

use pando_host::Account;
use pando_model::SourceUrl;
use serde::{Deserialize, Serialize};

use super::install::{Installation, Installations, SUPPORTED};
use super::libraries::{LOCAL, SESSION, SHARED};
use super::production::{query, query_as, replication};
use super::settings::{LOCALES, OF_EXTENSIONS, RESULTS, TAKEN_EVERYWHERE};
use crate::ask::LONG;
use crate::{EngineError, Finding, Preflight};

/// Locales that every C library has.
const PLAIN: [&str; 2] = ["C", "POSIX"];

/// What is kept of a production cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Major version.
    pub major: u32,
    /// `server_version`.
    pub version: String,
    /// The system identifier of the cluster.
    pub system: String,
    /// The role that `initdb` made.
    pub superuser: String,
    /// Whether a slot may be made: production bounds what a slot can hold back (T-12).
    pub slot: bool,
    /// Settings of production that a standby or clone must know.
    pub settings: BTreeMap<String, String>,
    /// Bytes of all databases.
    pub bytes: u64,
    /// Extensions of the linked database.
    pub extensions: Vec<String>,
    /// Libraries that sessions of some databases or roles load: `session_preload_libraries=far_away`.
    pub session_libraries: Vec<String>,
    /// Settings that this database, this role or this URL has otherwise than the server.
    #[serde(skip_serializing)]
    hidden: Vec<String>,
    unlogged: u64,
    tablespaces: Vec<String>,
    role: String,
    may_replicate: bool,
    sees_settings: bool,
    locales: Vec<String>,
    /// The version of production's C library, `2.36`; none where it is not glibc.
    pub libc: Option<String>,
}

impl Facts {
    /// Whether a database sorts texts by the C library's rules, and not by their bytes: `C.UTF-8` is one of those
    /// that PostgreSQL, too, knows no version of.
    pub fn sorts(&self) -> bool {
        self.locales.iter().any(|name| !["C", "POSIX"].contains(&name.as_str()) && !name.starts_with("C."))
    }
}

impl Facts {
    /// Whether a server takes this locale, wherever it runs: each has the plain ones, and those of production's databases, which
    /// nobody could enter else.
    pub fn has_locale(&self, name: &str) -> bool {
        PLAIN.contains(&name) || self.locales.iter().any(|of| normal(of) == normal(name))
    }

    /// Whether a server on this machine takes it.
    pub fn has_locale_here(&self, name: &str) -> bool {
        self.has_locale(name) || host_locales().is_some_and(|known| known.contains(&normal(name)))
    }

    /// Refuses facts that come from elsewhere and would be more than values where they are written.
    pub fn plain(&self) -> Result<(), EngineError> {
        let settings = self.settings.iter().flat_map(|(name, value)| [name, value]);
        let strange =
            |text: &&String| text.len() > 1000 || text.contains(['\'', '\\']) || text.contains(char::is_control);
        match settings.chain([&self.superuser, &self.version]).find(strange) {
            Some(text) => {
                Err(EngineError::Invalid(format!("{:?} is no setting", text.chars().take(80).collect::<String>())))
            }
            None => Ok(()),
        }
    }
}

/// Settings of production that are asked for, besides those that clones take over.
const ASKED: [&str; 5] = ["max_slot_wal_keep_size", "wal_level", "wal_segment_size", "max_replication_slots", ORIGINS];
/// Of PostgreSQL 18 and later.
const ORIGINS: &str = "max_active_replication_origins";

const LOOK: &str = "
SELECT json_build_object(
  'major', current_setting('server_version_num')::int / 10000,
  'version', current_setting('server_version'),
  'superuser', (SELECT rolname FROM pg_roles WHERE oid = 10),
  'role', current_user,
  'may_replicate', (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
  'sees_settings', pg_has_role(current_user, 'pg_read_all_settings', 'member'),
  'settings', (SELECT json_object_agg(name, setting) FROM (
     SELECT name, setting FROM pg_settings WHERE name = ANY ({settings})
       AND source NOT IN ('database', 'user', 'database user', 'client', 'session')
     UNION ALL
     SELECT name, current_setting(name, true) FROM unnest({of_extensions}) name WHERE NOT EXISTS (
       SELECT FROM pg_db_role_setting, unnest(setconfig) one WHERE split_part(one, '=', 1) = name)
     ) known WHERE setting IS NOT NULL),
  'hidden', (SELECT coalesce(json_agg(name), '[]') FROM pg_settings WHERE name = ANY ({settings})
     AND source IN ('database', 'user', 'database user', 'client', 'session')),
  'bytes', (SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database
            WHERE has_database_privilege(oid, 'CONNECT')),
  'extensions', (SELECT coalesce(json_agg(extname ORDER BY extname), '[]') FROM pg_extension),
  'session_libraries', (SELECT coalesce(json_agg(DISTINCT set), '[]') FROM pg_db_role_setting, unnest(setconfig) set
                        WHERE set ~ '^(session|local)_preload_libraries='),
  'unlogged', (SELECT count(*) FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'),
  'tablespaces', (SELECT coalesce(json_agg(spcname), '[]') FROM pg_tablespace
                  WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'locales', (SELECT coalesce(json_agg(DISTINCT datcollate::text), '[]') FROM pg_database
              WHERE datname <> 'template0' AND datconnlimit <> -2),
  'libc', (SELECT max(pg_collation_actual_version(oid)) FROM pg_collation WHERE collprovider = 'c')
)";

/// The question, with the names of all settings that matter.
fn question() -> String {
    let list = |names: Vec<&str>| format!("ARRAY['{}']", names.join("', '"));
    let of_server = ASKED.iter().chain(&[SHARED, SESSION, LOCAL]).chain(&TAKEN_EVERYWHERE).chain(&RESULTS);
    let (names, of_extensions) = (of_server.chain(&LOCALES).copied().collect(), OF_EXTENSIONS.to_vec());
    LOOK.replace("{settings}", &list(names)).replace("{of_extensions}", &list(of_extensions))
}

/// Looks at production.
pub fn look(
    installations: &Installations,
    account: Option<&Account>,
    url: &SourceUrl,
) -> Result<(Facts, Preflight), EngineError> {
    let client = installations.newest().ok_or_else(|| EngineError::Invalid(installations.words()))?;
    // One that never answers is found out before it is asked what may take long.
    query(client, account, url, "SELECT 1")?;
    let answer = query_as(&client.tool("psql")?, account, url, ("pando", LONG), &question())?;
    let mut facts: Facts = serde_json::from_str(&answer)
        .map_err(|error| EngineError::Invalid(format!("production's answer cannot be read: {error}")))?;
    let mut findings = version_findings(&facts, installations);
    findings.extend(rights(&facts));
    if findings.iter().all(|finding| !finding.fatal) {
        match replication(client, account, url, "IDENTIFY_SYSTEM") {
            Ok(text) => {
                facts.system = text.split('|').next().unwrap_or_default().to_owned();
                // What is set for a database or a role lies in the data, and is not everybody's. A session that only
                // replicates has none of it.
                for name in std::mem::take(&mut facts.hidden) {
                    let value = replication(client, account, url, &format!("SHOW {}", identifier(&name)))?;
                    facts.settings.insert(name, value);
                }
            }
            Err(error) => findings.push(no_replication(&facts, &error)),
        }
    }
    facts.slot = number(&facts, "max_slot_wal_keep_size").is_some_and(|megabytes| megabytes >= 0)
        && number(&facts, "max_replication_slots").is_some_and(|slots| slots > 0);
    findings.extend(advice(&facts));
    findings.extend(locales(&facts));
    findings.extend(collation(&facts, host_libc().as_deref()));
    if let Ok(installation) = installations.of(facts.major) {
        findings.extend(extensions(&facts, installation));
    }
    let mut notes = Vec::new();
    if facts.unlogged > 0 {
        notes.push(format!("{} unlogged tables are empty in clones: their data is not in the log", facts.unlogged));
    }
    let preflight = Preflight {
        facts: serde_json::to_value(&facts).unwrap_or_default(),
        version: Some(format!("PostgreSQL {}", facts.version)),
        findings,
        notes,
        bytes: Some(facts.bytes),
        belongs_to: None,
    };
    Ok((facts, preflight))
}

fn number(facts: &Facts, name: &str) -> Option<i64> {
    facts.settings.get(name)?.parse().ok()
}

/// A name quoted for SQL.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn version_findings(facts: &Facts, installations: &Installations) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !SUPPORTED.contains(&facts.major) {
        findings.push(Finding {
            what: format!(
                "production is PostgreSQL {}; Pando knows {} to {}",
                facts.version,
                SUPPORTED.start(),
                SUPPORTED.end()
            ),
            fix: None,
            fatal: true,
        });
    } else if installations.of(facts.major).is_err() {
        findings.push(Finding {
            what: format!(
                "production is PostgreSQL {}, and this machine has no server of that major version ({})",
                facts.version,
                installations.words()
            ),
            fix: Some(format!("apt-get install postgresql-{}", facts.major)),
            fatal: true,
        });
    }
    findings
}

fn rights(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.may_replicate {
        findings.push(Finding {
            what: format!("the role {} may not replicate", facts.role),
            fix: Some(format!("ALTER ROLE {} REPLICATION;", identifier(&facts.role))),
            fatal: true,
        });
    }
    if facts.settings.get("wal_level").is_some_and(|level| level == "minimal") {
        findings.push(Finding {
            what: "production writes too little log: wal_level is minimal".to_owned(),
            fix: Some("ALTER SYSTEM SET wal_level = 'replica'; -- then restart production".to_owned()),
            fatal: true,
        });
    }
    if number(facts, "max_wal_senders").is_some_and(|senders| senders < 2) {
        findings.push(Finding {
            what: "production allows fewer than two replication connections (max_wal_senders)".to_owned(),
            fix: Some("ALTER SYSTEM SET max_wal_senders = 10; -- then restart production".to_owned()),
            fatal: true,
        });
    }
    if !facts.tablespaces.is_empty() {
        findings.push(Finding {
            what: format!(
                "production has tablespaces outside its data directory ({}), which cannot be cloned yet",
                facts.tablespaces.join(", ")
            ),
            fix: Some("ALTER TABLE … SET TABLESPACE pg_default; DROP TABLESPACE …;".to_owned()),
            fatal: true,
        });
    }
    findings
}

fn no_replication(facts: &Facts, error: &EngineError) -> Finding {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    Finding {
        what: format!("production lets {} in, but not for replication: {cause}", facts.role),
        fix: Some(format!(
            "add to production's pg_hba.conf: host replication {} <this machine>/32 scram-sha-256 -- then SELECT pg_reload_conf();",
            identifier(&facts.role)
        )),
        fatal: true,
    }
}

fn advice(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.slot {
        findings.push(Finding {
            what: "production does not bound replication slots, so Pando follows without one: production's disk is \
                   safe, but a long outage of Pando makes a gap in the timeline"
                .to_owned(),
            fix: Some(
                "ALTER SYSTEM SET max_slot_wal_keep_size = '4GB'; SELECT pg_reload_conf(); -- then pando apply the app's file"
                    .to_owned(),
            ),
            fatal: false,
        });
    }
    if !facts.sees_settings {
        findings.push(Finding {
            what: format!("the role {} cannot read all settings: preloaded libraries stay unknown", facts.role),
            fix: Some(format!("GRANT pg_monitor TO {};", identifier(&facts.role))),
            fatal: false,
        });
    }
    findings
}

/// The locales of this machine; nothing where it does not tell.
fn host_locales() -> Option<Vec<String>> {
    let text = pando_host::Tool::find("locale", "libc-bin").ok()?.command().arg("-a").run().ok()?.text();
    Some(text.lines().map(normal).collect())
}

/// A database whose locale this machine lacks refuses every connection (T-14).
fn locales(facts: &Facts) -> Vec<Finding> {
    let Some(known) = host_locales() else { return Vec::new() };
    facts
        .locales
        .iter()
        .filter(|name| !PLAIN.contains(&name.as_str()) && !known.contains(&normal(name)))
        .map(|name| Finding {
            what: format!("production uses the locale {name}, which this machine does not have"),
            fix: Some(format!(
                "apt-get install locales && localedef -i {} -f UTF-8 {name}",
                name.split('.').next().unwrap_or(name)
            )),
            fatal: true,
        })
        .collect()
}

/// The version of this machine's C library, as PostgreSQL reports production's: `2.36`.
fn host_libc() -> Option<String> {
    Some(pando_host::libc_version()?.strip_prefix("glibc ")?.to_owned())
}

/// Another C library may sort texts in another order: an index made by the one is wrong under the other (T-14).
fn collation(facts: &Facts, here: Option<&str>) -> Option<Finding> {
    if !facts.sorts() || (facts.libc.is_some() && facts.libc.as_deref() == here) {
        return None;
    }
    let words = |version: Option<&str>| version.map_or("another C library".to_owned(), |it| format!("glibc {it}"));
    Some(Finding {
        what: format!(
            "production sorts texts by {}, this machine by {}: in clones, indexes on texts may miss rows until they \
             are made again",
            words(facts.libc.as_deref()),
            words(here)
        ),
        fix: Some("REINDEX DATABASE …; -- in each clone; or run Pando on production's Debian release".to_owned()),
        fatal: false,
    })
}

/// Extensions whose files this machine lacks: what they define fails in clones (T-15).
fn extensions(facts: &Facts, installation: &Installation) -> Option<Finding> {
    let missing: Vec<&str> =
        facts.extensions.iter().map(String::as_str).filter(|name| !installation.extension_exists(name)).collect();
    (!missing.is_empty()).then(|| Finding {
        what: format!(
            "production uses extensions that PostgreSQL {} on this machine does not have: {}; what they define fails \
             in clones",
            facts.major,
            missing.join(", ")
        ),
        fix: Some(format!("apt-cache search '^postgresql-{}-' | grep -i {}", facts.major, missing[0])),
        fatal: false,
    })
}

/// `en_US.UTF-8` and `en_US.utf8` are one locale.
fn normal(name: &str) -> String {
    name.to_lowercase().replace('-', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(settings: &[(&str, &str)]) -> Facts {
        Facts {
            major: 15,
            role: "rep\"l".into(),
            may_replicate: true,
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Facts::default()
        }
    }

    #[test]
    fn each_missing_right_has_its_sql() {
        let mut poor = facts(&[("wal_level", "minimal"), ("max_wal_senders", "0")]);
        poor.may_replicate = false;
        let fixes: Vec<String> = rights(&poor).into_iter().filter_map(|finding| finding.fix).collect();
        assert_eq!(fixes.len(), 3);
        assert_eq!(fixes[0], "ALTER ROLE \"rep\"\"l\" REPLICATION;");
        assert!(rights(&facts(&[("wal_level", "replica"), ("max_wal_senders", "10")])).is_empty());
    }

    #[test]
    fn t14_another_c_library_is_named() {
        let of = |locale: &str, libc: Option<&str>| Facts {
            locales: vec!["C".into(), locale.into()],
            libc: libc.map(str::to_owned),
            ..Facts::default()
        };
        assert_eq!(collation(&of("en_US.utf8", Some("2.36")), Some("2.36")), None);
        assert_eq!(collation(&of("POSIX", Some("2.31")), Some("2.36")), None);
        let other = collation(&of("en_US.utf8", Some("2.31")), Some("2.36")).map(|finding| finding.what);
        assert!(other.is_some_and(|what| what.contains("glibc 2.31") && what.contains("glibc 2.36")));
        assert!(collation(&of("en_US.utf8", None), Some("2.36")).is_some_and(|finding| !finding.fatal));
    }
}
