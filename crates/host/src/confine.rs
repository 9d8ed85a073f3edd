//! A process that changes no file outside of some directories, whatever it is told to open: by Landlock, which needs no
//! right, and which neither the process nor anything it starts can leave.
//!
//! Only changes are refused. Programs read libraries, locales and time zones from anywhere; and a server opens its data
//! to write, so what it is not allowed to write it does not use.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

/// What is needed where there is none.
pub const NEEDS: &str = "Linux 5.13 or newer, with landlock among its lsm=";

/// To write to a file.
const WRITE_FILE: u64 = 1 << 1;
/// To remove and make directories, files, sockets, pipes, devices and links.
const REMOVE_AND_MAKE: u64 = 0b1_1111_1111 << 4;
/// To move and link from one directory to another; kernels that cannot tell refuse that.
const REFER: (i64, u64) = (2, 1 << 13);
/// To cut off a file that is not open for writing; kernels that cannot tell allow that.
const TRUNCATE: (i64, u64) = (3, 1 << 14);
/// What any program may write to, and memory that processes share by a name.
const ALWAYS: [&str; 2] = ["/dev/null", "/dev/shm"];

/// The arguments of `landlock_add_rule`, as the kernel reads them.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// Where a process may change files.
#[derive(Debug)]
pub struct Confinement {
    rules: OwnedFd,
}

impl Confinement {
    /// Whether this kernel can confine.
    pub fn is_available() -> bool {
        version() > 0
    }

    /// To directories, with all below. What is not there is left out.
    ///
    /// # Errors
    /// When the kernel cannot confine, or a directory cannot be opened.
    pub fn to(dirs: &[PathBuf]) -> io::Result<Self> {
        let version = version();
        if version < 1 {
            let what = format!("this kernel cannot confine a server to its own directories: {NEEDS}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let changes = [REFER, TRUNCATE]
            .iter()
            .filter(|(since, _)| version >= *since)
            .fold(WRITE_FILE | REMOVE_AND_MAKE, |all, (_, one)| all | one);
        let made = Self { rules: ruleset(changes)? };
        for path in ALWAYS.iter().map(Path::new).chain(dirs.iter().map(PathBuf::as_path)) {
            made.allow(path, changes)?;
        }
        Ok(made)
    }

    fn allow(&self, path: &Path, changes: u64) -> io::Result<()> {
        let at = match open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(at) => File::from(at),
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let is_dir = at.metadata()?.is_dir();
        // Of a file there is nothing else to be allowed.
        let allowed = if is_dir { changes } else { changes & (WRITE_FILE | TRUNCATE.1) };
        add(&self.rules, &PathBeneath { allowed, parent: at.as_raw_fd() })
    }

    /// Confines the calling thread, for ever. Between fork and exec it may be called: it makes two bare system calls.
    ///
    /// # Errors
    /// What the kernel says.
    #[allow(unsafe_code, reason = "no safe crate here has this system call")]
    pub fn enter(&self) -> io::Result<()> {
        rustix::thread::set_no_new_privs(true)?;
        // SAFETY: two numbers are passed, of which the first is an open descriptor.
        checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.rules.as_raw_fd(), 0_u32) }).map(drop)
    }
}

fn checked(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Which Landlock this kernel has; 0 or less: none.
#[allow(unsafe_code, reason = "no safe crate here has this system call")]
fn version() -> i64 {
    const ASK: u32 = 1;
    // SAFETY: with this flag the kernel takes no pointer.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u64>(), 0_usize, ASK) }
}

/// Rules that refuse all these changes.
#[allow(unsafe_code, reason = "no safe crate here has this system call")]
fn ruleset(changes: u64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads eight bytes of a number that lives until the call returns, and answers a new descriptor
    // that nobody else has.
    unsafe {
        let answer = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const changes, size_of::<u64>(), 0_u32);
        let made = RawFd::try_from(checked(answer)?).map_err(io::Error::other)?;
        Ok(OwnedFd::from_raw_fd(made))
    }
}

#[allow(unsafe_code, reason = "no safe crate here has this system call")]
fn add(rules: &OwnedFd, rule: &PathBeneath) -> io::Result<()> {
    const BENEATH: u32 = 1;
    let rule: *const PathBeneath = rule;
    // SAFETY: the rule is laid out as the kernel reads it, and lives until the call returns.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), BENEATH, rule, 0_u32) };
    checked(answer).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Tool;

    /// A thread is confined, not the process: what it may not do the others still may.
    #[test]
    fn whoever_is_confined_changes_nothing_outside() {
        assert!(Confinement::is_available(), "this machine's kernel cannot confine: {NEEDS}");
        let dir = tempfile::tempdir().expect("a directory");
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        for place in [&inside, &outside] {
            fs::create_dir(place).expect("a directory");
            fs::write(place.join("file"), "as it was").expect("a file");
        }
        let missing = dir.path().join("missing");
        let confinement = Confinement::to(&[inside.clone(), missing]).expect("rules");
        let (there, here) = (outside.clone(), inside.clone());
        let confined = std::thread::spawn(move || {
            confinement.enter().expect("entering");
            fs::write(here.join("file"), "changed").expect("inside everything goes");
            fs::create_dir(here.join("new")).expect("inside everything goes");
            fs::rename(here.join("file"), here.join("new/file")).expect("inside everything goes");
            fs::write("/dev/null", "x").expect("into nothing");
            assert_eq!(fs::read_to_string(there.join("file")).expect("it may read"), "as it was");
            let file = there.join("file");
            [
                fs::write(&file, "no"),
                fs::OpenOptions::new().read(true).write(true).open(&file).map(drop),
                fs::remove_file(&file),
                fs::rename(&file, here.join("taken")),
                fs::rename(here.join("new/file"), there.join("put")),
                fs::hard_link(&file, here.join("linked")),
                fs::create_dir(there.join("new")),
                fs::remove_dir(&there),
                std::os::unix::fs::symlink("/", there.join("link")),
                // Nor may what it starts.
                Tool::at("/bin/rm").command().arg(&file).run().map(drop).map_err(|error| {
                    assert!(error.to_string().contains("Permission denied"), "{error}");
                    io::ErrorKind::PermissionDenied.into()
                }),
            ]
            .map(|done| done.map_err(|error| error.kind()))
        });
        for (number, done) in confined.join().expect("a thread").into_iter().enumerate() {
            let refused = [io::ErrorKind::PermissionDenied, io::ErrorKind::CrossesDevices];
            assert!(done.is_err_and(|kind| refused.contains(&kind)), "{number}: {done:?}");
        }
        assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 1);
        assert_eq!(fs::read_to_string(outside.join("file")).expect("a file"), "as it was");
        fs::write(outside.join("file"), "by another thread").expect("nobody else is confined");
    }
}
