//! `clone @latest` at several sizes, beside a snapshot, `postgres` and one query on the same prepared tree.

use pando_testkit::Production;

use super::bare::{Floor, snapshots};
use super::rig::{self, Table};

/// One size.
pub fn measure(table: &mut Table, scale: u32, rounds: usize) {
    let production: Production = rig::production(scale, &["fsync = off"]);
    let bytes = rig::bytes(&production);
    let daemon = rig::daemon();
    let (linking, ()) = rig::timed(|| rig::link(&daemon, &production, &["--snapshot-every", "1h"]));
    let prepared = snapshots(&daemon).into_iter().rev().find_map(|one| one.prepared).expect("a prepared snapshot");
    let mut floor = Floor::new(&daemon, production.bin());
    let (mut wall, mut inside, mut bare, mut own) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let name = format!("c{round}");
        let (took, shown) = rig::timed(|| daemon.pando_json(&["clone", "shop", &name]));
        let beside = floor.run(&prepared, &[], |_| {});
        // The first round warms both.
        if round > 0 {
            wall.push(rig::ms(took));
            inside.push(shown["timing"]["ready_ms"].as_f64().expect("a time"));
            bare.push(rig::ms(beside));
        }
        if round == rounds {
            std::thread::sleep(std::time::Duration::from_secs(8));
            let seen = daemon.pando_json(&["show", &name]);
            own.push(seen["unique_bytes"].as_f64().unwrap_or(f64::NAN) / 1e6);
        }
        rig::remove(&daemon, &name);
    }
    let label = rig::size(bytes);
    table.row(
        &format!("clone `@latest`, {label}: command begun to query answered"),
        &rig::spread(&wall),
        &format!("snapshot + `postgres` + query: {}", rig::spread(&bare)),
        &rig::ratio(&wall, &bare),
        "≤ 1.5",
    );
    table.row(
        &format!("the same, inside the daemon, {label}"),
        &rig::spread(&inside),
        "",
        &rig::ratio(&inside, &bare),
        "",
    );
    table.row(&format!("a fresh clone's own bytes, {label}"), &format!("{:.2} MB", own[0]), &label, "", "< 2 MB");
    table.row(
        &format!("link, {label}: until the first clone can be made"),
        &format!("{:.1} s", linking.as_secs_f64()),
        "",
        "",
        "",
    );
}
