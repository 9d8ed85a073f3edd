//! The driver that works everywhere and shares nothing: every snapshot and every clone is a full copy.
//! Time and bytes grow with the data; holes stay holes.

use std::path::Path;

use crate::tree::{Strategy, TreePool};
use crate::{Capabilities, PoolDriver, PoolError};

/// Opens a pool of full copies.
pub fn open(root: &Path) -> Result<Box<dyn PoolDriver>, PoolError> {
    let capabilities = Capabilities {
        driver: "copy",
        atomic_snapshot: false,
        shares_blocks: false,
        constant_time: false,
        exact_exclusive: true,
    };
    Ok(Box::new(TreePool::open(root, capabilities, Strategy::Copy)?))
}
