//! `generate`: schemas, completions and the manual, made from what the program itself uses.

use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::cluster::PROGRAM_IMAGE;
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
        /// What resource steps make, as `jobs.batch`, may be made too
        #[arg(long = "resource", value_name = "RESOURCE")]
        resources: Vec<String>,
    },
    /// What a cluster is given: custom resource definitions, and the controller
    Manifests {
        /// Which part; both unless given
        #[arg(long, value_enum, value_name = "PART")]
        only: Option<Part>,
        /// Write them as a Helm chart into this folder instead
        #[arg(long, value_name = "DIR", conflicts_with_all = ["only", "namespace"])]
        chart: Option<PathBuf>,
        /// The namespace of the controller
        #[arg(short = 'n', long, value_name = "NAME", default_value = "jupyterflow")]
        namespace: String,
        /// The image of this program
        #[arg(long, value_name = "IMAGE", default_value = PROGRAM_IMAGE)]
        image: String,
    },
}

/// A part of what a cluster is given.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The custom resource definitions
    Crds,
    /// The controller with its rights
    Controller,
}

fn yaml(object: &impl serde::Serialize) -> Result<String, CliError> {
    serde_saphyr::to_string(object).map_err(|error| CliError::bug(&error))
}

fn print_object(object: &impl serde::Serialize) -> Result<(), CliError> {
    print::data(&format!("---\n{}", yaml(object)?));
    Ok(())
}

/// Writes the Helm chart.
fn write_chart(folder: &Path, image: &str) -> Result<(), CliError> {
    let mut crds = String::new();
    for object in controller::definitions() {
        crds.push_str(&format!("---\n{}", yaml(&object)?));
    }
    for (path, text) in controller::chart::chart(image, crds, yaml)? {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text)).map_err(
            |error| CliError::unreachable(format!("failed to write {}: {error}", path.display())),
        )?;
    }
    Ok(())
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
        Command::Rbac { namespace, service_account, resources } => {
            let objects = rbac::of_users(namespace, service_account, resources);
            objects.iter().try_for_each(print_object)?;
        }
        Command::Manifests { chart: Some(folder), image, .. } => write_chart(folder, image)?,
        Command::Manifests { only, namespace, image, .. } => {
            if *only != Some(Part::Controller) {
                controller::definitions().iter().try_for_each(print_object)?;
            }
            if *only != Some(Part::Crds) {
                let objects = controller::manifests::controller(namespace, image);
                objects.iter().try_for_each(print_object)?;
            }
        }
    }
    Ok(Code::Done)
}
