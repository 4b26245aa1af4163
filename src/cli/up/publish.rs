//! `up --engine argo`: publishes the pipelines of a home that only its user's server can mount.
//!
//! Owns waiting until files stand still. What follows is the controller's, also after the server is gone.

use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Args;
use crate::cli::cluster::Cluster;
use crate::cli::error::{CliError, Code};
use crate::cli::global::Global;
use crate::cli::lanes::{self, Lane, Looking};
use crate::cli::log::LogFormat;
use crate::cli::place::Place;
use crate::cli::print;
use crate::cli::run::pause;
use crate::cli::signals::Signals;
use crate::controller::published::{Publication, Publisher};
use crate::reconcile::is_settled;
use crate::source::Hints;
use crate::spec::{Fingerprint, names_file};
use crate::store::FileText;
use crate::types::{PipelineId, Timestamp};

/// Between two looks where nothing waits for a source to settle.
const SECOND_LOOK: u64 = 200;

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    if args.config.is_some() || args.listen.is_some() || args.jobs.is_some() {
        return Err(CliError::usage("--config, --listen and -j are for the local engine")
            .hint("on a cluster, sources are NotebookSource objects and limits are theirs"));
    }
    let environment = Cluster::own_environment().ok_or_else(|| {
        CliError::usage("`up --engine argo` publishes the pipelines of a Jupyter server's home")
            .hint(
                "type it in a terminal of your server; elsewhere a NotebookSource is what you want",
            )
    })?;
    let signals = Signals::listen()?;
    let place = Place::find(&args.path, global.state.as_deref())?;
    let cluster = Cluster::connect()?;
    // That runs can see the root is said now rather than by each run.
    cluster.site(&place.root, None)?;
    let publisher = Publisher::new(
        std::sync::Arc::clone(cluster.runtime()),
        cluster.client().clone(),
        cluster.namespace(),
        &environment,
    );
    let mut publisher = publisher.map_err(CliError::unreachable)?;
    let looking = Looking { max_points: global.max_points, stays: !args.once };
    let mut lane = lanes::of_place(&place, looking);
    let root = place.root.display().to_string();
    let publication = Publication { root, environment, ..Publication::default() };
    info!("engine: argo; publishing to namespace {}", cluster.namespace());
    let mut told = Vec::new();
    loop {
        let hints = lane.hints.as_deref().map(Hints::count);
        let (settling, code) = pass(&mut lane, &mut publisher, &publication, args.log, &mut told);
        if args.once && !settling {
            return Ok(code);
        }
        if args.once {
            pause(SECOND_LOOK);
            continue;
        }
        let poll = args.poll.map_or(lane.poll, |poll| poll).duration();
        let due = Instant::now() + if settling { Duration::from_secs(1) } else { poll };
        loop {
            if let Some(number) = signals.received() {
                info!("stopped; what is published stays, and the controller goes on with it");
                return Ok(Code::Signal(number));
            }
            let hinted = lane.hints.as_deref().map(Hints::count) != hints;
            if Instant::now() >= due || hinted {
                break;
            }
            pause(100);
        }
    }
}

/// One look, and what it publishes. Says whether something has not stood still yet.
fn pass(
    lane: &mut Lane,
    publisher: &mut Publisher,
    publication: &Publication,
    log: LogFormat,
    told: &mut Vec<String>,
) -> (bool, Code) {
    let now = Timestamp::now();
    let snapshot = match lane.source.look(now) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            warn!("warning: {error}");
            return (true, Code::Unreachable);
        }
    };
    let (mut settling, mut code) = (false, Code::Done);
    let mut shown = Vec::new();
    // What is broken or has just changed stays as it was published.
    let mut unknown: Vec<String> = snapshot.unreadable.iter().map(|(at, _)| at.clone()).collect();
    let mut troubles = Vec::new();
    for file in &snapshot.files {
        for problem in &file.documents.problems {
            let words = problem.to_string();
            if !told.contains(&words) && log == LogFormat::Text {
                print::problem(problem);
            }
            troubles.push(words);
        }
        if file.documents.pipelines.is_empty() || file.own_trouble().is_some() {
            unknown.push(file.folder.clone());
            code = code.worse(Code::Usage);
            continue;
        }
        for pipeline in &file.documents.pipelines {
            let id = PipelineId {
                source: publisher.source().to_owned(),
                folder: file.folder.clone(),
                name: pipeline.name().clone(),
            };
            let named = file.broken.iter().find(|(path, _)| names_file(pipeline, path));
            let digest = Fingerprint::new(pipeline, &file.files).digest;
            let settled =
                is_settled(&mut lane.memory, &lane.scope, &id, (&digest, None), file, now);
            if let (None, true, Some(text)) = (named, settled, &file.text) {
                let text = FileText {
                    file: file.path.clone(),
                    folder: file.folder.clone(),
                    text: text.clone(),
                };
                let files = file.files.iter().filter(|(path, _)| names_file(pipeline, path));
                let files = files.map(|(path, state)| (path.clone(), state.clone())).collect();
                let own = Publication { files, newest: file.newest, ..publication.clone() };
                shown.push((id, text, own));
                continue;
            }
            if let Some((path, reason)) = named {
                let words = format!("{id}: {path}: {reason}");
                if !told.contains(&words) {
                    warn!("warning: {words}");
                }
                troubles.push(words);
            }
            settling |= !settled;
            unknown.push(file.folder.clone());
        }
    }
    *told = troubles;
    let unknown = |folder: &str| unknown.iter().any(|other| Path::new(folder).starts_with(other));
    for done in publisher.publish(shown, unknown) {
        match done {
            Ok(words) => info!("published {words}"),
            Err(words) => {
                if !told.contains(&words) {
                    warn!("warning: {words}");
                    told.push(words);
                }
                code = code.worse(Code::Unreachable);
            }
        }
    }
    (settling, code)
}
