//! What the kernel says of a toolkit's processes: their sockets, their arguments, and which are left.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use pando_host::process;

/// A TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) listens: bool,
    inode: u64,
}

/// The TCP sockets of processes.
pub(super) fn sockets(pids: &[u32]) -> Vec<Socket> {
    let held: BTreeSet<u64> = pids
        .iter()
        .flat_map(|pid| process::open_files(*pid))
        .filter_map(|file| file.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(parse)
        .filter(|s| held.contains(&s.inode))
        .collect()
}

/// A line of `/proc/net/tcp`: addresses in hexadecimal, each word of four bytes in the machine's order.
fn parse(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(Socket {
        local: address(words.get(1)?)?,
        remote: address(words.get(2)?)?,
        listens: *words.get(3)? == "0A",
        inode: words.get(9)?.parse().ok()?,
    })
}

fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| Some(u32::from_str_radix(ip.get(index * 8..index * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = if ip.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let mut bytes = [0; 16];
        for index in 0..4 {
            bytes.get_mut(index * 4..index * 4 + 4)?.copy_from_slice(&word(index)?);
        }
        IpAddr::V6(Ipv6Addr::from(bytes))
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// Whether one of these processes shows a text in its arguments.
pub(super) fn shows(pids: &[u32], text: &str) -> bool {
    let holds = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).contains(text);
    pids.iter().any(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(holds))
}

/// The processes that work in a directory or hold a file of it open, also after it was removed.
pub(super) fn pids_in(dir: &Path) -> Vec<u32> {
    let inside = |pid: u32| {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| cwd.starts_with(dir)) || process::open_files(pid).iter().any(|file| file.starts_with(dir))
    };
    let all = process::list().unwrap_or_default().into_iter().map(|stat| stat.id.pid);
    let ours = std::process::id();
    all.filter(|pid| *pid != ours && inside(*pid)).collect()
}

/// The same, by their names.
pub(super) fn left_in(dir: &Path) -> Vec<String> {
    pids_in(dir)
        .into_iter()
        .map(|pid| {
            let program = process::program(pid).unwrap_or_default();
            format!("{} ({pid})", program.file_name().unwrap_or_default().to_string_lossy())
        })
        .collect()
}

/// Whether a file below a directory holds a text; the first one that does.
pub(super) fn holds(dir: &Path, text: &str) -> Option<String> {
    fs::read_dir(dir).into_iter().flatten().flatten().find_map(|entry| {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            return holds(&entry.path(), text);
        }
        (kind.is_file() && file_holds(&entry.path(), text.as_bytes())).then(|| entry.path().display().to_string())
    })
}

fn file_holds(path: &Path, text: &[u8]) -> bool {
    use std::io::{Read, Seek};

    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    let Ok(mut file) = fs::File::open(path) else { return false };
    let mut window = Vec::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        // Over holes, which may be most of a file; where they are not known, nothing is left out.
        if window.is_empty()
            && let Ok(at) = file.stream_position()
            && let Err(Errno::NXIO) = seek(&file, SeekFrom::Data(at))
        {
            return false;
        }
        let Ok(read @ 1..) = file.read(&mut piece) else { return false };
        window.extend_from_slice(piece.get(..read).unwrap_or_default());
        let first = text.first().copied().unwrap_or_default();
        let mut starts = window.iter().enumerate().filter(|(_, byte)| **byte == first).map(|(at, _)| at);
        if starts.any(|at| window.get(at..).is_some_and(|rest| rest.starts_with(text))) {
            return true;
        }
        // What may be the beginning of it stays; behind zeros nothing has begun.
        window.drain(..window.len().saturating_sub(text.len()));
        if window.iter().all(|byte| *byte == 0) {
            window.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_sockets_are_seen() -> Result<(), Box<dyn std::error::Error>> {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let local = listener.local_addr()?;
            let all = sockets(&[std::process::id()]);
            assert!(all.iter().any(|one| one.local == local && one.listens), "{local}: {all:?}");
            let client = std::net::TcpStream::connect(local)?;
            let all = sockets(&[std::process::id()]);
            assert!(all.iter().any(|one| one.local == client.local_addr().expect("bound") && one.remote == local));
        }
        Ok(())
    }

    #[test]
    fn a_text_is_found_across_pieces() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("a"))?;
        let mut bytes = vec![0; (1 << 20) - 3];
        bytes.extend(b"secret");
        fs::write(dir.path().join("a/b"), bytes)?;
        assert!(holds(dir.path(), "secret").is_some_and(|path| path.ends_with("a/b")));
        assert!(holds(dir.path(), "secreT").is_none());
        Ok(())
    }
}
