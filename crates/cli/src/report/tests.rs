//! What people read, word for word.

use super::*;
use serde_json::{Value, json};

fn reader() -> Reader {
    let now = "2026-11-21T09:00:00Z".parse().expect("time");
    Reader { now, zone: TimeZone::fixed(jiff::tz::offset(1)) }
}

fn view<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a view")
}

fn clone() -> CloneView {
    view(json!({
        "name": "dev1", "id": "clone-0123456789abcdef", "app": "shop", "parent": "shop",
        "moment": "2026-11-21T08:00:00Z", "asked": "-1h", "snapshot": null, "profile": "disposable",
        "record": true, "state": "running", "lease_until": "2026-11-21T17:00:00Z",
        "created_at": "2026-11-21T08:59:00Z", "timing": {"storage_ms": 9, "ready_ms": 1240},
        "unique_bytes": 2048, "unique_is_estimate": true,
        "sources": {
            "db": {"engine": "postgres", "path": "/p/db", "url": "postgres://shop:hunter2@127.0.0.1:5444/shop",
                   "host": "127.0.0.1", "port": 5444, "skew_seconds": 0.0},
            "files": {"engine": "files", "path": "/p/files", "skew_seconds": 3.2, "notes": ["one file was in use"]}
        }
    }))
}

#[test]
fn a_ready_clone_is_one_short_block_without_its_password() {
    let expected = "\
dev1  shop at 2026-11-21 09:00:00+01:00, ready in 1.2 s (storage 9 ms)
  db  postgres  postgres://shop@127.0.0.1:5444/shop, exactly at the moment
  files  files  /p/files, 3.2 s after the moment
";
    assert_eq!(reader().ready(&clone()), expected);
}

#[test]
fn a_clone_shown_whole_has_its_facts() {
    let shown = reader().show(&ShowView::Clone(Box::new(clone())));
    for part in [
        "dev1 (clone-0123456789abcdef)",
        "disposable, records a log",
        "1m ago",
        "8h left",
        "~2.0 KiB",
        "-1h",
        "note: one file",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("hunter2") && !shown.contains("problem") && !shown.contains("undo"));
}

#[test]
fn a_container_shows_what_it_may_do() {
    let mut whole = clone();
    whole.runtime = RuntimeKind::Docker;
    let db = whole.sources.get_mut(&"db".parse().expect("a name")).expect("a source");
    db.container = Some(view(json!({
        "id": "0123456789abcdef", "image": "postgres:15.4", "user": "999:999", "privileged": false,
        "capabilities": [], "gains_rights": false, "writes_root": false, "network": "host",
        "mounts": {"/p/db": true}, "memory_bytes": 2_147_483_648_u64, "cpu_millis": 1500, "pids": null
    })));
    let shown = reader().show(&ShowView::Clone(Box::new(whole)));
    let expected = "\
    container 0123456789ab of postgres:15.4
      account: 999:999
      privileged: no
      capabilities: none
      may gain rights: no
      may write its root: no
      network: host
      memory: 2.0 GiB
      processors: 1.5
      processes: no limit
      may write: /p/db
";
    assert!(shown.contains(expected), "{shown}");
    assert!(shown.contains("runs in") && shown.contains("containers"), "{shown}");
}

#[test]
fn a_clone_with_a_project_shows_it_and_the_containers_that_run() {
    let mut whole = clone();
    let name = |text: &str| text.parse::<Name>().expect("a name");
    whole.compose = Some("/srv/compose.yaml".to_owned());
    whole.volumes = [(name("dev1_db"), name("db")), (name("dev1_files"), name("files"))].into();
    whole.used_by = ["3f3f3f3f3f3f (postgres, process 7)", "4f4f4f4f4f4f (nginx, process 8)"]
        .map(|user| format!("container {user}"))
        .into();
    let shown = reader().show(&ShowView::Clone(Box::new(whole)));
    for part in ["running in 2 containers", "/srv/compose.yaml", "dev1_db dev1_files", "(nginx, process 8)"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn a_list_has_apps_then_clones() {
    let list = view(json!({
        "apps": [{"name": "shop", "state": "following", "lag_seconds": 0.4, "sources": {"db": "postgres"}}],
        "clones": [{"name": "dev1", "app": "shop", "state": "stopped", "moment": "2026-11-21T08:00:00Z",
                    "lease_until": null, "unique_bytes": null},
                   {"name": "dev2", "app": "shop", "state": "running", "moment": "2026-11-21T08:00:00Z",
                    "used_by": ["container 3f3f3f3f3f3f (postgres, process 7)", "process 8 (bash)"],
                    "lease_until": null, "unique_bytes": null}]
    }));
    let expected = "\
APP   STATE      LAG   SOURCES
shop  following  0.4s  db:postgres

CLONE  APP   STATE                   MOMENT                     KEPT      OWN BYTES
dev1   shop  stopped                 2026-11-21 09:00:00+01:00  for ever  -
dev2   shop  running in a container  2026-11-21 09:00:00+01:00  for ever  -
";
    assert_eq!(reader().list(&list), expected);
    assert!(reader().list(&view(json!({"apps": [], "clones": []}))).contains("pando link"));
}

#[test]
fn a_timeline_shows_snapshots_ranges_and_lag() {
    let timeline = view(json!({
        "snapshots": [{"id": "snap-0123456789abcdef", "taken_at": "2026-11-21T08:58:00Z",
                       "moment": "2026-11-21T08:57:59Z", "prepared": true, "bookmarks": ["a", "b"], "unique_bytes": 1}],
        "ranges": [{"from": "2026-11-21T06:00:00Z", "to": "2026-11-21T08:59:59Z"}],
        "lag_seconds": 1.0, "unique_is_estimate": false
    }));
    let expected = "\
SNAPSHOT               MOMENT                     TAKEN   PREPARED  OWN BYTES  BOOKMARKS
snap-0123456789abcdef  2026-11-21 09:57:59+01:00  2m ago  yes       1 B        a b

EVERY SECOND FROM          TO                         LENGTH
2026-11-21 07:00:00+01:00  2026-11-21 09:59:59+01:00  2h 59m

lag 1.0s
";
    assert_eq!(reader().timeline(&timeline), expected);
}

#[test]
fn operations_say_what_why_and_how_far() {
    let operation: OperationView = view(json!({
        "id": "op-0123456789abcdef", "verb": "clone", "subject": "dev1", "state": "failed",
        "steps": [{"name": "volume", "state": "undone"}, {"name": "start", "state": "begun"}],
        "progress": {"what": "base copy", "done_bytes": 1024, "total_bytes": 2048},
        "error": {"kind": "failed", "title": "no room", "hint": "pando du"},
        "created_at": "2026-11-21T08:59:00Z", "finished_at": "2026-11-21T08:59:02.5Z"
    }));
    let row = "op-0123456789abcdef  clone  dev1     failed  1m ago  2.5 s  no room\n";
    assert!(reader().operations(std::slice::from_ref(&operation)).ends_with(row));
    let shown = reader().operation(&operation);
    for part in
        ["clone dev1", "base copy: 1.0 KiB of 2.0 KiB", "no room", "pando du", "undone  volume", "begun   start"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn findings_come_with_the_command_that_mends_them() {
    let found = view(json!({"healthy": false, "items": [
        {"what": "pool", "level": "problem", "found": "there is none", "fix": "pando init"},
        {"what": "psql", "level": "ok", "found": "15.20"}
    ]}));
    assert_eq!(doctor(&found), "problem  pool: there is none\n         mend it: pando init\nok       psql: 15.20\n");
}

#[test]
fn disk_use_is_told_per_owner() {
    let used = view(json!({
        "driver": "btrfs", "path": "/p", "total_bytes": 4096, "used_bytes": 1024, "free_bytes": 3072,
        "unique_is_estimate": true,
        "owners": [{"name": "shop", "kind": "app", "volume_bytes": 1024, "snapshot_bytes": null, "log_bytes": 10}]
    }));
    let expected = "\
pool  /p (btrfs)
used  1.0 KiB of 4.0 KiB
free  3.0 KiB

NAME  KIND  OWN BYTES  SNAPSHOTS  LOG
shop  app   ~1.0 KiB   -          10 B
";
    assert_eq!(disk(&used), expected);
}

#[test]
fn skews_are_never_hidden() {
    assert_eq!(skew(0.0), ", exactly at the moment");
    assert_eq!(skew(-61.26), ", 61.3 s before the moment");
}
