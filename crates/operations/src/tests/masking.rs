//! What is masked and what is not: a clone on which all that masks has succeeded when it got its data, and whatever is
//! made of it.

use std::sync::Arc;

use pando_model::{HookPoint, LinkRequest, Moment};

use super::agree::complaints;
use super::kit::{Kit, go, hooked, masking, name};
use crate::fault::Done;
use crate::verbs::refresh::{Origin, Refresh};
use crate::verbs::{apply, link, promote};
use crate::world::World;

fn linked(with: LinkRequest) -> Kit {
    let kit = Kit::new();
    go(&kit.world, &["shop"], |world| link::Link::new(world, with)).unwrap();
    kit.commit(1);
    kit
}

fn declare(kit: &Kit, wanted: LinkRequest) {
    go(&kit.world, &["shop"], |world| apply::Apply::new(world, wanted)).unwrap();
}

fn replace(world: &Arc<World>, origin: Origin, moment: Option<&str>) -> Done<()> {
    let moment = moment.map(|text| text.parse::<Moment>().unwrap());
    go(world, &["dev"], |world| Refresh::new(world, name("dev"), origin, moment))
}

fn masked(kit: &Kit, clone: &str) -> bool {
    let record = kit.there(clone).masked;
    let shown = crate::views::list(&kit.world).unwrap().clones;
    assert_eq!(shown.iter().find(|row| row.name == name(clone)).map(|row| row.masked), Some(record));
    record
}

#[test]
fn a_clone_is_masked_when_its_data_was_and_not_by_what_is_declared_later() {
    let kit = linked(hooked());
    kit.make_clone("shop", "dev", false);
    declare(&kit, masking());
    assert!(!masked(&kit, "dev"), "what masks was not there");
    kit.refresh("dev");
    assert!(masked(&kit, "dev"));
    assert!(kit.there("dev").former.is_some_and(|former| !former.masked), "what it was before is as it was");
    replace(&kit.world, Origin::Former, None).unwrap();
    assert!(!masked(&kit, "dev") && kit.there("dev").former.is_some_and(|former| former.masked));
    // One that fails masks nothing.
    *kit.hooks.failing.lock().unwrap() = Some(HookPoint::ConfigureClone);
    replace(&kit.world, Origin::Parent, None).unwrap_err();
    *kit.hooks.failing.lock().unwrap() = None;
    assert!(!masked(&kit, "dev"));
    kit.refresh("dev");
    declare(&kit, hooked());
    assert!(masked(&kit, "dev"), "its data is as it was");
    kit.refresh("dev");
    assert!(!masked(&kit, "dev") && kit.there("dev").former.is_some_and(|former| former.masked));
    replace(&kit.world, Origin::Former, None).unwrap();
    assert!(masked(&kit, "dev"));
    kit.snapshot("shop");
    assert!(kit.snapshots("shop").iter().all(|one| !one.masked), "production's data never is");
    assert_eq!(complaints(&kit), Vec::<String>::new());
}

#[test]
fn what_is_made_of_a_masked_clone_is_masked() {
    let kit = linked(hooked());
    kit.make_clone("shop", "dev", true);
    kit.bookmark("dev", "plain", None);
    declare(&kit, masking());
    kit.refresh("dev");
    kit.pass(60);
    kit.bookmark("dev", "hidden", None);
    kit.make_clone("dev", "child", false);
    assert!(masked(&kit, "child"));
    // From here on nothing masks: each is what it was made of.
    declare(&kit, hooked());
    kit.make_clone("dev", "later", false);
    kit.make_clone("later", "grandchild", false);
    assert!(masked(&kit, "later") && masked(&kit, "grandchild"));
    let flags: Vec<bool> = kit.snapshots("dev").iter().map(|one| one.masked).collect();
    assert!(flags.contains(&false) && flags.contains(&true), "{flags:?}");
    let shown = crate::views::timeline(&kit.world, &name("dev")).unwrap().snapshots;
    assert_eq!(shown.iter().map(|one| one.masked).collect::<Vec<_>>(), flags);
    replace(&kit.world, Origin::Own, Some("plain")).unwrap();
    assert!(!masked(&kit, "dev"), "it is from before");
    replace(&kit.world, Origin::Own, Some("hidden")).unwrap();
    assert!(masked(&kit, "dev"));
    go(&kit.world, &["dev"], |world| promote::Promote::new(world, name("dev"))).unwrap();
    assert!(masked(&kit, "dev") && kit.snapshots("dev").last().unwrap().masked);
    // What masks runs after a rewind too.
    declare(&kit, masking());
    replace(&kit.world, Origin::Own, Some("plain")).unwrap();
    assert!(masked(&kit, "dev"));
    assert_eq!(complaints(&kit), Vec::<String>::new());
}
