//! Whom a registry's certificate may come from, and what this machine shows of itself. Besides the system's own
//! bundle, certificates lie where Docker and Podman look for them: `DIR/HOST:PORT/` with any `*.crt` as roots, and a
//! `NAME.cert` with its `NAME.key` for a registry that asks for a client's certificate.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::pinned::{self, Kept};

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

impl Trust {
    /// What there is for a registry, and whether there is a directory for this very one: then it is spoken to by TLS,
    /// wherever it is. Files that cannot be read are as good as absent: the connection says so.
    pub(super) fn of(&self, registry: &str) -> (Kept, bool) {
        let bundles = BUNDLES.iter().map(Path::new);
        let system = match &self.bundle {
            Some(bundle) => certificates(bundle),
            None => bundles.map(certificates).find(|found| !found.is_empty()).unwrap_or_default(),
        };
        let mut kept = Kept { roots: system, own: Vec::new(), client: None };
        let mut there = false;
        for dir in self.dirs.iter().map(|dir| dir.join(registry)) {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            there = true;
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                match file.extension().and_then(|end| end.to_str()) {
                    Some("crt") => kept.own.extend(certificates(&file)),
                    Some("cert") if kept.client.is_none() => kept.client = client(&file),
                    _ => {}
                }
            }
        }
        kept.roots.extend(kept.own.iter().cloned());
        (kept, there)
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    fs::read(path).map(|pem| pinned::certificates(&pem)).unwrap_or_default()
}

fn client(cert: &Path) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = pinned::key(&fs::read(cert.with_extension("key")).ok()?)?;
    Some((certificates(cert), key)).filter(|(chain, _)| !chain.is_empty())
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
        let (kept, there) = trust.of("reg.example:5000");
        assert_eq!((kept.roots.len(), kept.own.len(), there, kept.client.is_some()), (4, 2, true, false));
        let (other, there) = trust.of("reg.example");
        assert_eq!((other.roots.len(), other.own.len(), there), (2, 0, false));
        let none = Trust { dirs: Vec::new(), bundle: Some(dir.path().join("nothing")) };
        assert!(none.of("reg.example").0.roots.is_empty());
    }
}
