//! `backfill`: runs for past instants of a schedule, through the ledger.

use std::path::PathBuf;

use super::documents::{BackfillDocument, LeftInstant, RunReference};
use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{Namespace, Where, recorded};
use super::session::{LocalEngineOptions, Session};
use crate::reconcile;
use crate::types::Timestamp;

/// Make runs for past instants of a pipeline's schedules, where none answered them
///
/// An instant runs from before its schedule took effect, or where it was skipped. All others are named
/// and left. The runs wait in the pipeline's queue; `up` starts them.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pipeline
    pipeline: String,
    /// The first and the last instant: FROM..TO, each a day or as in RFC 3339
    #[arg(value_name = "FROM..TO")]
    range: String,
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
    /// Say what would be claimed
    #[arg(long)]
    dry_run: bool,
    /// The most runs to claim
    #[arg(long, value_name = "N", default_value_t = 100)]
    max: usize,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let range = range(&args.range)?;
    let place = Where { path: args.path.clone(), of: Namespace { namespace: None } };
    if let Some((_, known)) = recorded(global, &place, &args.pipeline)? {
        let message = format!("pipeline {} is run by a controller", known.id);
        return Err(CliError::usage(message)
            .hint("`backfill` needs the local engine in this version: `--engine local`"));
    }
    let mut session = if args.dry_run {
        Session::to_read(global, &args.path)?
    } else {
        Session::to_write(global, &args.path, LocalEngineOptions::default())?
    };
    let look = session.look_twice(Timestamp::now)?;
    let id = session.find_pipeline(&look, &args.pipeline)?;
    let now = Timestamp::now();
    let asked = reconcile::Backfilling { range, most: args.max, dry_run: args.dry_run };
    let (mut world, scope) = session.world_of(&id.source);
    let done = reconcile::backfill(&mut world, &scope, &look, &id, &asked, now)?;
    let reference = |claim: &crate::plan::Claim| RunReference {
        id: claim.id.clone(),
        name: claim.name.clone(),
        trigger: claim.trigger.clone(),
    };
    let document = BackfillDocument {
        pipeline: id.to_string(),
        dry_run: args.dry_run,
        claimed: done.claims.iter().map(reference).collect(),
        left: done
            .left
            .iter()
            .map(|(at, why)| LeftInstant { at: *at, reason: (*why).into() })
            .collect(),
    };
    let names = || document.claimed.iter().map(|run| run.name.to_string()).collect();
    print::document(global.output, "Backfill", &document, || table(&document), names)?;
    if !args.dry_run && !document.claimed.is_empty() {
        print::talk("`jupyterflow up` starts them, one after the other");
    }
    Ok(Code::Done)
}

fn table(document: &BackfillDocument) -> String {
    let verb = if document.dry_run { "would run" } else { "claimed" };
    let claimed = document
        .claimed
        .iter()
        .map(|run| vec![run.trigger.key.clone(), verb.to_owned(), run.name.to_string()]);
    let left =
        document.left.iter().map(|one| vec![one.at.to_string(), "left".into(), one.reason.clone()]);
    let mut rows: Vec<Vec<String>> = claimed.chain(left).collect();
    rows.sort();
    if rows.is_empty() {
        return "no instant of the schedule lies there".into();
    }
    print::table(&["INSTANT", "", "RUN OR REASON"], rows)
}

fn range(text: &str) -> Result<(Timestamp, Timestamp), CliError> {
    let parts = text.split_once("..").and_then(|(from, to)| Some((instant(from)?, instant(to)?)));
    match parts {
        Some((from, to)) if from <= to => Ok((from, to)),
        Some(_) => Err(CliError::usage(format!("{text:?} ends before it begins"))),
        None => Err(CliError::usage(format!("{text:?} is no range of instants")).hint(
            "write it as 2026-11-01..2026-11-22 or 2026-11-01T03:00:00Z..2026-11-02T03:00:00Z",
        )),
    }
}

/// An instant, or the beginning of a day in UTC.
fn instant(text: &str) -> Option<Timestamp> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    text.parse().ok().or_else(|| day().map(|at| at.timestamp()))
}
