//! The binary against a daemon of its own: two listeners, one home, one lock, a clean end and a crash.

#![allow(missing_docs, clippy::expect_used, clippy::disallowed_types, reason = "a test of processes")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pando_host::Tool;

struct Daemon {
    child: Child,
    tcp: String,
}

fn pando(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pando"));
    command.env("PANDO_HOME", home).env_remove("PANDO_HOST").env_remove("PANDO_TOKEN").env("PANDO_LOG", "info");
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

impl Daemon {
    /// Starts one, and waits until it says where it listens.
    fn start(home: &Path) -> Self {
        let mut command = pando(home);
        command.args(["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines().map_while(Result::ok);
        let said = lines
            .find_map(|line| line.split("tcp=\"").nth(1).and_then(|rest| Some(rest.split_once('"')?.0.to_owned())));
        // Somebody must go on reading, or the daemon's log would block it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, tcp: said.expect("an address") }
    }

    fn end(mut self, signal: &str) -> Option<i32> {
        let kill = Tool::find("kill", "procps").expect("kill").command();
        kill.args([signal, &self.child.id().to_string()]).run().expect("sent");
        self.child.wait().expect("ended").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn raw(home: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(home.join("run/pando.sock")).expect("connected");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

#[test]
fn a_daemon_answers_on_both_listeners_and_ends_cleanly() {
    let dir = tempfile::tempdir().expect("dir");
    let home = dir.path();
    let daemon = Daemon::start(home);
    let (code, listed, _) = run(pando(home).args(["ls", "--json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((code, listed), (0, serde_json::json!({"apps": [], "clones": []})));
    assert_eq!(run(pando(home).args(["show", "nothing"])).0, 3);
    assert_eq!(run(pando(home).args(["op", "op-0123456789abcdef"])).0, 3);

    let (code, _, refused) = run(pando(home).args(["serve", "--listen", "127.0.0.1:0"]));
    assert!(code == 4 && refused.contains("another pando already uses"), "{refused}");

    let token = std::fs::read_to_string(home.join("token")).expect("a token");
    let over_tcp = |token: &str| run(pando(home).args(["ls", "--host", &daemon.tcp]).env("PANDO_TOKEN", token)).0;
    assert_eq!((over_tcp(token.trim()), over_tcp("wrong"), over_tcp("")), (0, 4, 4));

    let body = "{\"from\": 7";
    let head = "POST /v1/clones HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let answer = raw(home, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("\"kind\":\"usage\""), "{answer}");

    assert_eq!(daemon.end("-TERM"), Some(0));
    assert!(!home.join("run/pando.sock").exists());
}

#[test]
fn after_a_crash_the_next_daemon_takes_the_home() {
    let dir = tempfile::tempdir().expect("dir");
    let home = dir.path();
    Daemon::start(home).end("-KILL");
    assert!(home.join("run/pando.sock").exists());
    let (code, _, gone) = run(pando(home).arg("ls"));
    assert!(code == 1 && gone.contains("no pando daemon answers at"), "{gone}");
    let daemon = Daemon::start(home);
    assert_eq!(run(pando(home).arg("ls")).0, 0);
    assert_eq!(daemon.end("-INT"), Some(0));
}
