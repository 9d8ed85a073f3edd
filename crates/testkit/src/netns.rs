//! A network of its own, with one way out, which can be taken away. Only root can make one.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::tools;

/// A network namespace with a loopback and a pair of interfaces to the machine's own; gone when dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    dir: TempDir,
}

impl Network {
    /// Makes one. `None` where that is impossible, by the rule of [`tools`].
    pub fn new() -> Option<Self> {
        let there = tools::require_root() && tools::require("ip") && tools::require("nsenter");
        if !there {
            return None;
        }
        let made = Self { name: format!("pando{}", std::process::id()), dir: TempDir::new().expect("a directory") };
        let added = tools::output(Path::new("ip"), &["netns", "add", &made.name]);
        if !added.status.success() {
            tools::skip(&format!("a network namespace ({})", String::from_utf8_lossy(&added.stderr).trim()));
            return None;
        }
        let (ours, theirs) = (made.interface('a'), made.interface('b'));
        let ip = |line: &str| tools::run("ip", &line.split(' ').collect::<Vec<_>>());
        ip(&format!("link add {ours} type veth peer name {theirs}"));
        ip(&format!("link set {theirs} netns {}", made.name));
        ip(&format!("addr add {}/30 dev {ours}", made.outside()));
        ip(&format!("link set {ours} up"));
        ip(&format!("-n {} addr add {}/30 dev {theirs}", made.name, made.address(2)));
        for interface in ["lo", &theirs] {
            ip(&format!("-n {} link set {interface} up", made.name));
        }
        Some(made)
    }

    fn interface(&self, end: char) -> String {
        format!("{}{end}", self.name)
    }

    /// Four addresses of those that are for nobody's network (RFC 2544), chosen by this process.
    fn address(&self, host: u32) -> String {
        let four = std::process::id() % 16384 * 4 + host;
        format!("198.18.{}.{}", four >> 8, four & 255)
    }

    /// The machine's address as it is seen from inside.
    pub fn outside(&self) -> String {
        self.address(1)
    }

    /// A program that runs another one inside.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn inside(&self, program: &Path) -> PathBuf {
        let script = self.dir.path().join("inside");
        let enter = tools::find("nsenter").expect("an installed program");
        let text = format!(
            "#!/bin/sh\nexec {} --net=/run/netns/{} {} \"$@\"\n",
            enter.display(),
            self.name,
            program.display()
        );
        std::fs::write(&script, text).expect("writing a script");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("a script's mode");
        script
    }

    /// Runs `work` in a thread whose connections, and those of programs it starts, are made inside.
    ///
    /// # Panics
    /// When it cannot get in, or `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.name)).expect("a network namespace");
        let inside = || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("entering a namespace");
            work()
        };
        match std::thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Takes the way out away, for good.
    ///
    /// # Panics
    /// When a way is left.
    pub fn cut(&self) {
        tools::run("ip", &["link", "delete", &self.interface('a')]);
        let left = tools::run("ip", &["-n", &self.name, "route", "show", "table", "all"]);
        let out = left.lines().filter(|line| !line.contains("dev lo"));
        assert_eq!(out.count(), 0, "{left}");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        tools::output(Path::new("ip"), &["link", "delete", &self.interface('a')]);
        tools::output(Path::new("ip"), &["netns", "delete", &self.name]);
    }
}
