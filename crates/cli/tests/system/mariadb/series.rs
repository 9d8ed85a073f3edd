//! The main job on every series of MariaDB that is here: this machine's, and those that `scripts/matrix` brought,
//! named by PANDO_MARIADB. In CI at least two.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use pando_testkit::{Daemon, MariadbProduction, tools};

use pando_testkit::Mariadb;

use super::{ROWS, Stand, at};
use crate::any_second::Oracle;
use crate::mysql_family::Side;
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
