//! What keeps a moment: `snapshot`, `bookmark`, `unbookmark`.

use clap::Args;
use pando_model::{BookmarkRequest, ErrorKind, Moment, Name, NameError, OperationView, Target};

use super::then_say;
use crate::args::{Detach, Fence, Meant};
use crate::context::Context;
use crate::errors::{Done, Error};
use crate::output;

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// An app's or clone's name
    name: Name,
    #[command(flatten)]
    fence: Fence,
    #[command(flatten)]
    detach: Detach,
}

/// Arguments of `bookmark`.
#[derive(Debug, Args)]
pub struct BookmarkArgs {
    /// An app's or clone's name, and the moment [default: latest]
    #[arg(value_name = "NAME[@MOMENT]")]
    target: String,
    /// The bookmark's name
    bookmark: Name,
    #[command(flatten)]
    fence: Fence,
    #[command(flatten)]
    detach: Detach,
}

/// Arguments of `unbookmark`.
#[derive(Debug, Args)]
pub struct UnbookmarkArgs {
    /// An app's or clone's name
    #[arg(value_parser = whose)]
    name: Name,
    /// The bookmark's name
    bookmark: Name,
    #[command(flatten)]
    detach: Detach,
}

/// Reads whose bookmark it is. Who writes it as a moment is told how it is written here.
fn whose(text: &str) -> Result<Name, Meant> {
    text.parse().map_err(|error: NameError| {
        let parts = text.split_once('@').map(|(name, bookmark)| (name.parse::<Name>(), bookmark.parse::<Name>()));
        let meant = match parts {
            Some((Ok(name), Ok(bookmark))) => Some(format!("pando unbookmark {name} {bookmark}")),
            Some((Ok(name), Err(_))) => Some(format!("pando timeline {name} shows its bookmarks")),
            _ => None,
        };
        Meant { why: error.to_string(), meant }
    })
}

/// Takes a snapshot, and prints its id.
pub async fn snapshot(context: &Context, args: &SnapshotArgs) -> Done {
    match context.finish(context.client.snapshot(&args.name, &args.fence.body()).await?, args.detach).await? {
        Some(ended) if context.json => output::json(&ended),
        Some(ended) => output::line(&made(&ended)),
        None => Ok(()),
    }
}

/// The moment to take: as typed, or with a fence a fresh snapshot behind one.
pub async fn fenced(context: &Context, target: &Target, fence: Fence) -> Done<Option<Moment>> {
    if fence.fence.is_none() {
        return Ok(target.moment.clone());
    }
    if target.moment.as_ref().is_some_and(|moment| *moment != Moment::Now) {
        return Err(Error::usage("a fence holds writes now, not at another moment", format!("{}@now", target.name)));
    }
    let begun = context.client.snapshot(&target.name, &fence.body()).await?;
    let ended = context.finish(begun, Detach { detach: false }).await?;
    let id = ended.map(|ended| made(&ended)).and_then(|id| id.parse().ok());
    let missing = || Error::new(ErrorKind::Failed, "the snapshot behind the fence was not made");
    Ok(Some(Moment::Snapshot(id.ok_or_else(missing)?)))
}

/// The id of what an operation made: the id in its result, whether bare or in a view.
fn made(ended: &OperationView) -> String {
    let id = ended.result.as_ref().and_then(|result| {
        let parts = [Some(result), result.get("id"), result.get("snapshot")];
        parts.into_iter().flatten().find_map(|part| part.as_str())
    });
    id.map_or_else(|| format!("{} is snapshotted", ended.subject), str::to_owned)
}

/// Gives a moment a name.
pub async fn bookmark(context: &Context, args: BookmarkArgs) -> Done {
    let target = context.target(&args.target)?;
    let said = format!("{}@{} is kept", target.name, args.bookmark);
    let moment = fenced(context, &target, args.fence).await?;
    let body = BookmarkRequest { bookmark: args.bookmark, moment };
    then_say(context, context.client.bookmark(&target.name, &body).await, args.detach, &said).await
}

/// Forgets a bookmark.
pub async fn unbookmark(context: &Context, args: &UnbookmarkArgs) -> Done {
    let said = format!("{}@{} is forgotten", args.name, args.bookmark);
    then_say(context, context.client.unbookmark(&args.name, &args.bookmark).await, args.detach, &said).await
}
