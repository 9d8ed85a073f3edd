//! The catalog against a real SQLite file.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;
use pando_model::{AppId, AppState, CloneId, OperationId, OperationState, Policy, VolumeId};

fn app(name: &str, seed: u32) -> AppRecord {
    AppRecord {
        id: AppId::from_parts(1, seed),
        name: name.parse().unwrap(),
        state: AppState::Linking,
        problem: None,
        policy: Policy::default(),
        set: Default::default(),
        stitches: None,
        volume: VolumeId::from_parts(1, seed),
        created_at: Timestamp::UNIX_EPOCH,
        copied_at: None,
        sources: Default::default(),
    }
}

#[test]
fn nobody_else_reads_it_nor_what_an_earlier_pando_left_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let modes = || {
        let each = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        each.map(|meta| meta.permissions().mode() & 0o777).collect::<Vec<_>>()
    };
    let catalog = Catalog::open(&path).unwrap();
    catalog.put(&app("shop", 1)).unwrap();
    assert_eq!(modes(), [0o600; 3]);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::set_permissions(entry.unwrap().path(), Permissions::from_mode(0o644)).unwrap();
    }
    let _again = Catalog::open(&path).unwrap();
    assert_eq!(modes(), [0o600; 3]);
}

#[test]
fn records_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    Catalog::open(&path).unwrap().put(&app("shop", 1)).unwrap();
    let catalog = Catalog::open(&path).unwrap();
    assert_eq!(catalog.all::<AppRecord>().unwrap().len(), 1);
    let id = app("shop", 1).id.to_string();
    assert_eq!(catalog.get::<AppRecord>(&id).unwrap().unwrap().name.as_str(), "shop");
    catalog.delete::<AppRecord>(&id).unwrap();
    catalog.delete::<AppRecord>(&id).unwrap();
    assert!(catalog.get::<AppRecord>(&id).unwrap().is_none());
}

#[test]
fn a_name_has_one_owner() {
    let catalog = Catalog::in_memory().unwrap();
    let name: Name = "shop".parse().unwrap();
    let (one, two) = (OwnerId::Clone(CloneId::from_parts(1, 1)), OwnerId::Clone(CloneId::from_parts(1, 2)));
    let take = |owner: &OwnerId| catalog.change(Durability::Synced, |change| change.take_name(&name, owner));
    take(&one).unwrap();
    take(&one).unwrap();
    assert!(matches!(take(&two), Err(CatalogError::NameTaken(_))));
    catalog.change(Durability::Synced, |change| change.free_names(&one)).unwrap();
    take(&two).unwrap();
    assert_eq!(catalog.owner(&name).unwrap(), Some(two));
}

#[test]
fn a_failed_change_changes_nothing() {
    let catalog = Catalog::in_memory().unwrap();
    let failed: Result<(), _> = catalog.change(Durability::Synced, |change| {
        change.put(&app("shop", 1))?;
        Err(CatalogError::NameTaken("shop".parse().unwrap()))
    });
    assert!(failed.is_err());
    assert!(catalog.all::<AppRecord>().unwrap().is_empty());
}

#[test]
fn a_newer_catalog_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    drop(Catalog::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Catalog::open(&path), Err(CatalogError::TooNew { found: 99, .. })));
}

#[test]
fn events_are_numbered_and_bounded() {
    let catalog = Catalog::in_memory().unwrap();
    let first = catalog.add_event(Timestamp::UNIX_EPOCH, "test", None, "one").unwrap();
    catalog.add_event(Timestamp::UNIX_EPOCH, "test", None, "two").unwrap();
    let after: Vec<String> = catalog.events(first).unwrap().into_iter().map(|event| event.text).collect();
    assert_eq!(after, ["two"]);
}

#[test]
fn old_operations_are_forgotten_unfinished_ones_never() {
    let catalog = Catalog::in_memory().unwrap();
    for (seed, state) in [OperationState::Running, OperationState::Done, OperationState::Failed, OperationState::Done]
        .into_iter()
        .enumerate()
    {
        let record = OperationRecord {
            id: OperationId::from_parts(u64::try_from(seed).unwrap(), 0),
            verb: "clone".to_owned(),
            called: None,
            subject: "dev".parse().unwrap(),
            state,
            doc: serde_json::Value::Null,
            steps: Vec::new(),
            progress: None,
            error: None,
            result: None,
            created_at: Timestamp::UNIX_EPOCH,
            finished_at: None,
        };
        catalog.put(&record).unwrap();
    }
    catalog.forget_operations(1).unwrap();
    let left: Vec<OperationState> =
        catalog.all::<OperationRecord>().unwrap().into_iter().map(|record| record.state).collect();
    assert_eq!(left, [OperationState::Running, OperationState::Done]);
}

/// Commits of one app each, some synced, and what a crash of the machine may have left of the others: cut at any
/// place, or with a hole (blocks reach a disk in any order).
#[test]
fn a_crash_of_the_machine_loses_only_the_newest_commits_and_no_synced_one() {
    let mut tried = 0;
    for synced in [1_u32, 4, 9] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let catalog = Catalog::open(&path).unwrap();
        for number in 1..=12 {
            let name = format!("shop{number}");
            if number <= synced { catalog.put(&app(&name, number)) } else { catalog.note(&app(&name, number)) }
                .unwrap();
        }
        let mut unsynced = Vec::new();
        catalog
            .pull_the_plug(|left| {
                unsynced = left.to_vec();
                Vec::new()
            })
            .unwrap();
        drop(catalog);
        let survivors = |left: &[u8]| {
            let crashed = tempfile::tempdir().unwrap();
            let copy = crashed.path().join("catalog.db");
            std::fs::copy(&path, &copy).unwrap();
            let log = [std::fs::read(dir.path().join("catalog.db-wal")).unwrap(), left.to_vec()].concat();
            std::fs::write(crashed.path().join("catalog.db-wal"), log).unwrap();
            let found = Catalog::open(&copy).unwrap().all::<AppRecord>().unwrap();
            let ids: Vec<_> = found.iter().map(|app| app.id.clone()).collect();
            let all: Vec<_> = (1..=12).map(|number| AppId::from_parts(1, number)).collect();
            assert!(ids.len() >= synced as usize && all.starts_with(&ids), "{} of 12, {synced} synced", ids.len());
            ids.len()
        };
        assert_eq!(survivors(&[]), synced as usize);
        assert_eq!(survivors(&unsynced), 12);
        for cut in (0..unsynced.len()).step_by(509) {
            survivors(&unsynced[..cut]);
            let mut hole = unsynced.clone();
            let end = (cut + 4096).min(hole.len());
            hole[cut..end].fill(0);
            survivors(&hole);
            tried += 2;
        }
    }
    assert!(tried > 300, "{tried}");
}
