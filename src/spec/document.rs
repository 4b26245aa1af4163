//! One pipeline of a file as a JSON object, and back.
//!
//! Owns the form in which a cluster keeps a pipeline: the keys of its file, as they were written.

use serde_json::{Map, Value};

use super::{import, yaml};
use crate::types::PipelineName;

/// The keys of the pipeline of that name, as its file says them, with its name; none where the file does not
/// hold it.
pub fn document(text: &str, name: &PipelineName) -> Option<Map<String, Value>> {
    let converted;
    let text = if import::is_workflow(text) {
        converted = import::read_workflow(text, "workflow.yaml", "").0;
        converted.as_str()
    } else {
        text
    };
    let nodes = yaml::parse(text).ok()?;
    let named =
        |node: &&yaml::Node| node.get("name").and_then(yaml::Node::text) == Some(name.as_str());
    // One document has no name where its folder gives it one.
    let unnamed = |node: &&yaml::Node| node.get("name").is_none();
    let node = nodes.iter().find(named).or_else(|| nodes.iter().find(unnamed))?;
    let Value::Object(mut keys) = node.json() else { return None };
    keys.insert("name".into(), name.as_str().into());
    Some(keys)
}

/// The text of a file that says no more than these keys.
pub fn text_of(keys: &Map<String, Value>) -> String {
    serde_json::to_string_pretty(keys).expect("a JSON object has a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_found_among_several_and_keeps_its_keys() {
        let text = "name: a\nflow: x.py\n---\nname: b\nsteps: {s: {run: 'echo on', retries: 2}}\n";
        let keys = document(text, &"b".parse().unwrap()).unwrap();
        assert_eq!(keys["steps"]["s"]["retries"], 2);
        assert_eq!(keys["steps"]["s"]["run"], "echo on");
        let back = crate::spec::parse(&text_of(&keys), "f", "", 100);
        assert_eq!(back.problems, []);
        assert_eq!(back.pipelines[0].name().as_str(), "b");
        assert_eq!(document(text, &"c".parse().unwrap()), None);
    }

    #[test]
    fn a_name_that_the_folder_gives_is_written_down() {
        let keys = document("flow: x.py\n", &"churn".parse().unwrap()).unwrap();
        assert_eq!(keys["name"], "churn");
    }
}
