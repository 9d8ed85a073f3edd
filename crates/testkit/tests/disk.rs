//! The disk that remembers: what was synced is there after every crash, what was not may be.

#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::fs::{self, File};
use std::io::Write;

use pando_testkit::{FsKind, RecordedDisk, Seed};

#[test]
fn what_was_synced_survives_every_crash_and_of_the_rest_some() {
    for (kind, megabytes) in [(FsKind::Btrfs, 256), (FsKind::Xfs, 320), (FsKind::Ext4, 64)] {
        let mut seed = Seed::from_env("PANDO_SEED", 7);
        let Some(mut disk) = RecordedDisk::new(kind, megabytes) else { return };
        let mut synced = Vec::new();
        for number in 0..40 {
            let path = disk.path().join(format!("file-{number}"));
            let mut file = File::create(&path).unwrap();
            file.write_all(number.to_string().repeat(3000).as_bytes()).unwrap();
            if number % 2 == 0 {
                file.sync_all().unwrap();
                synced.push((number, disk.now()));
            }
        }
        let (begin, end) = (synced[0].1, disk.now());
        assert!(disk.flushes() >= 20, "{kind:?}: {}", disk.flushes());
        disk.pull_the_plug();
        let mut lost = 0;
        for point in 0..4 {
            let crash = disk.crash(begin + (end - begin) * point / 3, &mut seed);
            for (number, _) in synced.iter().filter(|(_, at)| *at <= crash.at) {
                let text = fs::read_to_string(disk.path().join(format!("file-{number}"))).unwrap();
                assert_eq!(text, number.to_string().repeat(3000), "{kind:?}, {crash:?}, {seed}");
            }
            lost += synced.len()
                - synced.iter().filter(|(number, _)| disk.path().join(format!("file-{number}")).exists()).count();
            disk.leave();
        }
        assert!(lost > 10, "{kind:?}: early crashes lose what came later");
    }
}
