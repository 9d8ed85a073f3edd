//! The heartbeat, one beat at a time: mirrors that lose production, clones whose servers die, leases.

use std::sync::Arc;

use pando_catalog::CloneRecord;
use pando_engine::Link;
use pando_host::FailAction;
use pando_model::{AppState, CloneState};
use pando_runtime::UnitState;

use super::agree::{complaints, digest, open_operations};
use super::kit::{Kit, go, name, request};
use crate::fault::Fault;
use crate::follow::{follow_once, keep_once, look_after_clones, retry_stuck};
use crate::verbs::{clone, lease, remove};

fn well(kit: &Kit) {
    assert_eq!(complaints(kit), Vec::<String>::new());
}

fn events(kit: &Kit, kind: &str) -> usize {
    kit.world.catalog.events(0).unwrap().iter().filter(|event| event.kind == kind).count()
}

fn stretches(kit: &Kit) -> usize {
    let owner = kit.owner("shop");
    let held = &owner.sources[&name("db")];
    held.engine.stretches(&held.seat.log).unwrap().len()
}

#[test]
fn a_lost_mirror_is_made_anew_and_its_timeline_stays() {
    let kit = Kit::new();
    kit.link(true);
    let before = kit.snapshots("shop");
    kit.engine.set_link(Link::Lost("the log is gone".to_owned()));
    kit.pulse();
    assert_eq!(kit.app("shop").state, AppState::Rebasing);
    kit.pulse();
    assert_eq!(events(&kit, "mirror-lost"), 1);
    kit.engine.set_link(Link::Following);
    kit.keep();
    assert_eq!((kit.app("shop").state, stretches(&kit)), (AppState::Following, 2));
    let after = kit.snapshots("shop");
    assert!(before.iter().all(|old| after.iter().any(|one| one.id == old.id)) && after.len() == before.len() + 1);
    well(&kit);
}

#[test]
fn a_copy_that_gave_up_is_made_in_another_way_and_noted_also_when_it_is_one_anew() {
    let kit = Kit::new();
    let notes = || kit.app("shop").sources[&name("db")].notes.clone();
    kit.link(false);
    assert_eq!(notes(), Vec::<String>::new());
    kit.engine.set_gives_up(true);
    kit.engine.set_link(Link::Lost("the log is gone".to_owned()));
    kit.pulse();
    kit.engine.set_link(Link::Following);
    kit.keep();
    assert_eq!(
        (kit.app("shop").state, notes()),
        (AppState::Following, vec!["it was copied in another way".to_owned()])
    );
    assert_eq!(events(&kit, "first-copy"), 1);
    well(&kit);
}

#[test]
fn an_interrupted_new_copy_is_begun_again() {
    for point in ["mark", "stop", "copy", "settle", "follow", "snapshot", "show"] {
        let mut kit = Kit::new();
        kit.link(false);
        kit.engine.set_link(Link::Lost("the log is gone".to_owned()));
        kit.pulse();
        kit.engine.set_link(Link::Following);
        kit.world.fail.arm(format!("rebase.{point}.after"), FailAction::Crash);
        assert!(matches!(keep_once(&kit.world, &kit.app_id()), Err(Fault::Crash)), "{point}");
        kit.restart();
        kit.pulse();
        kit.keep();
        kit.pulse();
        assert_eq!(kit.app("shop").state, AppState::Following, "{point}");
        well(&kit);
    }
}

#[test]
fn while_production_is_away_what_was_complete_stays_complete() {
    let kit = Kit::new();
    kit.link(false);
    kit.commit(4);
    let through = kit.world.live(&kit.app_id(), &name("db")).pulse.through;
    kit.engine.set_link(Link::Disconnected("no route".to_owned()));
    kit.pass(60);
    kit.pulse();
    assert_eq!(kit.app("shop").state, AppState::Disconnected);
    assert_eq!(kit.world.live(&kit.app_id(), &name("db")).pulse.through, through);
    kit.engine.set_link(Link::Following);
    kit.pulse();
    assert_eq!(kit.app("shop").state, AppState::Following);
    well(&kit);
}

#[test]
fn snapshots_are_taken_when_something_changed_and_prepared() {
    let kit = Kit::new();
    kit.link(false);
    let count = || kit.snapshots("shop").len();
    kit.pass(61);
    kit.pulse();
    kit.keep();
    assert_eq!(count(), 2, "a commit since the first one");
    assert!(kit.snapshots("shop").iter().all(|snapshot| snapshot.prepared.is_some()));
    kit.pass(61);
    kit.pulse();
    kit.keep();
    assert_eq!(count(), 2, "nothing changed");
    well(&kit);
}

#[test]
fn what_could_not_be_prepared_is_tried_again() {
    let mut kit = Kit::new();
    kit.link(false);
    let newest = |kit: &Kit| kit.snapshots("shop").pop().unwrap();
    let fails = |kit: &Kit| {
        kit.commit(5);
        kit.snapshot("shop");
        kit.world.fail.arm("prepare.start.before", FailAction::Error);
        kit.keep();
        kit.world.fail.disarm();
        assert_eq!(newest(kit).prepared, None);
    };
    fails(&kit);
    assert!(newest(&kit).problem.is_some());
    kit.keep();
    assert_eq!(newest(&kit).prepared, None, "it rests before it is tried again");
    kit.pass(600);
    kit.keep();
    assert!(newest(&kit).prepared.is_some());
    assert_eq!(newest(&kit).problem, None);
    // What a stop of the daemon cut off is made by the next one.
    kit.world.stop();
    fails(&kit);
    assert_eq!(newest(&kit).problem, None);
    kit.restart();
    kit.keep();
    assert!(newest(&kit).prepared.is_some());
    well(&kit);
}

#[test]
fn a_full_pool_pauses_the_mirror_and_room_lets_it_go_on() {
    let kit = Kit::new();
    kit.link(false);
    kit.pool.set_full(true);
    kit.keep();
    kit.pulse();
    assert_eq!(kit.app("shop").state, AppState::Paused);
    well(&kit);
    kit.pool.set_full(false);
    kit.keep();
    kit.pass(1);
    kit.pulse();
    assert_eq!(kit.app("shop").state, AppState::Following);
    well(&kit);
}

#[test]
fn the_units_of_a_mirror_are_left_alone_while_somebody_stops_them() {
    let kit = Kit::new();
    kit.link(false);
    let calls = kit.engine.calls("pulse");
    let claim = kit.world.try_claim(&["shop/units".to_owned()], "unlink").unwrap();
    assert!(follow_once(&kit.world, &kit.app_id()).unwrap());
    assert_eq!(kit.engine.calls("pulse"), calls);
    drop(claim);
    kit.pulse();
    assert!(kit.engine.calls("pulse") > calls);
}

#[test]
fn a_server_that_dies_is_started_again_and_one_that_always_dies_has_failed() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    let unit = kit.there("dev").sources[&name("db")].units["server"].clone();
    let dies = |seconds: i64| {
        kit.runtime.exit(&unit, Some(1));
        kit.pass(seconds);
        look_after_clones(&kit.world);
        kit.there("dev")
    };
    // Now and then is no harm.
    for _ in 0..10 {
        assert_eq!(dies(1).state, CloneState::Running);
        well(&kit);
        kit.pass(30);
        look_after_clones(&kit.world);
    }
    // In a full pool none can live, and none is blamed for that.
    kit.pool.set_full(true);
    for _ in 0..10 {
        let waits = dies(30);
        assert_eq!(waits.state, CloneState::Running);
        assert!(waits.problem.unwrap().contains("room"));
        assert!(!matches!(kit.world.runtime.state(&unit).unwrap(), UnitState::Running { .. }));
    }
    kit.pool.set_full(false);
    look_after_clones(&kit.world);
    assert_eq!(kit.there("dev").problem, None);
    well(&kit);
    // Again and again: it is started later each time, and in the end no more.
    assert_eq!(dies(0).state, CloneState::Running);
    assert!(!matches!(kit.world.runtime.state(&unit).unwrap(), UnitState::Running { .. }), "at once");
    kit.pass(1);
    look_after_clones(&kit.world);
    well(&kit);
    for _ in 0..3 {
        assert_eq!(dies(10).state, CloneState::Running);
        well(&kit);
    }
    kit.runtime.write_log(&unit, "FATAL:  the disk is on fire\n");
    let failed = dies(10);
    assert_eq!(failed.state, CloneState::Failed);
    assert!(failed.problem.unwrap().contains("the disk is on fire"));
    look_after_clones(&kit.world);
    well(&kit);
    kit.refresh("dev");
    assert_eq!((kit.there("dev").state, kit.there("dev").problem), (CloneState::Running, None));
    well(&kit);
}

/// One whose files are damaged, say: it is told, made anew after a while, and not again and again.
#[test]
fn a_mirror_whose_server_dies_at_every_start_has_failed_and_is_made_anew_once() {
    let kit = Kit::new();
    kit.link(false);
    let unit = kit.owner("shop").sources[&name("db")].units["server"].clone();
    let following = || kit.engine.set_link(Link::Following);
    let dies = |seconds: i64| {
        kit.runtime.write_log(&unit, "[ERROR] the log cannot be read\n");
        kit.runtime.exit(&unit, Some(1));
        kit.engine.set_link(Link::Disconnected("nobody answers".to_owned()));
        kit.pass(seconds);
        kit.pulse();
        kit.app("shop")
    };
    // It is started later each time, and what died now and then has not failed.
    for _ in 0..10 {
        dies(1);
        following();
        kit.pass(30);
        kit.pulse();
        assert_eq!(kit.app("shop").state, AppState::Following);
    }
    // One that Pando itself starts anew does not die.
    for _ in 0..40 {
        kit.engine.set_link(Link::Restart("its password is another".to_owned()));
        kit.pass(10);
        kit.pulse();
    }
    kit.engine.set_link(Link::Disconnected("nobody answers".to_owned()));
    kit.pass(1);
    kit.pulse();
    assert_eq!(kit.app("shop").state, AppState::Disconnected);
    following();
    kit.pass(30);
    kit.pulse();
    for _ in 0..5 {
        let app = dies(15);
        assert_eq!((app.state, app.problem.as_deref()), (AppState::Disconnected, Some("db: nobody answers")));
    }
    let app = dies(15);
    assert_eq!(app.state, AppState::Failed);
    let told = app.problem.unwrap();
    assert!(told.contains("dies at every start") && told.contains("the log cannot be read"), "{told}");
    well(&kit);

    let before = stretches(&kit);
    while kit.app("shop").state == AppState::Failed {
        dies(19);
    }
    assert_eq!((kit.app("shop").state, events(&kit, "mirror-lost")), (AppState::Rebasing, 1));
    following();
    kit.keep();
    assert_eq!((kit.app("shop").state, stretches(&kit)), (AppState::Following, before + 1));
    well(&kit);

    // This machine is at fault, as it seems: it is no use.
    for _ in 0..60 {
        dies(19);
    }
    assert_eq!((kit.app("shop").state, events(&kit, "mirror-lost")), (AppState::Failed, 1));
    following();
    kit.pass(30);
    kit.pulse();
    assert_eq!((kit.app("shop").state, kit.app("shop").problem), (AppState::Following, None));
    well(&kit);
}

#[test]
fn the_receiver_of_a_recording_clone_is_started_again() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", true);
    let unit = kit.there("dev").sources[&name("db")].units["receiver"].clone();
    kit.runtime.exit(&unit, None);
    look_after_clones(&kit.world);
    well(&kit);
}

fn lend(kit: &Kit, seconds: i64) {
    go(&kit.world, &["dev"], |world| lease::Lease::new(world, name("dev"), Some(seconds))).unwrap();
}

#[test]
fn a_lease_is_warned_of_once_may_be_renewed_and_ends() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    lend(&kit, 3600);
    look_after_clones(&kit.world);
    assert_eq!(events(&kit, "lease-ends-soon"), 0);
    kit.pass(3100);
    look_after_clones(&kit.world);
    look_after_clones(&kit.world);
    assert_eq!(events(&kit, "lease-ends-soon"), 1);
    lend(&kit, 3600);
    kit.pass(3100);
    look_after_clones(&kit.world);
    assert_eq!(events(&kit, "lease-ends-soon"), 2);
    kit.pass(501);
    {
        let _busy = kit.world.try_claim(&["dev".to_owned()], "refresh").unwrap();
        look_after_clones(&kit.world);
        assert!(kit.clone_of("dev").is_some());
    }
    look_after_clones(&kit.world);
    assert!(kit.clone_of("dev").is_none());
    assert_eq!(events(&kit, "lease-ended"), 1);
    well(&kit);
}

#[test]
fn a_parent_whose_lease_has_ended_goes_after_its_children() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    lend(&kit, 60);
    go(&kit.world, &["child"], |world| clone::Clone::new(world, request("dev", None, "child"))).unwrap();
    kit.pass(61);
    look_after_clones(&kit.world);
    // Until then it is looked after, and why it is still there is told once.
    kit.runtime.exit(&kit.there("dev").sources[&name("db")].units["server"], Some(1));
    kit.pass(1);
    look_after_clones(&kit.world);
    well(&kit);
    let events = kit.world.catalog.events(0).unwrap();
    let told: Vec<_> = events.iter().filter(|event| event.kind == "lease-waits").collect();
    assert!(told.len() == 1 && told[0].text.contains("dev is the parent of: child"), "{told:?}");
    go(&kit.world, &["child"], |world| crate::verbs::remove::Remove::new(world, name("child"))).unwrap();
    look_after_clones(&kit.world);
    assert!(kit.world.catalog.all::<CloneRecord>().unwrap().is_empty());
    well(&kit);
}

#[test]
fn a_former_state_goes_after_an_hour() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    kit.refresh("dev");
    look_after_clones(&kit.world);
    assert!(kit.there("dev").former.is_some());
    kit.pass(3601);
    look_after_clones(&kit.world);
    assert!(kit.there("dev").former.is_none());
    well(&kit);
}

#[test]
fn a_removal_that_met_a_passing_trouble_is_finished_later() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    kit.world.fail.arm("rm.destroy.before", FailAction::Error);
    assert!(go(&kit.world, &["dev"], |world| remove::Remove::new(world, name("dev"))).is_err());
    kit.world.fail.disarm();
    assert_eq!(kit.there("dev").state, CloneState::Removing);
    retry_stuck(&kit.world);
    assert!(kit.clone_of("dev").is_some(), "it rests before it is tried again");
    kit.pass(60);
    retry_stuck(&kit.world);
    assert!(kit.clone_of("dev").is_none());
    well(&kit);
}

#[test]
fn an_operation_whose_thread_panicked_is_undone_by_the_heartbeat() {
    let kit = Kit::new();
    kit.link(false);
    let before = digest(&kit);
    for point in ["clone.stage.before", "clone.admit.after", "clone.show.before"] {
        kit.world.fail.arm(point, FailAction::Panic);
        let world = Arc::clone(&kit.world);
        let made = std::thread::spawn(move || {
            go(&world, &["dev"], |world| clone::Clone::new(world, request("shop", None, "dev"))).is_ok()
        });
        assert!(made.join().is_err(), "{point} was not passed");
        kit.world.fail.disarm();
        assert_eq!(open_operations(&kit).len(), 1, "{point}");
        retry_stuck(&kit.world);
        assert_eq!(complaints(&kit), Vec::<String>::new(), "{point}");
        assert_eq!(digest(&kit), before, "{point}");
    }
}
