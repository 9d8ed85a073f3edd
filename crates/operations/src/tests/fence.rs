//! A snapshot behind a fence: what is held is let go, and one that fell too early makes no snapshot.

use super::agree::complaints;
use super::kit::{Kit, go, name};
use crate::fault::Fault;
use crate::owner::Owner;
use crate::verbs::snapshot;

#[test]
fn a_fence_that_fell_too_early_makes_no_snapshot() {
    let kit = Kit::new();
    kit.link(true);
    let owner = || Owner::named(&kit.world, &name("shop"));
    let fenced = |seconds| go(&kit.world, &["shop"], |world| snapshot::Snapshot::fenced(world, &owner()?, seconds));
    fenced(10).unwrap();
    assert_eq!((kit.snapshots("shop").len(), kit.engine.fences().len()), (2, 0));
    // Its time is over while the directories are synced.
    let engine = kit.engine.clone();
    kit.still.on_sync(move || engine.drop_fences());
    let Err(Fault::Problem(problem)) = fenced(10) else { panic!("the fence fell") };
    assert!(problem.message.contains("the fence of db fell after 10 s"), "{problem:?}");
    assert_eq!((kit.snapshots("shop").len(), complaints(&kit)), (2, Vec::new()));
    for seconds in [0, 61] {
        assert!(
            matches!(fenced(seconds), Err(Fault::Problem(problem)) if problem.message.contains("between one and 60"))
        );
    }
    kit.make_clone("shop", "dev", false);
    let dev = Owner::named(&kit.world, &name("dev")).unwrap();
    assert!(snapshot::Snapshot::fenced(&kit.world, &dev, 5).is_err());
}
