//! `show`: one run, whole.

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{Found, Where, find};
use super::run::report;
use crate::store::StoredRun;

/// Show one run, its steps and where its results lie
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The run's name, or the beginning of it
    run: String,
    #[command(flatten)]
    place: Where,
    /// The address of Argo's pages, to link that of the run
    #[arg(long, env = "JUPYTERFLOW_ARGO_URL", value_name = "URL")]
    argo_url: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let (place, run, stored) = match find(global, &args.place, &args.run)? {
        Found::Here(session, stored) => {
            (session.place_of(&stored.run.source), session.as_it_stands(&stored), stored)
        }
        Found::There(records, stored) => {
            (records.place(&stored.pipeline), stored.run.clone(), stored)
        }
    };
    report(global, &place, &run, &stored.pipeline.folder)?;
    let page = args.argo_url.as_deref().and_then(|url| page(url, &stored));
    if let Some(page) = page.filter(|_| global.output == print::Format::Table) {
        print::data(&page);
    }
    Ok(Code::Done)
}

/// Argo's page of a run that it executes, also once it is archived.
fn page(url: &str, stored: &StoredRun) -> Option<String> {
    let (namespace, uid) = stored.spec.handle.as_ref()?.split_once('/')?;
    let (url, name) = (url.trim_end_matches('/'), &stored.run.name);
    Some(format!("{url}/workflows/{namespace}/{name}?uid={uid}"))
}
