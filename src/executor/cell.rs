//! One cell at work: what each message of the kernel does, and when the cell is done.
//!
//! Owns the state machine of an execution, as nbclient has it (`NotebookClient.process_message`).
//! Pure: messages in, outputs out. A cell is done when its reply and its idle status are both
//! there, in either order. Messages that answer another request are not the cell's.

use std::collections::{BTreeSet, HashMap};

use super::outputs::{CellError, Outputs};
use super::widgets::Widgets;
use super::wire::Message;
use crate::notebook::json::{Object, Raw};

/// Everything that messages change: outputs by cell, displays with an id, widgets.
#[derive(Debug, Default)]
pub struct Book {
    /// The outputs of each cell.
    pub outputs: Vec<Outputs>,
    /// Where displays with an id stand: cell and position, for updates from any later cell.
    displays: HashMap<String, Vec<(usize, usize)>>,
    /// The widgets.
    pub widgets: Widgets,
    /// The most bytes that a cell's outputs may have.
    cap: usize,
    /// Cells whose outputs changed since [`Book::take_changed`].
    changed: BTreeSet<usize>,
}

impl Book {
    /// For so many cells, each with so many bytes of outputs at most.
    pub fn new(cells: usize, cap: usize) -> Self {
        Self { outputs: vec![Outputs::default(); cells], cap, ..Self::default() }
    }

    /// Outputs of a cell may be missing.
    pub fn mark_incomplete(&mut self, cell: usize) {
        self.outputs[cell].mark_incomplete();
        self.changed.insert(cell);
    }

    /// The cells whose outputs changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.changed)
    }
}

/// What others must hear of a message.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// The content of a `comm_msg` to the kernel: the new state of an Output widget.
    Widget(serde_json::Value),
    /// A cell wrote text: whether to its error stream, and the text.
    Stream(bool, String),
    /// A cell showed a value, as plain text.
    Shown(String),
}

/// An execution that is under way or done.
#[derive(Debug, Default)]
pub struct Execution {
    /// Id of the request.
    request: String,
    /// The cell's position.
    cell: usize,
    /// The number that the kernel gave.
    pub count: Option<u64>,
    /// What the reply said, once it is there.
    pub reply: Option<Reply>,
    /// Whether the kernel said that it is idle again.
    pub idle: bool,
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

impl Execution {
    /// The execution of a cell by this request.
    pub fn new(request: String, cell: usize) -> Self {
        Self { request, cell, ..Self::default() }
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
        self.count = self.count.or(message.content.view("execution_count"));
        self.reply = Some(match message.content.view::<&str>("status") {
            Some("ok") => Reply::Ok,
            Some("error") => Reply::Error(CellError::read(&message.content)),
            // `aborted`, and what kernels say that were interrupted.
            _ => Reply::Aborted,
        });
    }

    /// Takes a broadcast. Outputs go to the cell, or to the Output widget that takes them; updates
    /// of displays go where the displays stand.
    pub fn take_broadcast(&mut self, mut message: Message, book: &mut Book) -> Option<Effect> {
        if message.parent != self.request {
            return None;
        }
        let content = &message.content;
        self.count = content.view("execution_count").or(self.count);
        let (cell, cap) = (self.cell, book.cap);
        book.changed.insert(cell);
        match message.kind.as_str() {
            "status" => match content.view::<&str>("execution_state") {
                Some("idle") => {
                    self.idle = true;
                    self.time("iopub.status.idle", &message);
                }
                Some("busy") => self.time("iopub.status.busy", &message),
                _ => {}
            },
            "execute_input" => self.time("iopub.execute_input", &message),
            "stream" => {
                let text = |key: &str| content.get(key).and_then(Raw::joined_text);
                let name = text("name").unwrap_or_else(|| "stdout".into());
                let text = text("text").unwrap_or_default();
                let error = name == "stderr";
                let add = |outputs: &mut Outputs| outputs.stream(name, &text, cap);
                if book.widgets.takes(&self.request) {
                    return book.widgets.change(&self.request, add).map(Effect::Widget);
                }
                book.clear_if_due(cell);
                add(&mut book.outputs[cell]);
                return Some(Effect::Stream(error, text));
            }
            "display_data" | "execute_result" | "error" => {
                let id = display_id(content).filter(|_| message.kind != "error");
                let shown = content.get("data").and_then(plain_text).map(Effect::Shown);
                let output = to_output(&message.kind, &mut message.content);
                if let Some(id) = &id {
                    book.update(id, &output);
                }
                if book.widgets.takes(&self.request) {
                    let add = |outputs: &mut Outputs| {
                        outputs.push(output, cap);
                    };
                    return book.widgets.change(&self.request, add).map(Effect::Widget);
                }
                book.clear_if_due(cell);
                let at = book.outputs[cell].push(output, cap);
                if let (Some(id), Some(at)) = (id, at) {
                    book.displays.entry(id).or_default().push((cell, at));
                }
                return shown;
            }
            "update_display_data" => {
                if let Some(id) = display_id(content) {
                    book.update(&id, &to_output("display_data", &mut message.content));
                }
            }
            "clear_output" => {
                let wait = content.view::<bool>("wait").unwrap_or(false);
                if book.widgets.takes(&self.request) {
                    let clear = |outputs: &mut Outputs| outputs.clear(wait);
                    return book.widgets.change(&self.request, clear).map(Effect::Widget);
                }
                book.outputs[cell].clear(wait);
                if !wait {
                    book.forget_displays(cell);
                }
            }
            "comm_open" | "comm_msg" => book.widgets.take(&message),
            _ => {}
        }
        None
    }

    fn time(&mut self, stage: &'static str, message: &Message) {
        if let Some(date) = &message.date {
            self.timing.push((stage, date.clone()));
        }
    }
}

impl Book {
    fn update(&mut self, id: &str, new: &Object) {
        for &(cell, at) in self.displays.get(id).into_iter().flatten() {
            self.outputs[cell].update(at, new);
            self.changed.insert(cell);
        }
    }

    /// Clears what waits for the next output, now that it comes.
    fn clear_if_due(&mut self, cell: usize) {
        if self.outputs[cell].will_clear() {
            self.outputs[cell].clear(false);
            self.forget_displays(cell);
        }
    }

    fn forget_displays(&mut self, cell: usize) {
        self.displays.values_mut().for_each(|places| places.retain(|place| place.0 != cell));
    }
}

fn display_id(content: &Object) -> Option<String> {
    content.get("transient")?.object().get("display_id")?.joined_text()
}

/// The plain text among a display's representations. The others, which may be large, are passed over.
fn plain_text(data: &Raw) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Plain {
        #[serde(rename = "text/plain")]
        text: Option<Raw>,
    }
    data.view::<Plain>()?.text?.joined_text()
}

/// A message's content as nbformat keeps it (`nbformat.v4.output_from_msg`): these fields only, and
/// moved, for they may be large.
fn to_output(kind: &str, content: &mut Object) -> Object {
    let keys: &[&str] = match kind {
        "execute_result" => &["metadata", "data", "execution_count"],
        "error" => &["ename", "evalue", "traceback"],
        _ => &["metadata", "data"],
    };
    let mut output = Object::default();
    output.set("output_type", Raw::new(&kind));
    for key in keys {
        let missing = || match *key {
            "data" | "metadata" => Raw::new(&serde_json::json!({})),
            "traceback" => Raw::new(&[(); 0]),
            "execution_count" => Raw::new(&()),
            _ => Raw::new(&""),
        };
        output.set(key, content.take(key).unwrap_or_else(missing));
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, content: &str) -> Message {
        let content = Raw::parse(content).unwrap().object();
        Message { kind: kind.into(), parent: "r".into(), date: None, content, buffers: Vec::new() }
    }

    fn run(messages: &[(&str, &str)]) -> (Execution, String) {
        let mut execution = Execution::new("r".into(), 0);
        let mut book = Book::new(1, 1000);
        for (kind, content) in messages {
            let message = message(kind, content);
            if *kind == "execute_reply" {
                execution.take_reply(&message);
            } else {
                execution.take_broadcast(message, &mut book);
            }
        }
        (execution, book.outputs[0].to_raw().text().to_owned())
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
            r#"[{"output_type":"display_data","metadata":{},"data":{"text/plain": "2"}}]"#
        );
    }

    #[test]
    fn messages_of_another_request_change_nothing() {
        let mut execution = Execution::new("other".into(), 0);
        let mut book = Book::new(1, 1000);
        execution
            .take_broadcast(message("stream", r#"{"name": "stdout", "text": "x"}"#), &mut book);
        execution.take_broadcast(message("status", r#"{"execution_state": "idle"}"#), &mut book);
        assert_eq!(book.outputs[0].to_raw().text(), "[]");
        assert!(!execution.idle);
    }
}
