//! Connections that are kept: servers are asked some times a second. What fails is thrown away.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::client::{Client, ClientError};

/// Connections by the directory of a server's socket, or by a source's tag.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<PathBuf, Client>>);

impl Sessions {
    /// Uses the kept connection, or a new one where there is none, or where it turns out to be dead.
    pub fn with<T>(
        &self,
        whose: &Path,
        connect: impl Fn() -> Result<Client, ClientError>,
        work: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(whose);
        // A server may have been restarted since: a question that changes nothing tells.
        let kept = kept.and_then(|mut client| match client.call(&["PING"]) {
            Ok(_) | Err(ClientError::Refused(_)) => Some(client),
            Err(_) => None,
        });
        let mut client = match kept {
            Some(client) => client,
            None => connect()?,
        };
        let answer = work(&mut client);
        if matches!(answer, Ok(_) | Err(ClientError::Refused(_))) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(whose.to_owned(), client);
        }
        answer
    }

    /// Closes the kept connection.
    pub fn drop(&self, whose: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(whose);
    }
}
