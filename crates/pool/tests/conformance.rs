//! The contract on every driver: simulated and copying everywhere, sharing and btrfs on images of their own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod images;

use std::path::Path;

use pando_pool::{DriverKind, PoolConfig, SimPool, conformance, create, open};

fn conforms(driver: DriverKind, root: &Path) {
    let config = PoolConfig { driver, root: root.to_owned(), image: None };
    create(&config).unwrap();
    create(&config).unwrap();
    conformance::all(&*open(&config).unwrap());
}

#[test]
fn the_simulation_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance::all(&SimPool::open(dir.path()).unwrap());
}

#[test]
fn copies_conform() {
    let dir = tempfile::tempdir().unwrap();
    conforms(DriverKind::Copy, &dir.path().join("pool"));
}

#[test]
fn reflinks_conform_on_xfs() {
    if let Some(image) = images::Image::make("xfs", "") {
        conforms(DriverKind::Reflink, &image.path().join("pool"));
    }
}

#[test]
fn reflinks_conform_on_btrfs() {
    if let Some(image) = images::Image::make("btrfs", "noatime") {
        conforms(DriverKind::Reflink, &image.path().join("pool"));
    }
}

#[test]
fn btrfs_conforms() {
    if let Some(image) = images::Image::make("btrfs", "noatime,discard=async") {
        conforms(DriverKind::Btrfs, &image.path().join("pool"));
    }
}
