//! A recording clone's own past: its files as they were, what it named when its log is gone, and itself when it is stopped.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use pando_testkit::wait_until;
use serde_json::Value;

use crate::stand::Stand;

const ROWS: &str = "SELECT string_agg(n::text, ',' ORDER BY n) FROM mark";

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

fn timeline(stand: &Stand, part: &str) -> Vec<Value> {
    stand.json(&["timeline", "dev"])[part].as_array().unwrap().clone()
}

/// A moment of now, which lies behind what was done and before what is done next, and is in the log of `dev`.
fn moment(stand: &Stand) -> Timestamp {
    sleep(Duration::from_millis(50));
    let now = Timestamp::now();
    let reached = || timeline(stand, "ranges").last().is_some_and(|range| time(&range["to"]) > now);
    assert!(wait_until(Duration::from_secs(20), reached), "{:#?}", timeline(stand, "ranges"));
    now
}

#[test]
fn its_files_are_those_of_then_and_a_stopped_one_is_all_there() {
    let Some(stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark (n int)");
    fs::write(stand.files().join("a"), "production").unwrap();
    stand.link_both(&["--snapshot-every", "2s"]);
    let dev = stand.copy_with("shop", "dev", &["--record"]);
    dev.sql("INSERT INTO mark VALUES (1)");
    let files = dev.path("files");
    sleep(Duration::from_secs(3));
    // Files alone change, and it has a snapshot of that, too.
    fs::write(files.join("report"), "mine").unwrap();
    let written = Timestamp::now();
    let kept = || timeline(&stand, "snapshots").iter().any(|one| time(&one["moment"]) > written);
    assert!(wait_until(Duration::from_secs(20), kept), "{}", stand.daemon.log());
    let then = moment(&stand);
    fs::remove_file(files.join("a")).unwrap();
    fs::remove_file(files.join("report")).unwrap();
    dev.sql("DELETE FROM mark");
    stand.json(&["rewind", &format!("dev@{then}")]);
    let dev = stand.show("dev");
    let read = |file: &str| fs::read_to_string(dev.path("files").join(file)).unwrap();
    assert_eq!((dev.sql(ROWS), read("a"), read("report")), ("1".into(), "production".into(), "mine".into()));
    let skew = dev.0["sources"]["files"]["skew_seconds"].as_f64().unwrap();
    assert!(skew <= 0.0, "{skew}");

    dev.sql("INSERT INTO mark VALUES (2)");
    stand.json(&["stop", "dev"]);
    fs::write(dev.path("files").join("a"), "while it is stopped").unwrap();
    stand.json(&["bookmark", "dev", "end"]);
    for (target, name) in [("dev", "one"), ("dev@now", "two"), ("dev@end", "three")] {
        let copy = stand.copy(target, name);
        let a = fs::read_to_string(copy.path("files").join("a")).unwrap();
        assert_eq!((copy.sql(ROWS).as_str(), a.as_str()), ("1,2", "while it is stopped"), "{target}");
        stand.json(&["rm", name]);
    }
    let refused = stand.fails(4, &["clone", &format!("dev@{}", Timestamp::now()), "late"]);
    assert!(refused.contains("is not in its log") && !refused.contains("production"), "{refused}");
    // Its timeline goes on across the stop.
    stand.json(&["start", "dev"]);
    dev.sql("INSERT INTO mark VALUES (3)");
    let then = moment(&stand);
    dev.sql("DELETE FROM mark");
    stand.json(&["rewind", &format!("dev@{then}")]);
    assert_eq!(stand.show("dev").sql(ROWS), "1,2,3");
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn what_it_named_is_there_when_its_log_is_gone() {
    let Some(stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark (n int)");
    let file = stand.files().join("shop.toml");
    let text = format!(
        "app = \"shop\"\n[[sources]]\nurl = \"{}\"\n[policy]\nsnapshot_every_seconds = 2\nlog_keep_seconds = 5\n\
         tiers = [{{ up_to_seconds = 8, every_seconds = 0 }}, {{ up_to_seconds = 3600, every_seconds = 900 }}]\n",
        stand.production.url("postgres")
    );
    fs::write(&file, text).unwrap();
    stand.json(&["apply", file.to_str().unwrap()]);
    let dev = stand.copy_with("shop", "dev", &["--record"]);
    dev.sql("INSERT INTO mark VALUES (1)");
    let named = time(&stand.json(&["bookmark", "dev", "named"])["result"]["moment"]);
    let trimmed = || {
        dev.sql("INSERT INTO mark VALUES (2)");
        dev.sql("SELECT pg_switch_wal()");
        timeline(&stand, "ranges").first().is_some_and(|range| time(&range["from"]) > named)
    };
    assert!(wait_until(Duration::from_secs(90), trimmed), "{}", stand.daemon.log());
    assert_eq!(stand.copy("dev@named", "copy").sql(ROWS), "1");
    // And whatever else it lists.
    for snapshot in timeline(&stand, "snapshots") {
        let id = snapshot["id"].as_str().unwrap();
        let (one, before) = (stand.copy(&format!("dev@{id}"), "one"), time(&snapshot["moment"]) < named);
        assert_eq!(one.sql(ROWS).starts_with('1'), !before, "{snapshot}");
        stand.json(&["rm", "one"]);
        if !before {
            break;
        }
    }
    stand.json(&["rewind", "dev@named"]);
    assert_eq!(stand.show("dev").sql(ROWS), "1");
    stand.json(&["rm", "copy"]);
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
