//! What a container is given, and what it may do: as a form for the engine, and read back from the engine.
//!
//! - It runs as the account that owns the data, never as root unless the daemon's servers do: nothing is chowned.
//! - No capability, no way to gain one, a read-only root, no device; the engine's own filters of system calls stay.
//! - Of the machine it sees the directories of its own unit, at the same paths, and nothing else.
//! - It shares the machine's network: servers of clones listen on 127.0.0.1 and on a socket in their directory, so
//!   nothing has to be published, and an engine without a packet filter will do. See `docs/design` for the price.

use std::path::Path;

use pando_host::Account;
use pando_model::UnitId;
use serde_json::{Value, json};

use crate::{Container, UnitSpec};

/// The label that holds a unit's id.
pub const UNIT: &str = "pando.unit";
/// The label that holds the home whose unit it is.
pub const HOME: &str = "pando.home";
/// The label of containers that only look into an image.
pub const PROBE: &str = "pando.probe";

/// No unit starts more processes and threads than that.
const PIDS: u64 = 4096;
/// Shared memory where no limit of memory says otherwise. Engines give 64 MB, and parallel queries fail on that.
const SHARED: u64 = 1 << 30;
/// A log in the engine is cut at that; what a container leaves behind is kept by us.
const LOG: &str = "10m";

/// A unit's container has this name: two of one unit cannot be.
pub fn name(unit: &UnitId) -> String {
    format!("pando-{unit}")
}

/// What differs between engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Habits {
    /// Podman, not Docker.
    pub podman: bool,
    /// The engine is not root.
    pub rootless: bool,
    /// The engine maps accounts of containers to others by default.
    pub remaps: bool,
    /// SELinux would keep containers from directories that are not labelled for them.
    pub selinux: bool,
    /// What it cannot limit.
    pub unlimited: Unlimited,
}

impl Habits {
    /// Whether containers have no control groups of their own to be stopped by. They are processes of ours, and can be
    /// stopped as such.
    pub fn stops_by_signals(self) -> bool {
        self.podman && self.rootless
    }
}

/// What an engine cannot limit: one that is not root has only what the machine leaves to its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unlimited {
    /// Memory.
    pub memory: bool,
    /// Processors.
    pub cpu: bool,
    /// Processes.
    pub pids: bool,
}

/// The form for a new container. `volumes`: what the image declares as such; it gets memory there, since an
/// engine would make a volume for each.
pub fn create(spec: &UnitSpec, container: &Container, home: &Path, habits: Habits, volumes: &[String]) -> Value {
    let mut labels = container.labels.clone();
    labels.insert(UNIT.to_owned(), spec.id.to_string());
    labels.insert(HOME.to_owned(), home.to_string_lossy().into_owned());
    // A name twice would be one or the other, as the engine and the image's C library have it.
    let usual = [("LC_ALL", "C"), ("TZ", "UTC")].into_iter().filter(|(name, _)| !spec.env.contains_key(*name));
    let told = spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let env: Vec<String> = usual.chain(told).map(|(name, value)| format!("{name}={value}")).collect();
    let mounts: Vec<Value> = container
        .mounts
        .iter()
        .map(|path| {
            json!({ "Type": "bind", "Source": path, "Target": path, "ReadOnly": false,
                    "BindOptions": { "Propagation": "rprivate" } })
        })
        .collect();
    // By its name: images keep programs elsewhere than this machine does, and their PATH knows where.
    let program = spec.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut host = confined(habits, volumes);
    set(&mut host, "Mounts", json!(mounts));
    set(&mut host, "NetworkMode", json!("host"));
    set(&mut host, "ShmSize", json!(container.memory_bytes.unwrap_or(SHARED)));
    let limits = [
        ("PidsLimit", PIDS, habits.unlimited.pids),
        ("Memory", container.memory_bytes.unwrap_or(0), habits.unlimited.memory),
        ("NanoCpus", container.cpu_millis.unwrap_or(0) * 1_000_000, habits.unlimited.cpu),
    ];
    for (name, limit, _) in limits.into_iter().filter(|(_, _, ignored)| !ignored) {
        set(&mut host, name, json!(limit));
    }
    let mut form = json!({
        "Image": container.image,
        "Entrypoint": [program],
        "Cmd": spec.args,
        "Env": env,
        "User": user(spec.account.as_ref()),
        "WorkingDir": spec.dir,
        "Labels": labels,
        "StopSignal": "SIGTERM",
        "HostConfig": host,
    });
    if !habits.podman {
        // Podman takes that for a check, and makes a timer of systemd's for it.
        set(&mut form, "Healthcheck", json!({ "Test": ["NONE"] }));
    }
    form
}

/// The form for a program that looks into an image: it sees nothing of the machine.
pub fn probe(image: &str, words: &[&str], home: &Path) -> Value {
    let mut host = confined(Habits::default(), &[]);
    set(&mut host, "NetworkMode", json!("none"));
    let (program, args) = words.split_first().unwrap_or((&"true", &[]));
    json!({
        "Image": image,
        "Entrypoint": [program],
        "Cmd": args,
        "User": "65534:65534",
        "Labels": { PROBE: "yes", HOME: home },
        "HostConfig": host,
    })
}

fn confined(habits: Habits, volumes: &[String]) -> Value {
    let mut memory = serde_json::Map::new();
    memory.insert("/tmp".to_owned(), json!("rw,nosuid,nodev,size=256m"));
    for path in volumes {
        memory.insert(path.clone(), json!("rw,nosuid,nodev,size=1m"));
    }
    let mut security = vec!["no-new-privileges"];
    if habits.selinux {
        security.push("label=disable");
    }
    let mut host = json!({
        "CapDrop": ["ALL"],
        "SecurityOpt": security,
        "ReadonlyRootfs": true,
        "Tmpfs": memory,
        "Init": true,
        "RestartPolicy": { "Name": "no" },
    });
    if habits.remaps && !habits.podman {
        set(&mut host, "UsernsMode", json!("host"));
    }
    if habits.rootless && habits.podman {
        set(&mut host, "UsernsMode", json!("keep-id"));
    }
    if !habits.podman {
        // Podman keeps logs its own way.
        set(&mut host, "LogConfig", json!({ "Type": "json-file", "Config": { "max-size": LOG, "max-file": "2" } }));
    }
    host
}

fn set(value: &mut Value, key: &str, to: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), to);
    }
}

/// The account of a unit, else the daemon's own.
fn user(account: Option<&Account>) -> String {
    let (uid, gid) = account.map_or_else(
        || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        |account| (account.uid, account.gid),
    );
    format!("{uid}:{gid}")
}
