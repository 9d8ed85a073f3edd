//! Production's files, where this machine can reach them: then the first copy is one of files, by `mariadb-backup`,
//! and not a dump.
//!
//! An address of loopback is no proof: a tunnel or a container's port may lead to another machine or another
//! root, and the files found here would be another server's. So the process that keeps the pid file in the directory
//! must be the one that listens at the address. A user who knows it says so: `?datadir=/var/lib/mysql`, or `?datadir=none`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pando_host::Account;
use pando_model::SourceUrl;

use crate::Finding;
use crate::mysql_family::facts::Facts;

/// The word of an address that says where the files are.
const WORD: &str = "datadir";

/// What of production's files is here.
pub enum Near {
    /// Its data directory.
    Here(PathBuf),
    /// Nothing; why they cannot be used, where they could have been.
    No(Option<String>),
}

/// Looks for production's files.
///
/// # Errors
/// A fatal finding: the address names a directory that cannot be used.
pub fn look(url: &SourceUrl, facts: &Facts) -> Result<Near, Box<Finding>> {
    let told = url.query.get(WORD).map(String::as_str);
    let dir = match told {
        Some("none") => return Ok(Near::No(None)),
        Some(path) => PathBuf::from(path),
        None => {
            let dir = PathBuf::from(facts.setting("datadir"));
            let pid = dir.join(facts.setting("pid_file"));
            if !dir.is_absolute() || !keeps(&pid).is_some_and(|pid| listens(pid, url)) {
                return Ok(Near::No(None));
            }
            dir
        }
    };
    let refused = match readable(&dir) {
        Err(error) => Some(format!("{} cannot be read: {error}", dir.display())),
        Ok(()) => unfit(facts, &dir),
    };
    match refused {
        None => Ok(Near::Here(dir)),
        Some(why) if told.is_some() => Err(Box::new(Finding {
            what: format!("production's files cannot be copied: {why}"),
            fix: Some(format!("put ?{WORD}=none into the address: then the first copy is a dump")),
            fatal: true,
        })),
        Some(why) => Ok(Near::No(Some(why))),
    }
}

/// What a copy of its files could not bring over.
fn unfit(facts: &Facts, dir: &Path) -> Option<String> {
    for name in ["innodb_data_home_dir", "innodb_undo_directory", "innodb_log_group_home_dir"] {
        if !matches!(facts.setting(name).trim_end_matches('/'), "" | ".") && Path::new(facts.setting(name)) != dir {
            return Some(format!("{name} is {}", facts.setting(name)));
        }
    }
    let same = [("innodb_data_file_path", "ibdata1:12M:autoextend"), ("innodb_encrypt_tables", "OFF")];
    for (name, usual) in same {
        if facts.setting(name) != usual {
            return Some(format!("{name} is {}", facts.setting(name)));
        }
    }
    if !matches!(facts.setting("innodb_compression_algorithm"), "none" | "zlib") {
        return Some("tables may be compressed by a plugin".to_owned());
    }
    match elsewhere(dir) {
        Ok(found) => found.map(|path| format!("{} leads out of the data directory", path.display())),
        Err(error) => Some(format!("{} cannot be read: {error}", dir.display())),
    }
}

/// A table whose file is not in the directory: its link would lead clones to production's own.
fn elsewhere(dir: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            return Ok(Some(entry.path()));
        }
        if !kind.is_dir() {
            continue;
        }
        for table in fs::read_dir(entry.path())? {
            let table = table?;
            if table.file_type()?.is_symlink() || table.path().extension().is_some_and(|end| end == "isl") {
                return Ok(Some(table.path()));
            }
        }
    }
    Ok(None)
}

fn readable(dir: &Path) -> io::Result<()> {
    fs::File::open(dir.join("ibdata1")).map(drop)
}

/// Who may read the files: their owner, where we are root.
pub fn owner(dir: &Path) -> io::Result<Option<Account>> {
    if !Account::is_root() {
        return Ok(None);
    }
    let meta = fs::metadata(dir)?;
    Ok(Some(Account { name: format!("uid{}", meta.uid()), uid: meta.uid(), gid: meta.gid() }))
}

/// The process that keeps a pid file.
fn keeps(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether a process listens where an address leads.
fn listens(pid: u32, url: &SourceUrl) -> bool {
    let inodes = match (url.query.get("socket"), url.host.as_deref()) {
        (Some(path), _) => of_socket(&fs::read_to_string("/proc/net/unix").unwrap_or_default(), path),
        (None, None | Some("127.0.0.1" | "localhost" | "::1" | "[::1]")) => ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .flat_map(|table| of_port(&fs::read_to_string(table).unwrap_or_default(), url.port.unwrap_or(3306)))
            .collect(),
        _ => Vec::new(),
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links: Vec<PathBuf> = open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    // All of them: one of another process would take some of the connections.
    !inodes.is_empty() && inodes.iter().all(|inode| links.contains(&PathBuf::from(format!("socket:[{inode}]"))))
}

/// The listeners of a port, in a table of the kernel (proc(5), `/proc/net/tcp`).
fn of_port(table: &str, port: u16) -> Vec<u64> {
    let port = format!(":{port:04X}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&"0A"))
        .filter_map(|fields| fields.get(9)?.parse().ok())
        .collect()
}

/// The listener of a socket's file, in `/proc/net/unix`.
fn of_socket(table: &str, path: &str) -> Vec<u64> {
    // A connection to it bears the same name; it does not accept any (flag 0x10000).
    let listener = |fields: &Vec<&str>| fields.get(7) == Some(&path) && fields.get(3) == Some(&"00010000");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(listener)
        .filter_map(|fields| fields.get(6)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_kernels_tables() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4711 1 0\n   \
                   1: 0100007F:0CEA 0100007F:D431 01 00000000:00000000 00:00000000 00000000   101        0 4712 1 0\n";
        assert_eq!(of_port(tcp, 3306), [4711]);
        assert!(of_port(tcp, 3307).is_empty());
        let unix = "Num RefCount Protocol Flags Type St Inode Path\n\
                    0: 00000002 00000000 00010000 0001 01 23 /run/s\n0: 00000003 00000000 00000000 0001 03 24 /run/s\n";
        assert_eq!(of_socket(unix, "/run/s"), [23]);
    }

    #[test]
    fn m03_m14_files_that_lie_elsewhere_are_not_copied() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("shop"))?;
        fs::write(dir.path().join("ibdata1"), "")?;
        let mut facts = Facts::default();
        for (name, text) in [
            ("innodb_data_file_path", "ibdata1:12M:autoextend"),
            ("innodb_encrypt_tables", "OFF"),
            ("innodb_compression_algorithm", "zlib"),
            ("innodb_log_group_home_dir", "./"),
        ] {
            facts.settings.insert(name.to_owned(), text.to_owned());
        }
        assert_eq!(unfit(&facts, dir.path()), None);
        for (name, text) in [("innodb_undo_directory", "/undo"), ("innodb_encrypt_tables", "ON")] {
            let mut other = Facts { settings: facts.settings.clone(), ..Facts::default() };
            other.settings.insert(name.to_owned(), text.to_owned());
            assert!(unfit(&other, dir.path()).is_some_and(|why| why.contains(name)));
        }
        fs::write(dir.path().join("shop/t.isl"), "/else/t.ibd")?;
        assert!(unfit(&facts, dir.path()).is_some_and(|why| why.contains("t.isl leads out")));
        Ok(())
    }

    #[test]
    fn an_address_says_where_the_files_are_or_that_they_are_not_wanted() {
        let at = |text: &str| look(&text.parse().expect("an address"), &Facts::default());
        assert!(matches!(at("mariadb://u:p@db/shop?datadir=none"), Ok(Near::No(None))));
        assert!(matches!(at("mariadb://u:p@db/shop"), Ok(Near::No(None))));
        let wrong = at("mariadb://u:p@db/shop?datadir=/no/such").err().expect("a finding");
        assert!(wrong.fatal && wrong.what.contains("/no/such") && wrong.fix.is_some_and(|fix| fix.contains("none")));
    }
}
