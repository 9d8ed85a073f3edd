//! Who may do what while somebody else does something: names, claims, what pins what, and a full pool.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use pando_engine::Link;
use pando_host::{Clock, FailAction, SystemClock};
use pando_model::{BookmarkRequest, CloneRequest, ErrorKind, Moment, OperationState, Problem, Request};

use super::agree::{complaints, digest};
use super::kit::{Kit, go, name, request, shop};
use crate::facade::Pando;
use crate::fault::Fault;
use crate::owner::Owner;
use crate::verbs::thin::Thin;
use crate::verbs::{link, remove, unlink};

/// Submits and waits for the end.
fn done(pando: &Pando, wanted: Request) -> Result<(), Problem> {
    let id = pando.submit(wanted)?.id;
    let view = pando.wait(&id, Duration::from_secs(60))?;
    match view.state {
        OperationState::Done => Ok(()),
        _ => Err(view.error.unwrap()),
    }
}

fn well(kit: &Kit) {
    assert_eq!(complaints(kit), Vec::<String>::new());
}

fn refused(outcome: Result<(), Fault>, naming: &str) {
    let Err(Fault::Problem(problem)) = outcome else { panic!("it was not refused") };
    assert_eq!(problem.kind, ErrorKind::Refused, "{problem}");
    assert!(problem.to_string().contains(naming), "{problem}");
}

#[test]
fn of_two_who_want_a_name_at_once_one_gets_it() {
    let kit = Kit::new();
    kit.link(false);
    let pando = Pando::over(kit.world.clone());
    for round in 0..6 {
        let barrier = Barrier::new(2);
        let twin = format!("twin{round}");
        let outcomes = std::thread::scope(|scope| {
            let both = [(); 2].map(|()| {
                scope.spawn(|| {
                    barrier.wait();
                    done(&pando, Request::Clone(request("shop", None, &twin)))
                })
            });
            both.map(|thread| thread.join().unwrap())
        });
        let lost: Vec<ErrorKind> = outcomes.into_iter().filter_map(|outcome| outcome.err()).map(|e| e.kind).collect();
        assert_eq!(lost, [ErrorKind::Refused]);
        pando.join();
        well(&kit);
    }
}

#[test]
fn a_first_copy_that_does_not_follow_ends_with_the_daemon_or_with_its_server() {
    let kit = Kit::new();
    kit.link(false);
    let owner = kit.owner("shop");
    kit.engine.set_link(Link::Disconnected("nobody answers".to_owned()));
    let told = || match link::start_following(&kit.run(), &owner) {
        Err(Fault::Problem(problem)) => problem.to_string(),
        other => panic!("{other:?}"),
    };
    let unit = &owner.sources[&name("db")].units["server"];
    kit.world.drop_live(&owner.id);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                kit.runtime.write_log(unit, "PANIC: the log cannot be read\n");
                kit.runtime.exit(unit, Some(1));
                SystemClock.sleep(Duration::from_millis(1));
            }
        });
        let told = told();
        ended.store(true, Ordering::Relaxed);
        assert!(told.contains("does not follow production") && told.contains("the log cannot be read"), "{told}");
    });

    kit.world.drop_live(&owner.id);
    kit.world.stop();
    let told = told();
    assert!(told.contains("the daemon is stopping"), "{told}");
}

#[test]
fn a_verb_is_refused_while_a_users_verb_runs_and_waits_for_the_heartbeats() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    let pando = Pando::over(kit.world.clone());
    kit.world.fail.arm("stop.stop.before", FailAction::Delay(Duration::from_millis(200)));
    let first = pando.submit(Request::Stop { clone: name("dev") }).unwrap();
    let problem = pando.submit(Request::Start { clone: name("dev") }).unwrap_err();
    assert_eq!(problem.kind, ErrorKind::Refused);
    assert!(problem.message.contains("stop is running"), "{problem}");
    assert_eq!(pando.wait(&first.id, Duration::from_secs(60)).unwrap().state, OperationState::Done);
    pando.join();

    let claim = kit.world.try_claim(&["dev".to_owned()], "heartbeat").unwrap();
    assert!(kit.world.try_claim(&["dev".to_owned()], "heartbeat").is_none());
    let begun = SystemClock.instant();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            SystemClock.sleep(Duration::from_millis(100));
            drop(claim);
        });
        done(&pando, Request::Start { clone: name("dev") }).unwrap();
    });
    assert!(begun.elapsed() >= Duration::from_millis(100));
    pando.join();
    well(&kit);
}

#[test]
fn what_others_need_is_refused_to_go_and_they_are_named() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    kit.make_clone("dev", "child", false);
    refused(go(&kit.world, &["shop"], |world| unlink::Unlink::new(world, name("shop"))), "dev, child");
    refused(go(&kit.world, &["dev"], |world| remove::Remove::new(world, name("dev"))), "child");
    well(&kit);
    for clone in ["child", "dev"] {
        go(&kit.world, &[clone], |world| remove::Remove::new(world, name(clone))).unwrap();
    }
    go(&kit.world, &["shop"], |world| unlink::Unlink::new(world, name("shop"))).unwrap();
    well(&kit);
    assert_eq!(digest(&kit).keys().collect::<Vec<_>>(), ["units"]);
}

#[test]
fn an_app_with_clones_is_refused_to_go_without_waiting_for_its_snapshot() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    let pando = Pando::over(kit.world.clone());
    // A scheduled snapshot that takes for ever: whoever waited for it would wait ten minutes.
    let _snapshot = kit.world.try_claim(&["shop".to_owned()], "snapshot").unwrap();
    let begun = SystemClock.instant();
    let problem = pando.submit(Request::Unlink { app: name("shop") }).unwrap_err();
    assert_eq!(problem.kind, ErrorKind::Refused);
    assert!(problem.message.contains("shop has clones: dev"), "{problem}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    well(&kit);
}

#[test]
fn nothing_goes_while_a_bookmark_of_it_is_being_set() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    let pando = Pando::over(kit.world.clone());
    kit.world.fail.arm("snapshot.freeze.before", FailAction::Delay(Duration::from_millis(200)));
    let body = BookmarkRequest { bookmark: name("here"), moment: None };
    let first = pando.submit(Request::Bookmark { name: name("dev"), body }).unwrap();
    let problem = done(&pando, Request::Remove { clone: name("dev") }).unwrap_err();
    assert_eq!(problem.kind, ErrorKind::Refused);
    assert!(problem.message.contains("bookmark is running"), "{problem}");
    assert_eq!(pando.wait(&first.id, Duration::from_secs(60)).unwrap().state, OperationState::Done);
    pando.join();
    well(&kit);
    assert_eq!(kit.bookmarks().len(), 1);
}

#[test]
fn a_rewind_and_an_undo_are_called_so() {
    let kit = Kit::new();
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    kit.bookmark("dev", "then", None);
    let pando = Pando::over(kit.world.clone());
    let rewind = |to: &str| Request::Rewind { clone: name("dev"), moment: to.parse().unwrap() };
    let undo = || Request::Undo { clone: name("dev") };
    done(&pando, rewind("never")).unwrap_err();
    kit.world.fail.arm("refresh.stage.before", FailAction::Delay(Duration::from_millis(200)));
    let first = pando.submit(rewind("then")).unwrap();
    assert_eq!(first.verb, "rewind");
    assert!(done(&pando, undo()).unwrap_err().message.contains("dev is busy: rewind is running"));
    assert_eq!(pando.wait(&first.id, Duration::from_secs(60)).unwrap().state, OperationState::Done);
    kit.world.fail.disarm();
    done(&pando, undo()).unwrap();
    pando.join();
    let events = kit.world.catalog.events(0).unwrap();
    for text in ["rewind dev failed: dev has no bookmark never", "rewind dev is done", "undo dev is done"] {
        assert!(events.iter().any(|event| event.text == text), "{text}");
    }
    well(&kit);
}

#[test]
fn thinning_keeps_what_the_policy_says_and_what_is_bookmarked() {
    let kit = Kit::new();
    kit.link(false);
    for value in 0..12 {
        kit.commit(value);
        kit.snapshot("shop");
        link::prepare_newest(&kit.run(), &kit.owner("shop")).unwrap();
        kit.pass(200);
    }
    let pinned = kit.snapshots("shop")[4].id.clone();
    kit.bookmark("shop", "kept", Some(pinned.as_str()));
    kit.pass(7200);
    let before = kit.snapshots("shop");
    let plan = Thin::plan(&kit.world, &kit.owner("shop")).unwrap().unwrap();
    // While something is being made of the timeline, or is bookmarked in the meantime, it stays.
    let policy = kit.app("shop").policy;
    let unpinned: Vec<_> = before.iter().filter(|one| one.id != pinned).collect();
    let moments: Vec<_> = unpinned.iter().map(|one| one.moment).collect();
    let late = unpinned[policy.expendable(&moments, kit.world.now())[0]].id.clone();
    kit.bookmark("shop", "late", Some(late.as_str()));
    {
        let _pin = kit.world.pin(&kit.app_id());
        assert!(Thin::plan(&kit.world, &kit.owner("shop")).unwrap().is_none());
    }
    go(&kit.world, &["shop"], |_| Ok(plan)).unwrap();
    well(&kit);
    let after = kit.snapshots("shop");
    for id in [&pinned, &late] {
        assert!(after.iter().any(|snapshot| snapshot.id == *id));
    }
    // One per ten minutes and the two bookmarks.
    let free: Vec<_> = after.iter().filter(|one| one.id != pinned && one.id != late).map(|one| one.moment).collect();
    assert!(policy.expendable(&free, kit.world.now()).is_empty());
    assert!(after.len() < before.len());
    // Every kept moment can be served.
    for (index, snapshot) in after.iter().enumerate() {
        let clone = format!("c{index}");
        go(&kit.world, &[&clone], |world| {
            crate::verbs::clone::Clone::new(world, request("shop", Some(snapshot.id.as_str()), &clone))
        })
        .unwrap();
    }
    well(&kit);
}

#[test]
fn a_pinned_timeline_is_not_thinned_even_by_a_plan_made_before() {
    let kit = Kit::new();
    kit.link(false);
    for value in 0..4 {
        kit.commit(value);
        kit.snapshot("shop");
    }
    kit.pass(60 * 86_400);
    let before = kit.snapshots("shop").len();
    let plan = Thin::plan(&kit.world, &kit.owner("shop")).unwrap().unwrap();
    let pin = kit.world.pin(&kit.app_id());
    go(&kit.world, &["shop"], |_| Ok(plan)).unwrap();
    assert_eq!(kit.snapshots("shop").len(), before);
    drop(pin);
    let plan = Thin::plan(&kit.world, &kit.owner("shop")).unwrap().unwrap();
    go(&kit.world, &["shop"], |_| Ok(plan)).unwrap();
    assert!(kit.snapshots("shop").len() < before);
    well(&kit);
}

/// What needs room.
fn makers() -> Vec<Request> {
    let recording = CloneRequest { record: true, ..request("shop", Some("now"), "fresh") };
    vec![
        Request::Link(pando_model::LinkRequest { app: name("other"), ..shop(false) }),
        Request::Clone(request("shop", None, "fresh")),
        Request::Clone(recording),
        Request::Snapshot { name: name("shop"), body: Default::default() },
        Request::Snapshot { name: name("dev"), body: Default::default() },
        Request::Refresh { clone: name("dev"), moment: Moment::Latest },
        Request::Bookmark { name: name("dev"), body: BookmarkRequest { bookmark: name("here"), moment: None } },
    ]
}

#[test]
fn when_the_pool_is_full_everything_new_is_refused_and_nothing_is_left() {
    let kit = Kit::new();
    kit.link(true);
    kit.make_clone("shop", "dev", false);
    let before = digest(&kit);
    let pando = Pando::over(kit.world.clone());
    // Nearly full is known beforehand; full is met on the way.
    for known in [true, false] {
        for wanted in makers() {
            let what = format!("{wanted:?}");
            if known {
                kit.pool.set_full(true)
            } else {
                kit.pool.sim.set_full(true)
            }
            let problem = done(&pando, wanted).unwrap_err();
            assert!(!known || problem.kind == ErrorKind::Refused, "{what}: {problem}");
            assert!(problem.hint.is_some(), "{what}: {problem}");
            kit.pool.set_full(false);
            pando.join();
            assert_eq!(complaints(&kit), Vec::<String>::new(), "{what}");
            assert_eq!(digest(&kit), before, "{what}");
        }
    }
    // The names are free, and what was refused works now.
    for wanted in makers().into_iter().skip(1).take(1) {
        done(&pando, wanted).unwrap();
    }
    pando.join();
    well(&kit);
}

#[test]
fn a_link_that_is_refused_by_production_says_why_and_leaves_nothing() {
    let kit = Kit::new();
    kit.engine.set_refused(Some("no right to replicate"));
    let Err(Fault::Problem(problem)) = go(&kit.world, &["shop"], |world| link::Link::new(world, shop(true))) else {
        panic!("it was not refused")
    };
    assert!(problem.to_string().contains("db: no right to replicate"), "{problem}");
    well(&kit);
    assert_eq!(digest(&kit).keys().collect::<Vec<_>>(), ["units"]);
    kit.engine.set_refused(None);
    kit.link(true);
    well(&kit);
    assert!(Owner::named(&kit.world, &name("shop")).is_ok());
}

#[test]
fn pandos_own_home_and_pool_are_refused_as_production_and_so_is_what_holds_them() {
    let kit = Kit::new();
    let home = kit.world.home.root().to_owned();
    let pool = kit.world.pool().unwrap().root().to_owned();
    let beside = home.with_file_name("beside");
    std::fs::create_dir(&beside).unwrap();
    let away = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&home, away.path().join("link")).unwrap();
    let link = |path: &std::path::Path| {
        let mut wanted = shop(true);
        wanted.sources[1].url = format!("file://{}", path.display());
        go(&kit.world, &["shop"], |world| link::Link::new(world, wanted.clone()))
    };
    for own in [&home, &home.join("log"), &pool, &home.join(".."), &away.path().join("link")] {
        refused(link(own), "lie inside one another");
        well(&kit);
    }
    link(&beside).unwrap();
    well(&kit);
}

#[test]
fn whoever_comes_after_an_operations_end_is_not_refused_for_it() {
    let kit = Kit::new();
    let world = Arc::clone(&kit.world);
    let names = ["dev".to_owned()];
    let claim = world.claim(&names, "clone", false).unwrap();
    let id = crate::facade::loose_run(&world).id;
    claim.held_for(&id);
    assert!(world.claim(&names, "rm", false).is_err());
    // What the journal says before it writes the end.
    world.ending(&id);
    let waiting = std::thread::spawn(move || world.claim(&["dev".to_owned()], "rm", false).is_ok());
    drop(claim);
    assert!(waiting.join().unwrap());
}
