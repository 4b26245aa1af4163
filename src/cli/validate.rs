//! `validate`: all problems of all pipeline files.

use std::path::PathBuf;

use super::documents::ProblemsDocument;
use super::error::{CliError, Code};
use super::global::Global;
use super::place::Place;
use super::plan::problems_code;
use super::print;
use super::print::Format;
use crate::source::{DirectorySource, Source};
use crate::spec::{Problem, Severity};
use crate::types::{Timestamp, counted};

/// Check pipeline files and say all that is wrong with them
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Pipeline files, or folders to look for them
    #[arg(default_value = ".")]
    paths: Vec<PathBuf>,
    /// Treat what is likely a mistake as an error
    #[arg(long)]
    strict: bool,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let (mut problems, mut pipelines, mut files) = (Vec::new(), 0, Vec::new());
    for path in &args.paths {
        let place = Place::find(path, global.state.as_deref())?;
        let mut source = DirectorySource::new(
            &place.root,
            std::path::Path::new(&place.below),
            global.max_points,
        );
        let one = path.is_file().then(|| place.relative(path)).transpose()?;
        let found = if let Some(file) = &one {
            vec![source.pipeline_file(file, Timestamp::now()).into()]
        } else {
            let looked = source.look(Timestamp::now());
            looked.map_err(|error| CliError::unreachable(error.to_string()))?.files
        };
        for file in found {
            pipelines += file.documents.pipelines.len();
            let unread = file.broken.iter().filter(|(broken, _)| *broken == file.path);
            problems.extend(unread.map(|(path, reason)| Problem::of_file(path, reason.clone())));
            problems.extend(file.documents.problems.iter().cloned());
            files.push(file.path.clone());
        }
    }
    if args.strict {
        let strict = problems.iter_mut().filter(|problem| problem.strict);
        strict.for_each(|problem| problem.severity = Severity::Error);
    }
    let code = problems_code(&problems);
    let in_files = counted(files.len(), "file", "files");
    let summary = match (files.len(), code) {
        (0, _) => "no pipeline file here; `jupyterflow init` writes a first one".to_owned(),
        (_, Code::Done) => {
            let pipelines = counted(pipelines, "pipeline", "pipelines");
            format!("{in_files}, {pipelines}: valid")
        }
        _ => format!("{} in {in_files}", counted(problems.len(), "problem", "problems")),
    };
    if global.output == Format::Table {
        for problem in &problems {
            print::problem(problem);
        }
        print::data(&summary);
    } else {
        let document = ProblemsDocument { problems };
        print::document(global.output, "Problems", &document, String::new, || files)?;
    }
    Ok(code)
}
