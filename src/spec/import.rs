//! The `workflow.yaml` of JupyterFlow 0.0.x, read as a pipeline.
//!
//! Owns that old format. What the original let through and broke on later (unknown jobs, cycles,
//! bracket text, typos of `cmd_mode`) is refused here with a place.

use serde_json::{Map, Value, json};

use super::flow::shell_words;
use super::problem::{Problem, Severity};
use super::shape::{Key, Report, Shape, Table, check};
use super::validate::{self, Documents};
use super::yaml::{self, Node};
use crate::notebook::parameters::Language;
use crate::types::{PipelineName, slug};

const fn key(name: &'static str, shape: Shape, required: bool) -> Key {
    Key { name, shape, required, doc: "" }
}

static WORKFLOW: Table = Table {
    name: "a workflow",
    keys: &[
        key("version", Shape::Integer(1, 1), false),
        key("name", Shape::Text, false),
        key("jobs", Shape::List(&Shape::Text), true),
        key("cmd_mode", Shape::Word(&["exec", "shell"]), false),
        key("dags", Shape::List(&Shape::Text), false),
        key("schedule", Shape::Text, false),
    ],
    one_of: &[],
};

/// Whether a text looks like a file of JupyterFlow 0.0.x.
pub fn is_workflow(text: &str) -> bool {
    yaml::parse(text).is_ok_and(|nodes| {
        nodes.iter().any(|node| node.get("jobs").is_some() && node.get("steps").is_none())
    })
}

/// Reads a file of JupyterFlow 0.0.x. Returns the text of the pipeline that it means, and what
/// that text holds.
pub fn read_workflow(text: &str, file: &str, folder: &str) -> (String, Documents) {
    let mut report = Report::new(file, text);
    let refuse =
        |problems: Vec<Problem>| (String::new(), Documents { pipelines: Vec::new(), problems });
    let nodes = match yaml::parse(text) {
        Ok(nodes) => nodes,
        Err(error) => {
            report.error(error.place, error.message);
            return refuse(report.problems);
        }
    };
    let [node] = &nodes[..] else {
        return refuse(vec![Problem::of_file(file, "a workflow is one YAML document")]);
    };
    check(&Shape::Object(&WORKFLOW), node, "the pipeline", &mut report);
    let pipeline = convert(node, &mut report);
    if report.has_errors() {
        return refuse(report.problems);
    }
    let converted = pipeline.to_string();
    let mut documents = validate::parse(&converted, file, folder, usize::MAX);
    // Their places are those of the converted text, which nobody wrote.
    documents.problems.retain(|problem| problem.severity == Severity::Error);
    for problem in &mut documents.problems {
        *problem = Problem::of_file(file, std::mem::take(&mut problem.message));
    }
    (converted, documents)
}

fn convert(node: &Node, report: &mut Report<'_>) -> Value {
    let jobs = node.get("jobs").map(Node::items).unwrap_or_default();
    let shell = node.get("cmd_mode").and_then(Node::text) == Some("shell");
    let mut steps: Vec<Map<String, Value>> = Vec::new();
    for job in jobs {
        let text = job.text().unwrap_or_default();
        let command = if shell { Ok(text.to_owned()) } else { literal_command(text) };
        match command {
            Ok(command) => {
                let mut step = Map::new();
                step.insert("run".into(), json!(command.replace("{{", "{{ '{{' }}")));
                steps.push(step);
            }
            Err(message) => {
                report.error(job.place, message);
            }
        }
    }
    if jobs.is_empty() {
        report.error(node.place, "`jobs` is empty: a workflow needs at least one job");
    }
    let mut needs: Vec<Vec<String>> = vec![Vec::new(); jobs.len()];
    for edge in node.get("dags").map(Node::items).unwrap_or_default() {
        match parse_edge(edge.text().unwrap_or_default(), jobs.len()) {
            Ok((before, after)) => {
                let name = format!("job-{before}");
                if !needs[after - 1].contains(&name) {
                    needs[after - 1].push(name);
                }
            }
            Err(message) => {
                report.error(edge.place, message);
            }
        }
    }
    let mut named = Map::new();
    for (index, (mut step, needs)) in steps.into_iter().zip(needs).enumerate() {
        if !needs.is_empty() {
            step.insert("needs".into(), json!(needs));
        }
        named.insert(format!("job-{}", index + 1), Value::Object(step));
    }
    let mut pipeline = Map::new();
    if let Some(name) = node.get("name").and_then(Node::text) {
        pipeline.insert("name".into(), json!(slug(name, PipelineName::MAX)));
    }
    if let Some(line) = node.get("schedule").and_then(Node::text) {
        pipeline.insert("triggers".into(), json!({ "schedule": line }));
    }
    pipeline.insert("steps".into(), Value::Object(named));
    Value::Object(pipeline)
}

/// A command of `cmd_mode: exec`: words for one program, with no shell between.
fn literal_command(text: &str) -> Result<String, String> {
    let words = shell_words(text)?;
    if words.is_empty() {
        return Err("the job is empty".into());
    }
    let quoted = words.iter().map(|word| Language::Bash.quote(word));
    Ok(quoted.collect::<Vec<_>>().join(" "))
}

/// `PRE >> POST`, two numbers of jobs from 1.
fn parse_edge(text: &str, jobs: usize) -> Result<(usize, usize), String> {
    let refuse =
        || format!("{text:?} is no edge: wanted two job numbers from 1 to {jobs}, as in 1 >> 2");
    let (before, after) = text.split_once(">>").ok_or_else(refuse)?;
    let number = |text: &str| -> Option<usize> {
        text.trim().parse().ok().filter(|number| (1..=jobs).contains(number))
    };
    let (before, after) = (number(before).ok_or_else(refuse)?, number(after).ok_or_else(refuse)?);
    if before == after {
        return Err(format!("{text:?}: a job cannot come before itself"));
    }
    Ok((before, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let (_, documents) = read_workflow(text, "workflow.yaml", "w");
        documents
            .problems
            .iter()
            .map(|p| format!("{}:{} {}", p.line, p.column, p.message))
            .collect()
    }

    #[test]
    fn the_documented_diamond() {
        let text = "version: 1\nname: My Pipeline\njobs: [python job1.py, python job2.py foo, \
                    echo 'good bye', echo $HOME]\ndags: ['1>>2', '1 >> 3', '2 >> 4', '3>>4']\n";
        let (converted, documents) = read_workflow(text, "workflow.yaml", "w");
        assert!(documents.problems.is_empty(), "{:?}", documents.problems);
        let pipeline = &documents.pipelines[0];
        assert_eq!(pipeline.name().as_str(), "my-pipeline");
        assert_eq!(pipeline.steps()[3].needs(), ["job-2", "job-3"]);
        assert!(converted.contains("echo 'good bye'"), "{converted}");
        assert!(converted.contains("echo '$HOME'"), "{converted}");
        assert!(is_workflow(text));
    }

    #[test]
    fn braces_stay_text() {
        let (_, documents) = read_workflow("jobs: ['echo {{x}}']\n", "w.yaml", "w");
        assert!(documents.problems.is_empty(), "{:?}", documents.problems);
    }

    #[test]
    fn what_the_original_let_through_is_refused() {
        for dag in ["1 >> 2 >> 3", "[1,2] >> 3", "a >> b", "1", "1 >> 9", "0 >> 1", "2 >> 2"] {
            let text = format!("jobs: [a, b, c]\ndags: ['{dag}']\n");
            let found = problems(&text);
            assert_eq!(found.len(), 1, "{dag}: {found:?}");
            assert!(found[0].starts_with("2:8 "), "{found:?}");
        }
        assert!(problems("jobs: [a, b]\ndags: [1 >> 2, 2 >> 1]\n")[0].contains("cycle"));
        assert!(problems("jobs: [a]\ncmd_mode: SHELL\n")[0].contains("one of exec, shell"));
        assert!(problems("name: x\n")[0].contains("needs the key `jobs`"));
        assert!(problems("jobs: [a]\nschedule: whenever\n")[0].contains("five fields"));
    }
}
