//! A process under a number that no account has, to which some directories look like its own: by an id-mapped mount of each,
//! in a mount namespace that goes when the process and all it started have gone. On the disk nothing is another's, and no
//! file is touched, however many there are.
//!
//! So processes that work on one account's files are strangers to each other: none reads the others' files, enters their
//! sockets, or sends them a signal.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::tool::Tool;

/// What is needed where there is none.
pub const NEEDS: &str = "root with CAP_SYS_ADMIN, and a kernel that maps the owners of mounts: Linux 5.15 or newer for btrfs, \
                         5.12 for XFS and ext4";

/// The numbers that are given out: no account, no container and no service has one of these by the customs of today
/// (systemd's list of user ids, "unused").
const FIRST: u32 = 0x7000_0000;
const NUMBERS: u32 = 0x0ffe_0000;

/// One past the last number that can be mapped.
const END: u32 = u32::MAX;

/// Who a process is, and where it passes for the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idmap {
    /// Its user and group.
    pub id: u32,
    /// Where the account's files look like its own, and what it makes becomes the account's.
    pub dirs: Vec<PathBuf>,
}

impl Idmap {
    /// A number for whatever a hash stands for. Two hashes have the same one about once in 270 million times.
    pub fn number(hash: u64) -> u32 {
        FIRST + u32::try_from(hash % u64::from(NUMBERS)).unwrap_or_default()
    }

    /// Whether these directories can be mapped here.
    ///
    /// # Errors
    /// What the kernel says, and of which directory.
    pub fn works_on(dirs: &[&Path], account: &Account) -> io::Result<()> {
        let own = Self { id: FIRST, dirs: dirs.iter().map(|dir| (*dir).to_owned()).collect() };
        own.prepare(account, Path::new("/")).map(drop)
    }

    /// All that can be made ready before there is a process. Directories that are not there are left out.
    ///
    /// # Errors
    /// When this kernel, or the file system of a directory, maps no owners.
    pub fn prepare(&self, account: &Account, dir: &Path) -> io::Result<Mapped> {
        let names = translation(account, self.id)?;
        let mut views = Vec::new();
        for path in &self.dirs {
            match view(path, &names) {
                Ok(tree) => views.push((tree, CString::new(path.as_os_str().as_bytes())?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let what = format!("the owners of files in {} cannot be mapped: {error}", path.display());
                    return Err(io::Error::new(error.kind(), what));
                }
            }
        }
        Ok(Mapped { id: self.id, views, dir: CString::new(dir.as_os_str().as_bytes())? })
    }
}

/// An [`Idmap`] that only a process is missing of.
#[derive(Debug)]
pub struct Mapped {
    id: u32,
    views: Vec<(OwnedFd, CString)>,
    dir: CString,
}

impl Mapped {
    /// Becomes it, for ever, in the working directory that [`Idmap::prepare`] was told of. For a process that has one thread
    /// and is root: between fork and exec it may be called, for it makes bare system calls and allocates nothing.
    ///
    /// # Errors
    /// What the kernel says.
    #[allow(unsafe_code, reason = "the kernel's words for a namespace of mounts; std and rustix have no safe ones")]
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: of what may be unshared only the table of files could break anything, and it is not.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        // What the machine unmounts goes here too; what is mounted here is seen nowhere else.
        mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        for (tree, path) in &self.views {
            move_mount(tree, c"", CWD, path.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        let (user, group) = (rustix::process::Uid::from_raw(self.id), rustix::process::Gid::from_raw(self.id));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
        Ok(rustix::process::chdir(self.dir.as_c_str())?)
    }
}

/// A directory as a mount that is nowhere yet, with owners named otherwise.
#[allow(unsafe_code, reason = "no crate has mount_setattr")]
fn view(dir: &Path, names: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = open_tree(CWD, dir, flags)?;
    let names = u64::try_from(names.as_raw_fd()).map_err(io::Error::other)?;
    let wanted = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: names };
    // SAFETY: the path is a constant, the structure is the kernel's and lives until the call is over.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}

/// A user namespace in which the account and the number have changed places, and all others are who they are. It belongs to
/// a process that has ended.
#[allow(unsafe_code, reason = "std has no safe way to make a namespace between fork and exec")]
fn translation(account: &Account, id: u32) -> io::Result<OwnedFd> {
    // It waits for the end of what it reads, also when this process is killed.
    let (reader, _writer) = io::pipe()?;
    let mut command = Tool::find("cat", "coreutils")
        .map_err(io::Error::other)?
        .command()
        .input(File::from(OwnedFd::from(reader)))
        .build();
    // SAFETY: a bare system call, in a process of one thread.
    unsafe { command.pre_exec(|| Ok(rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER)?)) };
    let mut child = command.spawn()?;
    let of_child = PathBuf::from(format!("/proc/{}", child.id()));
    let made = fs::write(of_child.join("uid_map"), exchange(account.uid, id))
        .and_then(|()| fs::write(of_child.join("gid_map"), exchange(account.gid, id)))
        .and_then(|()| File::open(of_child.join("ns/user")));
    child.kill()?;
    child.wait()?;
    Ok(made?.into())
}

/// A map of all numbers in which two have changed places, as the kernel reads it: from, to, how many.
fn exchange(one: u32, other: u32) -> String {
    let (low, high) = (one.min(other), one.max(other));
    let between = [(0, 0, low), (low, high, 1), (low + 1, low + 1, high.saturating_sub(low + 1))];
    let beyond = [(high, low, u32::from(low != high)), (high + 1, high + 1, END - high - 1)];
    let lines = between.into_iter().chain(beyond).filter(|(_, _, count)| *count > 0);
    lines.map(|(from, to, count)| format!("{from} {to} {count}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use super::*;

    #[test]
    fn two_numbers_change_places_and_all_others_stay() {
        assert_eq!(exchange(100, 7), "0 0 7\n7 100 1\n8 8 92\n100 7 1\n101 101 4294967194\n");
        assert_eq!(exchange(0, 1), "0 1 1\n1 0 1\n2 2 4294967293\n");
        assert_eq!(exchange(5, 5), "0 0 5\n5 5 1\n6 6 4294967289\n");
    }

    #[test]
    fn numbers_are_given_where_nobody_has_one() {
        for hash in [0, 1, u64::MAX, 0x0ffe_0000] {
            let number = Idmap::number(hash);
            assert!((0x7000_0000..0x7ffe_0000).contains(&number), "{number}");
        }
        assert_ne!(Idmap::number(1), Idmap::number(2));
    }

    /// Two processes of one account, each with a directory.
    #[test]
    #[allow(unsafe_code, reason = "std has no safe way to call it between fork and exec")]
    fn each_passes_for_the_account_where_it_may_and_nowhere_else() -> io::Result<()> {
        let account = Account { name: "some".to_owned(), uid: 4242, gid: 4343 };
        let root = tempfile::tempdir()?;
        if !Account::is_root() {
            assert!(Idmap::works_on(&[root.path()], &account).is_err(), "who is not root is nobody else");
            return Ok(());
        }
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        let [mine, others] = ["mine", "others"].map(|name| root.path().join(name));
        for dir in [&mine, &others] {
            fs::create_dir(dir)?;
            fs::write(dir.join("file"), "x")?;
            account.take_tree(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
        Idmap::works_on(&[&mine, &others], &account)?;
        let run = |script: &str| -> io::Result<String> {
            let own = Idmap { id: Idmap::number(9), dirs: vec![mine.clone(), root.path().join("missing")] };
            let mapped = own.prepare(&account, &mine)?;
            let mut command = Tool::at("/bin/sh").command().arg("-c").arg(script).build();
            // SAFETY: as its documentation says.
            unsafe { command.pre_exec(move || mapped.enter()) };
            let output = command.output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
        };
        let id = Idmap::number(9);
        assert_eq!(run("id -u; id -g; id -G; pwd")?, format!("{id}\n{id}\n{id}\n{}\n", mine.display()));
        assert_eq!(run("stat -c '%u %g' . file; echo y > new; cat file")?, format!("{id} {id}\n{id} {id}\nx"));
        let made = fs::metadata(mine.join("new"))?;
        assert_eq!((made.uid(), made.gid()), (account.uid, account.gid), "on the disk it is the account's");
        let refused = run(&format!("cat {}/file", others.display()))?;
        assert!(refused.contains("Permission denied"), "{refused}");
        // A file of nobody's here is nobody's there, and what was mapped is mapped here alone.
        chown(mine.join("new"), Some(12345), None)?;
        assert_eq!(run("stat -c %u new")?, "12345\n");
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        assert!(!table.contains(&*mine.to_string_lossy()), "{table}");
        Ok(())
    }
}
