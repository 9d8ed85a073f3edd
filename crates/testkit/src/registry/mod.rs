//! A registry of images on loopback: Debian's `docker-registry`, with its data in a temporary directory. It lets
//! everybody in, wants a password, or wants tokens of a server of its own ([`token`]); plain, or by TLS with an
//! authority that nobody else knows. [`FaultyHttp`] makes it as bad as networks are.

mod faulty;
mod token;

pub use faulty::{Fault, FaultyHttp};

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use self::token::TokenServer;
use crate::{free_port, tools, wait_until};

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// `ann` with the password `secret`.
    Password,
    /// Tokens, which `ann` gets: for her own `team/…` all, for `library/…` to pull, else none.
    Token,
}

/// How it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// By plain HTTP.
    Plain,
    /// By TLS, with an authority's certificate.
    Authority,
    /// By TLS, with a certificate that has signed itself and says that it is an authority, as `openssl req -x509` makes it.
    Itself,
    /// The same, whose time was over before today.
    Expired,
    /// The same, for another host.
    Elsewhere,
    /// As [`Wire::Authority`], and only with whom that authority has certified; [`ImageRegistry::certs`] has such a
    /// certificate too.
    Mutual,
}

/// A running registry; gone when dropped.
#[derive(Debug)]
pub struct ImageRegistry {
    dir: TempDir,
    port: u16,
    child: Child,
    tokens: Option<TokenServer>,
}

/// `ann:secret`, as `htpasswd -B` writes it, with the fewest rounds.
const KNOWN: &str = "ann:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

impl ImageRegistry {
    /// Starts one that speaks plainly. `closed`: it wants a password.
    ///
    /// # Panics
    /// As [`ImageRegistry::start_with`].
    pub fn start(closed: bool) -> Option<Self> {
        Self::start_with(if closed { Access::Password } else { Access::Open }, false)
    }

    /// Starts one. `tls`: with a certificate that [`ImageRegistry::certs`] vouches for.
    ///
    /// # Panics
    /// As [`ImageRegistry::start_on`].
    pub fn start_with(access: Access, tls: bool) -> Option<Self> {
        Self::start_on(access, if tls { Wire::Authority } else { Wire::Plain })
    }

    /// Starts one that is spoken to in this way; [`ImageRegistry::certs`] has what it takes.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn start_on(access: Access, wire: Wire) -> Option<Self> {
        let tls = wire != Wire::Plain;
        if wire == Wire::Expired && !tools::require("faketime") {
            return None;
        }
        let openssl = (tls || access == Access::Token).then_some("openssl");
        if !["docker-registry"].into_iter().chain(openssl).all(tools::require) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("known"), KNOWN).expect("writing a registry's accounts");
        let mut conf = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  \
             addr: 127.0.0.1:{port}\n",
            path("data")
        );
        if tls {
            certify(dir.path(), port, wire);
            conf += &format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.crt"), path("server.key"));
            if wire == Wire::Mutual {
                let ca = dir.path().join("certs.d").join(format!("127.0.0.1:{port}")).join("ca.crt");
                conf += &format!("    clientcas:\n      - {}\n", ca.display());
            }
        }
        let tokens = (access == Access::Token).then(|| TokenServer::start(dir.path()));
        conf += &match (access, &tokens) {
            (Access::Password, _) => format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path("known")),
            (_, Some(tokens)) => tokens.configuration(),
            _ => String::new(),
        };
        fs::write(path("conf.yml"), conf).expect("writing a registry's configuration");
        let log = fs::File::create(path("log")).expect("making a registry's log");
        let mut server = Command::new(tools::find("docker-registry").expect("it was found before"));
        server.args(["serve", &path("conf.yml")]).stdin(Stdio::null());
        server.stdout(log.try_clone().expect("a second handle")).stderr(log);
        let made = Self { port, child: server.spawn().expect("starting docker-registry"), tokens, dir };
        let up = wait_until(Duration::from_secs(30), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(up, "docker-registry does not come up: {}", made.log());
        Some(made)
    }

    /// Its host and port, as references begin with.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A directory like `/etc/docker/certs.d`, with the authority of a registry that speaks TLS.
    pub fn certs(&self) -> PathBuf {
        self.dir.path().join("certs.d")
    }

    /// The scopes of all tokens that were asked for, in their order.
    pub fn asked(&self) -> Vec<String> {
        self.tokens.as_ref().map(TokenServer::asked).unwrap_or_default()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// Makes an authority, and a certificate for a server on loopback; or one certificate that is both.
fn certify(dir: &Path, port: u16, wire: Wire) {
    let certs = dir.join("certs.d").join(format!("127.0.0.1:{port}"));
    fs::create_dir_all(&certs).expect("making a directory of certificates");
    let path = |name: &str| dir.join(name).display().to_string();
    let ca = certs.join("ca.crt").display().to_string();
    if matches!(wire, Wire::Itself | Wire::Expired | Wire::Elsewhere) {
        let names = if wire == Wire::Elsewhere { "DNS:elsewhere.example" } else { "IP:127.0.0.1,DNS:localhost" };
        let names = format!("subjectAltName={names}");
        let request = ["req", "-newkey", "rsa:2048", "-nodes", "-x509", "-days", "2", "-subj", "/CN=registry"];
        let (crt, key) = (path("server.crt"), path("server.key"));
        let request = [&request[..], &["-addext", &names, "-out", &crt, "-keyout", &key]].concat();
        if wire == Wire::Expired {
            tools::run("faketime", &[&["7 days ago", "openssl"], &request[..]].concat());
        } else {
            tools::run("openssl", &request);
        }
        fs::copy(path("server.crt"), ca).expect("keeping a certificate");
        return;
    }
    new_key(&["-x509", "-days", "2", "-subj", "/CN=nobody else knows it", "-out", &ca], &path("ca.key"));
    new_key(&["-subj", "/CN=registry", "-out", &path("server.csr")], &path("server.key"));
    fs::write(path("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("writing names");
    let (csr, key, crt, names) = (path("server.csr"), path("ca.key"), path("server.crt"), path("names"));
    let sign = ["x509", "-req", "-days", "2", "-in", &csr, "-CA", &ca, "-CAkey", &key, "-set_serial", "7"];
    tools::run("openssl", &[&sign[..], &["-out", &crt, "-extfile", &names]].concat());
    if wire == Wire::Mutual {
        let (cert, secret) = (certs.join("client.cert"), certs.join("client.key").display().to_string());
        new_key(&["-subj", "/CN=ann", "-out", &csr], &secret);
        tools::run("openssl", &[&sign[..], &["-out", &cert.display().to_string()]].concat());
    }
}

/// `openssl req` with a new key.
fn new_key(args: &[&str], key: &str) {
    let new = ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", key];
    tools::run("openssl", &[&new[..], args].concat());
}

impl Drop for ImageRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
