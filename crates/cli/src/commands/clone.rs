//! The life of a clone: `clone`, `start`, `stop`, `promote`, `rm`, `lease`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use pando_api::ClientError;
use pando_model::{CloneRequest, ContainerWish, LeaseRequest, Name, OperationView, Profile, RuntimeKind, ShowView};

use super::{compose, then_show};
use crate::args::{Detach, Fence};
use crate::context::Context;
use crate::errors::{Done, Error};
use crate::{human, output, settings};

/// Arguments of `clone`.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// An app's or clone's name, and the moment: shop@latest, shop@-2h, shop@10:15, shop@2026-11-21T10:15
    /// (local time), shop@BOOKMARK [default: latest]
    #[arg(value_name = "NAME[@MOMENT]")]
    target: String,
    /// The new clone's name
    clone: Name,
    /// What its data is worth: disposable is fast and may lose its last writes when the machine dies
    /// [default: disposable]
    #[arg(long, value_parser = profiles(), hide_default_value = true)]
    profile: Option<Profile>,
    /// Keep a log, so that the clone can be rewound to any second
    #[arg(long)]
    record: bool,
    /// Remove it after so long, such as 8h [default: never]
    #[arg(long = "for", value_name = "SPAN", value_parser = settings::seconds)]
    keep: Option<i64>,
    /// A server setting of this clone
    #[arg(long, value_name = "NAME=VALUE", value_parser = settings::setting)]
    set: Vec<(String, String)>,
    /// Where its servers run: process, or docker for containers of a Docker or Podman engine [default: process]
    #[arg(long, value_parser = runtimes(), hide_default_value = true)]
    runtime: Option<RuntimeKind>,
    /// The image of a source's container [default: the official image of production's exact version]
    #[arg(long, value_name = "SOURCE=REFERENCE", value_parser = settings::image)]
    image: Vec<(Name, String)>,
    /// Memory each container may use, such as 2G [default: half of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = settings::size)]
    memory: Option<u64>,
    /// Processors each container may use, such as 1.5 [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = settings::processors)]
    cpus: Option<u64>,
    /// Make indexes on texts again where the image sorts them in another order than production; else it is refused
    #[arg(long)]
    reindex: bool,
    /// Bring a Compose project of the clone's name up on it: its servers are the containers of this file, which are
    /// stopped and started again by every refresh, rewind and undo, and go with it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["runtime", "image", "memory", "cpus", "reindex", "record"])]
    compose: Option<PathBuf>,
    #[command(flatten)]
    fence: Fence,
    #[command(flatten)]
    detach: Detach,
}

fn runtimes() -> impl TypedValueParser<Value = RuntimeKind> {
    let words = [RuntimeKind::Process.as_str(), RuntimeKind::Docker.as_str()];
    PossibleValuesParser::new(words).map(|word| RuntimeKind::from_word(&word).unwrap_or(RuntimeKind::Process))
}

pub(super) fn profiles() -> impl TypedValueParser<Value = Profile> {
    let words = [Profile::Disposable.as_str(), Profile::Durable.as_str()];
    PossibleValuesParser::new(words).map(|word| Profile::from_word(&word).unwrap_or(Profile::Disposable))
}

/// A clone alone.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The clone's name
    pub(super) clone: Name,
    #[command(flatten)]
    pub(super) detach: Detach,
}

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The clones' names
    #[arg(value_name = "CLONE", required = true)]
    clones: Vec<Name>,
    #[command(flatten)]
    detach: Detach,
}

/// Arguments of `lease`.
#[derive(Debug, Args)]
#[group(id = "until", required = true, multiple = false, args = ["keep", "forever"])]
pub struct LeaseArgs {
    /// The clone's name
    clone: Name,
    /// For so long from now, such as 8h
    #[arg(long = "for", value_name = "SPAN", value_parser = settings::seconds)]
    keep: Option<i64>,
    /// Until it is removed
    #[arg(long)]
    forever: bool,
    #[command(flatten)]
    detach: Detach,
}

/// Makes a clone. Answers when a query was answered.
pub async fn clone(context: &Context, args: CloneArgs) -> Done {
    let target = context.target(&args.target)?;
    let moment = super::keep::fenced(context, &target, args.fence).await?;
    let compose = args.compose.as_deref().map(compose::whole_path).transpose()?;
    let body = CloneRequest {
        compose,
        from: target.name,
        moment,
        clone: args.clone,
        profile: args.profile,
        record: args.record,
        lease_seconds: args.keep,
        set: args.set.into_iter().collect(),
        runtime: args.runtime,
        container: ContainerWish {
            images: args.image.into_iter().collect(),
            memory_bytes: args.memory,
            cpu_millis: args.cpus,
            reindex: args.reindex,
        },
    };
    let begun = context.client.clone_app(&body).await;
    then_show(context, begun, args.detach, |reader, clone| reader.ready(clone)).await?;
    if !context.json && !args.detach.detach && output::is_watched() {
        output::note(&format!("pando connect {0} opens it, pando env {0} prints its addresses", body.clone));
    }
    Ok(())
}

/// Starts a clone's servers.
pub async fn start(context: &Context, args: &OneArgs) -> Done {
    let begun = context.client.start(&args.clone).await;
    then_show(context, begun, args.detach, |_, clone| format!("{} is {}\n", clone.name, clone.state)).await
}

/// Stops a clone's servers.
pub async fn stop(context: &Context, args: &OneArgs) -> Done {
    let begun = context.client.stop(&args.clone).await;
    then_show(context, begun, args.detach, |_, clone| format!("{} is {}\n", clone.name, clone.state)).await
}

/// Makes a clone one that is kept.
pub async fn promote(context: &Context, args: &OneArgs) -> Done {
    let begun = context.client.promote(&args.clone).await;
    let people =
        |clone: &pando_model::CloneView| format!("{} is promoted: durable, records a log, kept for ever\n", clone.name);
    then_show(context, begun, args.detach, |_, clone| people(clone)).await
}

/// Removes clones, those of others among them first: one that cannot be removed does not keep the others.
pub async fn rm(context: &Context, args: &RmArgs) -> Done {
    let mut first = None;
    let mut gone = Vec::new();
    let groups = children_first(context, &args.clones).await?;
    for (index, clones) in groups.iter().enumerate() {
        let mut outcomes: Vec<Done<OperationView>> = Vec::new();
        for clone in clones {
            match context.client.remove(clone).await {
                // That would be said once per clone.
                Err(error @ ClientError::Unreachable { .. }) => return Err(error.into()),
                outcome => outcomes.push(outcome.map_err(Error::from)),
            }
        }
        for (clone, begun) in clones.iter().zip(outcomes) {
            let ended = match begun {
                // Their parents cannot go before they are gone.
                Ok(begun) if args.detach.detach && index + 1 < groups.len() => context.watch(begun).await,
                Ok(begun) if args.detach.detach => Ok(begun),
                Ok(begun) => context.finish(begun.clone(), args.detach).await.map(|ended| ended.unwrap_or(begun)),
                Err(error) => Err(error),
            };
            match ended {
                Ok(ended) if context.json => gone.push(ended),
                Ok(ended) if args.detach.detach => output::line(ended.id.as_str())?,
                Ok(_) => output::line(&format!("{clone} is removed"))?,
                Err(error) => {
                    error.tell(context.json);
                    first = first.or(Some(error.code()));
                }
            }
        }
    }
    if context.json {
        output::json(&gone)?;
    }
    first.map_or(Ok(()), |code| Err(Error::Quiet(code)))
}

/// The clones in groups: none of a group is the parent of one in it or behind it.
async fn children_first(context: &Context, clones: &[Name]) -> Done<Vec<Vec<Name>>> {
    let mut parents = BTreeMap::new();
    for clone in clones.iter().filter(|_| clones.len() > 1) {
        match context.client.show_uncounted(clone).await {
            // One that was made empty is its own parent.
            Ok(ShowView::Clone(view)) if view.parent != *clone => drop(parents.insert(clone, view.parent)),
            Err(error @ ClientError::Unreachable { .. }) => return Err(error.into()),
            // What is wrong with it is said when it is to be removed.
            _ => {}
        }
    }
    let mut groups: BTreeMap<usize, Vec<Name>> = BTreeMap::new();
    for clone in clones {
        let above = std::iter::successors(parents.get(clone), |parent| parents.get(parent));
        let depth = above.filter(|parent| clones.contains(parent)).count();
        groups.entry(depth).or_default().push(clone.clone());
    }
    Ok(groups.into_values().rev().collect())
}

/// Changes until when a clone is kept.
pub async fn lease(context: &Context, args: &LeaseArgs) -> Done {
    let begun = context.client.lease(&args.clone, &LeaseRequest { seconds: args.keep }).await;
    let now = context.now();
    let people = |clone: &pando_model::CloneView| format!("{}: {}\n", clone.name, human::lease(clone.lease_until, now));
    then_show(context, begun, args.detach, |_, clone| people(clone)).await
}
