//! Volumes, as the door to them decides: who joins whom, who may not be touched, who goes with whom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pando_host::Holder;
use pando_model::{CloneState, ErrorKind, Request};

use super::kit::{Kit, go, hooked, masking, name};
use crate::facade::Pando;
use crate::verbs::{apply, link};

const PATIENCE: Duration = Duration::from_secs(20);

fn create(pando: &Pando, volume: &str, options: &str) -> Result<(), pando_model::Problem> {
    let pairs = options.split_whitespace().filter_map(|pair| pair.split_once('='));
    let options: BTreeMap<String, String> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    pando.volume_create(volume, &options, PATIENCE)
}

#[test]
fn volumes_that_are_made_at_once_are_one_clone_and_go_at_once() {
    let kit = Kit::new();
    kit.link(true);
    let pando = Pando::over(kit.world.clone());
    std::thread::scope(|scope| {
        for volume in ["dev1_db", "dev1_files", "dev2_db", "dev2_files"] {
            let pando = &pando;
            let source = volume.split('_').nth(1).unwrap();
            scope.spawn(move || create(pando, volume, &format!("from=shop source={source}")).unwrap());
        }
    });
    for clone in ["dev1", "dev2"] {
        assert_eq!(kit.there(clone).state, CloneState::Stopped);
        let of = |source: &str| kit.volume(&format!("{clone}_{source}")).unwrap().clone;
        assert_eq!(of("db"), of("files"));
    }
    std::thread::scope(|scope| {
        for volume in ["dev1_db", "dev1_files", "dev2_db", "dev2_files"] {
            let pando = &pando;
            scope.spawn(move || pando.volume_remove(volume, PATIENCE).unwrap());
        }
    });
    assert!(kit.clone_of("dev1").is_none() && kit.clone_of("dev2").is_none());
    assert_eq!(super::agree::complaints(&kit), Vec::<String>::new());
}

#[test]
fn what_is_in_use_is_not_touched_whoever_asks() {
    let mut kit = Kit::new();
    kit.link(true);
    let pando = Pando::over(kit.world.clone());
    create(&pando, "v_db", "from=shop source=db").unwrap();
    pando.join();
    drop(pando);
    let used = |trees: &[&str]| -> std::io::Result<Vec<Holder>> {
        assert!(trees.iter().all(|tree| tree.starts_with("vol-")));
        Ok(vec![Holder {
            container: Some("3f".repeat(32)),
            pid: 7,
            program: "postgres".to_owned(),
            directory: trees[0].to_owned(),
        }])
    };
    Arc::get_mut(&mut kit.world).unwrap().volumes.holders = used;
    let pando = Pando::over(kit.world.clone());
    let moment = pando_model::Moment::Latest;
    for request in [
        Request::Refresh { clone: name("v"), moment },
        Request::Remove { clone: name("v") },
        Request::Remove { clone: name("v_db") },
    ] {
        let problem = pando.submit(request).unwrap_err();
        assert_eq!(problem.kind, ErrorKind::Refused);
        assert_eq!(problem.message, "v is in use by container 3f3f3f3f3f3f (postgres, process 7)");
    }
    // What is shown is what is: a clone whose unit is a container runs.
    let pando_model::ShowView::Clone(shown) = pando.show(&name("v"), false).unwrap() else { panic!("it is a clone") };
    let row = pando.list().unwrap().clones.remove(0);
    let user = "container 3f3f3f3f3f3f (postgres, process 7)".to_owned();
    assert_eq!((shown.state, shown.used_by), (CloneState::Running, vec![user.clone()]));
    assert_eq!((row.state, row.used_by), (CloneState::Running, vec![user.clone()]));
    let status = pando.volume("v_db").unwrap().status;
    assert_eq!((&status["state"], &status["used_by"]), (&"running".into(), &vec![user].into()), "{status:?}");
    assert_eq!(kit.there("v").state, CloneState::Stopped, "none of its servers runs here");
    assert_eq!(super::agree::complaints(&kit), Vec::<String>::new());
}

#[test]
fn a_container_that_is_just_being_started_counts() {
    let kit = Kit::new();
    kit.link(true);
    let pando = Pando::over(kit.world.clone());
    create(&pando, "v_db", "from=shop source=db").unwrap();
    pando.volume_mount("v_db", "a", PATIENCE).unwrap();
    let problem = pando.volume_remove("v_db", PATIENCE).unwrap_err();
    assert!(problem.message.contains("being started with v_db"), "{problem}");
    pando.volume_unmount("v_db", "a");
    pando.volume_remove("v_db", PATIENCE).unwrap();
}

/// What a daemon does first may stop containers, whose engine asks for their volumes before.
#[test]
fn until_the_daemon_has_recovered_volumes_are_shown_and_not_touched() {
    let kit = Kit::new();
    kit.link(true);
    let pando = Pando::over(kit.world.clone());
    create(&pando, "v_db", "from=shop source=db").unwrap();
    kit.world.volumes.hold();
    assert_eq!(pando.volume("v_db").unwrap().status["clone"], "v");
    assert_eq!(pando.volumes().unwrap().len(), 1);
    let soon = Duration::from_millis(20);
    let touched = [
        pando.volume_create("empty", &BTreeMap::new(), soon),
        pando.volume_mount("v_db", "a", soon).map(drop),
        pando.volume_remove("v_db", soon),
    ];
    for touched in touched {
        let problem = touched.unwrap_err();
        assert!(problem.message.contains("has just started"), "{problem}");
    }
    // Who waits gets it when it has ended.
    std::thread::scope(|scope| {
        let mounted = scope.spawn(|| pando.volume_mount("v_db", "a", PATIENCE));
        kit.world.wait_for_bell(kit.world.rung(), soon);
        assert!(!mounted.is_finished());
        pando.recover().unwrap();
        assert!(mounted.join().unwrap().unwrap().is_dir());
    });
    pando.volume_unmount("v_db", "a");
    pando.volume_remove("v_db", PATIENCE).unwrap();
}

#[test]
fn what_takes_too_long_is_made_behind_and_a_mount_waits_for_it() {
    let kit = Kit::new();
    kit.link(true);
    let pando = Pando::over(kit.world.clone());
    kit.engine.set_starting(true);
    let options = BTreeMap::from([("from".to_owned(), "shop".to_owned()), ("source".to_owned(), "db".to_owned())]);
    pando.volume_create("v_db", &options, Duration::from_millis(100)).unwrap();
    let problem = pando.volume_mount("v_db", "a", Duration::from_millis(50)).unwrap_err();
    assert!(problem.message.contains("not ready yet"), "{problem}");
    // Asked for again, it is the same one.
    pando.volume_create("v_db", &options, Duration::from_millis(50)).unwrap();
    assert_eq!(pando.volume("v_db").unwrap().status["state"], "creating");
    kit.engine.set_starting(false);
    assert!(pando.volume_mount("v_db", "a", PATIENCE).unwrap().is_dir());
    pando.join();

    // That it could not be made is said to whoever comes for it.
    kit.engine.set_starting(true);
    let options = BTreeMap::from([("from".to_owned(), "shop".to_owned()), ("source".to_owned(), "files".to_owned())]);
    pando.volume_create("late", &options, Duration::from_millis(100)).unwrap();
    kit.engine.fail("hand_over", 1);
    kit.engine.set_starting(false);
    pando.join();
    let problem = pando.volume("late").unwrap_err();
    assert!(problem.message.contains("hand_over was told to fail"), "{problem}");
}

#[test]
fn a_volume_of_a_masked_clone_says_so_and_so_does_one_that_is_made_of_it() {
    let kit = Kit::new();
    go(&kit.world, &["shop"], |world| link::Link::new(world, hooked())).unwrap();
    kit.commit(1);
    let pando = Pando::over(kit.world.clone());
    create(&pando, "plain_db", "from=shop source=db").unwrap();
    go(&kit.world, &["shop"], |world| apply::Apply::new(world, masking())).unwrap();
    create(&pando, "v_db", "from=shop source=db").unwrap();
    create(&pando, "w_db", "from=v source=db").unwrap();
    let masked = ["plain_db", "v_db", "w_db"].map(|volume| pando.volume(volume).unwrap().status["masked"].clone());
    assert_eq!(masked, [false.into(), true.into(), true.into()] as [serde_json::Value; 3]);
    assert_eq!(super::agree::complaints(&kit), Vec::<String>::new());
}
