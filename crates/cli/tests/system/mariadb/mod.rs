//! MariaDB as production: any second, what a clone must not carry, outages, and the life of a clone.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use pando_testkit::{Daemon, MariadbProduction, mariadb_at, tools, wait_until};
use serde_json::Value;

use crate::any_second::Oracle;
use crate::proxy::Proxy;
use crate::stand::{PANDO, Raised, entries, said};

mod copy;
mod series;
mod traps;

struct Stand {
    daemon: Daemon,
    production: MariadbProduction,
    line: Proxy,
}

impl Stand {
    fn new() -> Option<Self> {
        Self::with(&[])
    }

    /// `conf`: more lines for production's option file.
    fn with(conf: &[&str]) -> Option<Self> {
        there().then(|| Self::over(Daemon::start(Path::new(PANDO)), MariadbProduction::start(conf)))
    }

    fn over(daemon: Daemon, production: MariadbProduction) -> Self {
        Self { daemon, line: Proxy::new(0), production }
    }

    fn json(&self, args: &[&str]) -> Value {
        self.daemon.pando_json(args)
    }

    fn link(&self, more: &[&str]) {
        self.line.lead_to(self.production.port());
        let port = |port: u16| format!(":{port}/");
        let url = self.production.url().replace(&port(self.production.port()), &port(self.line.port()));
        self.json(&[&["link", "blog", &format!("db={url}")], more].concat());
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

/// Whether what these tests need is here.
fn there() -> bool {
    tools::require_root()
        && ["mkfs.btrfs", "mariadbd", "mariadb-install-db", "mariadb"].iter().all(|tool| tools::require(tool))
}

fn url(view: &Value) -> String {
    view["sources"]["db"]["url"].as_str().unwrap().to_owned()
}

fn at(url: &str, sql: &str) -> String {
    mariadb_at(url, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

const ROWS: &str = "SELECT n FROM mark ORDER BY n";

/// Commits a row after the other, by connections that come and go: alone, with DDL before it, in a transaction
/// that takes longer than a second, and beside tables without transactions.
fn write(stand: &Stand, oracle: &mut Oracle, stop: &AtomicBool) {
    for round in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        oracle.commit_by(|n| {
            let row = format!("INSERT INTO mark VALUES ({n}, REPEAT('x', 100))");
            let sql = match round % 12 {
                3 => format!("CREATE TABLE t{n} (n INT); {row}"),
                6 => format!("BEGIN; {row}; UPDATE counter SET n = n + 1; DO SLEEP(1.2); COMMIT"),
                9 => format!("INSERT INTO plain VALUES ({n}); {row}"),
                _ => format!("BEGIN; {row}; UPDATE counter SET n = n + 1; COMMIT"),
            };
            stand.production.sql(&sql);
        });
        sleep(Duration::from_millis(40));
    }
}

#[test]
fn m06_m07_any_second_shows_exactly_what_was_committed_before_it() {
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
        sleep(Duration::from_secs(16));
        stop.store(true, Ordering::Relaxed);
    });
    let (from, to) = oracle.span();
    let step = to.duration_since(from) / 11;
    let seed = i64::from(from.subsec_nanosecond());
    for place in 1..=10 {
        let odd = SignedDuration::from_nanos(seed.wrapping_mul(i64::from(place) * 7919) % 1_000_000_000);
        let moment = (from + step * place + odd).min(to);
        // Whole seconds are exact. Between them nothing is shown that was not committed yet, and nothing is
        // missing that was committed before the second began.
        let (moment, slack) = match place % 2 {
            0 => (moment.round(Unit::Second).unwrap().min(to), SignedDuration::ZERO),
            _ => (moment, SignedDuration::from_secs(1)),
        };
        let url = if place < 5 {
            stand.copy(&format!("blog@{moment}"), &format!("c{place}"), &[])
        } else {
            stand.json(&["refresh", &format!("c4@{moment}")]);
            url(&stand.json(&["show", "c4"]))
        };
        oracle.check_within(moment, slack, &at(&url, ROWS));
        let torn = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'blog' \
                    AND table_name RLIKE '^t[0-9]+$' AND CAST(SUBSTR(table_name, 2) AS INT) > (SELECT MAX(n) + 1 FROM mark)";
        assert_eq!(at(&url, torn), "0");
        assert_eq!(at(&url, "CHECK TABLE mark, counter, plain").matches("OK").count(), 3);
        assert_eq!(at(&url, "XA RECOVER"), "", "M-5: nothing is left half committed");
    }
    let now = stand.copy("blog@now", "now", &[]);
    assert_eq!(at(&now, ROWS), stand.production.sql(ROWS));
    assert_eq!(at(&now, "SELECT COUNT(*) FROM plain"), stand.production.sql("SELECT COUNT(*) FROM plain"));
    stand.json(&["rm", "c1", "c2", "c3", "c4", "now"]);
    stand.end(&[]);
}

#[test]
fn m01_m02_m08_m11_m16_a_clone_carries_nothing_of_production() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql(
        "CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON blog.* TO app@'%'; \
         CREATE USER pando@'127.0.0.1' IDENTIFIED BY 'other'; CREATE ROLE readers; \
         CREATE TABLE ticks (n INT AUTO_INCREMENT PRIMARY KEY); SET GLOBAL event_scheduler = ON; \
         CREATE EVENT tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO ticks VALUES (NULL)",
    );
    stand.link(&["--snapshot-every", "2s"]);
    for (target, name) in [("blog", "latest"), ("blog@now", "now")] {
        let url = stand.copy(target, name, &[]);
        let own: u32 = at(&url, "SELECT @@server_id").parse().unwrap();
        assert!(own != 7 && own > 1);
        assert_eq!(at(&url, "SHOW ALL SLAVES STATUS"), "");
        assert_eq!(at(&url, "SELECT @@gtid_slave_pos"), "");
        assert_eq!(at(&url, "SELECT @@event_scheduler"), "OFF");
        let (before, _) = (at(&url, "SELECT COUNT(*) FROM ticks"), sleep(Duration::from_millis(2200)));
        assert_eq!(at(&url, "SELECT COUNT(*) FROM ticks"), before, "an event fired");
        let place = url.rsplit_once('@').unwrap().1;
        for (user, password) in [("app", "app-secret"), ("rep", "prod-secret"), ("pando", "other"), ("root", "")] {
            let refused = mariadb_at(&format!("mariadb://{user}:{password}@{place}"), "SELECT 1");
            assert!(refused.is_err(), "{user} came into {name}");
        }
        let kept =
            at(&url, "SELECT COUNT(*) FROM mysql.global_priv WHERE Priv LIKE '%*%' AND Priv NOT LIKE '%THISISNOT%'");
        assert_eq!(kept, "1", "only the clone's own password is kept");
        assert_eq!(at(&url, "SELECT COUNT(*) FROM mysql.user WHERE user = 'readers' AND is_role = 'Y'"), "1");
        let tree = stand.json(&["show", name])["sources"]["db"]["path"].as_str().unwrap().to_owned();
        for found in ["master.info", "auto.cnf", "relay-log.info"] {
            assert!(!Path::new(&tree).join(found).exists(), "{found}");
        }
    }
    // Whoever follows production is the mirror alone, and the one that looks.
    let guests =
        stand.production.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE command = 'Binlog Dump'");
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
    sleep(Duration::from_millis(1500));
    let between = Timestamp::now().round(Unit::Second).unwrap();
    sleep(Duration::from_millis(1500));
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
    stand.json(&["rm", "dev"]);
    stand.end(&[]);
}

#[test]
fn m09_restarts_purged_logs_and_a_reset_leave_an_honest_timeline() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
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
                stand.production.sql(&format!(
                    "INSERT INTO note VALUES ({row}); FLUSH BINARY LOGS; INSERT INTO note VALUES (90); FLUSH BINARY LOGS"
                ));
                let gone = || {
                    // Who sends to a mirror that is gone notices at its next event.
                    stand.production.sql("INSERT INTO note VALUES (91); DELETE FROM note WHERE n = 91");
                    let sends = "SELECT 1 FROM information_schema.processlist WHERE command = 'Binlog Dump'";
                    stand.production.sql(sends).is_empty()
                };
                assert!(wait_until(Duration::from_secs(20), gone));
                // A log is kept until InnoDB has written what it stands for.
                let purged = || {
                    stand.production.sql("FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY");
                    stand.production.sql("SHOW BINARY LOGS").lines().count() == 1
                };
                assert!(wait_until(Duration::from_secs(20), purged));
                stand.line.lead_to(stand.production.port());
            }
            _ => drop(stand.production.sql(&format!("RESET MASTER; INSERT INTO note VALUES ({row})"))),
        }
        let rebased = || stand.json(&["timeline", "blog"])["ranges"].as_array().unwrap().len() > before;
        assert!(wait_until(Duration::from_secs(60), rebased), "{sql}: {}", stand.daemon.log());
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
