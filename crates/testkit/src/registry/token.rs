//! A server that gives tokens for a registry, as registries that are not alone have one. Tokens are signed by
//! `openssl` with a key that the registry is told of; a token says for each scope what of it is granted.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::new_key;
use crate::tools;

/// `ann:secret`
const PASSWORD: &str = "authorization: basic yw5uonnly3jlda==";
/// What `docker-credential` helpers would give for `ann` in the place of a password.
const IDENTITY: &str = "refresh_token=ann-for-a-year";

/// A running server. Its thread ends with the process.
#[derive(Debug)]
pub(super) struct TokenServer {
    port: u16,
    certificate: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TokenServer {
    pub fn start(dir: &Path) -> Self {
        let (key, certificate) = (dir.join("token.key"), dir.join("token.crt"));
        let crt = certificate.display().to_string();
        new_key(&["-x509", "-days", "2", "-subj", "/CN=tokens", "-out", &crt], &key.display().to_string());
        let listener = TcpListener::bind("127.0.0.1:0").expect("binding a port on loopback");
        let port = listener.local_addr().expect("the address just bound").port();
        let made = Self { port, certificate, asked: Arc::default() };
        let signer = Signer { key, chain: pem_body(&made.certificate), dir: dir.to_owned() };
        let asked = Arc::clone(&made.asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that went away has its answer.
                let _ = answer(stream, &signer, &asked);
            }
        });
        made
    }

    /// What a registry's configuration says of it.
    pub fn configuration(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: http://127.0.0.1:{}/token\n    service: test registry\n    issuer: tests\n    \
             rootcertbundle: {}\n",
            self.port,
            self.certificate.display()
        )
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Signer {
    key: PathBuf,
    /// The certificate, as a token names it.
    chain: String,
    dir: PathBuf,
}

impl Signer {
    fn token(&self, access: &[serde_json::Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
        let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [self.chain] });
        let claims = json!({
            "iss": "tests", "sub": "ann", "aud": "test registry", "jti": now.to_string(),
            "iat": now, "nbf": now - 10, "exp": now + 300, "access": access,
        });
        let text = format!("{}.{}", base64url(head.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let file = self.dir.join("to-sign");
        fs::write(&file, &text).expect("writing what is to be signed");
        let mut sign = Command::new(tools::find("openssl").expect("openssl"));
        let signed = sign.args(["dgst", "-sha256", "-sign"]).arg(&self.key).arg(&file).output();
        let signed = signed.expect("starting openssl");
        assert!(signed.status.success(), "signing: {}", String::from_utf8_lossy(&signed.stderr));
        format!("{text}.{}", base64url(&signed.stdout))
    }
}

fn answer(mut stream: TcpStream, signer: &Signer, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut head) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        head += &line.to_lowercase();
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut form = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut form)?;
    let form = String::from_utf8_lossy(&form).into_owned();
    let known = if first.starts_with("POST") { form.contains(IDENTITY) } else { head.contains(PASSWORD) };
    let query = first.split(' ').nth(1).and_then(|url| url.split_once('?')).map_or("", |(_, query)| query);
    let scopes: Vec<String> = [query, form.as_str()]
        .iter()
        .flat_map(|pairs| pairs.split('&'))
        .filter_map(|pair| pair.strip_prefix("scope="))
        .flat_map(|scope| decoded(scope).split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    asked.lock().unwrap_or_else(PoisonError::into_inner).extend(scopes.iter().cloned());
    let (status, body) = if known {
        let access: Vec<serde_json::Value> = scopes.iter().filter_map(|scope| granted(scope)).collect();
        ("200 OK", json!({ "token": signer.token(&access), "expires_in": 300 }).to_string())
    } else {
        ("401 Unauthorized", "{}".to_owned())
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// What of `repository:team/shop:pull,push` is granted.
fn granted(scope: &str) -> Option<serde_json::Value> {
    let mut parts = scope.split(':');
    let (kind, name, wanted) = (parts.next()?, parts.next()?, parts.next()?);
    let may: &[&str] = match name.split('/').next()? {
        "team" => &["pull", "push"],
        "library" => &["pull"],
        _ => &[],
    };
    let actions: Vec<&str> = wanted.split(',').filter(|action| may.contains(action)).collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

/// `a%3Ab+c`
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().replace('+', " ");
    for part in parts {
        let byte = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).expect("an escape of a URL");
        out.push(char::from(byte));
        out += &part[2..].replace('+', " ");
    }
    out
}

fn pem_body(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("reading a certificate");
    text.lines().filter(|line| !line.starts_with("-----")).collect()
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let number = (0..3).fold(0_u32, |sum, at| sum << 8 | u32::from(*three.get(at).unwrap_or(&0)));
        // No padding: as many digits as there are bytes, and one.
        for at in 0..=three.len() {
            out.push(char::from(DIGITS[(number >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}
