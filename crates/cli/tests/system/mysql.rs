//! MySQL as production: any second, what a clone must not carry, outages, and the life of a clone.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pando_testkit::{Daemon, MariadbProduction, MysqlProduction, mariadb_at, mysql_at, tools, wait_until};
use serde_json::Value;

use crate::any_second::Oracle;
use crate::proxy::Proxy;
use crate::stand::{PANDO, Raised, entries, said};

struct Stand {
    daemon: Daemon,
    production: MysqlProduction,
    line: Proxy,
}

impl Stand {
    fn new() -> Option<Self> {
        daemon().map(|daemon| Self { daemon, line: Proxy::new(0), production: MysqlProduction::start(&[]) })
    }

    fn json(&self, args: &[&str]) -> Value {
        self.daemon.pando_json(args)
    }

    fn source(&self) -> String {
        self.line.lead_to(self.production.port());
        let port = |port: u16| format!(":{port}/");
        format!("db={}", self.production.url().replace(&port(self.production.port()), &port(self.line.port())))
    }

    fn link(&self, more: &[&str]) {
        self.json(&[&["link", "blog", &self.source()], more].concat());
    }

    fn copy(&self, target: &str, name: &str, more: &[&str]) -> String {
        let view = self.json(&[&["clone", target, name], more].concat());
        assert_eq!(view["state"], "running", "{view}");
        url(&view)
    }

    fn fails(&self, code: i32, args: &[&str]) -> String {
        said(&self.daemon.pando(args), code, args)
    }

    fn state(&self, state: &str, at_most: u64) {
        let there = || self.json(&["show", "blog"])["state"] == state;
        assert!(
            wait_until(Duration::from_secs(at_most), there),
            "not {state}: {}\n{}",
            self.json(&["show", "blog"]),
            self.daemon.log()
        );
    }

    fn end(self, announced: &[&str]) {
        let home = self.daemon.home();
        self.json(&["unlink", "blog"]);
        for dir in ["pool/volumes", "pool/snapshots", "log", "clones"] {
            let empty = || entries(&home.join(dir)).is_empty();
            assert!(wait_until(Duration::from_secs(10), empty), "{dir}: {:?}", entries(&home.join(dir)));
        }
        let only_daemon = || self.daemon.processes().len() <= 1;
        assert!(wait_until(Duration::from_secs(5), only_daemon), "{:?}", self.daemon.processes());
        let alarms = self.daemon.alarms(announced);
        assert!(alarms.is_empty(), "unannounced: {alarms:#?}\n{}", self.daemon.log());
    }
}

/// A daemon that knows the MySQL that is here.
fn daemon() -> Option<Daemon> {
    let there = tools::require_root() && tools::require("mkfs.btrfs") && tools::require("mariadb");
    let there = there && tools::require_mysql();
    let prefix = there.then(tools::mysql)??;
    Some(Daemon::start_with(Path::new(PANDO), &[("PANDO_MYSQL", &prefix.display().to_string())]))
}

fn url(view: &Value) -> String {
    view["sources"]["db"]["url"].as_str().unwrap().to_owned()
}

fn at(url: &str, sql: &str) -> String {
    mysql_at(url, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

const ROWS: &str = "SELECT n FROM mark ORDER BY n";

/// Commits a row after the other, by connections that come and go: alone, with DDL before it, in a transaction that
/// takes longer than a second, compressed, with a tag, in two phases, and beside tables without transactions.
fn write(stand: &Stand, oracle: &mut Oracle, stop: &AtomicBool) {
    for round in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        oracle.commit_by(|n| {
            let row = format!("INSERT INTO mark VALUES ({n}, REPEAT('x', 100))");
            let sql = match round % 14 {
                3 => format!("CREATE TABLE t{n} (n INT); {row}"),
                5 => format!("SET SESSION binlog_transaction_compression = ON; {row}"),
                6 => format!("BEGIN; {row}; UPDATE counter SET n = n + 1; DO SLEEP(1.2); COMMIT"),
                8 => format!("SET SESSION gtid_next = 'AUTOMATIC:tag'; {row}"),
                9 => format!("INSERT INTO plain VALUES ({n}); {row}"),
                11 => format!("XA START 'x'; {row}; XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x'"),
                12 => format!("BEGIN; {row}; SAVEPOINT a; DELETE FROM mark; ROLLBACK TO a; COMMIT"),
                _ => format!("BEGIN; {row}; UPDATE counter SET n = n + 1; COMMIT"),
            };
            stand.production.sql(&sql);
        });
        sleep(Duration::from_millis(40));
    }
}

#[test]
fn m06_m07_any_moment_shows_exactly_what_was_committed_before_it() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql(
        "CREATE TABLE mark (n BIGINT PRIMARY KEY, text VARCHAR(200)); CREATE TABLE counter (n INT); \
         INSERT INTO counter VALUES (0); CREATE TABLE plain (n BIGINT PRIMARY KEY) ENGINE=MyISAM",
    );
    stand.link(&["--snapshot-every", "4s"]);
    let mut oracle = Oracle::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _raised = Raised(&stop);
        scope.spawn(|| write(&stand, &mut oracle, &stop));
        sleep(Duration::from_secs(14));
        stop.store(true, Ordering::Relaxed);
    });
    let (from, to) = oracle.span();
    let step = to.duration_since(from) / 11;
    let seed = i64::from(from.subsec_nanosecond());
    for place in 1..=10 {
        let odd = SignedDuration::from_nanos(seed.wrapping_mul(i64::from(place) * 7919) % 1_000_000_000);
        let moment = (from + step * place + odd).min(to);
        let url = if place < 3 {
            stand.copy(&format!("blog@{moment}"), &format!("c{place}"), &[])
        } else {
            stand.json(&["refresh", &format!("c2@{moment}")]);
            url(&stand.json(&["show", "c2"]))
        };
        oracle.check(moment, &at(&url, ROWS));
        let torn = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'blog' \
                    AND table_name RLIKE '^t[0-9]+$' AND CAST(SUBSTR(table_name, 2) AS SIGNED) > (SELECT MAX(n) + 1 FROM mark)";
        assert_eq!(at(&url, torn), "0");
        assert_eq!(at(&url, "CHECK TABLE mark, counter, plain").matches("OK").count(), 3);
        assert_eq!(at(&url, "XA RECOVER"), "", "M-5: nothing is left half committed");
    }
    let now = stand.copy("blog@now", "now", &[]);
    assert_eq!(at(&now, ROWS), stand.production.sql(ROWS));
    assert_eq!(at(&now, "SELECT COUNT(*) FROM plain"), stand.production.sql("SELECT COUNT(*) FROM plain"));
    stand.json(&["rm", "c1", "c2", "now"]);
    stand.end(&[]);
}

#[test]
fn m01_m02_m08_m11_m16_a_clone_carries_nothing_of_production() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql(
        "CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON blog.* TO app@'%'; \
         ALTER USER app@'%' IDENTIFIED BY 'app-second' RETAIN CURRENT PASSWORD; \
         CREATE USER pando@'127.0.0.1' IDENTIFIED BY 'other'; CREATE ROLE readers; \
         CREATE TABLE ticks (n INT AUTO_INCREMENT PRIMARY KEY); SET GLOBAL event_scheduler = ON; \
         CREATE EVENT tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO ticks VALUES (NULL)",
    );
    stand.link(&["--snapshot-every", "2s"]);
    let uuid = stand.production.sql("SELECT @@server_uuid");
    let mut uuids = vec![uuid.clone()];
    for (target, name) in [("blog", "latest"), ("blog@now", "now")] {
        let url = stand.copy(target, name, &[]);
        uuids.push(at(&url, "SELECT @@server_uuid"));
        let own: u32 = at(&url, "SELECT @@server_id").parse().unwrap();
        assert!(own != 7 && own > 1);
        assert_eq!(at(&url, "SHOW REPLICA STATUS"), "");
        assert_eq!(at(&url, "SELECT @@gtid_executed"), "");
        assert_eq!(at(&url, "SELECT COUNT(*) FROM mysql.slave_master_info"), "0");
        assert_eq!(at(&url, "SELECT @@event_scheduler"), "OFF");
        let (before, _) = (at(&url, "SELECT COUNT(*) FROM ticks"), sleep(Duration::from_millis(2200)));
        assert_eq!(at(&url, "SELECT COUNT(*) FROM ticks"), before, "an event fired");
        let place = url.rsplit_once('@').unwrap().1;
        for (user, password) in
            [("app", "app-secret"), ("app", "app-second"), ("rep", "prod-secret"), ("pando", "other"), ("root", "")]
        {
            let refused = mysql_at(&format!("mysql://{user}:{password}@{place}"), "SELECT 1");
            assert!(refused.is_err(), "{user} came into {name}");
        }
        let kept = "SELECT user FROM mysql.user WHERE authentication_string <> '' AND authentication_string NOT LIKE \
                    '%THISISACOMBINATION%' OR JSON_CONTAINS_PATH(user_attributes, 'one', '$.additional_password')";
        assert_eq!(at(&url, kept), "pando", "only the clone's own password is kept");
        assert_eq!(at(&url, "SELECT COUNT(*) FROM mysql.user WHERE user = 'readers'"), "1");
        assert_eq!(at(&url, "SELECT COUNT(*) FROM mysql.user WHERE user = 'pando'"), "1");
        let tree = stand.json(&["show", name])["sources"]["db"]["path"].as_str().unwrap().to_owned();
        let secret = tools::output(Path::new("/usr/bin/grep"), &["-rl", "prod-secret", &tree]);
        assert_eq!(String::from_utf8_lossy(&secret.stdout), "", "M-2: production's password is in a clone's files");
    }
    uuids.sort();
    uuids.dedup();
    assert_eq!(uuids.len(), 3, "M-1: each server has a number of its own: {uuids:?}");
    // Whoever follows production is the mirror alone.
    let guests =
        stand.production.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'");
    assert_eq!(guests, "1");
    let log = stand.daemon.log();
    assert!(!log.contains("prod-secret") && !log.contains("app-secret"));
    stand.json(&["rm", "latest", "now"]);
    stand.end(&[]);
}

#[test]
fn a_recording_clone_is_rewound_undone_refreshed_stopped_and_copied() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY)");
    stand.link(&[]);
    let url = stand.copy("blog@now", "dev", &["--record"]);
    at(&url, "INSERT INTO note VALUES (1)");
    sleep(Duration::from_millis(300));
    let between = Timestamp::now();
    sleep(Duration::from_millis(300));
    at(&url, "INSERT INTO note VALUES (2)");
    let notes = || at(&url, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note");
    stand.json(&["rewind", &format!("dev@{between}")]);
    assert_eq!(notes(), "1");
    stand.json(&["undo", "dev"]);
    assert_eq!(notes(), "1,2");
    at(&url, "INSERT INTO note VALUES (3)");
    stand.json(&["stop", "dev"]);
    stand.json(&["start", "dev"]);
    assert_eq!(notes(), "1,2,3");
    let child = stand.copy("dev@now", "child", &[]);
    assert_eq!(at(&child, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note"), "1,2,3");
    stand.json(&["rm", "child"]);
    stand.production.sql("INSERT INTO note VALUES (9)");
    stand.json(&["refresh", "dev@now"]);
    assert_eq!(notes(), "9");
    // A client of another make comes in, too.
    assert_eq!(mariadb_at(&url, "SELECT n FROM note"), Ok("9".to_owned()));
    stand.json(&["rm", "dev"]);
    stand.end(&[]);
}

#[test]
fn m09_restarts_purged_logs_and_a_reset_leave_an_honest_timeline() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
    // M-8: without numbers of transactions nothing can be followed, and what gives them is said.
    stand.production.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE");
    let refused = stand.fails(1, &["link", "blog", &stand.source()]);
    assert!(refused.contains("SET PERSIST gtid_mode = ON;"), "{refused}");
    stand.production.sql("SET GLOBAL gtid_mode = ON");
    stand.link(&["--snapshot-every", "2s"]);
    let first = Timestamp::now();
    sleep(Duration::from_secs(2));
    // A restart, and a crash.
    stand.production.stop();
    stand.state("disconnected", 20);
    stand.production.resume();
    stand.state("following", 30);
    stand.production.sql("INSERT INTO note VALUES (2)");
    stand.production.kill();
    stand.production.resume();
    stand.state("following", 30);
    let notes = |url: &str| at(url, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note");
    assert_eq!(notes(&stand.copy("blog@now", "restarted", &[])), "1,2");
    // What Pando needs is purged while it is away.
    for (number, sql) in ["PURGE", "RESET"].iter().enumerate() {
        let row = 10 + number;
        let before = stand.json(&["timeline", "blog"])["ranges"].as_array().unwrap().len();
        match *sql {
            "PURGE" => {
                stand.line.cut();
                let gone = || {
                    // Who sends to a mirror that is gone notices at its next event.
                    stand.production.sql("INSERT INTO note VALUES (91); DELETE FROM note WHERE n = 91");
                    let sends = "SELECT 1 FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
                    stand.production.sql(sends).is_empty()
                };
                assert!(wait_until(Duration::from_secs(20), gone));
                stand.production.sql(&format!("INSERT INTO note VALUES ({row}); FLUSH BINARY LOGS"));
                let purged = || {
                    stand.production.sql("FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY");
                    stand.production.sql("SHOW BINARY LOGS").lines().count() == 1
                };
                assert!(wait_until(Duration::from_secs(20), purged));
                stand.line.lead_to(stand.production.port());
            }
            _ => drop(stand.production.sql(&format!("RESET BINARY LOGS AND GTIDS; INSERT INTO note VALUES ({row})"))),
        }
        let rebased = || stand.json(&["timeline", "blog"])["ranges"].as_array().unwrap().len() > before;
        assert!(wait_until(Duration::from_secs(90), rebased), "{sql}: {}", stand.daemon.log());
        stand.state("following", 30);
        let url = stand.copy("blog@now", &format!("after-{row}"), &[]);
        assert!(notes(&url).contains(&row.to_string()), "{sql}");
    }
    // The gap is shown and refused; what lies before it is still there.
    let timeline = stand.json(&["timeline", "blog"]);
    let ranges = timeline["ranges"].as_array().unwrap();
    assert_eq!(ranges.len(), 3, "{timeline}");
    let end: Timestamp = ranges[0]["to"].as_str().unwrap().parse().unwrap();
    let begin: Timestamp = ranges[1]["from"].as_str().unwrap().parse().unwrap();
    let gap = end + begin.duration_since(end) / 2;
    let refused = stand.fails(4, &["clone", &format!("blog@{gap}"), "gap"]);
    assert!(refused.contains("the nearest moments"), "{refused}");
    let old = stand.copy(&format!("blog@{}", first + SignedDuration::from_secs(1)), "old", &[]);
    assert_eq!(notes(&old), "1");
    stand.json(&["rm", "restarted", "after-10", "after-11", "old"]);
    stand.end(&["the heartbeat of an app"]);
}

#[test]
fn an_address_of_mysql_that_is_of_mariadb_is_served_by_mariadb() {
    let there = tools::require("mariadbd") && tools::require("mariadb-install-db");
    let Some(daemon) = daemon().filter(|_| there) else { return };
    let production = MariadbProduction::start(&[]);
    production.sql("CREATE TABLE note (n INT); INSERT INTO note VALUES (4)");
    let source = production.url().replace("mariadb://", "mysql://");
    daemon.pando_json(&["link", "blog", &source]);
    let view = daemon.pando_json(&["clone", "blog", "dev"]);
    assert_eq!(view["sources"]["db"]["engine"], "mariadb", "{view}");
    assert!(mariadb_at(&url(&view), "SELECT VERSION()").unwrap().contains("MariaDB"));
    daemon.pando_json(&["rm", "dev"]);
    daemon.pando_json(&["unlink", "blog"]);
}
