//! MariaDB and MySQL as production: any moment, what a clone must not carry, outages, and the life of a clone. Each
//! test here is one of both; `shared_tests!` puts it into the module of each, where what only one of them does is too.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp, Unit};
use pando_testkit::{Daemon, FamilyProduction, Image, Make, mariadb_at, sql_at, tools, wait_until};
use serde_json::Value;

use crate::any_second::Oracle;
use crate::proxy::Proxy;
use crate::stand::{Raised, entries, said};

pub mod foreign;
pub mod settings;
pub mod travel;

/// What the tests of one of them say differently.
pub trait Side: Make {
    /// A daemon that knows the servers of it that are here, with more environment.
    fn daemon_with(env: &[(&str, &str)]) -> Option<Daemon>;
    fn daemon() -> Option<Daemon> {
        Self::daemon_with(&[])
    }
    /// Whether any moment is exact, not only whole seconds.
    const EXACT: bool;
    /// How a row can be committed that only it knows, by the number of the round.
    fn own_way(round: i64, row: &str) -> Option<String>;
    /// What makes the numbers of its transactions begin anew.
    const RESET: &'static str;
    /// What shows that a clone is a replica, and which numbers it has of production.
    const OF_A_REPLICA: &'static [&'static str];
    /// What no two servers have in common.
    const IDENTITY: &'static str;
    /// More accounts, and who must not come in by them.
    const ACCOUNTS: (&'static str, &'static [(&'static str, &'static str)]);
    /// Makes accounts whose passwords are kept in other ways, as far as the server knows them.
    fn in_other_ways(production: &FamilyProduction<Self>) -> String
    where
        Self: Sized;
    /// What proves passwords in other places than most.
    const MORE_VERIFIERS: &'static str;
    /// Its official image, and the client in it.
    const IMAGE: Image;
    const CLIENT: &'static str;
    /// How many layers of data the next image has.
    const LAYERS_OF_NEXT: usize;
    /// The accounts of a clone of which a password is kept, and its roles of production.
    const KEPT: [&'static str; 2];
}

pub struct Stand<M: Side> {
    pub daemon: Daemon,
    pub production: FamilyProduction<M>,
    pub line: Proxy,
}

impl<M: Side> Stand<M> {
    pub fn new() -> Option<Self> {
        Self::with(&[])
    }

    /// `conf`: more lines for production's option file.
    pub fn with(conf: &[&str]) -> Option<Self> {
        M::daemon().map(|daemon| Self::over(daemon, FamilyProduction::start(conf)))
    }

    pub fn over(daemon: Daemon, production: FamilyProduction<M>) -> Self {
        Self { daemon, line: Proxy::new(0), production }
    }

    pub fn json(&self, args: &[&str]) -> Value {
        self.daemon.pando_json(args)
    }

    pub fn source(&self) -> String {
        self.line.lead_to(self.production.port());
        let port = |port: u16| format!(":{port}/");
        format!("db={}", self.production.url().replace(&port(self.production.port()), &port(self.line.port())))
    }

    pub fn link(&self, more: &[&str]) {
        self.json(&[&["link", "blog", &self.source()], more].concat());
    }

    pub fn copy(&self, target: &str, name: &str, more: &[&str]) -> String {
        let view = self.json(&[&["clone", target, name], more].concat());
        assert_eq!(view["state"], "running", "{view}");
        url(&view)
    }

    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        said(&self.daemon.pando(args), code, args)
    }

    pub fn state(&self, state: &str, at_most: u64) {
        let there = || self.json(&["show", "blog"])["state"] == state;
        assert!(
            wait_until(Duration::from_secs(at_most), there),
            "not {state}: {}\n{}",
            self.json(&["show", "blog"]),
            self.daemon.log()
        );
    }

    pub fn end(self, announced: &[&str]) {
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

pub fn url(view: &Value) -> String {
    view["sources"]["db"]["url"].as_str().unwrap().to_owned()
}

pub fn at<M: Side>(url: &str, sql: &str) -> String {
    sql_at::<M>(url, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub const ROWS: &str = "SELECT n FROM mark ORDER BY n";

/// The next whole second, once it is over.
pub fn second() -> Timestamp {
    sleep(Duration::from_millis(1100));
    let moment =
        Timestamp::now().round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Trunc));
    sleep(Duration::from_millis(1100));
    moment.unwrap()
}

/// Commits a row after the other, by connections that come and go: alone, with DDL before it, in a transaction that
/// takes longer than a second, with a part taken back, beside tables without transactions, and in ways of its own.
pub fn write<M: Side>(stand: &Stand<M>, oracle: &mut Oracle, stop: &AtomicBool) {
    for round in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        oracle.commit_by(|n| {
            let row = format!("INSERT INTO mark VALUES ({n}, REPEAT('x', 100))");
            let sql = M::own_way(round % 14, &row).unwrap_or_else(|| match round % 14 {
                3 => format!("CREATE TABLE t{n} (n INT); {row}"),
                6 => format!("BEGIN; {row}; UPDATE counter SET n = n + 1; DO SLEEP(1.2); COMMIT"),
                9 => format!("INSERT INTO plain VALUES ({n}); {row}"),
                12 => format!("BEGIN; {row}; SAVEPOINT a; DELETE FROM mark; ROLLBACK TO a; COMMIT"),
                _ => format!("BEGIN; {row}; UPDATE counter SET n = n + 1; COMMIT"),
            });
            stand.production.sql(&sql);
        });
        sleep(Duration::from_millis(40));
    }
}

pub fn any_moment<M: Side>() {
    let Some(stand) = Stand::<M>::new() else { return };
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
        // Where only whole seconds are exact, between them nothing is shown that was not committed yet, and nothing is
        // missing that was committed before the second began.
        let (moment, slack) = match place % 2 {
            _ if M::EXACT => (moment, SignedDuration::ZERO),
            0 => (moment.round(Unit::Second).unwrap().min(to), SignedDuration::ZERO),
            _ => (moment, SignedDuration::from_secs(1)),
        };
        let url = if place < 3 {
            stand.copy(&format!("blog@{moment}"), &format!("c{place}"), &[])
        } else {
            stand.json(&["refresh", &format!("c2@{moment}")]);
            url(&stand.json(&["show", "c2"]))
        };
        oracle.check_within(moment, slack, &at::<M>(&url, ROWS));
        let torn = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'blog' \
                    AND table_name RLIKE '^t[0-9]+$' AND CAST(SUBSTR(table_name, 2) AS SIGNED) > (SELECT MAX(n) + 1 FROM mark)";
        assert_eq!(at::<M>(&url, torn), "0");
        assert_eq!(at::<M>(&url, "CHECK TABLE mark, counter, plain").matches("OK").count(), 3);
        assert_eq!(at::<M>(&url, "XA RECOVER"), "", "M-5: nothing is left half committed");
    }
    let now = stand.copy("blog@now", "now", &[]);
    assert_eq!(at::<M>(&now, ROWS), stand.production.sql(ROWS));
    assert_eq!(at::<M>(&now, "SELECT COUNT(*) FROM plain"), stand.production.sql("SELECT COUNT(*) FROM plain"));
    stand.json(&["rm", "c1", "c2", "now"]);
    stand.end(&[]);
}

pub fn nothing_of_production<M: Side>(stand: Stand<M>) {
    stand.production.sql(
        "CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON blog.* TO app@'%'; \
         CREATE USER pando@'127.0.0.1' IDENTIFIED BY 'other'; CREATE ROLE readers; \
         CREATE TABLE ticks (n INT AUTO_INCREMENT PRIMARY KEY); SET GLOBAL event_scheduler = ON; \
         CREATE EVENT tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO ticks VALUES (NULL)",
    );
    let (more, passwords) = M::ACCOUNTS;
    stand.production.sql(more);
    stand.link(&["--snapshot-every", "2s"]);
    let mut identities = vec![stand.production.sql(M::IDENTITY)];
    for (target, name) in [("blog", "latest"), ("blog@now", "now")] {
        let url = stand.copy(target, name, &[]);
        identities.push(at::<M>(&url, M::IDENTITY));
        let own: u32 = at::<M>(&url, "SELECT @@server_id").parse().unwrap();
        assert!(own != 7 && own > 1);
        for none in M::OF_A_REPLICA {
            assert_eq!(at::<M>(&url, none), "", "{none}");
        }
        assert_eq!(at::<M>(&url, "SELECT @@event_scheduler"), "OFF");
        let (before, _) = (at::<M>(&url, "SELECT COUNT(*) FROM ticks"), sleep(Duration::from_millis(2200)));
        assert_eq!(at::<M>(&url, "SELECT COUNT(*) FROM ticks"), before, "an event fired");
        let place = url.rsplit_once('@').unwrap().1;
        let usual = [("app", "app-secret"), ("rep", "prod-secret"), ("pando", "other"), ("root", "")];
        for (user, password) in usual.iter().chain(passwords) {
            let refused = sql_at::<M>(&format!("{}://{user}:{password}@{place}", M::SCHEME), "SELECT 1");
            assert!(refused.is_err(), "{user} came into {name}");
        }
        let [kept, roles] = M::KEPT;
        assert_eq!(at::<M>(&url, kept), "pando", "only the clone's own password is kept");
        assert_eq!(at::<M>(&url, roles), "readers");
        assert_eq!(at::<M>(&url, "SELECT COUNT(*) FROM mysql.user WHERE user = 'pando'"), "1");
        let tree = stand.json(&["show", name])["sources"]["db"]["path"].as_str().unwrap().to_owned();
        let secret = tools::output(Path::new("/usr/bin/grep"), &["-rl", "prod-secret", &tree]);
        assert_eq!(String::from_utf8_lossy(&secret.stdout), "", "M-2: production's password is in a clone's files");
        for found in ["master.info", "relay-log.info"] {
            assert!(!Path::new(&tree).join(found).exists(), "{found}");
        }
    }
    identities.sort();
    identities.dedup();
    assert_eq!(identities.len(), 3, "M-1: each server has a number of its own: {identities:?}");
    // Whoever follows production is the mirror alone.
    let guests =
        stand.production.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'");
    assert_eq!(guests, "1");
    let log = stand.daemon.log();
    assert!(!log.contains("prod-secret") && !log.contains("app-secret"));
    stand.json(&["rm", "latest", "now"]);
    stand.end(&[]);
}

pub fn life_of_a_clone<M: Side>() {
    let Some(stand) = Stand::<M>::new() else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY)");
    stand.link(&[]);
    let url = stand.copy("blog@now", "dev", &["--record"]);
    at::<M>(&url, "INSERT INTO note VALUES (1)");
    sleep(Duration::from_millis(1500));
    let between = Timestamp::now().round(Unit::Second).unwrap();
    sleep(Duration::from_millis(1500));
    at::<M>(&url, "INSERT INTO note VALUES (2)");
    let notes = || at::<M>(&url, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note");
    stand.json(&["rewind", &format!("dev@{between}")]);
    assert_eq!(notes(), "1");
    stand.json(&["undo", "dev"]);
    assert_eq!(notes(), "1,2");
    at::<M>(&url, "INSERT INTO note VALUES (3)");
    stand.json(&["stop", "dev"]);
    stand.json(&["start", "dev"]);
    assert_eq!(notes(), "1,2,3");
    let child = stand.copy("dev@now", "child", &[]);
    assert_eq!(at::<M>(&child, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note"), "1,2,3");
    stand.json(&["rm", "child"]);
    stand.production.sql("INSERT INTO note VALUES (9)");
    stand.json(&["refresh", "dev@now"]);
    assert_eq!(notes(), "9");
    // MariaDB's client comes into a MySQL, too.
    assert_eq!(mariadb_at(&url, "SELECT n FROM note"), Ok("9".to_owned()));
    stand.json(&["rm", "dev"]);
    stand.end(&[]);
}

pub fn outages<M: Side>() {
    let Some(mut stand) = Stand::<M>::new() else { return };
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
    let notes = |url: &str| at::<M>(url, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note");
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
                    let sends = "SELECT 1 FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
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
            _ => drop(stand.production.sql(&format!("{}; INSERT INTO note VALUES ({row})", M::RESET))),
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

pub fn unseen_reset<M: Side>() {
    let Some(mut stand) = Stand::<M>::new() else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
    stand.link(&["--snapshot-every", "2s"]);
    let before = second();
    let note = || stand.daemon.home().join("log");
    let seen = || find(&note(), "seen.json");
    assert!(wait_until(Duration::from_secs(10), seen), "what was seen of production is not noted");
    // The daemon and the line are away; meanwhile other transactions get the numbers that the mirror has.
    stand.daemon.stop();
    stand.line.cut();
    let many: String = (100..140).map(|n| format!("INSERT INTO note VALUES ({n});")).collect();
    let noted = file(&end_of_log::<M>(&stand));
    stand.production.sql(&format!("{}; {many} DELETE FROM note WHERE n BETWEEN 100 AND 130", M::RESET));
    // Its files have come as far as they were, too: only what stands in them tells.
    while file(&end_of_log::<M>(&stand)) <= noted {
        stand.production.sql("FLUSH BINARY LOGS; INSERT INTO note VALUES (99); DELETE FROM note WHERE n = 99");
    }
    stand.line.lead_to(stand.production.port());
    stand.daemon.resume();
    let rebased = || stand.json(&["timeline", "blog"])["ranges"].as_array().unwrap().len() == 2;
    assert!(wait_until(Duration::from_secs(90), rebased), "{}", stand.daemon.log());
    stand.state("following", 30);
    let now = stand.copy("blog@now", "now", &[]);
    let sum = "SELECT COUNT(*), SUM(n) FROM note";
    assert_eq!(at::<M>(&now, sum), stand.production.sql(sum));
    let old = stand.copy(&format!("blog@{before}"), "old", &[]);
    assert_eq!(at::<M>(&old, sum), "1\t1");
    stand.json(&["rm", "now", "old"]);
    stand.end(&["the heartbeat of an app"]);
}

/// The name of the last file of production's binary log.
fn end_of_log<M: Side>(stand: &Stand<M>) -> String {
    let all = stand.production.sql("SHOW BINARY LOGS");
    all.lines().last().unwrap().split('\t').next().unwrap().to_owned()
}

fn file(name: &str) -> u32 {
    name.rsplit('.').next().unwrap().parse().unwrap()
}

pub fn find(dir: &Path, name: &str) -> bool {
    entries(dir).iter().any(|entry| entry == name || dir.join(entry).is_dir() && find(&dir.join(entry), name))
}

pub fn fence<M: Side>() {
    let Some(stand) = Stand::<M>::new() else { return };
    stand.production.sql("CREATE TABLE mark (n BIGINT PRIMARY KEY)");
    let dir = tempfile::Builder::new().prefix("pando-fence-").tempdir_in("/tmp").unwrap();
    // So many files that a sync takes its time.
    for n in 0..4000 {
        fs::write(dir.path().join(format!("old-{n}")), "x").unwrap();
    }
    let beside = format!("files=file://{}", dir.path().display());
    stand.json(&["link", "blog", &stand.source(), &beside, "--snapshot-every", "1h"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Raised(&over);
        scope.spawn(|| {
            // An application: each row with its file.
            for n in 1.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                stand.production.sql(&format!("INSERT INTO mark VALUES ({n})"));
                fs::write(dir.path().join(format!("row-{n}")), "").unwrap();
            }
        });
        sleep(Duration::from_millis(1500));
        for turn in 0..2 {
            let view = stand.json(&["clone", "blog@now", &format!("cut{turn}"), "--fence=20s"]);
            let rows: usize = at::<M>(&url(&view), "SELECT COUNT(*) FROM mark").parse().unwrap();
            let path = view["sources"]["files"]["path"].as_str().unwrap();
            let files = entries(path.as_ref()).iter().filter(|name| name.starts_with("row-")).count();
            assert!(rows > 5 && (files == rows || files + 1 == rows), "{rows} rows, {files} files");
            stand.json(&["rm", &format!("cut{turn}")]);
        }
        drop(ends);
    });
    // It has fallen, and production writes on.
    let begun = Instant::now();
    stand.production.sql("INSERT INTO mark VALUES (-1)");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let standing = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'DO SLEEP%'";
    assert_eq!(stand.production.sql(standing), "0");
    stand.end(&[]);
}

/// The tests of both, in the module of each.
/// A crash of the machine takes what was not synced from the end of the log, and not from the mirror's data, which its server
/// syncs by itself. A clone that is replayed over that place has everything all the same; a crash in the middle of mending it
/// changes nothing.
pub fn lost_end<M: Side>() {
    let Some(mut stand) = Stand::<M>::new() else { return };
    stand.production.sql("CREATE TABLE mark (n BIGINT PRIMARY KEY, text VARCHAR(200))");
    // No other snapshot than the first: whoever is cloned is replayed from there.
    stand.link(&["--snapshot-every", "1h"]);
    let insert = |stand: &Stand<M>, rows: std::ops::Range<u32>| {
        rows.for_each(|n| drop(stand.production.sql(&format!("INSERT INTO mark VALUES ({n}, REPEAT('x', 100))"))));
    };
    insert(&stand, 0..40);
    // The mirror has applied it by then.
    sleep(Duration::from_secs(3));
    stand.daemon.kill9();
    stand.daemon.kill_units();
    let newest = newest_segment(&stand.daemon.home().join("log"));
    let file = fs::File::options().write(true).open(&newest).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length / 2).unwrap();
    // Of what is left behind that, nothing was written.
    file.set_len(length / 2 + 5000).unwrap();
    // Production is away, so that the next crash comes before anything is received.
    stand.line.cut();
    stand.daemon.resume();
    let mut said = String::new();
    let refused = || {
        said = String::from_utf8_lossy(&stand.daemon.pando(&["snapshot", "blog"]).stderr).into_owned();
        said.contains("what a crash of the machine took from the log is being received again")
    };
    assert!(wait_until(Duration::from_secs(60), refused), "{said}\n{}", stand.daemon.log());
    stand.daemon.kill9();
    stand.daemon.kill_units();
    stand.line.lead_to(stand.production.port());
    stand.daemon.resume();
    stand.state("following", 60);
    insert(&stand, 40..50);
    let moment = second();
    let url = stand.copy(&format!("blog@{moment}"), "across", &[]);
    assert_eq!(at::<M>(&url, ROWS), stand.production.sql(ROWS));
    // The mirror goes on, with everything once.
    stand.json(&["snapshot", "blog"]);
    insert(&stand, 50..55);
    let url = stand.copy("blog@now", "now", &[]);
    assert_eq!(at::<M>(&url, ROWS), stand.production.sql(ROWS));
    stand.json(&["rm", "across", "now"]);
    stand.end(&["what a crash of the machine took from the log"]);
}

/// The file of a log that was begun last.
fn newest_segment(log: &Path) -> std::path::PathBuf {
    let mut found = Vec::new();
    let mut open = vec![log.to_owned()];
    while let Some(dir) = open.pop() {
        for name in entries(&dir) {
            let path = dir.join(&name);
            match path.is_dir() {
                true => open.push(path),
                false if dir.ends_with("segments") && name.chars().all(|c| c.is_ascii_digit()) => found.push(path),
                false => {}
            }
        }
    }
    found.into_iter().max().unwrap()
}

macro_rules! shared_tests {
    ($make:ty) => {
        #[test]
        fn m06_m07_any_moment_shows_exactly_what_was_committed_before_it() {
            $crate::mysql_family::any_moment::<$make>();
        }

        #[test]
        fn m01_m02_m08_m11_m16_a_clone_carries_nothing_of_production() {
            let Some(stand) = $crate::mysql_family::Stand::<$make>::new() else { return };
            $crate::mysql_family::nothing_of_production(stand);
        }

        #[test]
        fn a_recording_clone_is_rewound_undone_refreshed_stopped_and_copied() {
            $crate::mysql_family::life_of_a_clone::<$make>();
        }

        #[test]
        fn m09_restarts_purged_logs_and_a_reset_leave_an_honest_timeline() {
            $crate::mysql_family::outages::<$make>();
        }

        #[test]
        fn m09_what_a_crash_took_from_the_end_of_the_log_is_received_again() {
            $crate::mysql_family::lost_end::<$make>();
        }

        #[test]
        fn m09_a_reset_that_nobody_saw_is_found_when_production_comes_back() {
            $crate::mysql_family::unseen_reset::<$make>();
        }

        #[test]
        fn a_fence_cuts_rows_and_files_at_one_instant_and_falls() {
            $crate::mysql_family::fence::<$make>();
        }

        #[test]
        fn m14_a_timestamp_shows_the_hours_of_productions_machine() {
            $crate::mysql_family::settings::zone_of_the_machine::<$make>("Europe/Berlin");
        }

        #[test]
        fn m14_a_clone_answers_as_production_is_set_to() {
            $crate::mysql_family::settings::of_answers::<$make>();
        }

        #[test]
        fn what_is_wrong_with_an_address_is_said_with_what_helps() {
            $crate::mysql_family::settings::wrong_addresses::<$make>();
        }

        #[test]
        fn m14_a_production_in_a_zone_by_its_name_is_copied_and_travels() {
            $crate::mysql_family::settings::zone_by_name::<$make>();
        }

        #[test]
        fn m16_it_travels_whole_and_leaves_every_proof_of_a_password_behind() {
            $crate::mysql_family::travel::travels::<$make>();
        }

        #[test]
        fn a_masked_one_travels_whole_and_leaves_behind_what_was_masked() {
            $crate::mysql_family::travel::masked::<$make>();
        }

        #[test]
        fn m16_it_is_an_image_whole_and_without_any_proof_of_a_password() {
            $crate::mysql_family::travel::image::<$make>();
        }
    };
}
pub(crate) use shared_tests;
