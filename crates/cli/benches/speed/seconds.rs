//! Clones at random seconds under load, beside a plain PostgreSQL recovery of the same snapshot to the same
//! position from a plain archive, in the order clone, recovery, recovery, clone.

use std::path::Path;
use std::time::Duration;

use super::bare::{Floor, snapshots};
use super::rig::{self, Table};

/// So many random seconds; every fifth one has its floor measured.
pub fn measure(table: &mut Table, scale: u32, count: usize) {
    let archive = tempfile::Builder::new().prefix("archive-").tempdir_in("/tmp").expect("a directory");
    std::fs::set_permissions(archive.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    let command = format!("archive_command = 'install -m 644 %p {}/%f'", archive.path().display());
    // Checkpoints as on a server that is not idle; replay begins at the last one before a snapshot.
    let production =
        rig::production(scale, &["archive_mode = on", command.as_str(), "checkpoint_timeout = '1min'", "fsync = off"]);
    let daemon = rig::daemon();
    rig::link(&daemon, &production, &["--snapshot-every", "30s"]);
    let span = if count > 20 { 180 } else { 45 };
    let begun = jiff::Timestamp::now();
    rig::pgbench(&production, &["-c", "4", "-T", &span.to_string(), "-R", "300", "--no-vacuum"]);
    production.psql("SELECT pg_switch_wal()");
    std::thread::sleep(Duration::from_secs(3));
    let trees = snapshots(&daemon);
    let mut floor = Floor::new(&daemon, production.bin());
    let (mut wall, mut beside, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..count {
        // An even spread with a step that shares no factor with the span stands in for chance, and repeats.
        let offset = 2 + (index * 37 + 11) % (span - 4);
        let moment = begun + Duration::from_secs(offset as u64);
        let target = format!("shop@{moment}");
        let clone = |name: String| {
            let (took, shown) = rig::timed(|| daemon.pando_json(&["clone", &target, &name]));
            rig::remove(&daemon, &name);
            (rig::ms(took), shown)
        };
        let (took, shown) = clone(format!("s{index}"));
        wall.push(took);
        if index % 5 != 0 {
            continue;
        }
        let tree = trees
            .iter()
            .find(|one| Some(one.id.as_str()) == shown["snapshot"].as_str())
            .and_then(|one| one.raw.clone());
        let Some((tree, position)) = tree.zip(shown["sources"]["db"]["position"].as_str()) else { continue };
        let settings = [
            format!("restore_command=cp {}/%f %p", archive.path().display()),
            format!("recovery_target_lsn={position}"),
            "recovery_target_action=promote".to_owned(),
            "recovery_target_timeline=current".to_owned(),
            "hot_standby=off".to_owned(),
            "primary_conninfo=".to_owned(),
            "primary_slot_name=".to_owned(),
        ];
        // Each second in turn: what one reads from the disk may stay in memory for the next.
        let mut recover = || rig::ms(floor.run(&tree, &settings, ready_for_recovery));
        beside.push(clone(format!("a{index}")).0);
        bare.extend([recover(), recover()]);
        beside.push(clone(format!("b{index}")).0);
    }
    table.row(
        &format!("clone at {count} random seconds, {} under 300 tps", rig::size(rig::bytes(&production))),
        &format!(
            "p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms",
            rig::percentile(&wall, 0.5),
            rig::percentile(&wall, 0.9),
            rig::percentile(&wall, 0.99)
        ),
        "",
        "",
        "",
    );
    table.row(
        &format!("{} of them beside their floor", bare.len()),
        &rig::spread(&beside),
        &format!("plain recovery from an archive: {}", rig::spread(&bare)),
        &rig::ratio(&beside, &bare),
        "≤ 1 + clone floor",
    );
}

fn ready_for_recovery(data: &Path) {
    for file in ["standby.signal", "postmaster.pid"] {
        let _ = std::fs::remove_file(data.join(file));
    }
    std::fs::write(data.join("recovery.signal"), "").expect("recovery.signal");
    let _ = std::fs::remove_dir_all(data.join("pg_replslot/pando_log"));
}
