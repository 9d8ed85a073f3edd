//! The account that units run as: an unprivileged user when the daemon is root, else the daemon's own.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
}

impl Account {
    /// The account with that name in `/etc/passwd`, if there is one.
    pub fn named(name: &str) -> io::Result<Option<Self>> {
        Ok(parse(&fs::read_to_string("/etc/passwd")?).find(|account| account.name == name))
    }

    /// The account this process runs as.
    pub fn current() -> io::Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let known = parse(&fs::read_to_string("/etc/passwd").unwrap_or_default()).find(|account| account.uid == uid);
        Ok(known.unwrap_or_else(|| Self { name: format!("uid{uid}"), uid, gid }))
    }

    /// Whether this process is root.
    pub fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }
}

/// The C library of this machine, in its own words.
pub fn libc_version() -> Option<String> {
    let tool = crate::Tool::find("getconf", "libc-bin").ok()?;
    Some(tool.command().arg("GNU_LIBC_VERSION").run().ok()?.text().trim().to_owned()).filter(|text| !text.is_empty())
}

fn parse(passwd: &str) -> impl Iterator<Item = Account> + '_ {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name, uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines_are_read_and_broken_ones_skipped() {
        let accounts: Vec<_> = parse("root:x:0:0:root:/root:/bin/sh\nbroken\npando:x:990:991::/:\n").collect();
        assert_eq!(accounts.len(), 2);
        assert_eq!(accounts[1], Account { name: "pando".into(), uid: 990, gid: 991 });
    }
}
