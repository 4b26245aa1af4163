//! What a person wants to run: a notebook, a pipeline file or its folder, or a flow.
//!
//! Owns telling them apart, and making a pipeline of what is none yet.

use std::path::{Path, PathBuf};

use super::error::CliError;
use super::global::Global;
use super::lanes::LOCAL;
use super::place::Place;
use super::print;
use super::session::Session;
use crate::spec::{self, Documents, FILE_NAMES, Pipeline, Severity};
use crate::store::FileText;
use crate::types::{PipelineName, counted, slug};

/// A pipeline that can be run, with its text.
pub struct Definition {
    /// The path from which the state is looked for.
    pub path: PathBuf,
    /// The source that it is of.
    pub source: String,
    /// The text.
    pub text: FileText,
    /// The pipeline.
    pub pipeline: Pipeline,
}

/// Which pipeline a person means.
#[derive(clap::Args, Debug, Default)]
pub struct Wanted {
    /// A notebook, a pipeline file or its folder, or a flow such as 'a.ipynb >> python b.py'
    pub target: Option<String>,
    /// A pipeline file, also a workflow.yaml of JupyterFlow 0.0.x
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A flow
    #[arg(short = 'c', long = "command", value_name = "FLOW")]
    pub flow: Option<String>,
    /// Which pipeline of the file
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
}

enum Target {
    File(PathBuf),
    /// A flow, and the folder in which it stands.
    Flow(String, PathBuf),
}

impl Definition {
    /// Finds what is meant by a positional target, `-f` or `-c`; the folder itself without any.
    ///
    /// # Errors
    /// There is no such thing, it is not valid, or it holds several pipelines and none was named.
    pub fn find(global: &Global, wanted: &Wanted) -> Result<Self, CliError> {
        let (target, name) = (wanted.target.as_deref(), wanted.pipeline.as_deref());
        let (file, flow) = (wanted.file.as_deref(), wanted.flow.as_deref());
        let target = match (target, file, flow) {
            (None, None, None) => Target::File(in_folder(Path::new("."))?),
            (Some(target), None, None) => tell(target)?,
            (None, Some(file), None) => {
                Target::File(if file.is_dir() { in_folder(file)? } else { file.to_owned() })
            }
            (None, None, Some(flow)) => Target::Flow(flow.to_owned(), PathBuf::from(".")),
            _ => {
                return Err(CliError::usage("TARGET, -f and -c are three ways to say the same")
                    .hint("give one of them"));
            }
        };
        match target {
            Target::File(path) => Self::of_file(global, path, name),
            Target::Flow(flow, folder) => Self::of_flow(global, &flow, folder, name),
        }
    }

    /// The named pipeline of the sources that the state above the current folder was configured with;
    /// none where it was not.
    ///
    /// # Errors
    /// No pipeline was named, or there is none of that name.
    pub fn of_state(global: &Global, name: Option<&str>) -> Result<Option<Self>, CliError> {
        let Some(name) = name else { return Ok(None) };
        let mut session = Session::to_read(global, Path::new("."))?;
        if session.configuration.is_none() {
            return Ok(None);
        }
        let look = session.look_twice(crate::types::Timestamp::now)?;
        let id = session.find_pipeline(&look, name)?;
        let text = Session::definition(&look, &id);
        let known = text.and_then(|text| Some((text.pipeline(&id.name, global.max_points)?, text)));
        let Some((pipeline, text)) = known else {
            return Err(CliError::usage(format!("nothing good is known of pipeline {id}")));
        };
        let path = session.place.root.clone();
        Ok(Some(Self { path, source: id.source, text, pipeline }))
    }

    fn of_file(global: &Global, path: PathBuf, name: Option<&str>) -> Result<Self, CliError> {
        let place = Place::find(&path, global.state.as_deref())?;
        let file = place.relative(&path)?;
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if let Some(problem) = spec::problem_if_huge(&file, size) {
            print::problem(&problem);
            return Err(CliError::usage(format!("{file} is not valid")));
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| CliError::usage(format!("failed to read {file}: {error}")))?;
        let folder = place.below.clone();
        let (text, documents) = if spec::is_workflow(&text) {
            spec::read_workflow(&text, &file, &folder)
        } else {
            let documents = spec::parse(&text, &file, &folder, global.max_points);
            (text, documents)
        };
        let pipeline = choose(documents, &file, name)?;
        Ok(Self { path, source: LOCAL.into(), text: FileText { file, folder, text }, pipeline })
    }

    fn of_flow(
        global: &Global,
        flow: &str,
        path: PathBuf,
        name: Option<&str>,
    ) -> Result<Self, CliError> {
        let place = Place::find(&path, global.state.as_deref())?;
        let folder = place.below;
        let steps = spec::parse_flow(flow)
            .map_err(|message| CliError::usage(format!("the flow {flow:?}: {message}")))?;
        let first = steps.keys().next().map(|step| slug(step, PipelineName::MAX));
        let own = name.map(str::to_owned).or(first).filter(|name| !name.is_empty());
        let text = serde_json::json!({
            "name": own.unwrap_or_else(|| "flow".into()), "triggers": [], "steps": steps,
        })
        .to_string();
        let file = "the flow".to_owned();
        let pipeline = choose(spec::parse(&text, &file, &folder, global.max_points), &file, None)?;
        Ok(Self { path, source: LOCAL.into(), text: FileText { file, folder, text }, pipeline })
    }
}

/// A positional target: what is there on disk comes first, all else is a flow.
fn tell(target: &str) -> Result<Target, CliError> {
    let path = Path::new(target);
    if path.is_dir() {
        return in_folder(path).map(Target::File);
    }
    let is_notebook = target.ends_with(".ipynb");
    let flow = || Target::Flow(target.to_owned(), PathBuf::from("."));
    if path.is_file() && !is_notebook {
        let text = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        return Ok(if text { Target::File(path.to_owned()) } else { flow() });
    }
    if is_notebook && path.is_file() {
        // A name is one word, whatever characters it has.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(target);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        return Ok(Target::Flow(format!("'{}'", name.replace('\'', "'\\''")), folder));
    }
    let one_word = !target.contains(char::is_whitespace);
    if one_word && (is_notebook || target.ends_with(".yaml") || target.ends_with(".yml")) {
        return Err(CliError::usage(format!("there is no file {target}")));
    }
    Ok(flow())
}

fn in_folder(folder: &Path) -> Result<PathBuf, CliError> {
    let found = FILE_NAMES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        CliError::usage(format!("there is no jupyterflow.yaml in {}", folder.display()))
            .hint("`jupyterflow init` writes a first one; or name a notebook or a flow")
    })
}

fn choose(documents: Documents, file: &str, name: Option<&str>) -> Result<Pipeline, CliError> {
    for problem in &documents.problems {
        print::problem(problem);
    }
    let errors = documents.problems.iter().filter(|p| p.severity == Severity::Error).count();
    if errors > 0 {
        let problems = counted(errors, "problem", "problems");
        return Err(CliError::usage(format!("{file} is not valid: {problems}")));
    }
    let names: Vec<String> =
        documents.pipelines.iter().map(|pipeline| pipeline.name().to_string()).collect();
    let mut pipelines = documents.pipelines.into_iter();
    match name {
        Some(name) => {
            pipelines.find(|pipeline| pipeline.name().as_str() == name).ok_or_else(|| {
                CliError::usage(format!("{file} has no pipeline `{name}`"))
                    .hint(format!("it has {}", names.join(", ")))
            })
        }
        None if names.len() > 1 => {
            Err(CliError::usage(format!("{file} has several pipelines: {}", names.join(", ")))
                .hint("say which with --pipeline NAME"))
        }
        None => pipelines.next().ok_or_else(|| CliError::usage(format!("{file} has no pipeline"))),
    }
}
