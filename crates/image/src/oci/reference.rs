//! Names of images, as Docker reads them: `postgres:15.4`, `registry.example:5000/team/shop@sha256:…`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::hex_of;

/// An image's name: a registry, a repository, and a tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    host: String,
    /// The repository inside of its registry.
    pub repository: String,
    /// A tag, or a digest.
    pub tag: String,
}

/// What a name without a registry means.
const HUB: &str = "docker.io";

impl FromStr for Reference {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no name of an image: {why}");
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if hex_of(digest).is_some() => (name, Some(digest)),
            Some(_) => return Err(wrong("behind @ stands sha256: and 64 digits")),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (name, "latest"),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if tag.is_empty() || tag.len() > 128 || !tag.chars().all(plain) || tag.starts_with(['.', '-']) {
            return Err(wrong("a tag is letters, digits, _, . and -"));
        }
        let (host, path) = match name.split_once('/') {
            // As Docker tells a registry from the first part of a path.
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => (HUB, name.to_owned()),
            None => (HUB, format!("library/{name}")),
        };
        let part = |part: &str| {
            let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.chars().all(small)
                && !part.ends_with(['_', '.', '-'])
        };
        if path.len() > 255 || !path.split('/').all(part) {
            return Err(wrong("a repository is small letters, digits and -, parted by /"));
        }
        let begins = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
        if !begins || !host.chars().all(|c| plain(c) || matches!(c, ':' | '[' | ']')) {
            return Err(wrong("its registry is a host, and perhaps a port"));
        }
        Ok(Self { host: host.to_owned(), repository: path, tag: digest.unwrap_or(tag).to_owned() })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host == HUB { String::new() } else { format!("{}/", self.host) };
        let path = self.repository.strip_prefix("library/").filter(|_| self.host == HUB).unwrap_or(&self.repository);
        let sign = if self.tag.contains(':') { '@' } else { ':' };
        write!(f, "{host}{path}{sign}{}", self.tag)
    }
}

impl Reference {
    /// The name with all that Docker leaves out: `docker.io/library/postgres:15.4`.
    pub fn whole(&self) -> String {
        let sign = if self.tag.contains(':') { '@' } else { ':' };
        format!("{}/{}{sign}{}", self.host, self.repository, self.tag)
    }

    /// Host and port of its registry, as a login is kept under.
    pub fn registry(&self) -> &str {
        &self.host
    }

    /// Whether it names one image for ever.
    pub fn is_digest(&self) -> bool {
        self.tag.contains(':')
    }

    /// The address of its registry: plain HTTP on this machine alone.
    pub fn address(&self) -> String {
        if self.host == HUB {
            return "https://registry-1.docker.io".to_owned();
        }
        let bare = match self.host.rsplit_once(':') {
            Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
            _ => &self.host,
        };
        format!("{}://{}", if is_here(bare) { "http" } else { "https" }, self.host)
    }
}

/// Whether a host is this machine and no network lies in between.
pub(super) fn is_here(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, address, repository, tag) in [
            ("postgres", "https://registry-1.docker.io", "library/postgres", "latest"),
            ("team/shop:1.0", "https://registry-1.docker.io", "team/shop", "1.0"),
            ("localhost:5000/shop", "http://localhost:5000", "shop", "latest"),
            ("127.0.0.1:5000/a/b:c", "http://127.0.0.1:5000", "a/b", "c"),
            ("[::1]:5000/a:c", "http://[::1]:5000", "a", "c"),
            ("reg.example/a:1", "https://reg.example", "a", "1"),
            ("127.evil.example/a:1", "https://127.evil.example", "a", "1"),
        ] {
            let read = read(text);
            assert_eq!(
                (read.address().as_str(), read.repository.as_str(), read.tag.as_str()),
                (address, repository, tag)
            );
            let again: Reference = read.to_string().parse().unwrap();
            assert_eq!(again, read, "{text}");
        }
        assert_eq!(read("shop").whole(), "docker.io/library/shop:latest");
        let pinned = read(&format!("reg.example/a:1@{digest}"));
        assert!(pinned.is_digest() && pinned.tag == digest);
        for bad in ["", "a b", "A/b", "x@sha256:1", "a:", "../a", "a/../b", "reg.example/", "a:b:c", "h\n.x/a"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
