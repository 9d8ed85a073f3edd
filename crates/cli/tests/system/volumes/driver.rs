//! A volume driver spoken to as the engines do: raw HTTP on its socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Docker,
    Podman,
}

/// A driver behind its socket.
pub struct Driver(pub PathBuf);

/// An engine's answer: HTTP's status and the body.
pub type Answer = (u16, Value);

impl Driver {
    /// Sends a call with exactly these bytes as its body.
    pub fn raw(&self, engine: Engine, call: &str, body: &str) -> Answer {
        let mut stream = UnixStream::connect(&self.0).unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
        let head = match engine {
            // No content type, and an empty Host.
            Engine::Docker => "Host: \r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n",
            Engine::Podman => "Host: localhost\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\n",
        };
        let length = body.len();
        let text = format!(
            "POST /{call} HTTP/1.1\r\n{head}User-Agent: Go-http-client/1.1\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{call}: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{call}: {error}: {body:?}")))
    }

    /// Whether anybody listens.
    pub fn answers(&self) -> bool {
        UnixStream::connect(&self.0).is_ok()
    }

    /// A call that must work.
    pub fn call(&self, call: &str, body: &Value) -> Value {
        let (status, said) = self.raw(Engine::Docker, &format!("VolumeDriver.{call}"), &body.to_string());
        assert_eq!((status, said["Err"].as_str()), (200, Some("")), "{call} {body}: {said}");
        said
    }

    /// A call that must fail; what it says.
    pub fn fails(&self, call: &str, body: &Value) -> String {
        let (status, said) = self.raw(Engine::Docker, &format!("VolumeDriver.{call}"), &body.to_string());
        assert_eq!(status, 500, "{call} {body}: {said}");
        said["Err"].as_str().unwrap().to_owned()
    }

    /// Makes a volume of options such as `from=shop at=-2h`.
    pub fn create(&self, name: &str, options: &str) {
        self.call("Create", &json!({ "Name": name, "Opts": pairs(options) }));
    }

    /// The same, which must fail.
    pub fn refuses(&self, name: &str, options: &str) -> String {
        self.fails("Create", &json!({ "Name": name, "Opts": pairs(options) }))
    }

    /// Where a volume is.
    pub fn mount(&self, name: &str, id: &str) -> PathBuf {
        let said = self.call("Mount", &json!({ "Name": name, "ID": id }));
        PathBuf::from(said["Mountpoint"].as_str().unwrap())
    }

    pub fn unmount(&self, name: &str, id: &str) {
        self.call("Unmount", &json!({ "Name": name, "ID": id }));
    }

    /// What `docker volume inspect` shows of it.
    pub fn status(&self, name: &str) -> Value {
        self.call("Get", &json!({ "Name": name }))["Volume"]["Status"].clone()
    }

    /// The names of all volumes.
    pub fn names(&self) -> Vec<String> {
        let said = self.call("List", &json!({}));
        said["Volumes"].as_array().unwrap().iter().map(|one| one["Name"].as_str().unwrap().to_owned()).collect()
    }

    pub fn remove(&self, name: &str) {
        self.call("Remove", &json!({ "Name": name }));
    }
}

fn pairs(options: &str) -> Value {
    let pairs = options.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), Value::from(value))).collect::<serde_json::Map<_, _>>().into()
}

/// A socket where Docker looks for drivers, of a name that only this test has. Its file's name is the driver's.
pub fn fresh_socket(word: &str) -> PathBuf {
    Path::new("/run/docker/plugins").join(format!("pando-{word}-{}.sock", std::process::id()))
}
