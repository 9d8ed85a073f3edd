//! The records of images with data in them: the images, the names that stand for them, and the server images below
//! them. Blobs lie in the store of images; a blob that none of these records names is garbage.

use jiff::Timestamp;
use pando_model::{AppId, EngineKind, Name, OwnerId, Profile};
use serde::{Deserialize, Serialize};

use crate::{Record, Sealed};

/// An image: one source at one moment on top of one server image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its manifest.
    pub digest: String,
    /// What it was made of, as one text: the same again is the same image.
    pub made_of: String,
    /// The app or clone.
    pub owner: OwnerId,
    /// Its name.
    pub name: Name,
    /// The app it stems from.
    pub app: AppId,
    /// That one's name.
    pub app_name: Name,
    /// The source.
    pub source: Name,
    /// What knows it.
    pub engine: EngineKind,
    /// The moment that it shows.
    pub moment: Timestamp,
    /// As typed.
    pub asked: String,
    /// The server image below it.
    pub base: String,
    /// The layers of data, from the bottom up, in the form of the store.
    pub layers: serde_json::Value,
    /// The digest of its configuration.
    pub config: String,
    /// The digest of what the tree holds file by file.
    pub state: String,
    /// All its blobs but those of the server image.
    pub blobs: Vec<String>,
    /// Where the data lies in it.
    pub path: String,
    /// The port of its server, where there is one.
    pub port: Option<u16>,
    /// Who may do everything in it.
    pub user: String,
    /// With this password.
    pub password: Sealed,
    /// Whether its data was masked.
    pub masked: bool,
    /// Bytes of the data.
    pub data_bytes: u64,
    /// Bytes that its making added.
    pub new_bytes: u64,
    /// Bytes that differ from the one before.
    pub changed_bytes: u64,
    /// Bytes of the files that these are in.
    pub changed_file_bytes: u64,
    /// When it was made.
    pub built_at: Timestamp,
}

/// A name of an image, and how it is built again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageName {
    /// The name.
    pub reference: String,
    /// The image that it stands for.
    pub image: String,
    /// The app or clone it is built of.
    pub name: Name,
    /// Which source.
    pub source: Name,
    /// Which server image; none: the official one, and nothing below a directory.
    pub base: Option<String>,
    /// Where a directory lies in it.
    #[serde(default)]
    pub path: Option<String>,
    /// Who may do everything in it.
    pub user: String,
    /// The password, and whether the user chose it.
    pub password: (Sealed, bool),
    /// The most bytes that the data may have.
    pub max_bytes: Option<u64>,
    /// What is written in its containers is worth that.
    pub profile: Profile,
    /// Whether its data has to be masked.
    #[serde(default)]
    pub masked: bool,
    /// Whether the container engine gets it; none: if there is one.
    pub load: Option<bool>,
    /// Which image was sent to its registry last, and when.
    pub pushed: Option<(String, Timestamp)>,
}

/// A server image that others stand on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The digest that it is known by where it comes from.
    pub id: String,
    /// As named.
    pub reference: String,
    /// Its configuration, layers and what is in it, in the form of the store.
    pub base: serde_json::Value,
    /// Its blobs.
    pub blobs: Vec<String>,
}

impl Record for ImageRecord {
    const TABLE: &'static str = "images";
    fn id(&self) -> String {
        self.digest.clone()
    }
    fn key(&self) -> String {
        format!("{}/{}", self.app, self.source)
    }
}

impl Record for ImageName {
    const TABLE: &'static str = "image_names";
    fn id(&self) -> String {
        self.reference.clone()
    }
    fn key(&self) -> String {
        self.image.clone()
    }
}

impl Record for BaseRecord {
    const TABLE: &'static str = "image_bases";
    fn id(&self) -> String {
        self.id.clone()
    }
    fn key(&self) -> String {
        self.reference.clone()
    }
}
