//! Whether production's own clone plugin can make the first copy: it sends InnoDB's files to a server of ours while
//! production goes on. Production is left as it is: what is missing there is said, with the statements that would
//! bring it.
//!
//! The plugin brings rows of InnoDB alone, asks for the same series, and writes a file that lies outside of production's
//! data directory to the same path here. Where anything of that matters the first copy is a dump, and so it is where
//! a password would come along that a dump leaves on production. A user who wants a dump anyway says so:
//! `?clone-plugin=none`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pando_model::SourceUrl;

use crate::EngineError;
use crate::mysql_family::facts::{Facts, account_of};
use crate::mysql_family::install::{Installation, Version, words};

/// The word of an address by which a dump is asked for.
const WORD: &str = "clone-plugin";
/// What is noted of a copy by the plugin.
pub const BY_PLUGIN: &str = "the first copy is made by production's clone plugin";
/// The plugin's library.
pub const LIBRARY: &str = "mysql_clone.so";
/// Since then statements that change tables do not wait on production until the copy is made.
const SINCE: Version = (8, 0, 27);
/// Since then another release of the same 8.0 will do.
const MIXES_SINCE: Version = (8, 0, 37);
/// What both servers need for a packet of the plugin's.
const PACKET: u64 = 2 << 20;

/// How the first copy is made.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// By the plugin.
    Plugin,
    /// By a dump; why, where it is not what was asked for.
    Dump(Option<String>),
    /// By a dump, until production has what is missing: what that is, and the statements that bring it.
    Until(String, String),
}

/// What production answers to [`QUESTION`].
pub type Answers = BTreeMap<String, String>;

/// Each row is a name and a value. The number of rows of a table that is not InnoDB's is counted now, not remembered.
const QUESTION: &str = "SET SESSION information_schema_stats_expiry = 0, SESSION group_concat_max_len = 1000000; \
     SELECT 'plugin', plugin_status FROM information_schema.plugins WHERE plugin_name = 'clone'; \
     SELECT 'libraries', GROUP_CONCAT(DISTINCT plugin_library) FROM information_schema.plugins \
       WHERE plugin_status = 'ACTIVE' AND plugin_library IS NOT NULL HAVING COUNT(*) > 0; \
     SELECT 'rows', COUNT(*) FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND engine <> 'InnoDB' \
       AND table_schema NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys') \
       AND COALESCE(table_rows, 1) > 0; \
     SELECT 'outside', COUNT(*) FROM information_schema.files WHERE engine = 'InnoDB' AND file_name NOT LIKE './%'; \
     SELECT 'encrypted', COUNT(*) FROM information_schema.innodb_tablespaces WHERE encryption = 'Y'; \
     SELECT 'passwords', (SELECT COUNT(*) FROM mysql.slave_master_info WHERE User_password <> '') \
       + (SELECT COUNT(*) FROM mysql.servers WHERE Password <> '')";

/// Asks production.
pub fn ask(ask: &dyn Fn(&str) -> Result<String, EngineError>) -> Result<Answers, EngineError> {
    let answer = ask(QUESTION)?;
    Ok(answer.lines().filter_map(|line| line.split_once('\t')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
}

/// How many of something production has.
fn count(answers: &Answers, name: &str) -> Option<u64> {
    answers.get(name)?.parse().ok()
}

/// The server of ours that would take the copy.
#[derive(Debug)]
pub struct Taker {
    version: Version,
    /// Where the libraries of its plugins are, with the one that is needed.
    pub libraries: Option<PathBuf>,
}

impl Taker {
    /// That of an installation.
    pub fn of(here: &Installation) -> Self {
        let dirs = ["lib/mysql/plugin", "lib/plugin", "lib64/mysql/plugin"].map(|dir| here.prefix.join(dir));
        let libraries = dirs.into_iter().find(|dir| dir.join(LIBRARY).is_file());
        Self { version: here.version, libraries }
    }
}

/// How the first copy is made, given what production answered.
pub fn way(taker: &Taker, url: &SourceUrl, facts: &Facts, answers: &Answers) -> Way {
    if url.query.get(WORD).is_some_and(|word| word == "none") {
        return Way::Dump(None);
    }
    if let Some(why) = unfit(taker, url, facts, answers) {
        return Way::Dump(Some(why));
    }
    let active = answers.get("plugin").is_some_and(|status| status == "ACTIVE");
    let allowed = facts.may(&["BACKUP_ADMIN"]);
    let (mut missing, mut statements) = (Vec::new(), Vec::new());
    if !active {
        missing.push("its plugin is not active".to_owned());
        if answers.contains_key("plugin") {
            statements.push("UNINSTALL PLUGIN clone;".to_owned());
        }
        statements.push(format!("INSTALL PLUGIN clone SONAME '{LIBRARY}';"));
    }
    if !allowed {
        missing.push(format!("the account {} lacks BACKUP_ADMIN", facts.role));
        statements.push(format!("GRANT BACKUP_ADMIN ON *.* TO {};", account_of(&facts.role)));
    }
    if missing.is_empty() { Way::Plugin } else { Way::Until(missing.join(", "), statements.join(" ")) }
}

/// What a copy by the plugin could not bring over, or should not.
fn unfit(taker: &Taker, url: &SourceUrl, facts: &Facts, answers: &Answers) -> Option<String> {
    let version = facts.numbers();
    let mixes = version >= MIXES_SINCE && taker.version >= MIXES_SINCE;
    if version < SINCE {
        return Some(format!("before MySQL {} the clone plugin stops changes of tables on production", words(SINCE)));
    }
    if taker.version < version || (taker.version != version && !mixes) {
        let (from, to) = (words(version), words(taker.version));
        return Some(format!("the clone plugin does not copy from MySQL {from} to {to}"));
    }
    let Some(libraries) = &taker.libraries else {
        return Some(format!("{LIBRARY} is not on this machine"));
    };
    let host = url.host.as_deref().unwrap_or_default();
    if url.query.contains_key("socket") || host.contains(':') {
        return Some("the clone plugin wants a name or an address of IPv4".to_owned());
    }
    if url.query.get("ssl-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("VERIFY_IDENTITY")) {
        return Some("the clone plugin cannot verify whose certificate production has".to_owned());
    }
    settings(facts).or_else(|| held(libraries, answers))
}

/// What of production's settings a server of Pando's has not.
fn settings(facts: &Facts) -> Option<String> {
    let usual = [
        ("innodb_data_file_path", "ibdata1:12M:autoextend"),
        ("innodb_undo_log_encrypt", "OFF"),
        ("innodb_redo_log_encrypt", "OFF"),
        ("version_compile_machine", std::env::consts::ARCH),
    ];
    if let Some((name, _)) = usual.iter().find(|(name, usual)| facts.setting(name) != *usual) {
        return Some(format!("{name} is {}", facts.setting(name)));
    }
    let packet = facts.setting("max_allowed_packet");
    let small = packet.parse::<u64>().is_ok_and(|bytes| bytes < PACKET);
    small.then(|| format!("max_allowed_packet is {packet}, and the clone plugin needs {PACKET}"))
}

/// What production holds that would be missing, or would come along.
fn held(libraries: &Path, answers: &Answers) -> Option<String> {
    if let Some(why) = rows(answers) {
        return Some(why);
    }
    let kinds = [
        ("outside", "production keeps InnoDB files outside of its data directory"),
        ("encrypted", "tablespaces are encrypted, and their keys are production's"),
        ("passwords", "production keeps passwords for other servers in its tables"),
    ];
    if let Some((_, why)) = kinds.iter().find(|(name, _)| count(answers, name) != Some(0)) {
        return Some((*why).to_owned());
    }
    let wanted = answers.get("libraries").map(String::as_str).unwrap_or_default();
    let absent = wanted.split(',').find(|name| !name.is_empty() && !libraries.join(name).is_file())?;
    Some(format!("production runs a plugin that is not here ({absent})"))
}

/// That rows would be missing.
pub fn rows(answers: &Answers) -> Option<String> {
    match count(answers, "rows") {
        Some(0) => None,
        Some(tables) => {
            Some(format!("{tables} tables with rows are not InnoDB's, and the clone plugin leaves those empty"))
        }
        None => Some("production does not say whether tables with rows are not InnoDB's".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "mysql://rep:pw@db/blog";

    /// Production as it usually is: ready.
    fn ready() -> (Facts, Answers) {
        let settings = [
            ("innodb_data_file_path", "ibdata1:12M:autoextend"),
            ("innodb_undo_log_encrypt", "OFF"),
            ("innodb_redo_log_encrypt", "OFF"),
            ("version_compile_machine", std::env::consts::ARCH),
            ("max_allowed_packet", "67108864"),
        ];
        let facts = Facts {
            version: "9.7.4".to_owned(),
            role: "rep@%".to_owned(),
            rights: vec!["SELECT".to_owned(), "BACKUP_ADMIN".to_owned()],
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..Facts::default()
        };
        let answer = "plugin\tACTIVE\nlibraries\tmysql_clone.so\nrows\t0\noutside\t0\nencrypted\t0\npasswords\t0\n";
        (facts, ask(&|_| Ok(answer.to_owned())).expect("answers"))
    }

    fn look(url: &str, change: impl Fn(&mut Taker, &mut Facts, &mut Answers)) -> Way {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(LIBRARY), "").expect("a library");
        let mut taker = Taker { version: (9, 7, 4), libraries: Some(dir.path().to_owned()) };
        let (mut facts, mut answers) = ready();
        change(&mut taker, &mut facts, &mut answers);
        way(&taker, &url.parse().expect("an address"), &facts, &answers)
    }

    #[test]
    fn a_production_that_is_ready_is_copied_by_the_plugin_unless_a_dump_is_asked_for() {
        assert_eq!(look(URL, |_, _, _| {}), Way::Plugin);
        assert_eq!(look(&format!("{URL}?clone-plugin=none"), |_, _, _| {}), Way::Dump(None));
        // Another release of the series.
        assert_eq!(look(URL, |taker, _, _| taker.version = (9, 7, 9)), Way::Plugin);
    }

    #[test]
    fn what_production_lacks_is_said_with_what_brings_it() {
        let Way::Until(why, sql) = look(URL, |_, facts, answers| {
            facts.rights.pop();
            answers.remove("plugin");
        }) else {
            panic!("nothing is missing")
        };
        assert!(why.contains("not active") && why.contains("BACKUP_ADMIN"), "{why}");
        assert_eq!(sql, "INSTALL PLUGIN clone SONAME 'mysql_clone.so'; GRANT BACKUP_ADMIN ON *.* TO `rep`@`%`;");
        let Way::Until(_, sql) = look(URL, |_, facts, _| drop(facts.rights.pop())) else {
            panic!("nothing is missing")
        };
        assert_eq!(sql, "GRANT BACKUP_ADMIN ON *.* TO `rep`@`%`;");
    }

    #[test]
    fn m03_m04_m13_m14_what_the_plugin_would_leave_out_or_bring_too_much_of_is_dumped() {
        let answer = |name: &'static str, value: &'static str| {
            look(URL, |_, _, answers| drop(answers.insert(name.to_owned(), value.to_owned())))
        };
        let setting = |name: &'static str, value: &'static str| {
            look(URL, |_, facts, _| drop(facts.settings.insert(name.to_owned(), value.to_owned())))
        };
        let of = |version: &'static str, own: Version| {
            look(URL, |taker, facts, _| (facts.version, taker.version) = (version.to_owned(), own))
        };
        for (way, word) in [
            (answer("rows", "2"), "2 tables with rows"),
            (look(URL, |_, _, answers| drop(answers.remove("rows"))), "tables with rows"),
            (answer("outside", "1"), "outside of its data directory"),
            (answer("encrypted", "1"), "encrypted"),
            (answer("passwords", "1"), "passwords"),
            (answer("libraries", "mysql_clone.so,audit.so"), "(audit.so)"),
            (setting("innodb_data_file_path", "ibdata1:1G"), "innodb_data_file_path"),
            (setting("innodb_redo_log_encrypt", "ON"), "innodb_redo_log_encrypt"),
            (setting("version_compile_machine", "vax"), "vax"),
            (setting("max_allowed_packet", "1048576"), "max_allowed_packet"),
            (of("8.0.26", (8, 0, 26)), "before MySQL 8.0.27"),
            (of("8.0.36", (8, 0, 40)), "from MySQL 8.0.36 to 8.0.40"),
            (of("9.7.9", (9, 7, 4)), "from MySQL 9.7.9 to 9.7.4"),
            (look(URL, |taker, _, _| taker.libraries = None), "not on this machine"),
            (look("mysql:///blog?socket=/s", |_, _, _| {}), "IPv4"),
            (look("mysql://rep@[::1]/blog", |_, _, _| {}), "IPv4"),
            (look(&format!("{URL}?ssl-mode=VERIFY_IDENTITY"), |_, _, _| {}), "certificate"),
        ] {
            assert!(matches!(&way, Way::Dump(Some(why)) if why.contains(word)), "{word}: {way:?}");
        }
        assert_eq!(of("8.0.37", (8, 0, 40)), Way::Plugin);
    }
}
