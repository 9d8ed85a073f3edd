//! Images taken from a registry, or from a directory in OCI's layout. What was taken is compared with the digest
//! that was asked for: neither is believed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::take::take;
use super::{Base, Facts, Layer, LayerScan, digest_of, hex_of};
use crate::ImageError;

/// Where images are taken from.
pub trait Origin {
    /// A manifest or index by its digest; without one, that which the name stands for.
    fn manifest(&mut self, digest: Option<&str>) -> Result<Vec<u8>, ImageError>;
    /// A blob.
    fn blob(&mut self, digest: &str) -> Result<Box<dyn Read + '_>, ImageError>;

    /// The manifest for this machine's kind of processor, and its digest.
    fn chosen(&mut self) -> Result<(String, Value), ImageError> {
        let bytes = self.manifest(None)?;
        let document = json(&bytes)?;
        let Some(all) = document["manifests"].as_array() else { return Ok((digest_of(&bytes), document)) };
        let processor = processor();
        let fits = |one: &&Value| {
            let platform = &one["platform"];
            // In a layout with one image there is often no platform.
            (platform["os"] == "linux" && platform["architecture"] == processor)
                || (platform.is_null() && all.len() == 1)
        };
        let digest = all
            .iter()
            .find(fits)
            .and_then(|one| one["digest"].as_str())
            .ok_or_else(|| ImageError::Unfit(format!("the server image is not there for linux on {processor}")))?;
        let bytes = self.manifest(Some(digest))?;
        if digest_of(&bytes) != digest {
            return Err(ImageError::Unfit(format!("the manifest {digest} is not what its digest says")));
        }
        Ok((digest.to_owned(), json(&bytes)?))
    }
}

/// The processor as images name it.
pub(super) fn processor() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn json(bytes: &[u8]) -> Result<Value, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Unfit(format!("an image cannot be read: {error}")))
}

/// Takes the image of a manifest; its layers go into a directory of work.
pub fn take_image(origin: &mut dyn Origin, manifest: &Value, dir: &Path) -> Result<Base, ImageError> {
    let wrong = |digest: &str| ImageError::Unfit(format!("the blob {digest} is not what its digest says"));
    let digest = manifest["config"]["digest"].as_str().unwrap_or_default();
    let mut config = Vec::new();
    origin.blob(digest)?.take(8 << 20).read_to_end(&mut config).map_err(ImageError::Stream)?;
    if digest_of(&config) != digest {
        return Err(wrong(digest));
    }
    let config = json(&config)?;
    let mut layers: Vec<(Layer, LayerScan)> = Vec::new();
    for one in manifest["layers"].as_array().into_iter().flatten() {
        let digest = one["digest"].as_str().unwrap_or_default().to_owned();
        let taken = take(&mut origin.blob(&digest)?, dir)?;
        // One that was not compressed has another digest now.
        let plain = one["mediaType"].as_str().is_some_and(|media| media.ends_with("tar"));
        if taken.0.blob.digest != digest && !(plain && taken.0.diff_id == digest) {
            return Err(wrong(&digest));
        }
        layers.push(taken);
    }
    let (layers, scans): (Vec<Layer>, Vec<LayerScan>) = layers.into_iter().unzip();
    let said = config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
    if !said.map(|one| one.as_str().unwrap_or_default()).eq(layers.iter().map(|layer| layer.diff_id.as_str())) {
        return Err(ImageError::Unfit("the server image does not have the layers that it names".to_owned()));
    }
    Ok(Base { config, layers, facts: Facts::of(scans.into_iter()) })
}

/// A directory in OCI's layout: `oci:DIR`, or `oci:DIR:TAG` where it holds several images.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    tag: Option<String>,
}

impl Layout {
    /// The layout that a reference means; none where it means something else.
    pub fn named(reference: &str) -> Option<Self> {
        let path = reference.strip_prefix("oci:")?;
        Some(match path.rsplit_once(':') {
            Some((dir, tag)) if !tag.contains('/') => Self { dir: dir.into(), tag: Some(tag.to_owned()) },
            _ => Self { dir: path.into(), tag: None },
        })
    }

    fn path(&self, digest: &str) -> Result<PathBuf, ImageError> {
        let hex = hex_of(digest).ok_or_else(|| ImageError::Unfit(format!("{digest:?} is no digest")))?;
        Ok(self.dir.join("blobs/sha256").join(hex))
    }
}

impl Origin for Layout {
    fn manifest(&mut self, digest: Option<&str>) -> Result<Vec<u8>, ImageError> {
        let path = match digest {
            Some(digest) => self.path(digest)?,
            None => self.dir.join("index.json"),
        };
        let bytes = fs::read(&path).map_err(ImageError::io("reading", path))?;
        let (Some(tag), None) = (&self.tag, digest) else { return Ok(bytes) };
        let mut index = json(&bytes)?;
        let named = |one: &&Value| one["annotations"]["org.opencontainers.image.ref.name"] == tag.as_str();
        let found = index["manifests"].as_array().into_iter().flatten().find(named).cloned();
        let found = found.ok_or_else(|| ImageError::Unfit(format!("{} has no image {tag}", self.dir.display())))?;
        index["manifests"] = Value::Array(vec![found]);
        Ok(index.to_string().into_bytes())
    }

    fn blob(&mut self, digest: &str) -> Result<Box<dyn Read + '_>, ImageError> {
        let path = self.path(digest)?;
        Ok(Box::new(File::open(&path).map_err(ImageError::io("reading", path))?))
    }
}
