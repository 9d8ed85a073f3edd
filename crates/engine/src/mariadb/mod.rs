//! MariaDB, 10.5 and later: what it does in its own way. The engine itself is `mysql_family`.
//!
//! | file | what it knows |
//! |---|---|
//! | `near.rs`, `copy.rs` | the first copy where production's files can be reached |
//! | `log/` | what MariaDB's transactions are in the log |
//! | `aria.rs` | what Aria's log keeps of accounts |

mod aria;
mod copy;
pub(crate) mod log;
mod near;

use std::ops::RangeInclusive;
use std::path::Path;

use pando_model::{EngineKind, SourceUrl};

pub use self::log::Mariadb;
use self::near::Near;
use crate::mysql_family::FamilyEngine;
use crate::mysql_family::config::{Manner, Options, REDO, REPLAY};
use crate::mysql_family::facts::{Facts, finding};
use crate::mysql_family::flavor::Flavor;
use crate::mysql_family::identity::{Coordinates, Stands};
use crate::mysql_family::install::{Installations, Programs, Version};
use crate::mysql_family::wire::{ClientError, Session, literal, verifier};
use crate::{Credentials, EngineError, Finding, Ingest, Preflight, Seat, Source, UnitPlan};

/// The engine for MariaDB servers.
pub type MariadbEngine = FamilyEngine<Mariadb>;

/// What installs a program. These packages start no server.
fn install(program: &str) -> &'static str {
    match program {
        "mariadb-backup" => "apt-get install mariadb-backup",
        _ => "apt-get install mariadb-server-core mariadb-client  # of production's series",
    }
}

/// Whether the server's certificate must be the one of its name.
fn verifies(url: &SourceUrl) -> bool {
    url.query.get("ssl-verify-server-cert").is_some_and(|value| !matches!(value.as_str(), "0" | "off" | "false"))
}

/// Newer clients would refuse a production without TLS if they were not told.
fn secure(url: &SourceUrl) -> Vec<(&'static str, String)> {
    let asked = url.query.get("ssl").map(|value| ("ssl", value.clone()));
    let verify = ("ssl-verify-server-cert", if verifies(url) { "1" } else { "0" }.to_owned());
    asked.into_iter().chain([verify]).collect()
}

impl Flavor for Mariadb {
    const KIND: EngineKind = EngineKind::Mariadb;
    const OTHER: EngineKind = EngineKind::Mysql;
    const PROGRAMS: Programs = Programs {
        make: "MariaDB",
        server: "mariadbd",
        client: "mariadb",
        dump: "mariadb-dump",
        home: "/opt/mariadb",
        install,
        secure,
    };
    const KNOWN: (RangeInclusive<Version>, &'static str) = ((10, 5, 0)..=(12, 99, 99), "10.5 to 12.99");
    const READS_NEWER: bool = true;
    const REPLICA: &'static str = "Slave";

    const SHARED: &'static [&'static str] = &["character_set_collations", "old_mode", "innodb_undo_tablespaces"];
    const ANSWERS: &'static [&'static str] = &[
        "default_regex_flags",
        "max_recursive_iterations",
        "standard_compliant_cte",
        "system_versioning_alter_history",
    ];
    const ASKED: &'static [&'static str] = &[
        "innodb_log_group_home_dir",
        "innodb_data_file_path",
        "innodb_encrypt_tables",
        "innodb_compression_algorithm",
        "datadir",
        "pid_file",
        "gtid_strict_mode",
    ];
    const ENCRYPTED: (&'static str, &'static str) =
        ("RLIKE 'ENCRYPTED`?=.?YES'", "made with ENCRYPTED=YES, and a mirror has none of production's keys");
    const FIXES: [&'static str; 3] = [
        "[mariadbd] log_bin = /var/log/mysql/mariadb-bin, server_id = 1, binlog_format = ROW  # then restart production",
        "SET GLOBAL server_id = 1;  -- and server_id = 1 in its [mariadbd] section",
        "SET GLOBAL binlog_format = 'ROW';  -- and binlog_format = ROW in its [mariadbd] section",
    ];

    fn settings(facts: &Facts) -> Vec<Finding> {
        let encrypts = !matches!(facts.setting("innodb_encrypt_tables"), "" | "OFF");
        let what =
            "production encrypts its tables on disk (innodb_encrypt_tables); mirror and clones do not".to_owned();
        let encrypts = encrypts.then(|| finding(what, None, false));
        let back = facts.setting("gtid_strict_mode") == "OFF";
        let what = "gtid_strict_mode is OFF: should a server of production give a number that it has passed (SET gtid_seq_no), \
                    the mirror is made anew, and the timeline has a gap"
            .to_owned();
        encrypts.into_iter().chain(back.then(|| finding(what, None, false))).collect()
    }

    fn first_copy(
        installations: &Installations,
        _: &dyn Fn(&str) -> Result<String, EngineError>,
        url: &SourceUrl,
        facts: &Facts,
        found: &mut Preflight,
    ) -> Result<bool, EngineError> {
        found.notes.push(
            "moments are exact to the second: a MariaDB binary log knows no fractions; those between show what was \
             certainly committed by then"
                .to_owned(),
        );
        let backup = installations.of(facts.series()).and_then(|one| one.tool("mariadb-backup")).is_ok();
        match near::look(url, facts) {
            Ok(Near::Here(dir)) => {
                found.notes.push(match backup {
                    true => {
                        format!("the first copy is one of production's files in {} (mariadb-backup)", dir.display())
                    }
                    false => format!(
                        "production's files are here ({}): with mariadb-backup the first copy would not be a dump but one \
                         of files, which is faster (apt-get install mariadb-backup)",
                        dir.display()
                    ),
                });
                return Ok(backup);
            }
            Ok(Near::No(Some(why))) => found.notes.push(format!("the first copy is a dump: {why}")),
            Ok(Near::No(None)) => {}
            Err(finding) => found.findings.push(*finding),
        }
        Ok(false)
    }

    const APPLIED: &'static str = "SELECT @@gtid_slave_pos";
    const COMMITTED: &'static str = "SELECT @@gtid_binlog_state";
    const WRITTEN: &'static str = "SELECT @@gtid_binlog_pos";
    const BEGINS: &'static str = "gtid_slave_pos";

    fn stands(
        ask: &dyn Fn(&str) -> Result<String, EngineError>,
        at: &Coordinates<Self>,
    ) -> Result<Stands, EngineError> {
        let answer = ask(&format!("SELECT BINLOG_GTID_POS({}, {})", literal(&at.file), at.byte))?;
        Ok(match answer.trim() {
            // The file was dropped since, or there is no such place in it.
            "NULL" => {
                let files = ask("SHOW BINARY LOGS")?;
                let there = files.lines().any(|line| line.split('\t').next() == Some(&at.file));
                if there { Stands::Other("nothing".to_owned()) } else { Stands::Gone }
            }
            text if text.parse::<Self::Position>().is_ok_and(|there| there.to_string() == at.position.to_string()) => {
                Stands::Same
            }
            text => Stands::Other(text.to_owned()),
        })
    }

    const DUMP: [&'static str; 2] = ["--master-data=2", "--gtid"];
    /// Statements make `proc` and `event`.
    const NOT_COPIED: &'static [&'static str] = &[
        "column_stats",
        "event",
        "func",
        "general_log",
        "gtid_slave_pos",
        "help_category",
        "help_keyword",
        "help_relation",
        "help_topic",
        "index_stats",
        "innodb_index_stats",
        "innodb_table_stats",
        "plugin",
        "proc",
        "servers",
        "slow_log",
        "spider_tables",
        "table_stats",
        "transaction_registry",
        "user",
        "time_zone_leap_second",
    ];

    fn dumped(_: &str, tail: &str) -> Option<Self::Position> {
        let line = tail.lines().rev().find_map(|line| line.split_once("SET GLOBAL gtid_slave_pos="))?;
        line.1.trim().trim_end_matches(';').trim_matches('\'').parse().ok()
    }

    fn empty_server(_: &Path) -> (&'static str, Vec<String>) {
        let options = ["--auth-root-authentication-method=normal", "--skip-test-db"];
        ("mariadb-install-db", options.map(str::to_owned).to_vec())
    }

    const WANTS_NO_FILE: bool = false;

    fn copy_files(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        copy::begin(engine, seat, source)
    }

    fn copies_files(seat: &Seat) -> bool {
        copy::runs(seat)
    }

    fn copy_files_next(
        engine: &MariadbEngine,
        seat: &Seat,
        source: &Source,
        done: usize,
    ) -> Result<Option<Ingest>, EngineError> {
        copy::next(engine, seat, source, done)
    }

    fn copied(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<Option<Self::Position>, EngineError> {
        copy::runs(seat).then(|| copy::position(engine, seat, source)).transpose()
    }

    fn change(url: &SourceUrl, _: &Facts) -> String {
        let mut change = format!(
            "CHANGE MASTER TO MASTER_HOST={}, MASTER_PORT={}, MASTER_USER={}, MASTER_PASSWORD={}, \
             MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=2",
            literal(url.host.as_deref().unwrap_or("127.0.0.1")),
            url.port.unwrap_or(3306),
            literal(url.user.as_deref().unwrap_or("root")),
            literal(url.password.as_deref().unwrap_or_default()),
        );
        // The defaults of both are other ones in newer servers.
        let secure = ["ssl", "ssl-ca"].iter().any(|name| url.query.contains_key(*name)) || verifies(url);
        change.push_str(&format!(
            ", MASTER_SSL={}, MASTER_SSL_VERIFY_SERVER_CERT={}",
            u8::from(secure),
            u8::from(verifies(url))
        ));
        for (name, option) in
            [("ssl-ca", "MASTER_SSL_CA"), ("ssl-cert", "MASTER_SSL_CERT"), ("ssl-key", "MASTER_SSL_KEY")]
        {
            if let Some(value) = url.query.get(name) {
                change.push_str(&format!(", {option}={}", literal(value)));
            }
        }
        change
    }

    /// ER_MASTER_FATAL_ERROR_READING_BINLOG.
    const GONE: &'static [u32] = &[1236];
    const STILL: &'static [&'static str] = &[
        "BACKUP STAGE START",
        "BACKUP STAGE FLUSH",
        "BACKUP STAGE BLOCK_DDL",
        "BACKUP STAGE BLOCK_COMMIT",
        "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS",
    ];
    const GO_ON: &'static str = "BACKUP STAGE END";

    fn server_options(options: &mut Options) {
        options
            .set("skip_slave_start", "ON")
            .set("skip_ssl", "ON")
            // A table that production keeps in another directory is kept in the tree here (M-3, M-14).
            .set("symbolic_links", "OFF")
            .set("innodb_log_file_size", REDO)
            .set("aria_pagecache_buffer_size", "16M")
            .set("slave_parallel_threads", "4");
    }

    fn mirror_options(options: &mut Options, live: &Path) {
        options
            .path("relay_log_info_file", &live.with_file_name("relay-log.info"))
            .path("master_info_file", &live.with_file_name("master.info"))
            .set("slave_net_timeout", "20");
    }

    fn clone_options(options: &mut Options, replay: &Path, manner: &Manner) {
        options
            .path("relay_log_info_file", &replay.join("relay-log.info"))
            .path("master_info_file", &replay.join("master.info"))
            // Else the directory of the replay counts as a database.
            .set("ignore_db_dirs", REPLAY);
        if manner.record.is_some() {
            options.set("binlog_format", "ROW");
        }
    }

    /// Whoever comes without TLS is refused, and there is no TLS.
    fn door(options: &mut Options, open: bool) {
        options.set("require_secure_transport", if open { "OFF" } else { "ON" });
    }

    const OPEN: &'static [&'static str] = &["SET GLOBAL require_secure_transport = OFF"];
    const OURS: &'static [&'static str] = &["master_info_file", "symbolic_links"];
    const KEEPER: &'static [&'static str] = &[
        "CREATE OR REPLACE USER KEEPER IDENTIFIED VIA mysql_native_password USING ''",
        "GRANT ALL ON *.* TO KEEPER WITH GRANT OPTION",
        "REPLACE INTO mysql.proxies_priv (Host, User, Proxied_host, Proxied_user, With_grant, Grantor) \
         VALUES ('localhost', 'pando_keeper', '%', '', 1, '')",
    ];
    const SHUT: &'static [&'static str] = &[
        "UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.account_locked', true, '$.plugin', 'mysql_native_password', \
         '$.authentication_string', '*THISISNOTAVALIDPASSWORDTHATCANBEUSEDHERE', '$.auth_or', JSON_ARRAY()) \
         WHERE User NOT IN ('pando_keeper', 'mariadb.sys') AND COALESCE(JSON_VALUE(Priv, '$.is_role'), 'false') <> 'true'",
        "DELETE FROM mysql.servers",
        "FLUSH PRIVILEGES",
    ];
    const FORGET: &'static [&'static str] = aria::FORGET;

    fn let_in(session: &mut Session, _: &Path, who: &Credentials) -> Result<(), ClientError> {
        let user = literal(&who.user);
        session.query(&format!("DELETE FROM mysql.global_priv WHERE User = {user} AND Host <> '%'"))?;
        session.query("FLUSH PRIVILEGES")?;
        // The proof is made here, so that the password itself reaches no log of the server.
        let proof = literal(&verifier(who.password.reveal()));
        session
            .query(&format!("CREATE OR REPLACE USER {user}@'%' IDENTIFIED VIA mysql_native_password USING {proof}"))?;
        session.query(&format!("GRANT ALL PRIVILEGES ON *.* TO {user}@'%' WITH GRANT OPTION")).map(drop)
    }

    fn forget_numbers(_: Version) -> &'static str {
        "SET GLOBAL gtid_slave_pos = ''"
    }

    const CLIENT: &'static [&'static str] = &["--skip-ssl-verify-server-cert"];
    const LOAD: &'static [&'static str] = &["--abort-source-on-error"];

    const ANEW_MASKED: &'static [&'static str] = &[];
    const TREE: &'static [&'static str] = &["ibdata1", "ib_logfile0", "aria_log_control"];

    fn slim(data: &Path) -> Result<bool, EngineError> {
        aria::forget(data)
    }

    const RELAY: &'static str = "log";
    const CHANNEL: &'static str = "";
    /// An applier with several workers reads the name of production's file all the same.
    const REPLAY: &'static [&'static str] = &["CHANGE MASTER TO MASTER_HOST='replay', MASTER_LOG_FILE='log.000001', \
         MASTER_LOG_POS=4, RELAY_LOG_FILE='log.000001', RELAY_LOG_POS=4"];

    const IMAGE: [&'static str; 2] = ["mariadb", "MARIADB_VERSION"];

    fn container_options(options: &mut Options) {
        options.set("skip_slave_start", "ON");
    }

    /// Whoever is inside of the container is `root` by its socket, as in the official image.
    const PART: &'static [&'static str] = &[
        "CREATE OR REPLACE USER root@localhost IDENTIFIED VIA unix_socket",
        "GRANT ALL PRIVILEGES ON *.* TO root@localhost WITH GRANT OPTION",
    ];
}
