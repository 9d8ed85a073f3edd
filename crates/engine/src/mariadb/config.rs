//! The option files of mirrors and clones, and what a server runs before anybody may enter.
//!
//! Pando enters its own servers as `pando_keeper` without a password, through a socket in a directory that only
//! the account can reach (names are not resolved, so loopback is not `localhost`). A server's `init-file` runs
//! before the first connection is taken: there the keeper is made, and production's accounts are shut.

use std::path::Path;

use pando_model::Profile;

use super::facts::Facts;
use crate::EngineError;
use crate::options::{self, Options};
pub use crate::options::{Manner, Place};
pub use crate::session::{KEEPER, socket};

/// The option file, in the tree.
pub const FILE: &str = "pando.cnf";
/// What a server runs first, in the tree.
pub const INIT: &str = "pando.init.sql";
/// The directory of what a clone replays, in the tree.
pub const REPLAY: &str = "pando.replay";
/// InnoDB's redo log is as large everywhere, or a clone would make it anew at its start.
const REDO: &str = "64M";

/// A number that no other server of production, mirror or clone has.
pub fn server_id(of: &str, facts: &Facts) -> u32 {
    options::server_id(of, facts.settings.get("server_id"))
}

fn common(facts: &Facts, place: &Place<'_>) -> Options {
    let mut options = Options::of("mariadbd");
    options
        .path("datadir", place.data)
        .path("socket", &socket(place.run))
        .path("pid_file", &place.run.join("pid"))
        .path("init_file", &place.data.join(INIT))
        .path("tmpdir", place.run)
        .set("server_id", place.server_id.to_string())
        .set("skip_name_resolve", "ON")
        .set("skip_slave_start", "ON")
        .set("event_scheduler", "OFF")
        .set("performance_schema", "OFF")
        .set("skip_ssl", "ON")
        .set("local_infile", "OFF")
        // A table that production keeps in another directory is kept in the tree here (M-3, M-14).
        .set("symbolic_links", "OFF")
        .set("innodb_log_file_size", REDO)
        .set("innodb_buffer_pool_size", "128M")
        .set("innodb_buffer_pool_load_at_startup", "OFF")
        .set("innodb_buffer_pool_dump_at_shutdown", "OFF")
        .set("aria_pagecache_buffer_size", "16M")
        .set("key_buffer_size", "8M")
        .set("relay_log_purge", "OFF")
        .set("slave_parallel_threads", "4");
    options.shared(&facts.settings, &super::facts::SHARED);
    options
}

/// The mirror's: a replica that only Pando talks to. It may lose its last second when the machine dies: what it
/// has applied is known to InnoDB itself, the rest comes again.
pub fn mirror(facts: &Facts, place: &Place<'_>, live: &Path) -> Options {
    let mut options = common(facts, place);
    let beside = |name: &str| live.with_file_name(name);
    options
        .set("skip_networking", "ON")
        .set("skip_log_bin", "ON")
        .set("read_only", "ON")
        .path("relay_log", live)
        .path("relay_log_index", &beside("log.index"))
        .path("relay_log_info_file", &beside("relay-log.info"))
        .path("master_info_file", &beside("master.info"))
        .set("max_relay_log_size", "32M")
        .set("slave_net_timeout", "20")
        .set("innodb_flush_log_at_trx_commit", "2");
    options
}

/// A clone's, the user's settings last.
pub fn clone(facts: &Facts, place: &Place<'_>, manner: &Manner) -> Options {
    let mut options = common(facts, place);
    let replay = place.data.join(REPLAY);
    options
        .path("relay_log", &replay.join("log"))
        .path("relay_log_index", &replay.join("log.index"))
        .path("relay_log_info_file", &replay.join("relay-log.info"))
        .path("master_info_file", &replay.join("master.info"))
        // A clone that is rewound replays what it wrote itself.
        .set("replicate_same_server_id", "ON");
    match manner.port {
        // Whoever comes without TLS is refused, and there is no TLS: the door, which can be opened at any time.
        Some(port) => drop(
            options
                .set("bind_address", "127.0.0.1")
                .set("port", port.to_string())
                .set("require_secure_transport", if manner.open { "OFF" } else { "ON" }),
        ),
        None => drop(options.set("skip_networking", "ON")),
    }
    match &manner.record {
        Some(live) => drop(
            options
                .path("log_bin", live)
                .path("log_bin_index", &live.with_file_name("log.index"))
                .set("max_binlog_size", "32M")
                .set("binlog_format", "ROW"),
        ),
        None => drop(options.set("skip_log_bin", "ON")),
    }
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
const OURS: [&str; 25] = [
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
    "master_info_file",
    "pid_file",
    "plugin_load",
    "plugin_load_add",
    "port",
    "relay_log",
    "require_secure_transport",
    "secure_file_priv",
    "server_id",
    "socket",
    "symbolic_links",
    "tmpdir",
    "user",
];

/// Whether a user may set this.
pub fn check(name: &str, value: &str) -> Result<(), EngineError> {
    options::check("MariaDB", &OURS, name, value)
}

/// Shuts every account but the keeper's, one statement a line: nobody's password works, and what the server
/// kept of it is gone (M-16).
pub const SHUT: [&str; 3] = [
    "UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.account_locked', true, '$.plugin', 'mysql_native_password', \
     '$.authentication_string', '*THISISNOTAVALIDPASSWORDTHATCANBEUSEDHERE', '$.auth_or', JSON_ARRAY()) \
     WHERE User NOT IN ('pando_keeper', 'mariadb.sys') AND COALESCE(JSON_VALUE(Priv, '$.is_role'), 'false') <> 'true'",
    "DELETE FROM mysql.servers",
    "FLUSH PRIVILEGES",
];

/// What a server runs before it lets anybody in.
pub enum Before {
    /// The first start of a clone: production's accounts are shut.
    Shutting,
    /// Any other.
    Nothing,
}

/// The text of an `init-file`.
pub fn init(before: &Before) -> String {
    let mut lines = vec!["SET SESSION sql_log_bin = 0".to_owned(), "SET SESSION sql_mode = ''".to_owned()];
    lines.push(format!("CREATE OR REPLACE USER '{KEEPER}'@'localhost' IDENTIFIED VIA mysql_native_password USING ''"));
    lines.push(format!("GRANT ALL ON *.* TO '{KEEPER}'@'localhost' WITH GRANT OPTION"));
    lines.push(format!(
        "REPLACE INTO mysql.proxies_priv (Host, User, Proxied_host, Proxied_user, With_grant, Grantor) \
         VALUES ('localhost', '{KEEPER}', '%', '', 1, '')"
    ));
    if matches!(before, Before::Shutting) {
        lines.extend(SHUT.iter().map(|line| (*line).to_owned()));
    }
    lines.push("FLUSH PRIVILEGES".to_owned());
    lines.iter().fold(String::new(), |text, line| format!("{text}{line};\n"))
}

#[cfg(test)]
mod tests {
    use pando_model::SettingChange;

    use super::*;

    fn place() -> Place<'static> {
        Place { data: Path::new("/d"), run: Path::new("/r"), server_id: server_id("x", &Facts::default()) }
    }

    fn manner(profile: Profile) -> Manner {
        Manner { port: Some(17000), profile, set: SettingChange::new(), record: None, open: false }
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
            let text = clone(&Facts::default(), &place(), &manner(profile)).text();
            assert!(text.contains("skip_slave_start=\"ON\"") && text.contains("event_scheduler=\"OFF\""), "{text}");
        }
    }

    #[test]
    fn m16_the_door_is_shut_until_it_is_opened() {
        let shut = clone(&Facts::default(), &place(), &manner(Profile::Disposable)).text();
        assert!(shut.contains("require_secure_transport=\"ON\"") && shut.contains("skip_ssl"), "{shut}");
        assert!(init(&Before::Shutting).contains("account_locked"));
        assert!(!init(&Before::Nothing).contains("account_locked"));
    }

    #[test]
    fn a_users_setting_is_checked_and_quoted() {
        assert!(check("max_connections", "10").is_ok() && check("innodb-buffer-pool-size", "1G").is_ok());
        for (name, value) in [("Log-Bin", "x"), ("skip-grant-tables", ""), ("a b", "1"), ("sql_mode", "1\nport=1")] {
            assert!(check(name, value).is_err(), "{name}");
        }
        let mut options = Options::of("mariadbd");
        options.set("sql_mode", "a\"b\\");
        assert!(options.text().ends_with("sql_mode=\"a\\\"b\\\\\"\n"));
    }
}
