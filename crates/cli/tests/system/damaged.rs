//! Mirrors whose files are damaged, so that their servers die at every start: what is told of them, that what there was
//! before stays, and that they go on by themselves when the cause is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_testkit::wait_until;
use rustix::process::{Pid, Signal, kill_process};

use crate::chaos::world::{Kind, World};
use crate::cut_off::belongs;

/// Whose mirrors: one of Redis would take in all of production's data once more, whatever its files say.
const KINDS: [Kind; 2] = [Kind::Postgres, Kind::Mariadb];

/// A mirror's tree, and the file without which its server does not start.
fn vital(pool: &Path, kind: Kind) -> (PathBuf, PathBuf) {
    let file = if kind == Kind::Postgres { "global/pg_control" } else { "ib_logfile0" };
    let trees = fs::read_dir(pool.join("volumes")).unwrap().map(|entry| entry.unwrap().path().join("db"));
    let found = trees.map(|tree| (tree.clone(), tree.join(file))).find(|(_, file)| file.exists());
    found.unwrap_or_else(|| panic!("no mirror of {kind:?} in {}", pool.display()))
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
    let damaged: Vec<(PathBuf, Vec<u8>)> = KINDS
        .iter()
        .map(|kind| {
            let (tree, file) = vital(&pool, *kind);
            let was = fs::read(&file).unwrap();
            // Written over while it runs, so that none starts between.
            fs::write(&file, vec![b'x'; was.len().min(16 << 10)]).unwrap();
            for pid in daemon.processes().into_iter().filter(|pid| belongs(*pid, std::slice::from_ref(&tree))) {
                let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
            }
            (file, was)
        })
        .collect();
    for kind in KINDS {
        until(kind, "failed");
        let problem = state(kind)["problem"].as_str().unwrap().to_owned();
        assert!(problem.contains("its server dies at every start"), "{problem}");
        eprintln!("{problem}");
    }
    let doctor = daemon.pando(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!((doctor.status.code(), text.matches("has failed").count()), (Some(1), 2), "{text}");
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
