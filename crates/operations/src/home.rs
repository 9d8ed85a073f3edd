//! A home's layout, and the account its units run as.
//!
//! ```text
//! HOME/ catalog.db  secret.key  token  pool.json  boot  hook-accounts  log/OWNER/SOURCE/  clones/NAME/SOURCE ▶ the tree
//!       pool/ or pool.img  units/  run/pando.sock
//! RUN/  a short path for sockets and passing files, on a file system that a reboot empties where there is one
//! ```

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pando_host::clock::random;
use pando_host::durable::write_atomic;
use pando_host::{Account, Tool};
use pando_model::{Name, OwnerId, Problem};

use crate::fault::{failed, io as io_problem};

/// The name of the account that units run as when the daemon is root.
const ACCOUNT: &str = "pando";
/// The name of the account that hooks run as then. It owns nothing.
const HOOK_ACCOUNT: &str = "pando-hook";

/// Where everything of one home lies.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
    run: PathBuf,
}

impl Home {
    /// Makes the home's directories where they are missing.
    pub fn open(root: &Path) -> Result<Self, Problem> {
        let failed = |error: io::Error| io_problem(&format!("making the home {}", root.display()), error);
        fs::create_dir_all(root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        for dir in ["log", "clones", "run"] {
            fs::create_dir_all(root.join(dir)).map_err(failed)?;
        }
        let run = run_dir(&root);
        fs::create_dir_all(&run).map_err(failed)?;
        if Account::is_root() {
            // Units run as another account: it must be able to pass, not to list.
            for dir in [root.as_path(), &root.join("log"), &root.join("clones"), &run] {
                fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).map_err(failed)?;
            }
        } else {
            fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let home = Self { root, run };
        if fs::metadata(home.token_file()).is_err() {
            let token: String = random::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
            write_atomic(&home.token_file(), token.as_bytes(), 0o600).map_err(failed)?;
        }
        Ok(home)
    }

    /// The home itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The SQLite file.
    pub fn catalog_file(&self) -> PathBuf {
        self.root.join("catalog.db")
    }

    /// The key that secrets are encrypted with.
    pub fn key_file(&self) -> PathBuf {
        self.root.join("secret.key")
    }

    /// The bearer token of the TCP listener.
    pub fn token_file(&self) -> PathBuf {
        self.root.join("token")
    }

    /// What pool was chosen.
    pub fn pool_file(&self) -> PathBuf {
        self.root.join("pool.json")
    }

    /// The boot that the daemon last ran in.
    pub fn boot_file(&self) -> PathBuf {
        self.root.join("boot")
    }

    /// Where toolkits are looked for: the home's own, then those of packages.
    pub fn toolkits(&self) -> Vec<PathBuf> {
        vec![self.root.join("toolkits"), PathBuf::from("/usr/lib/pando/toolkits")]
    }

    /// The blobs of images with data in them.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// A source's change log.
    pub fn log(&self, owner: &OwnerId, source: &Name) -> PathBuf {
        self.log_of(owner).join(source.as_str())
    }

    /// All change logs of an owner.
    pub fn log_of(&self, owner: &OwnerId) -> PathBuf {
        self.root.join("log").join(owner.as_str())
    }

    /// The stable place of a clone's sources: links that refresh swaps.
    pub fn clone_dir(&self, clone: &Name) -> PathBuf {
        self.root.join("clones").join(clone.as_str())
    }

    /// Where the directories of sockets are.
    pub fn sockets(&self) -> &Path {
        &self.run
    }

    /// The directory of a unit's sockets.
    pub fn run(&self, seat: &str) -> PathBuf {
        self.run.join(seat)
    }

    /// Removes the directory of all sockets, if no unit has one: it lies outside of the home, and nobody would
    /// think of removing it with the home.
    pub fn leave(&self) {
        // Not empty: units go on.
        let _ = fs::remove_dir(&self.run);
    }

    /// The accounts that hooks may name.
    pub fn hook_accounts(&self) -> PathBuf {
        self.root.join("hook-accounts")
    }

    /// The account that units run as: made when root and missing.
    pub fn account(&self) -> Result<Option<Account>, Problem> {
        if !Account::is_root() {
            return Ok(None);
        }
        system_account(ACCOUNT)
    }

    /// The account that hooks run as which name none, where the daemon is root.
    pub fn hook_account(&self) -> Result<Account, Problem> {
        system_account(HOOK_ACCOUNT)?.ok_or_else(|| failed(format!("there is no account {HOOK_ACCOUNT}")))
    }

    /// Whether the account can reach what lies under HOME.
    pub fn reachable(&self, account: Option<&Account>) -> Result<(), Problem> {
        let Some(account) = account else { return Ok(()) };
        let passes = |meta: &fs::Metadata| {
            let mode = meta.mode();
            mode & 0o001 != 0
                || (meta.uid() == account.uid && mode & 0o100 != 0)
                || (meta.gid() == account.gid && mode & 0o010 != 0)
        };
        match shut(&[&self.root, &self.run], passes) {
            None => Ok(()),
            Some(dir) => Err(failed(format!("servers run as the account {}, which cannot pass {dir}", account.name))
                .hint(format!("choose another --home such as /var/lib/pando, or: chmod o+x {dir}"))),
        }
    }
}

/// The first directory on the way to these that does not let somebody pass.
fn shut(to: &[&Path], passes: impl Fn(&fs::Metadata) -> bool) -> Option<String> {
    let dirs = to.iter().flat_map(|path| path.ancestors());
    dirs.filter(|dir| fs::metadata(dir).is_ok_and(|meta| !passes(&meta))).map(|dir| dir.display().to_string()).next()
}

/// The first directory on the way to these that does not let everybody pass.
pub fn shut_to_others(to: &[&Path]) -> Option<String> {
    shut(to, |meta| meta.mode() & 0o001 != 0)
}

/// A system account of that name, made when missing; `nobody` where it cannot be made.
fn system_account(name: &str) -> Result<Option<Account>, Problem> {
    let look = || Account::named(name).map_err(|error| io_problem("reading /etc/passwd", error));
    if look()?.is_none() {
        let made = Tool::find("useradd", "passwd").and_then(|tool| {
            tool.command()
                .args(["--system", "--no-create-home", "--home-dir", "/nonexistent"])
                .args(["--shell", "/usr/sbin/nologin", "--user-group", "--", name])
                .run()
        });
        if let Err(error) = made {
            tracing::warn!(%error, "the account {name} could not be made; nobody takes its place");
        }
    }
    match look()? {
        Some(account) => Ok(Some(account)),
        None => Account::named("nobody").map_err(|error| io_problem("reading /etc/passwd", error)),
    }
}

/// Where a home's sockets lie: unix sockets have at most 107 characters in their path, so they cannot lie under
/// any HOME. `root` is the home's canonical path. Makes the directory.
pub fn run_dir(root: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    let tag = format!("{:012x}", hasher.finish() & 0xffff_ffff_ffff);
    let uid = rustix_uid();
    let bases = if Account::is_root() {
        vec![PathBuf::from("/run")]
    } else {
        vec![PathBuf::from(format!("/run/user/{uid}")), PathBuf::from("/dev/shm")]
    };
    let writable = |base: &PathBuf| {
        let probe = base.join(format!("pando-{uid}-{tag}"));
        fs::create_dir_all(&probe).is_ok() && fs::metadata(&probe).is_ok_and(|meta| meta.uid() == uid)
    };
    bases.into_iter().find(writable).unwrap_or_else(|| PathBuf::from("/tmp")).join(format!("pando-{uid}-{tag}"))
}

fn rustix_uid() -> u32 {
    Account::current().map_or(0, |account| account.uid)
}
