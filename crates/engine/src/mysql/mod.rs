//! MySQL, 8.0.26 and later: what it does in its own way. The engine itself is `mysql_family`.
//!
//! Production's password is given to the thread that receives, at its start, and never to `CHANGE REPLICATION SOURCE`:
//! that would keep it in a table, and so in each snapshot and clone (M-2).
//!
//! | file | what it knows |
//! |---|---|
//! | `donor.rs`, `copy.rs` | the first copy where production's clone plugin can make it |
//! | `log/` | what MySQL's transactions are in the log |

mod copy;
mod donor;
mod log;

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_host::{Account, durable, plain};
use pando_model::{EngineKind, SourceUrl};

use self::donor::{Taker, Way};
use self::log::Gtid;
pub use self::log::Mysql;
use crate::mysql_family::binlog::dialect::Position as _;
use crate::mysql_family::config::{Manner, Options, REDO};
use crate::mysql_family::facts::{Facts, finding};
use crate::mysql_family::flavor::Flavor;
use crate::mysql_family::identity::{Coordinates, Stands};
use crate::mysql_family::install::{Installations, Programs, Version};
use crate::mysql_family::production::says;
use crate::mysql_family::session::socket;
use crate::mysql_family::wire::{ClientError, Rows, Session, literal};
use crate::mysql_family::{FamilyEngine, io as failed};
use crate::{Credentials, EngineError, Finding, Ingest, Instead, Preflight, Seat, Source, UnitPlan, seat};

/// The engine for MySQL servers.
pub type MysqlEngine = FamilyEngine<Mysql>;

/// What brings a server here. These packages start none.
const INSTALL: &str = "apt-get install mysql-server-core mysql-client-core  # of production's series; Debian has them in \
    its unstable release alone: `scripts/matrix install mysql-sid` unpacks them, and `pando serve --mysql DIR` uses them";

fn install(_: &str) -> &'static str {
    INSTALL
}

/// Where there is no TLS a password is encrypted with the server's own key.
fn secure(url: &SourceUrl) -> Vec<(&'static str, String)> {
    let mode = url.query.get("ssl-mode").map(|mode| ("ssl-mode", mode.clone()));
    [("loose-get-server-public-key", "1".to_owned())].into_iter().chain(mode).collect()
}

impl Flavor for Mysql {
    const KIND: EngineKind = EngineKind::Mysql;
    const OTHER: EngineKind = EngineKind::Mariadb;
    const PROGRAMS: Programs = Programs {
        make: "MySQL",
        server: "mysqld",
        client: "mysql",
        dump: "mysqldump",
        home: "/opt/mysql",
        install,
        secure,
    };
    const KNOWN: (RangeInclusive<Version>, &'static str) = ((8, 0, 26)..=(u32::MAX, 0, 0), "8.0.26 and later");
    const READS_NEWER: bool = false;
    const REPLICA: &'static str = "Replica";

    const SHARED: &'static [&'static str] = &[];
    const ANSWERS: &'static [&'static str] =
        &["cte_max_recursion_depth", "ngram_token_size", "windowing_use_high_precision"];
    const ASKED: &'static [&'static str] = &[
        "gtid_mode",
        "enforce_gtid_consistency",
        "character_set_filesystem",
        "innodb_data_file_path",
        "innodb_redo_log_encrypt",
        "innodb_undo_log_encrypt",
        "version_compile_machine",
    ];
    const ENCRYPTED: (&'static str, &'static str) =
        ("LIKE '%ENCRYPTION=\\'Y\\'%'", "encrypted at rest, which a mirror cannot keep yet");
    const FIXES: [&'static str; 3] = [
        "[mysqld] log_bin = binlog, server_id = 1  # then restart production",
        "SET PERSIST server_id = 1;",
        "SET PERSIST binlog_format = 'ROW';",
    ];

    fn settings(facts: &Facts) -> Vec<Finding> {
        let mode = facts.setting("gtid_mode");
        let what = format!(
            "production's transactions have no numbers: gtid_mode is {mode} (each statement mends it without a restart)"
        );
        // Each value follows the one before it.
        let fix = match mode {
            "ON" => return Vec::new(),
            "ON_PERMISSIVE" => "SET PERSIST gtid_mode = ON;",
            "OFF_PERMISSIVE" => "SET PERSIST gtid_mode = ON_PERMISSIVE; SET PERSIST gtid_mode = ON;",
            _ => {
                "SET PERSIST enforce_gtid_consistency = ON; SET PERSIST gtid_mode = OFF_PERMISSIVE; \
                 SET PERSIST gtid_mode = ON_PERMISSIVE; SET PERSIST gtid_mode = ON;"
            }
        };
        vec![finding(what, Some(fix), true)]
    }

    fn first_copy(
        installations: &Installations,
        ask: &dyn Fn(&str) -> Result<String, EngineError>,
        url: &SourceUrl,
        facts: &Facts,
        found: &mut Preflight,
    ) -> Result<bool, EngineError> {
        let Some(here) = installations.of(facts.series()).ok().filter(|_| !found.findings.iter().any(|one| one.fatal))
        else {
            return Ok(false);
        };
        match donor::way(&Taker::of(here), url, facts, &donor::ask(ask)?) {
            Way::Plugin => {
                found.notes.push(donor::BY_PLUGIN.to_owned());
                return Ok(true);
            }
            Way::Dump(why) => found.notes.extend(why.map(|why| format!("the first copy is a dump: {why}"))),
            Way::Until(why, sql) => {
                let what =
                    format!("the first copy is a dump; by production's clone plugin it would be faster, but {why}");
                found.findings.push(finding(what, Some(&sql), false));
            }
        }
        Ok(false)
    }

    /// On one line.
    const APPLIED: &'static str = "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')";
    const COMMITTED: &'static str = Self::APPLIED;
    /// What it had before is in no file of it.
    const WRITTEN: &'static str =
        "SELECT REPLACE(GTID_SUBTRACT(@@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged), '\\n', '')";
    const BEGINS: &'static str = "gtid_purged";

    fn log_status(version: Version) -> &'static str {
        if version < (8, 2, 0) { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" }
    }

    /// Behind a place stand transactions that were not there when it was the end; or the file's end.
    fn stands(
        ask: &dyn Fn(&str) -> Result<String, EngineError>,
        at: &Coordinates<Self>,
    ) -> Result<Stands, EngineError> {
        let event = match ask(&format!("SHOW BINLOG EVENTS IN {} FROM {} LIMIT 1", literal(&at.file), at.byte)) {
            Err(error) if says(&error, "Could not find target log") => return Ok(Stands::Gone),
            Err(error) if says(&error, "SHOW BINLOG EVENTS") => return Ok(Stands::Other("no event".to_owned())),
            asked => asked?,
        };
        let fields: Vec<&str> = event.trim_end().split('\t').collect();
        let (kind, info) = (fields.get(2).copied().unwrap_or_default(), fields.get(5).copied().unwrap_or_default());
        let gtid = info.split('\'').nth(1).and_then(|text| Gtid::try_from(text.to_owned()).ok());
        Ok(match (kind, gtid) {
            ("" | "Rotate" | "Stop", _) => Stands::Same,
            (kind, Some(gtid)) if kind.starts_with("Gtid") && !at.position.holds(&gtid) => Stands::Same,
            _ => Stands::Other(format!("{kind} {info}")),
        })
    }

    /// Only with the first older programs take the lock that makes the set of transactions that of the data.
    const DUMP: [&'static str; 2] = ["--source-data=2", "--set-gtid-purged=COMMENTED"];
    const NOT_COPIED: &'static [&'static str] = &[
        "component",
        "engine_cost",
        "func",
        "general_log",
        "gtid_executed",
        "help_category",
        "help_keyword",
        "help_relation",
        "help_topic",
        "innodb_index_stats",
        "innodb_table_stats",
        "ndb_binlog_index",
        "plugin",
        "replication_asynchronous_connection_failover",
        "replication_asynchronous_connection_failover_managed",
        "replication_group_configuration_version",
        "replication_group_member_actions",
        "server_cost",
        "servers",
        "slave_master_info",
        "slave_relay_log_info",
        "slave_worker_info",
        "slow_log",
    ];

    fn dumped(head: &str, _: &str) -> Option<Self::Position> {
        let rest = head.split_once("SET @@GLOBAL.GTID_PURGED=")?.1;
        let quoted = rest.split_once(';')?.0;
        // `'+UUID:1-5'` or `/*!80000 '+'*/ 'UUID:1-5'`.
        quoted.split('\'').nth_back(1)?.trim_start_matches('+').parse().ok()
    }

    fn empty_server(init: &Path) -> (&'static str, Vec<String>) {
        ("mysqld", vec!["--initialize-insecure".to_owned(), format!("--init-file={}", init.display())])
    }

    const WANTS_NO_FILE: bool = true;

    fn copy_files(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        copy::begin(engine, seat, source)
    }

    fn copies_files(seat: &Seat) -> bool {
        copy::runs(seat)
    }

    fn progress(seat: &Seat) -> Option<(u64, Option<u64>)> {
        copy::progress(seat)
    }

    fn copy_files_next(
        engine: &MysqlEngine,
        seat: &Seat,
        source: &Source,
        done: usize,
    ) -> Result<Option<Ingest>, EngineError> {
        copy::next(engine, seat, source, done)
    }

    fn instead(seat: &Seat, why: &str) -> Option<Instead> {
        copy::runs(seat).then(|| copy::instead(why))
    }

    fn copied(_: &MysqlEngine, seat: &Seat, _: &Source) -> Result<Option<Self::Position>, EngineError> {
        copy::runs(seat).then(|| copy::position(seat)).transpose()
    }

    fn change(url: &SourceUrl, facts: &Facts) -> String {
        let mut change = format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST={}, SOURCE_PORT={}, SOURCE_AUTO_POSITION=1, SOURCE_CONNECT_RETRY=1, \
             SOURCE_RETRY_COUNT=1000000, SOURCE_HEARTBEAT_PERIOD=2, GET_SOURCE_PUBLIC_KEY=1",
            literal(url.host.as_deref().unwrap_or("127.0.0.1")),
            url.port.unwrap_or(3306),
        );
        // Production was asked over TLS.
        if !facts.setting("ssl_cipher").is_empty() {
            change.push_str(", SOURCE_SSL=1");
        }
        if url.query.get("ssl-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("VERIFY_IDENTITY")) {
            change.push_str(", SOURCE_SSL_VERIFY_SERVER_CERT=1");
        }
        for (name, option) in
            [("ssl-ca", "SOURCE_SSL_CA"), ("ssl-cert", "SOURCE_SSL_CERT"), ("ssl-key", "SOURCE_SSL_KEY")]
        {
            if let Some(value) = url.query.get(name) {
                change.push_str(&format!(", {option}={}", literal(value)));
            }
        }
        change
    }

    fn credentials(url: &SourceUrl) -> String {
        format!(
            " USER = {} PASSWORD = {}",
            literal(url.user.as_deref().unwrap_or("root")),
            literal(url.password.as_deref().unwrap_or_default())
        )
    }

    /// Tables keep where production is, but the thread stands still without having tried.
    fn is_fresh(status: &Rows) -> bool {
        let value = |name: &str| status.value(name).unwrap_or_default();
        status.rows.is_empty() || value("Replica_IO_Running") == "No" && value("Last_IO_Errno") == "0"
    }

    /// ER_SOURCE_FATAL_ERROR_READING_BINLOG, by the number of the client or that of the log: what is needed next is
    /// gone, or production has less than the mirror had from it.
    const GONE: &'static [u32] = &[1236, 13114];
    const STILL: &'static [&'static str] = &["FLUSH TABLES WITH READ LOCK", "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS"];
    const GO_ON: &'static str = "UNLOCK TABLES";

    fn server_options(options: &mut Options) {
        options
            .set("gtid_mode", "ON")
            .set("enforce_gtid_consistency", "ON")
            .set("skip_replica_start", "ON")
            .set("mysqlx", "OFF")
            .set("secure_file_priv", "NULL")
            // What somebody persisted would win over this file.
            .set("persisted_globals_load", "OFF")
            .set("loose_innodb_redo_log_capacity", REDO)
            .set("replica_parallel_workers", "4")
            .set("replica_preserve_commit_order", "ON");
    }

    fn mirror_options(options: &mut Options, _: &Path) {
        options.set("replica_net_timeout", "20");
    }

    fn clone_options(options: &mut Options, _: &Path, _: &Manner) {
        // What is replayed is not written again.
        options.set("log_replica_updates", "OFF");
    }

    /// Whoever comes over TCP without TLS is refused, while there is none; an open door has TLS and demands none, for the
    /// clients of MySQL want it for their passwords.
    fn door(options: &mut Options, open: bool) {
        if open {
            options.set("tls_version", "TLSv1.2,TLSv1.3");
        } else {
            options.set("require_secure_transport", "ON").set("tls_version", "");
        }
    }

    const OPEN: &'static [&'static str] = &[
        "SET GLOBAL tls_version = 'TLSv1.2,TLSv1.3'",
        "ALTER INSTANCE RELOAD TLS",
        "SET GLOBAL require_secure_transport = OFF",
    ];
    const OURS: &'static [&'static str] = &[
        "admin_address",
        "early_plugin_load",
        "enforce_gtid_consistency",
        "gtid_mode",
        // What lies outside of a clone is in no snapshot of it, and two servers would write to it (M-14).
        "innodb_directories",
        "mysqlx",
        "persisted_globals_load",
        "tls_version",
    ];
    const KEEPER: &'static [&'static str] = &[
        "CREATE USER IF NOT EXISTS KEEPER IDENTIFIED WITH caching_sha2_password BY ''",
        "ALTER USER KEEPER IDENTIFIED WITH caching_sha2_password BY '' ACCOUNT UNLOCK",
        "GRANT ALL ON *.* TO KEEPER WITH GRANT OPTION",
        // What nobody may be by another's name.
        "DELETE FROM mysql.proxies_priv WHERE Proxied_user = 'pando_keeper'",
    ];
    const SHUT: &'static [&'static str] = &[
        "UPDATE mysql.user SET account_locked = 'Y', plugin = 'caching_sha2_password', authentication_string = \
         '$A$005$THISISACOMBINATIONOFINVALIDSALTANDPASSWORDTHATMUSTNEVERBRBEUSED', User_attributes = \
         JSON_REMOVE(User_attributes, '$.additional_password', '$.multi_factor_authentication') \
         WHERE User NOT IN ('pando_keeper', 'mysql.sys', 'mysql.session', 'mysql.infoschema')",
        "DELETE FROM mysql.password_history",
        "DELETE FROM mysql.servers",
        "FLUSH PRIVILEGES",
    ];

    /// The server leaves passwords out of its logs. The password is said once over the private socket: from then on the
    /// server knows what proves it, so that clients without TLS can come in, too.
    fn let_in(session: &mut Session, run: &Path, who: &Credentials) -> Result<(), ClientError> {
        let (user, password) = (literal(&who.user), who.password.reveal());
        session.query(&format!("DELETE FROM mysql.user WHERE User = {user}"))?;
        session.query("FLUSH PRIVILEGES")?;
        let plain = literal(password);
        session.query(&format!("CREATE USER {user}@'%' IDENTIFIED WITH caching_sha2_password BY {plain}"))?;
        session.query(&format!("GRANT ALL PRIVILEGES ON *.* TO {user}@'%' WITH GRANT OPTION"))?;
        Session::over_socket(&socket(run), &who.user, password, Duration::from_secs(5)).map(drop)
    }

    fn forget_numbers(version: Version) -> &'static str {
        if version < (8, 2, 0) { "RESET MASTER" } else { "RESET BINARY LOGS AND GTIDS" }
    }

    /// Newer clients know `SOURCE` only when they are told to; older ones do not know this option.
    const CLIENT: &'static [&'static str] = &["--loose-commands"];

    /// The tables of accounts are InnoDB's, and no statement cleans its free pages, its undo and its redo logs.
    const ANEW: Option<&'static [&'static str]> = Some(&["--set-gtid-purged=OFF"]);
    const ANEW_MASKED: &'static [&'static str] = &["--set-gtid-purged=OFF"];
    const TREE: &'static [&'static str] = &["ibdata1", "mysql.ibd"];
    /// It opens a tablespace wherever its dictionary says.
    const OUTSIDE: Option<&'static str> = Some(
        "SELECT file_name FROM information_schema.files WHERE file_name NOT LIKE './%' AND file_name LIKE '%/%' \
         OR file_name LIKE '%../%' LIMIT 1",
    );

    /// Takes the names of binary logs that the log has packed away from a stopped server: it would read their beginnings
    /// at its start, and they are empty.
    fn before_start(live: &Path, account: Option<&Account>) -> Result<(), EngineError> {
        let action = failed("reading the index of a clone's binary log");
        let index = live.with_file_name("log.index");
        let text = match plain::read_text(&index) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(action(error)),
        };
        // The index may say anything: of a name only its end counts.
        let file = |name: &str| live.with_file_name(Path::new(name).file_name().unwrap_or_default());
        let is_empty =
            |name: &str| fs::symlink_metadata(file(name)).is_ok_and(|meta| meta.is_file() && meta.len() == 0);
        let (gone, kept): (Vec<&str>, Vec<&str>) = text.lines().partition(|name| is_empty(name));
        if gone.is_empty() {
            return Ok(());
        }
        let kept: String = kept.iter().map(|name| format!("{name}\n")).collect();
        seat::write(&index, &kept, account)?;
        gone.iter().try_for_each(|name| durable::remove_if_there(&file(name)).map(drop).map_err(&action))
    }

    fn locks(run: &Path) -> Vec<PathBuf> {
        vec![socket(run).with_extension("lock")]
    }

    const RELAY: &'static str = "log-replay";
    const CHANNEL: &'static str = " FOR CHANNEL 'replay'";
    /// What the mirror's tree says of production leads nowhere any more.
    const REPLAY: &'static [&'static str] = &[
        "RESET REPLICA ALL",
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='replay', RELAY_LOG_FILE='log-replay.000001', RELAY_LOG_POS=4 \
         FOR CHANNEL 'replay'",
    ];

    fn replay_status(session: &mut Session) -> Result<Rows, ClientError> {
        match session.query("SHOW REPLICA STATUS FOR CHANNEL 'replay'") {
            // ER_REPLICA_CHANNEL_DOES_NOT_EXIST
            Err(ClientError::Server { code: 3074, .. }) => Ok(Rows::default()),
            other => other,
        }
    }

    /// The server looks its relay log through when it opens it, and cuts off what it takes to be broken: MySQL 9.7
    /// everything from the second `XA COMMIT` of one name on. What was cut off is put back, from a second copy (blocks
    /// are shared, where the pool can).
    fn mend(relay: &Path) -> io::Result<()> {
        let whole = relay.with_extension("whole");
        let mut file = plain::edit(relay)?;
        match plain::open(&whole) {
            Ok(mut whole) if file.metadata()?.len() < whole.metadata()?.len() => {
                file.set_len(0)?;
                io::copy(&mut whole, &mut file).map(drop)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                io::copy(&mut file, &mut plain::create(&whole, None)?).map(drop)
            }
            found => found.map(drop),
        }
    }

    const IMAGE: [&'static str; 2] = ["mysql", "MYSQL_VERSION"];

    fn container_options(options: &mut Options) {
        options.set("skip_replica_start", "ON");
    }

    /// Whoever is inside of the container comes in as the clone's own user, too.
    const PART: &'static [&'static str] = &[];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_a_tree_s_owner_has_put_there_is_refused_and_leads_nowhere() -> Result<(), Box<dyn std::error::Error>>
    {
        let dir = tempfile::tempdir()?;
        let (outside, empty) = (dir.path().join("outside"), dir.path().join("empty"));
        fs::write(&outside, "secret")?;
        fs::write(&empty, "")?;
        fs::create_dir(dir.path().join("live"))?;
        let relay = dir.path().join("live/log-replay.000001");
        std::os::unix::fs::symlink(&outside, &relay)?;
        assert!(Mysql::mend(&relay).is_err() && !relay.with_extension("whole").exists());
        fs::rename(&relay, relay.with_extension("whole"))?;
        fs::write(&relay, "cut")?;
        assert!(Mysql::mend(&relay).is_err());
        assert_eq!(fs::read_to_string(&relay)?, "cut");

        // The index names files; one that lies elsewhere stays.
        let live = dir.path().join("live/log");
        fs::write(live.with_file_name("log.000001"), "")?;
        fs::write(live.with_file_name("log.index"), format!("./log.000001\n{}\n../empty\n", empty.display()))?;
        Mysql::before_start(&live, None)?;
        assert!(empty.exists() && !live.with_file_name("log.000001").exists());
        assert_eq!(fs::read_to_string(&outside)?, "secret");
        Ok(())
    }

    #[test]
    fn m02_what_a_mirror_is_told_for_keeps_has_no_password() -> Result<(), pando_model::SourceUrlError> {
        let url = "mysql://rep:hunter2@db/blog?ssl-mode=VERIFY_IDENTITY".parse()?;
        let kept = Mysql::change(&url, &Facts::default());
        assert!(!kept.contains("hunter2") && !kept.contains("USER"), "{kept}");
        assert!(kept.contains("SOURCE_SSL_VERIFY_SERVER_CERT=1") && Mysql::credentials(&url).contains("hunter2"));
        Ok(())
    }
}
