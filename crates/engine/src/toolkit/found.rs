//! Where toolkits are, and whether they may be run: only what nobody but root or Pando's own user can replace.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pando_host::Account;

use crate::EngineError;

/// The sticky bit: in such a directory nobody replaces what is another's.
const STICKY: u32 = 0o1000;

/// The executable of a toolkit, in the first directory that has one of that name.
pub fn toolkit(dirs: &[PathBuf], name: &str) -> Result<PathBuf, EngineError> {
    let found = dirs.iter().map(|dir| dir.join(name)).find(|path| fs::symlink_metadata(path).is_ok());
    let Some(path) = found else {
        let place = dirs.first().map(|dir| dir.join(name).display().to_string()).unwrap_or_default();
        return Err(EngineError::Invalid(format!(
            "there is no toolkit {name}: its executable belongs at {place} (then: pando toolkit test {place} URL)"
        )));
    };
    may_run(&path)?;
    Ok(path)
}

/// All toolkits, by name.
pub fn all(dirs: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in dirs.iter().rev().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_file()
        {
            found.insert(name, entry.path());
        }
    }
    found
}

/// Refuses an executable that another user could have put there or changed.
pub fn may_run(path: &Path) -> Result<(), EngineError> {
    let invalid = |why: String| EngineError::Invalid(format!("the toolkit {} is not run: {why}", path.display()));
    let real = path.canonicalize().map_err(|error| invalid(error.to_string()))?;
    let meta = fs::metadata(&real).map_err(|error| invalid(error.to_string()))?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err(invalid(format!("it is no executable file (chmod 755 {})", path.display())));
    }
    let us = Account::current().map_or(0, |account| account.uid);
    // Both the place it was found at and the place that a link leads to.
    for one in path.ancestors().chain(real.ancestors()).filter(|one| !one.as_os_str().is_empty()) {
        let meta = fs::symlink_metadata(one).map_err(|error| invalid(error.to_string()))?;
        let owner = meta.uid();
        if owner != 0 && owner != us {
            return Err(invalid(format!("{} belongs to another user (chown root {})", one.display(), one.display())));
        }
        let guarded = meta.is_dir() && meta.mode() & STICKY != 0;
        if !meta.is_symlink() && meta.mode() & 0o022 != 0 && !guarded {
            return Err(invalid(format!("others can write {} (chmod go-w {})", one.display(), one.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn only_what_nobody_else_can_change_is_run() -> Outcome {
        let dir = tempfile::tempdir()?;
        let dirs = [dir.path().to_owned()];
        let missing = toolkit(&dirs, "etcd").expect_err("nothing there").to_string();
        assert!(missing.contains("there is no toolkit etcd"), "{missing}");
        let path = dir.path().join("etcd");
        fs::write(&path, "")?;
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        mode(&path, 0o644)?;
        assert!(toolkit(&dirs, "etcd").is_err_and(|why| why.to_string().contains("chmod 755")));
        mode(&path, 0o755)?;
        assert_eq!(toolkit(&dirs, "etcd")?, path);
        for bad in [0o775, 0o757] {
            mode(&path, bad)?;
            assert!(toolkit(&dirs, "etcd").is_err_and(|why| why.to_string().contains("chmod go-w")), "{bad:o}");
        }
        mode(&path, 0o755)?;
        mode(dir.path(), 0o777)?;
        assert!(toolkit(&dirs, "etcd").is_err_and(|why| why.to_string().contains("others can write")));
        mode(dir.path(), 0o755)?;
        assert_eq!(all(&dirs).into_keys().collect::<Vec<_>>(), ["etcd"]);
        Ok(())
    }

    #[test]
    fn a_link_is_followed_to_what_it_leads_to() -> Outcome {
        let (dir, open) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let path = open.path().join("etcd");
        fs::write(&path, "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::symlink(&path, dir.path().join("etcd"))?;
        let dirs = [dir.path().to_owned()];
        assert!(toolkit(&dirs, "etcd").is_ok());
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777))?;
        assert!(toolkit(&dirs, "etcd").is_err());
        Ok(())
    }
}
