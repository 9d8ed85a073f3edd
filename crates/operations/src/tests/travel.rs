//! What comes from elsewhere: whose servers are confined, and where nothing of it is served.

use pando_model::ErrorKind;

use super::agree::complaints;
use super::cases::run_import;
use super::kit::{Kit, name};
use crate::fault::Fault;

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
