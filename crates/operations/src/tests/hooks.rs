//! Which hooks run, in which order, and what is left when one fails: nothing, and its words in the error.

use std::sync::Arc;

use pando_model::{Edit, HookPoint, LinkRequest, Moment};

use super::agree::{complaints, digest};
use super::kit::{Kit, go, hooked, name, request, shop};
use crate::fault::{Done, Fault};
use crate::owner::Owner;
use crate::verbs::refresh::{Origin, Refresh};
use crate::verbs::{apply, clone, link, power, promote, remove, snapshot};
use crate::world::World;

type Work = fn(&Arc<World>) -> Done<()>;

fn take_snapshot(world: &Arc<World>, of: &str) -> Done<()> {
    go(world, &[of], |world| Ok(snapshot::Snapshot::new(world, &Owner::named(world, &name(of))?)))
}

fn refresh(world: &Arc<World>, origin: Origin, moment: Option<Moment>) -> Done<()> {
    go(world, &["dev"], |world| Refresh::new(world, name("dev"), origin, moment))
}

/// Each operation with the hooks it runs, in order.
const WORK: &[(&str, Work, &[&str])] = &[
    (
        "clone",
        |world| go(world, &["fresh"], |world| clone::Clone::new(world, request("shop", None, "fresh"))),
        &["configure-clone fresh"],
    ),
    ("snapshot of the app", |world| take_snapshot(world, "shop"), &["pre-snapshot shop", "post-snapshot shop"]),
    ("snapshot of a clone", |world| take_snapshot(world, "dev"), &["pre-snapshot dev", "post-snapshot dev"]),
    (
        "refresh",
        |world| refresh(world, Origin::Parent, Some(Moment::Latest)),
        // A recording clone's new data begins with a snapshot.
        &["pre-refresh dev", "configure-clone dev", "post-refresh dev", "pre-snapshot dev", "post-snapshot dev"],
    ),
    (
        "rewind",
        |world| refresh(world, Origin::Own, Some(Moment::Bookmark(name("then")))),
        &["pre-rewind dev", "configure-clone dev", "post-rewind dev", "pre-snapshot dev", "post-snapshot dev"],
    ),
    (
        "stop",
        |world| go(world, &["dev"], |world| power::Stop::new(world, name("dev"))),
        &["pre-stop dev", "post-stop dev"],
    ),
    (
        "start",
        |world| go(world, &["dev"], |world| power::Start::new(world, name("dev"))),
        &["pre-start dev", "post-start dev"],
    ),
    (
        "promote",
        |world| go(world, &["dev"], |world| promote::Promote::new(world, name("dev"))),
        &["post-promote dev", "pre-snapshot dev", "post-snapshot dev"],
    ),
    ("rm", |world| go(world, &["dev"], |world| remove::Remove::new(world, name("dev"))), &["pre-destroy dev"]),
];

fn world_with_hooks() -> Kit {
    let kit = Kit::new();
    go(&kit.world, &["shop"], |world| link::Link::new(world, hooked())).unwrap();
    kit.commit(1);
    kit.make_clone("shop", "dev", true);
    kit.bookmark("dev", "then", None);
    kit.commit(7);
    kit.keep();
    kit.hooks.ran.lock().unwrap().clear();
    kit
}

fn ran(kit: &Kit) -> Vec<String> {
    std::mem::take(&mut kit.hooks.ran.lock().unwrap())
}

#[test]
fn every_point_has_its_place() {
    let kit = world_with_hooks();
    for (what, work, points) in WORK {
        work(&kit.world).unwrap();
        assert_eq!(ran(&kit), *points, "{what}");
    }
    let other = Kit::new();
    go(&other.world, &["shop"], |world| link::Link::new(world, hooked())).unwrap();
    assert_eq!(ran(&other), ["post-ingest shop", "pre-snapshot shop", "post-snapshot shop"]);
    // An undo brings back what is configured.
    other.make_clone("shop", "dev", false);
    other.refresh("dev");
    ran(&other);
    refresh(&other.world, Origin::Former, None).unwrap();
    assert_eq!(ran(&other), Vec::<String>::new());
}

#[test]
fn a_failing_hook_leaves_all_as_it_was_and_its_words_without_secrets() {
    let kit = world_with_hooks();
    let password = kit.world.unseal(&kit.there("dev").password).unwrap();
    let password = String::from_utf8(password).unwrap();
    let mut tried = std::collections::BTreeSet::new();
    for (what, work, points) in WORK {
        for point in points.iter().map(|point| point.split(' ').next().unwrap()) {
            let failing = HookPoint::ALL.iter().find(|one| one.as_str() == point).copied().unwrap();
            tried.insert(failing);
            *kit.hooks.failing.lock().unwrap() = Some(failing);
            let before = digest(&kit);
            let Err(Fault::Problem(problem)) = work(&kit.world) else { panic!("{what} goes well without {point}") };
            *kit.hooks.failing.lock().unwrap() = None;
            assert!(problem.message.contains(point) && problem.message.contains("hook"), "{problem:?}");
            assert!(problem.causes.iter().any(|cause| cause.contains("exit code 3")), "{problem:?}");
            assert!(!problem.to_string().contains(&password), "{problem:?}");
            if !matches!(failing, HookPoint::PreSnapshot | HookPoint::PostSnapshot) || !what.contains("app") {
                assert!(problem.causes.iter().any(|cause| cause == "it printed: no luck with ***"), "{problem:?}");
            }
            assert_eq!(complaints(&kit), Vec::<String>::new(), "{what} without {point}");
            assert_eq!(digest(&kit), before, "{what} without {point}");
            // What comes behind a snapshot comes once, whatever came of it.
            let posts = ran(&kit).iter().filter(|one| one.starts_with("post-snapshot")).count();
            let taken = matches!(failing, HookPoint::PreSnapshot | HookPoint::PostSnapshot);
            assert_eq!(posts, usize::from(taken), "{what} without {point}");
        }
        if *what != "rm" {
            work(&kit.world).unwrap();
            ran(&kit);
        }
    }
    let kit = Kit::new();
    *kit.hooks.failing.lock().unwrap() = Some(HookPoint::PostIngest);
    go(&kit.world, &["shop"], |world| link::Link::new(world, hooked())).unwrap_err();
    assert_eq!(complaints(&kit), Vec::<String>::new());
    tried.insert(HookPoint::PostIngest);
    assert_eq!(tried.len(), HookPoint::ALL.len());
}

#[test]
fn a_failing_edit_leaves_all_as_it_was() {
    let text = |text: &str| Some(text.to_owned());
    let kit = Kit::new();
    let edits = vec![Edit { set: text("files/none.env"), path: text("A"), value: text("x"), ..Edit::default() }];
    go(&kit.world, &["shop"], |world| link::Link::new(world, LinkRequest { edits, ..shop(true) })).unwrap();
    kit.commit(1);
    let before = digest(&kit);
    let make = |world: &World| clone::Clone::new(world, request("shop", None, "fresh"));
    let Err(Fault::Problem(problem)) = go(&kit.world, &["fresh"], make) else { panic!("there is no such file") };
    assert_eq!(problem.to_string(), "the edit \"set files/none.env A\" of fresh failed: files/none.env is not there");
    assert_eq!((complaints(&kit), digest(&kit)), (Vec::new(), before));
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_made() {
    let kit = Kit::new();
    let text = |text: &str| Some(text.to_owned());
    let edit =
        |file: &str, value: &str| Edit { set: text(file), path: text("A"), value: text(value), ..Edit::default() };
    let hook = |words: &[&str], point| {
        let mut hook = hooked().hooks.remove(0);
        hook.run = words.iter().map(|word| (*word).to_owned()).collect();
        hook.at = point;
        hook
    };
    let refused = |request: LinkRequest, sign: &str| {
        let Err(Fault::Problem(problem)) = link::Link::new(&kit.world, request).map(drop) else { panic!("{sign}") };
        let said = format!("{problem} {:?}", problem.hint);
        assert!(said.contains(sign), "{sign}: {said}");
    };
    for (edit, sign) in [
        (edit("nowhere/a.env", "x"), "there is no source nowhere"),
        (edit("db/a.env", "x"), "its server's"),
        (edit("files/a.txt", "x"), "cannot be told by its name"),
        (edit("files/../a.env", "x"), "without . and .."),
        (edit("files/a.env", "{{db.hots}}"), "did you mean {{db.host}}"),
        (edit("files/a.env", "{{db.host"), "{{"),
        (Edit { sql: text("SELECT 1"), source: Some(name("files")), ..Edit::default() }, "takes no SQL"),
        (Edit { masks: true, ..edit("files/a.env", "{{db.url}}") }, "lets nobody in afterwards"),
        (Edit::default(), "exactly one of"),
    ] {
        refused(LinkRequest { edits: vec![edit], ..shop(true) }, sign);
    }
    for (hook, sign) in [
        (hook(&[], HookPoint::PostStart), "names no program"),
        (hook(&["x", "{{db.password}}"], HookPoint::PostStart), "everybody can read arguments"),
        (hook(&["x", "{{clone.name}}"], HookPoint::PreSnapshot), "has no value"),
    ] {
        refused(LinkRequest { hooks: vec![hook], ..shop(true) }, sign);
    }
    for point in HookPoint::ALL.iter().filter(|point| **point != HookPoint::ConfigureClone) {
        let mut masks = hook(&["x"], *point);
        masks.masks = true;
        refused(LinkRequest { hooks: vec![masks], ..shop(true) }, "clones are masked at configure-clone alone");
    }
    let mut other = hook(&["x"], HookPoint::PostStart);
    other.account = text("somebody-else");
    refused(LinkRequest { hooks: vec![other], ..shop(true) }, "cannot run as somebody-else");
    assert!(digest(&kit).len() == 1, "{:?}", digest(&kit));
}

#[test]
fn what_is_applied_is_changed_once_and_what_cannot_be_is_refused() {
    let kit = world_with_hooks();
    let plan = |wanted: LinkRequest| apply::plan(&kit.world, wanted).map(|plan| (plan.links, plan.changes));
    assert!(matches!(plan(hooked()), Ok((false, changes)) if changes.is_empty()));
    let change = |edit: &dyn Fn(&mut LinkRequest)| {
        let mut wanted = hooked();
        edit(&mut wanted);
        wanted
    };
    let words = |wanted: LinkRequest| {
        let (_, changes) = plan(wanted).unwrap();
        changes.into_iter().map(|one| format!("{} {:?} {:?}", one.what, one.from, one.to)).collect::<Vec<_>>()
    };
    let all = change(&|wanted| {
        wanted.sources[0].url = "sim://u:two@prod/counter".to_owned();
        wanted.sources[1].exclude.push("cache/".to_owned());
        wanted.policy.as_mut().unwrap().snapshot_every_seconds = 5;
        wanted.set.insert("fast".to_owned(), "yes".to_owned());
        wanted.edits.pop();
    });
    let expected = [
        "password of db None None",
        "exclude of files Some(\"\") Some(\"cache/\")",
        "policy snapshot_every_seconds Some(\"60\") Some(\"5\")",
        "set fast None Some(\"yes\")",
        "configure-clone: replace in files/stitched Some(\"there\") None",
    ];
    assert_eq!(words(all.clone()), expected);
    let value = change(&|wanted| wanted.edits[0].text = Some("secret-value".to_owned()));
    assert_eq!(words(value), ["edits and hooks: values or order None None"]);
    go(&kit.world, &["shop"], |world| apply::Apply::new(world, all.clone())).unwrap();
    assert_eq!(words(all), Vec::<String>::new());
    assert_eq!(kit.owner("shop").sources[&name("db")].source.url.password.as_deref(), Some("two"));

    for (wanted, sign) in [
        (change(&|wanted| drop(wanted.sources.pop())), "not in the file: files"),
        (change(&|wanted| wanted.sources[0].name = Some(name("main"))), "not in the app: main"),
        (change(&|wanted| wanted.sources[0].url = "sim://u:one@other/counter".to_owned()), "cannot be moved"),
        (change(&|wanted| wanted.edits[0].text = Some("{{clone.nme}}".to_owned())), "has no value"),
    ] {
        let Err(Fault::Problem(problem)) = plan(wanted) else { panic!("{sign}") };
        assert!(problem.to_string().contains(sign) && problem.hint.is_some(), "{problem:?}");
    }
    let fresh = LinkRequest { app: name("other"), ..hooked() };
    let (links, changes) = plan(fresh).unwrap();
    assert!(links && changes.len() == 2 + hooked().edits.len() + hooked().hooks.len(), "{changes:?}");
}
