//! What preflight learns about a production server, and what is wrong with it.

use std::collections::BTreeMap;

use pando_host::Account;
use pando_model::{EngineKind, SourceUrl};
use serde::{Deserialize, Serialize};

use super::install::{Installations, SUPPORTED, Series, series};
use super::near::{self, Near};
use super::production::query;
use crate::wire::identifier;
use crate::{EngineError, Finding, Preflight};

/// What is kept of a production server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// `version()`.
    pub version: String,
    /// Its first two numbers.
    pub series: Series,
    /// Settings that a mirror or clone must share.
    pub settings: BTreeMap<String, String>,
    /// Bytes of all tables.
    pub bytes: u64,
    /// Tables that take no part in transactions.
    pub plain_tables: u64,
    /// Tables that only a server with production's keys can make.
    pub encrypted_tables: u64,
    /// Who Pando is there.
    pub role: String,
    /// What it may do to everything.
    pub rights: Vec<String>,
}

/// Settings that change what data means or how it lies on disk (M-14).
pub const SHARED: [&str; 12] = [
    "lower_case_table_names",
    "innodb_page_size",
    "character_set_server",
    "collation_server",
    "sql_mode",
    "time_zone",
    "explicit_defaults_for_timestamp",
    "max_allowed_packet",
    "default_storage_engine",
    "character_set_collations",
    "old_mode",
    "innodb_undo_tablespaces",
];
const ASKED: [&str; 12] = [
    "log_bin",
    "server_id",
    "binlog_format",
    "binlog_row_image",
    "innodb_data_home_dir",
    "innodb_undo_directory",
    "innodb_log_group_home_dir",
    "innodb_data_file_path",
    "innodb_encrypt_tables",
    "innodb_compression_algorithm",
    "datadir",
    "pid_file",
];
const LOOK: &str = "SELECT 'role', CURRENT_USER(); SELECT 'version', VERSION(); \
 SELECT 'bytes', COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables; \
 SELECT 'plain', COUNT(*) FROM information_schema.tables WHERE engine IS NOT NULL AND engine NOT IN ('InnoDB', 'MEMORY') \
   AND table_type = 'BASE TABLE' AND table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys'); \
 SELECT 'encrypted', COUNT(*) FROM information_schema.tables WHERE create_options RLIKE 'ENCRYPTED`?=.?YES'; \
 SELECT LOWER(variable_name), variable_value FROM information_schema.global_variables WHERE variable_name IN (";

/// What a right is for; the first name is the one to grant.
const RIGHTS: [(&[&str], &str); 9] = [
    (&["REPLICATION SLAVE", "REPLICATION REPLICA"], "to follow the binary log"),
    (&["REPLICATION CLIENT", "BINLOG MONITOR"], "to see where the binary log is"),
    (&["SELECT"], "to copy tables and accounts"),
    (&["RELOAD"], "to begin the first copy at one moment"),
    (&["LOCK TABLES"], "to begin the first copy at one moment"),
    (&["SHOW VIEW"], "to copy views"),
    (&["EVENT"], "to copy events"),
    (&["TRIGGER"], "to copy triggers"),
    (&["PROCESS"], "to copy tablespaces"),
];

/// Looks at production.
pub fn look(
    installations: &Installations,
    account: Option<&Account>,
    url: &SourceUrl,
) -> Result<Preflight, EngineError> {
    let client = installations.newest().ok_or_else(|| EngineError::Invalid(installations.words()))?;
    let version = query(client, account, url, "SELECT VERSION()")?;
    if !version.contains("MariaDB") {
        let what = format!("production is not MariaDB but MySQL or a relative of it ({})", version.trim());
        let preflight = Preflight {
            belongs_to: Some(EngineKind::Mysql),
            findings: vec![Finding { what, fix: Some("mysql://… instead of mariadb://…".to_owned()), fatal: true }],
            ..Preflight::default()
        };
        return Ok(preflight);
    }
    let names: Vec<String> = SHARED.iter().chain(&ASKED).map(|name| format!("'{}'", name.to_uppercase())).collect();
    let sql = format!("{LOOK}{}); SHOW GRANTS", names.join(","));
    let facts = read(&query(client, account, url, &sql)?);
    let mut findings = versions(&facts, installations);
    findings.extend(settings(&facts));
    findings.extend(rights(&facts));
    let mut notes = vec![
        "moments are exact to the second: a MariaDB binary log knows no fractions; those between show what was \
         certainly committed by then"
            .to_owned(),
    ];
    let near = near::look(url, &facts);
    let backup = installations.of(facts.series).and_then(|installation| installation.tool("mariadb-backup")).is_ok();
    if facts.plain_tables > 0 && !(backup && matches!(near, Ok(Near::Here(_)))) {
        notes.push(format!(
            "{} tables take no part in transactions (MyISAM, Aria …): the first copy of them is of the time it was made",
            facts.plain_tables
        ));
    }
    match near {
        Ok(Near::Here(dir)) => {
            notes.push(match backup {
                true => format!("the first copy is one of production's files in {} (mariadb-backup)", dir.display()),
                false => format!(
                    "production's files are here ({}): with mariadb-backup the first copy would not be a dump but one \
                     of files, which is faster (apt-get install mariadb-backup)",
                    dir.display()
                ),
            });
        }
        Ok(Near::No(Some(why))) => notes.push(format!("the first copy is a dump: {why}")),
        Ok(Near::No(None)) => {}
        Err(finding) => findings.push(*finding),
    }
    Ok(Preflight {
        facts: serde_json::to_value(&facts).unwrap_or_default(),
        version: Some(format!("MariaDB {}", facts.version.split('-').next().unwrap_or_default())),
        findings,
        notes,
        bytes: Some(facts.bytes),
        belongs_to: None,
    })
}

fn read(answer: &str) -> Facts {
    let mut facts = Facts::default();
    for line in answer.lines() {
        match line.split_once('\t') {
            Some(("role", role)) => facts.role = role.to_owned(),
            Some(("version", version)) => {
                facts.version = version.to_owned();
                facts.series = series(version).unwrap_or_default();
            }
            Some(("bytes", bytes)) => facts.bytes = bytes.parse().unwrap_or(0),
            Some(("encrypted", count)) => facts.encrypted_tables = count.parse().unwrap_or(0),
            Some(("plain", count)) => facts.plain_tables = count.parse().unwrap_or(0),
            Some((name, value)) => drop(facts.settings.insert(name.to_owned(), value.to_owned())),
            None => facts.rights.extend(granted(line)),
        }
    }
    facts
}

/// The rights of a line of `SHOW GRANTS` that hold for everything.
fn granted(line: &str) -> Vec<String> {
    let rights = line.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON *.* TO "));
    rights.map_or_else(Vec::new, |(rights, _)| rights.split(',').map(|right| right.trim().to_owned()).collect())
}

/// `rep@%` as an account in SQL.
fn account_of(role: &str) -> String {
    let (user, host) = role.rsplit_once('@').unwrap_or((role, "%"));
    format!("{}@{}", identifier(user), identifier(host))
}

fn rights(facts: &Facts) -> Vec<Finding> {
    let has =
        |names: &[&str]| facts.rights.iter().any(|right| right == "ALL PRIVILEGES" || names.contains(&right.as_str()));
    let missing: Vec<_> = RIGHTS.iter().filter(|(names, _)| !has(names)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = missing.iter().filter_map(|(names, _)| names.first().copied()).collect();
    let whys: Vec<String> = missing.iter().map(|(names, why)| format!("{} {why}", names.join(" or "))).collect();
    vec![Finding {
        what: format!("the account {} lacks rights: {}", facts.role, whys.join(", ")),
        fix: Some(format!("GRANT {} ON *.* TO {};", names.join(", "), account_of(&facts.role))),
        fatal: true,
    }]
}

fn settings(facts: &Facts) -> Vec<Finding> {
    let value = |name: &str| facts.settings.get(name).map(String::as_str).unwrap_or_default();
    let mut findings = Vec::new();
    let mut fatal = |what: &str, fix: &str| {
        findings.push(Finding { what: what.to_owned(), fix: Some(fix.to_owned()), fatal: true });
    };
    if value("log_bin") != "ON" {
        fatal(
            "production writes no binary log: log_bin is off",
            "[mariadbd] log_bin = /var/log/mysql/mariadb-bin, server_id = 1, binlog_format = ROW  # then restart production",
        );
    }
    if value("server_id") == "0" {
        fatal(
            "production has no server_id",
            "SET GLOBAL server_id = 1;  -- and server_id = 1 in its [mariadbd] section",
        );
    }
    if facts.encrypted_tables > 0 {
        findings.push(Finding {
            what: format!(
                "{} tables are made with ENCRYPTED=YES, and a mirror has none of production's keys",
                facts.encrypted_tables
            ),
            fix: None,
            fatal: true,
        });
    }
    if !matches!(value("innodb_encrypt_tables"), "" | "OFF") {
        let what =
            "production encrypts its tables on disk (innodb_encrypt_tables); mirror and clones do not".to_owned();
        findings.push(Finding { what, fix: None, fatal: false });
    }
    for name in ["innodb_data_home_dir", "innodb_undo_directory"] {
        let text = value(name);
        if !matches!(text, "" | "." | "./") {
            let what = format!(
                "production keeps InnoDB files outside of its data directory ({name}); clones keep them inside"
            );
            findings.push(Finding { what, fix: None, fatal: false });
        }
    }
    if value("binlog_format") != "ROW" && value("log_bin") == "ON" {
        findings.push(Finding {
            what: format!(
                "binlog_format is {}: statements that depend on anything but the data may give the mirror other rows",
                value("binlog_format")
            ),
            fix: Some(
                "SET GLOBAL binlog_format = 'ROW';  -- and binlog_format = ROW in its [mariadbd] section".to_owned(),
            ),
            fatal: false,
        });
    }
    findings
}

fn versions(facts: &Facts, installations: &Installations) -> Vec<Finding> {
    let (major, minor) = facts.series;
    let unknown = !SUPPORTED.contains(&facts.series);
    if unknown || installations.of(facts.series).is_err() {
        let (from, to) = SUPPORTED.into_inner();
        return vec![Finding {
            what: if unknown {
                format!("production is MariaDB {major}.{minor}; Pando knows {}.{} to {}", from.0, from.1, to.0)
            } else {
                format!(
                    "production is MariaDB {major}.{minor}, and this machine has no server of that series ({})",
                    installations.words()
                )
            },
            fix: (!unknown).then(|| "apt-get install mariadb-server-core mariadb-client  # of that series".to_owned()),
            fatal: true,
        }];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "role\trep@%\nversion\t10.11.19-MariaDB-0+deb12u1-log\nbytes\t1234\nplain\t1\n\
        log_bin\tON\nserver_id\t7\nbinlog_format\tMIXED\nlower_case_table_names\t0\ninnodb_page_size\t16384\n\
        GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, SHOW VIEW, TRIGGER ON *.* TO `rep`@`%` IDENTIFIED BY PASSWORD '*D8'\n\
        GRANT ALL PRIVILEGES ON `blog`.* TO `rep`@`%`\n";

    #[test]
    fn missing_rights_are_named_with_what_grants_them() {
        let facts = read(RECORDED);
        assert_eq!((facts.series, facts.bytes, facts.plain_tables), ((10, 11), 1234, 1));
        let findings = rights(&facts);
        assert_eq!(findings[0].fix.as_deref(), Some("GRANT REPLICATION SLAVE, EVENT ON *.* TO `rep`@`%`;"));
        assert!(findings[0].fatal && !findings[0].what.contains("LOCK TABLES"));
        let all = read(&RECORDED.replace("GRANT SELECT, RELOAD", "GRANT ALL PRIVILEGES, RELOAD"));
        assert!(rights(&all).is_empty());
    }

    #[test]
    fn m10_statement_format_is_told_and_no_log_is_refused() {
        let facts = read(RECORDED);
        let found = settings(&facts);
        assert!(found.len() == 1 && !found[0].fatal && found[0].what.contains("MIXED"), "{found:?}");
        let off =
            settings(&read(&RECORDED.replace("log_bin\tON", "log_bin\tOFF").replace("server_id\t7", "server_id\t0")));
        assert_eq!(off.iter().filter(|finding| finding.fatal).count(), 2);
    }

    #[test]
    fn m14_what_changes_the_meaning_of_data_is_kept_and_files_elsewhere_are_told() {
        let facts = read(RECORDED);
        assert_eq!(facts.settings.get("lower_case_table_names").map(String::as_str), Some("0"));
        assert_eq!(facts.settings.get("innodb_page_size").map(String::as_str), Some("16384"));
        let elsewhere = read(&format!("{RECORDED}innodb_undo_directory\t/var/undo\n"));
        assert!(settings(&elsewhere).iter().any(|finding| finding.what.contains("innodb_undo_directory")));
    }

    #[test]
    fn m14_what_only_productions_keys_can_make_is_refused() {
        let found = settings(&read(&format!("{RECORDED}encrypted\t2\ninnodb_encrypt_tables\tON\n")));
        assert!(found.iter().any(|finding| finding.fatal && finding.what.contains("2 tables")), "{found:?}");
        assert!(found.iter().any(|finding| !finding.fatal && finding.what.contains("do not")), "{found:?}");
    }

    #[test]
    fn m13_a_server_of_another_series_is_refused() {
        let none = Installations::default();
        assert!(versions(&read(RECORDED), &none)[0].what.contains("no server of that series"));
        let old = read(&RECORDED.replace("10.11.19", "10.1.4"));
        assert!(versions(&old, &none)[0].what.contains("Pando knows 10.5"));
    }
}
