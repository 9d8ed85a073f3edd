//! What of a home belongs to the daemon alone: the directory `run` (0700), the lock and the socket in it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use pando_api::socket_path;
use pando_model::{ErrorKind, Problem};
use tokio::net::UnixListener;

/// The longest path that a socket's address holds, less the final zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// Holds a home for this process until dropped.
#[derive(Debug)]
pub(crate) struct HomeLock(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

fn failed(what: String, error: &io::Error) -> Problem {
    let mut problem = Problem::new(ErrorKind::Failed, what);
    problem.causes.push(error.to_string());
    problem
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Problem> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| {
        failed(format!("the directory {} cannot be made", path.display()), &error)
            .hint("choose another home with --home DIR or PANDO_HOME")
    })
}

impl HomeLock {
    /// Makes the home where it is missing, and takes its lock.
    pub(crate) fn take(home: &Path) -> Result<Self, Problem> {
        // Others must be able to pass through HOME: units run as an account of their own.
        make_dir(home, 0o755)?;
        let run = home.join("run");
        make_dir(&run, 0o700)?;
        let path = run.join("pando.lock");
        let unusable = |error| failed(format!("the lock {} cannot be used", path.display()), &error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(home, &mut file)),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        // Only a help for people: the lock itself is the kernel's.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }

    /// Replaces a socket that a crash left behind by a fresh one.
    pub(crate) fn bind(&self, home: &Path, mode: u32) -> Result<UnixListener, Problem> {
        let path = socket_path(home);
        if path.as_os_str().len() > LONGEST_SOCKET_PATH {
            let what = format!("{} is too long for a socket's address", path.display());
            return Err(Problem::new(ErrorKind::Refused, what).hint("choose a shorter --home"));
        }
        let unusable = |error| failed(format!("the socket {} cannot be made", path.display()), &error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
            _ => {}
        }
        // Whoever may open the socket must be able to reach it; nobody needs to list what lies beside it.
        let passable = 0o700 | (mode & 0o022) >> 1 & 0o011;
        fs::set_permissions(home.join("run"), fs::Permissions::from_mode(passable)).map_err(unusable)?;
        let listener = UnixListener::bind(&path).map_err(unusable)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(unusable)?;
        Ok(listener)
    }
}

fn taken(home: &Path, file: &mut File) -> Problem {
    let mut process = String::new();
    let _ = file.take(20).read_to_string(&mut process);
    let mut problem = Problem::new(ErrorKind::Refused, format!("another pando already uses {}", home.display()));
    if process.trim().parse::<u32>().is_ok() {
        problem.causes.push(format!("process {} holds its lock", process.trim()));
    }
    problem.hint("stop that one first, or choose another home with --home DIR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_used_once_at_a_time() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let home = dir.path().join("a/home");
        let first = HomeLock::take(&home).expect("free");
        let refused = HomeLock::take(&home).expect_err("taken");
        assert_eq!(refused.kind, ErrorKind::Refused);
        assert_eq!(refused.causes, [format!("process {} holds its lock", std::process::id())]);
        assert_eq!(fs::metadata(home.join("run"))?.permissions().mode() & 0o777, 0o700);
        drop(first);
        assert!(HomeLock::take(&home).is_ok());
        Ok(())
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_is_private() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let lock = HomeLock::take(dir.path()).expect("free");
        drop(lock.bind(dir.path(), 0o600).expect("bound"));
        assert!(socket_path(dir.path()).exists());
        let _listener = lock.bind(dir.path(), 0o600).expect("bound again");
        let mode = |path: &Path| fs::metadata(path).map(|data| data.permissions().mode() & 0o777);
        assert_eq!((mode(&socket_path(dir.path()))?, mode(&dir.path().join("run"))?), (0o600, 0o700));
        let _shared = lock.bind(dir.path(), 0o660).expect("bound for a group");
        assert_eq!((mode(&socket_path(dir.path()))?, mode(&dir.path().join("run"))?), (0o660, 0o710));
        Ok(())
    }

    #[test]
    fn a_home_that_cannot_be_made_says_so() {
        let problem = HomeLock::take(Path::new("/proc/nowhere/home")).expect_err("cannot be");
        assert_eq!(problem.kind, ErrorKind::Failed);
        assert!(problem.hint.is_some_and(|hint| hint.contains("--home")));
    }
}
