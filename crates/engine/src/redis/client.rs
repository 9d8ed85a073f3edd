//! Talking to Redis: RESP over a socket, to production and to Pando's own servers. Passwords go through the
//! connection and nowhere else.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use pando_host::process::is_given_up;
use pando_host::{Clock, SystemClock};
use thiserror::Error;

use crate::ask::GIVEN_UP;

/// The longest silence.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether anybody still waits.
const TURN: Duration = Duration::from_millis(250);
/// The longest time that an answer may take: one that comes drop by drop is never silent.
const WHOLE: Duration = Duration::from_secs(30);
/// The most bytes of an answer: more than a server has to say of itself.
const MOST: u64 = 16 << 20;
/// The most parts of one: more than a server has users.
const PARTS: u32 = 1 << 16;

/// Why a question got no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server refused, in its own words.
    #[error("{0}")]
    Refused(String),
    /// What came is no answer.
    #[error("what the server answered makes no sense")]
    Nonsense,
    /// More came than any answer is.
    #[error("the server answered more than {} MB, or {PARTS} parts", MOST >> 20)]
    Flood,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A text, binary safe.
    Text(Vec<u8>),
    /// A number.
    Int(i64),
    /// Nothing.
    Nil,
    /// Several.
    List(Vec<Reply>),
}

impl Reply {
    /// As text, lossily; empty where it is none.
    pub fn text(&self) -> String {
        match self {
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Int(number) => number.to_string(),
            Self::Nil | Self::List(_) => String::new(),
        }
    }

    /// The parts of a list.
    pub fn list(&self) -> &[Reply] {
        match self {
            Self::List(all) => all,
            _ => &[],
        }
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A stream whose answers take so long at most.
struct Timed {
    stream: Box<dyn Stream>,
    whole: Duration,
    until: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let late = |time: Duration| {
            let text = format!("the server has not answered within {} s", time.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        };
        let begun = SystemClock.instant();
        loop {
            if SystemClock.instant() >= self.until {
                return Err(late(self.whole));
            }
            match self.stream.read(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if begun.elapsed() >= PATIENCE {
                        return Err(late(PATIENCE));
                    }
                    if is_given_up(begun) {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, GIVEN_UP));
                    }
                }
                done => return done,
            }
        }
    }
}

/// A connection.
pub struct Client {
    stream: BufReader<Timed>,
    /// What came of the answer that is read.
    bytes: u64,
    parts: u32,
    /// An answer was left before its end: what comes next is the rest of it.
    left: bool,
}

impl Client {
    fn over(stream: impl Stream + 'static) -> Self {
        let stream = Timed { stream: Box::new(stream), whole: WHOLE, until: SystemClock.instant() };
        Self { stream: BufReader::new(stream), bytes: 0, parts: 0, left: false }
    }

    /// Through a socket file.
    pub fn unix(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(TURN))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }

    /// Over TCP, to the first of the host's addresses that answers.
    pub fn tcp(host: &str, port: u16) -> Result<Self, ClientError> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(TURN))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    return Ok(Self::over(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// Says who we are. Without a password nothing is said.
    pub fn login(&mut self, user: Option<&str>, password: Option<&str>) -> Result<(), ClientError> {
        match (user, password) {
            (_, None) => Ok(()),
            (None, Some(password)) => self.call(&["AUTH", password]).map(drop),
            (Some(user), Some(password)) => self.call(&["AUTH", user, password]).map(drop),
        }
    }

    /// Asks, and waits for the answer.
    pub fn call(&mut self, words: &[&str]) -> Result<Reply, ClientError> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if self.left {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        let timed = self.stream.get_mut();
        timed.stream.write_all(&out)?;
        timed.until = SystemClock.instant() + timed.whole;
        (self.bytes, self.parts) = (0, 0);
        let answer = self.reply(0);
        self.left = !matches!(answer, Ok(_) | Err(ClientError::Refused(_)));
        answer
    }

    /// The fields of `INFO`, of one section or of all the usual ones.
    pub fn info(&mut self, section: Option<&str>) -> Result<BTreeMap<String, String>, ClientError> {
        let words: Vec<&str> = std::iter::once("INFO").chain(section).collect();
        Ok(fields(&self.call(&words)?.text()))
    }

    /// So much more of an answer comes.
    fn expect(&mut self, bytes: u64) -> Result<(), ClientError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MOST { Err(ClientError::Flood) } else { Ok(()) }
    }

    fn line(&mut self) -> Result<String, ClientError> {
        let mut line = Vec::new();
        (&mut self.stream).take(64 << 10).read_until(b'\n', &mut line)?;
        self.expect(line.len() as u64)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None if line.is_empty() => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            None => Err(ClientError::Nonsense),
        }
    }

    fn reply(&mut self, depth: u8) -> Result<Reply, ClientError> {
        self.parts += 1;
        if self.parts > PARTS {
            return Err(ClientError::Flood);
        }
        let line = self.line()?;
        let Some(kind) = line.chars().next().filter(|_| depth < 8) else { return Err(ClientError::Nonsense) };
        let rest = line.get(kind.len_utf8()..).unwrap_or_default();
        let number = || rest.parse::<i64>().map_err(|_| ClientError::Nonsense);
        match kind {
            '+' => Ok(Reply::Text(rest.as_bytes().to_vec())),
            '-' => Err(ClientError::Refused(rest.to_owned())),
            ':' => Ok(Reply::Int(number()?)),
            '$' | '*' if number()? < 0 => Ok(Reply::Nil),
            '$' => {
                let length = usize::try_from(number()?).unwrap_or(0);
                self.expect(length as u64)?;
                let mut bytes = Vec::new();
                (&mut self.stream).take(length as u64 + 2).read_to_end(&mut bytes)?;
                if bytes.len() != length + 2 {
                    return Err(ClientError::Nonsense);
                }
                bytes.truncate(length);
                Ok(Reply::Text(bytes))
            }
            '*' => (0..number()?).map(|_| self.reply(depth + 1)).collect::<Result<_, _>>().map(Reply::List),
            _ => Err(ClientError::Nonsense),
        }
    }
}

/// `name:value` lines.
fn fields(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
