//! Choosing, making, opening and discarding pools, and what only one driver promises.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod images;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use pando_host::{Clock, SystemClock, Tool};
use pando_model::{PoolSnapshotId, VolumeId};
use pando_pool::{
    DriverKind, Ensured, PoolConfig, PoolDriver, PoolError, Removed, SimPool, choose, conformance, create, discard,
    open,
};
use rustix::mount::{UnmountFlags, unmount};

fn volume(number: u64) -> VolumeId {
    VolumeId::from_parts(number, 1)
}

fn tree(number: u64) -> PoolSnapshotId {
    PoolSnapshotId::from_parts(number, 1)
}

fn made(driver: DriverKind, root: &Path) -> Box<dyn PoolDriver> {
    let config = PoolConfig { driver, root: root.to_owned(), image: None };
    create(&config).unwrap();
    open(&config).unwrap()
}

/// Runs something as a user without rights, on a thread of its own, so that the test stays root.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use rustix::process::{Gid, Uid};
    let nobody = || {
        rustix::thread::set_thread_res_gid(Gid::from_raw(65534), Gid::from_raw(65534), Gid::from_raw(65534)).unwrap();
        rustix::thread::set_thread_res_uid(Uid::from_raw(65534), Uid::from_raw(65534), Uid::from_raw(65534)).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(nobody).join().unwrap())
}

#[test]
fn a_home_without_shared_blocks_gets_an_image_that_survives_a_reboot() {
    let Some(home) = images::Image::make("ext4", "") else { return };
    let home = home.path().join("home of pando");
    let (config, words) = choose(&home, None, None).unwrap();
    let image = config.image.clone().unwrap();
    assert_eq!(config.driver, DriverKind::Btrfs);
    assert!(image.size < 1 << 30, "no more than what fits: {words:?}");
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "choosing leaves nothing");

    assert!(open(&config).is_err(), "what was not made cannot be opened");
    let mut huge = config.clone();
    huge.image.as_mut().unwrap().size = 1 << 62;
    assert!(create(&huge).is_err());
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "what cannot be made leaves nothing");
    create(&config).unwrap();
    create(&config).unwrap();
    let pool = open(&config).unwrap();
    conformance::all(&*pool);
    pool.create_volume(&volume(1)).unwrap();
    assert!(matches!(discard(&config), Err(PoolError::Unfit { why, .. }) if why.contains("vol-")));
    drop(pool);

    unmount(&config.root, UnmountFlags::empty()).unwrap();
    assert_eq!(attached(&image.file), "", "the loop device goes with the mount");
    let bare = PoolConfig { image: None, ..config.clone() };
    assert!(matches!(open(&bare), Err(PoolError::Unfit { .. })), "a bare mount point is no pool");

    let stored = serde_json::to_string(&config).unwrap();
    let pool = open(&serde_json::from_str::<PoolConfig>(&stored).unwrap()).unwrap();
    assert_eq!(pool.inventory().unwrap().volumes, [volume(1)]);
    pool.destroy_volume(&volume(1)).unwrap();
    drop(pool);
    discard(&config).unwrap();
    discard(&config).unwrap();
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "discarding leaves nothing");
}

fn attached(file: &Path) -> String {
    let losetup = Tool::find("losetup", "mount").unwrap().command();
    losetup.args(["--noheadings", "--associated"]).arg(file).run().unwrap().text()
}

#[test]
fn a_pool_is_chosen_by_what_the_place_can_do() {
    let chosen = |path: &Path| {
        let (config, words) = choose(Path::new("/no/such/home"), Some(path), None).unwrap();
        assert_eq!(config.root, path);
        assert_eq!(fs::read_dir(path).unwrap().count(), 0, "choosing leaves nothing");
        create(&config).unwrap();
        drop(open(&config).unwrap());
        discard(&config).unwrap();
        (config.driver, words.join("\n"))
    };
    if let Some(image) = images::Image::make("ext4", "") {
        let (driver, words) = chosen(&image.path().join("pool"));
        assert!(driver == DriverKind::Copy && words.contains("full copy"), "{words}");
    }
    if let Some(image) = images::Image::make("xfs", "") {
        assert_eq!(chosen(&image.path().join("pool")).0, DriverKind::Reflink);
    }
    if let Some(image) = images::Image::make("btrfs", "") {
        assert_eq!(chosen(&image.path().join("pool")).0, DriverKind::Btrfs);
    }
}

#[test]
fn a_user_without_rights_gets_what_is_possible() {
    if let Some(image) = images::Image::make("ext4", "") {
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let (config, words) = as_nobody(|| choose(&image.path().join("home"), None, Some(1 << 30))).unwrap();
        assert_eq!(config.driver, DriverKind::Copy);
        assert!(words.iter().any(|words| words.contains("takes root")), "{words:?}");
        as_nobody(|| {
            create(&config).unwrap();
            conformance::all(&*open(&config).unwrap());
        });
    }
    for (options, exact) in [("noatime", false), ("user_subvol_rm_allowed", false)] {
        let Some(image) = images::Image::make("btrfs", options) else { continue };
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o777)).unwrap();
        as_nobody(|| {
            let (config, words) = choose(&image.path().join("home"), None, None).unwrap();
            assert_eq!(config.driver, DriverKind::Btrfs);
            assert_eq!(words[0].contains("file by file"), options == "noatime", "{words:?}");
            create(&config).unwrap();
            let pool = open(&config).unwrap();
            assert_eq!(pool.capabilities().exact_exclusive, exact);
            conformance::all(&*pool);
        });
    }
}

#[test]
fn exclusive_bytes_are_exact_on_btrfs() {
    const SIZE: usize = 3 << 20;
    let Some(image) = images::Image::make("btrfs", "noatime") else { return };
    let pool = made(DriverKind::Btrfs, &image.path().join("pool"));
    assert!(pool.capabilities().exact_exclusive);
    pool.create_volume(&volume(1)).unwrap();
    let file = pool.volume_path(&volume(1)).join("file");
    fs::write(&file, vec![1; SIZE]).unwrap();
    pool.snapshot(&volume(1), &tree(1)).unwrap();
    pool.clone_volume(&tree(1), &volume(2)).unwrap();
    let settle = |want: [u64; 3]| {
        let mut last = Default::default();
        for _ in 0..200 {
            last = pool.usage().unwrap();
            let bytes = [last.volumes.get(&volume(1)), last.volumes.get(&volume(2)), last.snapshots.get(&tree(1))];
            if bytes == want.each_ref().map(Some) {
                return;
            }
            SystemClock.sleep(Duration::from_millis(20));
        }
        panic!("expected {want:?}: {last:?}");
    };
    settle([0, 0, 0]);
    let rewrite = |number| {
        let file = pool.volume_path(&volume(number)).join("file");
        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
        file.write_all_at(&vec![2; SIZE], 0).unwrap();
        file.sync_all().unwrap();
    };
    let size = SIZE as u64;
    rewrite(2);
    settle([0, size, 0]);
    rewrite(1);
    settle([size, size, size]);
}

/// The image is copied after each call, while nothing was synced: what a crash of the machine would have
/// left at that moment must hold what was answered until then.
#[test]
fn what_btrfs_answered_survives_a_crash_of_the_machine() {
    let Some(image) = images::Image::make("btrfs", "noatime") else { return };
    let pool = made(DriverKind::Btrfs, &image.path().join("pool"));
    let content = vec![7; 1 << 20];
    let mut crashes = Vec::new();
    let mut step = |work: &dyn Fn()| {
        work();
        crashes.push((image.frozen(), pool.inventory().unwrap()));
    };
    step(&|| assert_eq!(pool.create_volume(&volume(1)).unwrap(), Ensured::Created));
    fs::write(pool.volume_path(&volume(1)).join("file"), &content).unwrap();
    step(&|| assert_eq!(pool.snapshot(&volume(1), &tree(1)).unwrap(), Ensured::Created));
    step(&|| assert_eq!(pool.clone_volume(&tree(1), &volume(2)).unwrap(), Ensured::Created));
    step(&|| assert_eq!(pool.destroy_volume(&volume(1)).unwrap(), Removed::Deleted));
    step(&|| assert_eq!(pool.destroy_snapshot(&tree(1)).unwrap(), Removed::Deleted));
    drop(pool);
    drop(image);
    for (mut crashed, before) in crashes {
        crashed.thaw();
        let config = PoolConfig { driver: DriverKind::Btrfs, root: crashed.path().join("pool"), image: None };
        let pool = open(&config).unwrap();
        assert_eq!(pool.inventory().unwrap(), before);
        for path in before.snapshots.iter().map(|id| pool.snapshot_path(id)) {
            assert!(fs::read(path.join("file")).unwrap() == content, "the bytes of {}", path.display());
        }
    }
}

#[test]
fn a_full_pool_says_so_and_keeps_nothing_half_made() {
    let Some(image) = images::Image::make("tmpfs", "size=1m") else { return };
    let pool = made(DriverKind::Copy, &image.path().join("pool"));
    pool.create_volume(&volume(1)).unwrap();
    fs::write(pool.volume_path(&volume(1)).join("file"), vec![1; 700_000]).unwrap();
    assert!(matches!(pool.snapshot(&volume(1), &tree(1)), Err(PoolError::Full(_))));
    let there = pool.inventory().unwrap();
    assert!(there.snapshots.is_empty() && there.strangers.is_empty(), "{there:?}");
    fs::write(pool.volume_path(&volume(1)).join("file"), "small").unwrap();
    assert_eq!(pool.snapshot(&volume(1), &tree(1)).unwrap(), Ensured::Created);
}

#[test]
fn what_a_dead_process_was_deleting_is_deleted_at_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    drop(made(DriverKind::Copy, dir.path()));
    let left = dir.path().join("volumes/.old-vol-0000000000000000-0");
    fs::create_dir_all(left.join("a/b")).unwrap();
    fs::write(left.join("a/b/c"), "c").unwrap();
    fs::set_permissions(left.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
    let pool = made(DriverKind::Copy, dir.path());
    assert!(pool.inventory().unwrap().strangers.is_empty());
    assert!((0..200).any(|_| {
        SystemClock.sleep(Duration::from_millis(10));
        !left.exists()
    }));
}

#[test]
fn foreign_names_are_strangers_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let pool = made(DriverKind::Copy, dir.path());
    fs::create_dir(dir.path().join("volumes/mine")).unwrap();
    fs::write(dir.path().join("snapshots/tree-0000000000000000"), "a file").unwrap();
    let there = pool.inventory().unwrap();
    assert!(there.snapshots.is_empty());
    assert_eq!(there.strangers, ["volumes/mine", "snapshots/tree-0000000000000000"]);
    let config = PoolConfig { driver: DriverKind::Copy, root: dir.path().to_owned(), image: None };
    assert!(matches!(discard(&config), Err(PoolError::Unfit { .. })));
    assert!(dir.path().join("volumes/mine").exists());
}

#[test]
fn the_simulation_fails_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let pool = SimPool::open(dir.path()).unwrap();
    pool.fail_next();
    assert!(pool.create_volume(&volume(1)).is_err());
    assert_eq!(pool.create_volume(&volume(1)).unwrap(), Ensured::Created);
    pool.set_full(true);
    assert!(matches!(pool.snapshot(&volume(1), &tree(1)), Err(PoolError::Full(_))));
    assert_eq!(pool.usage().unwrap().free_bytes, 0);
    pool.set_full(false);
    pool.snapshot(&volume(1), &tree(1)).unwrap();
    pool.die_halfway_next();
    assert!(pool.clone_volume(&tree(1), &volume(2)).is_err());
    assert_eq!(pool.inventory().unwrap().strangers, [format!("volumes/.new-{}", volume(2))]);
    assert_eq!(pool.clone_volume(&tree(1), &volume(2)).unwrap(), Ensured::Created);
    assert_eq!(pool.destroy_volume(&volume(2)).unwrap(), Removed::Deleted);
    assert!(pool.inventory().unwrap().strangers.is_empty());
}
