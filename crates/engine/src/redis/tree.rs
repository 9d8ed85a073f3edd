//! A tree's files: cut or extended to a point, cleaned of its former owner, and given Pando's own configuration.
//!
//! Nothing of production's configuration is in a tree: the mirror's, which holds production's password, lies in
//! the private directory for sockets. The clone's own lies in the tree, without secrets; its users' passwords lie
//! beside it as hashes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use pando_host::Account;
use pando_host::durable::{remove_if_there, remove_tree_if_there};
use pando_host::plain::{self, Dir};
use pando_host::secret::Secret;
use pando_model::{Profile, SettingChange};

use super::aof::{self, Kind, Manifest};
use super::facts::Facts;
use super::io;
use super::log::{AofLog, Tree};
use crate::postgres::tree::write;
use crate::{EngineError, Point, Seat, Source, Stage};

/// In a tree: what its increments are to a log.
const STRETCH: &str = "pando.stretch";
/// In a tree that was brought to a moment and not served since: that moment.
pub const MOMENT: &str = "pando.moment";
/// The configuration of a clone.
pub const CONF: &str = "pando.conf";
/// The users of a clone, with hashed passwords.
const USERS: &str = "pando.users";
/// Whom Pando enters its own servers as.
pub const INSIDE: &str = "pando-inside";

/// The server's socket.
pub fn socket(run: &Path) -> PathBuf {
    run.join("redis.sock")
}

/// What Pando enters the server of a seat with; made where there is none.
pub fn secret(run: &Path, account: Option<&Account>) -> Result<Secret, EngineError> {
    let path = run.join("secret");
    match plain::read_text(&path) {
        Ok(text) if !text.is_empty() => Ok(Secret::new(text)),
        _ => {
            let fresh = Secret::generate();
            write(&path, fresh.reveal(), account)?;
            Ok(fresh)
        }
    }
}

/// Writes who may enter: Pando itself, and the clone's users once there are any.
pub fn write_users(seat: &Seat) -> Result<(), EngineError> {
    let secret = secret(&seat.run, seat.account.as_ref())?;
    // Nobody comes in without a password. But transactions are loaded as this user, and are dropped where it may
    // not do what they do.
    let nobody = || "user default off resetpass ~* &* +@all\n".to_owned();
    let known = users(&seat.data).unwrap_or_else(nobody);
    let text = format!("user {INSIDE} on >{} ~* &* +@all\n{known}", secret.reveal());
    write(&seat.run.join("users.acl"), &text, seat.account.as_ref())
}

/// Keeps a clone's users, for its next start.
pub fn keep_users(seat: &Seat, lines: &[String]) -> Result<(), EngineError> {
    write(&seat.data.join(USERS), &format!("{}\n", lines.join("\n")), seat.account.as_ref())
}

/// A clone's users, with hashed passwords, once there are any.
pub fn users(data: &Path) -> Option<String> {
    plain::read_text(&data.join(USERS)).ok()
}

/// What a tree's increments are to a log.
pub fn stretch(data: &Path) -> Result<Option<Tree>, EngineError> {
    match plain::read(&data.join(STRETCH)) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| EngineError::Invalid(format!("a tree's mark cannot be read: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(EngineError::Io { action: "reading a tree's mark".to_owned(), source }),
    }
}

/// Begins to be written: what the server appends from now on belongs together.
pub fn begin_stretch(seat: &Seat, after: u64, from: u64) -> Result<(), EngineError> {
    let name = Secret::generate().reveal().to_owned();
    let text = serde_json::to_string(&Tree { name, after, from }).unwrap_or_default();
    write(&seat.data.join(STRETCH), &text, seat.account.as_ref())
}

/// The moment that a tree stands for, if it was not served since.
pub fn moment(data: &Path) -> Option<jiff::Timestamp> {
    plain::read_text(&data.join(MOMENT)).ok()?.parse().ok()
}

/// Notes, or forgets, the moment.
pub fn set_moment(seat: &Seat, moment: Option<jiff::Timestamp>) -> Result<(), EngineError> {
    let path = seat.data.join(MOMENT);
    match moment {
        Some(moment) => write(&path, &moment.to_string(), seat.account.as_ref()),
        None => remove_if_there(&path).map(drop).map_err(io("forgetting a tree's moment")),
    }
}

/// Takes out everything but the data (R-7): settings, users, what rewrites left.
pub fn clean(data: &Path) -> Result<Manifest, EngineError> {
    let mut manifest = Manifest::read(data)?
        .ok_or_else(|| EngineError::Invalid("this tree holds no append-only file: nothing can be loaded".to_owned()))?;
    manifest.0.retain(|part| part.kind != Kind::History);
    let needed: BTreeSet<PathBuf> = manifest
        .0
        .iter()
        .map(|part| aof::file(data, part))
        .chain([Manifest::path(data), data.join(aof::DIR), data.join(MOMENT)])
        .collect();
    for dir in [data.to_owned(), data.join(aof::DIR)] {
        let held = Dir::open(&dir).map_err(io("cleaning a tree"))?;
        for entry in fs::read_dir(held.path()).map_err(io("cleaning a tree"))?.flatten() {
            if needed.contains(&dir.join(entry.file_name())) {
                continue;
            }
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir { remove_tree_if_there(&path) } else { remove_if_there(&path) }.map_err(io("cleaning a tree"))?;
        }
    }
    Ok(manifest)
}

/// Cuts or extends a tree's increments so that they end at a point. What the tree lacks comes from the log.
pub fn bring(data: &Path, manifest: &mut Manifest, log: &AofLog, to: &Point) -> Result<(), EngineError> {
    let (known, _) = log.increments(to.epoch)?;
    let mut last = None;
    for part in manifest.increments() {
        let one = known.iter().find(|one| one.seq == part.seq).ok_or_else(|| {
            EngineError::Invalid(format!("the log knows nothing of {}: the tree is of another stretch", part.name))
        })?;
        if one.start <= to.lsn.0 {
            last = Some((part.clone(), one.start));
        }
    }
    let Some((part, start)) = last else {
        return Err(EngineError::Invalid(format!("the tree begins behind {}", to.lsn)));
    };
    manifest.0.retain(|other| other.kind != Kind::Incr || other.seq <= part.seq);
    let mut file = plain::edit(&aof::file(data, &part)).map_err(io("opening an AOF file"))?;
    let mut length = file.metadata().map_err(io("opening an AOF file"))?.len();
    let wanted = to.lsn.0 - start;
    // A snapshot of a server that writes may have its last pages out of order; the log has them all.
    let mut bytes = Vec::new();
    (&file).take(wanted).read_to_end(&mut bytes).map_err(io("reading an AOF file"))?;
    let scan = aof::scan(&bytes, |_, _| {});
    if scan.broken {
        length = scan.whole as u64;
        file.set_len(length).map_err(io("cutting an AOF file"))?;
    }
    if length > wanted {
        return file.set_len(wanted).map_err(io("cutting an AOF file"));
    }
    file.seek(SeekFrom::End(0)).map_err(io("extending an AOF file"))?;
    log.copy(to.epoch, start + length, to.lsn.0, &mut file)
}

/// Writes the manifest back, after [`clean`] and [`bring`].
pub fn write_manifest(seat: &Seat, manifest: &Manifest) -> Result<(), EngineError> {
    write(&Manifest::path(&seat.data), &manifest.text(), seat.account.as_ref())
}

/// Whether a page of the file was never written: what is behind it was not synced either, else it would be there.
fn has_unwritten_page(bytes: &[u8], from: usize) -> bool {
    const PAGE: usize = 4096;
    let aligned = bytes.get(from.next_multiple_of(PAGE)..).unwrap_or_default();
    aligned.chunks_exact(PAGE).any(|page| page.iter().all(|byte| *byte == 0))
}

/// Drops the end of the last increment that a crash left unfinished, or with pages that were never written (R-5).
/// Answers how many bytes. Any other damage is refused.
pub fn mend(data: &Path, manifest: &Manifest) -> Result<u64, EngineError> {
    let Some(part) = manifest.increments().last() else { return Ok(0) };
    let mut file = plain::edit(&aof::file(data, part)).map_err(io("opening an AOF file"))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io("reading an AOF file"))?;
    let scan = aof::scan(&bytes, |_, _| {});
    if scan.broken && !has_unwritten_page(&bytes, scan.whole) {
        return Err(EngineError::Invalid(format!(
            "{} is damaged at byte {}: {} bytes behind it cannot be loaded",
            part.name,
            scan.whole,
            bytes.len() - scan.whole
        )));
    }
    let dropped = (bytes.len() - scan.whole) as u64;
    if dropped > 0 {
        file.set_len(scan.whole as u64).map_err(io("mending an AOF file"))?;
    }
    Ok(dropped)
}

/// Lines of a configuration; a later one wins.
#[derive(Default)]
pub struct Conf(pub String);

impl Conf {
    /// Adds one.
    pub fn set(&mut self, name: &str, value: impl AsRef<str>) -> &mut Self {
        let _ = writeln!(self.0, "{name} {}", quoted(value.as_ref()));
        self
    }
}

/// A value as Redis reads it back.
fn quoted(value: &str) -> String {
    let mut out = String::from('"');
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out.push('"');
    out
}

fn common(seat: &Seat, facts: &Facts) -> Conf {
    let mut conf = Conf(String::from("# Written by Pando; changes are lost. Use `--set name=value`.\n"));
    conf.set("dir", seat.data.to_string_lossy())
        .set("unixsocket", socket(&seat.run).to_string_lossy())
        .set("unixsocketperm", "700")
        .set("aclfile", seat.run.join("users.acl").to_string_lossy())
        .set("daemonize", "no")
        // The unit's id stands in its environment, which a title would overwrite.
        .set("set-proc-title", "no")
        .set("databases", facts.databases.to_string())
        .set("save", "")
        .set("appendonly", "yes")
        .set("appenddirname", aof::DIR)
        .set("appendfilename", "appendonly.aof")
        .set("aof-use-rdb-preamble", "yes")
        .set("latency-tracking", "no");
    conf
}

/// What is kept in one stream: rewrites are Pando's, and wait until the log has what they replace.
fn logged(conf: &mut Conf) {
    conf.set("aof-timestamp-enabled", "yes").set("auto-aof-rewrite-percentage", "0").set("aof-disable-auto-gc", "yes");
}

/// Writes the mirror's configuration; it holds production's password. Answers where.
pub fn mirror_conf(seat: &Seat, source: &Source, facts: &Facts) -> Result<PathBuf, EngineError> {
    let mut conf = common(seat, facts);
    logged(&mut conf);
    conf.set("port", "0")
        // Every byte is written before anybody hears of it; the log syncs what it takes in.
        .set("appendfsync", "no")
        .set("maxmemory", "0")
        .set("replica-read-only", "yes")
        // No Sentinel may find it, and none make a primary of it.
        .set("replica-priority", "0")
        .set("replica-announced", "no");
    let (host, port) = super::production::place(&source.url);
    let _ = writeln!(conf.0, "replicaof {} {port}", quoted(host));
    if let Some(password) = &source.url.password {
        if let Some(user) = &source.url.user {
            conf.set("masteruser", user);
        }
        conf.set("masterauth", password);
    }
    let path = seat.run.join("redis.conf");
    write(&path, &conf.0, seat.account.as_ref())?;
    Ok(path)
}

/// What lets a server change nothing by itself: a replica of nobody lets no key expire (R-2), and evicts none.
const STILL: &str = "replicaof 127.0.0.1 0\nauto-aof-rewrite-percentage 0\n";

/// Keeps the server of a staged tree from changing anything by itself; nobody else can then.
pub fn stand_still(seat: &Seat) -> Result<(), EngineError> {
    let path = seat.data.join(CONF);
    let text = plain::read_text(&path).map_err(io("reading a tree's settings"))?;
    write(&path, &format!("{text}{STILL}"), seat.account.as_ref())
}

/// Writes a clone's configuration, the user's settings last.
pub fn clone_conf(seat: &Seat, facts: &Facts, stage: &Stage) -> Result<(), EngineError> {
    let mut conf = common(seat, facts);
    match stage.port {
        Some(port) => {
            conf.set("port", port.to_string()).set("bind", "127.0.0.1");
            conf.set("appendfsync", if stage.profile == Profile::Durable { "always" } else { "no" });
        }
        None => {
            conf.set("port", "0").set("appendfsync", "no");
            conf.0.push_str(STILL);
        }
    }
    if stage.record {
        logged(&mut conf);
    }
    for (name, value) in &facts.settings {
        conf.set(name, value);
    }
    for (name, value) in user_settings(&stage.set) {
        conf.set(name, value);
    }
    write(&seat.data.join(CONF), &conf.0, seat.account.as_ref())
}

/// The port in the configuration of a clone.
pub fn port(data: &Path) -> Result<u16, EngineError> {
    let text = plain::read_text(&data.join(CONF)).map_err(io("reading a clone's settings"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("port \"")?.strip_suffix('"')?.parse().ok())
        .ok_or_else(|| EngineError::Invalid("a clone's settings name no port".to_owned()))
}

/// Whether the tree's server syncs what it writes.
pub fn is_durable(data: &Path) -> Result<bool, EngineError> {
    let text = plain::read_text(&data.join(CONF)).map_err(io("reading a clone's settings"))?;
    Ok(text.lines().any(|line| line == "appendfsync \"always\""))
}

/// The setting of Pando's own: whether keys with a TTL are offered alive.
pub const TTL: &str = "ttl";

/// Whether keys are to have the time left that they had at the moment.
pub fn keeps_alive(set: &SettingChange) -> bool {
    set.get(TTL).is_some_and(|value| value == "alive")
}

/// What a user set, without what is Pando's own.
pub fn user_settings(set: &SettingChange) -> impl Iterator<Item = (&String, &String)> {
    set.iter().filter(|(name, _)| *name != TTL)
}

/// Settings that belong to Pando: a user's `--set` may not touch them.
const OURS: [&str; 30] = [
    "aclfile",
    "aof-disable-auto-gc",
    "aof-timestamp-enabled",
    "appenddirname",
    "appendfilename",
    "appendonly",
    "bind",
    "cluster-enabled",
    "daemonize",
    "databases",
    "dir",
    "include",
    "loadmodule",
    "logfile",
    "masterauth",
    "masteruser",
    "pidfile",
    "port",
    "protected-mode",
    "rename-command",
    "replicaof",
    "requirepass",
    "save",
    "set-proc-title",
    "slaveof",
    "supervised",
    "syslog-enabled",
    "unixsocket",
    "unixsocketperm",
    "user",
];

/// Whether a user may set this.
pub fn check(name: &str, value: &str) -> Result<(), EngineError> {
    if name == TTL {
        return match value {
            "alive" | "kept" => Ok(()),
            _ => Err(EngineError::Invalid(format!("the setting {TTL} is alive or kept, not {value:?}"))),
        };
    }
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    if !plain {
        return Err(EngineError::Invalid(format!("{name:?} is not the name of a Redis setting")));
    }
    if OURS.contains(&name) || name.starts_with("tls-") || name.starts_with("auto-aof-") {
        return Err(EngineError::Invalid(format!("the setting {name} belongs to Pando and cannot be changed")));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(EngineError::Invalid(format!("the value of {name} has a line break in it")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_redis_reads_them() {
        assert_eq!(quoted("a b\"c\\\né"), r#""a b\"c\\\x0a\xc3\xa9""#);
    }

    #[test]
    fn r05_pages_that_were_never_written_are_dropped_and_damage_is_refused() -> Result<(), Box<dyn std::error::Error>> {
        const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n";
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join(aof::DIR))?;
        let manifest = Manifest::parse("file appendonly.aof.1.incr.aof seq 1 type i\n")?;
        let part = manifest.increments().next().ok_or("it has one")?;
        let path = aof::file(dir.path(), part);
        let hole = [SET, &[0; 8192], SET].concat();
        fs::write(&path, &hole)?;
        assert_eq!(mend(dir.path(), &manifest)?, (hole.len() - SET.len()) as u64);
        assert_eq!(fs::read(&path)?, SET);
        fs::write(&path, [SET, &[b'?'; 8192], SET].concat())?;
        assert!(mend(dir.path(), &manifest).is_err());
        Ok(())
    }

    #[test]
    fn a_link_that_a_tree_s_owner_has_put_there_is_refused_and_leads_nowhere() -> Result<(), Box<dyn std::error::Error>>
    {
        let dir = tempfile::tempdir()?;
        let (data, outside) = (dir.path().join("data"), dir.path().join("outside"));
        fs::create_dir_all(data.join(aof::DIR))?;
        let cut = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1";
        fs::write(&outside, cut)?;
        let manifest = Manifest::parse("file appendonly.aof.1.incr.aof seq 1 type i\n")?;
        for name in ["appendonlydir/appendonly.aof.1.incr.aof", USERS, CONF] {
            std::os::unix::fs::symlink(&outside, data.join(name))?;
        }
        for refused in [mend(&data, &manifest).map(drop), super::super::ttl::shift(&data, &manifest, 1).map(drop)] {
            let error = refused.map_err(|error| format!("{:?}", error)).expect_err("a link");
            assert!(error.contains("is a link, where a file is due"), "{error}");
        }
        assert!(users(&data).is_none() && is_durable(&data).is_err());

        fs::rename(data.join(aof::DIR), dir.path().join("elsewhere"))?;
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), data.join(aof::DIR))?;
        fs::write(dir.path().join("elsewhere/appendonly.aof.manifest"), manifest.text())?;
        fs::write(dir.path().join("elsewhere/stranger"), "x")?;
        assert!(clean(&data).is_err() && dir.path().join("elsewhere/stranger").exists());
        assert_eq!(fs::read(&outside)?, cut);
        Ok(())
    }

    #[test]
    fn r07_what_leads_to_production_cannot_be_set() {
        assert!(check("maxmemory", "1gb").is_ok() && check("ttl", "alive").is_ok());
        for name in ["replicaof", "masterauth", "aclfile", "dir", "tls-port", "MAXMEMORY", "a b", ""] {
            assert!(check(name, "x").is_err(), "{name}");
        }
        assert!(check("maxmemory", "1\nreplicaof 1.2.3.4 6379").is_err());
        assert!(check("ttl", "maybe").is_err());
    }
}
