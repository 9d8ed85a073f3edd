//! A clone's travels in time: `refresh`, `rewind`, `undo`.

use clap::Args;
use pando_model::{MomentRequest, RefreshRequest};

use super::clone::OneArgs;
use super::then_show;
use crate::args::Detach;
use crate::context::Context;
use crate::errors::Done;

/// Arguments of `refresh`.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// The clone's name, and the moment of its parent [default: latest]
    #[arg(value_name = "CLONE[@MOMENT]")]
    target: String,
    #[command(flatten)]
    detach: Detach,
}

/// Arguments of `rewind`.
#[derive(Debug, Args)]
pub struct RewindArgs {
    /// The clone's name, and the moment of the clone itself
    #[arg(value_name = "CLONE@MOMENT")]
    target: String,
    #[command(flatten)]
    detach: Detach,
}

/// Gives a clone the data of a moment of its parent.
pub async fn refresh(context: &Context, args: &RefreshArgs) -> Done {
    let target = context.target(&args.target)?;
    let begun = context.client.refresh(&target.name, &RefreshRequest { moment: target.moment }).await;
    then_show(context, begun, args.detach, |reader, clone| reader.ready(clone)).await
}

/// Sets a clone back.
pub async fn rewind(context: &Context, args: &RewindArgs) -> Done {
    let (clone, moment) = context.target_with_moment(&args.target, "rewind")?;
    let begun = context.client.rewind(&clone, &MomentRequest { moment: Some(moment) }).await;
    then_show(context, begun, args.detach, |reader, clone| reader.ready(clone)).await
}

/// Takes back the last refresh or rewind.
pub async fn undo(context: &Context, args: &OneArgs) -> Done {
    let begun = context.client.undo(&args.clone).await;
    then_show(context, begun, args.detach, |reader, clone| reader.ready(clone)).await
}
