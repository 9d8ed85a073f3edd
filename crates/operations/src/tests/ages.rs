//! What time does: how long a verb took, a restart of the machine, snapshots that outlive their log, schedules of clones without a log.

use std::time::Duration;

use pando_catalog::CloneRecord;
use pando_host::FailAction;
use pando_model::{CloneRequest, CloneState, LinkRequest, Policy, Profile};

use super::agree::complaints;
use super::kit::{Kit, go, name, request, shop};
use crate::facade::Pando;
use crate::fault::Fault;
use crate::follow::look_after_clones;
use crate::moments::mark;
use crate::verbs::{clone, link, refresh};
use crate::views;

fn told(kit: &Kit, kind: &str) -> Vec<String> {
    let events = kit.world.catalog.events(0).unwrap();
    events.into_iter().filter(|event| event.kind == kind).map(|event| event.text).collect()
}

#[test]
fn what_a_disposable_clone_is_and_was_does_not_survive_a_restart_of_the_machine_and_that_is_told() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    let kept = CloneRequest { profile: Some(Profile::Durable), ..request("shop", None, "kept") };
    go(&kit.world, &["kept"], |world| clone::Clone::new(world, kept)).unwrap();
    let state = |of: &str| (kit.there(of).state, kit.there(of).former.is_some());
    for of in ["dev", "kept"] {
        kit.refresh(of);
        assert_eq!(state(of), (CloneState::Running, true));
    }
    let pando = Pando::over(kit.world.clone());
    let boot = kit.world.home.boot_file();
    std::fs::write(&boot, "the one before").unwrap();
    for _ in 0..2 {
        pando.recover().unwrap();
        let why = "dev has failed: the machine was restarted, and a disposable clone does not survive that; refresh it";
        assert_eq!(told(&kit, "clone-failed"), [why]);
        assert_eq!(told(&kit, "undo-forgotten").len(), 1);
    }
    let undo =
        |of: &str| go(&kit.world, &[of], |world| refresh::Refresh::new(world, name(of), refresh::Origin::Former, None));
    let Err(Fault::Problem(problem)) = undo("dev") else { panic!("it was undone") };
    assert!(problem.message.contains("dev has no former state"), "{problem}");
    look_after_clones(&kit.world);
    assert_eq!((state("dev"), state("kept")), ((CloneState::Failed, false), (CloneState::Running, true)));
    undo("kept").unwrap();
    kit.refresh("dev");
    assert_eq!(state("dev"), (CloneState::Running, true));
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn a_recording_clone_of_directories_alone_has_its_snapshots() {
    let kit = Kit::new();
    let mut files = shop(true);
    files.sources.remove(0);
    go(&kit.world, &["shop"], |world| link::Link::new(world, files)).unwrap();
    for (clone, record, later) in [("dev", true, 2), ("plain", false, 0)] {
        kit.make_clone("shop", clone, record);
        let begun = kit.snapshots(clone).len();
        kit.pass(30);
        look_after_clones(&kit.world);
        assert_eq!(kit.snapshots(clone).len(), begun);
        for _ in 0..2 {
            kit.pass(61);
            look_after_clones(&kit.world);
        }
        assert_eq!(kit.snapshots(clone).len(), begun + later, "{clone}");
    }
    let first = kit.snapshots("dev")[1].id.to_string();
    let back = Some(first.parse().unwrap());
    go(&kit.world, &["dev"], |world| refresh::Refresh::new(world, name("dev"), refresh::Origin::Own, back)).unwrap();
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn a_snapshot_of_which_nothing_can_be_made_any_more_goes() {
    let kit = Kit::new();
    let policy = Some(Policy { snapshot_every_seconds: 60, log_keep_seconds: 600, ..Policy::default() });
    go(&kit.world, &["shop"], |world| link::Link::new(world, LinkRequest { policy, ..shop(false) })).unwrap();
    kit.commit(1);
    // The newest one is prepared, those before it are not: they are rolled forward.
    for value in 2..5 {
        kit.commit(value);
        kit.snapshot("shop");
    }
    kit.keep();
    let all = kit.snapshots("shop");
    let prepared = |index: usize| all[index].prepared.is_some();
    assert_eq!([0, 1, 2, 3].map(prepared), [true, false, false, true]);
    kit.pass(1200);
    kit.keep();
    assert_eq!(kit.snapshots("shop").len(), 4, "the log is there yet");
    let owner = kit.owner("shop");
    let held = &owner.sources[&name("db")];
    held.engine.trim(&held.seat.log, &mark(&all[2], &name("db")).unwrap().from).unwrap();
    // With the first of them its log goes, up to the last snapshot that is that old.
    kit.keep();
    kit.keep();
    let left: Vec<String> =
        views::timeline(&kit.world, &name("shop")).unwrap().snapshots.iter().map(|one| one.id.to_string()).collect();
    assert_eq!(left, [0, 3].map(|index| all[index].id.to_string()));
    for (index, snapshot) in left.iter().enumerate() {
        let clone = format!("c{index}");
        let wanted = request("shop", Some(snapshot), &clone);
        go(&kit.world, &[&clone], |world| clone::Clone::new(world, wanted)).unwrap();
    }
    assert_eq!(kit.world.catalog.all::<CloneRecord>().unwrap().len(), 2);
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn a_refresh_and_an_undo_say_how_long_they_took_themselves() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    let took = || kit.there("dev").timing;
    kit.world.fail.arm("refresh.volume.before", FailAction::Delay(Duration::from_millis(1500)));
    let made = took();
    assert!(made.ready_ms < 1500, "{made:?}");
    kit.refresh("dev");
    let refreshed = took();
    assert!(refreshed.ready_ms >= 1500 && refreshed.storage_ms < refreshed.ready_ms, "{refreshed:?}");
    kit.world.fail.disarm();
    go(&kit.world, &["dev"], |world| refresh::Refresh::new(world, name("dev"), refresh::Origin::Former, None)).unwrap();
    assert!(took().ready_ms < 1500 && took().storage_ms == 0, "{:?}", took());
}

#[test]
fn where_a_clone_is_asked_it_is_not_production_that_does_not_answer() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", true);
    let asked = |of: &str| {
        kit.engine.fail("pulse", 1);
        let wanted = request(of, Some("now"), "late");
        match go(&kit.world, &["late"], |world| clone::Clone::new(world, wanted)) {
            Err(Fault::Problem(problem)) => problem.message,
            other => panic!("{other:?}"),
        }
    };
    assert!(asked("shop").starts_with("production's present state cannot be reached"), "{}", asked("shop"));
    assert!(asked("dev").starts_with("dev's present state cannot be reached"), "{}", asked("dev"));
}
