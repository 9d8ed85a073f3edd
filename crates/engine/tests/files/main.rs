//! The files engine with the real rsync: on directories of this machine, and over a real sshd.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod kit;
mod ssh;
mod tree;
