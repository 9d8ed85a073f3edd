//! A clone's life: refreshed, rewound, taken back, stopped and started, leased, cloned again, removed.

use std::thread::sleep;
use std::time::Duration;

use jiff::SignedDuration;
use pando_testkit::wait_until;
use postgres::{Client, NoTls};

use crate::any_second::{Oracle, ROWS, row, table};
use crate::stand::{Stand, sql_at};

#[test]
fn a_refresh_keeps_address_and_password_and_undo_takes_it_back() {
    let Some(stand) = Stand::new() else { return };
    table(&stand.production);
    stand.link_both(&["--snapshot-every", "2s"]);
    let url = stand.copy("shop", "dev").url().to_owned();
    let rows = || sql_at(&url, ROWS).unwrap();
    sql_at(&url, "INSERT INTO mark VALUES (100)").unwrap();
    std::fs::write(stand.show("dev").path("files").join("mine"), "").unwrap();

    stand.production.psql("INSERT INTO mark VALUES (1)");
    stand.json(&["refresh", "dev@now"]);
    assert_eq!((rows().as_str(), stand.show("dev").url()), ("1", url.as_str()));
    assert!(!stand.show("dev").path("files").join("mine").exists());
    stand.json(&["undo", "dev"]);
    assert_eq!(rows(), "100");
    assert!(stand.show("dev").path("files").join("mine").exists());
    // And again: an undo can be undone.
    stand.json(&["undo", "dev"]);
    assert_eq!(rows(), "1");

    stand.json(&["stop", "dev"]);
    assert_eq!(stand.show("dev").0["state"], "stopped");
    assert!(sql_at(&url, "SELECT 1").is_err());
    stand.json(&["start", "dev"]);
    assert_eq!(rows(), "1");
    // A stopped one that is refreshed runs again.
    stand.json(&["stop", "dev"]);
    stand.json(&["refresh", "dev"]);
    assert_eq!(stand.show("dev").0["state"], "running");
    stand.fails(4, &["clone", "shop", "dev"]);
    stand.fails(4, &["clone", "shop", "shop"]);

    // Its server dies: it is started again.
    let pid = stand.show("dev").postmaster();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert!(wait_until(Duration::from_secs(20), || sql_at(&url, "SELECT 1").is_ok()), "{}", stand.daemon.log());
    stand.json(&["rm", "dev"]);
    stand.fails(3, &["show", "dev"]);
    assert!(sql_at(&url, "SELECT 1").is_err());
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn a_recording_clone_is_rewound_to_a_second_and_a_lease_ends() {
    let Some(stand) = Stand::new() else { return };
    table(&stand.production);
    stand.link(&["--snapshot-every", "3s"]);
    stand.json(&["clone", "shop", "short", "--for", "3s"]);
    let copy = stand.copy_with("shop", "dev", &["--record"]);
    // Its own timeline begins with its first snapshot.
    let begun = || !stand.json(&["timeline", "dev"])["ranges"].as_array().unwrap().is_empty();
    assert!(wait_until(Duration::from_secs(20), begun), "{}", stand.daemon.log());
    let mut oracle = Oracle::default();
    let mut client = Client::connect(copy.url(), NoTls).unwrap();
    for _ in 0..40 {
        oracle.commit(&mut client, row);
        sleep(Duration::from_millis(100));
    }
    drop(client);
    let (from, to) = oracle.span();
    let moment = from + to.duration_since(from) / 3 * 2;
    stand.json(&["rewind", &format!("dev@{moment}")]);
    oracle.check(moment, &copy.sql(ROWS));
    assert!(copy.sql(ROWS).lines().count() < 40);
    copy.sql("INSERT INTO mark VALUES (1000)");
    // A part of that part: its timeline goes on across the rewind.
    let earlier = from + to.duration_since(from) / 3;
    stand.json(&["undo", "dev"]);
    assert_eq!(copy.sql(ROWS).lines().count(), 40);
    let child = stand.copy(&format!("dev@{earlier}"), "child");
    oracle.check(earlier, &child.sql(ROWS));
    // What comes after the undo is recorded too, and nothing of what was taken back shows.
    stand.json(&["snapshot", "dev"]);
    let mut client = Client::connect(copy.url(), NoTls).unwrap();
    for _ in 0..20 {
        oracle.commit(&mut client, row);
        sleep(Duration::from_millis(50));
    }
    drop(client);
    let later = oracle.span().1 - SignedDuration::from_millis(500);
    stand.json(&["rewind", &format!("dev@{later}")]);
    oracle.check(later, &copy.sql(ROWS));

    let gone = || !stand.json(&["ls"]).to_string().contains("\"short\"");
    assert!(wait_until(Duration::from_secs(20), gone), "the lease did not end");
    stand.fails(4, &["rm", "dev"]);
    stand.json(&["lease", "child", "--for", "8h"]);
    assert!(stand.show("child").0["lease_until"].is_string());
    stand.json(&["rm", "child"]);
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn clones_of_clones_profiles_and_settings() {
    let Some(stand) = Stand::new() else { return };
    table(&stand.production);
    stand.link(&["--set", "application_name=shop"]);
    let durable = stand.copy_with("shop", "durable", &["--profile", "durable", "--set", "work_mem=77MB"]);
    assert_eq!(durable.sql("SELECT current_setting('fsync') || current_setting('full_page_writes')"), "onon");
    assert_eq!(durable.sql("SHOW work_mem"), "77MB");
    durable.sql("INSERT INTO mark VALUES (7)");
    let child = stand.copy("durable", "child");
    assert_eq!(child.sql(ROWS), "7");
    assert_eq!((child.sql("SHOW fsync").as_str(), child.sql("SHOW work_mem").as_str()), ("off", "77MB"));
    child.sql("INSERT INTO mark VALUES (8)");
    assert_eq!(stand.copy("child", "grandchild").sql(ROWS), "7\n8");
    assert_eq!(durable.sql(ROWS), "7");
    let parent = stand.fails(4, &["rm", "child"]);
    assert!(parent.contains("grandchild"), "{parent}");

    for bad in ["archive_command=true", "listen_addresses=*", "Port=5", "restore_command=x", "a-b=1"] {
        let said = stand.daemon.pando(&["clone", "shop", "bad", "--set", bad]);
        assert!(matches!(said.status.code(), Some(2 | 4)), "{bad}: {said:?}");
    }
    // A setting that only the server can judge: it does not start, and says why.
    let said = stand.fails(1, &["clone", "shop", "bad", "--set", "work_mem=lots"]);
    assert!(said.contains("error: its server does not start with the setting work_mem=lots\n"), "{said}");
    assert!(
        said.contains("invalid value for parameter \"work_mem\"") && said.contains("hint: another value"),
        "{said}"
    );
    stand.fails(3, &["show", "bad"]);
    let refused = stand.fails(4, &["unlink", "shop"]);
    for name in ["durable", "child", "grandchild"] {
        assert!(refused.contains(name), "{refused}");
    }
    let place = stand.files().join("not/there");
    stand.json(&["compose", "init", "shop", place.to_str().unwrap()]);
    assert!(place.join("compose.yaml").is_file() && place.join(".env").is_file());
    // In whatever order they are named, each goes before what it was made of, also where nobody waits for the last.
    stand.copy("grandchild", "last");
    assert_eq!(stand.json(&["rm", "grandchild", "last"]).as_array().unwrap().len(), 2);
    let begun = stand.daemon.pando(&["rm", "--detach", "durable", "child"]);
    assert!(begun.status.success(), "{begun:?}");
    let none = || stand.json(&["ls"])["clones"] == serde_json::json!([]);
    assert!(wait_until(Duration::from_secs(30), none), "{}", stand.json(&["ls"]));
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
