//! The option files of mirrors and clones, and what a server runs before anybody may enter.
//!
//! Pando enters its own servers as `pando_keeper` without a password, through a socket in a directory that only the
//! account can reach (names are not resolved, so loopback is not `localhost`). A server's `init-file` makes the keeper
//! and shuts production's accounts, before the first connection is taken.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use pando_model::{Profile, SettingChange};
use serde::{Deserialize, Serialize};

use super::facts::{self, Facts};
use super::flavor::{Flavor, keeper};
use super::session::socket;
use crate::EngineError;

/// The option file, in the tree.
pub const FILE: &str = "pando.cnf";
/// What a server runs first, in the tree.
pub const INIT: &str = "pando.init.sql";
/// The directory of what a clone replays, in the tree.
pub const REPLAY: &str = "pando.replay";
/// InnoDB's redo log is as large everywhere, or a clone would make it anew at its start.
pub const REDO: &str = "64M";

/// The setting that a server without tables of zones does not start with, where it is a name.
const ZONE: &str = "time_zone";

/// Lines of an option file.
#[derive(Debug)]
pub struct Options {
    section: &'static str,
    lines: Vec<(String, String)>,
}

impl Options {
    /// None yet, for a section of the file.
    pub fn of(section: &'static str) -> Self {
        Self { section, lines: Vec::new() }
    }

    /// One more.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.lines.push((name.to_owned(), value.into()));
        self
    }

    /// One more, a path.
    pub fn path(&mut self, name: &str, value: &Path) -> &mut Self {
        self.set(name, value.to_string_lossy())
    }

    /// Adds what changes the meaning of data or queries, as production has it.
    pub fn shared(&mut self, settings: &BTreeMap<String, String>, names: &[&str]) {
        for (name, value) in names.iter().filter_map(|name| Some((*name, settings.get(*name)?))) {
            match (name, value.as_str()) {
                (ZONE, "SYSTEM") => {}
                (ZONE, zone) => drop(self.set("default_time_zone", zone)),
                ("tx_isolation", level) => drop(self.set("transaction_isolation", level)),
                _ => drop(self.set(name, value)),
            }
        }
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = format!("# Written by Pando; changes are lost. Use `--set name=value`.\n[{}]\n", self.section);
        for (name, value) in &self.lines {
            let _ = writeln!(text, "{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        }
        text
    }
}

/// Where a server lives.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// Its data.
    pub data: &'a Path,
    /// Its socket.
    pub run: &'a Path,
    /// Its own number (M-1).
    pub server_id: u32,
}

/// A number that no other server of production, mirror or clone has.
pub fn server_id(of: &str, facts: &Facts) -> u32 {
    let mut id = crc32c::crc32c(of.as_bytes()) | 0x4000_0000;
    if facts.setting("server_id").parse() == Ok(id) {
        id ^= 1;
    }
    id
}

/// How a clone is to be served; kept in its tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manner {
    /// The port on loopback.
    pub port: Option<u16>,
    /// What its data is worth.
    pub profile: Profile,
    /// What the user set.
    pub set: SettingChange,
    /// What it calls its binary logs, where it records.
    pub record: Option<PathBuf>,
    /// Whether it may be entered.
    pub open: bool,
}

fn common<F: Flavor>(facts: &Facts, place: &Place<'_>) -> Options {
    let mut options = Options::of(F::PROGRAMS.server);
    options
        .path("datadir", place.data)
        .path("socket", &socket(place.run))
        .path("pid_file", &place.run.join("pid"))
        .path("init_file", &place.data.join(INIT))
        .path("tmpdir", place.run)
        .set("server_id", place.server_id.to_string())
        .set("skip_name_resolve", "ON")
        .set("event_scheduler", "OFF")
        .set("performance_schema", "OFF")
        .set("local_infile", "OFF")
        .set("innodb_buffer_pool_size", "128M")
        .set("innodb_buffer_pool_load_at_startup", "OFF")
        .set("innodb_buffer_pool_dump_at_shutdown", "OFF")
        .set("key_buffer_size", "8M")
        .set("relay_log_purge", "OFF");
    F::server_options(&mut options);
    let usual: Vec<&str> = facts::shared::<F>().into_iter().filter(|name| *name != ZONE).collect();
    options.shared(&facts.settings, &usual);
    options
}

/// The mirror's while its first copy is made, without a zone by its name: a replica that only Pando talks to. It may
/// lose its last second when the machine dies: what it has applied is known to InnoDB itself, the rest comes again.
pub fn mirror<F: Flavor>(facts: &Facts, place: &Place<'_>, live: &Path) -> Options {
    let mut options = common::<F>(facts, place);
    options
        .set("skip_networking", "ON")
        .set("skip_log_bin", "ON")
        .set("read_only", "ON")
        .path("relay_log", live)
        .path("relay_log_index", &live.with_file_name("log.index"))
        .set("max_relay_log_size", "32M")
        .set("innodb_flush_log_at_trx_commit", "2");
    F::mirror_options(&mut options, live);
    options
}

/// The mirror's once its first copy is made, and the tables of zones came with it: a zone may have a name.
pub fn following<F: Flavor>(facts: &Facts, place: &Place<'_>, live: &Path) -> Options {
    let mut options = mirror::<F>(facts, place, live);
    options.shared(&facts.settings, &[ZONE]);
    options
}

/// A clone's, the user's settings last.
pub fn clone<F: Flavor>(facts: &Facts, place: &Place<'_>, manner: &Manner) -> Options {
    let mut options = common::<F>(facts, place);
    options.shared(&facts.settings, &[ZONE]);
    let replay = place.data.join(REPLAY);
    options
        .path("relay_log", &replay.join("log"))
        .path("relay_log_index", &replay.join("log.index"))
        // A clone that is rewound replays what it wrote itself.
        .set("replicate_same_server_id", "ON");
    match manner.port {
        Some(port) => {
            options.set("bind_address", "127.0.0.1").set("port", port.to_string());
            F::door(&mut options, manner.open);
        }
        None => drop(options.set("skip_networking", "ON")),
    }
    match &manner.record {
        Some(live) => drop(
            options
                .path("log_bin", live)
                .path("log_bin_index", &live.with_file_name("log.index"))
                .set("max_binlog_size", "32M"),
        ),
        None => drop(options.set("skip_log_bin", "ON")),
    }
    F::clone_options(&mut options, &replay, manner);
    if manner.profile == Profile::Disposable {
        // Written at each commit, never synced: what was acknowledged outlives the server, and is in a clone of the
        // clone. (At 0 `FLUSH ENGINE LOGS` does nothing, and a snapshot would lack the last commits.)
        options
            .set("innodb_flush_log_at_trx_commit", "2")
            .set("innodb_doublewrite", "OFF")
            .set("innodb_flush_method", "nosync")
            .set("sync_binlog", "0");
    } else {
        options.set("innodb_flush_log_at_trx_commit", "1").set("sync_binlog", "1");
    }
    for (name, value) in &manner.set {
        options.set(name, value);
    }
    options
}

/// What belongs to Pando.
const OURS: [&str; 23] = [
    "basedir",
    "bind_address",
    "datadir",
    "event_scheduler",
    "init_connect",
    "init_file",
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "lower_case_table_names",
    "log_bin",
    "log_bin_index",
    "pid_file",
    "plugin_load",
    "plugin_load_add",
    "port",
    "relay_log",
    "require_secure_transport",
    "secure_file_priv",
    "server_id",
    "socket",
    "tmpdir",
    "user",
];

/// Whether a user may set this.
pub fn check<F: Flavor>(name: &str, value: &str) -> Result<(), EngineError> {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !plain {
        return Err(EngineError::Invalid(format!("{name:?} is not the name of a {} setting", F::PROGRAMS.make)));
    }
    let known = name.to_lowercase().replace('-', "_");
    // The server reads `skip_x`, `loose_x` and so on as x.
    let prefixed =
        ["skip_", "loose_", "disable_", "enable_", "maximum_"].iter().any(|prefix| known.starts_with(prefix));
    if prefixed || OURS.iter().chain(F::OURS).any(|ours| *ours == known) {
        return Err(EngineError::Invalid(format!("the setting {name} belongs to Pando and cannot be changed")));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(EngineError::Invalid(format!("the value of {name} has a line break in it")));
    }
    Ok(())
}

/// What a server runs before it lets anybody in.
pub enum Before {
    /// The first start of a clone: production's accounts are shut.
    Shutting,
    /// Any other.
    Nothing,
}

impl Before {
    /// Of a clone that may be entered, or not yet.
    pub fn of(manner: Option<&Manner>) -> Self {
        if manner.is_some_and(|manner| !manner.open) { Self::Shutting } else { Self::Nothing }
    }
}

/// The text of an `init-file`.
pub fn init<F: Flavor>(before: &Before) -> String {
    let mut lines = vec!["SET SESSION sql_log_bin = 0".to_owned(), "SET SESSION sql_mode = ''".to_owned()];
    lines.extend(keeper::<F>());
    if matches!(before, Before::Shutting) {
        lines.extend(F::SHUT.iter().map(|line| (*line).to_owned()));
    }
    lines.push("FLUSH PRIVILEGES".to_owned());
    lines.iter().fold(String::new(), |text, line| format!("{text}{line};\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;

    /// The option file of a clone of each.
    fn both(profile: Profile, open: bool) -> [String; 2] {
        let place = Place { data: Path::new("/d"), run: Path::new("/r"), server_id: server_id("x", &Facts::default()) };
        let manner = Manner { port: Some(17000), profile, set: SettingChange::new(), record: None, open };
        let facts = Facts::default();
        [clone::<Mariadb>(&facts, &place, &manner).text(), clone::<Mysql>(&facts, &place, &manner).text()]
    }

    #[test]
    fn m01_servers_have_numbers_of_their_own() {
        let facts = Facts::default();
        assert_ne!(server_id("one", &facts), server_id("two", &facts));
        let mut same = Facts::default();
        same.settings.insert("server_id".to_owned(), server_id("one", &facts).to_string());
        assert_ne!(server_id("one", &same), server_id("one", &facts));
    }

    #[test]
    fn m02_m11_a_clone_starts_no_replication_and_no_events() {
        for profile in [Profile::Disposable, Profile::Durable] {
            for (text, word) in
                both(profile, false).iter().zip(["skip_slave_start=\"ON\"", "skip_replica_start=\"ON\""])
            {
                assert!(text.contains(word) && text.contains("event_scheduler=\"OFF\""), "{text}");
            }
        }
    }

    #[test]
    fn m16_the_door_is_shut_until_it_is_opened() {
        for (shut, no_tls) in both(Profile::Disposable, false).iter().zip(["skip_ssl", "tls_version=\"\""]) {
            assert!(shut.contains("require_secure_transport=\"ON\"") && shut.contains(no_tls), "{shut}");
        }
        for open in both(Profile::Disposable, true) {
            assert!(!open.contains("require_secure_transport=\"ON\""), "{open}");
        }
        for [shutting, nothing] in [
            [Before::Shutting, Before::Nothing].map(|before| init::<Mariadb>(&before)),
            [Before::Shutting, Before::Nothing].map(|before| init::<Mysql>(&before)),
        ] {
            assert!(shutting.contains("account_locked") && !nothing.contains("account_locked"));
            assert!(nothing.contains("'pando_keeper'@'localhost'") && !nothing.contains("KEEPER"), "{nothing}");
        }
    }

    #[test]
    fn a_users_setting_is_checked_and_quoted() {
        for check in [check::<Mariadb>, check::<Mysql>] {
            assert!(check("max_connections", "10").is_ok() && check("innodb-buffer-pool-size", "1G").is_ok());
            for (name, value) in [("Log-Bin", "x"), ("skip-grant-tables", ""), ("a b", "1"), ("sql_mode", "1\nport=1")]
            {
                assert!(check(name, value).is_err(), "{name}");
            }
        }
        assert!(check::<Mysql>("tls_version", "").is_err() && check::<Mysql>("innodb-directories", "/tmp").is_err());
        let mut options = Options::of("mariadbd");
        options.set("sql_mode", "a\"b\\");
        assert!(options.text().ends_with("sql_mode=\"a\\\"b\\\\\"\n"));
    }
}
