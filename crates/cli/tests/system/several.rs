//! An app of several databases: every moment is one moment for all of them, however unequal they are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use postgres::{Client, NoTls};

use crate::any_second::{Oracle, row, table};
use crate::stand::{Raised, Stand, bounded, production, sql_at};

/// Rows of the busy database at a clone.
fn rows(view: &serde_json::Value, source: &str) -> String {
    let url = view["sources"][source]["url"].as_str().unwrap();
    sql_at(url, crate::any_second::ROWS).unwrap()
}

#[test]
fn two_databases_one_busy_one_idle_show_one_moment() {
    let Some(stand) = Stand::new() else { return };
    let Some(idle) = production(bounded()) else { return };
    table(&stand.production);
    table(&idle);
    idle.psql("INSERT INTO mark VALUES (-1)");
    let other = format!("idle={}", idle.url("postgres"));
    stand.link(&[&other, "--snapshot-every", "2s"]);
    let over = AtomicBool::new(false);
    let mut oracle = Oracle::default();
    let mut made = Vec::new();
    std::thread::scope(|scope| {
        let ends = Raised(&over);
        let writer = scope.spawn(|| {
            let mut oracle = Oracle::default();
            let mut client = Client::connect(&stand.production.url("postgres"), NoTls).unwrap();
            while !over.load(Ordering::Relaxed) {
                oracle.commit(&mut client, row);
                sleep(Duration::from_millis(20));
            }
            oracle
        });
        for turn in 0..4 {
            sleep(Duration::from_millis(700));
            let name = format!("c{turn}");
            idle.psql(&format!("INSERT INTO mark VALUES ({turn})"));
            // Acknowledged by both before the request: both must be in it.
            let before = stand.production.psql("SELECT count(*) FROM mark");
            let asked = Timestamp::now();
            let now = stand.json(&["clone", "shop@now", &name]);
            let moment: Timestamp = now["moment"].as_str().unwrap().parse().unwrap();
            assert!(moment >= asked, "{moment} is before the request at {asked}");
            assert!(rows(&now, "db").lines().count() >= before.parse().unwrap(), "{now}");
            let expected: Vec<String> = (-1..=turn).map(|n| n.to_string()).collect();
            assert_eq!(rows(&now, "idle"), expected.join("\n"));
            made.push(now);
            // A snapshot of both, whichever is ahead.
            let snapshot = stand.json(&["snapshot", "shop"]);
            let id = snapshot["result"]["snapshot"].as_str().unwrap().to_owned();
            made.push(stand.json(&["clone", &format!("shop@{id}"), &format!("s{turn}")]));
        }
        made.push(stand.json(&["clone", "shop", "latest"]));
        drop(ends);
        oracle = writer.join().unwrap();
    });
    for view in &made {
        let moment: Timestamp = view["moment"].as_str().unwrap().parse().unwrap();
        oracle.check(moment, &rows(view, "db"));
        for source in ["db", "idle"] {
            assert_eq!(view["sources"][source]["skew_seconds"], 0.0, "{view}");
        }
        stand.json(&["rm", view["name"].as_str().unwrap()]);
    }
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
