//! `promote`: a clone of a database, a Redis and a directory becomes one that is kept, under its own address, with all
//! that was written into it.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use pando_testkit::{RedisClient, RedisProduction, tools, wait_until};

use crate::stand::Stand;

#[test]
fn a_promoted_clone_is_durable_records_and_is_kept() {
    if !tools::require("redis-server") {
        return;
    }
    let Some(stand) = Stand::new() else { return };
    let cache = RedisProduction::start(&[]);
    stand.production.psql("CREATE TABLE mark (n int); INSERT INTO mark VALUES (1)");
    cache.run(&["SET", "name", "production"]);
    fs::write(stand.files().join("a"), "production").unwrap();
    stand.link_both(&[&format!("q={}", cache.url(0)), "--snapshot-every", "1h"]);
    let dev = stand.copy_with("shop", "dev", &["--for", "1h"]);
    let redis = |view: &serde_json::Value| RedisClient::connect(view["sources"]["q"]["url"].as_str().unwrap());
    dev.sql("INSERT INTO mark VALUES (2)");
    redis(&dev.0).run(&["SET", "name", "mine"]);
    fs::write(dev.path("files").join("a"), "mine").unwrap();

    let view = stand.json(&["promote", "dev"]);
    let wanted = ("durable", true, true, true, "running");
    let found = (
        view["profile"].as_str().unwrap(),
        view["record"] == true,
        view["lease_until"].is_null(),
        view["promoted_at"].is_string(),
        view["state"].as_str().unwrap(),
    );
    assert_eq!(found, wanted, "{view}");
    for source in ["db", "q"] {
        assert_eq!(view["sources"][source]["url"], dev.0["sources"][source]["url"], "its address stays");
    }
    // What was written is there, and from now on a commit is on the disk when it is acknowledged.
    assert_eq!(dev.sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM mark"), "1,2");
    assert_eq!(dev.sql("SHOW fsync") + &dev.sql("SHOW full_page_writes"), "onon");
    let mut own = redis(&view);
    assert_eq!(own.run(&["GET", "name"]), "mine");
    assert_eq!(own.run(&["CONFIG", "GET", "appendfsync"]), "appendfsync\nalways");
    assert_eq!(fs::read_to_string(dev.path("files").join("a")).unwrap(), "mine");

    // It has a timeline of its own.
    dev.sql("INSERT INTO mark VALUES (3)");
    own.run(&["SET", "name", "kept"]);
    sleep(Duration::from_millis(1200));
    let before = Timestamp::now();
    sleep(Duration::from_millis(1200));
    dev.sql("DELETE FROM mark");
    own.run(&["FLUSHALL"]);
    let reached = || {
        let ranges = stand.json(&["timeline", "dev"])["ranges"].clone();
        let to = |range: &serde_json::Value| range["to"].as_str().unwrap().parse::<Timestamp>().unwrap();
        ranges.as_array().unwrap().last().is_some_and(|range| to(range) > before)
    };
    assert!(wait_until(Duration::from_secs(20), reached), "{}", stand.json(&["timeline", "dev"]));
    stand.json(&["rewind", &format!("dev@{before}")]);
    assert_eq!(stand.show("dev").sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM mark"), "1,2,3");
    assert_eq!(redis(&stand.show("dev").0).run(&["GET", "name"]), "kept");

    assert!(stand.fails(4, &["promote", "dev"]).contains("is promoted already"));
    // A clone that is stopped is promoted, too, and runs then.
    stand.copy("dev", "twig");
    stand.json(&["stop", "twig"]);
    assert_eq!(stand.json(&["promote", "twig"])["state"], "running");
    assert_eq!(stand.show("twig").sql("SELECT count(*) FROM mark"), "3");
    // Production never heard of any of it.
    assert_eq!(stand.production.psql("SELECT count(*) FROM mark"), "1");
    assert_eq!(cache.run(&["GET", "name"]), "production");
    for clone in ["twig", "dev"] {
        stand.json(&["rm", clone]);
    }
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
