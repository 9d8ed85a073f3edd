//! The contract of [`PoolDriver`], as functions that any driver must pass. They panic with what was
//! broken, as assertions do; [`all`] runs every one. Each leaves the pool as it found it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken contract is told by panicking")]

mod trees;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use pando_model::{PoolSnapshotId, VolumeId};

use crate::{Ensured, Inventory, PoolDriver, PoolError, Removed};

use trees::{describe, grow};

/// Runs the whole contract.
pub fn all(pool: &dyn PoolDriver) {
    mutations_repeated_are_done_once(pool);
    half_made_things_are_strangers(pool);
    snapshots_never_change(pool);
    parents_go_before_their_children(pool);
    trees_are_kept_whole(pool);
    empty_volumes_work(pool);
    unknown_things_are_refused_or_gone(pool);
    usage_counts_what_is_there(pool);
}

fn ids() -> (VolumeId, VolumeId, PoolSnapshotId) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = || NEXT.fetch_add(1, Ordering::Relaxed);
    (VolumeId::from_parts(number(), 7), VolumeId::from_parts(number(), 7), PoolSnapshotId::from_parts(number(), 7))
}

fn inventory(pool: &dyn PoolDriver) -> Inventory {
    pool.inventory().expect("an inventory")
}

fn clean(pool: &dyn PoolDriver, volumes: &[&VolumeId], snapshots: &[&PoolSnapshotId]) {
    for volume in volumes {
        pool.destroy_volume(volume).expect("a volume is destroyed");
    }
    for snapshot in snapshots {
        pool.destroy_snapshot(snapshot).expect("a snapshot is destroyed");
    }
    let left = inventory(pool);
    assert!(volumes.iter().all(|id| !left.volumes.contains(id)), "a destroyed volume is still listed");
    assert!(snapshots.iter().all(|id| !left.snapshots.contains(id)), "a destroyed snapshot is still listed");
    assert!(left.strangers.is_empty(), "strangers are left: {:?}", left.strangers);
}

/// A mutation repeated is a mutation done once, and says so.
pub fn mutations_repeated_are_done_once(pool: &dyn PoolDriver) {
    let (volume, copy, snapshot) = ids();
    assert_eq!(pool.create_volume(&volume).unwrap(), Ensured::Created);
    fs::write(pool.volume_path(&volume).join("file"), "one").unwrap();
    assert_eq!(pool.create_volume(&volume).unwrap(), Ensured::AlreadyThere);
    assert_eq!(pool.snapshot(&volume, &snapshot).unwrap(), Ensured::Created);
    fs::write(pool.volume_path(&volume).join("file"), "two").unwrap();
    assert_eq!(pool.snapshot(&volume, &snapshot).unwrap(), Ensured::AlreadyThere);
    assert_eq!(fs::read(pool.snapshot_path(&snapshot).join("file")).unwrap(), b"one");
    assert_eq!(pool.clone_volume(&snapshot, &copy).unwrap(), Ensured::Created);
    fs::write(pool.volume_path(&copy).join("file"), "three").unwrap();
    assert_eq!(pool.clone_volume(&snapshot, &copy).unwrap(), Ensured::AlreadyThere);
    assert_eq!(fs::read(pool.volume_path(&copy).join("file")).unwrap(), b"three");
    let there = inventory(pool);
    assert!(there.volumes.contains(&volume) && there.volumes.contains(&copy));
    assert!(there.snapshots.contains(&snapshot));
    assert_eq!(pool.destroy_volume(&copy).unwrap(), Removed::Deleted);
    assert_eq!(pool.destroy_volume(&copy).unwrap(), Removed::AlreadyGone);
    assert_eq!(pool.destroy_snapshot(&snapshot).unwrap(), Removed::Deleted);
    assert_eq!(pool.destroy_snapshot(&snapshot).unwrap(), Removed::AlreadyGone);
    // An id may be used again at once, even while its bytes are still being freed.
    assert!(matches!(pool.clone_volume(&snapshot, &copy), Err(PoolError::NoSnapshot(_))));
    assert_eq!(pool.snapshot(&volume, &snapshot).unwrap(), Ensured::Created);
    assert_eq!(fs::read(pool.snapshot_path(&snapshot).join("file")).unwrap(), b"two");
    clean(pool, &[&volume, &copy], &[&snapshot]);
}

/// What a crash left half made is no volume and no snapshot, and does not stand in the way.
pub fn half_made_things_are_strangers(pool: &dyn PoolDriver) {
    let (volume, copy, snapshot) = ids();
    pool.create_volume(&volume).unwrap();
    let half_volume = pool.volume_path(&copy).with_file_name(format!(".new-{copy}"));
    let half_snapshot = pool.snapshot_path(&snapshot).with_file_name(format!(".new-{snapshot}"));
    for half in [&half_volume, &half_snapshot] {
        fs::create_dir(half).unwrap();
        fs::write(half.join("half"), "made").unwrap();
    }
    let there = inventory(pool);
    assert!(!there.volumes.contains(&copy) && !there.snapshots.contains(&snapshot));
    assert_eq!(there.strangers.len(), 2, "half-made things are named: {:?}", there.strangers);
    assert_eq!(pool.snapshot(&volume, &snapshot).unwrap(), Ensured::Created);
    assert_eq!(pool.clone_volume(&snapshot, &copy).unwrap(), Ensured::Created);
    assert!(!pool.snapshot_path(&snapshot).join("half").exists());
    assert!(!pool.volume_path(&copy).join("half").exists());
    for half in [&half_volume, &half_snapshot] {
        // Drivers that make things in one call never leave any, and need not know the name.
        if pool.capabilities().constant_time && half.exists() {
            fs::remove_dir_all(half).unwrap();
        }
        assert!(!half.exists(), "a half-made thing is cleaned by the next call with its id");
    }
    clean(pool, &[&volume, &copy], &[&snapshot]);
}

/// A snapshot never changes, whatever happens to the volume it came from and to its clones.
pub fn snapshots_never_change(pool: &dyn PoolDriver) {
    let (volume, copy, snapshot) = ids();
    pool.create_volume(&volume).unwrap();
    let path = pool.volume_path(&volume);
    fs::create_dir(path.join("dir")).unwrap();
    fs::write(path.join("dir/kept"), vec![1; 100_000]).unwrap();
    fs::write(path.join("gone"), "soon").unwrap();
    pool.snapshot(&volume, &snapshot).unwrap();
    let before = describe(&pool.snapshot_path(&snapshot));
    pool.clone_volume(&snapshot, &copy).unwrap();
    assert_eq!(describe(&pool.volume_path(&copy)), before, "a clone starts as its snapshot");
    for path in [path, pool.volume_path(&copy)] {
        fs::write(path.join("dir/kept"), vec![2; 50_000]).unwrap();
        fs::remove_file(path.join("gone")).unwrap();
        fs::write(path.join("new"), "new").unwrap();
        assert_eq!(describe(&pool.snapshot_path(&snapshot)), before);
    }
    pool.destroy_volume(&copy).unwrap();
    pool.destroy_volume(&volume).unwrap();
    assert_eq!(describe(&pool.snapshot_path(&snapshot)), before);
    clean(pool, &[], &[&snapshot]);
}

/// Parents may go before their children, in any order.
pub fn parents_go_before_their_children(pool: &dyn PoolDriver) {
    let (volume, child, first) = ids();
    let (grandchild, _, second) = ids();
    pool.create_volume(&volume).unwrap();
    fs::write(pool.volume_path(&volume).join("file"), "kept").unwrap();
    pool.snapshot(&volume, &first).unwrap();
    pool.clone_volume(&first, &child).unwrap();
    pool.snapshot(&child, &second).unwrap();
    pool.clone_volume(&second, &grandchild).unwrap();
    pool.destroy_snapshot(&first).unwrap();
    pool.destroy_volume(&volume).unwrap();
    pool.destroy_snapshot(&second).unwrap();
    pool.destroy_volume(&child).unwrap();
    assert_eq!(fs::read(pool.volume_path(&grandchild).join("file")).unwrap(), b"kept");
    clean(pool, &[&grandchild], &[]);
}

/// Owner, mode, times, links, xattrs, ACLs, holes and strange names are kept by snapshot and clone.
pub fn trees_are_kept_whole(pool: &dyn PoolDriver) {
    let (volume, copy, snapshot) = ids();
    pool.create_volume(&volume).unwrap();
    grow(&pool.volume_path(&volume));
    let before = describe(&pool.volume_path(&volume));
    assert!(before.len() > 200, "the tree to keep is worth keeping");
    pool.snapshot(&volume, &snapshot).unwrap();
    assert_eq!(describe(&pool.snapshot_path(&snapshot)), before, "the snapshot is as its volume");
    pool.clone_volume(&snapshot, &copy).unwrap();
    assert_eq!(describe(&pool.volume_path(&copy)), before, "the clone is as its snapshot");
    clean(pool, &[&volume, &copy], &[&snapshot]);
}

/// An empty volume is made with mode 0755, and can be frozen and cloned.
pub fn empty_volumes_work(pool: &dyn PoolDriver) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (volume, copy, snapshot) = ids();
    pool.create_volume(&volume).unwrap();
    pool.snapshot(&volume, &snapshot).unwrap();
    pool.clone_volume(&snapshot, &copy).unwrap();
    for path in [pool.volume_path(&volume), pool.volume_path(&copy)] {
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o755);
        assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    }
    clean(pool, &[&volume, &copy], &[&snapshot]);
}

/// What is not there cannot be frozen or cloned, and destroying it is no error.
pub fn unknown_things_are_refused_or_gone(pool: &dyn PoolDriver) {
    let (volume, copy, snapshot) = ids();
    let refused = pool.snapshot(&volume, &snapshot);
    assert!(matches!(refused, Err(PoolError::NoVolume(id)) if id == volume));
    let refused = pool.clone_volume(&snapshot, &copy);
    assert!(matches!(refused, Err(PoolError::NoSnapshot(id)) if id == snapshot));
    assert_eq!(pool.destroy_volume(&volume).unwrap(), Removed::AlreadyGone);
    assert_eq!(pool.destroy_snapshot(&snapshot).unwrap(), Removed::AlreadyGone);
    clean(pool, &[], &[]);
}

/// The usage names nothing that is not there, and sees what a clone wrote.
pub fn usage_counts_what_is_there(pool: &dyn PoolDriver) {
    const WRITTEN: u64 = 4 << 20;
    let (volume, copy, snapshot) = ids();
    pool.create_volume(&volume).unwrap();
    pool.snapshot(&volume, &snapshot).unwrap();
    pool.clone_volume(&snapshot, &copy).unwrap();
    let file = fs::File::create(pool.volume_path(&copy).join("file")).unwrap();
    std::io::Write::write_all(&mut &file, &vec![0x5a; usize::try_from(WRITTEN).unwrap()]).unwrap();
    file.sync_all().unwrap();
    let fresh = (0..400).any(|_| {
        let usage = pool.usage().unwrap();
        assert!(usage.free_bytes <= usage.total_bytes);
        pando_host::Clock::sleep(&pando_host::SystemClock, std::time::Duration::from_millis(25));
        usage.volumes.get(&copy).is_some_and(|bytes| (WRITTEN..WRITTEN * 2).contains(bytes))
            && usage.volumes.get(&volume).is_some_and(|bytes| *bytes < WRITTEN)
    });
    assert!(fresh, "usage sees what was written within seconds: {:?}", pool.usage());
    clean(pool, &[&volume, &copy], &[&snapshot]);
    let usage = pool.usage().unwrap();
    assert!(!usage.volumes.contains_key(&copy) && !usage.snapshots.contains_key(&snapshot));
}
