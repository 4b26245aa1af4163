//! `export`: a pipeline as other tools take it.

use std::path::{Path, PathBuf};

use super::cluster::{self, Cluster};
use super::error::{CliError, Code};
use super::global::Global;
use super::place::Place;
use super::print;
use super::run::Parameters;
use super::target::{Definition, Wanted};
use crate::engine::argo::compile;
use crate::engine::argo::environment::Environment;
use crate::plan::{Run, Trigger};
use crate::source::{DirectorySource, Source};
use crate::spec::{Fingerprint, Severity, Work, file_problems};
use crate::store::{EngineName, FileText, RunSpec, StoredRun};
use crate::types::{PipelineId, RunId, Timestamp, TriggerKind};

/// Print a pipeline as other tools take it
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// An Argo Workflow, to be created by whatever creates Workflows
    Argo(Box<Argo>),
}

/// Which pipeline, for which environment.
#[derive(clap::Args, Debug)]
pub struct Argo {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    parameters: Parameters,
    /// The image of steps that name none; that of the own Jupyter pod unless given
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// A claim, and where it is in the pods; those of the own Jupyter pod besides
    #[arg(long = "volume", value_name = "CLAIM:PATH")]
    volumes: Vec<String>,
    /// The service account of the pods; that of the own Jupyter pod unless given
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// Where the root of the pipelines is in the pods; where it is here unless given
    #[arg(long, value_name = "PATH")]
    root: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: &Command, global: &Global) -> Result<Code, CliError> {
    let Command::Argo(args) = command;
    let definition = Definition::find(global, &args.wanted)?;
    let mut environment = Environment::default();
    if cluster::is_inside() {
        environment = Cluster::connect()?.environment()?;
    }
    if let Some(image) = &args.image {
        environment.image = Some(image.clone());
    }
    if let Some(account) = &args.service_account {
        environment.service_account = Some(account.clone());
    }
    for text in &args.volumes {
        let (claim, path) = claim(text)?;
        environment.mount(claim, path, None);
    }
    let root = match &args.root {
        Some(root) => root.clone(),
        None => Place::find(&definition.path, global.state.as_deref())?.root,
    };
    if !environment.shares(&root) {
        let message = format!("{} is on no volume of the pods", root.display());
        return Err(CliError::usage(message)
            .hint("say which claim has it: --volume CLAIM:PATH, and --root PATH below that"));
    }
    let site = cluster::site(environment, root.to_string_lossy().into_owned(), None);
    let mut stored = drafted(&definition, args, global.max_points);
    stored.spec.fingerprint = manifests(&definition, global)?;
    let pipeline = stored.definition().unwrap_or(definition.pipeline);
    let workflow = compile::export(&site, &pipeline, &stored).map_err(CliError::usage)?;
    let text = match global.output {
        print::Format::Json => {
            serde_json::to_string_pretty(&workflow).map_err(|e| CliError::bug(&e))
        }
        _ => serde_saphyr::to_string(&workflow).map_err(|error| CliError::bug(&error)),
    };
    print::data(&text?);
    Ok(Code::Done)
}

/// What the objects of resource steps are that have files of their own: a Workflow holds them. Of all else it
/// runs whatever the files are when it begins.
fn manifests(definition: &Definition, global: &Global) -> Result<Option<Fingerprint>, CliError> {
    let pipeline = &definition.pipeline;
    let in_file = |work: &Work| matches!(work, Work::Resource(one) if one.path.is_some());
    if !pipeline.steps().iter().any(|step| in_file(step.work())) {
        return Ok(None);
    }
    let place = Place::find(&definition.path, global.state.as_deref())?;
    let mut source = DirectorySource::new(&place.root, Path::new(""), usize::MAX);
    let FileText { file, text, .. } = &definition.text;
    let named = source.named_files(pipeline, file, Timestamp::now());
    let fingerprint = Fingerprint::new(pipeline, &named.files);
    let whole = pipeline.clone().with_manifests(|step, _| fingerprint.manifest(step));
    let problems = file_problems(&whole, file, text, &named.files, &named.broken);
    match problems.into_iter().find(|problem| problem.severity == Severity::Error) {
        Some(problem) => Err(CliError::usage(problem.message)),
        None => Ok(Some(fingerprint)),
    }
}

/// `CLAIM:PATH`.
fn claim(text: &str) -> Result<(&str, &str), CliError> {
    let parts = text.split_once(':');
    let known = parts.filter(|(claim, path)| !claim.is_empty() && path.starts_with('/'));
    known.ok_or_else(|| {
        CliError::usage(format!("{text:?} is no claim and path"))
            .hint("such as --volume claim-ann:/home/jovyan")
    })
}

/// The run of an export: whatever creates the Workflow asks for it.
fn drafted(definition: &Definition, args: &Argo, max_points: usize) -> StoredRun {
    let pipeline = PipelineId {
        source: definition.source.clone(),
        folder: definition.pipeline.folder().to_owned(),
        name: definition.pipeline.name().clone(),
    };
    let (kind, key) = (TriggerKind::Manual, "export".to_owned());
    let id = RunId::new(&pipeline, kind, &key);
    let name = id.name(&pipeline.name, None);
    let trigger = Trigger { kind, key, scheduled_at: None, retry_of: None };
    let (params, at) = (args.parameters.given(), Timestamp::UNIX_EPOCH);
    StoredRun {
        run: Run::claimed(&pipeline, (id, name), trigger, String::new(), params, at),
        pipeline,
        spec: RunSpec {
            definition: definition.text.clone(),
            max_points,
            fingerprint: None,
            because: Vec::new(),
            from: None,
            kept: Vec::new(),
            backfill: false,
            engine: EngineName::Argo,
            handle: None,
        },
        stop_requested: false,
        stopped_by: None,
        ended: None,
    }
}
