//! What preflight learns about a production server, and what is wrong with it.

use std::collections::BTreeMap;

use pando_host::Account;
use pando_model::{EngineKind, SourceUrl};
use serde::{Deserialize, Serialize};

use super::install::{INSTALL, Installations, OLDEST, Series, Version, version, words};
use super::production::query;
use crate::wire::identifier;
use crate::{EngineError, Finding, Preflight};

/// What is kept of a production server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// `version()`.
    pub version: String,
    /// The same as numbers.
    pub numbers: Version,
    /// Settings that a mirror or clone must share, and what else was asked for.
    pub settings: BTreeMap<String, String>,
    /// Bytes of all tables.
    pub bytes: u64,
    /// Tables that take no part in transactions.
    pub plain_tables: u64,
    /// Tables that are encrypted at rest.
    pub encrypted_tables: u64,
    /// Who Pando is there.
    pub role: String,
    /// What it may do to everything.
    pub rights: Vec<String>,
}

impl Facts {
    /// The series that serves it.
    pub fn series(&self) -> Series {
        (self.numbers.0, self.numbers.1)
    }

    fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Whether production was asked over TLS.
    pub fn tls(&self) -> bool {
        !self.setting("ssl_cipher").is_empty()
    }
}

/// Settings that change what data means or how it lies on disk (M-14).
pub const SHARED: [&str; 9] = [
    "lower_case_table_names",
    "innodb_page_size",
    "character_set_server",
    "collation_server",
    "sql_mode",
    "time_zone",
    "explicit_defaults_for_timestamp",
    "max_allowed_packet",
    "default_storage_engine",
];
const ASKED: [&str; 8] = [
    "log_bin",
    "server_id",
    "gtid_mode",
    "enforce_gtid_consistency",
    "binlog_format",
    "binlog_row_image",
    "innodb_data_home_dir",
    "innodb_undo_directory",
];
const LOOK: &str = "SELECT 'role', CURRENT_USER(); SELECT 'version', VERSION(); \
 SELECT 'bytes', COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables; \
 SELECT 'plain', COUNT(*) FROM information_schema.tables WHERE engine IS NOT NULL AND engine NOT IN ('InnoDB', 'MEMORY') \
   AND table_type = 'BASE TABLE' AND table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys'); \
 SELECT 'encrypted', COUNT(*) FROM information_schema.tables WHERE create_options LIKE '%ENCRYPTION=\\'Y\\'%'; \
 SHOW SESSION STATUS LIKE 'Ssl_cipher'; SHOW GLOBAL VARIABLES WHERE Variable_name IN (";

/// What a right is for; the first name is the one to grant.
const RIGHTS: [(&[&str], &str); 9] = [
    (&["REPLICATION SLAVE"], "to follow the binary log"),
    (&["REPLICATION CLIENT"], "to see where the binary log is"),
    (&["SELECT"], "to copy tables, routines and accounts"),
    (&["RELOAD"], "to begin the first copy at one moment"),
    (&["LOCK TABLES"], "to begin the first copy at one moment"),
    (&["SHOW VIEW"], "to copy views"),
    (&["EVENT"], "to copy events"),
    (&["TRIGGER"], "to copy triggers"),
    (&["PROCESS"], "to copy tablespaces"),
];

/// Looks at production. A server that says it is MariaDB is left to its engine.
pub fn look(
    installations: &Installations,
    account: Option<&Account>,
    url: &SourceUrl,
) -> Result<Preflight, EngineError> {
    let other = |what: String, fix: Option<&str>| Preflight {
        belongs_to: Some(EngineKind::Mariadb),
        findings: vec![Finding { what, fix: fix.map(str::to_owned), fatal: true }],
        ..Preflight::default()
    };
    let Some(client) = installations.newest() else {
        // Nothing here can ask it as MySQL; it may be MariaDB all the same.
        return Ok(other(format!("production cannot be asked: {}", installations.words()), Some(INSTALL)));
    };
    let client = client.tool("mysql")?;
    if query(&client, account, url, "SELECT VERSION()")?.contains("MariaDB") {
        return Ok(other("production is MariaDB".to_owned(), Some("mariadb://… instead of mysql://…")));
    }
    let names: Vec<String> = SHARED.iter().chain(&ASKED).map(|name| format!("'{name}'")).collect();
    let facts = read(&query(&client, account, url, &format!("{LOOK}{}); SHOW GRANTS", names.join(",")))?);
    let mut findings = versions(&facts, installations);
    findings.extend(settings(&facts));
    findings.extend(rights(&facts));
    let mut notes = Vec::new();
    if facts.plain_tables > 0 {
        notes.push(format!(
            "{} tables take no part in transactions (MyISAM …): the first copy of them is of the time it was made",
            facts.plain_tables
        ));
    }
    Ok(Preflight {
        facts: serde_json::to_value(&facts).unwrap_or_default(),
        version: Some(format!("MySQL {}", facts.version.split('-').next().unwrap_or_default())),
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
            Some(("version", text)) => {
                facts.version = text.to_owned();
                facts.numbers = version(text).unwrap_or_default();
            }
            Some(("bytes", bytes)) => facts.bytes = bytes.parse().unwrap_or(0),
            Some(("plain", count)) => facts.plain_tables = count.parse().unwrap_or(0),
            Some(("encrypted", count)) => facts.encrypted_tables = count.parse().unwrap_or(0),
            Some((name, value)) => drop(facts.settings.insert(name.to_lowercase(), value.to_owned())),
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

fn finding(what: String, fix: Option<&str>, fatal: bool) -> Finding {
    Finding { what, fix: fix.map(str::to_owned), fatal }
}

fn settings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.setting("log_bin") != "ON" {
        let fix = "[mysqld] log_bin = binlog, server_id = 1  # then restart production";
        findings.push(finding("production writes no binary log: log_bin is off".to_owned(), Some(fix), true));
    }
    if facts.setting("server_id") == "0" {
        let fix = "SET PERSIST server_id = 1;";
        findings.push(finding("production has no server_id".to_owned(), Some(fix), true));
    }
    if facts.setting("gtid_mode") != "ON" {
        let what = format!(
            "production's transactions have no numbers: gtid_mode is {} (each statement mends it without a restart)",
            facts.setting("gtid_mode")
        );
        let fix = "SET PERSIST enforce_gtid_consistency = ON; SET PERSIST gtid_mode = OFF_PERMISSIVE; \
                   SET PERSIST gtid_mode = ON_PERMISSIVE; SET PERSIST gtid_mode = ON;";
        // Each value follows the one before it.
        let fix = match facts.setting("gtid_mode") {
            "ON_PERMISSIVE" => "SET PERSIST gtid_mode = ON;",
            "OFF_PERMISSIVE" => "SET PERSIST gtid_mode = ON_PERMISSIVE; SET PERSIST gtid_mode = ON;",
            _ => fix,
        };
        findings.push(finding(what, Some(fix), true));
    }
    if facts.encrypted_tables > 0 {
        let what = format!("{} tables are encrypted at rest, which a mirror cannot keep yet", facts.encrypted_tables);
        findings.push(finding(what, None, true));
    }
    for name in ["innodb_data_home_dir", "innodb_undo_directory"] {
        if !matches!(facts.setting(name), "" | "." | "./") {
            let what = format!(
                "production keeps InnoDB files outside of its data directory ({name}); clones keep them inside"
            );
            findings.push(finding(what, None, false));
        }
    }
    if facts.setting("binlog_format") != "ROW" && facts.setting("log_bin") == "ON" {
        let what = format!(
            "binlog_format is {}: statements that depend on anything but the data may give the mirror other rows",
            facts.setting("binlog_format")
        );
        findings.push(finding(what, Some("SET PERSIST binlog_format = 'ROW';"), false));
    }
    findings
}

fn versions(facts: &Facts, installations: &Installations) -> Vec<Finding> {
    let (major, minor) = facts.series();
    if facts.numbers < OLDEST {
        let what = format!("production is MySQL {}; Pando knows {} and later", facts.version, words(OLDEST));
        return vec![finding(what, None, true)];
    }
    match installations.of(facts.series()) {
        Err(_) => {
            let what = format!(
                "production is MySQL {major}.{minor}, and this machine has no server of that series ({})",
                installations.words()
            );
            vec![finding(what, Some(INSTALL), true)]
        }
        Ok(here) if here.version < facts.numbers => {
            let what = format!(
                "production is MySQL {}, and this machine's server is older ({}): it may not know all that production does",
                words(facts.numbers),
                words(here.version)
            );
            vec![finding(what, Some("apt-get upgrade"), false)]
        }
        Ok(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "role\trep@%\nversion\t8.4.3-log\nbytes\t1234\nplain\t1\nencrypted\t0\nSsl_cipher\tTLS_AES_128\n\
        log_bin\tON\nserver_id\t7\nbinlog_format\tMIXED\ngtid_mode\tON\nlower_case_table_names\t0\ninnodb_page_size\t16384\n\
        GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, REPLICATION CLIENT, SHOW VIEW, TRIGGER ON *.* TO `rep`@`%`\n\
        GRANT BACKUP_ADMIN,XA_RECOVER_ADMIN ON *.* TO `rep`@`%`\nGRANT ALL PRIVILEGES ON `blog`.* TO `rep`@`%`\n";

    #[test]
    fn missing_rights_are_named_with_what_grants_them() {
        let facts = read(RECORDED);
        assert_eq!((facts.series(), facts.bytes, facts.plain_tables), ((8, 4), 1234, 1));
        assert!(facts.tls());
        let findings = rights(&facts);
        assert_eq!(findings[0].fix.as_deref(), Some("GRANT REPLICATION SLAVE, EVENT ON *.* TO `rep`@`%`;"));
        assert!(findings[0].fatal && !findings[0].what.contains("LOCK TABLES"));
    }

    #[test]
    fn m08_without_numbers_of_transactions_the_statements_that_give_them_are_named() {
        assert!(!settings(&read(RECORDED)).iter().any(|finding| finding.fatal));
        for (mode, fix) in [("OFF", "OFF_PERMISSIVE; SET"), ("ON_PERMISSIVE", "SET PERSIST gtid_mode = ON;")] {
            let found = settings(&read(&RECORDED.replace("gtid_mode\tON", &format!("gtid_mode\t{mode}"))));
            assert!(found.iter().any(|finding| finding.fatal && finding.fix.as_ref().is_some_and(|f| f.contains(fix))));
        }
    }

    #[test]
    fn m10_statement_format_is_told_and_no_log_is_refused() {
        let found = settings(&read(RECORDED));
        assert!(found.len() == 1 && !found[0].fatal && found[0].what.contains("MIXED"), "{found:?}");
        let off =
            settings(&read(&RECORDED.replace("log_bin\tON", "log_bin\tOFF").replace("server_id\t7", "server_id\t0")));
        assert_eq!(off.iter().filter(|finding| finding.fatal).count(), 2);
    }

    #[test]
    fn m14_what_changes_the_meaning_of_data_is_kept_and_encryption_is_refused() {
        let facts = read(RECORDED);
        assert_eq!((facts.setting("lower_case_table_names"), facts.setting("innodb_page_size")), ("0", "16384"));
        let elsewhere = read(&format!("{RECORDED}innodb_undo_directory\t/var/undo\n"));
        assert!(settings(&elsewhere).iter().any(|finding| finding.what.contains("innodb_undo_directory")));
        let encrypted = read(&RECORDED.replace("encrypted\t0", "encrypted\t3"));
        assert!(settings(&encrypted).iter().any(|finding| finding.fatal && finding.what.contains("encrypted at rest")));
    }

    #[test]
    fn m13_a_server_of_another_series_or_too_old_is_refused() {
        let none = Installations::default();
        let found = versions(&read(RECORDED), &none);
        assert!(found[0].what.contains("no server of that series") && found[0].fix.is_some());
        let old = read(&RECORDED.replace("8.4.3", "5.7.44"));
        assert!(versions(&old, &none)[0].what.contains("Pando knows 8.0.26"));
    }
}
