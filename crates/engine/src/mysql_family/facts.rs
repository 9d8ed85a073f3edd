//! What preflight learns about a production server, and what is wrong with it.

use std::collections::BTreeMap;

use pando_host::Account;
use pando_model::{EngineKind, SourceUrl};
use serde::{Deserialize, Serialize};

use super::flavor::Flavor;
use super::install::{Installations, Series, Version, version, words};
use super::production::{query, query_within};
use super::wire::identifier;
use super::zone;
use crate::ask::LONG;
use crate::{EngineError, Finding, Preflight};

/// What is kept of a production server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// `version()`.
    pub version: String,
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
    /// The zone of its machine; none where that is UTC, or not known.
    pub zone: Option<String>,
}

impl Facts {
    /// Its version as numbers.
    pub fn numbers(&self) -> Version {
        version(&self.version).unwrap_or_default()
    }

    /// The series that serves it.
    pub fn series(&self) -> Series {
        let (major, minor, _) = self.numbers();
        (major, minor)
    }

    /// Whether it may do something to everything; other names for the same right.
    pub fn may(&self, names: &[&str]) -> bool {
        self.rights.iter().any(|right| right == "ALL PRIVILEGES" || names.contains(&right.as_str()))
    }

    /// A setting; empty where it has none.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// Settings that change what data means or how it lies on disk (M-14).
const SHARED: [&str; 9] = [
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
/// Settings that change what statements answer or store, and whether they can. (Not `autocommit`, `sql_safe_updates` and their
/// like, which Pando's own sessions would have, too.)
const ANSWERS: [&str; 21] = [
    "auto_increment_increment",
    "auto_increment_offset",
    "block_encryption_mode",
    "default_week_format",
    "div_precision_increment",
    "ft_max_word_len",
    "ft_min_word_len",
    "group_concat_max_len",
    "innodb_default_row_format",
    "innodb_ft_enable_stopword",
    "innodb_ft_max_token_size",
    "innodb_ft_min_token_size",
    "innodb_rollback_on_timeout",
    "innodb_strict_mode",
    "lc_time_names",
    "max_heap_table_size",
    "max_sort_length",
    "max_sp_recursion_depth",
    "transaction_isolation",
    // What older series of MariaDB call it.
    "tx_isolation",
    "updatable_views_with_limit",
];
const ASKED: [&str; 7] = [
    "system_time_zone",
    "log_bin",
    "server_id",
    "binlog_format",
    "binlog_row_image",
    "innodb_data_home_dir",
    "innodb_undo_directory",
];

/// Settings that mirrors and clones share with production.
pub fn shared<F: Flavor>() -> Vec<&'static str> {
    SHARED.iter().chain(F::SHARED).chain(&ANSWERS).chain(F::ANSWERS).copied().collect()
}

/// The names of its databases, hexadecimal: they may hold anything.
const DATABASES: &str = "SELECT HEX(schema_name) FROM information_schema.schemata";
/// Those of the server itself.
const ITS_OWN: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];

/// That the database of the address is not there.
fn no_database(
    url: &SourceUrl,
    facts: &Facts,
    ask: &dyn Fn(&str) -> Result<String, EngineError>,
) -> Result<Option<Finding>, EngineError> {
    const SHOWN: usize = 10;
    let Some(name) = url.database() else { return Ok(None) };
    let answer = ask(DATABASES)?;
    let mut there: Vec<String> = answer.lines().filter_map(text_of).collect();
    let is_it = |known: &String| match facts.setting("lower_case_table_names") {
        "0" | "" => known == name,
        _ => known.to_lowercase() == name.to_lowercase(),
    };
    if there.iter().any(is_it) {
        return Ok(None);
    }
    there.sort();
    there.retain(|known| !ITS_OWN.contains(&known.as_str()));
    let more = if there.len() > SHOWN { ", …" } else { "" };
    let fix = match there.as_slice() {
        [] => "CREATE DATABASE …; production has none yet".to_owned(),
        some => format!("one of production's databases: {}{more}", some[..some.len().min(SHOWN)].join(", ")),
    };
    Ok(Some(finding(format!("production has no database {name:?}"), Some(&fix), true)))
}

fn text_of(hex: &str) -> Option<String> {
    let bytes = hex.as_bytes().chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok());
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

/// What a right is for; the first name is the one to grant, others are MariaDB's.
const RIGHTS: [(&[&str], &str); 9] = [
    (&["REPLICATION SLAVE", "REPLICATION REPLICA"], "to follow the binary log"),
    (&["REPLICATION CLIENT", "BINLOG MONITOR"], "to see where the binary log is"),
    (&["SELECT"], "to copy tables, routines and accounts"),
    (&["RELOAD"], "to begin the first copy at one moment"),
    (&["LOCK TABLES"], "to begin the first copy at one moment"),
    (&["SHOW VIEW"], "to copy views"),
    (&["EVENT"], "to copy events"),
    (&["TRIGGER"], "to copy triggers"),
    (&["PROCESS"], "to copy tablespaces"),
];

fn question<F: Flavor>() -> String {
    let names: Vec<String> =
        shared::<F>().iter().chain(&ASKED).chain(F::ASKED).map(|name| format!("'{name}'")).collect();
    format!(
        "SELECT 'role', CURRENT_USER(); SELECT 'version', VERSION(); \
         SELECT 'bytes', COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables; \
         SELECT 'plain', COUNT(*) FROM information_schema.tables WHERE engine IS NOT NULL \
           AND engine NOT IN ('InnoDB', 'MEMORY') AND table_type = 'BASE TABLE' \
           AND table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys'); \
         SELECT 'encrypted', COUNT(*) FROM information_schema.tables WHERE create_options {}; \
         SHOW SESSION STATUS LIKE 'Ssl_cipher'; SHOW GLOBAL VARIABLES WHERE Variable_name IN ({}); SHOW GRANTS",
        F::ENCRYPTED.0,
        names.join(",")
    )
}

/// Looks at production. One of the other make is left to its engine.
pub fn look<F: Flavor>(
    installations: &Installations,
    account: Option<&Account>,
    url: &SourceUrl,
) -> Result<Preflight, EngineError> {
    let make = F::PROGRAMS.make;
    let other = |what: String, fix: &str| Preflight {
        belongs_to: Some(F::OTHER),
        findings: vec![finding(what, Some(fix), true)],
        ..Preflight::default()
    };
    let Some(client) = installations.newest() else {
        // Nothing here can ask it as what its address says; it may be the other all the same.
        return Ok(other(format!("production cannot be asked: {}", installations.words()), installations.hint()));
    };
    let found = query(client, account, url, "SELECT VERSION()")?;
    if found.contains("MariaDB") != (F::KIND == EngineKind::Mariadb) {
        let what = format!("production is not {make} ({})", found.trim());
        return Ok(other(what, &format!("{}://… instead of {}://…", F::OTHER, F::KIND)));
    }
    let ask = |sql: &str| query_within(client, account, url, LONG, sql);
    let mut facts = read(&ask(&question::<F>())?);
    let zone = zone::find(&ask, facts.setting("system_time_zone"))?;
    facts.zone.clone_from(&zone.name);
    let mut findings = versions::<F>(&facts, installations);
    findings.extend(settings::<F>(&facts));
    let told = zone::told(&facts, &zone);
    findings.extend(told.as_ref().err().cloned());
    findings.extend(rights(&facts));
    findings.extend(no_database(url, &facts, &ask)?);
    let mut found = Preflight {
        facts: serde_json::to_value(&facts).unwrap_or_default(),
        version: Some(format!("{make} {}", words(facts.numbers()))),
        findings,
        bytes: Some(facts.bytes),
        notes: told.ok().flatten().into_iter().collect(),
        ..Preflight::default()
    };
    let files = F::first_copy(installations, &ask, url, &facts, &mut found)?;
    if facts.plain_tables > 0 && !files {
        found.notes.push(format!(
            "{} tables take no part in transactions (MyISAM …): the first copy of them is of the time it was made",
            facts.plain_tables
        ));
    }
    Ok(found)
}

fn read(answer: &str) -> Facts {
    let mut facts = Facts::default();
    for line in answer.lines() {
        match line.split_once('\t') {
            Some(("role", role)) => facts.role = role.to_owned(),
            Some(("version", version)) => facts.version = version.to_owned(),
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
pub fn account_of(role: &str) -> String {
    let (user, host) = role.rsplit_once('@').unwrap_or((role, "%"));
    format!("{}@{}", identifier(user), identifier(host))
}

fn rights(facts: &Facts) -> Vec<Finding> {
    let missing: Vec<_> = RIGHTS.iter().filter(|(names, _)| !facts.may(names)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = missing.iter().filter_map(|(names, _)| names.first().copied()).collect();
    let whys: Vec<String> =
        missing.iter().filter_map(|(names, why)| Some(format!("{} {why}", names.first()?))).collect();
    vec![Finding {
        what: format!("the account {} lacks rights: {}", facts.role, whys.join(", ")),
        fix: Some(format!("GRANT {} ON *.* TO {};", names.join(", "), account_of(&facts.role))),
        fatal: true,
    }]
}

/// One finding.
pub fn finding(what: String, fix: Option<&str>, fatal: bool) -> Finding {
    Finding { what, fix: fix.map(str::to_owned), fatal }
}

fn settings<F: Flavor>(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let [no_log, no_number, statements] = F::FIXES;
    if facts.setting("log_bin") != "ON" {
        findings.push(finding("production writes no binary log: log_bin is off".to_owned(), Some(no_log), true));
    }
    if facts.setting("server_id") == "0" {
        findings.push(finding("production has no server_id".to_owned(), Some(no_number), true));
    }
    if facts.encrypted_tables > 0 {
        findings.push(finding(format!("{} tables are {}", facts.encrypted_tables, F::ENCRYPTED.1), None, true));
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
        findings.push(finding(what, Some(statements), false));
    }
    findings.extend(F::settings(facts));
    findings
}

fn versions<F: Flavor>(facts: &Facts, installations: &Installations) -> Vec<Finding> {
    let make = F::PROGRAMS.make;
    let (known, in_words) = F::KNOWN;
    if !known.contains(&facts.numbers()) {
        let what = format!("production is {make} {}; Pando knows {in_words}", facts.version);
        return vec![finding(what, None, true)];
    }
    match installations.of(facts.series()) {
        Err(_) => vec![finding(absent(facts, installations), Some(installations.hint()), true)],
        Ok(here) if here.version < facts.numbers() && !F::READS_NEWER => {
            let what = format!(
                "production is {make} {}, and this machine's server is older ({}): it may not know all that production does",
                words(facts.numbers()),
                words(here.version)
            );
            vec![finding(what, Some("apt-get upgrade"), false)]
        }
        Ok(_) => Vec::new(),
    }
}

/// That there is no server here for production's series.
pub fn absent(facts: &Facts, installations: &Installations) -> String {
    let (major, minor) = facts.series();
    let make = installations.make();
    format!(
        "production is {make} {major}.{minor}, and this machine has no server of that series ({})",
        installations.words()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;

    const MARIADB: &str = "role\trep@%\nversion\t10.11.19-MariaDB-0+deb12u1-log\nbytes\t1234\nplain\t1\nencrypted\t0\n\
        log_bin\tON\nserver_id\t7\nbinlog_format\tMIXED\nlower_case_table_names\t0\ninnodb_page_size\t16384\n\
        GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, SHOW VIEW, TRIGGER ON *.* TO `rep`@`%` IDENTIFIED BY PASSWORD '*D8'\n\
        GRANT ALL PRIVILEGES ON `blog`.* TO `rep`@`%`\n";
    const MYSQL: &str = "role\trep@%\nversion\t8.4.3-log\nbytes\t1234\nplain\t1\nencrypted\t0\nSsl_cipher\tTLS_AES_128\n\
        log_bin\tON\nserver_id\t7\nbinlog_format\tMIXED\ngtid_mode\tON\nlower_case_table_names\t0\ninnodb_page_size\t16384\n\
        GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, REPLICATION CLIENT, SHOW VIEW, TRIGGER ON *.* TO `rep`@`%`\n\
        GRANT BACKUP_ADMIN,XA_RECOVER_ADMIN ON *.* TO `rep`@`%`\nGRANT ALL PRIVILEGES ON `blog`.* TO `rep`@`%`\n";

    /// A server that said it, and what is wrong with its settings.
    fn both(change: impl Fn(&str) -> String) -> [(Facts, Vec<Finding>); 2] {
        let (mariadb, mysql) = (read(&change(MARIADB)), read(&change(MYSQL)));
        let found = (settings::<Mariadb>(&mariadb), settings::<Mysql>(&mysql));
        [(mariadb, found.0), (mysql, found.1)]
    }

    #[test]
    fn missing_rights_are_named_with_what_grants_them() {
        for (facts, _) in both(str::to_owned) {
            assert_eq!((facts.bytes, facts.plain_tables), (1234, 1));
            let findings = rights(&facts);
            assert_eq!(findings[0].fix.as_deref(), Some("GRANT REPLICATION SLAVE, EVENT ON *.* TO `rep`@`%`;"));
            assert!(findings[0].fatal && !findings[0].what.contains("LOCK TABLES"));
        }
        for (all, _) in both(|said| said.replace("GRANT SELECT, RELOAD", "GRANT ALL PRIVILEGES, RELOAD")) {
            assert!(rights(&all).is_empty());
        }
        assert_eq!([MARIADB, MYSQL].map(|said| read(said).series()), [(10, 11), (8, 4)]);
    }

    #[test]
    fn m08_without_numbers_of_transactions_the_statements_that_give_them_are_named() {
        assert!(!settings::<Mysql>(&read(MYSQL)).iter().any(|finding| finding.fatal));
        for (mode, fix) in [("OFF", "OFF_PERMISSIVE; SET"), ("ON_PERMISSIVE", "SET PERSIST gtid_mode = ON;")] {
            let found = settings::<Mysql>(&read(&MYSQL.replace("gtid_mode\tON", &format!("gtid_mode\t{mode}"))));
            assert!(found.iter().any(|finding| finding.fatal && finding.fix.as_ref().is_some_and(|f| f.contains(fix))));
        }
    }

    #[test]
    fn m10_statement_format_is_told_and_no_log_is_refused() {
        for (_, found) in both(str::to_owned) {
            assert!(found.len() == 1 && !found[0].fatal && found[0].what.contains("MIXED"), "{found:?}");
        }
        let off = |said: &str| said.replace("log_bin\tON", "log_bin\tOFF").replace("server_id\t7", "server_id\t0");
        for (_, found) in both(off) {
            assert_eq!(found.iter().filter(|finding| finding.fatal).count(), 2);
        }
    }

    #[test]
    fn m14_what_changes_the_meaning_of_data_is_kept_and_files_elsewhere_are_told() {
        for (facts, found) in both(|said| format!("{said}innodb_undo_directory\t/var/undo\n")) {
            assert_eq!((facts.setting("lower_case_table_names"), facts.setting("innodb_page_size")), ("0", "16384"));
            assert!(found.iter().any(|finding| finding.what.contains("innodb_undo_directory")));
        }
    }

    #[test]
    fn m09_that_numbers_may_be_set_back_is_told() {
        for (mode, told) in [("OFF", true), ("ON", false)] {
            let found = settings::<Mariadb>(&read(&format!("{MARIADB}gtid_strict_mode\t{mode}\n")));
            assert_eq!(found.iter().any(|finding| !finding.fatal && finding.what.contains("gtid_seq_no")), told);
        }
    }

    #[test]
    fn m14_what_is_encrypted_is_refused() {
        for (_, found) in both(|said| said.replace("encrypted\t0", "encrypted\t2")) {
            assert!(found.iter().any(|finding| finding.fatal && finding.what.contains("2 tables")), "{found:?}");
        }
        let found = settings::<Mariadb>(&read(&format!("{MARIADB}innodb_encrypt_tables\tON\n")));
        assert!(found.iter().any(|finding| !finding.fatal && finding.what.contains("do not")), "{found:?}");
    }

    #[test]
    fn m13_a_server_of_another_series_or_too_old_is_refused() {
        fn check<F: Flavor>(said: &str, version: &str, old: &str, known: &str) {
            let none = Installations::none(&F::PROGRAMS);
            let found = versions::<F>(&read(said), &none);
            assert!(found[0].fatal && found[0].what.contains("no server of that series") && found[0].fix.is_some());
            let old = versions::<F>(&read(&said.replace(version, old)), &none);
            assert!(old[0].what.contains(known), "{old:?}");
        }
        check::<Mariadb>(MARIADB, "10.11.19", "10.1.4", "Pando knows 10.5");
        check::<Mysql>(MYSQL, "8.4.3", "5.7.44", "Pando knows 8.0.26");
    }
}
