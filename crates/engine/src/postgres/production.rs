//! Talking to production: always through `psql`, so that authentication, TLS and host lookup are decided
//! by the same libpq that `pg_basebackup` and the standby's receiver use. The password travels in the
//! environment only.

use pando_host::{Account, Finished, Tool, ToolError};
use pando_model::SourceUrl;

use super::install::Installation;
use crate::EngineError;

/// A value quoted for a libpq connection string.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The libpq connection string of a source, without its password. `more` comes last and wins.
pub fn conninfo(url: &SourceUrl, more: &[(&str, &str)]) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: &str| {
        parts.retain(|(known, _)| known != name);
        parts.push((name.to_owned(), value.to_owned()));
    };
    put("connect_timeout", "10");
    for (name, value) in &url.query {
        put(name, value);
    }
    if let Some(host) = &url.host {
        put("host", host);
    }
    if let Some(port) = url.port {
        put("port", &port.to_string());
    }
    if let Some(user) = &url.user {
        put("user", user);
    }
    for (name, value) in more {
        put(name, value);
    }
    let words: Vec<String> = parts.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    words.join(" ")
}

/// Runs SQL on production and answers what it printed, unaligned, rows by line.
pub fn query(
    installation: &Installation,
    account: Option<&Account>,
    url: &SourceUrl,
    sql: &str,
) -> Result<String, EngineError> {
    let database = url.database().or(url.user.as_deref()).unwrap_or("postgres");
    run(installation, account, url, &conninfo(url, &[("dbname", database), ("application_name", "pando")]), sql)
}

/// The same in a session that is known by a name of its own.
pub fn query_as(
    psql: &Tool,
    account: Option<&Account>,
    url: &SourceUrl,
    session: &str,
    sql: &str,
) -> Result<String, EngineError> {
    let database = url.database().or(url.user.as_deref()).unwrap_or("postgres");
    run_by(psql, account, url, &conninfo(url, &[("dbname", database), ("application_name", session)]), sql)
}

/// Runs a command of the replication protocol on production.
pub fn replication(
    installation: &Installation,
    account: Option<&Account>,
    url: &SourceUrl,
    command: &str,
) -> Result<String, EngineError> {
    let conninfo = conninfo(url, &[("replication", "true"), ("application_name", "pando"), ("dbname", "replication")]);
    run(installation, account, url, &conninfo, command)
}

fn run(
    installation: &Installation,
    account: Option<&Account>,
    url: &SourceUrl,
    conninfo: &str,
    sql: &str,
) -> Result<String, EngineError> {
    run_by(&installation.tool("psql")?, account, url, conninfo, sql)
}

fn run_by(
    psql: &Tool,
    account: Option<&Account>,
    url: &SourceUrl,
    conninfo: &str,
    sql: &str,
) -> Result<String, EngineError> {
    let mut command = psql
        .command()
        .args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password"])
        .args(["--set", "ON_ERROR_STOP=1", "--dbname", conninfo, "--command", sql])
        .account(account);
    if let Some(password) = &url.password {
        command = command.env("PGPASSWORD", password);
    }
    command.run().map(|finished: Finished| finished.text().trim().to_owned()).map_err(|error| EngineError::Server {
        action: format!("asking production at {url}"),
        source: Box::new(short(error)),
    })
}

/// libpq repeats itself over several lines; the first that says something is enough.
fn short(error: ToolError) -> ToolError {
    match error {
        ToolError::Failed { program, status, stderr } => {
            let line = stderr.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            let more =
                stderr.lines().map(str::trim).skip(1).find(|line| line.contains("FATAL") || line.contains("ERROR"));
            let stderr = match more {
                Some(more) if !line.contains("FATAL") && !line.contains("ERROR") => format!("{line} {more}"),
                _ => line.to_owned(),
            };
            ToolError::Failed { program, status, stderr }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_quotes_its_values_and_has_no_password() -> Result<(), pando_model::SourceUrlError> {
        let url: SourceUrl = "postgres://o%27neil:secret@db:5433/shop?sslmode=require".parse()?;
        let text = conninfo(&url, &[("dbname", "shop")]);
        assert_eq!(text, "connect_timeout='10' sslmode='require' host='db' port='5433' user='o\\'neil' dbname='shop'");
        assert!(!text.contains("secret"));
        Ok(())
    }
}
