//! A process that changes no file outside of some directories, whatever it is told to open: by Landlock, which needs no
//! right, and which neither the process nor anything it starts can leave.
//!
//! Only changes are refused. Programs read libraries, locales and time zones from anywhere; and a server opens its data
//! to write, so what it is not allowed to write it does not use.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError,
};

/// What is needed where there is none.
pub const NEEDS: &str = "Linux 5.13 or newer, with landlock among its lsm=";

/// What any program may write to, and memory that processes share by a name.
const ALWAYS: [&str; 2] = ["/dev/null", "/dev/shm"];

/// Everything that changes a file, or what a directory has. Kernels before 5.19 refuse to move a file from one directory to
/// another, kernels before 6.2 allow to cut off one that is not open for writing.
fn changes() -> BitFlags<AccessFs> {
    AccessFs::from_write(ABI::V3)
}

/// Rules that refuse all changes; an error where the kernel does not know the first of them.
fn nothing() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(changes())?
        .create()
}

/// Where a process may change files.
#[derive(Debug)]
pub struct Confinement {
    rules: RulesetCreated,
}

impl Confinement {
    /// Whether this kernel can confine.
    pub fn is_available() -> bool {
        nothing().is_ok()
    }

    /// To directories, with all below. What is not there is left out.
    ///
    /// # Errors
    /// When the kernel cannot confine, or a directory cannot be opened.
    pub fn to(dirs: &[PathBuf]) -> io::Result<Self> {
        let mut rules = nothing().map_err(|_| {
            let what = format!("this kernel cannot confine a server to its own directories: {NEEDS}");
            io::Error::new(io::ErrorKind::Unsupported, what)
        })?;
        for path in ALWAYS.iter().map(Path::new).chain(dirs.iter().map(PathBuf::as_path)) {
            let at = match PathFd::new(path) {
                Ok(at) => at,
                Err(PathFdError::OpenCall { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io::Error::other(error)),
            };
            // Of a file there is nothing else to be allowed.
            let allowed = if path.is_dir() { changes() } else { changes() & AccessFs::from_file(ABI::V3) };
            rules = rules.add_rule(PathBeneath::new(at, allowed)).map_err(io::Error::other)?;
        }
        Ok(Self { rules })
    }

    /// Confines the calling thread, for ever. Between fork and exec it may be called: it makes bare system calls.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn enter(&self) -> io::Result<()> {
        let entered = self.rules.try_clone()?.restrict_self();
        entered.map(drop).map_err(|_| io::Error::last_os_error())
    }
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
