//! One cell at work: what each message of the kernel does to its outputs, and when it is done.
//!
//! Owns the state machine of an execution. Pure: messages in, outputs out. A cell is done when its
//! reply and its idle status are both there, in either order.

use std::collections::HashMap;

use serde_json::json;

use super::wire::Message;
use crate::notebook::json::{Object, Raw};
use crate::notebook::model::split_lines;

/// An output, kept as the kernel wrote it but for streams, which are joined.
#[derive(Clone, Debug)]
enum Output {
    Stream { name: String, text: String },
    Other(Object),
}

/// The outputs of one cell.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    list: Vec<Output>,
    /// Cleared by the next output (`clear_output(wait=True)`).
    clear_next: bool,
    /// Bytes so far, and whether the cap was met.
    bytes: usize,
    cut: bool,
}

/// Where displays with an id stand: cell and position, for updates from any later cell.
pub type Displays = HashMap<String, Vec<(usize, usize)>>;

/// An execution that is under way or done.
#[derive(Debug, Default)]
pub struct Execution {
    /// Id of the request.
    pub request: String,
    /// The number that the kernel gave.
    pub count: Option<u64>,
    /// What the reply said, once it is there.
    pub reply: Option<Reply>,
    /// Whether the kernel said that it is idle again.
    pub idle: bool,
    /// The error that was shown, if one was.
    pub error: Option<CellError>,
    /// When each stage was, as nbclient records it.
    pub timing: Vec<(&'static str, String)>,
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It went well.
    Ok,
    /// It raised.
    Error(CellError),
    /// It was not executed.
    Aborted,
}

/// What a cell raised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellError {
    /// The exception's name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The traceback, with colours.
    pub traceback: Vec<String>,
}

impl CellError {
    fn read(content: &Object) -> Self {
        let text = |key: &str| content.get(key).and_then(Raw::joined_text).unwrap_or_default();
        let lines: Vec<Raw> = content.view("traceback").unwrap_or_default();
        Self {
            name: text("ename"),
            value: text("evalue"),
            traceback: lines.iter().filter_map(Raw::joined_text).collect(),
        }
    }

    /// `sys.exit()` and `sys.exit(0)` end a notebook well.
    pub fn is_clean_exit(&self) -> bool {
        self.name == "SystemExit" && matches!(self.value.as_str(), "" | "0")
    }
}

impl Execution {
    /// An execution of this request.
    pub fn new(request: String) -> Self {
        Self { request, ..Self::default() }
    }

    /// Whether nothing more is expected.
    pub fn is_done(&self) -> bool {
        self.reply.is_some() && self.idle
    }

    /// Takes a reply of the shell channel.
    pub fn take_reply(&mut self, message: &Message) {
        if message.parent != self.request || message.kind != "execute_reply" {
            return;
        }
        self.time("shell.execute_reply", message);
        self.count = message.content.view("execution_count").or(self.count);
        self.reply = Some(match message.content.view::<&str>("status") {
            Some("ok") => Reply::Ok,
            Some("aborted") => Reply::Aborted,
            _ => Reply::Error(CellError::read(&message.content)),
        });
    }

    /// Takes a broadcast. Outputs go to the cell at work, `current`, also those of threads that an
    /// earlier cell left behind; updates of displays go where the displays stand.
    pub fn take_broadcast(
        &mut self,
        message: &Message,
        all: &mut [Outputs],
        current: usize,
        displays: &mut Displays,
    ) {
        let content = &message.content;
        let own = message.parent == self.request;
        match message.kind.as_str() {
            "status" if own => match content.view::<&str>("execution_state") {
                Some("idle") => {
                    self.idle = true;
                    self.time("iopub.status.idle", message);
                }
                Some("busy") => self.time("iopub.status.busy", message),
                _ => {}
            },
            "execute_input" if own => {
                self.count = content.view("execution_count").or(self.count);
                self.time("iopub.execute_input", message);
            }
            "stream" => {
                let text = |key: &str| content.get(key).and_then(Raw::joined_text);
                let name = text("name").unwrap_or_else(|| "stdout".into());
                all[current].stream(name, &text("text").unwrap_or_default());
            }
            "display_data" | "execute_result" | "error" => {
                if message.kind == "error" && own {
                    self.error = Some(CellError::read(content));
                }
                let id = display_id(content);
                let output = to_output(&message.kind, content);
                if let Some(id) = &id {
                    update(all, displays, id, &output);
                }
                let at = all[current].push(output);
                if let (Some(id), Some(at)) = (id, at) {
                    displays.entry(id).or_default().push((current, at));
                }
            }
            "update_display_data" => {
                if let Some(id) = display_id(content) {
                    update(all, displays, &id, &to_output("display_data", content));
                }
            }
            "clear_output" => {
                let wait = content.view::<bool>("wait").unwrap_or(false);
                all[current].clear(wait);
                if !wait {
                    displays
                        .values_mut()
                        .for_each(|places| places.retain(|(cell, _)| *cell != current));
                }
            }
            _ => {}
        }
    }

    fn time(&mut self, stage: &'static str, message: &Message) {
        if let Some(date) = &message.date {
            self.timing.push((stage, date.clone()));
        }
    }
}

fn display_id(content: &Object) -> Option<String> {
    content.get("transient")?.object().get("display_id")?.joined_text()
}

/// A message's content as nbformat keeps it.
fn to_output(kind: &str, content: &Object) -> Object {
    let mut output = Object::default();
    for (key, value) in content.entries() {
        if key != "transient" {
            output.set(&key, value.clone());
        }
    }
    output.set("output_type", Raw::new(&kind));
    output
}

fn update(all: &mut [Outputs], displays: &Displays, id: &str, new: &Object) {
    for &(cell, at) in displays.get(id).into_iter().flatten() {
        if let Some(Output::Other(old)) = all[cell].list.get_mut(at) {
            for key in ["data", "metadata"] {
                if let Some(value) = new.get(key) {
                    old.set(key, value.clone());
                }
            }
        }
    }
}

impl Outputs {
    /// The most that one cell may print, in bytes; the rest is cut, and the notebook says so.
    pub const CAP: usize = 64 << 20;

    fn stream(&mut self, name: String, text: &str) {
        if !self.room(text.len()) {
            return;
        }
        match self.list.last_mut() {
            // Streams arrive in arbitrary chunks; joined, the same cell gives the same output.
            Some(Output::Stream { name: last, text: joined }) if *last == name => {
                joined.push_str(text);
            }
            _ => self.list.push(Output::Stream { name, text: text.to_owned() }),
        }
    }

    fn push(&mut self, output: Object) -> Option<usize> {
        let bytes = output.entries().map(|(_, value)| value.text().len()).sum();
        if !self.room(bytes) {
            return None;
        }
        self.list.push(Output::Other(output));
        Some(self.list.len() - 1)
    }

    fn room(&mut self, bytes: usize) -> bool {
        if std::mem::take(&mut self.clear_next) {
            self.clear(false);
        }
        self.bytes += bytes;
        if self.bytes > Self::CAP && !std::mem::replace(&mut self.cut, true) {
            let text = format!(
                "[jupyterflow: outputs beyond {} MiB of this cell were cut]\n",
                Self::CAP >> 20
            );
            self.list.push(Output::Stream { name: "stderr".into(), text });
        }
        !self.cut
    }

    fn clear(&mut self, wait: bool) {
        if wait {
            self.clear_next = true;
        } else {
            *self = Self::default();
        }
    }

    /// The outputs as the notebook keeps them.
    pub fn to_raw(&self) -> Raw {
        let list: Vec<Raw> = self
            .list
            .iter()
            .map(|output| match output {
                Output::Stream { name, text } => Raw::new(&json!({
                    "name": name, "output_type": "stream", "text": split_lines(text),
                })),
                Output::Other(output) => Raw::from(output),
            })
            .collect();
        Raw::new(&list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, content: &str) -> Message {
        Message {
            kind: kind.into(),
            parent: "r".into(),
            date: None,
            content: Raw::parse(content).unwrap().object(),
        }
    }

    fn run(messages: &[(&str, &str)]) -> (Execution, String) {
        let mut execution = Execution::new("r".into());
        let (mut all, mut displays) = (vec![Outputs::default()], Displays::new());
        for (kind, content) in messages {
            let message = message(kind, content);
            if *kind == "execute_reply" {
                execution.take_reply(&message);
            } else {
                execution.take_broadcast(&message, &mut all, 0, &mut displays);
            }
        }
        (execution, all[0].to_raw().text().to_owned())
    }

    #[test]
    fn a_cell_is_done_in_either_order() {
        let idle = ("status", r#"{"execution_state": "idle"}"#);
        let reply = ("execute_reply", r#"{"status": "ok", "execution_count": 3}"#);
        assert!(run(&[idle, reply]).0.is_done());
        assert!(run(&[reply, idle]).0.is_done());
        assert!(!run(&[reply]).0.is_done());
        assert_eq!(run(&[reply]).0.count, Some(3));
    }

    #[test]
    fn streams_are_joined_and_clears_wait() {
        let out = |text: &str| format!(r#"{{"name": "stdout", "text": "{text}"}}"#);
        let (a, b) = (out("a"), out("b\\n"));
        let err = r#"{"name": "stderr", "text": "x"}"#;
        let (_, outputs) = run(&[("stream", &a), ("stream", &b), ("stream", err), ("stream", &a)]);
        assert_eq!(outputs.matches("output_type").count(), 3, "{outputs}");
        assert!(outputs.contains(r#"["ab\n"]"#), "{outputs}");
        let wait = ("clear_output", r#"{"wait": true}"#);
        assert!(run(&[("stream", &a), wait]).1.contains('a'));
        assert!(!run(&[("stream", &a), wait, ("stream", err)]).1.contains("stdout"));
        assert_eq!(run(&[("stream", &a), ("clear_output", "{}")]).1, "[]");
    }

    #[test]
    fn displays_are_updated_where_they_stand() {
        let display =
            r#"{"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "d"}}"#;
        let update =
            r#"{"data": {"text/plain": "2"}, "metadata": {}, "transient": {"display_id": "d"}}"#;
        let (_, outputs) = run(&[("display_data", display), ("update_display_data", update)]);
        assert_eq!(
            outputs,
            r#"[{"data":{"text/plain": "2"},"metadata":{},"output_type":"display_data"}]"#
        );
    }

    #[test]
    fn errors_tell_clean_exits_from_failures() {
        let exit = |value: &str| CellError {
            name: "SystemExit".into(),
            value: value.into(),
            traceback: Vec::new(),
        };
        assert!(
            exit("").is_clean_exit() && exit("0").is_clean_exit() && !exit("1").is_clean_exit()
        );
    }
}
