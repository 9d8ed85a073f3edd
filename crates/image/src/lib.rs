//! Trees packed to travel: archives that `export` writes and `import` reads, and images of containers.
//!
//! Knows bytes, paths and digests; nothing of databases, clones or the catalog. Calls block.
//!
//! | file | what it answers for |
//! |---|---|
//! | `archive.rs` | the archive of `export`: manifest first, trees, digest last; written and read as streams |
//! | `manifest.rs` | what the manifest says, and what of it is believed |
//! | `oci/` | images with data in them: blobs, layers, what engines and registries take and give |
//! | `tar/` | the tar format: a writer, and a reader that refuses whatever the writer would not write |
//! | `tree.rs` | a directory tree as entries, in a fixed order |
//! | `unpack.rs` | entries into a directory, never outside of it |

mod archive;
mod manifest;
pub mod oci;
pub mod tar;
mod tree;
mod unpack;

pub use archive::{Counted, Limits, MANIFEST, Received, TRAILER, Writing, count, read_manifest, unpack};
pub use manifest::{FORMAT, Manifest, SourceEntry};
pub use unpack::Owning;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why something was not packed or unpacked.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file of this machine failed.
    #[error("{action} {path}")]
    Io {
        /// What was being done: `reading`, `writing`, …
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The other end went away, or the stream broke.
    #[error("the stream broke")]
    Stream(#[source] io::Error),
    /// It is not what Pando writes; nothing of it is kept.
    #[error("this archive is refused: {0}")]
    Refused(String),
    /// The tree holds what cannot travel.
    #[error("{0}")]
    Unfit(String),
    /// A registry did not do what it was asked for.
    #[error("{0}")]
    Registry(String),
    /// It is not who it says, as far as this machine knows.
    #[error("the registry {registry} is not trusted")]
    Mistrusted {
        /// Which one.
        registry: String,
        /// What was wrong with its certificate, or that none is kept.
        source: io::Error,
    },
    /// A registry does not know us, or does not let us.
    #[error("the registry {registry} does not allow it")]
    Denied {
        /// Which one.
        registry: String,
    },
}

impl ImageError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}
