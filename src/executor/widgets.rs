//! Widgets without a browser: their state for `metadata.widgets`, and Output widgets, which take
//! outputs away from cells.
//!
//! Owns what nbclient does with comm messages (`NotebookClient.handle_comm_msg`, `OutputWidget`),
//! so that an executed notebook shows its widgets. Pure: messages in, state and messages out.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use serde_json::json;

use super::outputs::Outputs;
use super::wire::Message;
use crate::notebook::json::{Object, Raw};

/// All widgets of a notebook.
#[derive(Debug, Default)]
pub struct Widgets {
    /// The state of each comm, and its binary parts by their path.
    state: IndexMap<String, (Object, IndexMap<String, Raw>)>,
    panes: HashMap<String, Pane>,
    /// The Output widgets that take the outputs of a request; the last one counts.
    hooks: HashMap<String, Vec<String>>,
}

/// An Output widget.
#[derive(Debug, Default)]
struct Pane {
    outputs: Outputs,
    /// The request whose outputs it takes.
    request: String,
}

/// A `comm_msg` that tells the kernel of a widget's new state.
pub type Update = serde_json::Value;

impl Widgets {
    /// Takes `comm_open` and `comm_msg`.
    pub fn take(&mut self, message: &Message) {
        let content = &message.content;
        let Some(id) = content.view::<String>("comm_id") else { return };
        let data = content.get("data").map(Raw::object).unwrap_or_default();
        let Some(new) = data.get("state").map(Raw::object) else { return };
        let (state, buffers) = self.state.entry(id.clone()).or_default();
        for (key, value) in new.entries() {
            state.set(&key, value.clone());
        }
        let paths: Vec<Raw> = data.view("buffer_paths").unwrap_or_default();
        for (path, bytes) in paths.iter().zip(&message.buffers) {
            let buffer =
                json!({ "data": STANDARD.encode(bytes), "encoding": "base64", "path": path });
            buffers.insert(path.text().to_owned(), Raw::new(&buffer));
        }
        let is = |key: &str, value: &str| new.view::<&str>(key) == Some(value);
        if message.kind == "comm_open" {
            let output = is("_model_module", "@jupyter-widgets/output");
            let widget = content.view::<&str>("target_name") == Some("jupyter.widget");
            if widget && output && is("_model_name", "OutputModel") {
                let outputs = Outputs::of(new.view("outputs").unwrap_or_default());
                self.panes.insert(id, Pane { outputs, request: String::new() });
            }
        } else if let (Some(pane), Some(request)) =
            (self.panes.get_mut(&id), new.view::<String>("msg_id"))
        {
            if request.is_empty() {
                let hooks = self.hooks.entry(std::mem::take(&mut pane.request)).or_default();
                if let Some(at) = hooks.iter().rposition(|hook| *hook == id) {
                    hooks.remove(at);
                }
            } else {
                self.hooks.entry(request.clone()).or_default().push(id);
                pane.request = request;
            }
        }
    }

    /// Whether an Output widget takes the outputs of a request.
    pub fn takes(&self, request: &str) -> bool {
        self.hooks.get(request).is_some_and(|hooks| !hooks.is_empty())
    }

    /// Does something with the outputs of the widget that takes those of a request, and returns
    /// what the kernel must hear of it.
    pub fn change(&mut self, request: &str, change: impl FnOnce(&mut Outputs)) -> Option<Update> {
        let id = self.hooks.get(request)?.last()?;
        let pane = self.panes.get_mut(id)?;
        change(&mut pane.outputs);
        let outputs = pane.outputs.to_raw_joined();
        if let Some((state, _)) = self.state.get_mut(id) {
            state.set("outputs", outputs.clone());
        }
        Some(json!({
            "comm_id": id,
            "data": { "method": "update", "state": { "outputs": outputs }, "buffer_paths": [] },
        }))
    }

    /// The block `metadata.widgets`; none where there was no widget.
    pub fn metadata(&self) -> Option<Raw> {
        if self.state.is_empty() {
            return None;
        }
        let mut models = Object::default();
        for (id, (state, buffers)) in &self.state {
            if state.get("_model_name").is_none() {
                continue;
            }
            let mut model = Object::default();
            for (key, from) in [
                ("model_name", "_model_name"),
                ("model_module", "_model_module"),
                ("model_module_version", "_model_module_version"),
            ] {
                model.set(key, state.get(from).cloned().unwrap_or_else(|| Raw::new(&())));
            }
            model.set("state", Raw::from(state));
            if !buffers.is_empty() {
                model.set("buffers", Raw::new(&buffers.values().collect::<Vec<_>>()));
            }
            models.set(id, Raw::from(&model));
        }
        let mut block = Object::default();
        block.set("state", Raw::from(&models));
        block.set("version_major", Raw::new(&2));
        block.set("version_minor", Raw::new(&0));
        let mut widgets = Object::default();
        widgets.set("application/vnd.jupyter.widget-state+json", Raw::from(&block));
        Some(Raw::from(&widgets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, content: &str, buffers: &[&'static [u8]]) -> Message {
        let content = Raw::parse(content).unwrap().object();
        let buffers = buffers.iter().map(|bytes| bytes::Bytes::from_static(bytes)).collect();
        Message { kind: kind.into(), parent: "r".into(), date: None, content, buffers }
    }

    #[test]
    fn an_output_widget_takes_outputs_while_it_is_entered() {
        let mut widgets = Widgets::default();
        widgets.take(&message(
            "comm_open",
            r#"{"comm_id": "o", "target_name": "jupyter.widget", "data": {"state": {"_model_module":
                "@jupyter-widgets/output", "_model_name": "OutputModel", "outputs": []}}}"#,
            &[],
        ));
        let enter = |id: &str| {
            let text = format!(r#"{{"comm_id": "o", "data": {{"state": {{"msg_id": "{id}"}}}}}}"#);
            message("comm_msg", &text, &[])
        };
        widgets.take(&enter("r"));
        assert!(widgets.takes("r") && !widgets.takes("other"));
        let add = |outputs: &mut Outputs| outputs.stream("stdout".into(), "x", 100);
        let update = widgets.change("r", add).unwrap();
        assert_eq!(update["data"]["state"]["outputs"][0]["text"], "x");
        widgets.take(&enter(""));
        assert!(!widgets.takes("r"));
        assert!(widgets.metadata().unwrap().text().contains("OutputModel"));
    }

    #[test]
    fn state_is_merged_and_binary_parts_replace_each_other() {
        let mut widgets = Widgets::default();
        assert!(widgets.metadata().is_none());
        widgets.take(&message(
            "comm_open",
            r#"{"comm_id": "i", "data": {"state": {"_model_name": "ImageModel", "a": 1},
                "buffer_paths": [["value"]]}}"#,
            &[b"one"],
        ));
        widgets.take(&message(
            "comm_msg",
            r#"{"comm_id": "i", "data": {"state": {"a": 2}, "buffer_paths": [["value"]]}}"#,
            &[b"two"],
        ));
        let metadata = widgets.metadata().unwrap();
        let json: serde_json::Value = metadata.view().unwrap();
        let model = &json["application/vnd.jupyter.widget-state+json"]["state"]["i"];
        assert_eq!(model["state"]["a"], 2);
        assert_eq!(model["buffers"].as_array().unwrap().len(), 1);
        assert_eq!(model["buffers"][0]["data"], "dHdv");
    }
}
