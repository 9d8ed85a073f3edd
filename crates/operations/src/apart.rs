//! Whom the servers of clones run as. The user that a clone is given is its superuser, and can do what its server's account
//! can: so each clone has a number of its own, under which its servers see their directories as the account's and nobody
//! else's. Mirrors run as the account: nobody but Pando enters them.
//!
//! Where the machine cannot do that, all run as the account; `doctor` says so.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use pando_host::{Account, Idmap, idmap};
use pando_model::{DoctorItem, OwnerId};

use crate::doctor::item;
use crate::home::shut_to_others;
use crate::world::World;

/// The number of an owner's servers; none where they run as the account.
pub fn number(world: &World, owner: &OwnerId) -> Option<u32> {
    world.account.as_ref().filter(|_| world.keeps_apart()).map(|_| {
        let mut hasher = DefaultHasher::new();
        (world.home.root(), owner.as_str()).hash(&mut hasher);
        Idmap::number(hasher.finish())
    })
}

/// Whether the file systems of the home, of its sockets, and of the pool let it be done.
pub fn works(world: &World, account: &Account) -> io::Result<()> {
    let pool = world.pool().map_err(io::Error::other)?;
    let dirs = [world.home.root(), world.home.sockets(), pool.root()];
    if let Some(dir) = shut_to_others(&dirs) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("others than its owner cannot pass {dir}"),
        ));
    }
    Idmap::works_on(&dirs, account)
}

/// What `doctor` says of it.
pub fn doctor(world: &World) -> DoctorItem {
    let shared =
        "servers of clones run as one account: who has a clone outside of a container can see all others, and mirrors";
    let Some(account) = &world.account else {
        let fix = "run Pando as root, or clones in containers: pando clone APP NAME --container";
        return item("account", "warning", shared, Some(fix.to_owned()));
    };
    match works(world, account) {
        Ok(()) => item(
            "account",
            "ok",
            format!("mirrors run as {}, the servers of each clone under a user id of their own", account.name),
            None,
        ),
        Err(error) => {
            item("account", "warning", format!("{shared} ({error})"), Some(format!("that takes {}", idmap::NEEDS)))
        }
    }
}
