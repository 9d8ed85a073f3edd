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

/// Rows and files of a clone.
fn counted(view: &serde_json::Value) -> (usize, usize) {
    let files = std::fs::read_dir(view["sources"]["files"]["path"].as_str().unwrap()).unwrap();
    let written = files.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("row-")).count();
    (rows(view, "db").lines().count(), written)
}

#[test]
fn a_fence_cuts_rows_and_files_at_one_instant_and_always_falls() {
    let Some(mut stand) = Stand::new() else { return };
    table(&stand.production);
    // So many files that a sync takes its time.
    let files = stand.files();
    for n in 0..4000 {
        std::fs::write(files.join(format!("old-{n}")), "x").unwrap();
    }
    stand.link_both(&["--snapshot-every", "1h"]);
    let over = AtomicBool::new(false);
    let longest = std::sync::Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        let ends = Raised(&over);
        scope.spawn(|| {
            // An application: each row with its file.
            let mut client = Client::connect(&stand.production.url("postgres"), NoTls).unwrap();
            for n in 0_i64.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let begun = std::time::Instant::now();
                client.execute("INSERT INTO mark VALUES ($1::bigint)", &[&n]).unwrap();
                let mut longest = longest.lock().unwrap();
                *longest = begun.elapsed().max(*longest);
                drop(longest);
                std::fs::write(files.join(format!("row-{n}")), "").unwrap();
                sleep(Duration::from_millis(2));
            }
        });
        sleep(Duration::from_millis(500));
        for turn in 0..3 {
            let view = stand.json(&["clone", "shop@now", &format!("cut{turn}"), "--fence=20s"]);
            let (rows, files) = counted(&view);
            assert!(rows > 50 && (files == rows || files + 1 == rows), "{rows} rows, {files} files");
            assert_eq!(
                (&view["sources"]["db"]["skew_seconds"], &view["sources"]["files"]["skew_seconds"]),
                (&0.0.into(), &0.0.into())
            );
            stand.json(&["rm", &format!("cut{turn}")]);
        }
        stand.json(&["bookmark", "shop", "cut", "--fence=20s"]);
        drop(ends);
    });
    let longest = *longest.lock().unwrap();
    assert!(longest < Duration::from_secs(20), "a row waited for {longest:?}");
    eprintln!("the longest wait of a row: {longest:?}");
    stand.fails(2, &["clone", "shop@-5s", "x", "--fence"]);

    // The daemon dies behind a fence: production ends it.
    stand.daemon.stop();
    stand.daemon.set_env(&[("PANDO_FAILPOINTS", "snapshot.sync.fenced=kill")]);
    stand.daemon.resume();
    let _ = stand.daemon.pando(&["snapshot", "shop", "--fence=6s"]);
    let begun = std::time::Instant::now();
    stand.production.psql("INSERT INTO mark VALUES (-1)");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    stand.daemon.kill9();
    stand.daemon.set_env(&[]);
    stand.daemon.resume();

    // Whoever may not lock is told what is missing, and nothing stays held.
    stand.production.psql("CREATE ROLE weak LOGIN REPLICATION PASSWORD 'weak-secret'; GRANT pg_monitor TO weak");
    let url = stand.production.url("postgres").replace("boss:prod-secret", "weak:weak-secret");
    stand.json(&["link", "other", &url]);
    let said = stand.fails(1, &["snapshot", "other", "--fence"]);
    assert!(said.contains("permission denied for table mark") && said.contains("pg_maintain"), "{said}");
    stand.production.psql("INSERT INTO mark VALUES (-2)");
    for app in ["other", "shop"] {
        stand.json(&["unlink", app]);
    }
    stand.nothing_left();
    stand.end(&["the heartbeat"]);
}
