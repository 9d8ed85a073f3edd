//! The commands that only look: `ls`, `show`, `timeline`, `du`, `ops`, `op`, `events`, `logs`.

use clap::Args;
use pando_api::MAX_WAIT_MS;
use pando_model::{Name, OperationId};

use super::reader;
use crate::context::Context;
use crate::errors::Done;
use crate::{output, report};

/// A name alone.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// An app's or clone's name
    name: Name,
}

/// Arguments of `op`.
#[derive(Debug, Args)]
pub struct OpArgs {
    /// The operation's id
    id: OperationId,
    /// Wait for its end
    #[arg(long)]
    wait: bool,
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens from now on; with --json one event per line
    #[arg(long)]
    follow: bool,
    /// Only events with a sequence above this
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    since: u64,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// An app's or clone's name
    name: Name,
    /// One source of it; all when absent
    source: Option<Name>,
}

/// Lists apps and clones.
pub async fn ls(context: &Context) -> Done {
    context.print(&context.client.list().await?, |list| reader(context).list(list))
}

/// Shows an app or clone.
pub async fn show(context: &Context, args: &NameArgs) -> Done {
    context.print(&context.client.show(&args.name).await?, |shown| reader(context).show(shown))
}

/// Shows the moments that can be asked for.
pub async fn timeline(context: &Context, args: &NameArgs) -> Done {
    context.print(&context.client.timeline(&args.name).await?, |timeline| reader(context).timeline(timeline))
}

/// Shows who uses how many bytes.
pub async fn du(context: &Context) -> Done {
    context.print(&context.client.disk().await?, report::disk)
}

/// Lists operations.
pub async fn ops(context: &Context) -> Done {
    context.print(&context.client.operations().await?, |operations| reader(context).operations(operations))
}

/// Shows an operation.
pub async fn op(context: &Context, args: &OpArgs) -> Done {
    let mut operation = context.client.operation(&args.id, 0).await?;
    if args.wait {
        operation = context.watch(operation).await?;
    }
    context.print(&operation, |operation| reader(context).operation(operation))
}

/// Shows what happened, and with `--follow` what happens.
pub async fn events(context: &Context, args: &EventsArgs) -> Done {
    let first = context.client.events(args.since, 0).await?;
    if !args.follow {
        let lines = |events: &Vec<_>| events.iter().map(|event| reader(context).event(event) + "\n").collect();
        return context.print(&first, lines);
    }
    let (mut events, mut since) = (first, args.since);
    loop {
        for event in &events {
            since = since.max(event.sequence);
            if context.json { output::json_line(event)? } else { output::line(&reader(context).event(event))? }
        }
        events = context.client.events(since, MAX_WAIT_MS).await?;
    }
}

/// Shows the end of the servers' logs.
pub async fn logs(context: &Context, args: &LogsArgs) -> Done {
    context.print(&context.client.logs(&args.name, args.source.as_ref()).await?, report::logs)
}
