//! One file per group of commands; here they are told apart.

pub mod adopt;
pub mod apply;
pub mod clone;
pub mod compose;
pub mod connect;
pub mod generate;
pub mod image;
pub mod keep;
pub mod link;
pub mod look;
pub mod serve;
pub mod time;
pub mod toolkit;
pub mod travel;

use pando_api::ClientError;
use pando_model::{CloneView, ErrorKind, Name, OperationView, ShowView};

use crate::args::{Cli, Command, Detach};
use crate::context::Context;
use crate::errors::{Done, Error};
use crate::output;
use crate::report::Reader;

/// Runs the command.
pub fn run(cli: Cli) -> Done {
    match &cli.command {
        Command::Completions(args) => return generate::completions(args),
        Command::Man(args) => return generate::man(args),
        Command::Toolkit(args) => return toolkit::toolkit(args, cli.global.json),
        Command::Demo(args) => return crate::demo::demo(args, cli.global.json),
        _ => {}
    }
    let context = Context::new(&cli.global)?;
    if let Command::Serve(args) = &cli.command {
        return serve::serve(&context, args);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(speak(&context, cli.command))
}

/// The commands that speak to a daemon.
async fn speak(context: &Context, command: Command) -> Done {
    match command {
        Command::Serve(_) | Command::Demo(_) | Command::Completions(_) | Command::Man(_) | Command::Toolkit(_) => {
            Ok(())
        }
        Command::Init(args) => serve::init(context, &args).await,
        Command::Doctor => serve::doctor(context).await,
        Command::Apply(args) => apply::apply(context, &args).await,
        Command::Link(args) => link::link(context, args).await,
        Command::Unlink(args) => link::unlink(context, &args).await,
        Command::Ls => look::ls(context).await,
        Command::Show(args) => look::show(context, &args).await,
        Command::Timeline(args) => look::timeline(context, &args).await,
        Command::Du => look::du(context).await,
        Command::Ops => look::ops(context).await,
        Command::Op(args) => look::op(context, &args).await,
        Command::Events(args) => look::events(context, &args).await,
        Command::Compose(args) => compose::compose(context, &args).await,
        Command::Logs(args) => look::logs(context, &args).await,
        Command::Snapshot(args) => keep::snapshot(context, &args).await,
        Command::Bookmark(args) => keep::bookmark(context, args).await,
        Command::Unbookmark(args) => keep::unbookmark(context, &args).await,
        Command::Clone(args) => clone::clone(context, args).await,
        Command::Adopt(args) => adopt::adopt(context, args).await,
        Command::Export(args) => travel::export(context, &args).await,
        Command::Import(args) => travel::import(context, args).await,
        Command::Image(args) => image::image(context, args).await,
        Command::Env(args) => connect::env(context, &args).await,
        Command::Connect(args) => connect::connect(context, &args).await,
        Command::Start(args) => clone::start(context, &args).await,
        Command::Stop(args) => clone::stop(context, &args).await,
        Command::Rm(args) => clone::rm(context, &args).await,
        Command::Promote(args) => clone::promote(context, &args).await,
        Command::Lease(args) => clone::lease(context, &args).await,
        Command::Refresh(args) => time::refresh(context, &args).await,
        Command::Rewind(args) => time::rewind(context, &args).await,
        Command::Undo(args) => time::undo(context, &args).await,
    }
}

/// What a call answers.
type Begun = Result<OperationView, ClientError>;

fn reader(context: &Context) -> Reader {
    Reader { now: context.now(), zone: context.zone.clone() }
}

/// Waits for a verb on a clone, then shows the clone in the words of `people`.
async fn then_show(
    context: &Context,
    begun: Begun,
    detach: Detach,
    people: impl FnOnce(&Reader, &CloneView) -> String,
) -> Done {
    let Some(ended) = context.finish(begun?, detach).await? else { return Ok(()) };
    // How many bytes it holds takes longer to count than the verb took.
    let clone = of_clone(context.client.show_uncounted(&ended.subject).await?, &ended.subject)?;
    context.print(&clone, |clone| people(&reader(context), clone))
}

/// Waits for a verb that leaves nothing to show: with `--json` the operation is printed.
async fn then_say(context: &Context, begun: Begun, detach: Detach, said: &str) -> Done {
    match context.finish(begun?, detach).await? {
        Some(ended) if context.json => output::json(&ended),
        Some(_) => output::line(said),
        None => Ok(()),
    }
}

/// The clone of that name.
async fn a_clone(context: &Context, name: &Name) -> Done<CloneView> {
    of_clone(context.client.show(name).await?, name)
}

fn of_clone(view: ShowView, name: &Name) -> Done<CloneView> {
    match view {
        ShowView::Clone(clone) => Ok(*clone),
        ShowView::App(_) => Err(not_a_clone(name)),
    }
}

fn not_a_clone(name: &Name) -> Error {
    let problem = pando_model::Problem::new(ErrorKind::Refused, format!("{name} is an app, and not a clone"));
    problem.hint(format!("pando clone {name} NAME makes one of it")).into()
}
