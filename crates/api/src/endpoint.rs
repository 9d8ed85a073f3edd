//! Where a daemon is: a unix socket, or a TCP address with a token.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use url::Url;

/// Where a daemon answers. `Debug` and `Display` never show the token.
#[derive(Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket on this machine; who may open it may do everything.
    Unix(PathBuf),
    /// A TCP address.
    Tcp {
        /// Host name or address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// The bearer token.
        token: Option<String>,
    },
}

/// Why a text is not the address of a daemon.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EndpointError {
    /// Not a URL.
    #[error("{0:?} is not the address of a daemon: it looks like http://127.0.0.1:7117 or unix:///path/pando.sock")]
    Malformed(String),
    /// TLS is not spoken.
    #[error("a daemon speaks no TLS: use http:// through a tunnel, or put a proxy in front")]
    Tls,
}

impl Endpoint {
    /// The socket of the daemon that serves `home`.
    pub fn of_home(home: &Path) -> Self {
        Self::Unix(socket_path(home))
    }

    /// Reads `http://host:port` (with `token`) or `unix:///path`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str, token: Option<String>) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed(text.chars().take(120).collect());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(malformed()) };
        }
        let url = Url::parse(text).map_err(|_| malformed())?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(EndpointError::Tls),
            _ => return Err(malformed()),
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(malformed)?;
        let bare = url.username().is_empty() && url.password().is_none() && url.path() == "/" && url.query().is_none();
        if !bare {
            return Err(malformed());
        }
        let port = url.port_or_known_default().unwrap_or(80);
        Ok(Self::Tcp { host: host.trim_matches(['[', ']']).to_owned(), port, token })
    }

    /// What stands in the `Host` header.
    pub fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

/// The socket of the daemon that serves `home`.
pub fn socket_path(home: &Path) -> PathBuf {
    home.join("run").join("pando.sock")
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp { .. } => write!(f, "http://{}", self.authority()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_the_token_is_never_shown() -> Result<(), EndpointError> {
        let tcp = Endpoint::parse("http://127.0.0.1:7117", Some("t0psecret".into()))?;
        assert_eq!(format!("{tcp}"), "http://127.0.0.1:7117");
        assert!(!format!("{tcp:?}").contains("t0psecret"));
        assert_eq!(Endpoint::parse("http://[::1]:80/", None)?.authority(), "[::1]:80");
        assert_eq!(Endpoint::parse("unix:///run/x.sock", None)?, Endpoint::Unix("/run/x.sock".into()));
        Ok(())
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "x", "unix://rel", "ftp://h/", "http://h/path", "http://u:p@h/", "127.0.0.1:7117"] {
            assert!(matches!(Endpoint::parse(text, None), Err(EndpointError::Malformed(_))), "{text}");
        }
        assert_eq!(Endpoint::parse("https://h", None), Err(EndpointError::Tls));
    }
}
