//! Whom a hook runs as.

use pando_host::Account;
use pando_model::Hook;

use crate::fault::{Done, Fault, io, refused};
use crate::world::World;

/// The account; none: the daemon's own, where the daemon is not root.
pub fn of(world: &World, hook: &Hook) -> Done<Option<Account>> {
    let refusal = |text: String, hint: String| Err(Fault::Problem(refused(text).hint(hint)));
    let Some(wanted) = hook.account.as_deref() else {
        return match &world.account {
            Some(_) => Ok(Some(world.home.hook_account()?)),
            None => Ok(None),
        };
    };
    let label = hook.label();
    if world.account.is_none() {
        let own = Account::current().map_err(|error| io("looking up the daemon's account", error))?;
        if own.name == wanted {
            return Ok(None);
        }
        let text = format!("the hook {label} cannot run as {wanted}: the daemon is not root, but {}", own.name);
        return refusal(text, "leave the account out".to_owned());
    }
    let list = world.home.hook_accounts();
    let allowed = std::fs::read_to_string(&list).unwrap_or_default();
    if !allowed.lines().map(str::trim).any(|line| line == wanted) {
        let text = format!("the hook {label} may not run as {wanted} on this machine");
        return refusal(text, format!("its owner can allow that: echo {wanted} >> {}", list.display()));
    }
    match Account::named(wanted).map_err(|error| io("reading /etc/passwd", error))? {
        Some(account) => Ok(Some(account)),
        None => refusal(
            format!("the hook {label} cannot run as {wanted}: there is no such account"),
            format!("useradd {wanted}"),
        ),
    }
}
