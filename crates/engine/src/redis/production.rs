//! Production's server: where it is, and how far it is.

use pando_model::SourceUrl;

use super::client::{Client, ClientError};

/// Where a URL says that the server is.
pub fn place(url: &SourceUrl) -> (&str, u16) {
    (url.host.as_deref().unwrap_or("127.0.0.1"), url.port.unwrap_or(6379))
}

/// The number of the database that was linked.
pub fn database(url: &SourceUrl) -> u32 {
    url.path.trim_matches('/').parse().unwrap_or(0)
}

/// Connects and says who we are. `name` shows in production's list of clients.
pub fn connect(url: &SourceUrl, name: &str) -> Result<Client, ClientError> {
    let (host, port) = place(url);
    let mut client = Client::tcp(host, port)?;
    client.login(url.user.as_deref(), url.password.as_deref())?;
    // A courtesy: it may be forbidden.
    match client.call(&["CLIENT", "SETNAME", name]) {
        Ok(_) | Err(ClientError::Refused(_)) => Ok(client),
        Err(error) => Err(error),
    }
}

/// How far production was: what was written before it was asked lies before the offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which history the offset belongs to.
    pub history: String,
    /// Bytes of its replication stream.
    pub offset: u64,
}

/// Asks production how far it is.
pub fn position(client: &mut Client) -> Result<Position, ClientError> {
    let info = client.info(Some("replication"))?;
    let offset = info.get("master_repl_offset").and_then(|text| text.parse().ok()).ok_or(ClientError::Nonsense)?;
    let history = info.get("master_replid").cloned().unwrap_or_default();
    Ok(Position { history, offset })
}
