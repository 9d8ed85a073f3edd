//! The system fails: each kind of call that writes, syncs, renames or removes fails in the daemon, at each place of
//! each verb in turn, with an I/O error or a full disk. The verb is done or fails in one line; nothing is left half
//! made, and the next try works.

use pando_testkit::{Call, Faults, Seed};

use crate::stand::Stand;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[test]
fn a_call_that_fails_fails_a_verb_in_one_line_and_leaves_nothing_half_made() {
    let Some(faults) = Faults::new() else { return };
    let Some(mut stand) = Stand::new() else { return };
    let mut seed = Seed::from_env("PANDO_SEED", 11);
    // Of all places so many are drawn for each verb and kind; `0`: all.
    let cases: usize = std::env::var("PANDO_POINTS").map_or(1, |text| text.parse().unwrap());
    stand.production.psql("CREATE TABLE mark AS SELECT 1 AS n");
    let env = faults.env();
    stand.daemon.set_env(&env.each_ref().map(|(name, value)| (*name, value.as_str())));
    stand.daemon.restart();
    stand.link(&["--snapshot-every", "60s"]);
    let verbs: [(&str, &[&str]); 4] = [
        ("clone", &["clone", "shop", "dev", "--profile", "durable"]),
        ("refresh", &["refresh", "dev"]),
        ("snapshot", &["snapshot", "shop"]),
        ("rm", &["rm", "dev"]),
    ];
    let (mut tried, mut struck, mut failed) = (0, 0, 0);
    for (verb, line) in verbs {
        let restore = |stand: &Stand| {
            let there = stand.daemon.pando(&["show", "dev"]).status.success();
            match (verb, there) {
                ("clone", true) => drop(stand.json(&["rm", "dev"])),
                ("refresh" | "rm", false) => drop(stand.json(&["clone", "shop", "dev"])),
                _ => {}
            }
        };
        restore(&stand);
        let kinds = [Call::Fsync, Call::Fdatasync, Call::Write, Call::Pwrite, Call::Rename, Call::Unlink];
        let before = kinds.map(|kind| faults.calls(kind));
        stand.json(line);
        let counts = kinds.map(|kind| faults.calls(kind));
        for (index, kind) in kinds.into_iter().enumerate() {
            let calls = counts[index] - before[index];
            let mut places: Vec<i32> = (1..=calls).collect();
            while cases > 0 && places.len() > cases {
                places.swap_remove(seed.index(places.len()));
            }
            for nth in places {
                restore(&stand);
                let error = if seed.once_in(2) { EIO } else { ENOSPC };
                let what = format!("{verb}: {kind:?} {nth} of {calls} fails with {error}, {seed}");
                faults.arm(kind, nth, error);
                let output = stand.daemon.pando(line);
                struck += usize::from(faults.disarm());
                tried += 1;
                let said = String::from_utf8_lossy(&output.stderr);
                if !output.status.success() {
                    failed += 1;
                    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{what}: {said}");
                    assert!(!said.contains("panicked"), "{what}: {said}");
                }
                // What got stuck goes on at the next start at the latest.
                stand.daemon.restart();
                stand.nothing_strange();
                let there = stand.daemon.pando(&["show", "dev"]);
                match there.status.code() {
                    Some(0) => assert_eq!(stand.copy_state("dev"), "running", "{what}\n{}", stand.daemon.log()),
                    code => assert_eq!(code, Some(3), "{what}: {there:?}\n{}", stand.daemon.log()),
                }
                let open = stand.json(&["ops"]).to_string();
                assert!(!open.contains("\"stuck\"") && !open.contains("\"undoing\""), "{what}: {open}");
            }
        }
    }
    eprintln!("{tried} faults, {struck} struck, {failed} failed a verb, {seed}");
    assert!(struck * 2 > tried, "{struck} of {tried}");
    stand.daemon.pando(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
}
