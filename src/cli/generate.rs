//! `generate`: schemas, completions and the manual, made from what the program itself uses.

use clap::CommandFactory;

use super::documents::{Kind, schema};
use super::error::{CliError, Code};
use super::print;
use crate::controller;
use crate::engine::argo::rbac;

/// Print what other tools read: schemas, completions, the manual
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// The JSON Schema of the pipeline file, or of a document that commands print
    Schema {
        /// The kind of document
        #[arg(long = "for", value_enum, value_name = "KIND", default_value_t = Kind::Pipeline, ignore_case = true)]
        kind: Kind,
    },
    /// Completions for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// The manual page
    Man,
    /// What a cluster's administrator grants so that people run pipelines from their Jupyter pods
    Rbac {
        /// The namespace of the pods
        #[arg(short = 'n', long, value_name = "NAME", default_value = "jupyter")]
        namespace: String,
        /// The service account of the pods
        #[arg(long, value_name = "NAME", default_value = "jupyterflow")]
        service_account: String,
    },
    /// The custom resource definitions that a cluster is given
    Manifests,
}

/// Runs the command.
pub fn run(command: &Command) -> Result<Code, CliError> {
    match command {
        Command::Schema { kind } => {
            let text = serde_json::to_string_pretty(&schema(*kind));
            print::data(&text.map_err(|error| CliError::bug(&error))?);
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut super::Cli::command(), "jupyterflow", &mut text);
            print::bytes(&text);
        }
        Command::Man => {
            let mut text = Vec::new();
            let manual = clap_mangen::Man::new(super::Cli::command());
            manual.render(&mut text).map_err(|error| CliError::bug(&error))?;
            print::bytes(&text);
        }
        Command::Rbac { namespace, service_account } => {
            for object in rbac::of_users(namespace, service_account) {
                let text = serde_saphyr::to_string(&object);
                print::data(&format!("---\n{}", text.map_err(|error| CliError::bug(&error))?));
            }
        }
        Command::Manifests => {
            for definition in controller::definitions() {
                let text = serde_saphyr::to_string(&definition);
                print::data(&format!("---\n{}", text.map_err(|error| CliError::bug(&error))?));
            }
        }
    }
    Ok(Code::Done)
}
