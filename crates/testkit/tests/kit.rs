//! The kit itself: what other tests stand on has to stand.

#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods, reason = "a test")]

use pando_testkit::{FsKind, LoopFs, Production, ProductionOptions, tools, wait_until};
use std::time::Duration;

#[test]
fn production_starts_survives_a_kill_and_leaves_nothing() {
    if !tools::require("initdb") {
        return;
    }
    let bin = tools::newest_postgres().unwrap();
    let conf = vec!["max_connections = 42".to_owned()];
    let mut production = Production::start(&bin, ProductionOptions { conf, ..ProductionOptions::default() });
    assert_eq!(production.psql("SHOW max_connections; SELECT 1, 'a'"), "42\n1|a");
    production.psql("CREATE TABLE t AS SELECT 7 AS n");
    production.kill();
    production.resume();
    assert_eq!(production.psql("SELECT n FROM t"), "7");

    let standby = production.standby(ProductionOptions::default());
    assert_eq!(standby.psql("SELECT n, pg_is_in_recovery() FROM t"), "7|t");
    standby.promote();
    standby.psql("INSERT INTO t VALUES (8)");

    let (url, data) = (production.url("postgres"), production.data());
    assert!(postgres::Client::connect(&url, postgres::NoTls).is_ok());
    assert!(postgres::Client::connect(&url.replace("prod-secret", "guess"), postgres::NoTls).is_err());
    production.restart();
    let pid = production.pid().unwrap();
    drop(production);
    assert!(!data.exists());
    assert!(wait_until(Duration::from_secs(5), || !std::path::Path::new(&format!("/proc/{pid}")).exists()));
}

#[test]
fn file_systems_are_mounted_and_gone_again() {
    for (kind, name) in [(FsKind::Xfs, "xfs"), (FsKind::Btrfs, "btrfs"), (FsKind::Ext4, "ext4")] {
        let Some(fs) = LoopFs::new(kind, 400) else { return };
        let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
        let path = fs.path().display().to_string();
        assert!(mounts().contains(&format!(" {path} {name} ")), "{name}");
        drop(fs);
        assert!(!mounts().contains(&path));
    }
}
