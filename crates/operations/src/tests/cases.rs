//! The table of verbs. A verb that is missing here, or a step that no case passes, fails a test.

use std::sync::Arc;

use jiff::SignedDuration;
use pando_catalog::CloneRecord;
use pando_model::{AppState, CloneState, Moment, Profile};

use super::images;
use super::kit::{Kit, go, hooked, masking, name, request, shop, time};
use super::served::{
    attach, composed, empty, project_rests, project_runs, run_start, run_stop, run_volume, volume_there, with_project,
    with_resting_project, with_volume,
};
use super::travel::{run_export, run_import};
use crate::fault::Done;
use crate::follow;
use crate::moments;
use crate::owner::Owner;
use crate::verbs::refresh::{Origin, Refresh};
use crate::verbs::{
    apply, bookmark, clone, create, lease, link, prepare, promote, rebase, remove, snapshot, thin, unlink, volume,
};
use crate::world::World;

/// One verb on one world.
pub struct Case {
    /// The verb, and what is special about this case.
    pub name: &'static str,
    /// Makes the world in which the verb makes sense.
    pub given: fn(&Kit),
    /// Makes the verb and runs it.
    pub run: fn(&Arc<World>) -> Done<()>,
    /// Whether it is wholly done.
    pub done: fn(&Kit) -> bool,
    /// What the heartbeat does before all must be well; mostly nothing.
    pub heartbeat: fn(&Kit),
    /// Whether a snapshot that it took of its parent may stay when it fails.
    pub leaves_snapshot: bool,
}

impl Case {
    const fn new(
        name: &'static str,
        given: fn(&Kit),
        run: fn(&Arc<World>) -> Done<()>,
        done: fn(&Kit) -> bool,
    ) -> Self {
        Self { name, given, run, done, heartbeat: |_| {}, leaves_snapshot: false }
    }

    const fn leaving_snapshot(self) -> Self {
        Self { leaves_snapshot: true, ..self }
    }

    /// The verb's word.
    pub fn word(&self) -> &'static str {
        self.name.split(' ').next().unwrap()
    }
}

/// An app with files.
pub fn with_files(kit: &Kit) {
    kit.link(true);
}

/// An app with a clone `dev`, and a later state to refresh to.
fn with_clone(kit: &Kit) {
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    kit.commit(7);
    kit.snapshot("shop");
    kit.keep();
}

/// The same, with files.
fn with_filed_clone(kit: &Kit) {
    kit.link(true);
    kit.make_clone("shop", "dev", false);
    kit.commit(7);
}

/// A clone that was refreshed.
fn with_former(kit: &Kit) {
    with_clone(kit);
    kit.refresh("dev");
}

fn run_promote(world: &Arc<World>) -> Done<()> {
    go(world, &["dev"], |world| promote::Promote::new(world, name("dev")))
}

fn promoted(kit: &Kit) -> bool {
    let dev = kit.there("dev");
    let kept = dev.profile == Profile::Durable && dev.record && dev.lease_until.is_none() && dev.promoted_at.is_some();
    kept && dev.state == CloneState::Running && dev.former.is_none() && !kit.snapshots("dev").is_empty()
}

fn with_stopped(kit: &Kit) {
    with_clone(kit);
    run_stop(&kit.world).unwrap();
}

/// A recording clone with a snapshot `then`, and another state since.
fn with_recording(kit: &Kit) {
    kit.link(false);
    kit.make_clone("shop", "dev", true);
    kit.bookmark("dev", "then", None);
    kit.pass(60);
}

/// An app with hooks at every point and edits, a recording clone of it, and a later state.
fn with_hooks(kit: &Kit) {
    go(&kit.world, &["shop"], |world| link::Link::new(world, hooked())).unwrap();
    kit.commit(1);
    kit.make_clone("shop", "dev", true);
    kit.bookmark("dev", "then", None);
    kit.commit(7);
    kit.snapshot("shop");
    kit.keep();
}

/// An app that masks, with a clone.
fn with_masked(kit: &Kit) {
    go(&kit.world, &["shop"], |world| link::Link::new(world, masking())).unwrap();
    kit.commit(1);
    kit.make_clone("shop", "dev", false);
    assert!(kit.there("dev").masked);
}

/// A clone with all that a clone can have.
fn with_everything(kit: &Kit) {
    with_recording(kit);
    kit.refresh("dev");
    kit.snapshot("dev");
}

/// An app with a timeline of two weeks, and a bookmark in it.
fn with_history(kit: &Kit) {
    kit.link(false);
    for day in 0..5 {
        kit.commit(day);
        kit.snapshot("shop");
        kit.commit(day + 50);
        kit.snapshot("shop");
        kit.keep();
        kit.pass(86_400);
    }
    assert_eq!(kit.snapshots("shop").len(), 6);
    let old = kit.snapshots("shop").remove(1);
    kit.bookmark("shop", "old", Some(old.id.as_str()));
    kit.pass(60 * 86_400);
    kit.commit(99);
    kit.snapshot("shop");
}

/// An app with many prepared snapshots, that are soon too many.
fn with_prepared(kit: &Kit) {
    kit.link(false);
    for value in 0..6 {
        kit.commit(value);
        kit.snapshot("shop");
        link::prepare_newest(&kit.run(), &kit.owner("shop")).unwrap();
    }
    kit.pass(600);
}

/// A clone whose former state is over.
fn with_old_former(kit: &Kit) {
    with_clone(kit);
    kit.refresh("dev");
    kit.pass(3601);
}

fn unprepared(kit: &Kit) {
    kit.link(false);
    kit.commit(5);
    kit.snapshot("shop");
}

fn run_clone(world: &Arc<World>, from: &str, moment: Option<&str>, record: bool) -> Done<()> {
    let wanted = pando_model::CloneRequest { record, ..request(from, moment, "fresh") };
    go(world, &["fresh"], |world| clone::Clone::new(world, wanted))
}

fn run_refresh(world: &Arc<World>, origin: Origin, moment: Option<Moment>) -> Done<()> {
    go(world, &["dev"], |world| Refresh::new(world, name("dev"), origin, moment))
}

fn run_thin(world: &Arc<World>, of: &str) -> Done<()> {
    go(world, &[of], |world| Ok(thin::Thin::plan(world, &Owner::named(world, &name(of))?)?.expect("what to thin")))
}

fn runs(kit: &Kit, clone: &str) -> bool {
    kit.clone_of(clone).is_some_and(|record| record.state == CloneState::Running)
}

/// A moment between the first snapshot and the next commit, in the worlds above.
const BETWEEN: &str = "2026-11-21T10:00:11Z";

pub const CASES: &[Case] = &[
    Case::new("link", |_| {}, |world| go(world, &["shop"], |world| link::Link::new(world, shop(false))), linked),
    Case::new(
        "link otherwise",
        |kit| kit.engine.set_gives_up(true),
        |world| go(world, &["shop"], |world| link::Link::new(world, shop(false))),
        linked,
    ),
    Case::new("link files", |_| {}, |world| go(world, &["shop"], |world| link::Link::new(world, shop(true))), linked),
    Case::new("link hooks", |_| {}, |world| go(world, &["shop"], |world| link::Link::new(world, hooked())), linked),
    Case {
        // The mirror of one that was undone is started by the heartbeat.
        heartbeat: |kit| {
            follow::follow_once(&kit.world, &kit.app_id()).unwrap();
        },
        ..Case::new(
            "apply",
            with_hooks,
            |world| {
                let mut wanted = hooked();
                wanted.sources[0].url = "sim://u:other@prod/counter".to_owned();
                wanted.sources[1].exclude.push("cache/".to_owned());
                wanted.policy = None;
                wanted.edits.clear();
                go(world, &["shop"], |world| apply::Apply::new(world, wanted))
            },
            |kit| {
                kit.app("shop").policy == pando_model::Policy::default() && kit.app("shop").state == AppState::Following
            },
        )
    },
    Case::new(
        "clone hooks",
        with_hooks,
        |world| run_clone(world, "shop", None, true),
        |kit| runs(kit, "fresh") && stitched(kit, "fresh"),
    ),
    Case::new("snapshot hooks", with_hooks, |world| run_snapshot(world, "dev"), |kit| kit.snapshots("dev").len() == 3),
    Case::new(
        "refresh hooks",
        with_hooks,
        |world| run_refresh(world, Origin::Parent, Some(Moment::Latest)),
        |kit| refreshed(kit) && stitched(kit, "dev"),
    ),
    Case::new("stop hooks", with_hooks, run_stop, |kit| kit.there("dev").state == CloneState::Stopped),
    Case::new(
        "start hooks",
        |kit| {
            with_hooks(kit);
            run_stop(&kit.world).unwrap();
        },
        run_start,
        |kit| runs(kit, "dev"),
    ),
    Case::new("promote", with_former, run_promote, promoted),
    Case::new("promote hooks", with_hooks, run_promote, promoted),
    Case::new("rm hooks", with_hooks, run_remove, |kit| kit.clone_of("dev").is_none()),
    Case::new(
        "unlink",
        with_history,
        |world| go(world, &["shop"], |world| unlink::Unlink::new(world, name("shop"))),
        |kit| kit.world.catalog.owner(&name("shop")).unwrap().is_none(),
    ),
    Case::new(
        "snapshot",
        |kit| kit.link(false),
        |world| run_snapshot(world, "shop"),
        |kit| kit.snapshots("shop").len() == 2,
    ),
    Case::new(
        "snapshot files",
        with_files,
        |world| run_snapshot(world, "shop"),
        |kit| kit.snapshots("shop").len() == 2,
    ),
    Case::new("snapshot fence", with_files, run_fenced, |kit| kit.snapshots("shop").len() == 2),
    Case::new("snapshot clone", with_clone, |world| run_snapshot(world, "dev"), |kit| kit.snapshots("dev").len() == 1),
    Case::new(
        "bookmark",
        |kit| kit.link(false),
        |world| run_bookmark(world, "shop", None),
        |kit| kit.bookmarks().len() == 1,
    ),
    Case::new(
        "bookmark between",
        |kit| kit.link(false),
        |world| run_bookmark(world, "shop", Some(BETWEEN)),
        |kit| kit.bookmarks().len() == 1 && kit.snapshots("shop").len() == 2,
    ),
    Case::new(
        "bookmark files",
        with_files,
        |world| run_bookmark(world, "shop", Some(BETWEEN)),
        |kit| kit.bookmarks().len() == 1,
    )
    .leaving_snapshot(),
    Case::new("bookmark clone", with_clone, |world| run_bookmark(world, "dev", None), |kit| kit.bookmarks().len() == 1),
    Case::new(
        "unbookmark",
        with_recording,
        |world| go(world, &["x"], |world| bookmark::Unbookmark::new(world, name("dev"), name("then"))),
        |kit| kit.bookmarks().is_empty(),
    ),
    Case::new("clone", with_files, |world| run_clone(world, "shop", None, false), |kit| runs(kit, "fresh")),
    Case::new(
        "clone recording",
        |kit| kit.link(false),
        |world| run_clone(world, "shop", None, true),
        |kit| runs(kit, "fresh"),
    ),
    Case::new("clone now", with_files, |world| run_clone(world, "shop", Some("now"), false), |kit| runs(kit, "fresh"))
        .leaving_snapshot(),
    Case::new(
        "clone between",
        with_files,
        |world| run_clone(world, "shop", Some(BETWEEN), false),
        |kit| runs(kit, "fresh"),
    )
    .leaving_snapshot(),
    Case::new("clone clone", with_clone, |world| run_clone(world, "dev", None, false), |kit| runs(kit, "fresh"))
        .leaving_snapshot(),
    Case::new(
        "clone compose",
        with_files,
        |world| go(world, &["fresh"], |world| clone::Clone::new(world, composed("fresh"))),
        |kit| project_runs(kit, "fresh"),
    ),
    Case {
        // What was stopped for a verb that was undone is started by the heartbeat.
        heartbeat: |kit| follow::look_after_clones(&kit.world),
        ..Case::new(
            "refresh compose",
            with_project,
            |world| run_refresh(world, Origin::Parent, Some(Moment::Latest)),
            |kit| project_runs(kit, "dev") && kit.there("dev").former.is_some(),
        )
        .leaving_snapshot()
    },
    Case {
        heartbeat: |kit| follow::look_after_clones(&kit.world),
        ..Case::new("stop compose", with_project, run_stop, |kit| project_rests(kit, "dev"))
    },
    Case::new("start compose", with_resting_project, run_start, |kit| project_runs(kit, "dev")),
    Case {
        heartbeat: |kit| follow::look_after_clones(&kit.world),
        ..Case::new("rm compose", with_project, run_remove, |kit| kit.clone_of("dev").is_none())
    },
    Case::new(
        "create",
        |kit| kit.link(false),
        |world| go(world, &["shared"], |world| create::Create::new(world, empty("shared"))),
        |kit| kit.clone_of("shared").is_some_and(|clone| clone.state == CloneState::Stopped),
    ),
    Case::new(
        "rm empty",
        |kit| {
            kit.link(false);
            go(&kit.world, &["dev"], |world| create::Create::new(world, empty("dev"))).unwrap();
        },
        run_remove,
        |kit| kit.clone_of("dev").is_none(),
    ),
    Case::new("clone volume", with_files, |world| run_volume(world, "shop"), volume_there),
    Case::new("clone volume-of-volume", with_volume, |world| run_volume(world, "dev"), volume_there).leaving_snapshot(),
    Case::new(
        "attach",
        with_volume,
        |world| go(world, &["dev_more"], |world| attach(world, "dev_more")),
        |kit| kit.volume("dev_more").is_some(),
    ),
    Case::new(
        "detach",
        |kit| {
            with_volume(kit);
            go(&kit.world, &["dev_more"], |world| attach(world, "dev_more")).unwrap();
        },
        |world| go(world, &["dev_more"], |world| volume::Detach::new(world, &name("dev_more"))),
        |kit| kit.volume("dev_more").is_none() && kit.world.catalog.owner(&name("dev_more")).unwrap().is_none(),
    ),
    Case::new("export", with_files, |world| run_export(world, "shop", None), |_| true),
    Case::new("export between", with_files, |world| run_export(world, "shop", Some(BETWEEN)), |_| true)
        .leaving_snapshot(),
    Case::new("export anew", made_anew, |world| run_export(world, "shop", None), |_| true),
    Case::new("export anew-between", made_anew, |world| run_export(world, "shop", Some(BETWEEN)), |_| true)
        .leaving_snapshot(),
    Case::new("export clone", with_clone, |world| run_export(world, "dev", None), |_| true).leaving_snapshot(),
    Case::new("export masked", with_masked, |world| run_export(world, "dev", None), |_| true).leaving_snapshot(),
    Case::new("import", |_| {}, run_import, |kit| runs(kit, "fresh") && kit.state_of("fresh") == "0"),
    Case::new(
        "rm imported",
        |kit| run_import(&kit.world).unwrap(),
        |world| go(world, &["fresh"], |world| remove::Remove::new(world, name("fresh"))),
        |kit| kit.clone_of("fresh").is_none(),
    ),
    Case::new("start", with_stopped, run_start, |kit| runs(kit, "dev")),
    Case::new("start running", with_clone, run_start, |kit| runs(kit, "dev")),
    Case::new("stop", with_everything, run_stop, |kit| kit.there("dev").state == CloneState::Stopped),
    Case::new("refresh", with_clone, |world| run_refresh(world, Origin::Parent, Some(Moment::Latest)), refreshed),
    Case::new(
        "refresh stopped",
        with_stopped,
        |world| run_refresh(world, Origin::Parent, Some(Moment::Latest)),
        refreshed,
    ),
    Case::new(
        "refresh volume",
        with_volume,
        |world| run_refresh(world, Origin::Parent, Some(Moment::Now)),
        |kit| kit.there("dev").state == CloneState::Stopped && kit.there("dev").asked == "now",
    )
    .leaving_snapshot(),
    Case::new(
        "refresh volume-rewind",
        |kit| {
            with_volume(kit);
            kit.bookmark("dev", "then", None);
            kit.pass(60);
        },
        |world| run_refresh(world, Origin::Own, Some(Moment::Bookmark(name("then")))),
        |kit| kit.there("dev").state == CloneState::Stopped && kit.there("dev").asked == "then",
    ),
    Case::new(
        "refresh again",
        |kit| {
            with_filed_clone(kit);
            kit.refresh("dev");
            kit.pass(5);
        },
        |world| run_refresh(world, Origin::Parent, Some(Moment::Now)),
        |kit| kit.there("dev").asked == "now" && kit.there("dev").former.is_some_and(|former| former.asked == "latest"),
    )
    .leaving_snapshot(),
    Case::new(
        "refresh rewind",
        with_everything,
        |world| run_refresh(world, Origin::Own, Some(Moment::Bookmark(name("then")))),
        |kit| kit.there("dev").asked == "then",
    ),
    Case::new(
        "refresh recording",
        with_recording,
        |world| run_refresh(world, Origin::Parent, Some(Moment::Latest)),
        // Whatever is done in it from now on can be rewound.
        |kit| {
            let former = kit.there("dev").former.map(|former| former.until - SignedDuration::from_hours(1));
            former.is_some_and(|swapped| kit.snapshots("dev").iter().any(|taken| taken.taken_at >= swapped))
        },
    ),
    Case::new(
        "refresh undo",
        |kit| {
            with_clone(kit);
            kit.refresh("dev");
        },
        |world| run_refresh(world, Origin::Former, None),
        |kit| kit.state_of("dev") == "0" && kit.there("dev").former.is_some(),
    ),
    Case::new(
        "lease",
        with_clone,
        |world| go(world, &["dev"], |world| lease::Lease::new(world, name("dev"), Some(3600))),
        |kit| kit.there("dev").lease_until.is_some(),
    ),
    Case::new("rm", with_everything, run_remove, |kit| kit.clone_of("dev").is_none()),
    Case::new("rm volume", with_volume, run_remove, |kit| {
        kit.clone_of("dev").is_none() && kit.volume("dev_db").is_none()
    }),
    Case::new("rm stopped", with_stopped, run_remove, |kit| kit.clone_of("dev").is_none()),
    Case::new(
        "prepare",
        unprepared,
        |world| {
            let owner = Owner::named(world, &name("shop"))?;
            let newest = owner.snapshots(world)?.pop().expect("a snapshot").id;
            let plan = moments::resolve(&crate::facade::loose_run(world), &owner, &Moment::Snapshot(newest.clone()))?;
            go(world, &["shop/prepare"], |world| prepare::Prepare::new(world, &owner, plan, newest))
        },
        |kit| kit.snapshots("shop").iter().all(|snapshot| snapshot.prepared.is_some()),
    ),
    Case {
        heartbeat: |kit| {
            follow::keep_once(&kit.world, &kit.app_id()).unwrap();
            follow::follow_once(&kit.world, &kit.app_id()).unwrap();
        },
        leaves_snapshot: true,
        ..Case::new(
            "rebase",
            |kit| kit.link(true),
            |world| {
                let app = Owner::named(world, &name("shop"))?.app;
                go(world, &["shop"], |world| Ok(rebase::Rebase::new(world, &app, "its log is gone")))
            },
            |kit| kit.app("shop").state == AppState::Following && epochs(kit) >= 2,
        )
    },
    Case::new("image-build", images::given, |world| images::build(world, "img:1", Some("shop")), images::built),
    Case::new(
        "image-build again",
        images::given_more,
        |world| images::build(world, "img:1", None),
        images::built_again,
    ),
    Case::new(
        "image-build found",
        images::given_built,
        |world| images::build(world, "img:2", Some("shop")),
        |kit| images::names(kit).len() == 2 && images::all(kit).len() == 1,
    ),
    Case::new(
        "image-build anew",
        images::given_anew,
        |world| images::build(world, "img:1", Some("shop")),
        images::built,
    ),
    Case::new(
        "image-build masked",
        images::given_masked,
        |world| images::build(world, "img:1", Some("dev")),
        images::built,
    )
    .leaving_snapshot(),
    Case::new("image-build masks", images::given_masked, images::build_masked, |kit| {
        images::built(kit) && images::all(kit)[0].masked && kit.world.catalog.all::<CloneRecord>().unwrap().len() == 1
    }),
    Case::new("image-push", images::given_near_registry, images::push, images::pushed),
    Case::new("image-save", images::given_built, images::save, images::built),
    Case::new("image-rm", images::given_built, images::remove, |kit| images::all(kit).is_empty()),
    Case::new("thin", with_history, |world| run_thin(world, "shop"), |kit| kit.snapshots("shop").len() == 3),
    Case::new(
        "thin prepared",
        with_prepared,
        |world| run_thin(world, "shop"),
        |kit| kit.snapshots("shop").iter().filter(|snapshot| snapshot.prepared.is_some()).count() < 6,
    ),
    Case::new("thin former", with_old_former, |world| run_thin(world, "dev"), |kit| kit.there("dev").former.is_none()),
];

fn stitched(kit: &Kit, clone: &str) -> bool {
    let owner = kit.owner(clone);
    let file = owner.sources[&name("files")].seat.data.join("stitched");
    std::fs::read_to_string(file).is_ok_and(|text| text == format!("{clone} of shop"))
}

fn linked(kit: &Kit) -> bool {
    let apps: Vec<pando_catalog::AppRecord> = kit.world.catalog.all().unwrap();
    apps.iter().any(|app| app.state == AppState::Following)
        && kit.snapshots("shop").iter().any(|snapshot| snapshot.prepared.is_some())
}

fn refreshed(kit: &Kit) -> bool {
    runs(kit, "dev") && kit.state_of("dev") == "7" && kit.there("dev").former.is_some()
}

fn epochs(kit: &Kit) -> usize {
    let owner = kit.owner("shop");
    let held = &owner.sources[&name("db")];
    held.engine.stretches(&held.seat.log).unwrap().len()
}

fn run_snapshot(world: &Arc<World>, of: &str) -> Done<()> {
    go(world, &[of], |world| Ok(snapshot::Snapshot::new(world, &Owner::named(world, &name(of))?)))
}

fn run_fenced(world: &Arc<World>) -> Done<()> {
    go(world, &["shop"], |world| snapshot::Snapshot::fenced(world, &Owner::named(world, &name("shop"))?, 10))
}

fn run_bookmark(world: &Arc<World>, of: &str, at: Option<&str>) -> Done<()> {
    let moment = at.map(|text| Moment::At(time(text)));
    go(world, &["shop/bookmark/here"], |world| bookmark::Bookmark::new(world, name(of), name("here"), moment))
}

/// Trees that have to be made anew before they leave.
fn made_anew(kit: &Kit) {
    with_files(kit);
    kit.engine.set_renews(true);
}

/// Exports to nobody who keeps it.
fn run_remove(world: &Arc<World>) -> Done<()> {
    go(world, &["dev"], |world| remove::Remove::new(world, name("dev")))
}
