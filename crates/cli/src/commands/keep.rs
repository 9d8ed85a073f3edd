//! What keeps a moment: `snapshot`, `bookmark`, `unbookmark`.

use clap::Args;
use pando_model::{BookmarkRequest, Name, OperationView};

use super::then_say;
use crate::args::Detach;
use crate::context::Context;
use crate::errors::Done;
use crate::output;

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// An app's or clone's name
    name: Name,
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
    detach: Detach,
}

/// Arguments of `unbookmark`.
#[derive(Debug, Args)]
pub struct UnbookmarkArgs {
    /// An app's or clone's name
    name: Name,
    /// The bookmark's name
    bookmark: Name,
    #[command(flatten)]
    detach: Detach,
}

/// Takes a snapshot, and prints its id.
pub async fn snapshot(context: &Context, args: &SnapshotArgs) -> Done {
    match context.finish(context.client.snapshot(&args.name).await?, args.detach).await? {
        Some(ended) if context.json => output::json(&ended),
        Some(ended) => output::line(&made(&ended)),
        None => Ok(()),
    }
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
    let body = BookmarkRequest { bookmark: args.bookmark, moment: target.moment };
    then_say(context, context.client.bookmark(&target.name, &body).await, args.detach, &said).await
}

/// Forgets a bookmark.
pub async fn unbookmark(context: &Context, args: &UnbookmarkArgs) -> Done {
    let said = format!("{}@{} is forgotten", args.name, args.bookmark);
    then_say(context, context.client.unbookmark(&args.name, &args.bookmark).await, args.detach, &said).await
}
