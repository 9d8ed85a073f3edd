//! `image`: data at a moment as an image of a container. Whoever runs it needs nothing of Pando.
//!
//! What a registry wants to see is looked up here, where the user is (`logins.rs`). The daemon may run as somebody else.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pando_model::{
    ErrorKind, ImagePushRequest, ImageRemoveRequest, ImageRequest, ImageSaveRequest, ImageView, Moment, Name,
    OperationView, Problem, Profile,
};
use serde::Serialize;
use serde_json::Value;

use super::clone::profiles;
use super::travel;
use crate::args::Detach;
use crate::context::{Context, variable};
use crate::errors::{Done, Error};
use crate::{human, logins, output, settings};

/// Arguments of `image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

/// What is done with images.
#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Make an image of data at a moment, on top of the matching server image
    ///
    /// The data is cut off production and stopped cleanly: a container starts without restoring anything, and only the
    /// image's own user gets in. It lies outside of declared volumes, so no start copies it. The next image of the same
    /// source adds a layer of what changed; MySQL is loaded anew, and is one layer. The same moment on the same server
    /// image is the same image.
    Build(BuildArgs),
    /// Send an image to its registry, without a container engine; what is there already is not sent
    Push(PushArgs),
    /// Make an image again of the newest state, and push it where it was pushed before: one command for CI
    Update(UpdateArgs),
    /// List images
    Ls,
    /// Forget an image; engines and registries keep what they have
    Rm(RmArgs),
}

/// How an image is made. What is not given is as at the last build of the same name, or as usual.
#[derive(Debug, Args)]
struct How {
    /// Which source, where the app has several that can be in an image
    #[arg(long, value_name = "NAME")]
    source: Option<Name>,
    /// The image below: in the engine, in a registry, or oci:DIR [default: the server's official one of the exact
    /// version; nothing below a directory]
    #[arg(long, value_name = "REF")]
    base: Option<String>,
    /// Where a directory is to lie in it [default: /, where nothing is below]
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Who may do everything in it [default: pando]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The user's password, as a file; - is standard input [default: PANDO_IMAGE_PASSWORD, or one is made]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Refuse data that is larger than this, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = settings::size)]
    max_size: Option<u64>,
    /// What data written in containers is worth [default: disposable: its server does not wait for the disk]
    #[arg(long, value_parser = profiles(), hide_default_value = true)]
    profile: Option<Profile>,
    /// Mask it: all that `masks` in the app's file runs on the data first. A clone has to be masked already
    #[arg(long, conflicts_with = "no_masked")]
    masked: bool,
    /// Do not mask it, where the last build did
    #[arg(long)]
    no_masked: bool,
}

/// Arguments of `image build`.
#[derive(Debug, Args)]
struct BuildArgs {
    /// An app's or clone's name, and the moment [default: latest]
    #[arg(value_name = "NAME[@MOMENT]")]
    target: String,
    /// The image's name: shop-db:ci, registry.example/shop-db:ci
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    how: How,
    /// Give it to the container engine [default: if there is one]
    #[arg(long, conflicts_with = "no_load")]
    load: bool,
    /// Keep it in HOME alone
    #[arg(long)]
    no_load: bool,
    /// Write it to this file too, for `docker load` and `podman load`; - is standard output
    #[arg(long, short, value_name = "FILE", conflicts_with = "detach")]
    output: Option<PathBuf>,
    #[command(flatten)]
    detach: Detach,
}

/// Arguments of `image push`.
#[derive(Debug, Args)]
struct PushArgs {
    /// An app's or clone's name, and the moment; without it an image that was built before is sent
    #[arg(value_name = "NAME[@MOMENT]")]
    target: String,
    /// The image's name
    #[arg(value_name = "REF")]
    reference: Option<String>,
    #[command(flatten)]
    how: How,
}

/// Arguments of `image update`.
#[derive(Debug, Args)]
struct UpdateArgs {
    /// An image that was built before
    #[arg(value_name = "REF")]
    reference: String,
    /// The moment [default: latest; now is to the second, and takes longer]
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
    /// Push it, also where it was not pushed before
    #[arg(long, conflicts_with = "no_push")]
    push: bool,
    /// Do not push it
    #[arg(long)]
    no_push: bool,
}

/// Arguments of `image rm`.
#[derive(Debug, Args)]
struct RmArgs {
    /// An image that was built before
    #[arg(value_name = "REF")]
    reference: String,
    #[command(flatten)]
    detach: Detach,
}

/// What a build and a push came to.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    image: ImageView,
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    push: Option<Value>,
}

/// Does what is to be done with images.
pub async fn image(context: &Context, args: ImageArgs) -> Done {
    match args.command {
        ImageCommand::Build(args) => build(context, args).await,
        ImageCommand::Push(args) => push(context, args).await,
        ImageCommand::Update(args) => update(context, args).await,
        ImageCommand::Ls => ls(context).await,
        ImageCommand::Rm(args) => {
            let body = ImageRemoveRequest { reference: args.reference.clone() };
            let said = format!("{} is forgotten", args.reference);
            super::then_say(context, context.client.remove_image(&body).await, args.detach, &said).await
        }
    }
}

async fn build(context: &Context, args: BuildArgs) -> Done {
    // Who wants a file wants it elsewhere.
    let load = (args.load || args.no_load || args.output.is_some()).then_some(args.load);
    let to_stdout = args.output.as_deref().is_some_and(|file| file.as_os_str() == "-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Error::usage("an image is not for a terminal", "--output FILE"));
    }
    let body = request(context, Some(&args.target), args.reference, args.how, load).await?;
    let reference = body.reference.clone();
    let begun = context.client.build_image(&body).await?;
    let Some(ended) = context.finish(begun, args.detach).await? else { return Ok(()) };
    if let Some(file) = &args.output {
        let body = ImageSaveRequest { reference };
        travel::take(context, context.client.save_image(&body), (!to_stdout).then_some(file)).await?;
    }
    if to_stdout {
        return Ok(());
    }
    tell(context, Some(ended), None).await
}

async fn push(context: &Context, args: PushArgs) -> Done {
    let Some(reference) = args.reference else {
        let sent = send(context, args.target).await?;
        return tell(context, None, Some(sent)).await;
    };
    let body = request(context, Some(&args.target), reference, args.how, Some(false)).await?;
    let (built, sent) = build_and_send(context, body).await?;
    tell(context, Some(built), Some(sent)).await
}

async fn update(context: &Context, args: UpdateArgs) -> Done {
    let how = How {
        source: None,
        base: None,
        path: None,
        user: None,
        password_file: None,
        max_size: None,
        profile: None,
        masked: false,
        no_masked: false,
    };
    let mut body = request(context, None, args.reference, how, None).await?;
    if let Some(at) = &args.at {
        // The same words as behind @.
        body.moment = context.target(&format!("x@{at}"))?.moment;
    }
    let pushed_before = before(context, &body.reference).await?.is_some_and(|image| image.pushes);
    if (pushed_before || args.push) && !args.no_push {
        let (built, sent) = build_and_send(context, body).await?;
        return tell(context, Some(built), Some(sent)).await;
    }
    let built = done(context, context.client.build_image(&body).await?).await?;
    tell(context, Some(built), None).await
}

/// What was built under that name last.
async fn before(context: &Context, reference: &str) -> Done<Option<ImageView>> {
    let whole = format!("{reference}:latest");
    let known = context.client.images().await?;
    Ok(known.into_iter().find(|image| image.reference == reference || image.reference == whole))
}

async fn build_and_send(context: &Context, body: ImageRequest) -> Done<(OperationView, OperationView)> {
    let reference = body.reference.clone();
    let built = done(context, context.client.build_image(&body).await?).await?;
    let sent = send(context, reference).await?;
    Ok((built, sent))
}

async fn send(context: &Context, reference: String) -> Done<OperationView> {
    let login = logins::of_image(&reference)?;
    done(context, context.client.push_image(&ImagePushRequest { reference, login }).await?).await
}

async fn done(context: &Context, begun: OperationView) -> Done<OperationView> {
    let ended = context.finish(begun, Detach { detach: false }).await?;
    ended.ok_or_else(|| Error::new(ErrorKind::Failed, "the operation was not waited for"))
}

async fn request(
    context: &Context,
    target: Option<&str>,
    reference: String,
    how: How,
    load: Option<bool>,
) -> Done<ImageRequest> {
    let target = target.map(|target| context.target(target)).transpose()?;
    let (name, moment): (Option<Name>, Option<Moment>) = target.map_or((None, None), |at| (Some(at.name), at.moment));
    let password = match &how.password_file {
        Some(file) => Some(password(file)?),
        None => variable("PANDO_IMAGE_PASSWORD"),
    };
    // Where the server image comes from: the one that is named, that of the last build, or an official one.
    let base = match &how.base {
        Some(base) => base.clone(),
        None => {
            let last = before(context, &reference).await?.map(|image| image.base);
            last.unwrap_or_else(|| logins::OFFICIAL.to_owned())
        }
    };
    let login = logins::of_base(&base, &reference)?;
    Ok(ImageRequest {
        reference,
        name,
        moment,
        source: how.source,
        base: how.base,
        path: how.path,
        user: how.user,
        password,
        max_bytes: how.max_size,
        profile: how.profile,
        masked: (how.masked || how.no_masked).then_some(how.masked),
        load,
        login,
    })
}

fn password(file: &std::path::Path) -> Done<String> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(file)
            .map_err(|error| Error::from(Problem::new(ErrorKind::NotFound, format!("{}: {error}", file.display()))))?
    };
    let text = text.trim_end_matches(['\r', '\n']).to_owned();
    if text.is_empty() {
        return Err(Error::usage("the password is empty", "leave --password-file out, and one is made"));
    }
    Ok(text)
}

/// Shows the image, and what its making and sending came to.
async fn tell(context: &Context, built: Option<OperationView>, sent: Option<OperationView>) -> Done {
    let result = |operation: &Option<OperationView>| operation.as_ref().and_then(|one| one.result.clone());
    let (build, push) = (result(&built), result(&sent));
    let reference = build.as_ref().or(push.as_ref()).and_then(|result| result["reference"].as_str());
    let reference = reference.unwrap_or_default().to_owned();
    let image = context.client.images().await?.into_iter().find(|image| image.reference == reference);
    let gone = || Problem::new(ErrorKind::NotFound, format!("the image {reference} is not there any more"));
    let outcome = Outcome { image: image.ok_or_else(gone)?, build, push };
    context.print(&outcome, |outcome| words(context, outcome))
}

fn masked(image: &ImageView) -> &'static str {
    if image.masked { "masked, " } else { "" }
}

fn words(context: &Context, outcome: &Outcome) -> String {
    let image = &outcome.image;
    let number = |value: &Value, key: &str| human::bytes(value[key].as_u64().unwrap_or(0));
    let was = |key: &str| outcome.build.as_ref().is_some_and(|build| build[key] == true);
    let added = match &outcome.build {
        Some(_) if !was("built") => "nothing: it was there".to_owned(),
        Some(_) => format!(
            "{} of layers; changed: {} in files of {}",
            human::bytes(image.new_bytes),
            human::bytes(image.changed_bytes),
            human::bytes(image.changed_file_bytes)
        ),
        None => String::new(),
    };
    let sent = outcome
        .push
        .as_ref()
        .map(|push| format!("{} sent, {} were there", number(push, "sent_bytes"), number(push, "there_bytes")));
    let runs = was("loaded") || outcome.push.is_some();
    let run = match image.port {
        Some(port) if runs => format!("docker run --publish {port}:{port} {}", image.reference),
        None if runs && image.base != "scratch" => format!("docker run {}", image.reference),
        _ => String::new(),
    };
    let copy = match image.base.as_str() {
        "scratch" => format!("COPY --from={} {} DIRECTORY", image.reference, image.path),
        _ => String::new(),
    };
    human::facts([
        ("image", image.reference.clone()),
        ("digest", image.digest.clone()),
        ("moment", human::time(image.moment, &context.zone)),
        ("data", format!("{}{} in {} layers", masked(image), human::bytes(image.data_bytes), image.data_layers)),
        ("new", added),
        ("registry", sent.unwrap_or_default()),
        ("user", image.user.clone().unwrap_or_default()),
        ("password", image.password.clone().unwrap_or_default()),
        ("run", run),
        ("in a Dockerfile", copy),
    ])
}

async fn ls(context: &Context) -> Done {
    let images = context.client.images().await?;
    context.print(&images, |images| {
        let now = context.now();
        let row = |image: &ImageView| {
            [
                image.reference.clone(),
                format!("{}/{}", image.name, image.source),
                human::time(image.moment, &context.zone),
                human::bytes(image.data_bytes),
                image.data_layers.to_string(),
                if image.masked { "yes" } else { "-" }.to_owned(),
                human::ago(image.built_at, now),
                image.pushed_at.map_or_else(|| "-".to_owned(), |at| human::ago(at, now)),
            ]
        };
        human::table(["IMAGE", "OF", "MOMENT", "DATA", "LAYERS", "MASKED", "BUILT", "PUSHED"], images.iter().map(row))
    })?;
    if images.is_empty() && !context.json {
        output::note("no images; pando image build NAME REF makes one");
    }
    Ok(())
}
