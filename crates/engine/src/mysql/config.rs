//! The option files of mirrors and clones, and what a server runs before anybody may enter.
//!
//! Pando enters its own servers as `pando_keeper` without a password, through a socket in a directory that only the
//! account can reach (names are not resolved, so loopback is not `localhost`). A server's `init-file` makes the keeper
//! and shuts production's accounts at each start.
//!
//! The door of a clone is `require_secure_transport` while TLS is off: who comes over TCP is refused. `admit` turns
//! TLS on and the demand off, for the clients of MySQL want TLS for their passwords.

use std::path::Path;

use pando_model::Profile;

use super::facts::Facts;
use crate::EngineError;
use crate::options::{self, Options};
pub use crate::options::{Manner, Place};
use crate::session::{KEEPER, socket};

/// The option file, in the tree.
pub const FILE: &str = "pando.cnf";
/// What a server runs first, in the tree.
pub const INIT: &str = "pando.init.sql";
/// The directory of what a clone replays, in the tree.
pub const REPLAY: &str = "pando.replay";
/// What a clone replays through: a channel of its own, whose files are not those of the mirror's.
pub const CHANNEL: &str = "replay";
/// The versions of TLS of an open clone.
pub const TLS: &str = "TLSv1.2,TLSv1.3";
/// InnoDB's redo log is as large everywhere, or a clone would make it anew at its start.
const REDO: &str = "64M";

/// A number that no other server of production, mirror or clone has.
pub fn server_id(of: &str, facts: &Facts) -> u32 {
    options::server_id(of, facts.settings.get("server_id"))
}

fn common(facts: &Facts, place: &Place<'_>) -> Options {
    let mut options = Options::of("mysqld");
    options
        .path("datadir", place.data)
        .path("socket", &socket(place.run))
        .path("pid_file", &place.run.join("pid"))
        .path("init_file", &place.data.join(INIT))
        .path("tmpdir", place.run)
        .set("server_id", place.server_id.to_string())
        .set("gtid_mode", "ON")
        .set("enforce_gtid_consistency", "ON")
        .set("skip_name_resolve", "ON")
        .set("skip_replica_start", "ON")
        .set("event_scheduler", "OFF")
        .set("performance_schema", "OFF")
        .set("mysqlx", "OFF")
        .set("local_infile", "OFF")
        .set("secure_file_priv", "NULL")
        // What somebody persisted would win over this file.
        .set("persisted_globals_load", "OFF")
        .set("loose_innodb_redo_log_capacity", REDO)
        .set("innodb_buffer_pool_size", "128M")
        .set("innodb_buffer_pool_load_at_startup", "OFF")
        .set("innodb_buffer_pool_dump_at_shutdown", "OFF")
        .set("key_buffer_size", "8M")
        .set("relay_log_purge", "OFF")
        .set("replica_parallel_workers", "4")
        .set("replica_preserve_commit_order", "ON");
    options.shared(&facts.settings, &super::facts::SHARED);
    options
}

/// The mirror's: a replica that only Pando talks to. It may lose its last second when the machine dies: what it
/// has applied is known to InnoDB itself, the rest comes again.
pub fn mirror(facts: &Facts, place: &Place<'_>, live: &Path) -> Options {
    let mut options = common(facts, place);
    options
        .set("skip_networking", "ON")
        .set("skip_log_bin", "ON")
        .set("read_only", "ON")
        .path("relay_log", live)
        .path("relay_log_index", &live.with_file_name("log.index"))
        .set("max_relay_log_size", "32M")
        .set("replica_net_timeout", "20")
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
        // A clone that is rewound replays what it wrote itself, and does not write it again.
        .set("replicate_same_server_id", "ON")
        .set("log_replica_updates", "OFF");
    match manner.port {
        Some(port) => {
            options.set("bind_address", "127.0.0.1").set("port", port.to_string());
            if manner.open {
                options.set("tls_version", TLS);
            } else {
                options.set("require_secure_transport", "ON").set("tls_version", "");
            }
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
    if manner.profile == Profile::Disposable {
        // Written at each commit, never synced: what was acknowledged outlives the server, and is in a clone of the
        // clone.
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
const OURS: [&str; 30] = [
    "admin_address",
    "basedir",
    "bind_address",
    "datadir",
    "early_plugin_load",
    "enforce_gtid_consistency",
    "event_scheduler",
    "gtid_mode",
    "init_connect",
    "init_file",
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "lower_case_table_names",
    "log_bin",
    "log_bin_index",
    "mysqlx",
    "persisted_globals_load",
    "pid_file",
    "plugin_load",
    "plugin_load_add",
    "port",
    "relay_log",
    "require_secure_transport",
    "secure_file_priv",
    "server_id",
    "socket",
    "tls_version",
    "tmpdir",
    "user",
];

/// Whether a user may set this.
pub fn check(name: &str, value: &str) -> Result<(), EngineError> {
    options::check("MySQL", &OURS, name, value)
}

/// Shuts every account but the keeper's and the server's own, one statement a line: nobody's password works, and what
/// the server kept of it is gone (M-16).
pub const SHUT: [&str; 4] = [
    "UPDATE mysql.user SET account_locked = 'Y', plugin = 'caching_sha2_password', authentication_string = \
     '$A$005$THISISACOMBINATIONOFINVALIDSALTANDPASSWORDTHATMUSTNEVERBRBEUSED', User_attributes = \
     JSON_REMOVE(User_attributes, '$.additional_password', '$.multi_factor_authentication') \
     WHERE User NOT IN ('pando_keeper', 'mysql.sys', 'mysql.session', 'mysql.infoschema')",
    "DELETE FROM mysql.password_history",
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
    let keeper = format!("'{KEEPER}'@'localhost'");
    let mut lines = vec![
        "SET SESSION sql_log_bin = 0".to_owned(),
        "SET SESSION sql_mode = ''".to_owned(),
        format!("CREATE USER IF NOT EXISTS {keeper} IDENTIFIED WITH caching_sha2_password BY ''"),
        format!("ALTER USER {keeper} IDENTIFIED WITH caching_sha2_password BY '' ACCOUNT UNLOCK"),
        format!("GRANT ALL ON *.* TO {keeper} WITH GRANT OPTION"),
        // What nobody may be by another's name.
        format!("DELETE FROM mysql.proxies_priv WHERE Proxied_user = '{KEEPER}'"),
    ];
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

    fn manner(profile: Profile, open: bool) -> Manner {
        Manner { port: Some(17000), profile, set: SettingChange::new(), record: None, open }
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
            let text = clone(&Facts::default(), &place(), &manner(profile, false)).text();
            assert!(text.contains("skip_replica_start=\"ON\"") && text.contains("event_scheduler=\"OFF\""), "{text}");
        }
    }

    #[test]
    fn m16_the_door_is_shut_until_it_is_opened() {
        let text = |open| clone(&Facts::default(), &place(), &manner(Profile::Disposable, open)).text();
        let shut = text(false);
        assert!(shut.contains("require_secure_transport=\"ON\"") && shut.contains("tls_version=\"\""), "{shut}");
        assert!(!text(true).contains("require_secure_transport"));
        assert!(init(&Before::Shutting).contains("account_locked"));
        assert!(!init(&Before::Nothing).contains("account_locked"));
    }

    #[test]
    fn a_users_setting_is_checked() {
        assert!(check("max_connections", "10").is_ok() && check("innodb-buffer-pool-size", "1G").is_ok());
        for (name, value) in
            [("Log-Bin", "x"), ("skip-grant-tables", ""), ("tls_version", ""), ("sql_mode", "1\nport=1")]
        {
            assert!(check(name, value).is_err(), "{name}");
        }
    }
}
