//! What a pool is, as its owner stores it, and how it is opened again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::{PoolDriver, PoolError, btrfs, copy, image, reflink};

/// Which driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// btrfs subvolumes.
    Btrfs,
    /// FICLONE per file.
    Reflink,
    /// Full copies.
    Copy,
}

/// A file that holds the pool's own file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Where it is.
    pub file: PathBuf,
    /// How large it may grow.
    pub size: u64,
    /// Whether the loop device bypasses the host's page cache. Else everything is cached twice.
    pub direct_io: bool,
    /// Options of mount(8), with commas.
    pub mount_options: String,
}

/// All that is needed to open a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Which driver.
    pub driver: DriverKind,
    /// The directory of volumes and snapshots; the mount point, where there is an image.
    pub root: PathBuf,
    /// The image, where the pool lies in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageConfig>,
}

/// Opens a pool; mounts its image if it is not mounted, as after a reboot. May be repeated.
///
/// # Errors
/// [`PoolError::Unfit`] when there is no pool, such as on the bare mount point of a file system that is
/// not mounted.
pub fn open(config: &PoolConfig) -> Result<Box<dyn PoolDriver>, PoolError> {
    if let Some(image) = &config.image {
        image::ensure_mounted(&config.root, image)?;
    }
    Layout::new(&config.root).require()?;
    match config.driver {
        DriverKind::Btrfs => btrfs::open(&config.root),
        DriverKind::Reflink => reflink::open(&config.root),
        DriverKind::Copy => copy::open(&config.root),
    }
}
