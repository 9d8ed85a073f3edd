//! `image rm`: forgets a name. The image goes with its last name, unless it is one of those that are kept (see
//! `images.rs`). What an engine or a registry has is theirs.
//!
//! # Crash consistency
//! The name goes first, then what no name needs: in between there is garbage, which any later sweep takes.

use pando_catalog::ImageName;
use pando_model::{ImageRemoveRequest, Name};
use serde::{Deserialize, Serialize};

use crate::fault::Done;
use crate::images;
use crate::journal::{Run, Step, Verb, keep};
use crate::world::World;

/// A name that goes.
#[derive(Serialize, Deserialize)]
pub struct ImageRemove {
    /// The record, to bring it back.
    name: ImageName,
}

impl Verb for ImageRemove {
    const WORD: &'static str = "image-rm";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "unname", apply: Self::unname, undo: Self::name_again },
        Step { name: "sweep", apply: Self::sweep, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.name.name.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "reference": self.name.reference }))
    }
}

impl ImageRemove {
    /// The removal of a name that is there.
    pub fn new(world: &World, request: &ImageRemoveRequest) -> Done<Self> {
        Ok(Self { name: images::named(world, &request.reference)? })
    }

    fn unname(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.delete::<ImageName>(&self.name.reference)?)
    }

    fn name_again(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.note(&self.name)?)
    }

    fn sweep(&mut self, run: &Run) -> Done<()> {
        let _alone = images::alone(&run.world)?;
        images::settle(&run.world, &run.id)
    }
}
