//! What the engine says: about itself, about what a container may do, and what containers print.

use std::path::{Path, PathBuf};

use pando_model::UnitId;
use serde_json::Value;

use super::form::{Habits, Unlimited};
use super::{DockerRuntime, failed, form};
use crate::RuntimeError;

/// An engine, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineWords {
    /// `Docker` or `Podman`.
    pub name: String,
    /// Its version.
    pub version: String,
    pub(super) habits: Habits,
}

/// What the container of a unit may do, as the engine enforces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confines {
    /// The engine's id of the container.
    pub id: String,
    /// Its image, as named.
    pub image: String,
    /// `UID:GID`.
    pub user: String,
    /// Whether it may do everything. Never.
    pub privileged: bool,
    /// Capabilities that it has.
    pub capabilities: Vec<String>,
    /// Whether it can gain rights it does not have.
    pub gains_rights: bool,
    /// Whether it may write outside of its mounts.
    pub writes_root: bool,
    /// `host`, `none`, or a network's name.
    pub network: String,
    /// Directories of the machine that it sees, and whether it may write there.
    pub mounts: Vec<(PathBuf, bool)>,
    /// Bytes of memory; none: no limit.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor; none: no limit.
    pub cpu_millis: Option<u64>,
    /// Processes and threads; none: no limit.
    pub pids: Option<u64>,
}

impl DockerRuntime {
    /// Asks the engine who it is.
    pub fn engine(&self) -> Result<EngineWords, RuntimeError> {
        let silent = || failed(format!("asking the engine at {}", self.socket().display()));
        let version = self.client.get("/version").map_err(silent())?;
        let info = self.client.get("/info").map_err(silent())?;
        let mut words = words(&version, &info);
        if words.habits.podman && words.habits.rootless {
            // What it says by Docker's interface is what the kernel could do.
            let own = self.client.get("/v4.0.0/libpod/info").map_err(silent())?;
            words.habits.unlimited = unlimited(&own["host"]["cgroupControllers"]);
        }
        Ok(words)
    }

    /// Whether the engine is an ordinary user's: accounts of its containers are others outside.
    pub fn is_rootless(&self) -> Result<bool, RuntimeError> {
        Ok(self.habits()?.rootless)
    }

    /// What the engine cannot limit.
    pub fn unlimited(&self) -> Result<Unlimited, RuntimeError> {
        Ok(self.habits()?.unlimited)
    }

    /// Whether the engine answers: less to ask than who it is, and less to wait for.
    pub fn answers(&self) -> Result<(), RuntimeError> {
        self.client.ping().map_err(failed(format!("asking the engine at {}", self.socket().display())))
    }

    /// What the container of a unit may do; none when there is no container.
    pub fn confines(&self, unit: &UnitId) -> Result<Option<Confines>, RuntimeError> {
        match self.client.container(&form::name(unit)) {
            Ok(answer) => Ok(Some(confines(&answer))),
            Err(trouble) if trouble.is_missing() => Ok(None),
            Err(trouble) => Err(failed(format!("asking {} for {unit}", self.socket().display()))(trouble)),
        }
    }
}

/// By the controllers that an engine has; without a say of their own on cgroup v1 it has none.
fn unlimited(controllers: &Value) -> Unlimited {
    let has = texts(controllers);
    let lacks = |name: &str| !has.iter().any(|one| one == name);
    Unlimited { memory: lacks("memory"), cpu: lacks("cpu"), pids: lacks("pids") }
}

impl EngineWords {
    /// Of an engine that is not root: that, and what it cannot limit.
    pub fn reservations(&self) -> String {
        if !self.habits.rootless {
            return String::new();
        }
        let Unlimited { memory, cpu, pids } = self.habits.unlimited;
        let lacks = [(memory, "memory"), (cpu, "processors"), (pids, "processes")];
        let lacks: Vec<&str> = lacks.into_iter().filter(|(lacks, _)| *lacks).map(|(_, name)| name).collect();
        let limits = if lacks.is_empty() { String::new() } else { format!(", and cannot limit {}", lacks.join(", ")) };
        format!("; it is rootless{limits}")
    }
}

fn words(version: &Value, info: &Value) -> EngineWords {
    let components = version["Components"].as_array().cloned().unwrap_or_default();
    let podman = components.iter().any(|one| one["Name"].as_str().is_some_and(|name| name.contains("Podman")));
    let security: Vec<&str> =
        info["SecurityOptions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let has = |word: &str| security.iter().any(|option| option.split(',').any(|part| part == format!("name={word}")));
    EngineWords {
        name: if podman { "Podman" } else { "Docker" }.to_owned(),
        version: version["Version"].as_str().unwrap_or_default().to_owned(),
        habits: Habits {
            podman,
            rootless: has("rootless") || info["Rootless"].as_bool() == Some(true),
            remaps: has("userns"),
            selinux: has("selinux"),
            unlimited: Unlimited::default(),
        },
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What both engines give to a container of which nothing else is said.
const USUAL: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What is left of the usual capabilities. Docker keeps the word ALL; Podman lists what it dropped one by one.
fn capabilities(dropped: &[String], added: &[String]) -> Vec<String> {
    let plain = |name: &String| name.to_uppercase().trim_start_matches("CAP_").to_owned();
    let dropped: Vec<String> = dropped.iter().map(plain).collect();
    let left = USUAL.iter().filter(|name| !dropped.iter().any(|one| one == *name || one == "ALL"));
    left.map(|name| (*name).to_owned()).chain(added.iter().map(plain)).collect()
}

fn confines(answer: &Value) -> Confines {
    let host = &answer["HostConfig"];
    let security = texts(&host["SecurityOpt"]);
    let limit = |key: &str| host[key].as_u64().filter(|bytes| *bytes > 0);
    let mount = |one: &Value| {
        (one["Type"].as_str() == Some("bind"))
            .then(|| Some((PathBuf::from(one["Source"].as_str()?), one["RW"].as_bool().unwrap_or(true))))
            .flatten()
    };
    let mut mounts: Vec<(PathBuf, bool)> =
        answer["Mounts"].as_array().into_iter().flatten().filter_map(mount).collect();
    mounts.sort();
    Confines {
        id: answer["Id"].as_str().unwrap_or_default().to_owned(),
        image: answer["Config"]["Image"].as_str().unwrap_or_default().to_owned(),
        user: answer["Config"]["User"].as_str().unwrap_or_default().to_owned(),
        privileged: host["Privileged"].as_bool().unwrap_or(true),
        capabilities: capabilities(&texts(&host["CapDrop"]), &texts(&host["CapAdd"])),
        gains_rights: !security.iter().any(|option| option.starts_with("no-new-privileges")),
        writes_root: !host["ReadonlyRootfs"].as_bool().unwrap_or(false),
        network: host["NetworkMode"].as_str().unwrap_or_default().to_owned(),
        mounts,
        memory_bytes: limit("Memory"),
        cpu_millis: limit("NanoCpus").map(|nano| nano / 1_000_000),
        pids: limit("PidsLimit"),
    }
}

/// What a container printed, out of the frames it comes in: a stream's number, three zeros, a length, the bytes.
pub fn unwrapped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((head, body)) = rest.split_at_checked(8) {
        let [stream, 0, 0, 0, a, b, c, d] = *head else { break };
        if stream > 2 {
            break;
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX).min(body.len());
        let (text, after) = body.split_at(length);
        out.extend_from_slice(text);
        rest = after;
    }
    // Not framed: a container with a terminal.
    out.extend_from_slice(rest);
    out
}

/// The socket where an engine answers. `told`: what the environment says, `DOCKER_HOST`; without it the first that
/// is there, else Docker's, since an engine may come later.
pub fn socket(told: Option<&str>) -> PathBuf {
    if let Some(told) = told {
        // Of an engine on another machine nothing could be mounted: its address is no path, and nobody answers there.
        return PathBuf::from(told.strip_prefix("unix://").unwrap_or(told));
    }
    let me = rustix::process::geteuid();
    let own = format!("/run/user/{}", me.as_raw());
    let mut known = [
        "/run/docker.sock".to_owned(),
        "/run/podman/podman.sock".to_owned(),
        format!("{own}/docker.sock"),
        format!("{own}/podman/podman.sock"),
    ];
    if !me.is_root() {
        // The machine's is seldom open to others, and its containers are not.
        known.rotate_left(2);
    }
    let there = known.iter().find(|path| Path::new(path).exists());
    PathBuf::from(there.unwrap_or(&known[0]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_an_engine_cannot_limit_is_read_from_what_it_controls() {
        let of = |controllers: &[&str]| unlimited(&serde_json::json!(controllers));
        assert_eq!(of(&[]), Unlimited { memory: true, cpu: true, pids: true }, "as Podman 4.3 says it on cgroup v1");
        assert_eq!(of(&["memory", "pids"]), Unlimited { cpu: true, ..Unlimited::default() });
        let habits = Habits { podman: true, rootless: true, unlimited: of(&["memory"]), ..Habits::default() };
        let words = EngineWords { name: String::new(), version: String::new(), habits };
        assert_eq!(words.reservations(), "; it is rootless, and cannot limit processors, processes");
    }

    #[test]
    fn what_was_dropped_is_read_from_either_engine() {
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert!(capabilities(&texts(&["ALL"]), &[]).is_empty());
        assert!(capabilities(&texts(&USUAL), &[]).is_empty(), "as Podman 4.3 says it");
        assert_eq!(capabilities(&[], &[]).len(), USUAL.len());
        assert_eq!(capabilities(&texts(&["all"]), &texts(&["CAP_SYS_ADMIN"])), ["SYS_ADMIN"]);
    }

    #[test]
    fn frames_are_taken_off() {
        let framed = b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\0\x04two\n";
        assert_eq!(unwrapped(framed), b"one\ntwo\n");
        assert_eq!(unwrapped(b"plain text that is longer\n"), b"plain text that is longer\n");
        assert_eq!(unwrapped(b""), b"");
    }

    /// Any JSON that is not deep.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        const WORDS: [&str; 8] =
            ["HostConfig", "Components", "Name", "Version", "SecurityOptions", "Mounts", "Source", "CapDrop"];
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            "[a-z=,]{0,9}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(3, 30, 5, |inner| {
            let pair = (proptest::sample::select(&WORDS[..]), inner.clone());
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(serde_json::Value::from),
                proptest::collection::vec(pair, 0..5).prop_map(|pairs| {
                    pairs
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_log_and_any_text_of_an_engine_is_read(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(2)], 0..60),
            version in json(),
            info in json(),
        ) {
            prop_assert!(unwrapped(&bytes).len() <= bytes.len());
            let _ = words(&version, &info);
            let found = confines(&info);
            // What is not said is taken for the worst.
            prop_assert!(info["HostConfig"]["Privileged"].is_boolean() || found.privileged);
            prop_assert!(info["HostConfig"]["ReadonlyRootfs"].is_boolean() || found.writes_root);
        }
    }

    #[test]
    fn the_environment_says_where_the_engine_is() {
        assert_eq!(socket(Some("unix:///x/s")), Path::new("/x/s"));
        assert_eq!(socket(Some("/x/s")), Path::new("/x/s"));
        assert!(!socket(Some("tcp://host:2375")).exists());
    }
}
