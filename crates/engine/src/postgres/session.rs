//! Connections to Pando's own servers, over their private unix sockets. A mirror's connection is kept,
//! because it is asked every second; what fails is thrown away and made again.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};

use crate::EngineError;

/// One of Pando's own servers, and who Pando is in it.
#[derive(Debug, Clone)]
pub struct Server {
    /// The directory of its socket.
    pub run: PathBuf,
    /// Its port.
    pub port: u16,
    /// The role that `initdb` made.
    pub user: String,
    /// Its major version.
    pub major: u32,
    /// The database that was linked.
    pub linked: String,
}

/// What production set for a database or a role is meant for its users. Pando's own sessions would fail by it: by a
/// library or a role that is not for them, by a limit of time, by transactions that may not write, or that a standby
/// does not have. What a connection asks for wins.
const OWN: [&str; 9] = [
    "session_preload_libraries=",
    "local_preload_libraries=",
    "role=none",
    "default_transaction_read_only=off",
    "default_transaction_isolation=read\\ committed",
    "default_transaction_deferrable=off",
    "statement_timeout=0",
    "lock_timeout=0",
    "idle_in_transaction_session_timeout=0",
];
/// The same of later versions, which refuse what they do not know.
const OWN_SINCE: [(u32, &str); 2] = [(14, "idle_session_timeout=0"), (17, "transaction_timeout=0")];
/// No statement of Pando's means anything of production's.
const ALONE: [(u32, &str); 3] =
    [(0, "search_path=pg_catalog"), (0, "standard_conforming_strings=on"), (17, "event_triggers=off")];

/// What a session of Pando's own asks for. `alone`: it has nothing to do with what production's users made.
pub fn options(major: u32, alone: bool) -> String {
    let later = OWN_SINCE.iter().chain(ALONE.iter().filter(|_| alone));
    let later = later.filter(|(since, _)| *since <= major).map(|(_, setting)| setting);
    OWN.iter().chain(later).map(|setting| format!("-c {setting}")).collect::<Vec<_>>().join(" ")
}

fn open(server: &Server, database: &str, alone: bool) -> Result<Client, postgres::Error> {
    Config::new()
        .host_path(&server.run)
        .port(server.port)
        .user(&server.user)
        .dbname(database)
        .options(&options(server.major, alone))
        .application_name("pando")
        .connect_timeout(Duration::from_secs(5))
        .connect(NoTls)
}

/// Connects through the server's socket.
pub fn connect(server: &Server, database: &str) -> Result<Client, postgres::Error> {
    open(server, database, true)
}

/// The same for statements of a user's, and for what calls functions of production's: they find names and event triggers
/// as production's sessions do.
pub fn connect_to_work(server: &Server, database: &str) -> Result<Client, postgres::Error> {
    open(server, database, false)
}

/// Connects to a database, or where it is not there or closed to another: the one that was linked, else one that every
/// cluster has.
pub fn connect_somewhere(server: &Server, database: &str) -> Result<Client, postgres::Error> {
    let mut tried = connect(server, database);
    for other in [&server.linked, "postgres", "template1"] {
        match &tried {
            Err(error) if no_way_in(error) => tried = connect(server, other),
            _ => break,
        }
    }
    tried
}

/// Whether it is the database that lets nobody in: it is not there, or allows no connections.
pub fn no_way_in(error: &postgres::Error) -> bool {
    let ways = [&SqlState::INVALID_CATALOG_NAME, &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];
    error.code().is_some_and(|code| ways.contains(&code))
}

/// What is in the way of a server that is starting. Whatever else it refuses it would refuse for ever.
pub fn starting(error: postgres::Error) -> Result<String, EngineError> {
    match error.as_db_error() {
        None => Ok(error.to_string()),
        Some(said) if [SqlState::CANNOT_CONNECT_NOW, SqlState::CRASH_SHUTDOWN].contains(said.code()) => {
            Ok(said.message().to_owned())
        }
        Some(_) => Err(EngineError::Server { action: "entering a clone's server".to_owned(), source: Box::new(error) }),
    }
}

/// Whether somebody could listen: without the socket's file a try is a waste of time.
pub fn socket_there(run: &Path, port: u16) -> bool {
    run.join(format!(".s.PGSQL.{port}")).exists()
}

/// Connections that are kept, by socket directory: in the database `postgres`, which clones' users neither drop nor copy.
#[derive(Default)]
pub struct Sessions {
    kept: Mutex<HashMap<PathBuf, Client>>,
    /// Servers that let nobody into `postgres`. A session elsewhere would keep a user from `DROP DATABASE`, in `template1`
    /// from `CREATE DATABASE`, so each is closed at once.
    elsewhere: Mutex<HashSet<PathBuf>>,
}

impl Sessions {
    /// Uses the kept connection to a server, or a new one.
    pub fn with<T>(
        &self,
        server: &Server,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, EngineError> {
        let failed = |source: postgres::Error| EngineError::Server {
            action: "asking Pando's own server".to_owned(),
            source: Box::new(source),
        };
        let mut client = match self.take(&server.run) {
            Some(client) => client,
            None => self.enter(server).map_err(failed)?,
        };
        let answer = work(&mut client).map_err(failed)?;
        if !self.is_elsewhere(&server.run) {
            self.keep(&server.run, client);
        }
        Ok(answer)
    }

    fn enter(&self, server: &Server) -> Result<Client, postgres::Error> {
        if !self.is_elsewhere(&server.run) {
            match connect(server, "postgres") {
                Err(error) if no_way_in(&error) => {}
                other => return other,
            }
            self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).insert(server.run.clone());
        }
        connect_somewhere(server, &server.linked)
    }

    fn is_elsewhere(&self, run: &Path) -> bool {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).contains(run)
    }

    /// Keeps a connection for the next who needs it.
    pub fn keep(&self, run: &Path, client: Client) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(run.to_owned(), client);
    }

    /// The kept connection, if there is one that is open. Nobody else has it then.
    pub fn take(&self, run: &Path) -> Option<Client> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(run).filter(|client| !client.is_closed())
    }

    /// Closes the kept connection, so that the server can stop at once.
    pub fn drop(&self, run: &Path) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_server_that_refuses_is_not_starting() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server {
            run: dir.path().to_owned(),
            port: 5432,
            user: "boss".to_owned(),
            major: 17,
            linked: "shop".to_owned(),
        };
        let told = || connect(&server, "shop").map(drop).map_err(starting).unwrap_err();
        assert!(told().is_ok(), "nobody is there yet");
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let says = |code: &'static str| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let _ = stream.read(&mut [0; 2000]).unwrap();
                    let fields = format!("SFATAL\0VFATAL\0C{code}\0Mthe words\0\0");
                    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
                    stream.write_all(&[b"E", &length[..], fields.as_bytes()].concat()).unwrap();
                });
                told()
            })
        };
        // Starting up, or again after a crash of another session.
        for code in ["57P03", "57P02"] {
            assert_eq!(says(code).ok().as_deref(), Some("the words"), "{code}");
        }
        // A library that is not there, a role that may not log in, no room.
        for code in ["58P01", "28000", "53300"] {
            let error = says(code).expect_err(code);
            let words = std::error::Error::source(&error).map(|source| format!("{source} {:?}", source.source()));
            assert!(words.as_ref().is_some_and(|words| words.contains("the words")), "{words:?}");
        }
    }

    #[test]
    fn a_session_asks_for_what_its_server_knows() {
        for (major, known) in [(13, [false; 3]), (14, [true, false, false]), (17, [true; 3])] {
            let asked = options(major, true);
            let later = ["idle_session_timeout=0", "transaction_timeout=0", "event_triggers=off"];
            assert_eq!(later.map(|name| asked.contains(&format!("-c {name}"))), known, "{asked}");
        }
        let work = options(18, false);
        assert!(work.contains("-c session_preload_libraries= -c") && work.contains("transaction_timeout=0"), "{work}");
        assert!(!work.contains("search_path") && !work.contains("event_triggers"), "{work}");
    }
}
