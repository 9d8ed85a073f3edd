//! Files of a seat: written for the account that the units run as. Not synced: a tree is made again if the machine
//! dies, or it is that of a durable clone, which is settled before it is handed out. That account may have put links
//! there: what is read or written in a seat is opened through [`plain`].

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use pando_host::plain::{self, Dir};
use pando_host::{Account, durable};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::EngineError;

fn failed(what: &str) -> impl Fn(io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: what.to_owned(), source }
}

/// Writes a file of a tree, private to the account.
pub fn write(path: &Path, text: &str, account: Option<&Account>) -> Result<(), EngineError> {
    let action = format!("writing {}", path.file_name().unwrap_or_default().to_string_lossy());
    plain::create(path, account).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed(&action))
}

/// What is noted in a file of a tree, where it is there.
pub fn noted<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EngineError> {
    match plain::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| EngineError::Invalid(format!("{} cannot be read: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("reading a tree's notes")(error)),
    }
}

/// Notes something in a file of a tree.
pub fn note(path: &Path, what: &impl Serialize, account: Option<&Account>) -> Result<(), EngineError> {
    let text = serde_json::to_string(what).map_err(|error| EngineError::Invalid(error.to_string()))?;
    write(path, &text, account)
}

/// Gives one file or directory to the account (only root can, only root needs to).
pub fn own(path: &Path, account: Option<&Account>) -> Result<(), EngineError> {
    match account.filter(|_| Account::is_root()) {
        Some(account) => plain::give(path, account).map_err(failed("handing a file to the unprivileged account")),
        None => Ok(()),
    }
}

/// Makes a directory private to the account, if it is not there.
pub fn private_dir(path: &Path, account: Option<&Account>) -> Result<(), EngineError> {
    fs::create_dir_all(path).map_err(failed("making a directory"))?;
    let dir = Dir::open(path).map_err(failed("making a directory private"))?;
    dir.set_mode(0o700).map_err(failed("making a directory private"))?;
    account
        .filter(|_| Account::is_root())
        .map_or(Ok(()), |account| dir.give(account).map_err(failed("handing a directory to the unprivileged account")))
}

/// Makes the files at the top of directories durable, and that others are gone: what a durable clone is before it is
/// handed out. A crash of the machine would else leave an empty file in the place of one that was just written. Files that
/// nobody wrote to cost nothing.
pub fn settle(dirs: &[&Path]) -> Result<(), EngineError> {
    let action = failed("making a clone's files durable");
    for dir in dirs {
        for entry in fs::read_dir(dir).map_err(&action)? {
            let entry = entry.map_err(&action)?;
            if !entry.file_type().map_err(&action)?.is_file() {
                continue;
            }
            match plain::open(&entry.path()) {
                Ok(file) => file.sync_all().map_err(&action)?,
                // The server's own, which come and go.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(action(error)),
            }
        }
        durable::sync_dir(dir).map_err(&action)?;
    }
    Ok(())
}

/// Removes everything inside a directory.
pub fn empty(path: &Path) -> Result<(), EngineError> {
    let action = failed("emptying a directory");
    let dir = Dir::open(path).map_err(&action)?;
    for entry in fs::read_dir(dir.path()).map_err(&action)? {
        let entry = entry.map_err(&action)?;
        if entry.file_type().map_err(&action)?.is_dir() {
            fs::remove_dir_all(entry.path()).map_err(&action)?;
        } else {
            fs::remove_file(entry.path()).map_err(&action)?;
        }
    }
    Ok(())
}
