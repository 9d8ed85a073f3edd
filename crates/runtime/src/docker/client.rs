//! Speaks to a Docker or Podman engine: HTTP over its unix socket, one connection for each call.
//!
//! By hand, because a dozen calls with JSON in and out are all there is, and the seam blocks on purpose: a client
//! library would bring an async runtime into this room, and some twenty crates. The calls go out as HTTP/1.0, so
//! that answers are neither chunked nor kept open; both engines answer that. Paths bear no API version: the engine
//! then speaks its newest, and what is used here has the same form in all of them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pando_host::{Clock, SystemClock};
use serde_json::Value;

/// How long an engine may think about a call that changes something.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long about one that only looks.
const LOOK: Duration = Duration::from_secs(30);
/// What any engine answers at once, and how long it may take for that on a busy machine.
const PING: &str = "/_ping";
const PONG: Duration = Duration::from_secs(10);
/// The same for one that has left a call unanswered.
const LATE_PONG: Duration = Duration::from_secs(2);
/// How often a container is asked for again whose process ends at that moment.
const ENDINGS: u32 = 5;
/// How long it may be silent while it pulls an image.
const PULL: Duration = Duration::from_secs(900);

/// The way to one engine. An engine that hangs is waited for once: who comes after that is told so at once, until
/// it answers again.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    /// Whether it has left a call unanswered, and none since was answered.
    hangs: Arc<AtomicBool>,
}

/// Why a call did not do its work.
#[derive(Debug)]
pub enum Trouble {
    /// The engine answered, and not with success.
    Refused {
        /// HTTP's status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// The engine did not answer.
    Silent(io::Error),
}

impl Trouble {
    /// Whether the engine does not know what was named.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether a container's process ended while Podman looked at it, and the answer was lost with that.
    fn is_end_of_process(&self) -> bool {
        matches!(self, Self::Refused { status: 500, message } if message.ends_with("no such process"))
    }

    /// As the source of an error.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Refused { message, .. } => io::Error::other(message),
            Self::Silent(error) => error,
        }
    }
}

impl Client {
    /// A client for the engine behind a socket; nobody is called yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), hangs: Arc::default() }
    }

    /// The engine's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for something.
    pub fn get(&self, path: &str) -> Result<Value, Trouble> {
        self.get_within(path, LOOK)
    }

    /// The same, for whoever has better things to do than to wait.
    pub fn get_within(&self, path: &str, patience: Duration) -> Result<Value, Trouble> {
        json(&self.call("GET", path, None, patience)?)
    }

    /// How a container is.
    pub fn container(&self, name: &str) -> Result<Value, Trouble> {
        let path = format!("/containers/{name}/json");
        for _ in 0..ENDINGS {
            match self.get(&path) {
                Err(trouble) if trouble.is_end_of_process() => SystemClock.sleep(Duration::from_millis(20)),
                answer => return answer,
            }
        }
        self.get(&path)
    }

    /// Asks whether it answers.
    pub fn ping(&self) -> Result<(), Trouble> {
        self.call("GET", PING, None, PONG).map(drop)
    }

    /// Asks for bytes.
    pub fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Trouble> {
        self.call("GET", path, None, LOOK)
    }

    /// Makes something; the answer may be empty.
    pub fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Trouble> {
        json(&self.call("POST", path, body, PATIENCE)?)
    }

    /// Asks for an image to be pulled, and waits for it. Errors come inside a successful answer.
    pub fn pull(&self, path: &str) -> Result<(), Trouble> {
        complaint(&self.call("POST", path, None, PULL)?)
    }

    /// Asks for bytes that are too many to hold.
    pub fn get_stream(&self, path: &str) -> Result<impl Read + use<>, Trouble> {
        let mut stream = self.open(PULL).map_err(Trouble::Silent)?;
        let head = format!("GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n");
        stream.write_all(head.as_bytes()).map_err(Trouble::Silent)?;
        let mut stream = BufReader::with_capacity(1 << 18, stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut head).map_err(Trouble::Silent)? == 0 {
                break;
            }
        }
        let (status, _) = split(&head).map_err(Trouble::Silent)?;
        if status == 200 {
            return Ok(stream);
        }
        let mut body = Vec::new();
        stream.read_to_end(&mut body).map_err(Trouble::Silent)?;
        Err(refused(status, &body))
    }

    /// Sends bytes that are too many to hold, so many as were announced, and waits for what becomes of them. Errors
    /// come inside a successful answer.
    pub fn post_stream(
        &self,
        path: &str,
        length: u64,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Trouble> {
        let mut stream = self.open(PULL).map_err(Trouble::Silent)?;
        let head = format!(
            "POST {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).map_err(Trouble::Silent)?;
        let written = write(&mut stream);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // Who refuses closes the door before everything is through it, and says why.
        if let Ok((status, body)) = split(&answer) {
            if !(200..400).contains(&status) {
                return Err(refused(status, body));
            }
            complaint(body)?;
        }
        written.map_err(Trouble::Silent)?;
        read.map(drop).map_err(Trouble::Silent)
    }

    /// Removes something.
    pub fn delete(&self, path: &str) -> Result<(), Trouble> {
        self.call("DELETE", path, None, PATIENCE).map(drop)
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>, patience: Duration) -> Result<Vec<u8>, Trouble> {
        let answer = self.exchange(method, path, body, patience).map_err(Trouble::Silent)?;
        let (status, body) = split(&answer).map_err(Trouble::Silent)?;
        if (200..400).contains(&status) { Ok(body.to_vec()) } else { Err(refused(status, body)) }
    }

    fn open(&self, patience: Duration) -> io::Result<UnixStream> {
        if self.hangs.load(Ordering::Relaxed) {
            self.send(self.connect(LATE_PONG)?, "GET", PING, None, LATE_PONG)?;
        }
        self.connect(patience)
    }

    fn connect(&self, patience: Duration) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>, patience: Duration) -> io::Result<Vec<u8>> {
        self.send(self.open(patience)?, method, path, body, patience)
    }

    fn send(
        &self,
        mut stream: UnixStream,
        method: &str,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> io::Result<Vec<u8>> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        match read {
            Ok(_) => {
                self.hangs.store(false, Ordering::Relaxed);
                Ok(answer)
            }
            // What a timeout of a socket is called. A short one says nothing: a busy engine may take as long.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.hangs.fetch_or(patience >= LATE_PONG, Ordering::Relaxed);
                let what = format!("it takes calls, and has not answered within {} seconds", patience.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
            Err(error) => Err(error),
        }
    }
}

fn refused(status: u16, body: &[u8]) -> Trouble {
    let said = serde_json::from_slice::<Value>(body).ok();
    let message = said.as_ref().and_then(|said| said.get("message")?.as_str()).map(str::to_owned);
    Trouble::Refused { status, message: message.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned()) }
}

/// The last error among the lines of an answer.
fn complaint(answer: &[u8]) -> Result<(), Trouble> {
    let lines = answer.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let error = lines.rev().find_map(|line| Some(line.get("error")?.as_str()?.to_owned()));
    error.map_or(Ok(()), |message| Err(Trouble::Refused { status: 500, message }))
}

fn json(body: &[u8]) -> Result<Value, Trouble> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| Trouble::Silent(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// An answer's status and body.
fn split(answer: &[u8]) -> io::Result<(u16, &[u8])> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "this is no answer of an engine");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(wrong)?;
    let (head, rest) = answer.split_at(end);
    let head = std::str::from_utf8(head).map_err(|_| wrong())?;
    let status =
        head.strip_prefix("HTTP/1.").and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
    Ok((status.ok_or_else(wrong)?, rest.get(4..).unwrap_or_default()))
}

/// A value inside a query, percent-encoded.
pub fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = b"HTTP/1.0 404 Not Found\r\nContent-Type: application/json\r\n\r\n{\"message\":\"no\"}";
        let (status, body) = split(answer).unwrap();
        assert_eq!((status, body), (404, b"{\"message\":\"no\"}".as_slice()));
        assert!(split(b"HTTP/1.0 200 OK\r\n").is_err());
        assert!(split(b"SSH-2.0-x\r\n\r\n").is_err());
    }

    /// As Podman 4.3 answers: it reads the process's control group while it answers.
    #[test]
    fn a_container_whose_process_ends_at_that_moment_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let engine = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let answers = std::thread::spawn(move || {
            let lost = "HTTP/1.0 500 E\r\n\r\n{\"message\":\"read /proc/7/cgroup: no such process\"}";
            for answer in [lost, lost, "HTTP/1.0 200 OK\r\n\r\n{\"Id\":\"7\"}", "HTTP/1.0 500 E\r\n\r\nno such disk"] {
                let (mut stream, _) = engine.accept().unwrap();
                assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let client = Client::new(&socket);
        assert_eq!(client.container("x").unwrap()["Id"], "7");
        assert!(matches!(client.container("x"), Err(Trouble::Refused { status: 500, .. })));
        answers.join().unwrap();
    }

    #[test]
    fn one_that_hangs_is_waited_for_once_and_believed_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let engine = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client = Client::new(&socket);
        let unanswered = |path: &str, wait: Duration| {
            let trouble = client.get_within(path, wait).unwrap_err();
            assert!(
                matches!(&trouble, Trouble::Silent(error) if error.to_string().contains("not answered")),
                "{trouble:?}"
            );
        };
        // One that is only slow goes on to be asked.
        unanswered("/w", Duration::from_millis(50));
        unanswered("/x", LATE_PONG);
        // The call itself does not go out: it would wait for half a minute.
        assert!(matches!(client.get("/x"), Err(Trouble::Silent(error)) if error.kind() == io::ErrorKind::TimedOut));
        let answers = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for _ in 0..5 {
                let (mut stream, _) = engine.accept().unwrap();
                let mut head = [0; 1024];
                let len = stream.read(&mut head).unwrap();
                asked.push(String::from_utf8_lossy(&head[..len]).split(' ').nth(1).unwrap().to_owned());
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n{\"Id\":\"7\"}");
            }
            asked
        });
        assert_eq!(client.get("/y").unwrap()["Id"], "7");
        // Of the calls before only what was sent is left.
        assert_eq!(answers.join().unwrap(), ["/w", "/x", "/_ping", "/_ping", "/y"]);
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(encoded("{\"label\":[\"a=/b c\"]}"), "%7B%22label%22%3A%5B%22a%3D%2Fb%20c%22%5D%7D");
    }
}
