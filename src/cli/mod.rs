//! The command line: words in, one path through the library, an exit code out.
//!
//! Owns wiring and words. Each command has a file of its own; only here do adapters and the loop
//! meet.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell reads the clock, the files that a person names, and waits"
)]

mod backfill;
mod cluster;
mod controller;
mod doctor;
mod documents;
mod engines;
mod error;
mod exec;
mod explain;
mod export;
mod follow;
mod generate;
mod global;
mod graph;
mod init;
mod internal;
mod lanes;
mod log;
mod logs;
mod notebook;
mod place;
mod plan;
mod pod;
mod print;
mod prune;
mod records;
mod retry;
mod run;
mod session;
mod show;
mod signals;
mod status;
mod stop;
mod suspend;
mod target;
mod uninstall;
mod up;
mod validate;

use std::process::ExitCode;

use clap::Parser;

use error::{CliError, Code};

/// A Git-driven reconciler for notebook pipelines
#[derive(Parser, Debug)]
#[command(name = "jupyterflow", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: global::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Init(init::Args),
    Validate(validate::Args),
    Graph(graph::Args),
    Doctor(doctor::Args),
    Run(run::Args),
    Plan(plan::Args),
    Up(up::Args),
    Status(status::Args),
    Show(show::Args),
    Logs(logs::Args),
    Explain(explain::Args),
    Stop(stop::Args),
    Retry(retry::Args),
    /// Let a pipeline's triggers start nothing
    Suspend(suspend::Args),
    /// Let a pipeline's triggers start runs again
    Resume(suspend::Args),
    Backfill(backfill::Args),
    Prune(prune::Args),
    Delete(prune::Delete),
    Exec(Box<exec::Args>),
    #[command(subcommand)]
    Notebook(notebook::Command),
    Controller(controller::Args),
    Uninstall(uninstall::Args),
    #[command(subcommand)]
    Export(export::Command),
    #[command(subcommand)]
    Generate(generate::Command),
    /// Of JupyterFlow 0.0.x
    #[command(hide = true)]
    Config,
    #[command(hide = true)]
    InternalSupervise(internal::Args),
    #[command(hide = true)]
    InternalHost(internal::Args),
    #[command(hide = true)]
    InternalInstall(pod::Install),
    #[command(hide = true)]
    InternalFetch(pod::Fetch),
    #[command(hide = true)]
    InternalStep(pod::Pod),
}

/// The program. A panic is a bug, and ends it with the code of one.
pub fn main() -> ExitCode {
    std::panic::catch_unwind(program).unwrap_or_else(|_| {
        print::alert("error: this is a bug in jupyterflow: please report it with the command");
        ExitCode::from(Code::Bug.number())
    })
}

fn program() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    print::set_up(cli.global.color, cli.global.quiet);
    let done = run(&cli.command, &cli.global);
    let code = done.unwrap_or_else(|error| {
        print::alert(&error.to_string());
        error.code
    });
    ExitCode::from(code.number())
}

fn run(command: &Command, global: &global::Global) -> Result<Code, CliError> {
    match command {
        Command::Init(args) => init::run(args),
        Command::Validate(args) => validate::run(args, global),
        Command::Graph(args) => graph::run(args, global),
        Command::Doctor(args) => doctor::run(args, global),
        Command::Run(args) => run::run(args, global),
        Command::Plan(args) => plan::run(args, global),
        Command::Up(args) => up::run(args, global),
        Command::Controller(args) => controller::run(args, global),
        Command::Uninstall(args) => uninstall::run(args),
        Command::Status(args) => status::run(args, global),
        Command::Show(args) => show::run(args, global),
        Command::Logs(args) => logs::run(args, global),
        Command::Explain(args) => explain::run(args, global),
        Command::Stop(args) => stop::run(args, global),
        Command::Retry(args) => retry::run(args, global),
        Command::Suspend(args) => suspend::run(args, global, true),
        Command::Resume(args) => suspend::run(args, global, false),
        Command::Backfill(args) => backfill::run(args, global),
        Command::Prune(args) => prune::run(args, global),
        Command::Delete(args) => prune::delete(args, global),
        Command::Exec(args) => exec::run(args, global),
        Command::Notebook(command) => notebook::run(command, global),
        Command::Export(command) => export::run(command, global),
        Command::Generate(command) => generate::run(command),
        Command::Config => Err(CliError::usage("`config` is gone")
            .hint("options are listed by --help; `jupyterflow doctor` shows what is found here")),
        Command::InternalSupervise(args) => internal::run_supervisor(args),
        Command::InternalHost(args) => internal::run_host(args),
        Command::InternalInstall(args) => pod::install(args),
        Command::InternalFetch(args) => pod::fetch(args),
        Command::InternalStep(args) => pod::step(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
