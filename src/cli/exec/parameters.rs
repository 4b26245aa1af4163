//! The parameters of `exec`: from all of papermill's options, in its precedence, into the notebook.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::error::CliError;
use super::super::print;
use super::args::{Args, Talk};
use crate::executor::{Location, new_id};
use crate::notebook::json::{Object, Raw, mark_non_finite};
use crate::notebook::parameters::{self, Parameter, Parameters};
use crate::notebook::{CellKind, Notebook};

/// All parameters: `--inject-…-path`, `-b`, `-f`, `-y`, `-p`, `-r`, later over earlier.
pub async fn collect(args: &Args, input: &str, output: &str) -> Result<Parameters, CliError> {
    let mut all = Parameters::new();
    let text = |word: &str| Parameter::Text(word.to_owned());
    if args.inject_input_path || args.inject_paths {
        all.insert("PAPERMILL_INPUT_PATH".into(), text(input));
    }
    if args.inject_output_path || args.inject_paths {
        all.insert("PAPERMILL_OUTPUT_PATH".into(), text(output));
    }
    for word in &args.parameters_base64 {
        let plain: String = word.chars().filter(|c| !c.is_whitespace()).collect();
        let bytes = STANDARD.decode(plain);
        let bytes = bytes.map_err(|error| CliError::usage(format!("-b: not base64: {error}")))?;
        all.extend(from_yaml(bytes, "-b")?);
    }
    for file in &args.parameters_file {
        let place = Location::parse(file);
        all.extend(from_yaml(place.read().await.map_err(CliError::usage)?, &place.to_string())?);
    }
    for word in &args.parameters_yaml {
        all.extend(from_yaml(word.clone().into_bytes(), "-y")?);
    }
    for pair in args.parameters.chunks(2) {
        all.insert(pair[0].clone(), Parameter::from_word(&pair[1]));
    }
    for pair in args.parameters_raw.chunks(2) {
        all.insert(pair[0].clone(), text(&pair[1]));
    }
    Ok(all)
}

fn from_yaml(bytes: Vec<u8>, what: &str) -> Result<Parameters, CliError> {
    let text = String::from_utf8(bytes)
        .map_err(|error| CliError::usage(format!("{what} is not UTF-8 text: {error}")))?;
    parameters::from_yaml(&text).map_err(|error| CliError::usage(format!("{what}: {error}")))
}

/// Makes the notebook ready, as papermill does before it runs one: nbformat 4.5, parameters
/// injected, banners of an earlier failure gone, its metadata there.
pub fn prepare(
    notebook: &mut Notebook,
    args: &Args,
    parameters: &Parameters,
    (input, output): (&str, &str),
    talk: Talk,
) -> Result<(), CliError> {
    notebook.upgrade_to_4_5(new_id);
    for cell in &mut notebook.cells {
        cell.edit_metadata(|metadata| {
            for (key, empty) in
                [("tags", Raw::new(&[(); 0])), ("papermill", Raw::new(&Object::default()))]
            {
                if metadata.get(key).is_none() {
                    metadata.set(key, empty);
                }
            }
        });
    }
    let (kernel, language) = (args.kernel.as_deref(), args.language.as_deref());
    let injected = parameters::inject(notebook, parameters, kernel, language, &new_id())
        .map_err(|error| CliError::usage(error.to_string()))?;
    if args.strict && !injected.unknown.is_empty() {
        let names = injected.unknown.join(", ");
        return Err(CliError::usage(format!("the notebook declares no parameter {names}"))
            .hint("declare it in the cell tagged `parameters`, or leave --strict out"));
    }
    if talk >= Talk::Warnings {
        for name in &injected.unknown {
            print::talk(&format!("warning: passed unknown parameter: {name}"));
        }
        for warning in &injected.warnings {
            print::talk(&format!("warning: {warning}"));
        }
    }
    if args.report_mode {
        hide_code(notebook);
    }
    // Also where nothing is run, as with papermill.
    notebook.remove_banners();
    describe(notebook, parameters, input, output)
}

/// Hides the source of code cells. What else stands in `metadata.jupyter` stays, unlike with papermill.
fn hide_code(notebook: &mut Notebook) {
    for cell in notebook.cells.iter_mut().filter(|cell| cell.kind() == CellKind::Code) {
        cell.edit_metadata(|metadata| {
            let mut jupyter = metadata.get("jupyter").map(Raw::object).unwrap_or_default();
            jupyter.set("source_hidden", Raw::new(&true));
            metadata.set("jupyter", Raw::from(&jupyter));
        });
    }
}

fn describe(
    notebook: &mut Notebook,
    parameters: &Parameters,
    input: &str,
    output: &str,
) -> Result<(), CliError> {
    let values: Vec<String> = parameters
        .iter()
        .map(|(name, value)| {
            format!("{}: {}", serde_json::Value::from(name.as_str()), value.to_json_text())
        })
        .collect();
    let text = format!("{{{}}}", values.join(", "));
    let values = Raw::parse(&mark_non_finite(&text)).map_err(|error| CliError::bug(&error))?;
    notebook.edit_metadata(|metadata| {
        let papermill = metadata.get("papermill").map(Raw::object);
        // A notebook that papermill made keeps what it says, its version included.
        let mut papermill = papermill.unwrap_or_else(|| {
            let mut new = Object::default();
            for key in ["default_parameters", "environment_variables", "parameters"] {
                new.set(key, Raw::new(&Object::default()));
            }
            new.set("version", Raw::new(&env!("CARGO_PKG_VERSION")));
            new
        });
        if !parameters.is_empty() {
            papermill.set("parameters", values);
        }
        papermill.set("input_path", Raw::new(&input));
        papermill.set("output_path", Raw::new(&output));
        metadata.set("papermill", Raw::from(&papermill));
    });
    Ok(())
}

/// What `--help-notebook` prints, and whether a cell declares parameters at all.
pub fn help(notebook: &Notebook, name: &str) -> (String, bool) {
    let mut out = format!(
        "Usage: jupyterflow exec [OPTIONS] NOTEBOOK_PATH [OUTPUT_PATH]\n\n\
         Parameters inferred for notebook '{name}':\n"
    );
    let Some(declared) = parameters::declared(notebook) else {
        return (out + "\n  No cell tagged 'parameters'\n", false);
    };
    let python = parameters::declared_names(notebook).is_some();
    if declared.is_empty() || !python {
        out += "\n  Can't infer anything about this notebook's parameters. \
                It may not have any parameter defined.\n";
    }
    for one in declared.iter().filter(|_| python) {
        let kind = if one.kind == "None" { "Unknown type" } else { &one.kind };
        let definition = format!("  {}: {kind} (default {})", one.name, one.default);
        out += &match (definition.chars().count() > 30, one.help.is_empty()) {
            (true, true) => format!("{definition}\n"),
            (true, false) => format!("{definition}\n{:34}{}\n", "", one.help),
            (false, _) => format!("{definition:<34}{}\n", one.help),
        };
    }
    (out, true)
}
