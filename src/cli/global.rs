//! Options that every command takes.
//!
//! Owns their names and defaults.

use std::path::PathBuf;

use super::print::Format;

/// Options that every command takes.
#[derive(clap::Args, Clone, Debug)]
pub struct Global {
    /// How data is printed
    #[arg(id = "format", short = 'o', long = "output", global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// The folder of the state, in place of the `.jupyterflow` found upwards from the path
    #[arg(long, global = true, env = "JUPYTERFLOW_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// What executes runs: `local` (this machine) or `argo` (Argo Workflows on a cluster)
    #[arg(long, global = true, env = "JUPYTERFLOW_ENGINE", value_name = "ENGINE")]
    pub engine: Option<String>,
    /// The most points that a sweep may have
    #[arg(long, global = true, value_name = "N", default_value_t = 100)]
    pub max_points: usize,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Say only what went wrong
    #[arg(short = 'q', long, global = true)]
    pub quiet: bool,
    /// Say more
    #[arg(short = 'v', long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal that shows it.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
