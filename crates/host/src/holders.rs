//! Who uses a directory now, as the kernel knows it: processes that see it as a mount of their own (containers),
//! and processes that stand in it or have a file of it open.
//!
//! Counters kept by whoever mounts would lie after the first crash; the kernel's tables do not. What a process
//! has mounted is read once for each mount namespace. A directory is known by a name in its path that nothing
//! else bears, so that it does not matter where a file system is mounted, or under which root.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Somebody who uses a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The id of the container it is in, as the engine gave it.
    pub container: Option<String>,
    /// The process.
    pub pid: u32,
    /// Its program's name.
    pub program: String,
    /// The name of the directory that it uses.
    pub directory: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.container {
            Some(id) => write!(f, "container {} ({}, process {})", id.get(..12).unwrap_or(id), self.program, self.pid),
            None => write!(f, "process {} ({})", self.pid, self.program),
        }
    }
}

/// Who uses directories that have one of these names in their path. This process does not count. For each directory one
/// holder for each container, and for each process outside of containers.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn holders(names: &[&str]) -> io::Result<Vec<Holder>> {
    let own = std::process::id();
    let mut found: Vec<Holder> = Vec::new();
    let (mut free, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for pid in fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        // A process that ends meanwhile, or is another user's, has nothing that can be seen.
        let Ok(space) = fs::read_link(dir.join("ns/mnt")) else { continue };
        let mut used = BTreeSet::new();
        if !free.contains(&space) {
            // What has ended says nothing of the others in its namespace.
            let Ok(table) = fs::read(dir.join("mountinfo")) else { continue };
            used = mounted(&table, names);
            if used.is_empty() {
                free.insert(space);
            }
        }
        if pid == own {
            continue;
        }
        used.extend(opened(&dir, names));
        if used.is_empty() {
            continue;
        }
        let program = fs::read_to_string(dir.join("comm")).unwrap_or_default().trim().to_owned();
        let container = fs::read_to_string(dir.join("cgroup")).ok().and_then(|text| container(&text));
        for name in used {
            let holder =
                Holder { container: container.clone(), pid, program: program.clone(), directory: name.to_owned() };
            if container.is_none() || seen.insert((container.clone(), name)) {
                found.push(holder);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The id in `0::/system.slice/docker-ID.scope`, `…/docker/ID`, `…/libpod-ID/container`: 64 hexadecimal digits.
fn container(cgroup: &str) -> Option<String> {
    cgroup.split(|c: char| !c.is_ascii_hexdigit()).rfind(|part| part.len() == 64).map(str::to_owned)
}

/// The names at or below which the root of a mount lies, inside its file system. A mount of a whole file system has the
/// root `/`, and none.
fn mounted<'a>(table: &[u8], names: &[&'a str]) -> BTreeSet<&'a str> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(3))
        .filter_map(|root| named(Path::new(OsStr::from_bytes(root)), names))
        .collect()
}

/// The names below which a process stands, or has a file open.
fn opened<'a>(dir: &Path, names: &[&'a str]) -> BTreeSet<&'a str> {
    let links = ["cwd", "root"].map(|link| dir.join(link));
    let open = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let paths = links.into_iter().chain(open).filter_map(|link| fs::read_link(link).ok());
    paths
        .filter_map(|path| {
            // The kernel says so behind the path of what has no name any more.
            let bytes = path.into_os_string().into_vec();
            named(Path::new(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(&bytes))), names)
        })
        .collect()
}

fn named<'a>(path: &Path, names: &[&'a str]) -> Option<&'a str> {
    path.components().find_map(|part| match part {
        Component::Normal(part) => names.iter().find(|name| part == **name).copied(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_the_root_it_has_in_its_file_system() {
        let table = b"36 35 0:31 /volumes/vol-1/home /data rw,relatime shared:1 - btrfs /dev/loop0 rw\n\
                      37 35 0:31 / /srv/pool/volumes/vol-2 rw - btrfs /dev/loop0 rw\n";
        assert_eq!(mounted(table, &["vol-0", "vol-1"]), BTreeSet::from(["vol-1"]));
        assert!(mounted(table, &["vol-2"]).is_empty(), "a file system mounted there is not the directory");
        assert!(mounted(table, &["vol-11"]).is_empty());
    }

    #[test]
    fn a_container_is_known_by_its_control_group() {
        let id = "3f".repeat(32);
        for text in [
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("12:pids:/docker/{id}\n0::/\n"),
            format!("0::/machine.slice/libpod-{id}.scope/container\n"),
        ] {
            assert_eq!(container(&text).as_deref(), Some(id.as_str()), "{text}");
        }
        assert_eq!(container("0::/user.slice/session-3.scope"), None);
    }

    #[test]
    #[allow(clippy::disallowed_types, reason = "a child to be killed")]
    fn an_open_file_is_held_by_its_process_and_by_nobody_after_that() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let name = dir.path().file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        assert_eq!(holders(&[&name])?, []);
        let tool = crate::Tool::find("sleep", "coreutils").map_err(io::Error::other)?;
        let mut child = std::process::Command::new(tool.path()).arg("60").current_dir(dir.path()).spawn()?;
        let found = holders(&[&name]);
        child.kill()?;
        child.wait()?;
        let found = found?;
        assert_eq!((found.len(), found[0].pid, found[0].program.as_str()), (1, child.id(), "sleep"));
        assert_eq!(found[0].directory, name);
        assert_eq!(holders(&[&name])?, []);
        Ok(())
    }
}
