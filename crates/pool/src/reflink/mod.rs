//! The driver for file systems that share blocks between files (XFS, bcachefs, btrfs without rights):
//! every file of a tree is cloned by FICLONE. Needs no root. Time grows with the number of files, not with
//! their bytes.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use pando_host::durable::remove_if_there;
use rustix::fs::ioctl_ficlone;

use crate::layout::failed;
use crate::tree::{Strategy, TreePool};
use crate::{Capabilities, PoolDriver, PoolError};

/// Opens a pool whose files share blocks.
pub fn open(root: &Path) -> Result<Box<dyn PoolDriver>, PoolError> {
    let capabilities = Capabilities {
        driver: "reflink",
        atomic_snapshot: false,
        shares_blocks: true,
        constant_time: false,
        exact_exclusive: false,
    };
    Ok(Box::new(TreePool::open(root, capabilities, Strategy::Share)?))
}

/// Whether files in the directory can share blocks.
pub fn works_in(dir: &Path) -> Result<bool, PoolError> {
    let names = ["a", "b"].map(|end| dir.join(format!(".probe-{}-{end}", std::process::id())));
    let [from, to] = &names;
    let probe = || -> io::Result<bool> {
        File::create(from)?.write_all(&[1; 4096])?;
        Ok(ioctl_ficlone(File::create(to)?, File::open(from)?).is_ok())
    };
    let works = probe().map_err(failed("probing", dir));
    for name in &names {
        remove_if_there(name).map_err(failed("removing", name))?;
    }
    works
}
