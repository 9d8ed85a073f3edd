//! Images with data in them: on a server image that is a directory with one small layer, sent to a registry that
//! takes everything. And what only they are refused.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use pando_catalog::{ImageName, ImageRecord};
use pando_image::oci::{Layer, digest_of};
use pando_image::tar::{Entry, Writer};
use pando_model::{ErrorKind, ImagePushRequest, ImageRemoveRequest, ImageRequest, ImageSaveRequest, Moment};

use super::kit::{Kit, go, masking, name};
use crate::fault::Done;
use crate::verbs::image::{ImageBuild, ImagePush, ImageRemove, ImageSave};
use crate::verbs::link;
use crate::world::World;

/// Where the server image of a kit is.
fn layout(world: &World) -> PathBuf {
    world.home.root().join("server-image")
}

/// A server image in OCI's layout: one layer with an account.
fn server_image(world: &World) {
    let dir = layout(world);
    let put = |bytes: &[u8]| {
        let digest = digest_of(bytes);
        std::fs::write(dir.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
        serde_json::json!({ "digest": digest, "size": bytes.len() })
    };
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let text = b"root:x:0:0::/:/bin/sh\nsim:x:7:8::/:/bin/sh\n";
    let mut tar = Writer::new(Vec::new());
    tar.head(&Entry::file("etc/passwd", 0o644, text.len() as u64)).unwrap();
    tar.data(text).unwrap();
    let layer = tar.finish().unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Volumes": { "/var/lib/sim": {} } },
        "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] },
    });
    let mut layer = put(&layer);
    layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
    let config = put(config.to_string().as_bytes());
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [put(manifest.to_string().as_bytes())] });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

fn request(world: &World, reference: &str, of: Option<&str>) -> ImageRequest {
    ImageRequest {
        reference: reference.to_owned(),
        name: of.map(name),
        moment: None,
        source: None,
        base: of.map(|_| format!("oci:{}", layout(world).display())),
        path: None,
        user: None,
        password: None,
        max_bytes: Some(1 << 20),
        profile: None,
        load: None,
        masked: None,
        login: None,
    }
}

/// Builds an image; with no name as it was built before.
pub fn build(world: &Arc<World>, reference: &str, of: Option<&str>) -> Done<()> {
    let wanted = request(world, reference, of);
    go(world, &["the image"], |world| ImageBuild::new(world, wanted))
}

/// An app with files, of which only the database can be in an image.
pub fn given(kit: &Kit) {
    kit.link(true);
    server_image(&kit.world);
}

pub fn given_built(kit: &Kit) {
    given(kit);
    build(&kit.world, "img:1", Some("shop")).unwrap();
}

/// An app whose trees have to be made anew before they leave.
pub fn given_anew(kit: &Kit) {
    given(kit);
    kit.engine.set_renews(true);
}

/// A masked clone.
pub fn given_masked(kit: &Kit) {
    go(&kit.world, &["shop"], |world| link::Link::new(world, masking())).unwrap();
    kit.commit(1);
    server_image(&kit.world);
    kit.make_clone("shop", "dev", false);
}

/// Builds an image of the app, masked.
pub fn build_masked(world: &Arc<World>) -> Done<()> {
    let wanted = ImageRequest { masked: Some(true), ..request(world, "img:1", Some("shop")) };
    go(world, &["the image"], |world| ImageBuild::new(world, wanted))
}

/// A later state that is prepared.
pub fn given_more(kit: &Kit) {
    given_built(kit);
    kit.commit(7);
    kit.snapshot("shop");
    kit.keep();
}

pub fn given_near_registry(kit: &Kit) {
    given(kit);
    build(&kit.world, &near(), Some("shop")).unwrap();
}

pub fn names(kit: &Kit) -> Vec<ImageName> {
    kit.world.catalog.all().unwrap()
}

pub fn all(kit: &Kit) -> Vec<ImageRecord> {
    kit.world.catalog.all().unwrap()
}

pub fn built(kit: &Kit) -> bool {
    names(kit).len() == 1 && all(kit).len() == 1
}

pub fn built_again(kit: &Kit) -> bool {
    let newest = names(kit).remove(0).image;
    all(kit).len() == 2 && all(kit).iter().all(|one| one.digest == newest || one.moment < stands_for(kit, 0).moment)
}

pub fn remove(world: &Arc<World>) -> Done<()> {
    let body = ImageRemoveRequest { reference: "img:1".to_owned() };
    go(world, &["the image"], |world| ImageRemove::new(world, &body))
}

pub fn push(world: &Arc<World>) -> Done<()> {
    let body = ImagePushRequest { reference: near(), login: None };
    go(world, &["the image"], |world| ImagePush::new(world, &body))
}

/// Writes it as a file that nobody keeps.
pub fn save(world: &Arc<World>) -> Done<()> {
    world.transfers.stand_in(|_, mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let body = ImageSaveRequest { reference: "img:1".to_owned() };
    go(world, &["the image"], |world| ImageSave::new(world, &body))
}

pub fn pushed(kit: &Kit) -> bool {
    names(kit).iter().any(|name| name.pushed.as_ref().is_some_and(|(digest, _)| *digest == name.image))
}

fn stands_for(kit: &Kit, name: usize) -> ImageRecord {
    kit.world.catalog.get(&names(kit)[name].image).unwrap().unwrap()
}

/// An image's name at a registry that has nothing and takes everything.
fn near() -> String {
    static PORT: OnceLock<u16> = OnceLock::new();
    let port = PORT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream))));
        port
    });
    format!("127.0.0.1:{port}/team/img:1")
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some((_, value)) = line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case("content-length")) {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
    let status = match first.split(' ').next().unwrap_or_default() {
        "HEAD" => "404 Not Found",
        "POST" => "202 Accepted\r\nLocation: /v2/team/img/blobs/uploads/1",
        _ => "201 Created",
    };
    let stream = reader.get_mut();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[test]
fn the_same_moment_is_the_same_image_and_the_next_lies_on_it() {
    let kit = Kit::new();
    given_built(&kit);
    let first = stands_for(&kit, 0);
    // Under its own name, and under another.
    build(&kit.world, "img:1", Some("shop")).unwrap();
    build(&kit.world, "img:2", Some("shop")).unwrap();
    assert_eq!((names(&kit).len(), all(&kit)), (2, vec![first.clone()]));
    kit.commit(7);
    kit.snapshot("shop");
    kit.keep();
    build(&kit.world, "img:1", None).unwrap();
    let second = stands_for(&kit, 0);
    assert_ne!(second.digest, first.digest);
    assert!(second.changed_bytes > 0 && second.changed_bytes <= second.changed_file_bytes, "{second:?}");
    assert_eq!((second.user.as_str(), &second.base), ("pando", &first.base));
    // The first moment again, though nothing stands for it any more.
    let moment = Some(Moment::At(first.moment));
    let wanted = ImageRequest { moment, ..request(&kit.world, "img:2", Some("shop")) };
    go(&kit.world, &["the image"], |world| ImageBuild::new(world, wanted)).unwrap();
    let asked_again = stands_for(&kit, 1);
    assert_eq!(asked_again.moment, first.moment);
    let config = crate::images::store(&kit.world).read(&second.config).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert!(config["config"].get("Volumes").is_none());
    assert_eq!(config["config"]["Labels"]["pando.app"], "shop");
    assert_eq!(config["config"]["Labels"]["pando.moment"], second.moment.to_string());
    assert_eq!(super::agree::complaints(&kit), Vec::<String>::new());
}

#[test]
fn a_directory_lies_on_an_image_or_on_nothing() {
    let kit = Kit::new();
    given(&kit);
    let files = kit.owner("shop").sources[&name("files")].seat.data.clone();
    std::fs::write(files.join("logo"), "png").unwrap();
    kit.snapshot("shop");
    let of = |reference: &str, base: bool, path: Option<&str>| {
        let whole = request(&kit.world, reference, Some("shop"));
        let base = whole.base.clone().filter(|_| base);
        let wanted = ImageRequest { source: Some(name("files")), path: path.map(str::to_owned), base, ..whole };
        go(&kit.world, &["the image"], |world| ImageBuild::new(world, wanted)).unwrap();
        let all = names(&kit);
        let at = all.iter().position(|name| name.reference == reference).unwrap();
        stands_for(&kit, at)
    };
    let (alone, on_top) = (of("alone:1", false, None), of("on-top:1", true, Some("/srv//files/")));
    assert_eq!((alone.path.as_str(), on_top.path.as_str(), alone.port), ("/", "/srv/files", None));
    let store = crate::images::store(&kit.world);
    let config =
        |image: &ImageRecord| serde_json::from_slice::<serde_json::Value>(&store.read(&image.config).unwrap()).unwrap();
    let (bare, whole) = (config(&alone), config(&on_top));
    let count = |config: &serde_json::Value| config["rootfs"]["diff_ids"].as_array().unwrap().len();
    assert_eq!((count(&bare), count(&whole)), (1, 2));
    assert_eq!(whole["config"]["Volumes"], serde_json::json!({ "/var/lib/sim": {} }), "not over it");
    assert_eq!(bare["config"]["Labels"]["pando.path"], "/");
    // Once more as it was; then with one file more, and one less.
    let again = ImageRequest { base: None, ..request(&kit.world, "on-top:1", None) };
    std::fs::remove_file(files.join("logo")).unwrap();
    std::fs::write(files.join("new"), "svg").unwrap();
    kit.commit(7);
    kit.snapshot("shop");
    kit.keep();
    go(&kit.world, &["the image"], |world| ImageBuild::new(world, again)).unwrap();
    let newer = stands_for(&kit, 1);
    assert_eq!((newer.path.as_str(), &newer.base), ("/srv/files", &on_top.base));
    assert!(newer.moment > on_top.moment && newer.digest != on_top.digest, "{newer:?}");
    let shown = crate::images::views(&kit.world).unwrap();
    assert!(shown.iter().all(|one| one.user.is_none() && one.password.is_none()), "{shown:?}");
    assert_eq!(super::agree::complaints(&kit), Vec::<String>::new());
}

#[test]
fn small_layers_lie_on_a_large_one() {
    let kit = Kit::new();
    given(&kit);
    let mirror = kit.owner("shop").sources[&name("db")].seat.data.clone();
    // What gzip cannot make small.
    let noise: Vec<u8> = (0..4_000_u64).flat_map(|i| digest_of(&i.to_le_bytes()).into_bytes()).collect();
    std::fs::write(mirror.join("large"), &noise).unwrap();
    kit.snapshot("shop");
    kit.keep();
    let wanted = ImageRequest { max_bytes: Some(1 << 30), ..request(&kit.world, "img:1", Some("shop")) };
    go(&kit.world, &["the image"], |world| ImageBuild::new(world, wanted)).unwrap();
    let first = stands_for(&kit, 0);
    kit.commit(7);
    kit.snapshot("shop");
    kit.keep();
    let wanted = ImageRequest { max_bytes: None, ..request(&kit.world, "img:1", None) };
    go(&kit.world, &["the image"], |world| ImageBuild::new(world, wanted)).unwrap();
    let second = stands_for(&kit, 0);
    let layers = |image: &ImageRecord| serde_json::from_value::<Vec<Layer>>(image.layers.clone()).unwrap();
    assert_eq!((layers(&first).len(), layers(&second).len()), (1, 2));
    assert_eq!(layers(&second)[0], layers(&first)[0]);
    assert!(second.new_bytes < 10_000 && first.new_bytes > 100_000, "{} {}", second.new_bytes, first.new_bytes);
}

#[test]
fn what_cannot_be_in_an_image_is_refused() {
    let kit = Kit::new();
    given(&kit);
    let refused = |change: &dyn Fn(&mut ImageRequest)| {
        let mut wanted = request(&kit.world, "img:1", Some("shop"));
        change(&mut wanted);
        let problem =
            go(&kit.world, &["the image"], |world| ImageBuild::new(world, wanted)).unwrap_err().into_problem();
        assert!(names(&kit).is_empty() && super::agree::complaints(&kit).is_empty(), "{problem}");
        problem
    };
    assert_eq!(refused(&|it| it.name = None).kind, ErrorKind::NotFound);
    assert_eq!(refused(&|it| it.reference = "A b".to_owned()).kind, ErrorKind::Usage);
    assert_eq!(refused(&|it| it.user = Some("x\"y".to_owned())).kind, ErrorKind::Usage);
    let directory = |path: Option<&str>| {
        let path = path.map(str::to_owned);
        move |it: &mut ImageRequest| (it.source, it.path) = (Some(name("files")), path.clone())
    };
    for (path, word) in [
        (None, "where in that image"),
        (Some("web"), "absolute"),
        (Some("/a/../b"), "absolute"),
        (Some("/"), "over all"),
    ] {
        assert!(refused(&directory(path)).message.contains(word), "{path:?}");
    }
    assert!(refused(&|it| it.path = Some("/data".to_owned())).message.contains("only a directory"));
    assert!(refused(&|it| it.load = Some(true)).message.contains("no Docker or Podman engine"));
    let large = refused(&|it| it.max_bytes = Some(3)).message;
    assert!(large.contains("the largest: state"), "{large}");
}

#[test]
fn an_image_of_a_masked_clone_says_so_and_lies_on_nothing_else() {
    let kit = Kit::new();
    given_masked(&kit);
    build(&kit.world, "plain:1", Some("shop")).unwrap();
    build(&kit.world, "masked:1", Some("dev")).unwrap();
    kit.snapshot("dev");
    build(&kit.world, "masked:1", None).unwrap();
    let of = |reference: &str| {
        let at = names(&kit).iter().position(|name| name.reference == reference).unwrap();
        let image = stands_for(&kit, at);
        let config = crate::images::store(&kit.world).read(&image.config).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let layers = serde_json::from_value::<Vec<Layer>>(image.layers.clone()).unwrap().len();
        (image.masked, config["config"]["Labels"]["pando.masked"].clone(), layers)
    };
    assert_eq!(of("masked:1"), (true, "true".into(), 1));
    assert_eq!(of("plain:1"), (false, "false".into(), 1));
    // Nor does one that is not masked lie on a masked one.
    kit.commit(7);
    kit.snapshot("shop");
    kit.keep();
    build(&kit.world, "plain:1", None).unwrap();
    assert!(!of("plain:1").0);
    assert_eq!(super::agree::complaints(&kit), Vec::<String>::new());
}

#[test]
fn an_app_is_masked_on_a_clone_that_nobody_sees_for_an_image_of_it() {
    let kit = Kit::new();
    given_masked(&kit);
    let clones = || {
        let all: Vec<pando_catalog::CloneRecord> = kit.world.catalog.all().unwrap();
        all.into_iter().map(|clone| clone.name.to_string()).collect::<Vec<_>>()
    };
    let again = |masked: Option<bool>| {
        let wanted = ImageRequest { masked, ..request(&kit.world, "img:1", None) };
        go(&kit.world, &["the image"], |world| ImageBuild::new(world, wanted)).unwrap();
        stands_for(&kit, 0)
    };
    build_masked(&kit.world).unwrap();
    let first = stands_for(&kit, 0);
    assert!(first.masked && first.owner == kit.owner("shop").id && first.name == name("shop"), "{first:?}");
    assert_eq!(clones(), ["dev"]);
    assert!(kit.hooks.ran.lock().unwrap().iter().any(|ran| ran.starts_with("configure-clone shop-masking-")));
    // It is remembered. What hooks have masked is masked again, since they may be others.
    let second = again(None);
    assert!(second.masked && second.made_of != first.made_of);
    assert!(!again(Some(false)).masked && !again(None).masked);
    // What edits alone have masked is the same until they are others.
    let declare = |text: &str| {
        let mut wanted = masking();
        wanted.hooks.clear();
        wanted.edits[0].text = Some(text.to_owned());
        go(&kit.world, &["shop"], |world| crate::verbs::apply::Apply::new(world, wanted)).unwrap();
    };
    declare("{{clone.name}} of nobody");
    let third = again(Some(true));
    assert_eq!(again(None).made_of, third.made_of);
    declare("of nobody");
    assert_ne!(again(None).made_of, third.made_of);
    assert_eq!((clones(), super::agree::complaints(&kit)), (vec!["dev".to_owned()], Vec::new()));
}

#[test]
fn what_is_to_be_masked_and_is_not_is_refused() {
    let kit = Kit::new();
    given_masked(&kit);
    let refused = |of: &str| {
        let wanted = ImageRequest { masked: Some(true), ..request(&kit.world, "img:1", Some(of)) };
        let made = go(&kit.world, &["the image"], |world| ImageBuild::new(world, wanted));
        made.err().map(|fault| fault.into_problem())
    };
    assert!(refused("dev").is_none() && stands_for(&kit, 0).masked);
    let mut plain = masking();
    plain.edits.iter_mut().for_each(|edit| edit.masks = false);
    plain.hooks.iter_mut().for_each(|hook| hook.masks = false);
    go(&kit.world, &["shop"], |world| crate::verbs::apply::Apply::new(world, plain)).unwrap();
    kit.make_clone("shop", "other", false);
    for (of, says) in [("shop", "nothing masks the data of shop"), ("other", "other is not masked at that moment")] {
        let problem = refused(of).unwrap();
        assert_eq!((problem.kind, problem.message.as_str()), (ErrorKind::Refused, says));
        assert!(problem.hint.unwrap().contains("masks = true"));
    }
    assert_eq!(super::agree::complaints(&kit), Vec::<String>::new());
}
