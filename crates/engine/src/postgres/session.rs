//! Connections to Pando's own servers, over their private unix sockets. A mirror's connection is kept,
//! because it is asked every second; what fails is thrown away and made again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};

use crate::EngineError;

/// Connects through the socket in `run`.
pub fn connect(run: &Path, port: u16, user: &str, database: &str) -> Result<Client, postgres::Error> {
    Config::new()
        .host_path(run)
        .port(port)
        .user(user)
        .dbname(database)
        .application_name("pando")
        .connect_timeout(Duration::from_secs(5))
        .connect(NoTls)
}

/// Connects to a database, or where it is not there to one that every cluster has.
pub fn connect_somewhere(run: &Path, port: u16, user: &str, database: &str) -> Result<Client, postgres::Error> {
    let mut tried = connect(run, port, user, database);
    for other in ["postgres", "template1"] {
        match &tried {
            Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => {
                tried = connect(run, port, user, other);
            }
            _ => break,
        }
    }
    tried
}

/// Whether somebody could listen: without the socket's file a try is a waste of time.
pub fn socket_there(run: &Path, port: u16) -> bool {
    run.join(format!(".s.PGSQL.{port}")).exists()
}

/// Connections that are kept, by socket directory.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<PathBuf, Client>>);

impl Sessions {
    /// Uses the kept connection to the server whose socket is in `run`, or a new one.
    pub fn with<T>(
        &self,
        run: &Path,
        port: u16,
        user: &str,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, EngineError> {
        let failed = |source: postgres::Error| EngineError::Server {
            action: "asking Pando's own server".to_owned(),
            source: Box::new(source),
        };
        let kept =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(run).filter(|client| !client.is_closed());
        let mut client = match kept {
            Some(client) => client,
            None => connect_somewhere(run, port, user, "postgres").map_err(failed)?,
        };
        let answer = work(&mut client).map_err(failed)?;
        self.keep(run, client);
        Ok(answer)
    }

    /// Keeps a connection for the next who needs it.
    pub fn keep(&self, run: &Path, client: Client) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(run.to_owned(), client);
    }

    /// The kept connection, if there is one that is open. Nobody else has it then.
    pub fn take(&self, run: &Path) -> Option<Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(run).filter(|client| !client.is_closed())
    }

    /// Closes the kept connection, so that the server can stop at once.
    pub fn drop(&self, run: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}
