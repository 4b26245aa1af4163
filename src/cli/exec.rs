//! `exec`: one notebook, with papermill's command line.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use indicatif::{ProgressBar, ProgressStyle};

use super::error::{CliError, Code};
use super::print;
use crate::executor::{self, Ending, EndingPhase, Options, Outputs, Progress};
use crate::notebook::Notebook;
use crate::notebook::json::{Object, Raw, mark_non_finite};
use crate::notebook::parameters::{self, Parameter, Parameters};

/// Execute one notebook, as papermill does.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The notebook to execute; `-` is standard input
    pub input: PathBuf,
    /// Where the executed notebook goes; `-` is standard output
    pub output: PathBuf,
    /// A parameter, its value typed as a Python literal where it is one
    #[arg(short = 'p', long = "parameters", num_args = 2, value_names = ["NAME", "VALUE"], action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub parameters: Vec<String>,
    /// A parameter whose value is text
    #[arg(short = 'r', long = "parameters_raw", num_args = 2, value_names = ["NAME", "VALUE"], action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub parameters_raw: Vec<String>,
    /// A file of parameters, YAML or JSON
    #[arg(short = 'f', long = "parameters_file", value_name = "FILE")]
    pub parameters_file: Vec<PathBuf>,
    /// Parameters as YAML text
    #[arg(short = 'y', long = "parameters_yaml", value_name = "YAML")]
    pub parameters_yaml: Vec<String>,
    /// The kernel to use in place of the notebook's
    #[arg(short = 'k', long)]
    pub kernel: Option<String>,
    /// The language to translate parameters to
    #[arg(short = 'l', long)]
    pub language: Option<String>,
    /// The kernel's working directory
    #[arg(long)]
    pub cwd: Option<PathBuf>,
    /// Write the notebook with its parameters, but run nothing
    #[arg(long)]
    pub prepare_only: bool,
    /// Seconds that the kernel may take to start
    #[arg(long = "start-timeout", alias = "start_timeout", default_value_t = 60)]
    pub start_timeout: u64,
    /// Seconds that one cell may take
    #[arg(long = "execution-timeout", alias = "execution_timeout")]
    pub execution_timeout: Option<u64>,
    /// Print what cells print
    #[arg(long = "log-output")]
    pub log_output: bool,
    /// Show a progress bar even where nobody watches
    #[arg(long = "progress-bar", overrides_with = "no_progress_bar")]
    pub progress_bar: bool,
    /// Show no progress
    #[arg(long = "no-progress-bar")]
    pub no_progress_bar: bool,
    /// Treat a parameter that the notebook does not declare as an error
    #[arg(long)]
    pub strict: bool,
    /// Write outputs, metrics and the ending to this file
    #[arg(long = "outputs-json", value_name = "FILE")]
    pub outputs_json: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Code, CliError> {
    if args.prepare_only {
        return prepare_only(args);
    }
    let mut notebook = read_notebook(&args.input)?;
    let to_stdout = args.output == Path::new("-");
    if !to_stdout {
        check_output(&args.input, &args.output)?;
    }
    let parameters = read_parameters(args)?;
    prepare(&mut notebook, args, &parameters)?;
    let folder = args.cwd.clone().unwrap_or_else(|| PathBuf::from("."));
    let output = (!to_stdout).then(|| args.output.clone());
    let options = Options {
        notebook,
        output,
        kernel: args.kernel.clone(),
        folder,
        start_timeout: Duration::from_secs(args.start_timeout),
        cell_timeout: args.execution_timeout.filter(|s| *s > 0).map(Duration::from_secs),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::bug(&error))?;
    let mut view = View::new(args);
    let (notebook, ending) =
        runtime.block_on(executor::execute(options, |event| view.show(&event)));
    view.bar.finish_and_clear();
    if to_stdout {
        write_notebook(&notebook, &args.output)?;
    }
    let (phase, message) = ending.describe();
    if let Some(file) = &args.outputs_json {
        let outputs = Outputs::new(phase, message.clone(), executor::collect(&notebook));
        let text = serde_json::to_string_pretty(&outputs).map_err(|error| CliError::bug(&error))?;
        executor::write_whole(file, text.as_bytes()).map_err(|error| {
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

/// Writes a notebook with its parameters, and runs nothing.
pub fn prepare_only(args: &Args) -> Result<Code, CliError> {
    let mut notebook = read_notebook(&args.input)?;
    if args.output != Path::new("-") {
        check_output(&args.input, &args.output)?;
    }
    let parameters = read_parameters(args)?;
    prepare(&mut notebook, args, &parameters)?;
    write_notebook(&notebook, &args.output).map(|()| Code::Done)
}

/// Reads a notebook from a path or from standard input.
pub fn read_notebook(path: &Path) -> Result<Notebook, CliError> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(path).map(|content| bytes = content)
    };
    read.map_err(|error| CliError::usage(format!("failed to read {shown}: {error}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|error| CliError::usage(format!("{shown} is not UTF-8 text: {error}")))?;
    Notebook::read(&text).map_err(|error| CliError::usage(format!("{shown}: {error}")))
}

/// Writes a notebook to a path or to standard output.
pub fn write_notebook(notebook: &Notebook, path: &Path) -> Result<(), CliError> {
    let text = notebook.write();
    let written = if path == Path::new("-") {
        std::io::stdout().lock().write_all(text.as_bytes())
    } else {
        executor::write_whole(path, text.as_bytes())
    };
    written
        .map_err(|error| CliError::failed(format!("failed to write {}: {error}", path.display())))
}

/// Refuses an output that is the input, or whose folder is not there.
fn check_output(input: &Path, output: &Path) -> Result<(), CliError> {
    if let (Ok(a), Ok(b)) = (input.canonicalize(), output.canonicalize())
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

/// All parameters, in papermill's precedence: `-f`, `-y`, `-p`, `-r`, later over earlier.
fn read_parameters(args: &Args) -> Result<Parameters, CliError> {
    let mut all = Parameters::new();
    for file in &args.parameters_file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            CliError::usage(format!("failed to read {}: {error}", file.display()))
        })?;
        all.extend(yaml_parameters(&text, &file.display().to_string())?);
    }
    for text in &args.parameters_yaml {
        all.extend(yaml_parameters(text, "-y")?);
    }
    for pair in args.parameters.chunks(2) {
        all.insert(pair[0].clone(), Parameter::from_word(&pair[1]));
    }
    for pair in args.parameters_raw.chunks(2) {
        all.insert(pair[0].clone(), Parameter::Text(pair[1].clone()));
    }
    Ok(all)
}

fn yaml_parameters(text: &str, what: &str) -> Result<Parameters, CliError> {
    if text.trim().is_empty() {
        return Ok(Parameters::new());
    }
    let map: IndexMap<String, serde_json::Value> = serde_saphyr::from_str(text)
        .map_err(|error| CliError::usage(format!("{what}: {}", error.without_snippet())))?;
    Ok(map.iter().map(|(name, value)| (name.clone(), Parameter::from(value))).collect())
}

/// Injects the parameters and says what a person should know.
fn prepare(notebook: &mut Notebook, args: &Args, parameters: &Parameters) -> Result<(), CliError> {
    // Also where nothing is run, as with papermill.
    notebook.remove_banners();
    let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
    let (kernel, language) = (args.kernel.as_deref(), args.language.as_deref());
    let injected = parameters::inject(notebook, parameters, kernel, language, &id)
        .map_err(|error| CliError::usage(error.to_string()))?;
    if args.strict && !injected.unknown.is_empty() {
        let names = injected.unknown.join(", ");
        return Err(CliError::usage(format!("the notebook declares no parameter {names}"))
            .hint("declare it in the cell tagged `parameters`, or leave --strict out"));
    }
    for name in &injected.unknown {
        print::talk(&format!("warning: passed unknown parameter: {name}"));
    }
    for warning in &injected.warnings {
        print::talk(&format!("warning: {warning}"));
    }
    let values: Vec<String> = parameters
        .iter()
        .map(|(name, value)| {
            format!("{}: {}", serde_json::Value::from(name.as_str()), value.to_json_text())
        })
        .collect();
    let text = format!("{{{}}}", values.join(", "));
    let values = Raw::parse(&mark_non_finite(&text)).map_err(|error| CliError::bug(&error))?;
    let (input, output) = (args.input.to_string_lossy(), args.output.to_string_lossy());
    notebook.edit_metadata(|metadata| {
        let mut papermill: Object = metadata.get("papermill").map(Raw::object).unwrap_or_default();
        if !parameters.is_empty() || papermill.get("parameters").is_none() {
            papermill.set("parameters", values);
        }
        papermill.set("input_path", Raw::new(&input));
        papermill.set("output_path", Raw::new(&output));
        metadata.set("papermill", Raw::from(&papermill));
    });
    Ok(())
}

/// Progress for people: a bar on a terminal, plain lines elsewhere.
struct View {
    bar: ProgressBar,
    total: usize,
    lines: bool,
    log: bool,
}

impl View {
    fn new(args: &Args) -> Self {
        let wanted = args.progress_bar || print::is_watched();
        let shown = wanted && !args.no_progress_bar && !args.log_output;
        let bar = if shown { ProgressBar::new(0) } else { ProgressBar::hidden() };
        bar.set_style(
            ProgressStyle::with_template("{spinner} {bar:30} cell {pos}/{len} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self { bar, total: 0, lines: !shown && !args.no_progress_bar, log: args.log_output }
    }

    fn show(&mut self, event: &Progress<'_>) {
        match event {
            Progress::Started(total) => {
                self.total = *total;
                self.bar.set_length(*total as u64);
            }
            Progress::Cell(number) => {
                self.bar.set_position(*number as u64);
                if self.lines {
                    print::talk(&format!("cell {number}/{}", self.total));
                }
            }
            Progress::Stream(error, text) if self.log => {
                if *error {
                    print::talk(text.trim_end_matches('\n'));
                } else {
                    print::data(text);
                }
            }
            Progress::Stream(..) => {}
            Progress::Warning(text) => {
                self.bar.suspend(|| print::talk(&format!("warning: {text}")));
            }
        }
    }
}
