//! `exec`: one notebook, with papermill's command line.

mod args;
mod parameters;
mod view;

use std::future::Future;
use std::io::IsTerminal;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::args::Args;
use self::args::Talk;
use self::view::View;
use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use crate::executor::{self, Ending, EndingPhase, Location, Options, Outputs, Saving};
use crate::notebook::Notebook;
use crate::notebook::parameters::{Builtin, Parameters, fill};

/// What `--engine` may be here: papermill's name of what happens in any case, and those of runs.
const ENGINES: [&str; 3] = ["nbclient", "local", "argo"];

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    if let Some(engine) = global.engine.as_deref().filter(|name| !ENGINES.contains(name)) {
        return Err(CliError::usage(format!(
            "there is no engine {engine:?}: papermill's engines are Python plug-ins"
        ))
        .hint("run `papermill --engine …` for those, or leave --engine out"));
    }
    block_on(execute(args))
}

/// Writes a notebook with its parameters, and runs nothing.
pub fn prepare_only(args: &Args) -> Result<Code, CliError> {
    block_on(write_prepared(args))
}

async fn write_prepared(args: &Args) -> Result<Code, CliError> {
    let task = Task::new(args).await?;
    task.output.write(task.notebook.write().into_bytes()).await.map_err(CliError::failed)?;
    Ok(Code::Done)
}

fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::bug(&error))?.block_on(work)
}

async fn execute(args: &Args) -> Result<Code, CliError> {
    if args.help_notebook {
        return help_notebook(args).await;
    }
    if args.prepare_only {
        return write_prepared(args).await;
    }
    if let Some(folder) = args.cwd.as_deref().filter(|folder| !folder.is_dir()) {
        let folder = folder.display();
        return Err(CliError::usage(format!("the working directory {folder} does not exist")));
    }
    let Task { notebook, output, talk } = Task::new(args).await?;
    let mut view = View::new(args, talk, output == Location::Standard)?;
    let timeout = args.execution_timeout.and_then(|seconds| u64::try_from(seconds).ok());
    let options = Options {
        notebook,
        saving: Saving {
            cells: !args.no_request_save_on_cell_execute && !output.is_stream(),
            during: match args.autosave_cell_every {
                None => Some(Duration::ZERO),
                Some(seconds) => Some(Duration::from_secs(seconds)).filter(|time| !time.is_zero()),
            },
        },
        output,
        kernel: args.kernel.clone(),
        launch: args.launch,
        folder: args.cwd.clone().unwrap_or_else(|| PathBuf::from(".")),
        start_timeout: Duration::from_secs(args.start_timeout),
        cell_timeout: timeout.filter(|s| *s > 0).map(Duration::from_secs),
        output_limit: args.output_limit.saturating_mul(1 << 20),
    };
    let (notebook, ending) = executor::execute(options, |event| view.show(&event)).await;
    view.close();
    let (phase, message) = ending.describe();
    if let Some(file) = &args.outputs_json {
        let outputs = Outputs::new(phase, message.clone(), executor::collect(&notebook));
        let text = serde_json::to_string_pretty(&outputs).map_err(|error| CliError::bug(&error))?;
        executor::write_named(file, text.as_bytes()).map_err(|error| {
            CliError::failed(format!("failed to write {}: {error}", file.display()))
        })?;
    }
    if let Ending::CellFailed { error, .. } = &ending {
        error.traceback.iter().for_each(|line| print::talk(line));
    }
    match (phase, message) {
        (EndingPhase::Succeeded, _) => Ok(Code::Done),
        (_, message) => {
            let code = u8::try_from(ending.exit_code() - 128).map_or(Code::Failed, Code::Signal);
            let code = if ending.exit_code() > 128 { code } else { Code::Failed };
            Err(CliError::failed(message.unwrap_or_default()).code(code))
        }
    }
}

/// A notebook that is ready to run, and where it goes.
struct Task {
    notebook: Notebook,
    output: Location,
    talk: Talk,
}

impl Task {
    async fn new(args: &Args) -> Result<Self, CliError> {
        let names = args.names(stdin_is_pipe(), std::io::stdout().is_terminal());
        let (input, output) = names.ok_or_else(|| {
            CliError::usage("the notebook or its output is missing: exec INPUT OUTPUT")
                .hint("`-` is standard input and standard output")
        })?;
        let parameters = parameters::collect(args, &input, &output).await?;
        let (input, output) = (filled(&input, &parameters)?, filled(&output, &parameters)?);
        let (from, to) = (Location::parse(&input), Location::parse(&output));
        let talk = args.talk(to == Location::Standard);
        if let Some(path) = to.file() {
            check_output(from.file(), path)?;
        }
        let mut notebook = read(&from).await?;
        parameters::prepare(&mut notebook, args, &parameters, (&input, &output), talk)?;
        Ok(Self { notebook, output: to, talk })
    }
}

/// A name with its fields filled; it may hold the time, as papermill has it.
fn filled(path: &str, parameters: &Parameters) -> Result<String, CliError> {
    let builtin = Builtin { run_uuid: uuid::Uuid::new_v4().to_string(), now: jiff::Zoned::now() };
    fill(path, parameters, &builtin).map_err(|error| CliError::usage(format!("{path}: {error}")))
}

async fn help_notebook(args: &Args) -> Result<Code, CliError> {
    let name = args.input.clone().unwrap_or_else(|| "-".into());
    let parameters = parameters::collect(args, &name, "").await?;
    let notebook = read(&Location::parse(&filled(&name, &parameters)?)).await?;
    let (text, declares) = parameters::help(&notebook, &name);
    print::data(&text);
    Ok(if declares { Code::Done } else { Code::Failed })
}

async fn read(place: &Location) -> Result<Notebook, CliError> {
    let bytes = place.read().await.map_err(CliError::usage)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| CliError::usage(format!("{place} is not UTF-8 text: {error}")))?;
    Notebook::read(&text).map_err(|error| CliError::usage(format!("{place}: {error}")))
}

/// Reads a notebook from a path or from standard input.
pub fn read_notebook(path: &Path) -> Result<Notebook, CliError> {
    block_on(async { read(&Location::parse(&path.to_string_lossy())).await })
}

fn stdin_is_pipe() -> bool {
    std::fs::metadata("/dev/stdin").is_ok_and(|data| data.file_type().is_fifo())
}

/// Refuses an output that is the input, or whose folder is not there.
fn check_output(input: Option<&Path>, output: &Path) -> Result<(), CliError> {
    if let (Some(Ok(a)), Ok(b)) = (input.map(Path::canonicalize), output.canonicalize())
        && a == b
    {
        return Err(CliError::usage(format!("{} is the input itself", output.display()))
            .hint("write the executed notebook elsewhere: the source stays as it is"));
    }
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            Err(CliError::usage(format!("the output folder {} does not exist", folder.display())))
        }
        _ => Ok(()),
    }
}
