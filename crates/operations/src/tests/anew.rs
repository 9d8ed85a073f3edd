//! First copies that are made anew, and cannot be made at first.

use pando_catalog::OperationRecord;
use pando_engine::Link;
use pando_model::{AppState, OperationState, ShowView};

use super::agree::complaints;
use super::kit::{Kit, go, name, shop};
use crate::follow::{follow_once, keep_once};
use crate::verbs::apply;
use crate::views;

/// One whose log is gone, and whose production refuses to be copied.
fn lost() -> Kit {
    let kit = Kit::new();
    kit.link(false);
    kit.engine.set_link(Link::Lost("the log is gone".to_owned()));
    kit.engine.set_refused(Some("it is being upgraded"));
    kit.pulse();
    assert_eq!(kit.app("shop").state, AppState::Rebasing);
    kit
}

fn tries(kit: &Kit) -> usize {
    let all: Vec<OperationRecord> = kit.world.catalog.all().unwrap();
    all.iter().filter(|one| one.verb == "rebase" && one.state == OperationState::Failed).count()
}

/// Production's heartbeat for some seconds.
fn beat(kit: &Kit, seconds: i64) {
    for _ in 0..seconds {
        kit.pass(1);
        follow_once(&kit.world, &kit.app_id()).unwrap();
        keep_once(&kit.world, &kit.app_id()).unwrap();
    }
}

fn told(kit: &Kit) -> Vec<String> {
    let events = kit.world.catalog.events(0).unwrap();
    events.into_iter().filter(|event| event.kind == "operation-failed").map(|event| event.text).collect()
}

fn problem(kit: &Kit) -> String {
    match views::show(&kit.world, &name("shop"), false).unwrap() {
        ShowView::App(app) => app.problem.unwrap_or_default(),
        ShowView::Clone(_) => panic!("an app"),
    }
}

#[test]
fn a_copy_that_cannot_be_made_is_tried_less_and_less_often_and_each_reason_is_told_once() {
    let kit = lost();
    beat(&kit, 30);
    assert_eq!(tries(&kit), 3, "at once, 5 and 10 seconds later");
    let shown = problem(&kit);
    assert!(shown.starts_with("the log is gone; a new first copy could not be made: "), "{shown}");
    assert!(shown.contains("upgraded") && shown.contains("it is tried again at 2026-11-21T10:00:"), "{shown}");
    beat(&kit, 3600);
    assert!((25..30).contains(&tries(&kit)), "{}", tries(&kit));
    assert_eq!(told(&kit).len(), 1, "{:?}", told(&kit));
    assert!(told(&kit)[0].contains("upgraded"));
    // Another reason is told, and the first one not again.
    kit.engine.set_refused(Some("nobody answers"));
    beat(&kit, 200);
    kit.engine.set_refused(Some("it is being upgraded"));
    beat(&kit, 200);
    assert_eq!(told(&kit).len(), 2, "{:?}", told(&kit));
    assert!(told(&kit)[1].contains("nobody answers"));
    // Once it can be made, it is, and what failed before is forgotten.
    kit.engine.set_refused(None);
    kit.engine.set_link(Link::Following);
    beat(&kit, 161);
    assert_eq!((kit.app("shop").state, problem(&kit)), (AppState::Following, String::new()));
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn a_change_of_the_app_and_a_new_daemon_try_at_once() {
    let mut kit = lost();
    beat(&kit, 600);
    let before = tries(&kit);
    beat(&kit, 3);
    assert_eq!(tries(&kit), before);
    go(&kit.world, &["shop"], |world| apply::Apply::new(world, shop(false))).unwrap();
    beat(&kit, 1);
    assert_eq!(tries(&kit), before + 1);
    beat(&kit, 1);
    assert_eq!(tries(&kit), before + 1);
    kit.restart();
    beat(&kit, 1);
    assert_eq!(tries(&kit), before + 2);
}
