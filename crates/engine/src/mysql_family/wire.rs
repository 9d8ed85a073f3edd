//! The MySQL protocol, as far as Pando's own servers need it: a session over the server's private socket (or
//! through a clone's own door), plain queries, rows as text. Production is never spoken to through here: the
//! server's own client does that, which knows every way to authenticate and encrypt.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use thiserror::Error;

/// Why a session did not do its work.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("the connection to the server failed")]
    Io(#[from] io::Error),
    /// The server refused.
    #[error("{message} (error {code})")]
    Server {
        /// MariaDB's number.
        code: u16,
        /// Its words.
        message: String,
    },
    /// What came is not the protocol.
    #[error("the server's answer cannot be read: {0}")]
    Protocol(&'static str),
}

/// What a query answered.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Names of the columns.
    pub names: Vec<String>,
    /// Values as text; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// A value of the first row, by its column's name.
    pub fn value(&self, name: &str) -> Option<&str> {
        let index = self.names.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        self.rows.first()?.get(index)?.as_deref()
    }

    /// A value of the first row, by its place.
    pub fn first(&self, index: usize) -> Option<&str> {
        self.rows.first()?.get(index)?.as_deref()
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// An open session.
pub struct Session {
    stream: Box<dyn Stream>,
    sequence: u8,
}

// include/mysql_com.h
const CAPABILITIES: u32 = 0x1 | 0x4 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
const UTF8MB4: u8 = 45;
const MOST: usize = 1 << 24;

impl Session {
    /// Connects through a socket's file.
    pub fn over_socket(socket: &Path, user: &str, password: &str, patience: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Self::enter(Box::new(stream), user, password, true)
    }

    /// Connects through a port of loopback.
    pub fn over_loopback(port: u16, user: &str, password: &str, patience: Duration) -> Result<Self, ClientError> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Self::enter(Box::new(stream), user, password, false)
    }

    /// Logs in. `private`: nobody can listen, so that a password may be said aloud.
    fn enter(stream: Box<dyn Stream>, user: &str, password: &str, private: bool) -> Result<Self, ClientError> {
        let mut session = Self { stream, sequence: 0 };
        let greeting = session.packet()?;
        let salt = salt(&greeting)?;
        let mut way = Way::named(default_way(&greeting)).unwrap_or(Way::Native);
        let mut answer = Vec::new();
        answer.extend(CAPABILITIES.to_le_bytes());
        answer.extend(u32::try_from(MOST).unwrap_or(u32::MAX).to_le_bytes());
        answer.push(UTF8MB4);
        answer.extend([0; 23]);
        answer.extend(user.as_bytes());
        answer.push(0);
        let proof = way.proof(password, &salt);
        answer.push(u8::try_from(proof.len()).unwrap_or(0));
        answer.extend(proof);
        answer.extend(way.name());
        answer.push(0);
        session.send(&answer)?;
        loop {
            let packet = session.packet()?;
            match packet.as_slice() {
                [0, ..] => return Ok(session),
                [0xff, ..] => return Err(refusal(&packet)),
                // The account wants another way than the one proposed.
                [0xfe, rest @ ..] => {
                    let (plugin, data) = until_zero(rest).ok_or(ClientError::Protocol("a change of plugin"))?;
                    match Way::named(plugin) {
                        Some(wanted) => way = wanted,
                        None if password.is_empty() => {}
                        None => return Err(ClientError::Protocol("an unknown way to authenticate")),
                    }
                    let proof = way.proof(password, data.get(..20).unwrap_or(data));
                    session.send(&proof)?;
                }
                // `caching_sha2_password`: the proof was right; or the server has forgotten what proves the password.
                [1, 3] => {}
                [1, 4] if private => session.send(&[password.as_bytes(), &[0]].concat())?,
                _ => return Err(ClientError::Protocol("an answer to a login")),
            }
        }
    }

    /// Runs one statement.
    pub fn query(&mut self, sql: &str) -> Result<Rows, ClientError> {
        self.sequence = 0;
        let mut packet = vec![3];
        packet.extend(sql.as_bytes());
        self.send(&packet)?;
        let head = self.packet()?;
        match head.first() {
            Some(0) => return Ok(Rows::default()),
            Some(0xff) => return Err(refusal(&head)),
            Some(0xfb) | None => return Err(ClientError::Protocol("a file is asked for")),
            Some(_) => {}
        }
        let columns = Fields(&head).length().ok_or(ClientError::Protocol("a number of columns"))?;
        let mut answer = Rows::default();
        for _ in 0..columns {
            let packet = self.packet()?;
            let mut fields = Fields(&packet);
            let name = (0..5).map(|_| fields.text()).last().flatten().flatten();
            answer.names.push(name.ok_or(ClientError::Protocol("a column"))?);
        }
        self.packet()?;
        loop {
            let packet = self.packet()?;
            match packet.first() {
                Some(0xff) => return Err(refusal(&packet)),
                Some(0xfe) if packet.len() < 9 => return Ok(answer),
                _ => {}
            }
            let mut fields = Fields(&packet);
            let row: Option<Vec<_>> = (0..columns).map(|_| fields.text()).collect();
            answer.rows.push(row.ok_or(ClientError::Protocol("a row"))?);
        }
    }

    /// Runs statements one after another; the answer of the last.
    pub fn run<'a>(&mut self, statements: impl IntoIterator<Item = &'a str>) -> Result<Rows, ClientError> {
        let mut last = Rows::default();
        for sql in statements {
            last = self.query(sql)?;
        }
        Ok(last)
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        let length = u32::try_from(payload.len()).ok().filter(|length| *length < 0xff_ffff);
        let length = length.ok_or(ClientError::Protocol("a statement of 16 MB"))?;
        let mut packet = length.to_le_bytes().to_vec();
        if let Some(last) = packet.last_mut() {
            *last = self.sequence;
        }
        packet.extend(payload);
        self.stream.write_all(&packet)?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    fn packet(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut payload = Vec::new();
        loop {
            let mut head = [0; 4];
            self.stream.read_exact(&mut head)?;
            let [a, b, c, sequence] = head;
            self.sequence = sequence.wrapping_add(1);
            let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
            let from = payload.len();
            payload.resize(from + length, 0);
            self.stream.read_exact(payload.get_mut(from..).unwrap_or_default())?;
            if length < 0xff_ffff {
                return Ok(payload);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // COM_QUIT; the server would complain of an aborted connection. It may be gone.
        self.sequence = 0;
        drop(self.send(&[1]));
    }
}

/// How a password is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Native,
    CachingSha2,
}

impl Way {
    fn named(name: &[u8]) -> Option<Self> {
        [Self::Native, Self::CachingSha2].into_iter().find(|way| way.name() == name)
    }

    fn name(self) -> &'static [u8] {
        match self {
            Self::Native => b"mysql_native_password",
            Self::CachingSha2 => b"caching_sha2_password",
        }
    }

    fn proof(self, password: &str, salt: &[u8]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        let (once, mixed) = match self {
            Self::Native => {
                let once = sha1(&[password.as_bytes()]);
                let mixed = sha1(&[salt, &sha1(&[&once])]);
                (once, mixed)
            }
            Self::CachingSha2 => {
                let once = sha256(&[password.as_bytes()]);
                let mixed = sha256(&[&sha256(&[&once]), salt]);
                (once, mixed)
            }
        };
        once.iter().zip(mixed).map(|(a, b)| a ^ b).collect()
    }
}

/// The way that a greeting proposes: the text at its end.
fn default_way(greeting: &[u8]) -> &[u8] {
    // Protocol, version and its zero, thread, salt and its zero, flags, letters, status, flags, length, ten bytes, the
    // rest of the salt and its zero.
    let rest = until_zero(greeting.get(1..).unwrap_or_default()).map_or(&[][..], |(_, rest)| rest);
    until_zero(rest.get(44..).unwrap_or_default()).map_or(&[], |(name, _)| name)
}

/// The 20 bytes of a greeting that a password is mixed with.
fn salt(greeting: &[u8]) -> Result<Vec<u8>, ClientError> {
    let wrong = || ClientError::Protocol("a greeting");
    if greeting.first() == Some(&0xff) {
        return Err(refusal(greeting));
    }
    let (_, rest) = until_zero(greeting.get(1..).unwrap_or_default()).ok_or_else(wrong)?;
    let mut salt = rest.get(4..12).ok_or_else(wrong)?.to_vec();
    salt.extend(rest.get(31..43).ok_or_else(wrong)?);
    Ok(salt)
}

fn refusal(packet: &[u8]) -> ClientError {
    let code = packet.get(1..3).map_or(0, |bytes| u16::from(bytes[0]) | u16::from(bytes[1]) << 8);
    let text = packet.get(3..).unwrap_or_default();
    let text = if text.first() == Some(&b'#') { text.get(6..).unwrap_or_default() } else { text };
    ClientError::Server { code, message: String::from_utf8_lossy(text).into_owned() }
}

fn until_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

fn sha1(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &parts.concat()).as_ref().to_vec()
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    digest(&SHA256, &parts.concat()).as_ref().to_vec()
}

/// What a server keeps of a password for `mysql_native_password`.
pub fn verifier(password: &str) -> String {
    let twice = sha1(&[&sha1(&[password.as_bytes()])]);
    let hex: Vec<String> = twice.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("*{}", hex.concat())
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of variable length.
    fn length(&mut self) -> Option<usize> {
        let first = *self.take(1)?.first()?;
        let bytes = match first {
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            _ => return Some(usize::from(first)),
        };
        let taken = self.take(bytes)?;
        usize::try_from(taken.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))).ok()
    }

    /// A text; the inner `None` is NULL.
    fn text(&mut self) -> Option<Option<String>> {
        if self.0.first() == Some(&0xfb) {
            self.take(1)?;
            return Some(None);
        }
        let length = self.length()?;
        Some(Some(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }
}

/// A text as a literal of SQL, whatever the mode of the session.
pub fn literal(text: &str) -> String {
    if text.is_empty() {
        return "''".to_owned();
    }
    let hex: Vec<String> = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    if text.bytes().all(|byte| byte.is_ascii() && !matches!(byte, b'\'' | b'\\') && !byte.is_ascii_control()) {
        return format!("'{text}'");
    }
    format!("_utf8mb4 x'{}'", hex.concat())
}

/// A name quoted for SQL.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_what_the_server_stores() {
        // SELECT PASSWORD('pw') on MariaDB 10.11.
        assert_eq!(verifier("pw"), "*D821809F681A40A6E379B50D0463EFAE20BDD122");
    }

    #[test]
    fn the_way_of_a_greeting_is_proved() {
        let mut greeting = b"\x0a9.7.4\0".to_vec();
        greeting.extend([7; 44]);
        greeting.extend(b"caching_sha2_password\0");
        assert_eq!(Way::named(default_way(&greeting)), Some(Way::CachingSha2));
        assert_eq!((Way::named(b"mysql_clear_password"), default_way(b"\x0a5")), (None, &[][..]));
        assert!(Way::CachingSha2.proof("", &[1; 20]).is_empty());
        let proofs = [Way::Native, Way::CachingSha2].map(|way| way.proof("pw", &[1; 20]).len());
        assert_eq!(proofs, [20, 32]);
    }

    #[test]
    fn numbers_and_texts_of_any_length_are_read() {
        let mut fields = Fields(&[3, b'a', b'b', b'c', 0xfb, 0xfc, 2, 0, b'x', b'y', 9]);
        assert_eq!(fields.text(), Some(Some("abc".to_owned())));
        assert_eq!(fields.text(), Some(None));
        assert_eq!(fields.text(), Some(Some("xy".to_owned())));
        assert_eq!(fields.text(), None);
    }

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(identifier("a`b"), "`a``b`");
        assert_eq!(literal("it's"), "_utf8mb4 x'69742773'");
        assert_eq!((literal("plain"), literal("")), ("'plain'".to_owned(), "''".to_owned()));
    }

    #[test]
    fn a_refusal_keeps_number_and_words() {
        let error = refusal(b"\xff\x15\x04#28000Access denied");
        assert!(matches!(error, ClientError::Server { code: 1045, message } if message == "Access denied"));
    }
}
