//! The main job on every series of MariaDB that is here: this machine's, and those that `scripts/matrix` brought,
//! named by PANDO_MARIADB. In CI at least two.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use pando_testkit::{Daemon, Mariadb, MariadbProduction, tools, wait_until};

use super::{ROWS, Stand, at, second};
use crate::any_second::Oracle;
use crate::mysql_family::{self, Side, travel};
use crate::stand::PANDO;

/// Some rows, and a whole second between two of them.
fn some(oracle: &mut Oracle, stand: &Stand) -> Timestamp {
    let row = |oracle: &mut Oracle| {
        oracle.commit_by(|n| drop(stand.production.sql(&format!("INSERT INTO mark VALUES ({n}, 'ä')"))));
    };
    row(oracle);
    let moment = (Timestamp::now() + Duration::from_millis(500)).round(Unit::Second).unwrap();
    sleep(Duration::from_millis(1100));
    row(oracle);
    moment
}

fn main_job(series: &str, prefix: &Path, all: &str) {
    let production =
        MariadbProduction::start_of(prefix, &["character_set_server=utf8mb4", "collation_server=utf8mb4_german2_ci"]);
    let daemon = Daemon::start_with(Path::new(PANDO), &[("PANDO_MARIADB", all)]);
    let stand = Stand::over(daemon, production);
    stand.production.sql("CREATE TABLE mark (n BIGINT PRIMARY KEY, text TEXT)");
    stand.link(&["--snapshot-every", "2s"]);
    let mut oracle = Oracle::default();
    let moments: Vec<Timestamp> = (0..3).map(|_| some(&mut oracle, &stand)).collect();
    let url = stand.copy(&format!("blog@{}", moments[0]), "copy", &["--record"]);
    let is = |sql: &str, expected: &str| assert_eq!(at(&url, sql), expected, "{series}: {sql}");
    // M-13: not the newest server that is here, but production's series.
    is("SELECT SUBSTRING_INDEX(VERSION(), '.', 2)", series);
    is("SELECT @@collation_server", "utf8mb4_german2_ci");
    oracle.check(moments[0], &at(&url, ROWS));
    for moment in &moments[1..] {
        stand.json(&["refresh", &format!("copy@{moment}")]);
        oracle.check(*moment, &at(&url, ROWS));
    }
    is("SELECT GROUP_CONCAT(DISTINCT text) FROM mark", "ä");
    // The clone's own log: what it wrote is there up to the second before the accident.
    at(&url, "CREATE TABLE own AS SELECT 42 AS n");
    sleep(Duration::from_millis(1600));
    let before = Timestamp::now().round(Unit::Second).unwrap();
    sleep(Duration::from_millis(1100));
    at(&url, "DROP TABLE own");
    stand.json(&["rewind", &format!("copy@{before}")]);
    is("SELECT n FROM own", "42");
    stand.json(&["undo", "copy"]);
    is("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'own'", "0");
    let latest = stand.copy("blog@now", "latest", &[]);
    assert_eq!(at(&latest, ROWS), stand.production.sql(ROWS));
    stand.json(&["rm", "latest", "copy"]);
    // What leaves of a masked one is loaded anew, by this series' programs.
    stand.production.sql("INSERT INTO mark VALUES (98, 'qanary')");
    travel::mask(&stand, "UPDATE mark SET text = 'm'");
    stand.copy("blog@now", "masked", &[]);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("masked.tar");
    travel::leaves_nothing(&stand, "masked", "qanary", &archive);
    let back = stand.json(&["import", archive.to_str().unwrap(), "back"]);
    let rows = at(&mysql_family::url(&back), "SELECT COUNT(*), GROUP_CONCAT(DISTINCT text) FROM mark");
    assert_eq!(rows, stand.production.sql("SELECT COUNT(*), 'm' FROM mark"), "{series}");
    stand.json(&["rm", "back", "masked"]);
    stand.json(&["unlink", "blog"]);
    // The same series' mariadb-backup makes a first copy of its files.
    stand.link_here("", &[]);
    assert!(stand.notes().contains("one of production's files"), "{series}: {}", stand.notes());
    stand.production.sql("INSERT INTO mark VALUES (99, 'behind the copy')");
    let files = stand.copy("blog@now", "files", &[]);
    assert_eq!(at(&files, ROWS), stand.production.sql(ROWS));
    stand.json(&["rm", "files"]);
    stand.end(&[]);
}

#[test]
fn m13_the_main_job_on_every_series_that_is_here() {
    if Mariadb::daemon().is_none() {
        return;
    }
    let series = tools::all_mariadb();
    if series.len() < 2 && !tools::skip("two series of MariaDB (scripts/matrix install mariadb-11.8)") {
        return;
    }
    let all: Vec<String> = series.values().map(|prefix| prefix.display().to_string()).collect();
    for (series, prefix) in &series {
        eprintln!("MariaDB {series}, of {}", prefix.display());
        main_job(series, prefix, &all.join(":"));
    }
}

#[test]
fn m13_a_production_that_moved_to_another_series_is_told_and_what_was_before_stays() {
    if Mariadb::daemon().is_none() {
        return;
    }
    let series = tools::all_mariadb();
    let own = series.iter().find(|(_, prefix)| prefix.as_path() == Path::new("/usr")).map(|(series, _)| series.clone());
    let newer = series.iter().find(|(_, prefix)| prefix.ends_with("mariadb-11.8/usr"));
    let (Some(own), Some((moved, prefix))) = (own, newer) else {
        let _ = tools::skip("two series of MariaDB (scripts/matrix install mariadb-11.8)");
        return;
    };
    let daemon = Daemon::start_with(Path::new(PANDO), &[("PANDO_MARIADB", "/usr")]);
    let mut stand = Stand::over(daemon, MariadbProduction::start(&[]));
    stand.production.sql("CREATE TABLE note (n INT PRIMARY KEY); INSERT INTO note VALUES (1)");
    stand.link(&["--snapshot-every", "2s"]);
    let before = second();
    stand.production.move_to(prefix);
    let socket = format!("--socket={}", stand.production.socket().display());
    tools::run(prefix.join("bin/mariadb-upgrade"), &["--no-defaults", &socket, "--user=root"]);
    // There is no such server here: what is missing is said, and what was before is still served.
    let told = || stand.json(&["show", "blog"])["problem"].as_str().unwrap_or_default().to_owned();
    let said = || told().contains(&format!("production is MariaDB {moved}")) && told().contains("apt-get install");
    assert!(wait_until(Duration::from_secs(60), said), "{}\n{}", told(), stand.daemon.log());
    assert_eq!(stand.json(&["show", "blog"])["state"], "disconnected");
    stand.production.sql("INSERT INTO note VALUES (2)");
    let notes = |url: &str| at(url, "SELECT GROUP_CONCAT(n ORDER BY n) FROM note");
    assert_eq!(notes(&stand.copy(&format!("blog@{before}"), "old", &[])), "1");
    // Now there is one: the mirror is made anew, and each moment is served by the series that it was of.
    stand.daemon.stop();
    stand.daemon.set_env(&[("PANDO_MARIADB", &prefix.display().to_string())]);
    stand.daemon.resume();
    let rebased = || stand.json(&["timeline", "blog"])["ranges"].as_array().unwrap().len() == 2;
    assert!(wait_until(Duration::from_secs(120), rebased), "{}", stand.daemon.log());
    stand.state("following", 30);
    let version = |url: &str| at(url, "SELECT SUBSTRING_INDEX(VERSION(), '.', 2)");
    let now = stand.copy("blog@now", "now", &[]);
    assert_eq!((notes(&now), version(&now)), ("1,2".to_owned(), moved.clone()));
    let older = stand.copy(&format!("blog@{before}"), "older", &[]);
    assert_eq!((notes(&older), version(&older)), ("1".to_owned(), own));
    stand.json(&["rm", "now", "old", "older"]);
    stand.end(&["the heartbeat of an app"]);
}
