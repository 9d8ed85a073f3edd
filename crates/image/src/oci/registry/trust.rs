//! Whom a registry's certificate may come from, and what this machine shows of itself. Besides the system's own
//! bundle, certificates lie where Docker and Podman look for them: `DIR/HOST:PORT/` with any `*.crt` as roots, and a
//! `NAME.cert` with its `NAME.key` for a registry that asks for a client's certificate.

use std::fs;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, parse_pem};

/// Where systems keep whom they trust.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Where certificates of registries are looked for.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Directories with one directory per registry.
    pub dirs: Vec<PathBuf>,
    /// The system's certificates, where they lie elsewhere than usual.
    pub bundle: Option<PathBuf>,
}

impl Default for Trust {
    fn default() -> Self {
        Self { dirs: vec!["/etc/docker/certs.d".into(), "/etc/containers/certs.d".into()], bundle: None }
    }
}

/// What was found for one registry.
pub(super) struct Found {
    /// Whom it may be certified by.
    pub roots: Vec<Certificate<'static>>,
    /// What it is shown when it asks.
    pub client: Option<ClientCert>,
    /// Whether there is a directory for this very registry: then it is spoken to by TLS, wherever it is.
    pub own: bool,
}

impl Trust {
    /// What there is for a registry. Files that cannot be read are as good as absent: the connection says so.
    pub(super) fn of(&self, registry: &str) -> Found {
        let bundles = BUNDLES.iter().map(Path::new);
        let system: Vec<Certificate<'static>> = match &self.bundle {
            Some(bundle) => certificates(bundle),
            None => bundles.map(certificates).find(|found| !found.is_empty()).unwrap_or_default(),
        };
        let mut found = Found { roots: system, client: None, own: false };
        for dir in self.dirs.iter().map(|dir| dir.join(registry)) {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            found.own = true;
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                match file.extension().and_then(|end| end.to_str()) {
                    Some("crt") => found.roots.extend(certificates(&file)),
                    Some("cert") if found.client.is_none() => found.client = client(&file),
                    _ => {}
                }
            }
        }
        found
    }
}

fn certificates(path: &Path) -> Vec<Certificate<'static>> {
    let Ok(text) = fs::read(path) else { return Vec::new() };
    let certificate = |item: PemItem<'static>| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    parse_pem(&text).flatten().filter_map(certificate).collect()
}

fn client(cert: &Path) -> Option<ClientCert> {
    let key = PrivateKey::from_pem(&fs::read(cert.with_extension("key")).ok()?).ok()?;
    let chain = certificates(cert);
    (!chain.is_empty()).then(|| ClientCert::new_with_certs(&chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_certificates_of_its_own_besides_those_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(dir.path().join("bundle"), [pem, pem].concat()).unwrap();
        fs::create_dir(dir.path().join("reg.example:5000")).unwrap();
        for name in ["ca.crt", "other.crt", "README"] {
            fs::write(dir.path().join("reg.example:5000").join(name), pem).unwrap();
        }
        let trust = Trust { dirs: vec![dir.path().to_owned()], bundle: Some(dir.path().join("bundle")) };
        let found = trust.of("reg.example:5000");
        assert_eq!((found.roots.len(), found.own, found.client.is_some()), (4, true, false));
        let other = trust.of("reg.example");
        assert_eq!((other.roots.len(), other.own), (2, false));
        let none = Trust { dirs: Vec::new(), bundle: Some(dir.path().join("nothing")) };
        assert!(none.of("reg.example").roots.is_empty());
    }
}
