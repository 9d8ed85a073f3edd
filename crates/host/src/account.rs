//! The account that units run as: an unprivileged user when the daemon is root, else the daemon's own.

use std::fs;
use std::io;
use std::os::unix::fs::lchown;
use std::path::Path;

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

    /// Gives a directory and all that is in it to this account; links themselves, never what they lead to. Nobody else may
    /// change the tree meanwhile.
    ///
    /// # Errors
    /// When something cannot be read or given away.
    pub fn take_tree(&self, dir: &Path) -> io::Result<()> {
        let mut open = vec![dir.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => open.push(entry.path()),
                    false => lchown(entry.path(), Some(self.uid), Some(self.gid))?,
                }
            }
            lchown(&dir, Some(self.uid), Some(self.gid))?;
        }
        Ok(())
    }

    /// The user whom this process runs as.
    pub fn own_uid() -> u32 {
        rustix::process::geteuid().as_raw()
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
    fn a_tree_is_taken_over_and_nothing_that_its_links_lead_to() -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, symlink};
        // Who is not root can only give to itself.
        let before = Account::current()?;
        let other = Account { name: "other".to_owned(), uid: 4242, gid: 4343 };
        let other = if Account::is_root() { other } else { before.clone() };
        let dir = tempfile::tempdir()?;
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("a/b"))?;
        fs::create_dir(&outside)?;
        for file in [tree.join("a/b/file"), outside.join("file")] {
            fs::write(&file, "x")?;
        }
        symlink(&outside, tree.join("a/dir"))?;
        symlink(outside.join("file"), tree.join("link"))?;
        other.take_tree(&tree)?;
        for path in ["", "a", "a/b", "a/b/file", "a/dir", "link"] {
            let meta = fs::symlink_metadata(tree.join(path))?;
            assert_eq!((meta.uid(), meta.gid()), (other.uid, other.gid), "{path}");
        }
        for path in [&outside, &outside.join("file")] {
            assert_eq!(fs::symlink_metadata(path)?.uid(), before.uid, "{}", path.display());
        }
        Ok(())
    }

    #[test]
    fn passwd_lines_are_read_and_broken_ones_skipped() {
        let accounts: Vec<_> = parse("root:x:0:0:root:/root:/bin/sh\nbroken\npando:x:990:991::/:\n").collect();
        assert_eq!(accounts.len(), 2);
        assert_eq!(accounts[1], Account { name: "pando".into(), uid: 990, gid: 991 });
    }
}
