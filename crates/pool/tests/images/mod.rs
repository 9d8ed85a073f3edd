//! File systems in sparse files for tests. A test that lacks what it needs fails in CI; elsewhere it says
//! that it was skipped, and why.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; tests fail by panicking")]

use std::fs::{self, File};
use std::path::PathBuf;

use pando_host::{Account, Tool, ToolError};
use rustix::mount::{UnmountFlags, unmount};

/// A mounted file system that goes when this goes.
pub struct Image {
    dir: tempfile::TempDir,
    kind: &'static str,
    device: Option<PathBuf>,
}

impl Image {
    /// Makes and mounts one of 1 GiB; `None` when that is not possible here.
    pub fn make(kind: &'static str, options: &str) -> Option<Self> {
        if !Account::is_root() {
            return skip(kind, "mounting takes root");
        }
        let mut image = Self { dir: tempfile::tempdir().unwrap(), kind, device: None };
        match image.format().and_then(|()| image.mount(options)) {
            Ok(()) => Some(image),
            Err(error) => skip(kind, &error.to_string()),
        }
    }

    fn format(&self) -> Result<(), ToolError> {
        let package = match self.kind {
            "tmpfs" => return Ok(()),
            "xfs" => "xfsprogs",
            "btrfs" => "btrfs-progs",
            _ => "e2fsprogs",
        };
        File::create(self.file()).unwrap().set_len(1 << 30).unwrap();
        Tool::find(&format!("mkfs.{}", self.kind), package)?.command().arg("-q").arg(self.file()).run()?;
        Ok(())
    }

    fn mount(&mut self, options: &str) -> Result<(), ToolError> {
        let source = if self.kind == "tmpfs" {
            PathBuf::from("tmpfs")
        } else {
            let losetup = Tool::find("losetup", "mount")?.command();
            let found = losetup.args(["--find", "--show"]).arg(self.file()).run()?;
            self.device.insert(PathBuf::from(found.text().trim())).clone()
        };
        fs::create_dir(self.path()).unwrap();
        let options = if options.is_empty() { "rw" } else { options };
        let mount = Tool::find("mount", "mount")?.command().args(["-t", self.kind, "-o", options]);
        mount.arg(source).arg(self.path()).run()?;
        Ok(())
    }

    /// What a crash of the machine would leave now: a copy of the file, nothing having been synced. To be
    /// mounted when this is gone, because two file systems of one name cannot be mounted at once.
    pub fn frozen(&self) -> Self {
        let frozen = Self { dir: tempfile::tempdir().unwrap(), kind: self.kind, device: None };
        let copy = Tool::find("cp", "coreutils").unwrap().command().arg("--sparse=always");
        copy.arg(self.file()).arg(frozen.file()).run().unwrap();
        frozen
    }

    /// Mounts a frozen one.
    pub fn thaw(&mut self) {
        self.mount("").unwrap();
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("image")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily, if need be: a handle that a failed test left open must not keep the device.
        let _ = unmount(self.path(), UnmountFlags::empty()).or_else(|_| unmount(self.path(), UnmountFlags::DETACH));
        if let (Ok(losetup), Some(device)) = (Tool::find("losetup", "mount"), &self.device) {
            let _ = losetup.command().arg("--detach").arg(device).run();
        }
    }
}

/// Tells of a skipped test, or fails where none may be skipped.
#[allow(clippy::print_stderr, reason = "whoever runs the tests must see it")]
pub fn skip<T>(what: &str, why: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "the test on {what} cannot run, and in CI it must: {why}");
    eprintln!("SKIPPED: the test on {what} cannot run: {why}");
    None
}
