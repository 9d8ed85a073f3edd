//! The files engine over a real sshd on loopback, with keys made for the test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kit::Kit;
use pando_engine::Engine;
use pando_model::SourceUrl;
use pando_testkit::tools::{find, require, run as tool};
use pando_testkit::{free_port, wait_until};
use tempfile::TempDir;

/// An sshd of its own: host key, user key, nothing of this machine's configuration.
struct Sshd {
    child: Child,
    port: u16,
    query: String,
}

impl Sshd {
    fn start(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name).display().to_string();
        for name in ["host key", "user key"] {
            tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at(name)]);
        }
        fs::copy(at("user key.pub"), at("authorized")).unwrap();
        fs::set_permissions(at("authorized"), fs::Permissions::from_mode(0o600)).unwrap();
        let port = free_port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey \"{}\"\nAuthorizedKeysFile \"{}\"\nStrictModes no\n\
             PermitRootLogin prohibit-password\nUsePAM no\nPidFile none\n",
            at("host key"),
            at("authorized")
        );
        fs::write(at("config"), config).unwrap();
        if rustix::process::geteuid().is_root() {
            // Debian makes it at boot only; sshd refuses to start without.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let key = fs::read_to_string(at("host key.pub")).unwrap();
        fs::write(at("known hosts"), format!("[127.0.0.1]:{port} {key}")).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let mut sshd = Command::new(find("sshd").unwrap());
        let child = sshd.args(["-D", "-e", "-f", &at("config")]).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let up = wait_until(Duration::from_secs(10), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(up, "{}", fs::read_to_string(at("log")).unwrap());
        let query = format!("identity={}&known_hosts={}", at("user key"), at("known hosts")).replace(' ', "%20");
        Self { child, port, query }
    }

    fn url(&self, path: &str, query: &str) -> String {
        let user = tool("id", &["-un"]);
        format!("ssh://{}@127.0.0.1:{}{path}?{query}", user.trim(), self.port)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kit(sshd: &Sshd, dir: TempDir) -> Kit {
    let path = dir.path().join("it's [a] *production*").display().to_string();
    fs::create_dir(&path).unwrap();
    let encoded: String = path.bytes().map(|b| format!("%{b:02X}").replace("%2F", "/")).collect();
    let mirror = dir.path().join("mirror");
    Kit::at(dir, &sshd.url(&encoded, &sshd.query), &mirror)
}

#[test]
fn a_directory_of_another_machine_is_copied_and_kept_up_to_date() {
    if !["rsync", "ssh", "sshd"].iter().all(|name| require(name)) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path());
    let kit = kit(&sshd, dir);
    let production = Path::new(&kit.source.url.path).to_owned();
    // Matches the pattern that the path would be, if it were one.
    fs::create_dir(production.with_file_name("it's a xproductionx")).unwrap();
    fs::write(production.join("new\nline"), "x").unwrap();
    fs::write(production.join("big"), vec![7; 1 << 20]).unwrap();

    let looked = kit.engine.preflight(&kit.source.url).unwrap();
    assert!(looked.findings.is_empty(), "{looked:?}");
    kit.ingest();
    assert_eq!(fs::read(kit.mirror().join("new\nline")).unwrap(), b"x");
    fs::write(production.join("big"), "small").unwrap();
    fs::remove_file(production.join("new\nline")).unwrap();
    kit.sync();
    assert_eq!(fs::read(kit.mirror().join("big")).unwrap(), b"small");
    assert!(!kit.mirror().join("new\nline").exists());
}

#[test]
fn what_is_wrong_with_another_machine_is_said_in_one_line() {
    if !["rsync", "ssh", "sshd"].iter().all(|name| require(name)) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sshd = Sshd::start(dir.path());
    let known = format!("known_hosts={}", dir.path().join("known%20hosts").display());
    let at = |name: &str| dir.path().join(name).display().to_string();
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at("stranger")]);
    let kit = kit(&sshd, dir);
    let look = |url: String| {
        let url: SourceUrl = url.parse().unwrap();
        let finding = kit.engine.preflight(&url).unwrap().findings.remove(0);
        assert!(finding.fatal && !finding.what.contains('\n'), "{finding:?}");
        finding
    };
    let stranger = kit.dir.path().join("stranger").display().to_string();
    let refused = look(sshd.url("/tmp", &format!("identity={stranger}&{known}")));
    assert!(refused.what.contains("Permission denied") && refused.fix.unwrap().contains("ssh-copy-id"));
    let unknown = look(sshd.url("/tmp", &sshd.query.replace("known%20hosts", "none")));
    assert!(unknown.what.contains("Host key verification failed"), "{unknown:?}");
    let missing = look(sshd.url("/no/such/place", &sshd.query));
    assert!(missing.what.contains("No such file or directory"), "{missing:?}");
    let closed = look(format!("ssh://127.0.0.1:{}/tmp", free_port()));
    assert!(closed.what.contains("Connection refused"), "{closed:?}");
    for bad in ["ssh://a%20b@h/x", "ssh://h%2Fi/x", "ssh://u:p@h/x", "ssh://h/x?identity=a'b"] {
        assert!(kit.engine.preflight(&bad.parse().unwrap()).is_err(), "{bad}");
    }
}
