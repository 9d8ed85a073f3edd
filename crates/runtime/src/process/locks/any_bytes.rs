//! A lock file with anything in it: taken away, unless it names a process that lives and works there.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::{FIRST_LINE, clear};
use crate::conformance::spec;

/// As PostgreSQL writes it behind the process id.
const REST: &str = "\n/srv/data\n1795235836\n5432\n/run/pg\n127.0.0.1\n   263171         3\nready   \n";

fn cleared(lock: &Path, dir: &Path, bytes: &[u8]) -> bool {
    let mut unit = spec("/bin/true", &[]);
    unit.locks = vec![lock.to_owned()];
    unit.dir = dir.to_owned();
    fs::write(lock, bytes).expect("a lock");
    clear(&unit).expect("a file can be read and taken away");
    !lock.exists()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_lock_that_goes_unless_who_it_names_works_there(
        changes in proptest::collection::vec((0_usize..90, 0_usize..12, proptest::collection::vec(any::<u8>(), 0..8)), 0..4),
    ) {
        let (dir, here) = (tempfile::tempdir().expect("a directory"), std::env::current_dir().expect("ours"));
        let lock = dir.path().join("postmaster.pid");
        let mut bytes = format!("{}{REST}", std::process::id()).into_bytes();
        prop_assert!(!cleared(&lock, &here, &bytes), "we work here");
        for (at, less, more) in changes {
            let at = at.min(bytes.len());
            bytes.splice(at..(at + less).min(bytes.len()), more);
        }
        // Nobody works in a directory that was just made.
        prop_assert!(cleared(&lock, dir.path(), &bytes), "{:?}", String::from_utf8_lossy(&bytes));
        let first = bytes.get(..bytes.len().min(16)).unwrap_or_default();
        let first = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let names_nobody = !first.iter().any(u8::is_ascii_digit);
        prop_assert!(FIRST_LINE == 16 && (!names_nobody || cleared(&lock, &here, &bytes)), "{:?}", first);
    }
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(1_000, |text| text.parse().unwrap_or(1_000))
}
