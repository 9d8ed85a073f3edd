//! The daemon killed with SIGKILL: what runs goes on running, and what was under way is finished or undone.

use std::time::Duration;

use postgres::{Client, NoTls};

use crate::stand::{Stand, rows, sql_at};

/// Starts the daemon again with a fail point that kills it.
pub fn arm(stand: &mut Stand, point: &str) {
    stand.daemon.set_env(&[("PANDO_FAILPOINTS", &format!("{point}=kill"))]);
    stand.daemon.restart();
}

/// Waits for the point to strike, and starts the daemon again without it.
pub fn struck(stand: &mut Stand, point: &str) {
    assert!(stand.daemon.wait_dead(Duration::from_secs(60)), "{point} was not passed: {}", stand.daemon.log());
    stand.daemon.set_env(&[]);
    stand.daemon.resume();
}

#[test]
fn kill_9_of_an_idle_daemon_clones_keep_their_process_and_their_connections() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark (n int)");
    stand.link(&["--snapshot-every", "2s"]);
    let copy = stand.copy_with("shop", "dev", &["--record"]);
    let mut client = Client::connect(copy.url(), NoTls).unwrap();
    client.batch_execute("CREATE TEMP TABLE here (n int)").unwrap();
    let (pid, url) = (copy.postmaster(), copy.url().to_owned());
    for _ in 0..2 {
        stand.daemon.kill9();
        assert_eq!(rows(&mut client, "SELECT count(*) FROM here").unwrap(), "0");
        stand.production.psql("INSERT INTO mark VALUES (1)");
        stand.daemon.resume();
        let again = stand.show("dev");
        assert_eq!((again.postmaster(), again.url(), &again.0["state"]), (pid, url.as_str(), &"running".into()));
        assert_eq!(rows(&mut client, "SELECT count(*) FROM here").unwrap(), "0");
    }
    stand.wait_state("following", 20);
    assert_eq!(stand.copy("shop@now", "fresh").sql("SELECT count(*) FROM mark"), "2");
    stand.json(&["rm", "dev", "fresh"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn kill_9_in_the_middle_of_a_clone_it_is_undone_and_its_name_is_free() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark (n int)");
    stand.link(&["--snapshot-every", "5s"]);
    let bystander = stand.copy("shop", "bystander");
    let pid = bystander.postmaster();
    let points = ["reserve.after", "resolve.after", "volume.after", "stage.after", "start.after", "admit.after"];
    for point in points.map(|point| format!("clone.{point}")) {
        arm(&mut stand, &point);
        assert!(!stand.daemon.pando(&["clone", "shop@now", "dev"]).status.success());
        struck(&mut stand, &point);
        let listed = stand.json(&["ls"]);
        let names: Vec<&str> =
            listed["clones"].as_array().unwrap().iter().map(|clone| clone["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["bystander"], "{point}");
        assert!(!stand.daemon.home().join("clones/dev").exists(), "{point}");
        stand.fails(3, &["show", "dev"]);
        stand.nothing_strange();
        assert_eq!(bystander.postmaster(), pid);
    }
    assert_eq!(stand.copy("shop", "dev").sql("SELECT 1"), "1");
    stand.json(&["rm", "dev", "bystander"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn kill_9_in_the_middle_of_a_refresh_or_a_snapshot_the_clone_has_old_or_new_data_at_its_address() {
    let Some(mut stand) = Stand::new() else { return };
    stand.production.psql("CREATE TABLE mark (n int)");
    stand.link(&["--snapshot-every", "60s"]);
    let url = stand.copy("shop", "dev").url().to_owned();
    let there = "SELECT count(*) FROM pg_tables WHERE tablename = 'mine'";
    for (point, undone) in [
        ("volume.after", true),
        ("stop.after", true),
        ("start.after", true),
        ("swap.after", true),
        ("clear.before", false),
    ] {
        let point = format!("refresh.{point}");
        sql_at(&url, "CREATE TABLE IF NOT EXISTS mine (n int)").unwrap();
        arm(&mut stand, &point);
        assert!(!stand.daemon.pando(&["refresh", "dev"]).status.success());
        struck(&mut stand, &point);
        assert_eq!(stand.show("dev").0["state"], "running", "{point}");
        assert_eq!(sql_at(&url, there).unwrap(), if undone { "1" } else { "0" }, "{point}");
        stand.nothing_strange();
    }
    stand.json(&["undo", "dev"]);
    assert_eq!(sql_at(&url, there).unwrap(), "1");

    for point in ["snapshot.record.after", "snapshot.freeze.after", "snapshot.mark.after"] {
        let before = stand.json(&["timeline", "shop"])["snapshots"].as_array().unwrap().len();
        arm(&mut stand, point);
        assert!(!stand.daemon.pando(&["snapshot", "shop"]).status.success());
        struck(&mut stand, point);
        let after = stand.json(&["timeline", "shop"])["snapshots"].as_array().unwrap().len();
        assert!(after <= before + 1, "{point}");
        stand.nothing_strange();
    }
    stand.wait_state("following", 20);
    stand.json(&["snapshot", "shop"]);
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn kill_9_in_the_middle_of_a_link_leaves_no_slot_and_the_next_link_works() {
    let Some(mut stand) = Stand::new() else { return };
    for point in
        ["link.reserve.after", "link.copy.after", "link.follow.after", "prepare.freeze.after", "link.prepare.after"]
    {
        arm(&mut stand, point);
        let url = format!("db={}", stand.production.url("postgres"));
        assert!(!stand.daemon.pando(&["link", "shop", &url]).status.success());
        struck(&mut stand, point);
        stand.nothing_left();
    }
    stand.link(&[]);
    assert_eq!(stand.copy("shop", "dev").sql("SELECT 1"), "1");
    stand.end(&[]);
}
