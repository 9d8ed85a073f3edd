//! Pando as an ordinary user, on whatever storage there is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use pando_testkit::{Daemon, FsKind, LoopFs, tools};
use serde_json::Value;

use crate::stand::{Copy, PANDO, entries, production, sql_at, with};

/// A program that is `pando`, run by somebody else. (It replaces itself, so a signal to it reaches pando.)
pub fn pando_as(dir: &Path, (uid, gid): (u32, u32)) -> PathBuf {
    let (binary, script) = (dir.join("pando"), dir.join("pando-as"));
    fs::copy(PANDO, &binary).unwrap();
    let text =
        format!("#!/bin/sh\nexec setpriv --reuid={uid} --regid={gid} --clear-groups -- {} \"$@\"\n", binary.display());
    fs::write(&script, text).unwrap();
    for path in [dir, &binary, &script] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    script
}

/// The whole way on one file system; answers what `doctor` calls the pool.
fn whole_way(kind: FsKind, wanted: &str) {
    if !tools::require("setpriv") {
        return;
    }
    let Some(production) = production(with(&[])) else { return };
    let Some(filesystem) = LoopFs::new(kind, 1500) else { return };
    if kind == FsKind::Btrfs {
        tools::run("mount", &["-o", "remount,user_subvol_rm_allowed", &filesystem.path().display().to_string()]);
    }
    let ids = tools::somebody();
    chown(filesystem.path(), Some(ids.0), Some(ids.1)).unwrap();
    let dir = tempfile::Builder::new().prefix("pando-bin-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(filesystem.path().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::start_on(&pando_as(dir.path(), ids), &filesystem.path().join("home"));
    let files = filesystem.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("one"), "one").unwrap();

    production.psql("CREATE TABLE mark AS SELECT 1 AS n");
    let made = daemon.pando_json(&["init"]);
    let url = format!("db={}", production.url("postgres"));
    let source = format!("files=file://{}", files.display());
    daemon.pando_json(&["link", "shop", &url, &source, "--snapshot-every", "3s"]);
    let pool = daemon.pando_json(&["du"])["driver"].clone();
    assert_eq!(pool, wanted, "{made}");
    let copy = Copy(daemon.pando_json(&["clone", "shop", "dev"]));
    assert_eq!(copy.sql("SELECT n FROM mark"), "1");
    assert_eq!(fs::read_to_string(copy.path("files").join("one")).unwrap(), "one");
    copy.sql("UPDATE mark SET n = 2");
    fs::write(copy.path("files").join("one"), "two").unwrap();
    assert_eq!(fs::read_to_string(files.join("one")).unwrap(), "one");

    production.psql("UPDATE mark SET n = 3");
    daemon.pando_json(&["refresh", "dev@now"]);
    assert_eq!(sql_at(copy.url(), "SELECT n FROM mark").unwrap(), "3");
    assert_eq!(fs::read_to_string(copy.path("files").join("one")).unwrap(), "one");
    // All of it belongs to that user.
    let status = fs::read_to_string(format!("/proc/{}/status", Copy(daemon.pando_json(&["show", "dev"])).postmaster()));
    assert!(status.unwrap().contains(&format!("Uid:\t{}\t", ids.0)));
    daemon.pando_json(&["rm", "dev"]);
    daemon.pando_json(&["unlink", "shop"]);
    let doctor = daemon.pando_json(&["doctor"]);
    let strange: Vec<&Value> =
        doctor["items"].as_array().unwrap().iter().filter(|item| item["what"] == "strangers").collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert_eq!(entries(&daemon.home().join("log")), Vec::<String>::new());
    assert_eq!(production.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(daemon.alarms(&[]), Vec::<String>::new());
}

#[test]
fn an_ordinary_user_on_xfs_has_reflinks() {
    whole_way(FsKind::Xfs, "reflink");
}

#[test]
fn an_ordinary_user_on_btrfs_has_subvolumes() {
    whole_way(FsKind::Btrfs, "btrfs");
}

#[test]
fn an_ordinary_user_on_ext4_has_copies() {
    whole_way(FsKind::Ext4, "copy");
}
