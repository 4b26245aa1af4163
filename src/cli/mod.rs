//! The command line: words in, one path through the library, an exit code out.
//!
//! Owns wiring and words. Each command has a file of its own; only here do adapters and the loop
//! meet.

mod error;
mod exec;
mod print;

use std::process::ExitCode;

use clap::Parser;

use error::{CliError, Code};

/// A Git-driven reconciler for notebook pipelines
#[derive(Parser, Debug)]
#[command(name = "jupyterflow", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Exec(exec::Args),
}

/// The program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let done = match &cli.command {
        Command::Exec(args) => exec::run(args),
    };
    finish(done)
}

fn finish(done: Result<Code, CliError>) -> ExitCode {
    let code = done.unwrap_or_else(|error| {
        print::talk(&error.to_string());
        error.code
    });
    ExitCode::from(code.number())
}
