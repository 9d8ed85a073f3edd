//! A real Redis server that plays production: on a free port of loopback, in a temporary directory, with a
//! password. And a client that asks any Redis by its address.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{free_port, wait_until};

/// A running (or stopped) Redis production; gone when dropped.
#[derive(Debug)]
pub struct RedisProduction {
    dir: TempDir,
    program: PathBuf,
    conf: Vec<String>,
    port: u16,
    child: Option<Child>,
}

impl RedisProduction {
    /// Starts one. `conf`: more lines for its configuration; they win over the kit's own, which keep nothing on
    /// disk.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn start(conf: &[&str]) -> Self {
        Self::start_with(Path::new("redis-server"), conf)
    }

    /// The same of another program: another version, or Valkey.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn start_with(program: &Path, conf: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("pando-redis-").tempdir_in("/tmp").expect("a temporary directory");
        let conf = conf.iter().map(|line| (*line).to_owned()).collect();
        let mut made = Self { dir, program: program.to_owned(), conf, port: free_port(), child: None };
        made.resume();
        made
    }

    /// Starts a stopped or killed server and waits until it answers.
    ///
    /// # Panics
    /// When it does not within a minute; its log is in the message.
    pub fn resume(&mut self) {
        let dir = self.dir.path().display();
        let text = format!(
            "port {}\nbind 127.0.0.1\ndir {dir}\nsave \"\"\nappendonly no\nrequirepass prod-secret\n\
             repl-diskless-sync-delay 0\ndaemonize no\n{}\n",
            self.port,
            self.conf.join("\n")
        );
        let path = self.dir.path().join("redis.conf");
        fs::write(&path, text).expect("writing redis.conf");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"));
        let log = log.expect("opening production's log");
        let mut server = Command::new(&self.program);
        server.arg(&path).stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(server.env_clear().env("PATH", "/usr/bin:/bin").spawn().expect("starting redis-server"));
        let up = wait_until(Duration::from_secs(60), || {
            RedisClient::try_connect(&self.url(0)).is_ok_and(|mut client| client.ask(&["PING"]).is_ok())
        });
        assert!(up, "production does not start: {}", self.log());
    }

    /// Stops it (SIGTERM), and waits.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            if !wait_until(Duration::from_secs(30), || matches!(child.try_wait(), Ok(Some(_)))) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }

    /// Its address, password included.
    pub fn url(&self, database: u32) -> String {
        format!("redis://:prod-secret@127.0.0.1:{}/{database}", self.port)
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection.
    ///
    /// # Panics
    /// When it is refused.
    pub fn client(&self) -> RedisClient {
        RedisClient::connect(&self.url(0))
    }

    /// Runs one command; its answer as text.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> String {
        self.client().run(words)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisProduction {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

/// A connection to a Redis, by its address.
#[derive(Debug)]
pub struct RedisClient(BufReader<TcpStream>);

impl RedisClient {
    /// Connects to `redis://user:password@host:port/database`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn connect(url: &str) -> Self {
        Self::try_connect(url).unwrap_or_else(|error| panic!("{url} does not let us in: {error}"))
    }

    /// The same; why not, when it is refused.
    pub fn try_connect(url: &str) -> Result<Self, String> {
        let parts = || {
            let (who, rest) = url.strip_prefix("redis://")?.split_once('@')?;
            Some((who.split_once(':')?, rest.split_once('/')?))
        };
        let ((user, password), (place, database)) = parts().ok_or("this is no address")?;
        let stream = TcpStream::connect(place).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
        let mut client = Self(BufReader::new(stream));
        let user = if user.is_empty() { "default" } else { user };
        client.ask(&["AUTH", user, password])?;
        client.ask(&["SELECT", database])?;
        Ok(client)
    }

    /// Runs one command; its answer as text, parts of a list on lines of their own, nothing as `(nil)`.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&mut self, words: &[&str]) -> String {
        self.ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same; the server's or the connection's error as text.
    pub fn ask(&mut self, words: &[&str]) -> Result<String, String> {
        self.send(words)?;
        self.answer()
    }

    /// Sends a command without waiting.
    pub fn send(&mut self, words: &[&str]) -> Result<(), String> {
        let mut out = format!("*{}\r\n", words.len());
        for word in words {
            out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(out.as_bytes()).map_err(|error| error.to_string())
    }

    /// Waits for an answer.
    pub fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(|error| error.to_string())?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or("the connection has ended")?;
        let number = rest.parse::<i64>().unwrap_or(0);
        match kind {
            "-" => Err(rest.to_owned()),
            "$" | "*" if number < 0 => Ok("(nil)".to_owned()),
            "$" => {
                let mut bytes = vec![0; usize::try_from(number).unwrap_or(0) + 2];
                self.0.read_exact(&mut bytes).map_err(|error| error.to_string())?;
                bytes.truncate(bytes.len() - 2);
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => {
                let parts: Vec<String> = (0..number).map(|_| self.answer()).collect::<Result<_, _>>()?;
                Ok(parts.join("\n"))
            }
            _ => Ok(rest.to_owned()),
        }
    }
}
