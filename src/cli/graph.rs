//! `graph`: a pipeline's steps as the text of a picture.

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::target::{Definition, Wanted};
use crate::spec::{Pipeline, Step, Work};

/// Print a pipeline's steps as the text of a picture
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A pipeline file, its folder, a notebook or a flow
    #[arg(default_value = ".")]
    target: String,
    /// Which pipeline of the file
    #[arg(long)]
    pipeline: Option<String>,
    /// The language of the picture
    #[arg(id = "language", long = "format", value_enum, default_value_t = Language::Mermaid)]
    format: Language,
}

/// The language of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Language {
    /// Mermaid, which GitHub and `JupyterLab` show.
    Mermaid,
    /// Graphviz.
    Dot,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    let (target, pipeline) = (Some(args.target.clone()), args.pipeline.clone());
    let wanted = Wanted { target, pipeline, ..Wanted::default() };
    let definition = Definition::find(global, &wanted)?;
    print::data(&match args.format {
        Language::Mermaid => mermaid(&definition.pipeline),
        Language::Dot => dot(&definition.pipeline),
    });
    Ok(Code::Done)
}

fn label(step: &Step) -> String {
    let work = match step.work() {
        Work::Notebook(path) => path.as_str().rsplit('/').next().unwrap_or_default().to_owned(),
        Work::Run { text, .. } => {
            let line = text.lines().next().unwrap_or_default();
            let cut: String = line.chars().take(40).collect();
            if cut.len() < text.len() { format!("{cut}…") } else { cut }
        }
        Work::Resource(_) => "resource".into(),
    };
    let points = step.points().len();
    let sweep = if points > 0 { format!(" ×{points}") } else { String::new() };
    if work.starts_with(&format!("{}.", step.name())) {
        format!("{work}{sweep}")
    } else {
        format!("{}: {work}{sweep}", step.name())
    }
}

fn edges(pipeline: &Pipeline) -> impl Iterator<Item = (usize, usize)> {
    let graph = pipeline.graph();
    (0..pipeline.steps().len()).flat_map(|step| graph.needs(step).iter().map(move |&n| (n, step)))
}

fn mermaid(pipeline: &Pipeline) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for (index, step) in pipeline.steps().iter().enumerate() {
        let label = label(step).replace('#', "#35;").replace('"', "#quot;").replace('<', "#lt;");
        let (open, close) = if step.points().is_empty() { ("[", "]") } else { ("[[", "]]") };
        text.push_str(&format!("  s{index}{open}\"{label}\"{close}\n"));
    }
    for (from, to) in edges(pipeline) {
        text.push_str(&format!("  s{from} --> s{to}\n"));
    }
    text
}

fn dot(pipeline: &Pipeline) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!(
        "digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n",
        quote(pipeline.name().as_str())
    );
    for step in pipeline.steps() {
        let shape = if step.points().is_empty() { "" } else { ", peripheries=2" };
        text.push_str(&format!(
            "  {} [label={}{shape}];\n",
            quote(step.name()),
            quote(&label(step))
        ));
    }
    for (from, to) in edges(pipeline) {
        let name = |at: usize| quote(pipeline.steps()[at].name());
        text.push_str(&format!("  {} -> {};\n", name(from), name(to)));
    }
    text.push('}');
    text
}
