//! `backfill`: runs for past instants of a schedule, through the ledger.

use std::time::{Duration, Instant};

use kube::ResourceExt;

use super::documents::{BackfillDocument, LeftInstant, RunReference};
use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{IS_ONE_AT_WORK, Records, SEEN_WITHIN, Where, recorded};
use super::run::pause;
use super::session::{LocalEngineOptions, Session};
use crate::controller::objects::Key;
use crate::controller::records::{BACKFILL, version};
use crate::controller::requests::MOST_BACKFILLED;
use crate::plan::{self, Backfill, Claim, range};
use crate::reconcile::{self, Backfilling};
use crate::store::StoredPipeline;
use crate::types::{PipelineId, Timestamp};

/// How long a controller may take to claim one.
const OF_EACH: Duration = Duration::from_millis(300);

/// Make runs for past instants of a pipeline's schedules, where none answered them
///
/// An instant runs from before its schedule took effect, or where it was skipped. All others are named
/// and left. The runs wait in the pipeline's queue; `up`, or the controller, starts them one by one.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The pipeline
    pipeline: String,
    /// The first and the last instant: FROM..TO, each a day or as in RFC 3339
    #[arg(value_name = "FROM..TO")]
    range: String,
    #[command(flatten)]
    place: Where,
    /// Say what would be claimed
    #[arg(long)]
    dry_run: bool,
    /// The most runs to claim
    #[arg(long, value_name = "N", default_value_t = 100)]
    max: usize,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let asked = Backfilling {
        range: range(&args.range).map_err(|message| {
            CliError::usage(message).hint(
                "write it as 2026-11-01..2026-11-22 or 2026-11-01T03:00:00Z..2026-11-02T03:00:00Z",
            )
        })?,
        most: args.max,
        dry_run: args.dry_run,
    };
    if let Some((records, known)) = recorded(global, &args.place, &args.pipeline)? {
        return there(global, &records, &known, &asked);
    }
    let mut session = if args.dry_run {
        Session::to_read(global, &args.place.path)?
    } else {
        Session::to_write(global, &args.place.path, LocalEngineOptions::default())?
    };
    let look = session.look_twice(Timestamp::now)?;
    let id = session.find_pipeline(&look, &args.pipeline)?;
    let now = Timestamp::now();
    let (mut world, scope) = session.world_of(&id.source);
    let done = reconcile::backfill(&mut world, &scope, &look, &id, &asked, now)?;
    say(global, &id, &asked, &done, "`jupyterflow up` starts them, one after the other")
}

/// Asks a controller for it. What it will claim follows from the records, and is shown once it is claimed.
fn there(
    global: &Global,
    records: &Records,
    known: &StoredPipeline,
    asked: &Backfilling,
) -> Result<Code, CliError> {
    let (id, now) = (&known.id, Timestamp::now());
    if asked.most > MOST_BACKFILLED {
        let message = format!("a controller claims at most {MOST_BACKFILLED} runs at a time");
        return Err(CliError::usage(message).hint("leave out --max, or make it less"));
    }
    if known.ledger.orphaned.is_some() {
        return Err(CliError::usage(format!("pipeline {id} is gone from its source")));
    }
    let text = known.definition.as_ref();
    let pipeline = text.and_then(|text| text.pipeline(&id.name, usize::MAX)).ok_or_else(|| {
        CliError::usage(format!("nothing good is known of pipeline {id}"))
            .hint("`jupyterflow status` says why")
    })?;
    let schedules = &pipeline.triggers().schedules;
    let done = plan::backfill(id, &known.ledger, schedules, asked.range, asked.most, now)
        .map_err(CliError::usage)?;
    if !asked.dry_run && !done.claims.is_empty() {
        let (from, to) = asked.range;
        // What is yet to come is never made up for.
        claimed(records, id, &format!("{from}..{}", to.min(now)), &done.claims)?;
    }
    say(global, id, asked, &done, "the controller starts them, as they find room")
}

/// Asks for claims, and waits until they are answered.
fn claimed(
    records: &Records,
    id: &PipelineId,
    words: &str,
    claims: &[Claim],
) -> Result<(), CliError> {
    // Words, and the version in which they stand.
    let stand = || {
        let object = records.object(id)?;
        let words = object.annotations().get(BACKFILL).cloned();
        Some((words, version(&object.metadata).unwrap_or(0)))
    };
    if let Some((Some(others), _)) = stand() {
        let others = print::printable(&others);
        let message = format!("another backfill of pipeline {id} is not answered yet: {others}");
        return Err(CliError::failed(message).hint(IS_ONE_AT_WORK));
    }
    let asked = records.requests.backfill(&records.key(id), words);
    let asked = asked.map_err(|why| records.error("change a pipeline", &why))?;
    let until = Instant::now() + SEEN_WITHIN + OF_EACH * u32::try_from(claims.len()).unwrap_or(0);
    // It is answered once the words are gone.
    while stand().is_some_and(|(own, at)| at < asked || own.as_deref() == Some(words)) {
        if Instant::now() > until {
            let message = format!(
                "the backfill of pipeline {id} is not answered yet; that it is wanted is recorded"
            );
            return Err(CliError::failed(message).hint(IS_ONE_AT_WORK));
        }
        pause(100);
    }
    for claim in claims {
        if records.run(&claim.name)?.is_none() {
            let message = format!("the controller did not claim {} of pipeline {id}", claim.name);
            let Key { namespace, name } = records.key(id);
            return Err(CliError::failed(message)
                .hint(format!("`kubectl describe nbp -n {namespace} {name}` says why")));
        }
    }
    Ok(())
}

fn say(
    global: &Global,
    id: &PipelineId,
    asked: &Backfilling,
    done: &Backfill,
    next: &str,
) -> Result<Code, CliError> {
    let reference = |claim: &Claim| RunReference {
        id: claim.id.clone(),
        name: claim.name.clone(),
        trigger: claim.trigger.clone(),
    };
    let left = |(at, why): &(Timestamp, &str)| LeftInstant { at: *at, reason: (*why).into() };
    let document = BackfillDocument {
        pipeline: id.to_string(),
        dry_run: asked.dry_run,
        claimed: done.claims.iter().map(reference).collect(),
        left: done.left.iter().map(left).collect(),
    };
    let names = || document.claimed.iter().map(|run| run.name.to_string()).collect();
    print::document(global.output, "Backfill", &document, || table(&document), names)?;
    if !asked.dry_run && !document.claimed.is_empty() {
        print::talk(next);
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
