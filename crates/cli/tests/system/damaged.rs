//! Mirrors and clones whose files are damaged, so that their servers die at every start: what is told of them, that what
//! there was before stays, that mirrors go on by themselves when the cause is gone, and that recording clones are rewound.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_testkit::{Daemon, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::chaos::world::{Kind, World};
use crate::cut_off::belongs;

/// Of which engines: a mirror of Redis would take in all of production's data once more, whatever its files say.
const KINDS: [Kind; 2] = [Kind::Postgres, Kind::Mariadb];

/// A mirror's tree.
fn mirror(pool: &Path, kind: Kind) -> PathBuf {
    let trees = fs::read_dir(pool.join("volumes")).unwrap().map(|entry| entry.unwrap().path().join("db"));
    let mut found = trees.filter(|tree| vital(tree, kind).exists());
    found.next().unwrap_or_else(|| panic!("no mirror of {kind:?} in {}", pool.display()))
}

/// The file of a tree without which its server does not start.
fn vital(tree: &Path, kind: Kind) -> PathBuf {
    tree.join(if kind == Kind::Postgres { "global/pg_control" } else { "ib_logfile0" })
}

/// Damages a tree, and kills its server, which has it open and does not see that. Answers with what mends it.
fn damage(daemon: &Daemon, tree: &Path, kind: Kind) -> (PathBuf, Vec<u8>) {
    let file = vital(tree, kind);
    let was = fs::read(&file).unwrap();
    fs::write(&file, vec![b'x'; was.len().min(16 << 10)]).unwrap();
    for pid in daemon.processes().into_iter().filter(|pid| belongs(*pid, &[tree.to_owned()])) {
        let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
    }
    (file, was)
}

#[test]
fn a_mirror_whose_server_dies_at_every_start_is_told_and_goes_on_when_it_can() {
    let Some(world) = World::start(None) else { return };
    let (stand, daemon) = (&world.stand, &world.stand.daemon);
    let pool = daemon.home().join("pool");
    let state = |kind: Kind| stand.json(&["show", kind.app()]);
    let until = |kind: Kind, wanted: &str| {
        let there = || state(kind)["state"] == wanted;
        assert!(wait_until(Duration::from_secs(90), there), "{}\n{}", state(kind), daemon.log());
    };
    let damaged = KINDS.map(|kind| damage(daemon, &mirror(&pool, kind), kind));
    for kind in KINDS {
        until(kind, "failed");
        let problem = state(kind)["problem"].as_str().unwrap().to_owned();
        assert!(problem.contains("its server dies at every start"), "{problem}");
    }
    let doctor = daemon.pando(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!((doctor.status.code(), text.matches("has failed").count()), (Some(1), 2), "{text}");
    let refused = daemon.pando(&["snapshot", Kind::Mariadb.app()]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("pando show blog"), "{text}");
    // What there was is there.
    for kind in KINDS {
        let name = format!("of-{}", kind.app());
        stand.json(&["clone", kind.app(), &name]);
        assert_eq!(kind.mark(stand.show(&name).url()).as_deref(), Ok("0"), "{kind:?}");
        stand.json(&["rm", &name]);
    }
    for (file, was) in damaged {
        fs::write(file, was).unwrap();
    }
    for kind in KINDS {
        until(kind, "following");
    }
    world.follows_again("damage that was mended");
    for kind in Kind::ALL {
        stand.json(&["unlink", kind.app()]);
    }
    stand.nothing_left();
}

#[test]
fn a_recording_clone_whose_files_are_damaged_is_rewound_to_its_last_second() {
    let Some(world) = World::start(None) else { return };
    let (stand, daemon) = (&world.stand, &world.stand.daemon);
    for kind in KINDS {
        let name = format!("dev-{}", kind.app());
        let copy = stand.copy_with(kind.app(), &name, &["--profile", "durable", "--record"]);
        kind.write(copy.url(), 41).unwrap();
        kind.write(copy.url(), 42).unwrap();
        let last = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1);
        let shown = || {
            let timeline = stand.json(&["timeline", &name]);
            let ranges = timeline["ranges"].as_array().unwrap();
            ranges.iter().any(|range| range["to"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() >= last)
        };
        assert!(wait_until(Duration::from_secs(60), shown), "{}", stand.json(&["timeline", &name]));
        damage(daemon, &copy.path("db").canonicalize().unwrap(), kind);
        let failed = || stand.show(&name).0["state"] == "failed";
        assert!(wait_until(Duration::from_secs(60), failed), "{}\n{}", stand.show(&name).0, world.logs(&name));
        let problem = stand.show(&name).0["problem"].as_str().unwrap().to_owned();
        assert!(problem.contains("its server dies at every start: "), "{problem}");
        let back = stand.json(&["rewind", &format!("{name}@{last}")]);
        assert_eq!((&back["state"], kind.read(stand.show(&name).url())), (&"running".into(), Ok(Some(42))), "{back}");
        stand.json(&["rm", &name]);
    }
    for kind in Kind::ALL {
        stand.json(&["unlink", kind.app()]);
    }
    stand.nothing_left();
}
