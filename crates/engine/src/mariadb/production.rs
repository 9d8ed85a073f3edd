//! Talking to production: always through `mariadb`, so that authentication, TLS and host lookup are the client's.
//! User and password travel in an option file of mode 0600 that lives as long as the question.

use std::path::{Path, PathBuf};

use pando_host::secret::Secret;
use pando_host::{Account, ToolError, durable};
use pando_model::SourceUrl;

use super::install::Installation;
use crate::{EngineError, seat};

/// A value quoted for an option file.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The address of production as an option file of the clients.
pub fn options(url: &SourceUrl) -> String {
    let mut lines = vec!["[client]".to_owned()];
    let mut put = |name: &str, value: &str| lines.push(format!("{name}={}", quoted(value)));
    match (&url.host, url.query.get("socket")) {
        (_, Some(socket)) => {
            put("socket", socket);
            put("protocol", "socket");
        }
        (host, None) => {
            put("host", host.as_deref().unwrap_or("127.0.0.1"));
            put("port", &url.port.unwrap_or(3306).to_string());
            put("protocol", "tcp");
        }
    }
    put("user", url.user.as_deref().unwrap_or("root"));
    put("password", url.password.as_deref().unwrap_or_default());
    for name in ["ssl", "ssl-ca", "ssl-cert", "ssl-key"] {
        if let Some(value) = url.query.get(name) {
            put(name, value);
        }
    }
    // Newer clients would refuse a production without TLS if they were not told.
    put("ssl-verify-server-cert", if verifies(url) { "1" } else { "0" });
    lines.push(String::new());
    lines.join("\n")
}

/// Whether the server's certificate must be the one of its name.
pub fn verifies(url: &SourceUrl) -> bool {
    url.query.get("ssl-verify-server-cert").is_some_and(|value| !matches!(value.as_str(), "0" | "off" | "false"))
}

/// An option file, gone when dropped.
struct Options(PathBuf);

impl Options {
    fn write(url: &SourceUrl, account: Option<&Account>) -> Result<Self, EngineError> {
        let path = std::env::temp_dir().join(format!(".pando-{}.cnf", Secret::generate().reveal()));
        let file = Self(path);
        seat::write(&file.0, &options(url), account)?;
        Ok(file)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_if_there(&self.0) {
            tracing::warn!(%error, "an option file could not be removed");
        }
    }
}

/// Runs SQL on production; rows as lines, columns with tabs between them.
pub fn query(
    installation: &Installation,
    account: Option<&Account>,
    url: &SourceUrl,
    sql: &str,
) -> Result<String, EngineError> {
    let options = Options::write(url, account)?;
    let done = client(installation, &options.0)?
        .args(["--connect-timeout=10", "--batch", "--skip-column-names", "--execute", sql])
        .account(account)
        .run()
        .map(|finished| finished.text());
    done.map_err(|error| EngineError::Server {
        action: format!("asking production at {url}"),
        source: Box::new(short(error)),
    })
}

fn client(installation: &Installation, options: &Path) -> Result<pando_host::ToolCommand, EngineError> {
    Ok(installation.tool("mariadb")?.command().arg(format!("--defaults-file={}", options.display())))
}

/// The line that says why; before it stands the statement.
fn short(error: ToolError) -> ToolError {
    match error {
        ToolError::Failed { program, status, stderr } => {
            let line =
                stderr.lines().find(|line| line.starts_with("ERROR")).unwrap_or_else(|| stderr.trim()).to_owned();
            ToolError::Failed { program, status, stderr: line }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_an_option_file_that_quotes_its_values() -> Result<(), pando_model::SourceUrlError> {
        let url: SourceUrl = "mariadb://rep:p%22w%5C@db:3307/blog?ssl-ca=/x.pem".parse()?;
        let text = options(&url);
        assert!(text.contains("host=\"db\"\nport=\"3307\"\n") && text.contains("password=\"p\\\"w\\\\\"\n"), "{text}");
        assert!(text.contains("ssl-ca=\"/x.pem\"\nssl-verify-server-cert=\"0\"\n"));
        let local: SourceUrl = "mysql:///blog?socket=/run/mysqld/mysqld.sock".parse()?;
        assert!(options(&local).contains("socket=\"/run/mysqld/mysqld.sock\"\nprotocol=\"socket\""));
        Ok(())
    }
}
