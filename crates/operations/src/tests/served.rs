//! Worlds and verbs of clones that containers of the user's run on, for the table in `cases.rs`.

use std::sync::Arc;

use pando_model::CloneState;

use super::kit::{Kit, go, name, request};
use crate::fault::Done;
use crate::owner::Owner;
use crate::verbs::{clone, create, power, volume};
use crate::world::World;

/// An app with a clone `dev` that a volume made, and a later state to refresh to.
pub fn with_volume(kit: &Kit) {
    kit.link(true);
    let wanted = wanted("dev_db");
    go(&kit.world, &["dev"], |world| clone::Clone::for_containers(world, request("shop", None, "dev"), wanted))
        .unwrap();
    kit.commit(7);
}

/// An app with a clone `dev` that a Compose project runs on, and a later state to refresh to.
pub fn with_project(kit: &Kit) {
    kit.link(true);
    go(&kit.world, &["dev"], |world| clone::Clone::new(world, composed("dev"))).unwrap();
    kit.commit(7);
}

/// The same, whose project was stopped.
pub fn with_resting_project(kit: &Kit) {
    with_project(kit);
    run_stop(&kit.world).unwrap();
}

pub fn run_stop(world: &Arc<World>) -> Done<()> {
    go(world, &["dev"], |world| power::Stop::new(world, name("dev")))
}

pub fn run_start(world: &Arc<World>) -> Done<()> {
    go(world, &["dev"], |world| power::Start::new(world, name("dev")))
}

pub fn composed(name: &str) -> pando_model::CloneRequest {
    pando_model::CloneRequest { compose: Some("/srv/compose.yaml".to_owned()), ..request("shop", None, name) }
}

/// Whether a clone is there with its project, whose services run.
pub fn project_runs(kit: &Kit, clone: &str) -> bool {
    let owes = |record: pando_catalog::CloneRecord| record.compose.is_none_or(|compose| !compose.owed.is_empty());
    kit.clone_of(clone).is_some_and(|record| record.state == CloneState::Stopped && !owes(record))
        && kit.projects.inventory().get(clone) == Some(&2)
}

/// Whether none of its services runs, and none is owed a start.
pub fn project_rests(kit: &Kit, clone: &str) -> bool {
    let owes = kit.there(clone).compose.is_some_and(|compose| !compose.owed.is_empty());
    !owes && kit.projects.inventory().get(clone) == Some(&0)
}

pub fn empty(volume: &str) -> create::Empty {
    create::Empty { name: name(volume), options: Default::default(), uid: None, gid: None, mode: Some(0o750) }
}

fn wanted(volume: &str) -> clone::Wanted {
    let options = std::collections::BTreeMap::from([("from".to_owned(), "shop".to_owned())]);
    clone::Wanted { name: name(volume), source: name("db"), options, password: None }
}

pub fn run_volume(world: &Arc<World>, from: &str) -> Done<()> {
    let make = |world: &World| clone::Clone::for_containers(world, request(from, None, "fresh"), wanted("fresh_db"));
    go(world, &["fresh"], make)
}

pub fn volume_there(kit: &Kit) -> bool {
    kit.clone_of("fresh").is_some_and(|clone| clone.state == CloneState::Stopped) && kit.volume("fresh_db").is_some()
}

pub fn attach(world: &World, volume: &str) -> Done<volume::Attach> {
    let clone = Owner::named(world, &name("dev"))?.clone_record()?.id.clone();
    let (source, options) = (name("files"), Default::default());
    let created_at = world.now();
    Ok(volume::Attach::new(pando_catalog::VolumeRecord { name: name(volume), clone, source, options, created_at }))
}
