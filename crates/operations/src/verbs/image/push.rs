//! `image push`: sends an image from the store to its registry. No engine is needed.
//!
//! # Crash consistency
//! An image is visible there when its manifest is, which comes last. Layers of a push that was cut off stay with the
//! registry until it clears them away, and are not sent again.

use pando_catalog::ImageName;
use pando_image::oci::{Base, CONFIG, Descriptor, Layer, Reference, Registry};
use pando_model::{ImagePushRequest, Name};
use serde::{Deserialize, Serialize};

use crate::fault::Done;
use crate::images;
use crate::journal::{Run, Step, Verb, keep};
use crate::world::World;
use pando_catalog::Sealed;

/// How many bytes go out between two looks at the progress.
const STRIDE: u64 = 16 << 20;

/// An image on its way.
#[derive(Serialize, Deserialize)]
pub struct ImagePush {
    reference: String,
    subject: Name,
    login: Option<Sealed>,
    /// The image, blobs and bytes that were sent, bytes that were there.
    sent: Option<(String, u64, u64, u64)>,
}

impl Verb for ImagePush {
    const WORD: &'static str = "image-push";
    const STEPS: &'static [Step<Self>] =
        &[Step { name: "send", apply: Self::send, undo: keep }, Step { name: "note", apply: Self::note, undo: keep }];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.subject.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        let (digest, blobs, bytes, there) = self.sent.as_ref()?;
        Some(serde_json::json!({
            "reference": self.reference, "digest": digest,
            "sent_blobs": blobs, "sent_bytes": bytes, "there_bytes": there,
        }))
    }
}

impl ImagePush {
    /// A push of an image that was built.
    pub fn new(world: &World, request: &ImagePushRequest) -> Done<Self> {
        let name = images::named(world, &request.reference)?;
        let login = images::seal_login(world, request.login.as_ref())?;
        Ok(Self { reference: name.reference, subject: name.name, login, sent: None })
    }

    fn send(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let name = images::named(world, &self.reference)?;
        let image = images::image(world, &name)?;
        let record = images::base_of(world, &image)?;
        let (base, data): (Base, Vec<Layer>) = (images::decoded(&record.base)?, images::decoded(&image.layers)?);
        let store = images::store(world);
        let config = store.read(&image.config)?;
        let config =
            Descriptor { media_type: CONFIG.to_owned(), digest: image.config.clone(), size: config.len() as u64 };
        let mut blobs = Vec::new();
        for blob in base.layers.iter().chain(&data).map(|layer| layer.blob.clone()).chain([config]) {
            let path = store.path(&blob.digest)?;
            blobs.push((blob, path));
        }
        let total = blobs.iter().map(|(blob, _)| blob.size).sum();
        let reference = images::reference(&self.reference)?;
        // Where the server image is of the same registry, its layers need not travel.
        let near = record.reference.parse::<Reference>().ok().filter(|_| !base.layers.is_empty());
        let near = near.filter(|base| base.registry() == reference.registry()).map(|base| base.repository);
        let login = images::open_login(world, self.login.as_ref(), &self.reference)?;
        let mut registry = Registry::new(reference, login, &world.trust);
        let manifest = store.read(&image.digest)?;
        let mut told = 0;
        let sent = registry.push(&manifest, &blobs, near.as_deref(), &mut |bytes| {
            if bytes >= told + STRIDE {
                told = bytes;
                run.progress("sending", bytes, Some(total));
            }
        })?;
        self.login = None;
        self.sent = Some((image.digest, sent.blobs, sent.bytes, sent.there));
        Ok(())
    }

    fn note(&mut self, run: &Run) -> Done<()> {
        let Some((digest, ..)) = &self.sent else { return Ok(()) };
        // Removed in the meantime: it was sent all the same.
        let Some(mut name) = run.world.catalog.get::<ImageName>(&self.reference)? else { return Ok(()) };
        name.pushed = Some((digest.clone(), run.world.now()));
        Ok(run.world.catalog.note(&name)?)
    }
}
