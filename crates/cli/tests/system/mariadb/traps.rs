//! What a copy of a MariaDB server's files, or a replay of its log, gets wrong when nobody looks.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use pando_testkit::{Mariadb, mariadb_at, sql_through, wait_until};

use super::{ROWS, Stand, at, second};
use crate::any_second::Oracle;
use crate::stand::{Raised, entries};

const TABLES: [(&str, &str); 5] =
    [("mark", "InnoDB"), ("plain", "MyISAM"), ("aria", "Aria"), ("loose", "Aria TRANSACTIONAL=0"), ("list", "CSV")];

fn everywhere(n: i64) -> String {
    TABLES.iter().map(|(table, _)| format!("INSERT INTO {table} VALUES ({n});")).collect()
}

fn make_tables(stand: &Stand) {
    for (table, engine) in TABLES {
        let key = if engine == "CSV" { "" } else { ", PRIMARY KEY (n)" };
        stand.production.sql(&format!("CREATE TABLE {table} (n BIGINT NOT NULL{key}) ENGINE={engine}"));
    }
}

/// Every engine's table shows what was written by a moment, as one row follows the other through all of them.
fn check_all(oracle: &Oracle, moment: Timestamp, url: &str) {
    oracle.check(moment, &at(url, ROWS));
    let counts: Vec<i64> =
        TABLES.iter().map(|(table, _)| at(url, &format!("SELECT COUNT(*) FROM {table}")).parse().unwrap()).collect();
    assert!(counts.windows(2).all(|two| two[0] >= two[1]) && counts[0] - counts[4] <= 1, "{counts:?} at {moment}");
    let check = format!("CHECK TABLE {}", TABLES.map(|(table, _)| table).join(", "));
    assert_eq!(at(url, &check).matches("OK").count(), TABLES.len(), "{}", at(url, &check));
}

#[test]
fn m04_tables_of_every_engine_show_the_second_and_nothing_half_made_is_left() {
    let Some(stand) = Stand::new() else { return };
    make_tables(&stand);
    stand.link(&["--snapshot-every", "2s"]);
    let mut oracle = Oracle::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _raised = Raised(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                oracle.commit_by(|n| drop(stand.production.sql(&everywhere(n))));
                sleep(Duration::from_millis(30));
            }
        });
        sleep(Duration::from_secs(7));
        stop.store(true, Ordering::Relaxed);
    });
    let (from, to) = oracle.span();
    for part in 1..=3 {
        let moment = (from + to.duration_since(from) * part / 4).round(Unit::Second).unwrap();
        match part {
            1 => drop(stand.copy(&format!("blog@{moment}"), "copy", &["--record"])),
            _ => drop(stand.json(&["refresh", &format!("copy@{moment}")])),
        }
        check_all(&oracle, moment, &super::url(&stand.json(&["show", "copy"])));
    }
    // A copy of a clone whose server is at work: rows go into all tables, and tables are made anew beside them.
    let url = super::url(&stand.json(&["show", "copy"]));
    at(&url, "CREATE TABLE wide AS SELECT a.seq AS n, REPEAT('x', 200) AS text FROM seq_1_to_200000 a");
    at(&url, "CREATE TABLE slow ENGINE=MyISAM AS SELECT * FROM wide");
    let stop = AtomicBool::new(false);
    let child = std::thread::scope(|scope| {
        let _raised = Raised(&stop);
        for table in ["wide", "slow"] {
            let (url, stop) = (&url, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    at(url, &format!("ALTER TABLE {table} FORCE, ALGORITHM=COPY"));
                }
            });
        }
        scope.spawn(|| {
            for n in 10_000.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                at(&url, &everywhere(n));
            }
        });
        sleep(Duration::from_millis(700));
        let child = stand.copy("copy@now", "child", &[]);
        stop.store(true, Ordering::Relaxed);
        child
    });
    let counts: Vec<i64> = TABLES
        .iter()
        .map(|(table, _)| at(&child, &format!("SELECT COUNT(*) FROM {table} WHERE n >= 10000")).parse().unwrap())
        .collect();
    assert!(counts[0] > 0 && counts[0] - counts[4] <= 1, "{counts:?}");
    assert_eq!(at(&child, "CHECK TABLE mark, plain, aria, loose, list, wide, slow").matches("OK").count(), 7);
    assert_eq!(at(&child, "SELECT (SELECT COUNT(*) FROM wide) + (SELECT COUNT(*) FROM slow)"), "400000");
    let left = "SELECT COUNT(*) FROM information_schema.tables WHERE table_name LIKE '#sql%'";
    assert_eq!(at(&child, left), "0");
    let tree = stand.json(&["show", "child"])["sources"]["db"]["path"].as_str().unwrap().to_owned();
    let found = entries(&Path::new(&tree).join("blog"));
    assert!(!found.iter().any(|name| name.starts_with("#sql")), "{found:?}");
    stand.json(&["rm", "child"]);
    stand.json(&["rm", "copy"]);
    stand.end(&[]);
}

#[test]
fn m05_a_transaction_that_is_prepared_is_prepared_in_the_clone_of_its_second() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY)");
    stand.link(&["--snapshot-every", "2s"]);
    stand.production.sql("XA START 'one'; INSERT INTO note VALUES (1); XA END 'one'; XA PREPARE 'one'");
    let prepared = second();
    // Snapshots are taken while it is prepared.
    sleep(Duration::from_secs(3));
    let later = second();
    stand.production.sql("XA COMMIT 'one'");
    let committed = second();
    for (name, moment, rows, open) in
        [("early", prepared, "0", "one"), ("late", later, "0", "one"), ("done", committed, "1", "")]
    {
        let url = stand.copy(&format!("blog@{moment}"), name, &[]);
        assert_eq!(at(&url, "SELECT COUNT(*) FROM note"), rows, "{name}");
        let found = at(&url, "XA RECOVER");
        assert_eq!(found.split('\t').nth(3).unwrap_or_default(), open, "{name}: {found}");
        match name {
            "early" => assert_eq!(at(&url, "XA COMMIT 'one'; SELECT COUNT(*) FROM note"), "1"),
            "late" => assert_eq!(at(&url, "XA ROLLBACK 'one'; SELECT COUNT(*) FROM note"), "0"),
            _ => {}
        }
    }
    stand.json(&["rm", "early", "late", "done"]);
    stand.end(&[]);
}

#[test]
fn m07_m10_m15_statements_and_their_temporary_tables_are_replayed_from_before_the_table() {
    let Some(stand) = Stand::with(&["binlog_format=STATEMENT"]) else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
    stand.link(&["--snapshot-every", "2s"]);
    let notes = stand.json(&["show", "blog"])["sources"]["db"]["notes"].to_string();
    assert!(notes.contains("binlog_format is STATEMENT"), "M-10: {notes}");
    // One session keeps a table of its own through several snapshots, longer than one waits for it.
    let between = std::thread::scope(|scope| {
        let session = scope.spawn(|| {
            stand.production.sql(
                "CREATE TEMPORARY TABLE own (n INT); INSERT INTO own VALUES (2); INSERT INTO note SELECT * FROM own; \
                 DO SLEEP(11); UPDATE own SET n = 3; INSERT INTO note SELECT * FROM own; DO SLEEP(3); \
                 DROP TEMPORARY TABLE own",
            )
        });
        sleep(Duration::from_secs(5));
        let between = second();
        session.join().unwrap();
        between
    });
    let after = second();
    let notes = |url: &str| at(url, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note");
    assert_eq!(notes(&stand.copy(&format!("blog@{between}"), "between", &[])), "1,2");
    assert_eq!(notes(&stand.copy(&format!("blog@{after}"), "after", &[])), "1,2,3");
    assert_eq!(notes(&stand.copy("blog@now", "now", &[])), "1,2,3");
    stand.json(&["rm", "between", "after", "now"]);
    stand.end(&["keeps temporary tables open"]);
}

#[test]
fn m12_m14_m16_one_server_a_tree_its_page_size_and_case_and_what_locked_accounts_define() {
    let Some(mut stand) = Stand::with(&["innodb_page_size=8k", "lower_case_table_names=1"]) else { return };
    stand.production.sql(
        "CREATE TABLE Note (n INT PRIMARY KEY); INSERT INTO NOTE VALUES (1); \
         CREATE USER app@'%' IDENTIFIED BY 'app-secret'; GRANT ALL ON blog.* TO app@'%'; \
         CREATE DEFINER=app@'%' SQL SECURITY DEFINER VIEW seen AS SELECT n FROM note; \
         CREATE DEFINER=app@'%' PROCEDURE add_one() INSERT INTO note SELECT MAX(n) + 1 FROM note",
    );
    stand.link(&["--snapshot-every", "2s"]);
    let url = stand.copy("blog@now", "copy", &[]);
    assert_eq!(at(&url, "SELECT @@innodb_page_size, @@lower_case_table_names"), "8192\t1");
    assert_eq!(at(&url, "CALL add_one(); SELECT SUM(n) FROM SEEN"), "3");
    let place = url.rsplit_once('@').unwrap().1;
    assert!(mariadb_at(&format!("mariadb://app:app-secret@{place}"), "SELECT 1").is_err());
    // A second server on a clone's tree, as a race between two starts would make it.
    let tree = stand.json(&["show", "copy"])["sources"]["db"]["path"].as_str().unwrap().to_owned();
    let own = tempfile::Builder::new().prefix("pando-two-").tempdir_in("/tmp").unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=pando", "--regid=pando", "--clear-groups", "/usr/sbin/mariadbd"])
        .arg(format!("--defaults-file={tree}/pando.cnf"))
        .args(["--skip-networking", "--innodb-fast-shutdown=0"])
        .arg(format!("--socket={}", own.path().join("s").display()))
        .arg(format!("--pid-file={}", own.path().join("pid").display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("Unable to lock ./ibdata1"), "{said}");
    assert_eq!(at(&url, "SELECT SUM(n) FROM note; CHECK TABLE note").matches("OK").count(), 1);
    // A daemon that comes back finds its servers and starts no second ones.
    let servers = |stand: &Stand| {
        let mut pids = stand.daemon.processes();
        pids.sort_unstable();
        pids
    };
    stand.daemon.kill9();
    let before = servers(&stand);
    stand.daemon.resume();
    stand.state("following", 30);
    assert!(before.iter().all(|pid| servers(&stand).contains(pid)), "{before:?} {:?}", servers(&stand));
    assert_eq!(at(&url, "SELECT SUM(n) FROM note"), "3");
    stand.production.sql("INSERT INTO note VALUES (7)");
    let now = stand.copy("blog@now", "now", &[]);
    assert_eq!(at(&now, "SELECT MAX(n) FROM note"), "7");
    stand.json(&["rm", "copy", "now"]);
    stand.end(&[]);
}

#[test]
fn a_recording_clone_is_rewound_to_any_second_and_takes_settings_and_a_client() {
    let Some(stand) = Stand::new() else { return };
    stand.production.sql("CREATE TABLE mark (n BIGINT PRIMARY KEY); CREATE TABLE plain (n BIGINT) ENGINE=MyISAM");
    stand.link(&["--set", "max_connections=33"]);
    let url = stand.copy("blog@now", "dev", &["--record", "--set", "innodb_lock_wait_timeout=7"]);
    assert_eq!(at(&url, "SELECT @@max_connections, @@innodb_lock_wait_timeout"), "33\t7");
    let refused = stand.fails(4, &["clone", "blog", "bad", "--set", "event_scheduler=ON"]);
    assert!(refused.contains("event_scheduler"), "{refused}");
    let mut oracle = Oracle::default();
    let begun = Timestamp::now();
    while Timestamp::now().duration_since(begun) < SignedDuration::from_secs(6) {
        oracle.commit_by(|n| drop(at(&url, &format!("INSERT INTO mark VALUES ({n}); INSERT INTO plain VALUES ({n})"))));
        sleep(Duration::from_millis(60));
    }
    let (from, to) = oracle.span();
    // Backwards, so that each rewind leaves behind what the next one needs.
    for part in [3, 1, 2] {
        let moment = (from + to.duration_since(from) * part / 4).round(Unit::Second).unwrap();
        let child = stand.copy(&format!("dev@{moment}"), &format!("child{part}"), &[]);
        oracle.check(moment, &at(&child, ROWS));
        stand.json(&["rewind", &format!("dev@{moment}")]);
        oracle.check(moment, &at(&url, ROWS));
        stand.json(&["undo", "dev"]);
        oracle.check(to, &at(&url, ROWS));
    }
    assert_eq!(at(&url, "SELECT @@max_connections, @@innodb_lock_wait_timeout"), "33\t7");
    let output =
        stand.daemon.pando(&["connect", "dev", "--", "--skip-column-names", "--execute=SELECT COUNT(*) FROM mark"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), at(&url, "SELECT COUNT(*) FROM mark"));
    stand.json(&["rm", "child1", "child2", "child3"]);
    stand.json(&["rm", "dev"]);
    stand.end(&[]);
}

#[test]
fn m09_numbers_of_several_servers_that_do_not_ascend_are_all_there_and_one_set_back_is_told() {
    let Some(mut stand) = Stand::new() else { return };
    // As a replica that was written to: the numbers of its master go on below its own.
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY)");
    stand.link(&["--snapshot-every", "1h"]);
    let from = |server: u32, number: u64, n: u32| {
        let set = format!("SET SESSION server_id = {server}, gtid_seq_no = {number}");
        stand.production.sql(&format!("{set}; INSERT INTO note VALUES ({n})"));
    };
    for (server, number, n) in [(1, 1017, 1), (5, 1018, 100), (1, 1018, 2), (1, 1019, 3)] {
        from(server, number, n);
    }
    let early = second();
    // Much that is local, then what comes from the master again; the mirror is begun anew in between.
    (0..30).for_each(|n| from(5, 2000 + u64::from(n), 200 + n));
    stand.daemon.kill9();
    for pid in stand.daemon.processes() {
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    }
    stand.production.sql("INSERT INTO note VALUES (299)");
    from(1, 1020, 4);
    stand.daemon.resume();
    from(1, 1021, 5);
    stand.state("following", 30);
    let late = second();
    let rows = |url: &str| at(url, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note WHERE n < 200");
    assert_eq!(rows(&stand.copy(&format!("blog@{early}"), "early", &[])), "1,2,3,100");
    let url = stand.copy(&format!("blog@{late}"), "late", &[]);
    assert_eq!((rows(&url), at(&url, "SELECT COUNT(*) FROM note")), ("1,2,3,4,5,100".to_owned(), "37".to_owned()));
    assert_eq!(at(&stand.copy("blog@now", "now", &[]), "SELECT COUNT(*) FROM note"), "37");
    let events = || stand.json(&["events"]).to_string();
    assert!(!events().contains("mirror-lost"), "{}", events());
    // A number that its server had passed: what a position means is not known any more, and the mirror is made anew.
    let back = "SET SESSION server_id = 1, gtid_seq_no = 900; INSERT INTO note VALUES (6); SET SESSION server_id = 7";
    stand.production.sql(&format!("{back}; INSERT INTO note VALUES (298)"));
    let lost = || events().contains("gtid_seq_no was set") || events().contains("has less than the mirror had");
    assert!(wait_until(Duration::from_secs(20), lost), "{}", events());
    let gap = || stand.json(&["timeline", "blog"])["ranges"].as_array().unwrap().len() == 2;
    assert!(wait_until(Duration::from_secs(90), gap), "{}", stand.daemon.log());
    stand.state("following", 30);
    assert_eq!(rows(&stand.copy("blog@now", "anew", &[])), "1,2,3,4,5,6,100");
    stand.json(&["rm", "early", "late", "now", "anew"]);
    stand.end(&["the heartbeat of an app"]);
}

/// The mirror's own server, as Pando comes into it.
fn in_mirror(stand: &Stand, sql: &str) -> String {
    let socket = stand.daemon.processes().into_iter().find_map(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let file = line.split('\0').find_map(|arg| arg.strip_prefix("--defaults-file="))?;
        let options = fs::read_to_string(file).ok()?;
        options.lines().find_map(|line| Some(line.strip_prefix("socket=")?.trim_matches('"').to_owned()))
    });
    sql_through::<Mariadb>(Path::new(&socket.unwrap()), "pando_keeper", sql).unwrap()
}

#[test]
fn m09_a_number_that_is_given_again_right_behind_a_new_file_is_no_hole() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
    stand.link(&["--snapshot-every", "1h"]);
    stand.production.sql("INSERT INTO note VALUES (2)");
    let second = stand.production.sql("SELECT @@gtid_binlog_pos");
    stand.production.sql("INSERT INTO note VALUES (3)");
    // What comes again after a restart of the mirror, in a new file, is what came before.
    stand.daemon.kill9();
    for pid in stand.daemon.processes() {
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    }
    stand.daemon.resume();
    stand.state("following", 30);
    let rows = |name: &str| at(&stand.copy("blog@now", name, &[]), "SELECT GROUP_CONCAT(n ORDER BY n) FROM note");
    assert_eq!(rows("before"), "1,2,3");
    let events = || stand.json(&["events"]).to_string();
    assert!(!events().contains("mirror-lost"), "{}", events());
    stand.json(&["rm", "before"]);
    in_mirror(&stand, "FLUSH RELAY LOGS");
    let number = second.rsplit('-').next().unwrap();
    stand
        .production
        .sql(&format!("SET gtid_seq_no = {number}; INSERT INTO note VALUES (4); INSERT INTO note VALUES (5)"));
    let lost = || events().contains("gtid_seq_no was set") || events().contains("has less than the mirror had");
    assert!(wait_until(Duration::from_secs(20), lost), "{}", events());
    let gap = || stand.json(&["timeline", "blog"])["ranges"].as_array().unwrap().len() == 2;
    assert!(wait_until(Duration::from_secs(90), gap), "{}", stand.daemon.log());
    stand.state("following", 30);
    assert_eq!(rows("anew"), "1,2,3,4,5");
    stand.json(&["rm", "anew"]);
    stand.end(&["the heartbeat of an app"]);
}

#[test]
fn a_daemon_that_is_killed_while_it_asks_production_leaves_no_password_behind() {
    let Some(mut stand) = Stand::new() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("db=mariadb://rep:never-kept-4711@{}/blog", silent.local_addr().unwrap());
    std::thread::scope(|scope| {
        let _link = scope.spawn(|| stand.daemon.pando(&["link", "silent", &source]));
        let _asked = silent.accept().unwrap();
        stand.daemon.strike();
    });
    stand.daemon.kill9();
    let left = |stand: &Stand| {
        let run = stand.daemon.home().join("run");
        for dir in [Path::new("/tmp"), Path::new("/dev/shm"), &run] {
            for file in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
                let holds = fs::read_to_string(&file).is_ok_and(|text| text.contains("never-kept-4711"));
                assert!(!holds, "{}", file.display());
            }
        }
    };
    left(&stand);
    stand.daemon.resume();
    left(&stand);
    stand.link(&[]);
    stand.end(&[]);
}
