//! Where a source of production is: its URL, and which engine knows it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use crate::nearest;

/// What knows one kind of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EngineKind {
    /// A PostgreSQL cluster.
    Postgres,
    /// A Redis or Valkey server.
    Redis,
    /// A MariaDB server.
    Mariadb,
    /// A MySQL server.
    Mysql,
    /// A directory.
    Files,
    /// Any other server or tool, known to an executable of its user.
    Toolkit,
    /// The simulated engine of the tests.
    Sim,
}

impl EngineKind {
    /// The word, as shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
            Self::Files => "files",
            Self::Toolkit => "toolkit",
            Self::Sim => "sim",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A source's URL, taken apart. `Debug` and `Display` never show the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceUrl {
    /// The engine that the scheme names.
    pub engine: EngineKind,
    /// The scheme as typed: `postgres`, `postgresql`, `mariadb`, `mysql`, `redis`, `valkey`, `file`, `ssh`,
    /// `toolkit+NAME`, `sim`.
    pub scheme: String,
    /// The user, percent-decoded.
    pub user: Option<String>,
    /// The password, percent-decoded. A secret.
    pub password: Option<String>,
    /// The host; none for a local path or a socket.
    pub host: Option<String>,
    /// The port, if typed.
    pub port: Option<u16>,
    /// The path, percent-decoded, with its leading slash: a directory, or `/database`.
    pub path: String,
    /// What stands behind the question mark.
    pub query: BTreeMap<String, String>,
}

/// Why a text is not a source's URL.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SourceUrlError {
    /// Not a URL at all. The text is not repeated: it may hold a password.
    #[error(
        "this is not a URL ({0}); a source looks like postgres://user:password@host/database, its password \
         percent-encoded, or file:///srv/files"
    )]
    Malformed(String),
    /// A scheme that no engine knows.
    #[error(
        "no engine knows {0}:// URLs; known are postgres://, mariadb://, mysql://, redis://, valkey://, file://, ssh:// \
         and toolkit+NAME://"
    )]
    Scheme(String),
    /// A part is missing, or would be read as another.
    #[error("{0}")]
    Part(&'static str),
    /// An option that nobody would look at.
    #[error("{scheme}:// addresses have no option {name}; {help}")]
    Option {
        /// The scheme as typed.
        scheme: String,
        /// The option as typed.
        name: String,
        /// The one that was probably meant, or all.
        help: String,
    },
}

impl SourceUrl {
    /// The database that a URL names; without one the user's name is libpq's rule.
    pub fn database(&self) -> Option<&str> {
        Some(self.path.trim_start_matches('/')).filter(|name| !name.is_empty())
    }

    /// The toolkit that a `toolkit+NAME://` URL names.
    pub fn toolkit(&self) -> Option<&str> {
        self.scheme.strip_prefix(TOOLKIT)
    }

    /// The name this source gets when the user gives none.
    pub fn default_source_name(&self) -> &str {
        match self.engine {
            EngineKind::Postgres | EngineKind::Mariadb | EngineKind::Mysql | EngineKind::Sim => "db",
            EngineKind::Files => "files",
            EngineKind::Redis => "redis",
            EngineKind::Toolkit => self.toolkit().unwrap_or("data"),
        }
    }

    /// What nobody may be shown: the password, and the values of options that are called like one.
    pub fn secrets(&self) -> Vec<String> {
        let options = self.query.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
        self.password.iter().chain(options).filter(|secret| !secret.is_empty()).cloned().collect()
    }

    /// The same without its password, for the catalog's plain columns and for people.
    #[must_use]
    pub fn without_password(&self) -> Self {
        Self { password: None, ..self.clone() }
    }
}

/// Whether an option's name says that its value is a secret.
pub fn is_secret(option: &str) -> bool {
    let name = option.to_ascii_lowercase();
    ["passw", "pwd", "secret", "token", "credential", "apikey", "api_key", "api-key", "access_key", "access-key"]
        .iter()
        .any(|part| name.contains(part))
}

/// A replica is refused in the clear by a server that takes TLS only, and a password would be sent in the clear.
const ENCRYPTED_REDIS: &str = "Redis cannot be followed by TLS: lead it through a tunnel (ssh -L 6390:127.0.0.1:6379, \
     stunnel) and link redis://:password@127.0.0.1:6390/0";

/// What is behind an address' host is shown, and stored in the clear.
const PASSWORD: &str = "there is an @ behind this address' host: percent-encode the password, with %40 for @, %2F for / and \
     %3F for ? (and an @ that is none of a password's, too)";

/// What is behind a `#` would be lost.
const FRAGMENT: &str = "a # in a source's URL is written %23";

/// What is behind a `?` would be lost.
const NO_OPTIONS: &str = "a ? in the path of a file:// or ssh:// source is written %3F";

/// MySQL's and MariaDB's: which of the two it is only whoever links finds out.
const MYSQL_OPTIONS: &[&str] = &[
    "clone-plugin",
    "datadir",
    "socket",
    "ssl",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-verify-server-cert",
];

/// How the scheme of a toolkit's URL begins.
const TOOLKIT: &str = "toolkit+";

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped = (bytes[index] == b'%')
            .then(|| text.get(index + 1..index + 3))
            .flatten()
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(bytes[index]));
        index += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The options that a scheme's addresses may have; `None`: any, libpq or the toolkit knows which.
fn known_options(scheme: &str) -> Option<&'static [&'static str]> {
    match scheme {
        "mariadb" | "mysql" => Some(MYSQL_OPTIONS),
        "redis" | "valkey" | "file" => Some(&[]),
        "ssh" => Some(&["identity", "known_hosts"]),
        _ => None,
    }
}

/// Refuses what would be read as something else than was meant. Nothing of a password is repeated: whatever may be
/// one is looked for first.
fn check_rest(url: &Url, engine: EngineKind) -> Result<(), SourceUrlError> {
    let path_or_query = [Some(url.path()), url.query()];
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    if engine != EngineKind::Files && has_host && path_or_query.into_iter().flatten().any(|part| part.contains('@')) {
        return Err(SourceUrlError::Part(PASSWORD));
    }
    if url.fragment().is_some() {
        return Err(SourceUrlError::Part(FRAGMENT));
    }
    match (url.scheme(), url.query()) {
        ("file", Some(_)) | ("ssh", Some("")) => return Err(SourceUrlError::Part(NO_OPTIONS)),
        _ => {}
    }
    let Some(known) = known_options(url.scheme()) else { return Ok(()) };
    let Some((name, _)) = url.query_pairs().find(|(name, _)| !known.contains(&name.as_ref())) else { return Ok(()) };
    let help = match nearest(&name, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => "they have none".to_owned(),
        None => format!("known are {}", known.join(", ")),
    };
    let name = name.escape_debug().to_string();
    Err(SourceUrlError::Option { scheme: url.scheme().to_owned(), name, help })
}

fn is_toolkit(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

impl FromStr for SourceUrl {
    type Err = SourceUrlError;
    fn from_str(text: &str) -> Result<Self, SourceUrlError> {
        let url = Url::parse(text).map_err(|error| SourceUrlError::Malformed(error.to_string()))?;
        let engine = match url.scheme() {
            "postgres" | "postgresql" => EngineKind::Postgres,
            "redis" | "valkey" => EngineKind::Redis,
            "mariadb" => EngineKind::Mariadb,
            // MariaDB is called so too; whoever links finds out.
            "mysql" => EngineKind::Mysql,
            "file" | "ssh" => EngineKind::Files,
            "sim" => EngineKind::Sim,
            "rediss" | "valkeys" => return Err(SourceUrlError::Part(ENCRYPTED_REDIS)),
            // A name is a file's name, too: no dots and no slashes.
            other if other.strip_prefix(TOOLKIT).is_some_and(is_toolkit) => EngineKind::Toolkit,
            other => return Err(SourceUrlError::Scheme(other.to_owned())),
        };
        check_rest(&url, engine)?;
        let source = Self {
            engine,
            scheme: url.scheme().to_owned(),
            user: Some(decode(url.username())).filter(|user| !user.is_empty()),
            password: url.password().map(decode),
            host: url.host_str().map(|host| decode(host.trim_matches(['[', ']']))).filter(|host| !host.is_empty()),
            port: url.port(),
            path: decode(url.path()),
            query: url.query_pairs().into_owned().collect(),
        };
        let texts = [source.user.as_deref(), source.password.as_deref(), source.host.as_deref(), Some(&source.path)];
        if texts.into_iter().flatten().any(|part| part.contains(['\0', '\n', '\r'])) {
            return Err(SourceUrlError::Part("a source's URL cannot contain line breaks or zero bytes"));
        }
        match source.scheme.as_str() {
            "file" | "ssh" if source.path.trim_matches('/').is_empty() => {
                Err(SourceUrlError::Part("a file:// or ssh:// source names a directory, and not /"))
            }
            "ssh" if source.host.is_none() => Err(SourceUrlError::Part("an ssh:// source names a host")),
            "ssh" if [&source.user, &source.host].into_iter().flatten().any(|part| part.starts_with('-')) => {
                Err(SourceUrlError::Part("an ssh:// source's user and host cannot begin with a dash"))
            }
            "redis" | "valkey" if source.host.is_none() => Err(SourceUrlError::Part("a redis:// source names a host")),
            "redis" | "valkey" if source.database().is_some_and(|number| number.parse::<u16>().is_err()) => {
                Err(SourceUrlError::Part("a redis:// source ends with the number of a database, as in redis://host/0"))
            }
            _ => Ok(source),
        }
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(self.host.as_deref().unwrap_or(""))?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postgres_url_is_taken_apart_and_its_password_hidden() -> Result<(), SourceUrlError> {
        let url: SourceUrl = "postgres://rep%40l:s%3Acret@db.example:5433/shop?sslmode=require".parse()?;
        assert_eq!(url.user.as_deref(), Some("rep@l"));
        assert_eq!(url.password.as_deref(), Some("s:cret"));
        assert_eq!((url.port, url.database()), (Some(5433), Some("shop")));
        assert_eq!(url.query.get("sslmode").map(String::as_str), Some("require"));
        assert!(!format!("{url} {url:?}").contains("cret"));
        let socket: SourceUrl = "postgres:///shop?host=/var/run/postgresql".parse()?;
        assert_eq!((socket.database(), socket.host.as_deref()), (Some("shop"), None));
        Ok(())
    }

    #[test]
    fn a_toolkit_is_named_in_the_scheme() -> Result<(), SourceUrlError> {
        let url: SourceUrl = "toolkit+etcd://root:s%3Acret@[::1]:2379/a%20b?ca=/x".parse()?;
        assert_eq!((url.engine, url.toolkit()), (EngineKind::Toolkit, Some("etcd")));
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("root"), Some("s:cret")));
        assert_eq!((url.host.as_deref(), url.port, url.path.as_str()), (Some("::1"), Some(2379), "/a b"));
        assert!("toolkit+sqlite:///srv/app.db".parse::<SourceUrl>().is_ok_and(|url| url.path == "/srv/app.db"));
        let url: SourceUrl = "toolkit+x://u:p1@h/d?api_token=t1&mode=2&Password=p2&token=".parse()?;
        assert_eq!(url.secrets(), ["p1", "p2", "t1"]);
        for bad in ["toolkit://x", "toolkit+://x", "toolkit+a.b://x", "toolkit+../x://y"] {
            assert!(bad.parse::<SourceUrl>().is_err(), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn a_redis_url_names_a_host_and_the_number_of_a_database() {
        let url: Result<SourceUrl, _> = "redis://:s%3Acret@cache:6380/2".parse();
        let read = url.map(|url| (url.engine, url.user, url.password, url.port, url.path));
        let wanted = (EngineKind::Redis, None, Some("s:cret".to_owned()), Some(6380), "/2".to_owned());
        assert_eq!(read, Ok(wanted));
        assert!("redis://cache".parse::<SourceUrl>().is_ok() && "valkey://cache/1".parse::<SourceUrl>().is_ok());
        assert!("rediss://cache".parse::<SourceUrl>().is_err_and(|error| error.to_string().contains("a tunnel")));
        assert!("redis://cache/shop".parse::<SourceUrl>().is_err() && "redis:///0".parse::<SourceUrl>().is_err());
    }

    #[test]
    fn directories_and_refusals() {
        assert_eq!("file:///srv/a%20b".parse::<SourceUrl>().map(|u| u.path), Ok("/srv/a b".to_owned()));
        assert!("ssh://deploy@web1/srv/files".parse::<SourceUrl>().is_ok());
        for bad in ["", "shop", "file:///", "ssh:///x", "http://x/y", "ssh://-oProxyCommand=x/y", "file:///a%0Ab"] {
            assert!(bad.parse::<SourceUrl>().is_err(), "{bad}");
        }
    }

    fn refusal(text: &str) -> String {
        text.parse::<SourceUrl>().map_or_else(|error| error.to_string(), |url| format!("it is {url}"))
    }

    #[test]
    fn a_password_that_is_not_percent_encoded_is_never_taken_for_something_else_or_repeated() {
        for bad in [
            "mariadb://pando:12/SECRET@127.0.0.1:15502/blog",
            "mysql://pando:12?SECRET@127.0.0.1/blog",
            "mysql://pando:12?SE=CRET&SECRET@127.0.0.1/blog",
            "mariadb://pando:12#SECRET@127.0.0.1/blog",
            "postgres://pando:pa'ss:w@rd/SECRET@127.0.0.1:15501/shop",
            "postgres://pando:w@rd?SECRET@127.0.0.1/shop",
            "redis://pando:12/SECRET@cache/0",
            "redis://:12/SECRET@cache/0",
            "toolkit+etcd://root:23/SECRET@etcd:2379",
            "postgres://pando:se/SECRET@127.0.0.1/shop",
        ] {
            let said = refusal(bad);
            assert!(said.contains("percent-encode") || said.contains("%23"), "{bad}: {said}");
            assert!(!said.contains("SE") && !said.contains("127.0.0.1"), "{bad}: {said}");
        }
        let read = |text: &str| text.parse::<SourceUrl>().ok().and_then(|url| url.password);
        assert_eq!(read("postgres://u:a%40b%2Fc@h/d").as_deref(), Some("a@b/c"));
        assert_eq!(read("postgres://u:a@b@h/d").as_deref(), Some("a@b"));
        for good in ["postgres:///d?host=@pg", "mysql://h/a%40b", "toolkit+sqlite:///srv/a@b.db", "ssh://u@h/a@b"] {
            assert!(good.parse::<SourceUrl>().is_ok(), "{good}");
        }
    }

    #[test]
    fn what_would_be_lost_of_an_address_is_refused_with_what_was_meant() {
        for (bad, sign) in [
            ("file:///srv/conf#x", "%23"),
            ("file:///srv/q?y", "%3F"),
            ("file:///srv/q?", "%3F"),
            ("ssh://web/srv/q?", "%3F"),
            ("ssh://web/srv/q?y", "no option y; known are identity, known_hosts"),
            ("ssh://web/srv/q?identiy=/k", "did you mean identity?"),
            ("postgres://h/d#x", "%23"),
            ("mariadb://h/d?datadri=none&x=y", "mariadb:// addresses have no option datadri; did you mean datadir?"),
            ("mysql://h/d?sslmode=x", "did you mean ssl-mode?"),
            ("mysql://h/d?socket=/s&database=x", "known are clone-plugin, datadir, socket, "),
            ("redis://h/0?tls=1", "redis:// addresses have no option tls; they have none"),
        ] {
            let said = refusal(bad);
            assert!(said.contains(sign), "{bad}: {said}");
        }
        assert_eq!("file:///srv/a%23b%3Fc".parse::<SourceUrl>().map(|url| url.path), Ok("/srv/a#b?c".to_owned()));
        for good in [
            "ssh://web/srv?identity=/k&known_hosts=/h",
            "postgres://h/d?sslmode=require&x=y",
            "toolkit+x://h?anything=1",
            "mysql://h/d?socket=/s&ssl-ca=/c&ssl-mode=REQUIRED&clone-plugin=none",
            "mariadb://h/d?datadir=none&ssl=1&ssl-cert=/c&ssl-key=/k&ssl-verify-server-cert=1",
        ] {
            assert!(good.parse::<SourceUrl>().is_ok(), "{good}");
        }
    }
}
