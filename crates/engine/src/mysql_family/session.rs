//! Sessions with Pando's own MariaDB and MySQL servers, over their private sockets: kept, because mirrors are asked every second;
//! and the ones that hold a server still while its data is frozen.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wire::{ClientError, Session};
use crate::EngineError;

/// Who Pando is in its own servers.
pub const KEEPER: &str = "pando_keeper";

/// The socket of a server.
pub fn socket(run: &Path) -> PathBuf {
    run.join("s")
}

/// How long a statement may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A failed statement as the engine's error.
pub fn failed(action: &str) -> impl Fn(ClientError) -> EngineError + '_ {
    move |source| EngineError::Server { action: action.to_owned(), source: Box::new(source) }
}

/// A new session.
pub fn connect(run: &Path) -> Result<Session, ClientError> {
    Session::over_socket(&socket(run), KEEPER, "", PATIENCE)
}

/// Whether somebody could listen: without the socket's file a try is a waste of time.
pub fn socket_there(run: &Path) -> bool {
    socket(run).exists()
}

/// Sessions, by socket directory.
#[derive(Default)]
pub struct Sessions {
    kept: Mutex<HashMap<PathBuf, Session>>,
    holding: Mutex<HashMap<PathBuf, Session>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// Uses the kept session, or a new one. One that fails by itself is thrown away.
    pub fn with<T>(
        &self,
        run: &Path,
        mut work: impl FnMut(&mut Session) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let kept = lock(&self.kept).remove(run);
        let mut session = match kept {
            Some(session) => session,
            None => connect(run)?,
        };
        let mut done = work(&mut session);
        if matches!(done, Err(ClientError::Io(_))) {
            // The server was started again since.
            session = connect(run)?;
            done = work(&mut session);
        }
        if !matches!(done, Err(ClientError::Io(_) | ClientError::Protocol(_))) {
            lock(&self.kept).insert(run.to_owned(), session);
        }
        done
    }

    /// Closes what is kept, so that the server can stop at once.
    pub fn drop(&self, run: &Path) {
        lock(&self.kept).remove(run);
        lock(&self.holding).remove(run);
    }

    /// Whether a server is held.
    pub fn is_held(&self, run: &Path) -> bool {
        lock(&self.holding).contains_key(run)
    }

    /// Keeps the session that holds a server.
    pub fn hold(&self, run: &Path, session: Session) {
        lock(&self.holding).insert(run.to_owned(), session);
    }

    /// Takes the session that holds a server.
    pub fn release(&self, run: &Path) -> Option<Session> {
        lock(&self.holding).remove(run)
    }
}
