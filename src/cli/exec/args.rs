//! The command line of `exec`: all of papermill's (2.7), and what is ours.

use std::path::PathBuf;

use clap::ArgAction::{Append, SetTrue};

use crate::executor::Launch;

/// Execute one notebook, as papermill does.
///
/// Options are papermill's. Names of notebooks are paths, `-`, or URLs (http, https, s3, gs, az), and
/// may hold parameters: `out-{region}.ipynb`. Without OUTPUT the notebook goes to standard output
/// where that is no terminal; in a pipe the notebook is read from standard input.
#[derive(clap::Args, Debug)]
#[command(version, disable_version_flag = true)]
pub struct Args {
    /// The notebook to execute; `-` is standard input
    pub input: Option<String>,
    /// Where the executed notebook goes; `-` is standard output
    pub output: Option<String>,
    /// A parameter, its value typed as a Python literal where it is one
    #[arg(short = 'p', long = "parameters", num_args = 2, value_names = ["NAME", "VALUE"], action = Append, allow_hyphen_values = true)]
    pub parameters: Vec<String>,
    /// A parameter whose value is text
    #[arg(short = 'r', long = "parameters_raw", num_args = 2, value_names = ["NAME", "VALUE"], action = Append, allow_hyphen_values = true)]
    pub parameters_raw: Vec<String>,
    /// A file of parameters, YAML or JSON; also a URL
    #[arg(short = 'f', long = "parameters_file", value_name = "FILE")]
    pub parameters_file: Vec<String>,
    /// Parameters as YAML text
    #[arg(short = 'y', long = "parameters_yaml", value_name = "YAML", allow_hyphen_values = true)]
    pub parameters_yaml: Vec<String>,
    /// Parameters as YAML text in base64
    #[arg(short = 'b', long = "parameters_base64", value_name = "BASE64")]
    pub parameters_base64: Vec<String>,
    /// Pass the input's name as parameter `PAPERMILL_INPUT_PATH`
    #[arg(long)]
    pub inject_input_path: bool,
    /// Pass the output's name as parameter `PAPERMILL_OUTPUT_PATH`
    #[arg(long)]
    pub inject_output_path: bool,
    /// Pass both
    #[arg(long)]
    pub inject_paths: bool,
    /// Show the parameters that the notebook declares, and run nothing
    #[arg(long)]
    pub help_notebook: bool,
    /// Write the notebook also while it runs (the default)
    #[arg(long, action = SetTrue, overrides_with = "no_request_save_on_cell_execute")]
    pub request_save_on_cell_execute: bool,
    /// Write the notebook only at its end
    #[arg(long)]
    pub no_request_save_on_cell_execute: bool,
    /// Seconds between writes during a cell; 0 writes none [default: as often as costs nothing]
    #[arg(long, value_name = "SECONDS")]
    pub autosave_cell_every: Option<u64>,
    /// Write the notebook with its parameters, but run nothing
    #[arg(long, overrides_with = "prepare_execute")]
    pub prepare_only: bool,
    /// Run the notebook (the default)
    #[arg(long)]
    pub prepare_execute: bool,
    /// The kernel to use in place of the notebook's
    #[arg(short = 'k', long)]
    pub kernel: Option<String>,
    /// The language to translate parameters to
    #[arg(short = 'l', long)]
    pub language: Option<String>,
    /// The kernel's working directory
    #[arg(long, value_name = "FOLDER")]
    pub cwd: Option<PathBuf>,
    /// Show a progress bar even where nobody watches
    #[arg(long, overrides_with = "no_progress_bar")]
    pub progress_bar: bool,
    /// Show no progress
    #[arg(long)]
    pub no_progress_bar: bool,
    /// Write what cells print to standard error
    #[arg(long, overrides_with = "no_log_output")]
    pub log_output: bool,
    /// Do not (the default)
    #[arg(long)]
    pub no_log_output: bool,
    /// Write what cells print on their standard output to this file
    #[arg(long, value_name = "FILE")]
    pub stdout_file: Option<PathBuf>,
    /// Write what cells print on their standard error to this file
    #[arg(long, value_name = "FILE")]
    pub stderr_file: Option<PathBuf>,
    /// How much to say: above INFO no progress, above WARNING no warnings
    #[arg(long, value_name = "LEVEL", default_value = "INFO", value_parser = ["NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])]
    pub log_level: String,
    /// Seconds that the kernel may take to start
    #[arg(long, alias = "start_timeout", value_name = "SECONDS", default_value_t = 60)]
    pub start_timeout: u64,
    /// Seconds that one cell may take; 0 is no limit [default: no limit]
    #[arg(long, alias = "execution_timeout", value_name = "SECONDS", allow_hyphen_values = true)]
    pub execution_timeout: Option<i64>,
    /// Hide the code in the executed notebook
    #[arg(long, overrides_with = "no_report_mode")]
    pub report_mode: bool,
    /// Do not (the default)
    #[arg(long)]
    pub no_report_mode: bool,
    /// Print the version
    #[arg(long, action = clap::ArgAction::Version)]
    pub version: Option<bool>,
    /// How to start the kernel: `exact` by its kernelspec's own command line, `slim` (a stock
    /// ipykernel only) without debugger and slow teardown, and with no limit on output
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub launch: Launch,
    /// MiB of outputs that one cell may have; the rest is cut, and the notebook says so
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub output_limit: usize,
    /// Treat a parameter that the notebook does not declare as an error
    #[arg(long)]
    pub strict: bool,
    /// Write outputs, metrics and the ending to this file
    #[arg(long, value_name = "FILE")]
    pub outputs_json: Option<PathBuf>,
}

/// How much is said, from papermill's `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Talk {
    /// Errors only.
    Errors,
    /// Warnings as well.
    Warnings,
    /// Progress as well.
    All,
}

impl Args {
    /// Names of input and output as they were given or implied by pipes; none where one is missing.
    pub fn names(&self, stdin_is_pipe: bool, stdout_is_terminal: bool) -> Option<(String, String)> {
        let word = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        match (word(&self.input), word(&self.output)) {
            (Some(input), Some(output)) => Some((input, output)),
            (output, None) if stdin_is_pipe => {
                Some(("-".into(), output.unwrap_or_else(|| "-".into())))
            }
            (Some(input), None) if !stdout_is_terminal => Some((input, "-".into())),
            _ => None,
        }
    }

    /// How much to say. Papermill says less where the notebook itself goes to standard output.
    pub fn talk(&self, to_stdout: bool) -> Talk {
        match self.log_level.as_str() {
            "INFO" if to_stdout => Talk::Errors,
            "NOTSET" | "DEBUG" | "INFO" => Talk::All,
            "WARNING" => Talk::Warnings,
            _ => Talk::Errors,
        }
    }
}
