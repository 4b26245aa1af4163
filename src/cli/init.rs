//! `init`: a first pipeline file from the notebooks that are there.

use std::path::{Path, PathBuf};

use super::error::{CliError, Code};
use super::print;
use crate::notebook::{Notebook, parameters};
use crate::spec::{self, FILE_NAMES};
use crate::types::slug;

/// Write a first jupyterflow.yaml from the notebooks of a folder
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder
    #[arg(default_value = ".")]
    path: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Code, CliError> {
    let folder = &args.path;
    if let Some(there) = FILE_NAMES.iter().map(|name| folder.join(name)).find(|path| path.exists())
    {
        return Err(CliError::usage(format!("{} is there already", there.display()))
            .hint("`jupyterflow validate` checks it"));
    }
    let entries = std::fs::read_dir(folder).map_err(|error| {
        CliError::usage(format!("failed to read {}: {error}", folder.display()))
    })?;
    let mut notebooks: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".ipynb") && !name.starts_with('.'))
        .collect();
    notebooks.sort();
    let text = first_file(folder, &notebooks);
    let path = folder.join(FILE_NAMES[0]);
    let shown = path.display().to_string();
    let documents = spec::parse(&text, &shown, "folder", 100);
    if let Some(problem) = documents.problems.first() {
        return Err(CliError::bug(problem));
    }
    crate::executor::write_whole(&path, text.as_bytes())
        .map_err(|error| CliError::usage(format!("failed to write {shown}: {error}")))?;
    print::data(&shown);
    print::talk("next: `jupyterflow plan` shows what would run, `jupyterflow up --once` runs it");
    Ok(Code::Done)
}

fn first_file(folder: &Path, notebooks: &[String]) -> String {
    let mut text =
        "# A run for each change of these notebooks. All keys: jupyterflow generate schema\n"
            .to_owned();
    let name = folder
        .canonicalize()
        .ok()
        .and_then(|path| path.file_name().map(|name| slug(&name.to_string_lossy(), 40)));
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| "main".into());
    text.push_str(&format!("name: {}\ntriggers:\n  change: {{}}\n", quoted(&name)));
    text.push_str("  # schedule: {cron: \"0 3 * * mon\", timezone: UTC}\nsteps:\n");
    if notebooks.is_empty() {
        text.push_str("  hello:\n    run: echo hello\n");
        return text;
    }
    // Numbers in front of names say an order; without them nothing does.
    let ordered = notebooks.len() > 1
        && notebooks.iter().all(|name| name.starts_with(|c: char| c.is_ascii_digit()));
    let mut before: Option<String> = None;
    let mut taken: Vec<String> = Vec::new();
    for notebook in notebooks {
        let stem = slug(notebook.trim_end_matches(".ipynb"), 40);
        let stem = if stem.is_empty() { "step".to_owned() } else { stem };
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        let step = std::iter::once(stem.clone())
            .chain(numbered)
            .find(|name| !taken.contains(name))
            .unwrap_or(stem);
        taken.push(step.clone());
        text.push_str(&format!("  {}:\n    notebook: {}\n", quoted(&step), quoted(notebook)));
        if let Some(before) = before.as_ref().filter(|_| ordered) {
            text.push_str(&format!("    needs: {}\n", quoted(before)));
        }
        let declared = std::fs::read_to_string(folder.join(notebook))
            .ok()
            .and_then(|text| parameters::declared(&Notebook::read(&text).ok()?))
            .unwrap_or_default();
        if !declared.is_empty() {
            let names: Vec<&str> = declared.iter().map(|one| one.name.as_str()).collect();
            text.push_str(&format!("    # params: declared are {}\n", names.join(", ")));
        }
        before = Some(step);
    }
    text
}

/// A text as YAML, in quotes unless it is plain in every YAML.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["on", "off", "yes", "no", "y", "n", "true", "false", "null"]
            .contains(&text.to_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
