//! Talking to production: always through `psql`, so that authentication, TLS and host lookup are decided
//! by the same libpq that `pg_basebackup` and the standby's receiver use. The password travels in the
//! environment only.

use std::time::Duration;

use pando_host::{Account, Tool, ToolError};
use pando_model::SourceUrl;

use super::install::Installation;
use crate::EngineError;
use crate::ask::{PATIENCE, ask};

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
    // A host that has vanished, also behind a balancer that keeps the line.
    put("keepalives_idle", "15");
    put("keepalives_interval", "5");
    put("keepalives_count", "3");
    put("tcp_user_timeout", "30000");
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
    query_as(&installation.tool("psql")?, account, url, ("pando", PATIENCE), sql)
}

/// The same in a session that is known by a name of its own, and may take so long.
pub fn query_as(
    psql: &Tool,
    account: Option<&Account>,
    url: &SourceUrl,
    (session, time): (&str, Duration),
    sql: &str,
) -> Result<String, EngineError> {
    let database = url.database().or(url.user.as_deref()).unwrap_or("postgres");
    run(psql, account, url, &conninfo(url, &[("dbname", database), ("application_name", session)]), time, sql)
}

/// Runs a command of the replication protocol on production.
pub fn replication(
    installation: &Installation,
    account: Option<&Account>,
    url: &SourceUrl,
    command: &str,
) -> Result<String, EngineError> {
    let conninfo = conninfo(url, &[("replication", "true"), ("application_name", "pando"), ("dbname", "replication")]);
    run(&installation.tool("psql")?, account, url, &conninfo, PATIENCE, command)
}

fn run(
    psql: &Tool,
    account: Option<&Account>,
    url: &SourceUrl,
    conninfo: &str,
    time: Duration,
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
    ask(&command, url, time, short).map(|answer| answer.trim().to_owned())
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
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::install::Installations;
    use super::*;

    #[test]
    fn a_connection_string_quotes_its_values_and_has_no_password() -> Result<(), pando_model::SourceUrlError> {
        let url: SourceUrl = "postgres://o%27neil:secret@db:5433/shop?sslmode=require".parse()?;
        let text = conninfo(&url, &[("dbname", "shop")]);
        let (ours, theirs) = text.split_once(" sslmode").unwrap_or_default();
        assert!(ours.starts_with("connect_timeout='10' ") && ours.ends_with(" tcp_user_timeout='30000'"), "{text}");
        assert_eq!(theirs, "='require' host='db' port='5433' user='o\\'neil' dbname='shop'");
        assert!(!text.contains("secret"));
        Ok(())
    }

    #[test]
    fn a_production_that_falls_silent_is_given_up() {
        let installations = Installations::find(&[]);
        let Some(installation) = installations.newest() else {
            pando_testkit::tools::skip("a PostgreSQL server");
            return;
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 2000];
            let _ = stream.read(&mut asked).unwrap();
            // You are in; I am ready. Whatever is asked then is read, and that is all.
            stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
            while stream.read(&mut asked).is_ok_and(|read| read > 0) {}
        });
        let url = format!("postgres://rep@127.0.0.1:{port}/shop?sslmode=disable&gssencmode=disable").parse().unwrap();
        let psql = installation.tool("psql").unwrap();
        let silent = query_as(&psql, None, &url, ("pando", Duration::from_secs(2)), "SELECT 1").unwrap_err();
        let why = std::error::Error::source(&silent).map(ToString::to_string);
        assert_eq!(why.as_deref(), Some("it has not answered within 2 s"));
    }
}
