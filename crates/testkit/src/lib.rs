//! What tests stand on: a real production server ([`Production`]), real file systems ([`LoopFs`]), a private
//! Docker or Podman engine with images made of Debian's packages ([`Docker`], [`Podman`]), a registry
//! ([`ImageRegistry`]), the built binary as a daemon that can be
//! killed ([`Daemon`]), and the rule for tests that lack a tool ([`tools`]).
//!
//! Everything made here is gone when its value is dropped: processes, mounts, loop devices, directories.
//! What goes wrong in here is a broken test machine, so it panics with what to do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test helper: it may panic, print, wait, and start programs as a user would"
)]

mod daemon;
mod disk;
mod docker;
mod etcd;
mod faults;
mod loopfs;
mod mysql_family;
mod netns;
mod production;
mod redis;
mod registry;
mod seed;
pub mod tools;
mod writes;

pub use daemon::Daemon;
pub use disk::{Crash, DiskMoment, RecordedDisk};
pub use docker::{Docker, Image, Podman};
pub use etcd::{ETCD_SECRET, Etcd, etcdctl, example_toolkit};
pub use faults::{Call, Faults};
use loopfs::unmount;
pub use loopfs::{FsKind, LoopFs};
pub use mysql_family::{
    FamilyProduction, Make, Mariadb, MariadbProduction, Mysql, MysqlProduction, mariadb, mariadb_at, mysql_at, sql_at,
    sql_through,
};
pub use netns::Network;
pub use production::{Production, ProductionOptions};
pub use redis::{RedisClient, RedisProduction};
pub use registry::{Access, Fault, FaultyHttp, ImageRegistry, Wire};
pub use seed::Seed;
pub use writes::{Past, Writes};

use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A TCP port on loopback that nobody listens on at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binding a port on loopback");
    listener.local_addr().expect("the address just bound").port()
}

/// Waits until `done` says so; says whether it did in time.
pub fn wait_until(at_most: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + at_most;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
