//! Images of containers with data in them: what a server image is made of, and what Pando lays over it.
//!
//! | file | what it answers for |
//! |---|---|
//! | `store.rs` | blobs on disk, each under its digest |
//! | `take.rs` | layers of others taken in as they are: their digests, and what is in them |
//! | `saved.rs` | images as a Docker or Podman engine gives and takes them |
//! | `origin.rs` | images taken from a registry or from a directory in OCI's layout |
//! | `reference.rs` | names of images, and which registry they mean |
//! | `registry/` | a registry: asks what it has, sends the rest |
//! | `state.rs` | a tree as an image holds it, and what two of them differ in |
//! | `gzip.rs` | the same bytes packed are the same bytes |
//! | `layer.rs` | a tree, or what of it changed, as a layer |
//! | `document.rs` | an image's configuration and manifest |
//!
//! Layers are OCI's: a tar each, a changed file in whole, a file that went as a mark. They are compressed by gzip,
//! which every engine reads; zstd is read of others.

mod document;
mod gzip;
mod layer;
mod origin;
mod reference;
mod registry;
mod saved;
mod state;
mod store;
mod take;

pub use document::{INDEX, Image, index};
pub use layer::{Place, write_layer};
pub use origin::{Layout, Origin, take_image};
pub use reference::Reference;
pub use registry::{Login, Manners, Registry, Sent, Trust};
pub use saved::{Archive, read_saved, saved_length, write_saved};
pub use state::{Change, TreeState, largest_files, tree_bytes};
pub use store::{BlobWriter, Store};
pub use take::{Facts, LayerScan};

use serde::{Deserialize, Serialize};

/// What the file `oci-layout` of a directory in OCI's layout says.
pub const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of a configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a layer that gzip has compressed.
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The media type of a layer that zstd has compressed.
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What a blob is called by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// How many bytes.
    pub size: u64,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The blob, compressed.
    pub blob: Descriptor,
    /// The digest of what it is when unpacked.
    pub diff_id: String,
}

/// A server image, as far as another is made on top of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// Its configuration.
    pub config: serde_json::Value,
    /// From the bottom up.
    pub layers: Vec<Layer>,
    /// What is in it.
    pub facts: Facts,
}

impl Base {
    /// Nothing at all, for this machine's kind of processor.
    pub fn scratch() -> Self {
        let config = serde_json::json!({ "architecture": origin::processor(), "os": "linux", "config": {} });
        Self { config, layers: Vec::new(), facts: Facts::default() }
    }

    /// A variable of its environment.
    pub fn env(&self, name: &str) -> Option<&str> {
        let all = self.config["config"]["Env"].as_array().into_iter().flatten();
        all.filter_map(|one| one.as_str()?.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Whether a text is a digest: what is not is never part of a path.
pub(crate) fn hex_of(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(hex)
}

/// The digest of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", crate::archive::hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref()))
}
