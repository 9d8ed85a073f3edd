//! Debian's registry as registries are: with a password, with tokens, by TLS, and behind a line that breaks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pando_image::ImageError;
use pando_image::oci::{BlobWriter, CONFIG, Descriptor, GZIP, Login, MANIFEST, Manners, Origin, Registry, Sent, Trust};
use pando_testkit::{Access, Fault, FaultyHttp, ImageRegistry, Wire};

/// An image whose layers are any bytes.
struct Sample {
    manifest: Vec<u8>,
    blobs: Vec<(Descriptor, PathBuf)>,
}

impl Sample {
    /// `salt`: what makes it another one.
    fn made(dir: &Path, salt: u8) -> Self {
        let layer = |size: usize, seed: u8| -> Vec<u8> {
            let mut state = u32::from(seed) + 1;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..size).map(|_| next()).collect()
        };
        let blobs: Vec<(Descriptor, PathBuf)> = [(GZIP, 3 << 20), (GZIP, 5000), (CONFIG, 20)]
            .into_iter()
            .zip(salt..)
            .map(|((media, size), seed)| {
                let blob = BlobWriter::whole(dir, media, &layer(size, seed)).unwrap();
                let path = dir.join(blob.digest.strip_prefix("sha256:").unwrap());
                (blob, path)
            })
            .collect();
        let (config, layers) = (&blobs[2].0, [&blobs[0].0, &blobs[1].0]);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        Self { manifest: manifest.to_string().into_bytes(), blobs }
    }

    fn bytes(&self) -> u64 {
        self.blobs.iter().map(|(blob, _)| blob.size).sum()
    }

    fn push(&self, registry: &mut Registry, from: Option<&str>) -> Result<Sent, ImageError> {
        registry.push(&self.manifest, &self.blobs, from, &mut |_| {})
    }

    /// Takes all of it back, and compares.
    fn is_there(&self, registry: &mut Registry) {
        assert_eq!(registry.manifest(None).unwrap(), self.manifest);
        for (blob, path) in &self.blobs {
            let mut bytes = Vec::new();
            registry.blob(&blob.digest).unwrap().read_to_end(&mut bytes).unwrap();
            assert!(bytes == std::fs::read(path).unwrap(), "{}", blob.digest);
        }
    }
}

fn ann(password: &str) -> Option<Login> {
    Some(Login { user: "ann".to_owned(), password: password.to_owned() })
}

fn nobody() -> Trust {
    Trust { dirs: Vec::new(), bundle: Some("/nobody".into()) }
}

fn registry(host: &str, name: &str, login: Option<Login>, trust: &Trust) -> Registry {
    let manners = Manners { wait: Duration::from_millis(10), ..Manners::default() };
    Registry::with_manners(format!("{host}/{name}").parse().unwrap(), login, trust, manners)
}

#[test]
fn tokens_are_got_with_a_password_or_an_identity_token_and_blobs_are_mounted_from_elsewhere() {
    let Some(server) = ImageRegistry::start_with(Access::Token, false) else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::made(dir.path(), 0);
    let at = |name: &str, login: Option<Login>| registry(&server.host(), name, login, &nobody());
    let denied = |outcome: Result<Sent, ImageError>| assert!(matches!(outcome, Err(ImageError::Denied { .. })));
    denied(image.push(&mut at("team/shop:1", None), None));
    denied(image.push(&mut at("team/shop:1", ann("wrong")), None));
    denied(image.push(&mut at("library/shop:1", ann("secret")), None));
    let mut shop = at("team/shop:1", ann("secret"));
    assert_eq!(image.push(&mut shop, None).unwrap(), Sent { blobs: 3, bytes: image.bytes(), there: 0 });
    image.is_there(&mut at("team/shop:1", ann("secret")));
    // From there into another repository nothing travels.
    let mut next = at("team/next:1", ann("secret"));
    assert_eq!(image.push(&mut next, Some("team/shop")).unwrap(), Sent { blobs: 0, bytes: 0, there: image.bytes() });
    image.is_there(&mut next);
    let scopes = ["repository:team/next:pull,push", "repository:team/shop:pull"];
    assert!(server.asked().windows(2).any(|two| two == scopes), "{:?}", server.asked());
    // Another that may not be looked into is no reason to fail.
    let other = Sample::made(dir.path(), 7);
    let identity = Login { user: Login::IDENTITY.to_owned(), password: "ann-for-a-year".to_owned() };
    let sent = other.push(&mut at("team/third:1", Some(identity)), Some("secret/place")).unwrap();
    assert_eq!(sent, Sent { blobs: 3, bytes: other.bytes(), there: 0 });
    let guessed = Login { user: Login::IDENTITY.to_owned(), password: "guessed".to_owned() };
    denied(other.push(&mut at("team/third:2", Some(guessed)), None));
}

#[test]
fn a_registry_with_an_authority_of_its_own_is_trusted_once_its_certificate_is_kept() {
    let Some(server) = ImageRegistry::start_with(Access::Password, true) else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::made(dir.path(), 0);
    let own = Trust { dirs: vec![server.certs()], bundle: Some("/nobody".into()) };
    let at = |login: Option<Login>, trust: &Trust| registry(&server.host(), "shop:1", login, trust);
    assert!(matches!(image.push(&mut at(ann("wrong"), &own), None), Err(ImageError::Denied { .. })));
    image.push(&mut at(ann("secret"), &own), None).unwrap();
    image.is_there(&mut at(ann("secret"), &own));
    // By another authority's certificate nothing is said, the password least of all.
    let Some(stranger) = ImageRegistry::start_with(Access::Open, true) else { return };
    let certs = dir.path().join("certs").join(server.host());
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::copy(stranger.certs().join(stranger.host()).join("ca.crt"), certs.join("ca.crt")).unwrap();
    let other = Trust { dirs: vec![dir.path().join("certs")], bundle: Some("/nobody".into()) };
    let refused = image.push(&mut at(ann("secret"), &other), None).unwrap_err();
    assert!(matches!(&refused, ImageError::Mistrusted { source, .. } if source.to_string().contains("certificate")));
}

#[test]
fn a_certificate_that_has_signed_itself_is_taken_where_it_is_kept_and_good_and_nowhere_else() {
    let Some(server) = ImageRegistry::start_on(Access::Password, Wire::Itself) else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::made(dir.path(), 0);
    let at = |host: &str, trust: &Trust| registry(host, "shop:1", ann("secret"), trust);
    let kept = |server: &ImageRegistry| Trust { dirs: vec![server.certs()], bundle: Some("/nobody".into()) };
    image.push(&mut at(&server.host(), &kept(&server)), None).unwrap();
    image.is_there(&mut at(&server.host(), &kept(&server)));
    let refused = |server: &ImageRegistry, trust: &Trust, why: &str| {
        let error = image.push(&mut at(&server.host(), trust), None).unwrap_err();
        let ImageError::Mistrusted { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains(why), "{source}");
    };
    // Another of the same name is kept, or it is trusted as an authority of all, as a browser would not.
    let Some(stranger) = ImageRegistry::start_on(Access::Open, Wire::Itself) else { return };
    let certs = dir.path().join("certs").join(server.host());
    std::fs::create_dir_all(&certs).unwrap();
    let (theirs, own) = (stranger.certs().join(stranger.host()), server.certs().join(server.host()));
    std::fs::copy(theirs.join("ca.crt"), certs.join("ca.crt")).unwrap();
    refused(&server, &Trust { dirs: vec![dir.path().join("certs")], bundle: Some("/nobody".into()) }, "certificate");
    let none = dir.path().join("none");
    std::fs::create_dir_all(none.join(server.host())).unwrap();
    refused(&server, &Trust { dirs: vec![none], bundle: Some(own.join("ca.crt")) }, "CaUsedAsEndEntity");
    // One that is kept, but whose time is over, or that is for another host.
    let Some(expired) = ImageRegistry::start_on(Access::Open, Wire::Expired) else { return };
    refused(&expired, &kept(&expired), "expired");
    let Some(elsewhere) = ImageRegistry::start_on(Access::Open, Wire::Elsewhere) else { return };
    refused(&elsewhere, &kept(&elsewhere), "elsewhere.example");
}

#[test]
fn a_registry_that_asks_for_a_certificate_of_ours_gets_it() {
    let Some(server) = ImageRegistry::start_on(Access::Password, Wire::Mutual) else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::made(dir.path(), 0);
    let at = |trust: &Trust| registry(&server.host(), "shop:1", ann("secret"), trust);
    let own = Trust { dirs: vec![server.certs()], bundle: Some("/nobody".into()) };
    image.push(&mut at(&own), None).unwrap();
    image.is_there(&mut at(&own));
    // Without it, and with a key that is not its.
    let (kept, certs) = (server.certs().join(server.host()), dir.path().join("certs").join(server.host()));
    std::fs::create_dir_all(&certs).unwrap();
    std::fs::copy(kept.join("ca.crt"), certs.join("ca.crt")).unwrap();
    let other = Trust { dirs: vec![dir.path().join("certs")], bundle: Some("/nobody".into()) };
    let refused = image.push(&mut at(&other), None).unwrap_err();
    assert!(
        matches!(&refused, ImageError::Mistrusted { source, .. } if source.to_string().contains("ertificate")),
        "{refused:?}"
    );
    let Some(stranger) = ImageRegistry::start_on(Access::Open, Wire::Itself) else { return };
    std::fs::copy(stranger.certs().join(stranger.host()).join("ca.crt"), certs.join("client.cert")).unwrap();
    std::fs::copy(kept.join("client.key"), certs.join("client.key")).unwrap();
    let refused = image.push(&mut at(&other), None).unwrap_err().to_string();
    assert!(refused.contains("kept to be shown to it cannot be used"), "{refused}");
}

/// A line to a registry, on which the given faults happen to requests whose first line has a word, one after the other.
fn line(server: &ImageRegistry, word: &'static str, faults: Vec<Fault>) -> (FaultyHttp, Arc<Mutex<Vec<Fault>>>) {
    let left = Arc::new(Mutex::new(faults));
    let shared = Arc::clone(&left);
    let line = FaultyHttp::before(server.port(), move |first, _| {
        let mut left = shared.lock().unwrap();
        if first.contains(word) && !left.is_empty() { left.remove(0) } else { Fault::None }
    });
    (line, left)
}

#[test]
fn a_line_that_breaks_and_a_registry_that_is_busy_are_borne() {
    let Some(server) = ImageRegistry::start(false) else { return };
    let dir = tempfile::tempdir().unwrap();
    let busy = [Fault::Answer(429, "Retry-After: 0\r\n"), Fault::Answer(503, ""), Fault::CutAnswer(9)].to_vec();
    let cut = [Fault::CutRequest(1 << 20), Fault::Answer(502, "")].to_vec();
    let get = [Fault::None, Fault::CutAnswer(20_000), Fault::CutAnswer(900_000), Fault::Answer(504, "")].to_vec();
    for (salt, (word, faults)) in
        (0..).step_by(10).zip([("HEAD", busy.clone()), ("POST", busy), ("PUT", cut), ("GET", get)])
    {
        let image = Sample::made(dir.path(), salt);
        let (line, left) = line(&server, word, faults);
        let mut at = registry(&line.host(), "shop:1", None, &nobody());
        assert_eq!(image.push(&mut at, None).unwrap_or_else(|why| panic!("{word}: {why}")).blobs, 3);
        image.is_there(&mut at);
        assert_eq!(*left.lock().unwrap(), [], "{word}: all of it happened");
    }
    // There is an end to it.
    let (line, left) = line(&server, "PUT", vec![Fault::Answer(503, ""); 50]);
    let other = Sample::made(dir.path(), 90);
    let why = other.push(&mut registry(&line.host(), "shop:1", None, &nobody()), None).unwrap_err();
    assert!(why.to_string().contains("503"), "{why}");
    assert!(left.lock().unwrap().len() > 20, "it gave up");
}

#[test]
fn a_large_layer_goes_in_pieces_and_on_from_where_it_broke() {
    let Some(server) = ImageRegistry::start(false) else { return };
    let dir = tempfile::tempdir().unwrap();
    let small = Manners { tries: 6, wait: Duration::from_millis(10), whole: 1 << 20, piece: 1 << 20 };
    let at = |host: &str, manners| {
        Registry::with_manners(format!("{host}/shop:1").parse().unwrap(), None, &nobody(), manners)
    };
    // Pieces that were refused are sent again; those before them are not.
    let pieces = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&pieces);
    let line = FaultyHttp::before(server.port(), move |first, _| match first.starts_with("PATCH") {
        true if counted.fetch_add(1, Ordering::Relaxed) == 1 => Fault::Answer(503, "Retry-After: 0\r\n"),
        _ => Fault::None,
    });
    let image = Sample::made(dir.path(), 0);
    image.push(&mut at(&line.host(), small), None).unwrap();
    image.is_there(&mut at(&server.host(), small));
    assert_eq!(pieces.load(Ordering::Relaxed), 4, "three, and one again");
    // Debian's registry forgets an upload whose piece was cut off: it is begun again.
    let pieces = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&pieces);
    let line = FaultyHttp::before(server.port(), move |first, _| match first.starts_with("PATCH") {
        true if counted.fetch_add(1, Ordering::Relaxed) == 1 => Fault::CutRequest(300_000),
        _ => Fault::None,
    });
    let image = Sample::made(dir.path(), 10);
    image.push(&mut at(&line.host(), small), None).unwrap();
    image.is_there(&mut at(&server.host(), small));
    // What stands before it takes no more than 2 MiB at once: the whole layer is too large, its pieces are not.
    let limited = FaultyHttp::before(server.port(), |_, length| match length {
        length if length > 2 << 20 => Fault::Answer(413, ""),
        _ => Fault::None,
    });
    let image = Sample::made(dir.path(), 20);
    image.push(&mut at(&limited.host(), Manners { whole: 1 << 30, piece: 3 << 20, ..small }), None).unwrap();
    image.is_there(&mut at(&server.host(), small));
    // One that knows no pieces gets it whole.
    let whole = FaultyHttp::before(server.port(), |first, _| match first.starts_with("PATCH") {
        true => Fault::Answer(405, ""),
        false => Fault::None,
    });
    let image = Sample::made(dir.path(), 30);
    image.push(&mut at(&whole.host(), small), None).unwrap();
    image.is_there(&mut at(&server.host(), small));
}
