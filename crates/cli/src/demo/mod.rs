//! `pando demo`: makes a small production of its own, does with it what Pando is for, and checks each step against
//! what production had committed. A mismatch is a failure of the command.

mod check;
mod clones;
mod hands;
mod production;
mod stage;
mod story;
mod tell;
mod writer;

use std::path::PathBuf;

use clap::Args;

use self::stage::Stage;
use self::tell::Teller;
use crate::errors::{Done, Error};
use crate::{output, settings};

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the demo makes the directory of its own that it removes at the end
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// About how large its production is to be [default: 300M; 100M where every clone is a full copy]
    #[arg(long, value_parser = settings::size)]
    size: Option<u64>,
    /// Leave all of it running, and say how to look around
    #[arg(long)]
    keep: bool,
    /// End a demo that was kept or interrupted: DIR is the directory that it named
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dir", "size", "keep"])]
    end: Option<PathBuf>,
    /// Go on placing orders: the part of a demo that was kept
    #[arg(long, value_name = "DIR", hide = true, conflicts_with_all = ["dir", "size", "keep", "end"])]
    write: Option<PathBuf>,
}

/// Runs, or ends, a demo.
pub fn demo(args: &DemoArgs, json: bool) -> Done {
    if let Some(dir) = &args.end {
        Stage::open(dir)?.end()?;
        return if json { Ok(()) } else { output::line(&format!("{} is removed", dir.display())) };
    }
    if let Some(dir) = &args.write {
        return match Stage::shop_of(dir)? {
            Some(shop) => writer::forever(&shop),
            None => Err(Error::usage("this demo has no shop yet", "pando demo --keep")),
        };
    }
    production::installed()?;
    let mut stage = Stage::make(&args.dir)?;
    let mut teller = Teller::new(json);
    let told = story::tell(&mut stage, &mut teller, args.size);
    if told.is_err() {
        for alarm in stage.alarms() {
            output::note(&alarm);
        }
    }
    if told.is_err() && args.keep {
        output::note(&format!("left as it is: pando demo --end {} removes it", stage.dir.display()));
        return told;
    }
    if args.keep {
        stage.keep_writing()?;
        story::kept(&stage, &teller)?;
        return teller.end();
    }
    let dir = stage.dir.clone();
    let ended = stage.end();
    if ended.is_err() {
        output::note(&format!("something is left behind: pando demo --end {} tries again", dir.display()));
    }
    told?;
    ended?;
    teller.line(&format!("\nEverything of the demo is stopped and removed ({} is gone).", dir.display()))?;
    story::next(&teller)?;
    teller.end()
}
