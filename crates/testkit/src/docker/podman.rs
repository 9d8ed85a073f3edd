//! A Podman of a test's own: its service behind a socket that speaks Docker's interface too, with its own images
//! and containers, beside any that the machine may have. Containers get `none` or `host` as network.
//!
//! It lives in a numbered place like Docker's, and is swept away in the same manner. Its containers outlive the
//! service: each has a keeper of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::sweep::Place;
use super::{Engine, Image};
use crate::{tools, wait_until};

/// A private Podman and its service; gone when dropped.
#[derive(Debug)]
pub struct Podman {
    place: Place,
    service: Option<Engine>,
}

impl Podman {
    /// Starts one. `None` where that is impossible, by the rule of [`tools`].
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with volume drivers: each by its name, and the socket that it is served at.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn start_with(drivers: &[(&str, &Path)]) -> Option<Self> {
        let programs = ["podman", "catatonit", "setpriv", "tar"];
        if !tools::require_root() || !programs.iter().all(|program| tools::require(program)) {
            return None;
        }
        let place = Place::take();
        // Without limits of its own it needs no right to raise them; without events nobody's journal is filled.
        let drivers: String =
            drivers.iter().map(|(name, socket)| format!("{name} = \"{}\"\n", socket.display())).collect();
        let conf = format!(
            "[containers]\ndefault_ulimits = []\n[engine]\nevents_logger = \"none\"\n[network]\n\
             network_config_dir = \"{}/net\"\n[engine.volume_plugins]\n{drivers}",
            place.dir().display()
        );
        fs::write(place.dir().join("containers.conf"), conf).expect("writing an engine's configuration");
        let mut made = Self { place, service: None };
        made.resume();
        Some(made)
    }

    /// Starts a killed service again.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn resume(&mut self) {
        let log = File::options().create(true).append(true).open(self.place.dir().join("log"));
        let log = log.expect("opening the service's log");
        let mut service = Command::new(tools::find("setpriv").expect("setpriv was found before"));
        service.args(["--pdeathsig", "TERM"]).arg(tools::find("podman").expect("podman was found before"));
        service.args(self.flags()).args(["system", "service", "--time", "0", &self.host()]);
        service.env("CONTAINERS_CONF", self.place.dir().join("containers.conf")).stdin(Stdio::null());
        service.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.service = Some(Engine::start(service));
        let up = || std::os::unix::net::UnixStream::connect(self.socket()).is_ok();
        assert!(wait_until(Duration::from_secs(60), up), "podman does not come up: {}", self.log());
    }

    /// Kills the service with SIGKILL; the containers stay.
    pub fn kill9(&mut self) {
        if let Some(service) = self.service.take() {
            service.end(Signal::KILL);
        }
    }

    fn flags(&self) -> Vec<String> {
        let dir = |name: &str| self.place.dir().join(name).display().to_string();
        let (data, run, tmp) = (dir("data"), dir("run"), dir("tmp"));
        ["--root", &data, "--runroot", &run, "--tmpdir", &tmp, "--cgroup-manager", "cgroupfs"]
            .iter()
            .map(|&word| word.to_owned())
            .collect()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.place.dir().join("s")
    }

    /// Its address, as `DOCKER_HOST` wants it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Runs `podman ARGS` to its end, however that is.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn output(&self, args: &[&str]) -> Output {
        let mut podman = Command::new(tools::find("podman").expect("podman was found before"));
        podman.args(self.flags()).args(args).env("CONTAINERS_CONF", self.place.dir().join("containers.conf"));
        podman.stdin(Stdio::null()).output().expect("starting podman")
    }

    /// Runs `podman ARGS` and answers what it printed, without the last line's end.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {args:?} failed: {stderr}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The name of a test image in this engine, which gets it if it does not have it yet.
    ///
    /// # Panics
    /// When it cannot be made; what was missing is in the message.
    pub fn image(&self, image: Image) -> String {
        image.name_in_podman(self)
    }

    /// What the service logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.dir().join("log")).unwrap_or_default()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // By itself it would only forget its containers: each has a keeper and a control group.
        self.output(&["rm", "--all", "--force", "--time", "0", "--volumes"]);
        self.kill9();
        self.place.clear();
    }
}
