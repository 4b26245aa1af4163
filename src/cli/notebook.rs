//! `notebook`: what one notebook is, declares and would be with parameters.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::documents::NotebookDocument;
use super::error::{CliError, Code};
use super::exec::{self, read_notebook};
use super::global::Global;
use super::print;
use crate::notebook::diff::{Outline, diff};
use crate::notebook::parameters::declared;
use crate::notebook::{digest, render};

/// Look at one notebook
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Print the digest that decides whether an edit is a change
    Digest {
        /// The notebooks
        #[arg(required = true)]
        notebooks: Vec<PathBuf>,
        /// The kernel that the step demands
        #[arg(short = 'k', long)]
        kernel: Option<String>,
    },
    /// Say what differs between two notebooks, as far as it is a change; exit 1 where it is one
    Diff {
        /// The earlier one
        old: PathBuf,
        /// The later one
        new: PathBuf,
    },
    /// List the parameters that a notebook declares
    Params {
        /// The notebook
        notebook: PathBuf,
    },
    /// Write a notebook with its parameters, and run nothing
    Prepare(Box<exec::Args>),
    /// Write a notebook as a page that runs no script
    Html {
        /// The notebook
        notebook: PathBuf,
        /// Where the page goes; stdout unless given
        page: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(command: &Command, global: &Global) -> Result<Code, CliError> {
    match command {
        Command::Digest { notebooks, kernel } => {
            print_digests(notebooks, kernel.as_deref(), global)
        }
        Command::Diff { old, new } => print_diff(old, new, global),
        Command::Params { notebook } => print_params(notebook, global),
        Command::Prepare(args) => exec::prepare_only(args),
        Command::Html { notebook, page } => {
            let title = notebook.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let html = render::html(&read_notebook(notebook)?, &title);
            match page {
                None => print::data(&html),
                Some(page) => {
                    crate::executor::write_named(page, html.as_bytes()).map_err(|error| {
                        CliError::failed(format!("failed to write {}: {error}", page.display()))
                    })?;
                }
            }
            Ok(Code::Done)
        }
    }
}

fn document(path: &Path) -> NotebookDocument {
    NotebookDocument { path: path.display().to_string(), ..NotebookDocument::default() }
}

fn print_digests(
    notebooks: &[PathBuf],
    kernel: Option<&str>,
    global: &Global,
) -> Result<Code, CliError> {
    let documents = notebooks.iter().map(|path| {
        let notebook = read_notebook(path)?;
        let kernel_name = kernel.map(str::to_owned).or_else(|| notebook.kernel_name());
        let digest = digest::digest(&notebook, kernel);
        Ok(NotebookDocument { digest: Some(digest), kernel: kernel_name, ..document(path) })
    });
    let documents: Vec<NotebookDocument> = documents.collect::<Result<_, CliError>>()?;
    for one in &documents {
        let digest = one.digest.as_ref().map(ToString::to_string).unwrap_or_default();
        let line =
            if documents.len() > 1 { format!("{digest}  {}", one.path) } else { digest.clone() };
        print::document(global.output, "Notebook", one, || line, || vec![digest.clone()])?;
    }
    Ok(Code::Done)
}

fn print_diff(old: &Path, new: &Path, global: &Global) -> Result<Code, CliError> {
    let (before, after) = (read_notebook(old)?, read_notebook(new)?);
    let changes = diff(&Outline::of(&before, None), &Outline::of(&after, None));
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let code = if changes.is_empty() { Code::Done } else { Code::Failed };
    let words = if changes.is_empty() { "no change".to_owned() } else { changes.join("\n") };
    let one = NotebookDocument {
        digest: Some(digest::digest(&after, None)),
        changes: Some(changes.clone()),
        ..document(new)
    };
    print::document(global.output, "Notebook", &one, || words, || changes)?;
    Ok(code)
}

fn print_params(path: &Path, global: &Global) -> Result<Code, CliError> {
    let notebook = read_notebook(path)?;
    let found = declared(&notebook);
    let rows = found
        .iter()
        .flatten()
        .map(|one| vec![one.name.clone(), one.kind.clone(), one.default.clone(), one.help.clone()]);
    let rows: Vec<Vec<String>> = rows.collect();
    let names: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let parameters = rows.iter().map(|row| {
        let keys = ["name", "type", "default", "help"].map(str::to_owned);
        keys.into_iter().zip(row.clone()).collect::<IndexMap<_, _>>()
    });
    let one = NotebookDocument {
        kernel: notebook.kernel_name(),
        parameters: Some(parameters.collect()),
        ..document(path)
    };
    if found.is_none() {
        print::talk("no cell is tagged `parameters`");
    }
    let table = || print::table(&["NAME", "TYPE", "DEFAULT", "HELP"], rows);
    print::document(global.output, "Notebook", &one, table, || names)?;
    Ok(Code::Done)
}
