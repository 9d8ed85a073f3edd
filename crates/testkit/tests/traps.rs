//! Every trap that has bitten users of backup, clone or branching tools has a test that carries its number: this reads
//! the names of all tests and fails when one has none. What the traps are stands in the tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A kind of traps: the letter of its tests, how many there are, and those that no test of a whole program on a real
/// server can meet, with the reason.
type Kind = (char, u32, &'static [(u32, &'static str)]);

const TRAPS: [Kind; 3] = [
    // PostgreSQL.
    ('t', 26, &[]),
    // MariaDB and MySQL.
    ('m', 16, &[]),
    // Redis.
    ('r', 9, &[(9, "how much an everysec AOF may lose is told, not prevented: README.md")]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The numbers in a test's name: `t04_t06_any_second_…`.
fn numbers(name: &str) -> impl Iterator<Item = (char, u32)> {
    name.split('_').map_while(|word| {
        let mut chars = word.chars();
        let kind = chars.next()?;
        let number = chars.as_str();
        (number.len() == 2).then(|| Some((kind, number.parse().ok()?)))?
    })
}

#[test]
fn every_trap_has_a_test_that_carries_its_number() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    sources(crates, &mut files);
    // Whether a test of a whole program is among them.
    let mut held: BTreeMap<(char, u32), bool> = BTreeMap::new();
    for file in &files {
        let whole = file.strip_prefix(crates).unwrap().iter().nth(1).is_some_and(|part| part == "tests");
        let text = fs::read_to_string(file).unwrap();
        let tests = text.split("#[test]").skip(1).filter_map(|rest| rest.split_once("fn ")?.1.split('(').next());
        for trap in tests.flat_map(numbers) {
            *held.entry(trap).or_default() |= whole;
        }
    }
    let mut missing = Vec::new();
    for (kind, count, excused) in TRAPS {
        for number in 1..=count {
            match held.get(&(kind, number)) {
                Some(true) => {}
                _ if excused.iter().any(|(trap, _)| *trap == number) => {}
                Some(false) => missing.push(format!("{kind}{number:02}: none on a real server")),
                None => missing.push(format!("{kind}{number:02}")),
            }
        }
    }
    assert!(missing.is_empty(), "traps without a test: {missing:?}");
}
