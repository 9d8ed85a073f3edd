//! A production that Pando itself does not know: an etcd server with a user and a password, for tests of
//! toolkits.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{free_port, tools, wait_until};

/// The password of production's `root`. No error, log or process list may show it.
pub const ETCD_SECRET: &str = "prod-secret-etcd";

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one whose user `root` has [`ETCD_SECRET`]; nobody enters without. `None` where etcd is missing, by
    /// the rule of [`tools`].
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Option<Self> {
        if !(tools::require("etcd") && tools::require("etcdctl") && tools::require("python3")) {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("pando-etcd-").tempdir_in("/tmp").expect("a temporary directory");
        let mut made = Self { dir, port: free_port(), child: None };
        made.resume();
        made.ctl_as(None, &["user", "add", &format!("root:{ETCD_SECRET}")]);
        made.ctl_as(None, &["user", "grant-role", "root", "root"]);
        made.ctl_as(None, &["auth", "enable"]);
        Some(made)
    }

    /// Starts it again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn resume(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a log");
        let client = format!("http://127.0.0.1:{}", self.port);
        let child = Command::new(tools::find("etcd").expect("etcd"))
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", "unix://peer:0", "--unsafe-no-fsync", "--bcrypt-cost", "4"])
            .args(["--heartbeat-interval", "10", "--election-timeout", "50"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("starting etcd");
        self.child = Some(child);
        let up = wait_until(Duration::from_secs(30), || {
            // Both words of an answer: that it is healthy, and that it asks who is there.
            let said = self.etcdctl(None, &["endpoint", "health"]);
            said.status.success() || String::from_utf8_lossy(&said.stderr).contains("user name is empty")
        });
        assert!(up, "etcd does not come up: {}", self.log());
    }

    /// Stops it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its address for `pando link`, with the toolkit of this name.
    #[must_use]
    pub fn url(&self, toolkit: &str) -> String {
        format!("toolkit+{toolkit}://root:{ETCD_SECRET}@127.0.0.1:{}", self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets a key.
    pub fn put(&self, key: &str, value: &str) {
        self.ctl_as(Some(ETCD_SECRET), &["put", key, value]);
    }

    /// Runs `etcdctl` as root, or as nobody.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl_as(&self, password: Option<&str>, args: &[&str]) -> String {
        let output = self.etcdctl(password.map(|secret| ("root", secret)), args);
        assert!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn etcdctl(&self, user: Option<(&str, &str)>, args: &[&str]) -> Output {
        etcdctl(&format!("http://127.0.0.1:{}", self.port), user, args)
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs `etcdctl` at an address, however that ends.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn etcdctl(endpoint: &str, user: Option<(&str, &str)>, args: &[&str]) -> Output {
    let mut command = Command::new(tools::find("etcdctl").expect("etcdctl"));
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoint}")).args(["--command-timeout=5s"]);
    command.args(args).stdin(Stdio::null());
    if let Some((user, password)) = user {
        command.env("ETCDCTL_USER", format!("{user}:{password}"));
    }
    command.output().expect("starting etcdctl")
}

/// The worked example of this repository.
#[must_use]
pub fn example_toolkit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/toolkit-etcd/etcd")
}
