//! The whole system: the built binary as a daemon, real PostgreSQL servers as production. One program, so
//! that it is linked once; a module per promise. Every test has a home, a pool, a production and a daemon of
//! its own, and ends by asking whether anything was left behind (see `stand`).
//!
//! Names begin with the trap that the test is about, where there is one.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests of processes, in real time"
)]

mod any_second;
mod apart;
mod at_once;
mod bad_input;
mod catalog;
mod chaos;
mod containers;
mod crashes;
mod cut_off;
mod damaged;
mod doors;
mod examples;
mod faults;
mod hooks;
#[path = "../../../image/tests/hostile/mod.rs"]
mod hostile;
mod image_files;
mod image_redis;
mod images;
mod kills;
mod life;
mod links;
mod machine;
mod mariadb;
mod masking;
mod matrix;
mod mysql;
mod mysql_family;
mod odd_production;
mod oracle;
mod others;
mod outages;
mod own_past;
mod promote;
mod proxy;
mod redis;
mod refusals;
mod rootless;
mod sanitised;
mod served;
mod several;
mod small_disk;
mod stand;
mod together;
mod toolkit;
mod travel;
mod unprivileged;
mod volumes;
