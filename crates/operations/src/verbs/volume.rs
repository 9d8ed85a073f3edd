//! `attach` and `detach`: a directory of a clone that is there gets, or loses, a name that container engines know.
//!
//! # Crash consistency
//! Each is one commit in the catalog; nothing else changes.

use pando_catalog::{CatalogError, Change, CloneRecord, Durability, Record, VolumeRecord};
use pando_model::{CloneState, Name, OwnerId};
use serde::{Deserialize, Serialize};

use crate::fault::{Done, Fault, refused};
use crate::journal::{Run, Step, Verb};
use crate::volumes::{in_use, look};
use crate::world::World;

/// A volume being named.
#[derive(Serialize, Deserialize)]
pub struct Attach {
    volume: VolumeRecord,
}

/// A volume losing its name.
#[derive(Serialize, Deserialize)]
pub struct Detach {
    volume: VolumeRecord,
}

fn add(change: &Change<'_>, volume: &VolumeRecord) -> Result<(), CatalogError> {
    change.take_name(&volume.name, &OwnerId::Clone(volume.clone.clone()))?;
    change.put(volume)
}

/// Takes the volume away if it is this one. The clone's own name stays the clone's.
fn take(change: &Change<'_>, volume: &VolumeRecord) -> Result<(), CatalogError> {
    if change.get::<VolumeRecord>(&volume.id())?.as_ref() != Some(volume) {
        return Ok(());
    }
    let clone = change.get::<CloneRecord>(volume.clone.as_str())?;
    if clone.is_none_or(|clone| clone.name != volume.name) {
        change.free_name(&volume.name, &OwnerId::Clone(volume.clone.clone()))?;
    }
    change.delete::<VolumeRecord>(&volume.id())
}

impl Verb for Attach {
    const WORD: &'static str = "attach";
    const STEPS: &'static [Step<Self>] = &[Step { name: "name", apply: Self::name, undo: Self::unname }];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.volume.name.clone()
    }
}

impl Attach {
    /// A directory of a clone to be named.
    pub fn new(volume: VolumeRecord) -> Self {
        Self { volume }
    }

    fn name(&mut self, run: &Run) -> Done<()> {
        let volume = &self.volume;
        let there = run.world.catalog.change(Durability::Ordered, |change| {
            let clone = change.get::<CloneRecord>(volume.clone.as_str())?;
            let there = clone.is_some_and(|clone| clone.state != CloneState::Removing);
            if there {
                add(change, volume)?;
            }
            Ok(there)
        })?;
        if there { Ok(()) } else { Err(Fault::Problem(refused(format!("the clone of {} is gone", volume.name)))) }
    }

    fn unname(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.change(Durability::Ordered, |change| take(change, &self.volume))?)
    }
}

impl Verb for Detach {
    const WORD: &'static str = "detach";
    const STEPS: &'static [Step<Self>] = &[Step { name: "unname", apply: Self::unname, undo: Self::name }];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.volume.name.clone()
    }
}

impl Detach {
    /// A volume to lose its name. Refused while it is in use.
    pub fn new(world: &World, name: &Name) -> Done<Self> {
        let (volume, clone) = look::records(world, name)?;
        // Of the clone's directories this one alone.
        let own = clone.sources.iter().filter(|(source, _)| **source == volume.source);
        let own = own.map(|(source, stored)| (source.clone(), stored.clone())).collect();
        in_use::refuse_in_use(world, &clone, &own)?;
        Ok(Self { volume })
    }

    fn unname(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.change(Durability::Ordered, |change| take(change, &self.volume))?)
    }

    fn name(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.change(Durability::Ordered, |change| {
            // Its clone may have gone since, with all of its names.
            match change.get::<CloneRecord>(self.volume.clone.as_str())? {
                Some(_) => add(change, &self.volume),
                None => Ok(()),
            }
        })?)
    }
}
