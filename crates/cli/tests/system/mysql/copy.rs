//! The first copy: by production's clone plugin where it has one that Pando may use, else a dump; under load, with what
//! belongs to production's server alone left out.
//!
//! Which of the two a copy was is told by when its tables were made: those of a dump are made with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use pando_testkit::{Mysql, MysqlProduction, sql_through, tools, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::{Stand, mysql_family};
use crate::any_second::Oracle;
use crate::mysql_family::{ROWS, Side, find};
use crate::proxy::Proxy;
use crate::stand::Raised;

const INSTALL: &str = "INSTALL PLUGIN clone SONAME 'mysql_clone.so'";
const MADE: &str =
    "SELECT table_name, create_time FROM information_schema.tables WHERE table_schema = 'blog' ORDER BY 1";
/// What README says an account needs.
const USUAL: &str = "CREATE USER lesser@'%' IDENTIFIED BY 'lesser-secret'; GRANT REPLICATION SLAVE, REPLICATION CLIENT, \
    SELECT, RELOAD, LOCK TABLES, SHOW VIEW, EVENT, TRIGGER, PROCESS ON *.* TO lesser@'%'";

fn at(url: &str, sql: &str) -> String {
    mysql_family::at::<Mysql>(url, sql)
}

impl Stand {
    /// What `show` notes of the source.
    fn notes(&self) -> String {
        self.json(&["show", "blog"])["sources"]["db"]["notes"].to_string()
    }

    /// A clone at now, looked at and removed.
    fn looked(&self, look: impl FnOnce(&str)) {
        look(&self.copy("blog@now", "looked", &[]));
        self.json(&["rm", "looked"]);
    }

    fn as_lesser(&self) -> String {
        self.source().replace("rep:prod-secret", "lesser:lesser-secret")
    }
}

#[test]
fn m03_m06_by_the_clone_plugin_under_load_any_moment_after_it_is_exact() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql(&format!(
        "{INSTALL}; CREATE TABLE mark (n BIGINT PRIMARY KEY, text VARCHAR(200)); CREATE TABLE counter (n INT); \
         INSERT INTO counter VALUES (0); CREATE TABLE plain (n INT) ENGINE=MyISAM; \
         CREATE TABLESPACE own ADD DATAFILE 'own.ibd'; CREATE TABLE placed (n INT) TABLESPACE own; INSERT INTO placed VALUES (7); \
         CREATE TABLE parts (n INT) PARTITION BY HASH (n) PARTITIONS 3; INSERT INTO parts VALUES (1), (2), (3); \
         CREATE TABLE words (id INT PRIMARY KEY, text TEXT, FULLTEXT (text)); INSERT INTO words VALUES (1, 'a spruce'); \
         CREATE VIEW seen AS SELECT n FROM placed; CREATE PROCEDURE add_one() INSERT INTO placed VALUES (1); \
         CREATE TRIGGER twice BEFORE INSERT ON parts FOR EACH ROW SET NEW.n = 2 * NEW.n; \
         SET SESSION cte_max_recursion_depth = 200000; CREATE TABLE large (n INT PRIMARY KEY, text CHAR(200)); \
         INSERT INTO large WITH RECURSIVE all_n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM all_n WHERE n < 100000) \
         SELECT n, REPEAT('x', 200) FROM all_n"
    ));
    let mut oracle = Oracle::default();
    let stop = AtomicBool::new(false);
    let mut linked = Timestamp::now();
    std::thread::scope(|scope| {
        let _raised = Raised(&stop);
        scope.spawn(|| write(&stand, &mut oracle, &stop));
        sleep(Duration::from_millis(500));
        stand.link(&["--snapshot-every", "2s"]);
        linked = Timestamp::now();
        sleep(Duration::from_secs(4));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(stand.notes().contains("made by production's clone plugin"), "{}", stand.notes());
    let (_, to) = oracle.span();
    for place in 1..=3 {
        let moment = linked + to.duration_since(linked) / 3 * place;
        let name = format!("c{place}");
        oracle.check(moment, &at(&stand.copy(&format!("blog@{moment}"), &name, &[]), ROWS));
        stand.json(&["rm", &name]);
    }
    stand.looked(|url| {
        assert_eq!(at(url, ROWS), stand.production.sql(ROWS));
        assert_eq!(at(url, MADE), stand.production.sql(MADE), "it was a dump");
        let all = "CHECKSUM TABLE counter, placed, parts, words, large, plain";
        assert_eq!(at(url, all), stand.production.sql(all));
        assert_eq!(at(url, "CHECK TABLE mark, large, plain, placed, parts, words").matches("OK").count(), 6);
        assert_eq!(at(url, "XA RECOVER"), "", "M-5: nothing is left half committed");
        at(url, "CALL add_one(); INSERT INTO parts VALUES (5)");
        assert_eq!(at(url, "SELECT COUNT(*), (SELECT MAX(n) FROM parts) FROM seen"), "2\t10");
        assert_eq!(at(url, "SELECT id FROM words WHERE MATCH (text) AGAINST ('spruce')"), "1");
    });
    // What it was copied by is left nowhere, production's password neither.
    let home = stand.daemon.home();
    for name in ["pando.copy", "#clone", "clone.sql", "recipient"] {
        assert!(!find(&home.join("pool/volumes"), name) && !find(&home.join("log"), name), "{name}");
    }
    for dir in ["pool/volumes", "log"] {
        let found =
            tools::output(Path::new("/usr/bin/grep"), &["-rl", "prod-secret", home.join(dir).to_str().unwrap()]);
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{dir}");
    }
    stand.end(&[]);
}

/// Commits a row after the other in InnoDB's tables, with DDL between them.
fn write(stand: &Stand, oracle: &mut Oracle, stop: &AtomicBool) {
    for round in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        oracle.commit_by(|n| {
            let row = format!("INSERT INTO mark VALUES ({n}, REPEAT('x', 100))");
            stand.production.sql(&Mysql::own_way(round % 14, &row).unwrap_or_else(|| match round % 14 {
                3 => format!("CREATE TABLE t{n} (n INT); {row}; ALTER TABLE counter ADD c{n} INT"),
                _ => format!("BEGIN; {row}; UPDATE counter SET n = n + 1; COMMIT"),
            }));
        });
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn m01_m02_m08_m11_m16_nor_does_a_clone_of_a_copy_by_the_plugin() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql(INSTALL);
    mysql_family::nothing_of_production(stand);
}

/// What a dump was: its tables were made later than production's.
fn is_dump(stand: &Stand, url: &str) {
    assert_eq!(at(url, "SELECT n FROM note"), "1");
    assert_ne!(at(url, MADE), stand.production.sql(MADE));
}

#[test]
fn without_the_plugin_or_the_right_a_dump_and_with_what_is_said_the_plugin() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql(&format!("{USUAL}; CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)"));
    sleep(Duration::from_millis(1100));
    stand.json(&["link", "blog", &stand.as_lesser()]);
    let statements = "INSTALL PLUGIN clone SONAME 'mysql_clone.so'; GRANT BACKUP_ADMIN ON *.* TO `lesser`@`%`;";
    let why = "it would be faster, but its plugin is not active, the account lesser@% lacks BACKUP_ADMIN";
    assert!(stand.notes().contains(&format!("{why} ({statements})")), "{}", stand.notes());
    stand.looked(|url| is_dump(&stand, url));
    // A mirror that is made anew is made by what there is then.
    stand.production.sql(&format!("{statements} {}; INSERT INTO note VALUES (2)", Mysql::RESET));
    let anew = || stand.json(&["timeline", "blog"])["ranges"].as_array().is_some_and(|ranges| ranges.len() == 2);
    assert!(wait_until(Duration::from_secs(90), anew), "{}", stand.daemon.log());
    stand.state("following", 30);
    assert!(stand.notes().contains("made by production's clone plugin"), "{}", stand.notes());
    stand.looked(|url| {
        assert_eq!(at(url, "SELECT SUM(n) FROM note"), "3");
        assert_eq!(at(url, MADE), stand.production.sql(MADE));
    });
    stand.end(&["the heartbeat of an app"]);
}

#[test]
fn m04_rows_that_the_plugin_would_leave_out_are_dumped_and_so_is_what_is_asked_for() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql(&format!(
        "{INSTALL}; CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1); \
         CREATE TABLE plain (n INT) ENGINE=MyISAM; INSERT INTO plain VALUES (8)"
    ));
    sleep(Duration::from_millis(1100));
    stand.link(&[]);
    assert!(
        stand.notes().contains("the first copy is a dump: 1 tables with rows are not InnoDB's"),
        "{}",
        stand.notes()
    );
    stand.looked(|url| {
        is_dump(&stand, url);
        assert_eq!(at(url, "SELECT n FROM plain"), "8");
    });
    stand.json(&["unlink", "blog"]);
    stand.production.sql("DROP TABLE plain");
    stand.json(&["link", "blog", &format!("{}?clone-plugin=none", stand.source())]);
    assert!(!stand.notes().contains("plugin"), "{}", stand.notes());
    stand.looked(|url| is_dump(&stand, url));
    stand.end(&[]);
}

/// A production with rows enough that a copy of it takes a while.
fn with_rows() -> Option<Stand> {
    let stand = Stand::new()?;
    stand.production.sql(&format!(
        "{INSTALL}; CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1); SET SESSION \
         cte_max_recursion_depth = 1000000; CREATE TABLE large (n INT PRIMARY KEY, text CHAR(200)); INSERT INTO large \
         WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 300000) SELECT n, SHA2(n, 512) FROM s"
    ));
    sleep(Duration::from_millis(1100));
    Some(stand)
}

/// The mirror is there, by a dump, and `why` is noted.
fn dumped_after_all(stand: &Stand, why: &str) {
    let notes = stand.notes();
    assert!(notes.contains("the first copy is a dump: ") && notes.contains(why), "{notes}");
    assert!(!notes.contains("by production's clone plugin"), "{notes}");
    stand.looked(|url| {
        is_dump(stand, url);
        let all = "CHECKSUM TABLE large";
        assert_eq!(at(url, all), stand.production.sql(all));
    });
    for name in ["pando.copy", "#clone", "clone.sql", "recipient"] {
        assert!(!find(&stand.daemon.home().join("pool/volumes"), name), "{name}");
        assert!(!find(&stand.daemon.home().join("log"), name), "{name}");
    }
}

#[test]
fn where_another_clone_of_production_is_under_way_a_dump_is_made() {
    let Some(stand) = with_rows() else { return };
    let other = MysqlProduction::start(&[]);
    // It waits for nobody who went away, and long for one who takes nothing.
    stand.production.sql(
        "SET GLOBAL clone_donor_timeout_after_network_failure = 0, GLOBAL net_write_timeout = 600, GLOBAL \
         net_read_timeout = 600",
    );
    let line = Proxy::new(stand.production.port());
    line.stall_after(4 << 20);
    other.sql(&format!("{INSTALL}; SET GLOBAL clone_valid_donor_list = '{}'", line.place()));
    std::thread::scope(|scope| {
        let (socket, into) = (other.socket(), other.data().with_file_name("copy"));
        let statement = format!(
            "CLONE INSTANCE FROM rep@'127.0.0.1':{} IDENTIFIED BY 'prod-secret' DATA DIRECTORY = '{}'",
            line.port(),
            into.display()
        );
        scope.spawn(move || sql_through::<Mysql>(&socket, "root", &statement));
        assert!(wait_until(Duration::from_secs(20), || line.has_stalled()), "{}", other.log());
        stand.link(&[]);
        assert!(is_cloned(&stand), "the other clone was over before");
        drop(other);
        line.cut();
    });
    dumped_after_all(&stand, "Too many concurrent clone operations");
    // The next copy may be the plugin's again.
    assert!(wait_until(Duration::from_secs(60), || !is_cloned(&stand)), "{}", stand.production.log());
    stand.json(&["unlink", "blog"]);
    stand.link(&[]);
    assert!(stand.notes().contains("made by production's clone plugin"), "{}", stand.notes());
    stand.end(&[]);
}

/// Whether production is being cloned.
fn is_cloned(stand: &Stand) -> bool {
    !stand.production.sql("SELECT id FROM information_schema.processlist WHERE command = 'Clone'").is_empty()
}

#[test]
fn where_productions_side_of_a_clone_is_killed_a_dump_is_made() {
    let Some(stand) = with_rows() else { return };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _raised = Raised(&stop);
        scope.spawn(|| {
            let theirs = "SELECT CONCAT('KILL ', id) FROM information_schema.processlist WHERE command = 'Clone'";
            while !stop.load(Ordering::Relaxed) {
                for kill in stand.production.sql(theirs).lines() {
                    // It may be over.
                    let _ = sql_through::<Mysql>(&stand.production.socket(), "root", kill);
                }
            }
        });
        stand.link(&[]);
    });
    dumped_after_all(&stand, "the clone plugin gave up, ");
    stand.end(&[]);
}

#[test]
fn rows_that_the_plugin_leaves_out_and_that_came_meanwhile_are_dumped() {
    let Some(stand) = with_rows() else { return };
    stand.production.sql("CREATE TABLE plain (n INT) ENGINE=MyISAM");
    let (source, log) = (stand.source(), stand.daemon.home().join("log"));
    std::thread::scope(|scope| {
        let linking = scope.spawn(|| stand.json(&["link", "blog", &source]));
        assert!(wait_until(Duration::from_secs(60), || find(&log, "clone.sql")), "{}", stand.daemon.log());
        stand.production.sql("INSERT INTO plain VALUES (8)");
        linking.join().unwrap();
    });
    dumped_after_all(&stand, "1 tables with rows are not InnoDB's");
    stand.looked(|url| assert_eq!(at(url, "SELECT n FROM plain"), "8"));
    stand.end(&[]);
}

#[test]
fn what_is_no_condition_of_the_plugins_fails_with_the_word_that_asks_for_a_dump() {
    let Some(stand) = with_rows() else { return };
    let (source, log) = (stand.source(), stand.daemon.home().join("log"));
    let said = std::thread::scope(|scope| {
        let linking = scope.spawn(|| stand.fails(1, &["link", "blog", &source]));
        assert!(wait_until(Duration::from_secs(60), || find(&log, "clone.sql")), "{}", stand.daemon.log());
        // The server of ours that takes the copy.
        let ours = || taker(&stand).map(|pid| kill_process(pid, Signal::KILL));
        assert!(wait_until(Duration::from_secs(20), || ours().is_some()), "{:?}", stand.daemon.command_lines());
        linking.join().unwrap()
    });
    assert!(said.contains("?clone-plugin=none"), "{said}");
    stand.fails(3, &["show", "blog"]);
    stand.json(&["link", "blog", &format!("{source}?clone-plugin=none")]);
    stand.end(&[]);
}

/// The server that takes a copy, by its option.
fn taker(stand: &Stand) -> Option<Pid> {
    let runs = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("--plugin-load-add=mysql_clone.so")
    };
    stand.daemon.processes().into_iter().find(runs).and_then(|pid| Pid::from_raw(pid.try_into().ok()?))
}

#[test]
fn by_the_clone_plugin_over_tls_production_is_known_by_its_authority() {
    let Some(stand) = with_rows() else { return };
    stand.production.sql("SET GLOBAL require_secure_transport = ON");
    let authority = |file: &Path| format!("{}?ssl-mode=VERIFY_CA&ssl-ca={}", stand.source(), file.display());
    // Readable for the servers' account.
    let place = tempfile::Builder::new().prefix("pando-ca-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [own, other] = ["own.pem", "other.pem"].map(|name| place.path().join(name));
    fs::copy(stand.production.data().join("ca.pem"), &own).unwrap();
    // A certificate that signed nothing of production's.
    fs::copy(stand.production.data().join("client-cert.pem"), &other).unwrap();
    for file in [&own, &other] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    stand.fails(1, &["link", "blog", &authority(&other)]);
    stand.json(&["link", "blog", &authority(&own)]);
    assert!(stand.notes().contains("made by production's clone plugin"), "{}", stand.notes());
    stand.looked(|url| {
        assert_eq!(at(url, "SELECT n FROM note"), "1");
        assert_eq!(at(url, MADE), stand.production.sql(MADE));
    });
    stand.end(&[]);
}

#[test]
fn a_copy_by_the_plugin_that_was_interrupted_is_cleared_and_made_anew() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.sql(&format!("{INSTALL}; CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)"));
    let (source, log) = (stand.source(), stand.daemon.home().join("log"));
    std::thread::scope(|scope| {
        let daemon = &stand.daemon;
        let running = scope.spawn(|| daemon.pando(&["link", "blog", &source]));
        assert!(wait_until(Duration::from_secs(60), || find(&log, "clone.sql")), "{}", daemon.log());
        daemon.strike();
        let _ = running.join();
    });
    stand.daemon.kill9();
    stand.daemon.resume();
    stand.fails(3, &["show", "blog"]);
    let alone = || stand.daemon.processes().len() <= 1;
    assert!(wait_until(Duration::from_secs(10), alone), "{:?}", stand.daemon.command_lines());
    stand.link(&[]);
    stand.looked(|url| {
        assert_eq!(at(url, "SELECT n FROM note"), "1");
        assert_eq!(at(url, MADE), stand.production.sql(MADE));
    });
    stand.end(&["was interrupted", "is undone"]);
}
