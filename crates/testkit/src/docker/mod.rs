//! A Docker engine of a test's own: another `dockerd` with its own containerd, data, socket and address range,
//! beside any engine that the machine may have. Containers get `none`, `host`, or networks that they make
//! themselves; it sets up no packet filter, so it runs on kernels without one, and nothing leads out. One that the
//! machine's own engine has set up is told to let these networks' packets pass.
//!
//! When the value is dropped everything is gone: processes, mounts, bridges, control groups, files. When the test
//! is killed, the kernel tells dockerd to end, and whatever is left is swept away by the next engine that starts:
//! an engine lives in a numbered place, and a place belongs to whoever holds the lock on its file.

mod image;
mod podman;
mod sweep;

pub use image::Image;
pub use podman::Podman;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use self::sweep::Place;
use crate::{tools, wait_until};

/// A private Docker engine; gone when dropped.
#[derive(Debug)]
pub struct Docker {
    place: Place,
    flags: Vec<String>,
    engine: Option<Engine>,
}

/// A running engine. The kernel ends it with the thread that started it, so that one waits as long.
#[derive(Debug)]
struct Engine {
    child: Child,
    _starter: mpsc::Sender<()>,
}

impl Engine {
    fn start(mut command: Command) -> Self {
        let (starter, ends) = mpsc::channel::<()>();
        let (hand_over, take) = mpsc::channel();
        std::thread::spawn(move || {
            hand_over.send(command.spawn().expect("starting an engine")).expect("handing over an engine");
            let _ = ends.recv();
        });
        Self { child: take.recv().expect("taking over an engine"), _starter: starter }
    }

    fn end(mut self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
        if !wait_until(Duration::from_secs(30), || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Docker {
    /// Starts one. `None` where that is impossible, by the rule of [`tools`].
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with more flags for dockerd, such as `--live-restore`.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn start_with(flags: &[&str]) -> Option<Self> {
        let programs = ["dockerd", "docker", "setpriv", "tar"];
        if !tools::require_root() || !programs.iter().all(|program| tools::require(program)) {
            return None;
        }
        let place = Place::take();
        fs::write(place.dir().join("daemon.json"), "{}").expect("writing an engine's configuration");
        let mut made = Self { place, flags: flags.iter().map(|&flag| flag.to_owned()).collect(), engine: None };
        made.resume();
        Some(made)
    }

    /// Starts a stopped or killed engine again on the same data.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn resume(&mut self) {
        let mut engine = self.spawn();
        let mut ended = None;
        let up = wait_until(Duration::from_secs(60), || {
            ended = engine.child.try_wait().expect("looking at dockerd");
            ended.is_some() || self.output(&["version"]).status.success()
        });
        self.engine = Some(engine);
        assert!(up && ended.is_none(), "dockerd does not come up ({ended:?}): {}", self.log());
    }

    fn spawn(&self) -> Engine {
        let path = |name: &str| self.dir().join(name).into_os_string();
        let log = File::options().create(true).append(true).open(path("log")).expect("opening dockerd's log");
        // A killed one leaves it, and with a process id that may be somebody else's by now.
        let _ = fs::remove_file(path("pid"));
        // Where process 1 reaps nobody, a killed containerd stays a zombie, and dockerd takes that for a live one.
        let containerd = path("exec/containerd/containerd.pid");
        if let Some(pid) = fs::read_to_string(&containerd).ok().and_then(|text| text.trim().parse().ok())
            && wait_until(Duration::from_secs(5), || !sweep::lives(pid))
        {
            let _ = fs::remove_file(containerd);
        }
        let setpriv = tools::find("setpriv").expect("setpriv was found before");
        let mut dockerd = Command::new(setpriv);
        dockerd.args(["--pdeathsig", "TERM"]).arg(tools::find("dockerd").expect("dockerd was found before"));
        for (flag, name) in
            [("--config-file", "daemon.json"), ("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            dockerd.arg(flag).arg(path(name));
        }
        dockerd.args(["--host", &self.host(), "--bridge", "none", "--iptables=false", "--ip6tables=false"]);
        dockerd.args(["--ip-forward=false", "--ip-masq=false", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        dockerd.args(["--cgroup-parent", &format!("/{}", self.place.group())]);
        dockerd.args(["--default-address-pool", &format!("base={}.0.0/16,size=24", self.place.addresses())]);
        dockerd.args(&self.flags).stdin(Stdio::null());
        dockerd.stdout(log.try_clone().expect("a second handle")).stderr(log);
        Engine::start(dockerd)
    }

    /// Kills dockerd with SIGKILL. Its containerd goes with it, the containers stay.
    pub fn kill9(&mut self) {
        self.end(Signal::KILL);
    }

    /// Asks dockerd to end and waits. Without `--live-restore` it stops its containers.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Holds dockerd still: it accepts calls and answers none, until [`Self::wake`].
    pub fn hang(&self) {
        self.tell(Signal::STOP);
    }

    /// Lets it go on.
    pub fn wake(&self) {
        self.tell(Signal::CONT);
    }

    fn tell(&self, signal: Signal) {
        let engine = self.engine.as_ref().expect("a running engine");
        kill_process(Pid::from_child(&engine.child), signal).expect("telling dockerd");
    }

    fn end(&mut self, signal: Signal) {
        if let Some(engine) = self.engine.take() {
            engine.end(signal);
        }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("s")
    }

    /// Its address, as `DOCKER_HOST` wants it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A command that speaks to this engine and knows nothing of the user's settings: `docker`, `docker-compose`.
    ///
    /// # Panics
    /// When the program is not there.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(tools::find(program).unwrap_or_else(|| panic!("{program} is not installed")));
        command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.dir()).env("LC_ALL", "C.UTF-8");
        command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_TLS_VERIFY").stdin(Stdio::null());
        command
    }

    /// Runs `docker ARGS` to its end, however that is.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command("docker").args(args).output().expect("starting docker")
    }

    /// Runs `docker ARGS` and answers what it printed, without the last line's end.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args:?} failed: {stderr}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The name of a test image in this engine, which gets it if it does not have it yet.
    ///
    /// # Panics
    /// When it cannot be made; what was missing is in the message.
    pub fn image(&self, image: Image) -> String {
        image.name_in(self)
    }

    /// Builds an image of a Dockerfile without any files beside it.
    ///
    /// # Panics
    /// When it fails.
    pub fn build(&self, dockerfile: &str, name: &str) {
        let mut build = self.command("docker");
        // The builder inside dockerd: the newer one is a program of its own.
        build.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--tag", name, "-"]);
        let child = build.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("starting docker build");
        child.stdin.take().expect("its input").write_all(dockerfile.as_bytes()).expect("writing a Dockerfile");
        let output = child.wait_with_output().expect("waiting for docker build");
        assert!(output.status.success(), "building {name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What dockerd and containerd logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// The engine's directory.
    pub fn dir(&self) -> &Path {
        self.place.dir()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // At once, instead of asking each container to stop: their data goes away anyway.
        self.end(Signal::KILL);
        self.place.clear();
    }
}
