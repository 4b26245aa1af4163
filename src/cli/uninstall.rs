//! `uninstall`: takes the controller out of a cluster, so that nothing waits for it.
//!
//! Owns the order of words. What is removed, and how, is the controller's room's.

use super::cluster::Cluster;
use super::error::{CliError, Code};
use super::print;
use crate::controller::removal;

/// Take the controller out of a cluster; runs go on, and records stay
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The namespace of the controller
    #[arg(short = 'n', long, value_name = "NAME", default_value = "jupyterflow")]
    namespace: String,
    /// Remove the custom resources too, with all sources, pipelines and records of runs
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Code, CliError> {
    let cluster = Cluster::connect()?;
    let (runtime, client) = (cluster.runtime(), cluster.client());
    let done = removal::controller(runtime, client, &args.namespace);
    let freed = done.and_then(|()| removal::finalizers(runtime, client));
    let freed = freed.map_err(CliError::unreachable)?;
    print::talk(&format!(
        "the controller is removed; {} let go",
        crate::types::counted(freed, "Workflow is", "Workflows are")
    ));
    if args.all {
        removal::definitions(runtime, client).map_err(CliError::unreachable)?;
        print::talk("all sources, pipelines and records of runs are removed");
    } else {
        print::talk("sources, pipelines and records of runs stay; --all removes them too");
    }
    Ok(Code::Done)
}
