//! What goes elsewhere and what comes from there: whose servers are confined, and where nothing of it is served.

use std::sync::Arc;

use pando_model::ErrorKind;

use super::agree::complaints;
use super::cases::with_files;
use super::kit::{Kit, go, name};
use crate::fault::{Done, Fault};
use crate::verbs::{export, import};
use crate::world::World;

/// Exports to nobody.
pub fn run_export(world: &Arc<World>, of: &str, at: Option<&str>) -> Done<()> {
    world.transfers.stand_in(|_, mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let moment = at.map(|text| text.parse().unwrap());
    go(world, &[], |world| export::Export::new(world, name(of), moment))
}

/// Imports what another home has exported.
pub fn run_import(world: &Arc<World>) -> Done<()> {
    world.transfers.stand_in(|_, mut stream| drop(std::io::Write::write_all(&mut stream, archive())));
    let wanted = pando_model::ImportRequest { clone: name("fresh"), profile: None, outward_links: false };
    go(world, &["fresh"], |world| import::Import::new(world, wanted))
}

/// An archive of an app with files.
fn archive() -> &'static [u8] {
    static ARCHIVE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let kit = Kit::new();
        with_files(&kit);
        let (whole, arrived) = std::sync::mpsc::channel();
        kit.world.transfers.stand_in(move |_, mut stream| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap();
            whole.send(bytes).unwrap();
        });
        go(&kit.world, &[], |world| export::Export::new(world, name("shop"), None)).unwrap();
        arrived.recv().unwrap()
    })
}

/// Where the server of a clone changes files alone, if that is so.
fn writes(kit: &Kit, of: &str) -> Option<Vec<std::path::PathBuf>> {
    let unit = kit.there(of).sources[&name("db")].units["server"].clone();
    kit.runtime.spec(&unit).expect("a server").writes
}

#[test]
fn servers_of_what_came_from_elsewhere_are_confined_and_those_of_its_clones() {
    let kit = Kit::new();
    run_import(&kit.world).unwrap();
    kit.make_clone("fresh", "child", false);
    for of in ["fresh", "child"] {
        let dirs = writes(&kit, of).expect("it is confined");
        let volume = kit.world.pool().unwrap().volume_path(&kit.there(of).sources[&name("db")].volume);
        assert!(dirs.contains(&volume), "{dirs:?}");
        assert!(
            dirs.iter().all(|dir| dir.starts_with(&volume) || !dir.starts_with(kit.world.home.root().join("pool")))
        );
    }
    kit.link(false);
    kit.make_clone("shop", "dev", false);
    assert_eq!(writes(&kit, "dev"), None);
}

#[test]
fn where_nobody_can_be_confined_nothing_of_a_stranger_is_served() {
    let kit = Kit::new();
    kit.runtime.loosen();
    let Err(Fault::Problem(problem)) = run_import(&kit.world) else { panic!("it was served") };
    assert_eq!(problem.kind, ErrorKind::Refused, "{problem:?}");
    assert!(problem.hint.as_deref().is_some_and(|hint| hint.contains("landlock")), "{problem:?}");
    assert!(kit.clone_of("fresh").is_none());
    assert_eq!(complaints(&kit), Vec::<String>::new());
}
