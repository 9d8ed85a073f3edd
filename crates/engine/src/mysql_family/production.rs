//! Talking to production: always through its make's own client, so that authentication, TLS and host lookup are the
//! client's. User and password travel in an option file without a name, which is gone with those who have it open.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::time::Duration;

use pando_host::{Account, ToolError};
use pando_model::SourceUrl;

use super::install::{Installation, Programs};
use super::io as failed;
use crate::EngineError;
use crate::ask::{PATIENCE, ask};

/// The address of production as an option file of the clients.
pub fn options(programs: &Programs, url: &SourceUrl) -> String {
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
    for name in ["ssl-ca", "ssl-cert", "ssl-key"] {
        if let Some(value) = url.query.get(name) {
            put(name, value);
        }
    }
    for (name, value) in (programs.secure)(url) {
        put(name, &value);
    }
    text
}

/// Runs SQL on production; rows as lines, columns with tabs between them.
pub fn query(
    installation: &Installation,
    account: Option<&Account>,
    url: &SourceUrl,
    sql: &str,
) -> Result<String, EngineError> {
    query_within(installation, account, url, PATIENCE, sql)
}

/// The same, where it may take so long.
pub fn query_within(
    installation: &Installation,
    account: Option<&Account>,
    url: &SourceUrl,
    time: Duration,
    sql: &str,
) -> Result<String, EngineError> {
    let file = unnamed(&options(installation.programs, url), account).map_err(failed("writing an option file"))?;
    let client = installation
        .client()?
        .command()
        .input(file)
        .arg("--defaults-file=/dev/stdin")
        .args(["--connect-timeout=10", "--batch", "--skip-column-names", "--execute", sql])
        .account(account);
    ask(&client, url, time, short)
}

/// A file in memory that has no name, private to the account: no crash leaves it anywhere.
fn unnamed(text: &str, account: Option<&Account>) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("options", rustix::fs::MemfdFlags::CLOEXEC)?);
    // Clients leave out a file that anybody may write to.
    file.set_permissions(Permissions::from_mode(0o600))?;
    if let Some(account) = account.filter(|_| Account::is_root()) {
        fchown(&file, Some(account.uid), Some(account.gid))?;
    }
    file.write_all(text.as_bytes())?;
    Ok(file)
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

/// Whether production's own words for what went wrong hold a sign.
pub fn says(error: &EngineError, sign: &str) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.to_string().contains(sign))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use pando_testkit::tools;

    use super::super::install::Installations;
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;
    use crate::mysql_family::flavor::Flavor;

    #[test]
    fn an_address_becomes_an_option_file_that_quotes_its_values() -> Result<(), pando_model::SourceUrlError> {
        let url: SourceUrl = "mysql://rep:p%22w%5C@db:3307/blog?ssl-ca=/x.pem&ssl-mode=REQUIRED".parse()?;
        for (programs, tls) in [
            (&Mariadb::PROGRAMS, "ssl-ca=\"/x.pem\"\nssl-verify-server-cert=\"0\"\n"),
            (&Mysql::PROGRAMS, "ssl-ca=\"/x.pem\"\nloose-get-server-public-key=\"1\"\nssl-mode=\"REQUIRED\"\n"),
        ] {
            let text = options(programs, &url);
            assert!(text.contains("host=\"db\"\nport=\"3307\"\n") && text.ends_with(tls), "{text}");
            assert!(text.contains("password=\"p\\\"w\\\\\"\n"), "{text}");
            let local: SourceUrl = "mysql:///blog?socket=/run/mysqld/mysqld.sock".parse()?;
            assert!(options(programs, &local).contains("socket=\"/run/mysqld/mysqld.sock\"\nprotocol=\"socket\""));
        }
        Ok(())
    }

    #[test]
    fn a_production_that_falls_silent_is_given_up() {
        let extra: Vec<_> = tools::all_mariadb().into_values().chain(tools::mysql()).collect();
        for (programs, scheme) in [(&Mariadb::PROGRAMS, "mariadb"), (&Mysql::PROGRAMS, "mysql")] {
            let installations = Installations::find(programs, &extra);
            let Some(installation) = installations.newest() else {
                tools::skip("a server of each make");
                continue;
            };
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 2000];
                // Protocol 10, a thread, a salt, no TLS, a way to log in that needs no more words without a password.
                let greeting = [
                    b"\x0a8.4.0\0\x01\0\0\0saltsalt\0\xff\xf7\x2d\x02\0\x08\0\x15".as_slice(),
                    &[0; 10],
                    b"saltsaltsalt\0mysql_native_password\0",
                ]
                .concat();
                let length = u8::try_from(greeting.len()).unwrap();
                stream.write_all(&[&[length, 0, 0, 0], greeting.as_slice()].concat()).unwrap();
                let _ = stream.read(&mut asked).unwrap();
                // You are in. Whatever is asked then is read, and that is all.
                stream.write_all(&[7, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0]).unwrap();
                while stream.read(&mut asked).is_ok_and(|read| read > 0) {}
            });
            let url: SourceUrl = format!("{scheme}://rep@127.0.0.1:{port}/blog").parse().unwrap();
            let silent = query_within(installation, None, &url, Duration::from_secs(2), "SELECT 1").unwrap_err();
            let why = std::error::Error::source(&silent).map(ToString::to_string);
            assert_eq!(why.as_deref(), Some("it has not answered within 2 s"), "{scheme}");
        }
    }
}
