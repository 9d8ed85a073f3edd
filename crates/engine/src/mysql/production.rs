//! Talking to production: always through `mysql`, so that authentication, TLS and host lookup are the client's. User
//! and password travel in an option file of mode 0600 that lives as long as the question.

use pando_host::secret::Secret;
use pando_host::{Account, Tool, ToolError, durable};
use pando_model::SourceUrl;

use crate::{EngineError, seat};

/// The address of production as an option file of the clients.
pub fn options(url: &SourceUrl) -> String {
    let mut text = String::from("[client]\n");
    let mut put = |name: &str, value: &str| {
        text.push_str(&format!("{name}=\"{}\"\n", value.replace('\\', "\\\\").replace('"', "\\\"")));
    };
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
    // Where there is no TLS a password is encrypted with the server's own key.
    put("loose-get-server-public-key", "1");
    for name in ["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key"] {
        if let Some(value) = url.query.get(name) {
            put(name, value);
        }
    }
    text
}

/// Runs SQL on production; rows as lines, columns with tabs between them.
pub fn query(client: &Tool, account: Option<&Account>, url: &SourceUrl, sql: &str) -> Result<String, EngineError> {
    let path = std::env::temp_dir().join(format!(".pando-{}.cnf", Secret::generate().reveal()));
    seat::write(&path, &options(url), account)?;
    let done = client
        .command()
        .arg(format!("--defaults-file={}", path.display()))
        .args(["--connect-timeout=10", "--batch", "--skip-column-names", "--execute", sql])
        .account(account)
        .run()
        .map(|finished| finished.text());
    if let Err(error) = durable::remove_if_there(&path) {
        tracing::warn!(%error, "an option file could not be removed");
    }
    done.map_err(|error| EngineError::Server {
        action: format!("asking production at {url}"),
        source: Box::new(short(error)),
    })
}

/// The line that says why; before it stands the statement.
fn short(error: ToolError) -> ToolError {
    match error {
        ToolError::Failed { program, status, stderr } => {
            let line = stderr.lines().find(|line| line.starts_with("ERROR")).unwrap_or(stderr.trim()).to_owned();
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
        let url: SourceUrl = "mysql://rep:p%22w%5C@db:3307/blog?ssl-mode=REQUIRED".parse()?;
        let text = options(&url);
        assert!(text.contains("host=\"db\"\nport=\"3307\"\n") && text.contains("password=\"p\\\"w\\\\\"\n"), "{text}");
        assert!(text.contains("ssl-mode=\"REQUIRED\"\n"));
        let local: SourceUrl = "mysql:///blog?socket=/run/mysqld/mysqld.sock".parse()?;
        assert!(options(&local).contains("socket=\"/run/mysqld/mysqld.sock\"\nprotocol=\"socket\""));
        Ok(())
    }
}
