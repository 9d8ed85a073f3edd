//! The main job on every major version that is here: this machine's, and those that `scripts/matrix` brought,
//! named by PANDO_POSTGRES. In CI at least two.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use pando_testkit::{Daemon, Production, tools};

use crate::any_second::{Oracle, ROWS, row, table};
use crate::stand::{PANDO, Stand, bounded};

/// The program directories, by major version.
fn versions() -> BTreeMap<u32, PathBuf> {
    let more = std::env::var("PANDO_POSTGRES").unwrap_or_default();
    let more = more.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from);
    tools::all_postgres()
        .into_iter()
        .chain(more)
        .map(|bin| {
            let text = tools::run(bin.join("postgres"), &["--version"]);
            let word = text.split_whitespace().nth(2).unwrap();
            (word.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap(), bin)
        })
        .collect()
}

/// A few rows, and a moment among them.
fn some(oracle: &mut Oracle, production: &Production) -> Timestamp {
    let mut client = production.client("postgres");
    let mut middle = Timestamp::now();
    for number in 0..6 {
        oracle.commit(&mut client, row);
        sleep(Duration::from_millis(40));
        if number == 3 {
            middle = Timestamp::now();
            sleep(Duration::from_millis(40));
        }
    }
    middle
}

fn main_job(bin: &Path, variable: &str) {
    let production = Production::start(bin, bounded());
    table(&production);
    let daemon = Daemon::start_with(Path::new(PANDO), &[("PANDO_POSTGRES", variable)]);
    let stand = Stand::over(daemon, production);
    stand.link(&["--snapshot-every", "2s"]);
    let mut oracle = Oracle::default();
    let mut moments = Vec::new();
    for _ in 0..4 {
        moments.push(some(&mut oracle, &stand.production));
        sleep(Duration::from_millis(400));
    }
    let copy = stand.copy_with(&format!("shop@{}", moments[0]), "copy", &["--record"]);
    oracle.check(moments[0], &copy.sql(ROWS));
    for moment in &moments[1..] {
        stand.json(&["refresh", &format!("copy@{moment}")]);
        oracle.check(*moment, &copy.sql(ROWS));
    }
    // The clone's own log: what it wrote is there up to the second before the accident.
    copy.sql("CREATE TABLE own AS SELECT 42 AS n");
    sleep(Duration::from_millis(300));
    let before = Timestamp::now();
    sleep(Duration::from_millis(300));
    copy.sql("DROP TABLE own");
    stand.json(&["rewind", &format!("copy@{before}")]);
    assert_eq!(copy.sql("SELECT n FROM own"), "42");
    stand.json(&["undo", "copy"]);
    assert_eq!(copy.sql("SELECT to_regclass('own') IS NULL"), "t");
    stand.copy("shop", "latest");
    for name in ["latest", "copy"] {
        stand.json(&["rm", name]);
    }
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn t24_the_main_job_on_every_major_version_that_is_here() {
    if !(tools::require_root() && tools::require("initdb") && tools::require("mkfs.btrfs")) {
        return;
    }
    let versions = versions();
    if versions.len() < 2 && !tools::skip("two major versions of PostgreSQL (scripts/matrix install 17)") {
        return;
    }
    let variable: Vec<String> = versions.values().map(|bin| bin.display().to_string()).collect();
    for (major, bin) in &versions {
        eprintln!("PostgreSQL {major}, of {}", bin.display());
        main_job(bin, &variable.join(":"));
    }
}
