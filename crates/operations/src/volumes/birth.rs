//! What a volume is to be: a directory of a clone that is there, or of one that is made for it.

use pando_catalog::{CloneRecord, VolumeRecord};
use pando_model::{CloneRequest, CloneState, Name, OwnerId, Profile, RuntimeKind};

use super::options::Wish;
use super::{compose, group};
use crate::fault::{Done, Fault, not_found, refused, usage};
use crate::owner::Owner;
use crate::verbs::clone::Wanted;
use crate::verbs::create::Empty;
use crate::world::World;

/// What a volume is to be.
pub enum Birth {
    /// A directory of a clone that is there.
    Join(VolumeRecord),
    /// An empty one.
    Empty(Empty),
    /// A directory of a new clone.
    Make(Box<CloneRequest>, Wanted),
}

/// Decides. Nobody else decides meanwhile.
pub fn of(world: &World, name: &Name, wish: Wish) -> Done<Birth> {
    if let Some(volume) = compose::volume_of(world, name, &wish)? {
        return Ok(Birth::Join(volume));
    }
    if let Some(clone) = &wish.clone
        && world.catalog.owner(clone)?.is_some()
    {
        return attached(world, name, &wish, clone);
    }
    let Some(from) = &wish.from else {
        return match &wish.clone {
            Some(clone) => Err(not_found(format!("there is no clone {clone}")).hint("with from= it is made").into()),
            None => {
                let Wish { uid, gid, mode, kept: options, .. } = wish;
                Ok(Birth::Empty(Empty { name: name.clone(), options, uid, gid, mode }))
            }
        };
    };
    let parent = Owner::named(world, from)?;
    let source = source(world, &parent, from, wish.source.as_ref())?;
    fits(&parent, &source)?;
    if wish.clone.is_none()
        && let Some(clone) = kin(world, name, &source, &parent, &wish)?
    {
        return Ok(join(world, name, source, &clone, wish));
    }
    let password = wish.password.as_ref().map(|password| world.seal(password.as_bytes())).transpose()?;
    let request = CloneRequest {
        from: parent.name.clone(),
        moment: wish.moment.clone(),
        clone: clone_name(world, name, &source, &wish)?,
        profile: Some(wish.profile.unwrap_or(Profile::Durable)),
        record: false,
        runtime: Some(RuntimeKind::Process),
        container: Default::default(),
        compose: None,
        lease_seconds: None,
        set: Default::default(),
    };
    let wanted = Wanted { name: name.clone(), source, options: wish.kept, password };
    Ok(Birth::Make(Box::new(request), wanted))
}

fn join(world: &World, name: &Name, source: Name, clone: &CloneRecord, wish: Wish) -> Birth {
    Birth::Join(VolumeRecord {
        name: name.clone(),
        clone: clone.id.clone(),
        source,
        options: wish.kept,
        created_at: world.now(),
    })
}

/// A directory of a clone that the user names.
fn attached(world: &World, name: &Name, wish: &Wish, to: &Name) -> Done<Birth> {
    let owner = Owner::named(world, to)?;
    let clone = owner.clone_record()?;
    if matches!(clone.state, CloneState::Removing) {
        return Err(refused(format!("{to} is being removed")).into());
    }
    if let Some(from) = &wish.from
        && world.catalog.owner(from)?.as_ref() != Some(&clone.parent)
    {
        return Err(refused(format!("{to} is no copy of {from}"))
            .hint("leave from= out, or name another clone")
            .into());
    }
    if wish.moment.is_some() && wish.asked() != clone.asked {
        return Err(refused(format!("{to} stands at {} ({}), not at {}", clone.asked, clone.moment, wish.asked()))
            .hint(format!("leave the moment out, or: pando refresh {to}@{}", wish.asked()))
            .into());
    }
    // While it is being made it has what its parent has.
    let parent = Owner::load(world, &clone.parent)?;
    let known = if owner.sources.is_empty() { parent.as_ref().unwrap_or(&owner) } else { &owner };
    let source = source(world, known, to, wish.source.as_ref())?;
    let held = known.sources.get(&source);
    if !clone.elsewhere && held.is_some_and(|held| held.engine.serves(&held.source)) {
        return Err(refused(format!("the server {source} of {to} runs on its data"))
            .hint(format!("reach it by its address: pando env {to}; or make a volume of it: -o from={to}"))
            .into());
    }
    if clone.elsewhere {
        fits(known, &source)?;
    }
    let (options, password) = (wish.kept.clone(), wish.password.is_some());
    if password {
        return Err(refused(format!("{to} has its password already")).hint(format!("pando env {to}")).into());
    }
    Ok(Birth::Join(VolumeRecord {
        name: name.clone(),
        clone: clone.id.clone(),
        source,
        options,
        created_at: world.now(),
    }))
}

/// Which source: as named, the only one, or that of the volume that is copied.
pub fn source(world: &World, parent: &Owner, from: &Name, wanted: Option<&Name>) -> Done<Name> {
    let known: Vec<String> = parent.sources.keys().map(Name::to_string).collect();
    if let Some(wanted) = wanted {
        if parent.sources.contains_key(wanted) {
            return Ok(wanted.clone());
        }
        let problem = not_found(format!("{} has no source {wanted}", parent.name));
        return Err(problem.hint(format!("it has: {}", known.join(", "))).into());
    }
    if let Some(volume) = world.catalog.get::<VolumeRecord>(from.as_str())?
        && parent.id == OwnerId::Clone(volume.clone)
    {
        return Ok(volume.source);
    }
    let mut names = parent.sources.keys();
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only.clone()),
        _ => Err(Fault::Problem(
            usage(format!("{} has several sources: {}", parent.name, known.join(", "))).hint("say which: -o source=…"),
        )),
    }
}

/// Refuses a source whose server cannot run in a container of the user's.
pub fn fits(parent: &Owner, source: &Name) -> Done<()> {
    match parent.sources.get(source) {
        Some(held) if !held.engine.hands_over() => {
            Err(refused(format!("{source} is a {} source, whose server cannot run in a container of yours", held.kind))
                .hint(format!("a clone has a server of its own: pando clone {}", parent.name))
                .into())
        }
        _ => Ok(()),
    }
}

/// The clone that volumes of the same project made of the same parent at the same moment.
fn kin(world: &World, name: &Name, source: &Name, parent: &Owner, wish: &Wish) -> Done<Option<CloneRecord>> {
    let mut found: Option<(usize, CloneRecord)> = None;
    for clone in world.catalog.all::<CloneRecord>()? {
        let same = clone.elsewhere && clone.parent == parent.id && clone.asked == wish.asked();
        if !same || matches!(clone.state, CloneState::Removing | CloneState::Failed) {
            continue;
        }
        let volumes: Vec<VolumeRecord> = world.catalog.of(clone.id.as_str())?;
        if volumes.is_empty() || volumes.iter().any(|volume| volume.source == *source) {
            continue;
        }
        let others: Vec<(&str, &str)> =
            volumes.iter().map(|volume| (volume.name.as_str(), volume.source.as_str())).collect();
        let shared = group::shared((name.as_str(), source.as_str()), &others).map(str::len);
        if let Some(length) = shared.filter(|length| found.as_ref().is_none_or(|(known, _)| length > known)) {
            found = Some((length, clone));
        }
    }
    Ok(found.map(|(_, clone)| clone))
}

/// The project's name where the volume's says it and nothing else has it; else the volume's.
fn clone_name(world: &World, name: &Name, source: &Name, wish: &Wish) -> Done<Name> {
    if let Some(clone) = &wish.clone {
        return Ok(clone.clone());
    }
    let told = group::told(name.as_str(), source.as_str()).and_then(|project| project.parse::<Name>().ok());
    match told {
        Some(project) if world.catalog.owner(&project)?.is_none() => Ok(project),
        _ => Ok(name.clone()),
    }
}
