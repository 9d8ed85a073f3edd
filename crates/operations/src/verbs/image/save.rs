//! `image build --output`: an image from the store as one file, streamed to whoever asked. No engine is needed, and no
//! registry.
//!
//! # Crash consistency
//! Nothing is made here; whoever asked keeps what came only when it was whole.

use std::io::{BufWriter, Write};

use pando_image::oci::{Archive, Base, Layer};
use pando_model::{ImageSaveRequest, Name};
use serde::{Deserialize, Serialize};

use crate::fault::Done;
use crate::images;
use crate::journal::{Run, Step, Verb, keep};
use crate::transfer::{self, Way};
use crate::world::World;

/// How many bytes go out between two looks at the progress.
const STRIDE: u64 = 16 << 20;

/// An image on its way into a file.
#[derive(Serialize, Deserialize)]
pub struct ImageSave {
    reference: String,
    subject: Name,
    /// The image and its bytes.
    written: Option<(String, u64)>,
}

impl Verb for ImageSave {
    const WORD: &'static str = "image-save";
    const STEPS: &'static [Step<Self>] = &[Step { name: "stream", apply: Self::stream, undo: keep }];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.subject.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        let (digest, bytes) = self.written.as_ref()?;
        Some(serde_json::json!({ "reference": self.reference, "digest": digest, "bytes": bytes }))
    }
}

impl ImageSave {
    /// A file of an image that was built.
    pub fn new(world: &World, request: &ImageSaveRequest) -> Done<Self> {
        let name = images::named(world, &request.reference)?;
        Ok(Self { reference: name.reference, subject: name.name, written: None })
    }

    fn stream(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let name = images::named(world, &self.reference)?;
        let image = images::image(world, &name)?;
        let below: Base = images::decoded(&images::base_of(world, &image)?.base)?;
        let data: Vec<Layer> = images::decoded(&image.layers)?;
        let store = images::store(world);
        let mut layers = Vec::new();
        for layer in below.layers.into_iter().chain(data) {
            let path = store.path(&layer.blob.digest)?;
            layers.push((layer, path));
        }
        let (manifest, config) = (store.read(&image.digest)?, store.read(&image.config)?);
        let reference = images::reference(&self.reference)?;
        let archive = Archive { reference: &reference, manifest: &manifest, config: &config, layers: &layers };
        let total = archive.length();
        let stream = BufWriter::with_capacity(1 << 18, transfer::open(run, Way::Out)?);
        let mut out = Told { run, out: stream, done: 0, told: 0, total };
        archive.write(&mut out).and_then(|()| out.flush()).map_err(pando_image::ImageError::Stream)?;
        self.written = Some((image.digest, total));
        Ok(())
    }
}

/// Bytes on their way, told of now and then.
struct Told<'a, W> {
    run: &'a Run,
    out: W,
    done: u64,
    told: u64,
    total: u64,
}

impl<W: Write> Write for Told<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let put = self.out.write(bytes)?;
        self.done += put as u64;
        if self.done >= self.told + STRIDE {
            self.told = self.done;
            self.run.progress("writing", self.done, Some(self.total));
        }
        Ok(put)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
