//! The machine dies under a daemon at work, thousands of times: its catalog alone, made as a crash would have left it from
//! what the daemon told the kernel (no file system in between, nothing is mounted; see `testkit`'s `writes.rs`).
//! Whatever was acknowledged is in it, of the rest the first part, and every record can be read.

use std::path::Path;
use std::time::Instant;

use pando_catalog::{
    AppRecord, BookmarkRecord, Catalog, CloneRecord, OperationRecord, Record, SnapshotRecord, VolumeRecord,
};
use pando_testkit::{Daemon, Seed, Writes, tools};

use crate::machine::{Ack, points};
use crate::stand::PANDO;

/// Users at work on an app of one directory, whose verbs take milliseconds.
fn work(daemon: &mut Daemon, writes: &Writes, files: &Path, rounds: usize) -> Vec<(u64, Ack)> {
    let mut acks = Vec::new();
    let mut note = |ack: Ack| acks.push((writes.now(), ack));
    for round in 0..rounds {
        std::fs::write(files.join("round"), round.to_string()).unwrap();
        let taken = daemon.pando_json(&["snapshot", "shop"]);
        note(Ack::Snapshot(taken["result"]["snapshot"].as_str().unwrap().to_owned()));
        let (name, mark) = (format!("c{round}"), format!("b{round}"));
        daemon.pando_json(&["clone", "shop", &name]);
        note(Ack::Clone { name: name.clone(), durable: false });
        daemon.pando_json(&["lease", &name, "--for", "8h"]);
        daemon.pando_json(&["bookmark", "shop", &mark]);
        note(Ack::Bookmark(mark));
        daemon.pando_json(&["refresh", &name]);
        if round % 3 != 0 {
            note(Ack::Going(name.clone()));
            daemon.pando_json(&["rm", &name]);
            note(Ack::Gone(name));
        }
        if round == rounds / 2 {
            // An end in peace writes the whole log back and removes it.
            daemon.restart();
        }
    }
    acks
}

fn all<R: Record>(catalog: &Catalog, told: &str) -> Vec<R> {
    catalog.all().unwrap_or_else(|error| panic!("{error:?}: {told}"))
}

fn judge(dir: &Path, acks: &[(u64, Ack)], at: u64, told: &str) {
    let catalog = Catalog::open(&dir.join("catalog.db")).unwrap_or_else(|error| panic!("{error:?}: {told}"));
    let clones: Vec<CloneRecord> = all(&catalog, told);
    let bookmarks: Vec<BookmarkRecord> = all(&catalog, told);
    let snapshots: Vec<SnapshotRecord> = all(&catalog, told);
    assert_eq!(all::<AppRecord>(&catalog, told).len(), 1, "{told}");
    all::<OperationRecord>(&catalog, told);
    all::<VolumeRecord>(&catalog, told);
    let has = |name: &str| clones.iter().any(|clone| clone.name.as_str() == name);
    let before = || acks.iter().filter(|(when, _)| *when <= at).map(|(_, ack)| ack);
    for ack in before() {
        match ack {
            Ack::Snapshot(id) => assert!(snapshots.iter().any(|one| one.id.as_str() == id), "{id} is lost: {told}"),
            Ack::Bookmark(name) => {
                assert!(bookmarks.iter().any(|one| one.name.as_str() == name), "{name} is lost: {told}");
            }
            Ack::Clone { name, .. } => {
                let going = before().any(|ack| matches!(ack, Ack::Going(other) if other == name));
                assert!(going || has(name), "{name} is lost: {told}");
            }
            Ack::Gone(name) => assert!(!has(name), "{name} is there again: {told}"),
            _ => {}
        }
    }
    // Events have numbers: of what was not acknowledged there is the first part, without holes.
    let numbers: Vec<u64> = catalog.events(0).unwrap().into_iter().map(|event| event.sequence).collect();
    assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]), "{numbers:?}: {told}");
}

#[test]
fn two_thousand_crashes_and_everything_acknowledged_is_in_the_catalog() {
    if !tools::require_root() || !tools::require("mkfs.btrfs") || !tools::require("rsync") {
        return;
    }
    let mut seed = Seed::from_env("PANDO_SEED", 7);
    let points = points(20) * 100;
    let files = tempfile::TempDir::new().unwrap();
    let mut daemon = Daemon::start(Path::new(PANDO));
    daemon.pando_json(&["link", "shop", &format!("files=file://{}", files.path().display())]);
    daemon.stop();
    let Some(writes) = Writes::of(&daemon.home().canonicalize().unwrap().join("catalog.db")) else { return };
    let env = writes.env();
    daemon.set_env(&env.each_ref().map(|(name, value)| (*name, value.as_str())));
    daemon.resume();
    let begun = Instant::now();
    let acks = work(&mut daemon, &writes, files.path(), 12 + points / 500);
    daemon.kill9();
    let mut past = writes.past();
    eprintln!("{} writes, {} syncs, {} acknowledged, {:?}", past.len(), past.syncs(), acks.len(), begun.elapsed());
    assert!(past.syncs() > acks.len(), "{} syncs", past.syncs());
    let mut places: Vec<usize> = (1..points).map(|_| seed.index(past.len())).collect();
    places.push(past.len());
    places.sort_unstable();
    for place in places {
        // In memory: nothing here waits for a disk.
        let dir = tempfile::TempDir::new_in("/dev/shm").unwrap();
        let at = past.crash(place, &mut seed, dir.path());
        judge(dir.path(), &acks, at, &format!("behind {place} of {}, {seed}", past.len()));
    }
    eprintln!("{points} crashes of the catalog, {:?}, {seed}", begun.elapsed());
    daemon.set_env(&[]);
    daemon.resume();
    for round in 0..12 + points / 500 {
        daemon.pando(&["rm", &format!("c{round}")]);
    }
    daemon.pando_json(&["unlink", "shop"]);
}
