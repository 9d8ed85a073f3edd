//! A registry of images on loopback: Debian's `docker-registry`, with its data in a temporary directory.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{free_port, tools, wait_until};

/// A running registry; gone when dropped. It knows `ann` with the password `secret`, or lets everybody in.
#[derive(Debug)]
pub struct ImageRegistry {
    dir: TempDir,
    port: u16,
    child: Child,
}

/// `ann:secret`, as `htpasswd -B` writes it, with the fewest rounds.
const KNOWN: &str = "ann:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

impl ImageRegistry {
    /// Starts one. `closed`: it wants to know who comes.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn start(closed: bool) -> Option<Self> {
        if !tools::require("docker-registry") {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("known"), KNOWN).expect("writing a registry's accounts");
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path("known"));
        let conf = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  \
             addr: 127.0.0.1:{port}\n{}",
            path("data"),
            if closed { auth.as_str() } else { "" }
        );
        fs::write(path("conf.yml"), conf).expect("writing a registry's configuration");
        let log = fs::File::create(path("log")).expect("making a registry's log");
        let mut server = Command::new(tools::find("docker-registry").expect("it was found before"));
        server.args(["serve", &path("conf.yml")]).stdin(Stdio::null());
        server.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let made = Self { dir, port, child: server.spawn().expect("starting docker-registry") };
        let up = wait_until(Duration::from_secs(30), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(up, "docker-registry does not come up: {}", made.log());
        Some(made)
    }

    /// Its host and port, as references begin with.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ImageRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
