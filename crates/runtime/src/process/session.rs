//! Starts the first process of a unit: in a session of its own, cut off from the daemon's terminal and
//! signals, with output appended to the unit's log. The only unsafe code of the runtime is here.
//!
//! Besides standard output and error, the process inherits one more descriptor of its log that nothing uses.
//! It is the mark by which the census knows a process that has overwritten its environment.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;

use pando_host::idmap::Mapped;
use pando_host::{Confinement, Tool};

use crate::UnitSpec;

/// The variable that holds the unit's id.
pub const UNIT: &str = "PANDO_UNIT";
/// The variable that holds the home whose runtime started it.
pub const HOME: &str = "PANDO_HOME";

/// Starts it.
#[allow(unsafe_code, reason = "std has no safe way to run setsid between fork and exec")]
pub fn spawn(spec: &UnitSpec, home: &Path, log: File) -> io::Result<Child> {
    check(spec)?;
    let mapped = match (&spec.idmap, &spec.account) {
        (Some(idmap), Some(account)) => Some(idmap.prepare(account, &spec.dir)?),
        _ => None,
    };
    // Who is to be somebody else becomes that after its mounts are made, which takes root.
    let account = spec.account.as_ref().filter(|_| mapped.is_none());
    let mut command = Tool::at(&spec.program).command().args(&spec.args).dir(&spec.dir).account(account).build();
    // Ours come last, so that no variable of the spec can hide the mark.
    command.envs(&spec.env).env(HOME, home).env(UNIT, spec.id.as_str());
    if let Some(input) = &spec.input {
        command.stdin(readable(input)?);
    }
    command.stdout(log.try_clone()?).stderr(log.try_clone()?);
    let confinement = spec.writes.as_deref().map(Confinement::to).transpose()?;
    let mark = move || {
        rustix::process::setsid()?;
        rustix::io::fcntl_setfd(&log, rustix::io::FdFlags::empty())?;
        // Whoever is confined mounts nothing.
        mapped.as_ref().map_or(Ok(()), Mapped::enter)?;
        confinement.as_ref().map_or(Ok(()), Confinement::enter)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes bare system
    // calls, allocates nothing and takes no lock; turning an errno into an io::Error does not either.
    unsafe { command.pre_exec(mark) };
    command.spawn().map_err(|error| explain(spec, error))
}

/// A file without a name that holds the text: unlike a pipe it needs nobody who writes while it is read.
fn readable(text: &str) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn check(spec: &UnitSpec) -> io::Result<()> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if spec.container.is_some() {
        return wrong("it is to run in a container".into());
    }
    if !spec.program.is_absolute() {
        return wrong("the program's path is not absolute".into());
    }
    // The value is left out: it may be a secret.
    if let Some((name, _)) =
        spec.env.iter().find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
    {
        return wrong(format!("the environment variable {name:?} cannot be passed on"));
    }
    Ok(())
}

/// A missing directory looks like a missing program.
fn explain(spec: &UnitSpec, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound && !spec.dir.is_dir() {
        return io::Error::new(error.kind(), format!("its working directory {} is not there", spec.dir.display()));
    }
    error
}
