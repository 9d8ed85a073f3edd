//! What happens inside a clone's server before anybody may enter: production's passwords go, what points
//! to production is cut (T-16, T-17), and the clone's own role gets its password.

use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use postgres_protocol::password::scram_sha_256;
use ring::{digest, hmac, pbkdf2};

use super::facts::identifier;
use super::session::{Server, connect, no_way_in, options};
use crate::{Credentials, EngineError};

fn failed(action: &str) -> impl Fn(postgres::Error) -> EngineError + '_ {
    move |source| {
        if source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            return EngineError::Invalid(format!(
                "{action} has to wait for a transaction that does not end, one that is prepared perhaps: end it \
                 (SELECT * FROM pg_prepared_xacts; then COMMIT PREPARED or ROLLBACK PREPARED)"
            ));
        }
        EngineError::Server { action: action.to_owned(), source: Box::new(source) }
    }
}

/// Production's prepared transactions hold their locks here too, for ever.
const IMPATIENT: &str = "SET lock_timeout = '10s'";

/// Set for a database that nobody may enter, in the transaction that opens it, until it is closed again.
const OPENED: &str = "pando.opened";

/// What is cut in catalogs that all databases share: login passwords, and the subscriptions' way to production.
const CUT_SHARED: [(&str, &str); 2] = [
    ("pg_authid", "UPDATE pg_catalog.pg_authid SET rolpassword = NULL WHERE rolpassword IS NOT NULL"),
    (
        "pg_subscription",
        "UPDATE pg_catalog.pg_subscription SET subenabled = false, subconninfo = '', subslotname = NULL",
    ),
];

/// What is cut in each database: what foreign servers would log in with, and what `ANALYZE` has seen of all that is secret.
/// Its rows stay, emptied: a cut that is made again finds that they were there.
const CUT_LOCAL: [(&str, &str); 2] = [
    ("pg_user_mapping", "UPDATE pg_catalog.pg_user_mapping SET umoptions = NULL WHERE umoptions IS NOT NULL"),
    (
        "pg_statistic",
        "UPDATE pg_catalog.pg_statistic SET stakind1 = 0, stakind2 = 0, stakind3 = 0, stakind4 = 0, stakind5 = 0,
            stanumbers1 = NULL, stanumbers2 = NULL, stanumbers3 = NULL, stanumbers4 = NULL, stanumbers5 = NULL,
            stavalues1 = NULL, stavalues2 = NULL, stavalues3 = NULL, stavalues4 = NULL, stavalues5 = NULL
         WHERE starelid = ANY (ARRAY['pg_catalog.pg_authid', 'pg_catalog.pg_subscription', 'pg_catalog.pg_user_mapping',
            'pg_catalog.pg_foreign_server']::pg_catalog.regclass[])",
    ),
];

/// Written anew whatever was cut: of these, what production has dropped or changed is in the pages, too, and after a cut
/// that was interrupted what that one has changed. They are small.
const REWRITTEN_SHARED: [&str; 2] = ["pg_authid", "pg_subscription"];
const REWRITTEN_LOCAL: [&str; 2] = ["pg_user_mapping", "pg_foreign_server"];

/// Cuts, and rewrites: the old rows would stay in the pages, for a superuser to read.
fn apply(client: &mut Client, cuts: &[(&str, &str)], rewritten: &[&str]) -> Result<(), postgres::Error> {
    client.batch_execute(IMPATIENT)?;
    for (table, update) in cuts {
        let cut = client.execute(*update, &[])? > 0;
        if cut && !rewritten.contains(table) {
            rewrite(client, table)?;
        }
    }
    rewritten.iter().try_for_each(|table| rewrite(client, table))
}

fn rewrite(client: &mut Client, table: &str) -> Result<(), postgres::Error> {
    client.batch_execute(&format!("VACUUM (FULL) pg_catalog.{table}"))
}

/// Cuts what points to production, in all databases, also in those that nobody may enter: they are opened for it.
///
/// # Crash consistency
/// A database that is opened says so itself, in the same transaction: one that a crash leaves open is closed when the cut
/// is made again, and before that no tree is handed out.
pub fn cut(client: &mut Client, server: &Server) -> Result<(), EngineError> {
    let action = failed("cutting a clone off production");
    client.batch_execute("SET session_replication_role = replica").map_err(&action)?;
    apply(client, &CUT_SHARED, &REWRITTEN_SHARED).map_err(&action)?;
    // What a DROP DATABASE left that was interrupted cannot be entered nor opened.
    for row in
        client.query("SELECT datname FROM pg_catalog.pg_database WHERE datconnlimit = -2", &[]).map_err(&action)?
    {
        client.batch_execute(&format!("DROP DATABASE {}", identifier(row.get(0)))).map_err(&action)?;
    }
    let asked = format!(
        "SELECT datname, NOT datallowconn OR EXISTS (
            SELECT FROM pg_catalog.pg_db_role_setting
            WHERE setdatabase = d.oid AND setrole = 0 AND '{OPENED}=on' = ANY (setconfig))
         FROM pg_catalog.pg_database d WHERE datname <> 'template0'"
    );
    for row in client.query(&asked, &[]).map_err(&action)? {
        let (database, closed): (&str, bool) = (row.get(0), row.get(1));
        let cut = || apply(&mut connect(server, database)?, &CUT_LOCAL, &REWRITTEN_LOCAL);
        let done = if closed { opened(client, database, cut) } else { cut() };
        done.map_err(&action)?;
    }
    // The segment of the log has production's own statements, to the last one. Of a tree that is stopped and leaves, the
    // one alone is kept that it was stopped in.
    client.batch_execute("SELECT pg_catalog.pg_switch_wal()").map_err(&action)
}

/// Does something in a database that nobody may enter, which is closed again whatever becomes of it.
fn opened(
    client: &mut Client,
    database: &str,
    work: impl FnOnce() -> Result<(), postgres::Error>,
) -> Result<(), postgres::Error> {
    let name = identifier(database);
    // Statements that are sent together are one transaction.
    client.batch_execute(&format!(
        "ALTER DATABASE {name} SET {OPENED} = on; ALTER DATABASE {name} ALLOW_CONNECTIONS true"
    ))?;
    let done = work();
    let closed = client
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false; ALTER DATABASE {name} RESET {OPENED}"));
    done.and(closed)
}

/// Gives the clone's own superuser its password.
pub fn let_in(client: &mut Client, who: &Credentials) -> Result<(), EngineError> {
    let action = failed("setting a clone's password");
    let role = identifier(&who.user);
    // The verifier is made here, so that the password itself reaches no server log.
    let verifier = verifier(who);
    // A failing statement must not put even the verifier into the server's log.
    client.batch_execute("SET log_min_error_statement = panic; SET log_statement = none").map_err(&action)?;
    client.batch_execute(IMPATIENT).map_err(&action)?;
    let rights = "SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS LOGIN CONNECTION LIMIT -1 VALID UNTIL 'infinity'";
    let altered = client.batch_execute(&format!("ALTER ROLE {role} {rights} PASSWORD '{verifier}'"));
    match altered {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
            client.batch_execute(&format!("CREATE ROLE {role} {rights} PASSWORD '{verifier}'")).map_err(&action)
        }
        other => other.map_err(&action),
    }
}

/// What the server keeps of a password.
fn verifier(who: &Credentials) -> String {
    const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);
    let password = who.password.reveal();
    // Other letters may be written in several ways, of which one is the right one (RFC 4013).
    let Some(salt) = who.salt.filter(|_| password.bytes().all(|byte| (b' '..=b'~').contains(&byte))) else {
        return scram_sha_256(password.as_bytes());
    };
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, password.as_bytes(), &mut salted);
    let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let (client, server) = (hmac::sign(&salted, b"Client Key"), hmac::sign(&salted, b"Server Key"));
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    format!("SCRAM-SHA-256$4096:{}${}:{}", text(&salt), text(stored.as_ref()), text(server.as_ref()))
}

/// Makes the server read its configuration again.
pub fn reload(client: &mut Client) -> Result<(), EngineError> {
    client.batch_execute("SELECT pg_catalog.pg_reload_conf()").map_err(failed("opening a clone's door"))
}

/// A query through the door a user comes in by. The door may need a moment after a reload.
pub fn knock(server: &Server, database: &str, who: &Credentials, attempts: u32) -> Result<(), EngineError> {
    let attempt = || -> Result<Client, postgres::Error> {
        let mut client = Config::new()
            .host("127.0.0.1")
            .port(server.port)
            .user(&who.user)
            .password(who.password.reveal())
            .dbname(database)
            .options(&options(server.major, true))
            .connect_timeout(Duration::from_secs(5))
            .connect(NoTls)?;
        client.batch_execute("SELECT 1")?;
        Ok(client)
    };
    let mut left = attempts;
    loop {
        match attempt() {
            Ok(_) => return Ok(()),
            // Let in, but at this moment the database was not there, or is closed.
            Err(error) if no_way_in(&error) => return Ok(()),
            Err(error) if left == 0 => return Err(failed("asking a clone a first query")(error)),
            Err(_) => left -= 1,
        }
        pando_host::Clock::sleep(&pando_host::SystemClock, Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_with_a_given_salt_is_kept_as_the_server_would_keep_it() {
        // RFC 7677's example.
        let salt: [u8; 16] = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let mut who =
            Credentials { user: "user".into(), password: pando_host::secret::Secret::new("pencil"), salt: Some(salt) };
        let expected = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                        wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(verifier(&who), expected);
        who.salt = None;
        assert_ne!(verifier(&who), verifier(&who));
    }
}
