//! A Podman of a test's own: its service behind a socket that speaks Docker's interface too, with its own images
//! and containers, beside any that the machine may have. Containers get `none` or `host` as network.
//!
//! It lives in a numbered place like Docker's, and is swept away in the same manner. Its containers outlive the
//! service: each has a keeper of its own.
//!
//! One of an ordinary user's ([`Podman::start_as`]) runs in a mount namespace of its own, where that user has a range of
//! ids for its containers whatever the machine says; what is mounted later outside is seen in it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
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
    user: Option<(u32, u32)>,
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
        Self::begin(drivers, None)
    }

    /// One of an ordinary user's, by user and group: rootless.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn start_as(user: (u32, u32), drivers: &[(&str, &Path)]) -> Option<Self> {
        if !["newuidmap", "newgidmap", "unshare", "mount"].iter().all(|program| tools::require(program)) {
            return None;
        }
        Self::begin(drivers, Some(user))
    }

    fn begin(drivers: &[(&str, &Path)], user: Option<(u32, u32)>) -> Option<Self> {
        let programs = ["podman", "catatonit", "setpriv", "tar"];
        if !tools::require_root() || !programs.iter().all(|program| tools::require(program)) {
            return None;
        }
        let place = Place::take();
        let mut made = Self { place, service: None, user };
        if let Some(user) = user {
            made.settle(user);
        }
        // Without limits of its own it needs no right to raise them; without events nobody's journal is filled.
        let drivers: String =
            drivers.iter().map(|(name, socket)| format!("{name} = \"{}\"\n", socket.display())).collect();
        let conf = format!(
            "[containers]\ndefault_ulimits = []\n[engine]\nevents_logger = \"none\"\n[network]\n\
             network_config_dir = \"{}/net\"\n[engine.volume_plugins]\n{drivers}",
            made.own().display()
        );
        fs::write(made.place.dir().join("containers.conf"), conf).expect("writing an engine's configuration");
        made.resume();
        Some(made)
    }

    /// A place of the user's own inside, and its range of ids.
    fn settle(&self, (uid, gid): (u32, u32)) {
        fs::create_dir(self.own()).expect("making a user's directory");
        chown(self.own(), Some(uid), Some(gid)).expect("giving a directory away");
        fs::set_permissions(self.own(), Permissions::from_mode(0o700)).expect("closing a directory");
        for name in ["subuid", "subgid"] {
            fs::write(self.place.dir().join(name), format!("{uid}:1000000:65536\n")).expect("writing ids");
        }
    }

    /// Where its own files lie.
    fn own(&self) -> PathBuf {
        match self.user {
            Some(_) => self.place.dir().join("user"),
            None => self.place.dir().to_owned(),
        }
    }

    /// The program, run by whose it is.
    fn podman(&self) -> Command {
        let setpriv = tools::find("setpriv").expect("setpriv was found before");
        let podman = tools::find("podman").expect("podman was found before");
        let conf = self.place.dir().join("containers.conf");
        let mut command = match self.user {
            None => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM"]).arg(podman).env("CONTAINERS_CONF", conf);
                command
            }
            Some((uid, gid)) => {
                let mut command = Command::new(tools::find("unshare").expect("unshare was found before"));
                let ids = "mount --bind \"$1/subuid\" /etc/subuid && mount --bind \"$1/subgid\" /etc/subgid && cd / && \
                           shift && exec \"$@\"";
                command.args(["--mount", "--propagation", "slave", "--", "sh", "-c", ids, "sh"]).arg(self.place.dir());
                command.arg(setpriv).args([
                    format!("--reuid={uid}"),
                    format!("--regid={gid}"),
                    "--clear-groups".into(),
                ]);
                command.args(["--pdeathsig", "TERM", "--"]).arg(podman).env_clear();
                command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CONTAINERS_CONF", conf);
                command.env("HOME", self.own()).env("XDG_RUNTIME_DIR", self.own());
                command
            }
        };
        command.args(self.flags());
        command
    }

    /// Starts a killed service again.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn resume(&mut self) {
        let log = File::options().create(true).append(true).open(self.place.dir().join("log"));
        let log = log.expect("opening the service's log");
        let mut service = self.podman();
        service.args(["system", "service", "--time", "0", &self.host()]).stdin(Stdio::null());
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
        let dir = |name: &str| self.own().join(name).display().to_string();
        let (data, run, tmp) = (dir("data"), dir("run"), dir("tmp"));
        ["--root", &data, "--runroot", &run, "--tmpdir", &tmp, "--cgroup-manager", "cgroupfs"]
            .iter()
            .map(|&word| word.to_owned())
            .collect()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.own().join("s")
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
        self.fed(args, Stdio::null())
    }

    /// The same with something to read.
    pub(super) fn fed(&self, args: &[&str], input: Stdio) -> Output {
        self.podman().args(args).stdin(input).output().expect("starting podman")
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
