//! What an archive says of itself: its first entry, one JSON document.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pando_model::{EngineKind, Name, SourceUrl};
use serde::{Deserialize, Serialize};

use crate::ImageError;

/// The format that is written and read.
pub const FORMAT: u32 = 1;

/// The most entries an archive may promise, and the most bytes.
const MOST_ENTRIES: u64 = 50_000_000;
const MOST_BYTES: u64 = 1 << 46;

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format; see [`FORMAT`].
    pub format: u32,
    /// The version of Pando that wrote it.
    pub pando: String,
    /// The app it stems from.
    pub app: Name,
    /// The app or clone it was made of.
    pub name: Name,
    /// The moment it shows.
    pub moment: Timestamp,
    /// What was asked for, as typed.
    pub asked: String,
    /// When it was written.
    pub written_at: Timestamp,
    /// Whether its data was masked.
    pub masked: bool,
    /// The processor's architecture: servers read no other's files.
    pub arch: String,
    /// The C library, whose sorting rules text indexes stand on.
    pub libc: Option<String>,
    /// How many entries the trees have.
    pub entries: u64,
    /// How many bytes of data.
    pub bytes: u64,
    /// How the archive is proven whole: the digest's name; its value is the last entry.
    pub digest: String,
    /// By name.
    pub sources: BTreeMap<Name, SourceEntry>,
}

/// One source of an archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    /// What knows it.
    pub engine: EngineKind,
    /// The server's version, in its own words.
    pub version: Option<String>,
    /// The moment it shows.
    pub moment: Option<Timestamp>,
    /// Position in the source's own log.
    pub position: Option<String>,
    /// What a user should know.
    pub notes: Vec<String>,
    /// Where it was: without host and password.
    pub url: SourceUrl,
    /// What the engine knows of it.
    pub facts: serde_json::Value,
}

impl Manifest {
    /// Reads one, and refuses what no archive of Pando says.
    pub fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let bad = |error: serde_json::Error| ImageError::refused(format!("its manifest cannot be read: {error}"));
        let said: Format = serde_json::from_slice(bytes).map_err(bad)?;
        if said.format != FORMAT {
            let why = format!("it has the format {}, this Pando reads {FORMAT}", said.format);
            return Err(ImageError::refused(why));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(bad)?;
        manifest.check().map_err(|why| ImageError::refused(format!("its manifest {why}")))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.sources.is_empty() || self.sources.len() > 64 {
            return Err(format!("names {} sources", self.sources.len()));
        }
        if self.digest != "sha256" {
            return Err("names a digest other than sha256".to_owned());
        }
        if self.entries > MOST_ENTRIES || self.bytes > MOST_BYTES {
            return Err(format!("promises {} entries and {} bytes", self.entries, self.bytes));
        }
        for (name, source) in &self.sources {
            // Written out and read again it must still be what it says.
            // Of what is behind the host some kinds want a number.
            let read = |path: &str| format!("{}://x/{path}", source.url.scheme).parse::<SourceUrl>();
            let again = read("y").or_else(|_| read("0")).map(|url| url.engine);
            let url = &source.url;
            let parts = [url.user.as_deref(), url.host.as_deref(), Some(url.path.as_str())];
            let strange = parts.iter().flatten().any(|part| part.contains(char::is_control));
            if again != Ok(source.engine) || url.engine != source.engine || url.password.is_some() || strange {
                return Err(format!("contradicts itself about the source {name}"));
            }
        }
        Ok(())
    }
}
