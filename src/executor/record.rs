//! The executed notebook as it comes to be: cleared, marked, filled, saved, and whole on disk at
//! every moment.
//!
//! Owns papermill's metadata and banners, and when to save. What a message does to outputs is in
//! `cell`.

#![expect(clippy::disallowed_methods, reason = "marks carry the time")]

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::cell::{Book, Execution};
use super::location::Location;
use super::outputs::CellError;
use crate::notebook::json::{Object, Raw};
use crate::notebook::model::BANNER_TAG;
use crate::notebook::{Cell, CellKind, Notebook};

/// When the notebook is saved while it runs. It is always saved at its end.
#[derive(Clone, Copy, Debug)]
pub struct Saving {
    /// At the start and after cells.
    pub cells: bool,
    /// Every so often during a cell; never unless given.
    pub during: Option<Duration>,
}

/// Saves cost a twentieth of the time at most, and are never further apart than this where that
/// would take longer: a reader sees the notebook of some seconds ago.
const RARELY: Duration = Duration::from_secs(5);
/// Over a network, less often.
const RARELY_REMOTE: Duration = Duration::from_secs(30);

/// The notebook at work.
pub struct Record {
    /// The notebook.
    pub notebook: Notebook,
    /// The outputs of its cells.
    pub book: Book,
    output: Location,
    saving: Saving,
    started: jiff::Timestamp,
    last_save: Instant,
    save_cost: Duration,
}

impl Record {
    /// Takes a notebook and clears what an earlier run left in it, as papermill does.
    pub fn new(
        mut notebook: Notebook,
        output: Location,
        saving: Saving,
        output_limit: usize,
    ) -> Self {
        clear(&mut notebook);
        let started = jiff::Timestamp::now();
        edit_papermill(&mut notebook, |papermill| {
            for key in ["duration", "end_time", "exception"] {
                papermill.set(key, Raw::new(&()));
            }
            papermill.set("start_time", Raw::new(&instant_text(started)));
        });
        Self {
            book: Book::new(notebook.cells.len(), output_limit),
            notebook,
            output,
            saving,
            started,
            last_save: Instant::now(),
            save_cost: Duration::ZERO,
        }
    }

    /// Marks a cell as papermill does: running since `begin`, or ended now.
    pub fn mark(&mut self, at: usize, begin: jiff::Timestamp, status: &str, failed: bool) {
        let now = jiff::Timestamp::now();
        let (duration, end) = match status {
            "running" => (json!(null), json!(null)),
            _ => (json!(seconds_between(begin, now)), json!(instant_text(now))),
        };
        let value = json!({
            "duration": duration,
            "end_time": end,
            "exception": failed,
            "start_time": instant_text(begin),
            "status": status,
        });
        self.notebook.cells[at]
            .edit_metadata(|metadata| metadata.set("papermill", Raw::new(&value)));
    }

    /// Puts outputs and count into the cell, and outputs into earlier ones that were updated.
    pub fn store(&mut self, at: usize, execution: &Execution) {
        for changed in self.book.take_changed() {
            let outputs = self.book.outputs[changed].to_raw();
            self.notebook.cells[changed].set("outputs", outputs);
        }
        let cell = &mut self.notebook.cells[at];
        if let Some(count) = execution.count {
            cell.set("execution_count", Raw::new(&count));
        }
        if !execution.timing.is_empty() {
            let timing: serde_json::Map<String, serde_json::Value> =
                execution.timing.iter().map(|(key, at)| ((*key).to_owned(), json!(at))).collect();
            cell.edit_metadata(|metadata| metadata.set("execution", Raw::new(&timing)));
        }
    }

    /// What the kernel says of its language, and the widgets.
    pub fn describe(&mut self, language_info: Option<&Raw>) {
        let widgets = self.book.widgets.metadata();
        self.notebook.edit_metadata(|metadata| {
            if let Some(info) = language_info {
                metadata.set("language_info", info.clone());
            }
            if let Some(widgets) = widgets {
                metadata.set("widgets", widgets);
            }
        });
    }

    /// The cell that failed, and its error: the last with an error among its outputs, where that is
    /// neither allowed by a tag nor a clean exit; else the one whose reply told of an error, unless
    /// it exited cleanly (`papermill.execute.raise_for_execution_errors`).
    pub fn failed_cell(&self, reply: Option<(usize, CellError)>) -> Option<(usize, CellError)> {
        let mut failed = None;
        for (at, (cell, outputs)) in self.notebook.cells.iter().zip(&self.book.outputs).enumerate()
        {
            let (error, clean) = outputs.error();
            let told = reply.as_ref().filter(|(cell, _)| *cell == at).map(|(_, error)| error);
            let silent = told.filter(|error| !clean && !error.is_clean_exit()).cloned();
            if !cell.has_tag("raises-exception") {
                failed = error.or(silent).map(|error| (at, error)).or(failed);
            }
        }
        failed
    }

    /// Papermill's two banners for a cell that failed, and the number that the kernel gave it.
    pub fn add_banners(&mut self, at: usize) -> Option<u64> {
        const STYLE: &str = "style=\"color:red; font-family:Helvetica Neue, Helvetica, Arial, \
                             sans-serif; font-size:2em;\"";
        let count = self.notebook.cells[at].get("execution_count").and_then(Raw::view::<u64>);
        let number = count.map_or_else(|| "None".to_owned(), |count| count.to_string());
        let link = format!(
            "<span {STYLE}>An Exception was encountered at \
             '<a href=\"#papermill-error-cell\">In [{number}]</a>'.</span>"
        );
        let anchor = format!(
            "<span id=\"papermill-error-cell\" {STYLE}>Execution using papermill \
             encountered an exception here and stopped:</span>"
        );
        let banner = |text: &str| Cell::markdown(&new_id(), text, &[BANNER_TAG]);
        self.notebook.cells.insert(at, banner(&anchor));
        self.notebook.cells.insert(0, banner(&link));
        count
    }

    /// Marks the end of the whole.
    pub fn finish(&mut self, failed: bool) {
        let now = jiff::Timestamp::now();
        let duration = seconds_between(self.started, now);
        edit_papermill(&mut self.notebook, |papermill| {
            papermill.set("duration", Raw::new(&duration));
            papermill.set("end_time", Raw::new(&instant_text(now)));
            papermill.set("exception", if failed { Raw::new(&true) } else { Raw::new(&()) });
        });
    }

    /// When the next save during a cell is due.
    pub fn next_save(&self) -> Option<Instant> {
        let during = self.saving.during.filter(|_| self.saving.cells)?;
        Some(self.last_save + during.max(self.pace()))
    }

    fn pace(&self) -> Duration {
        let remote = self.output.is_remote();
        let rarely = if remote { RARELY_REMOTE } else { RARELY };
        let usual = (self.save_cost * 20).clamp(Duration::from_secs(1), rarely);
        // What takes longer than that to write is written half of the time at most.
        if remote { rarely } else { usual }.max(self.save_cost * 2)
    }

    /// Saves at the end of a cell, where it is time.
    ///
    /// # Errors
    /// Those of [`Record::save`].
    pub async fn save_if_due(&mut self) -> Result<(), String> {
        if self.saving.cells && self.last_save.elapsed() >= self.pace() {
            return self.save().await;
        }
        Ok(())
    }

    /// Saves at the start, so that a reader sees what is at work.
    ///
    /// # Errors
    /// Those of [`Record::save`].
    pub async fn save_first(&mut self) -> Result<(), String> {
        if self.saving.cells { self.save().await } else { Ok(()) }
    }

    /// Saves.
    ///
    /// # Errors
    /// It cannot be written; what stood there stays.
    pub async fn save(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        self.output.write(self.notebook.write().into_bytes()).await?;
        self.last_save = Instant::now();
        self.save_cost = begin.elapsed();
        Ok(())
    }
}

/// A cell's id, as nbformat makes them.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..8].to_owned()
}

fn clear(notebook: &mut Notebook) {
    notebook.remove_banners();
    let pending = json!({
        "duration": null, "end_time": null, "exception": null, "start_time": null,
        "status": "pending",
    });
    for cell in &mut notebook.cells {
        if cell.kind() == CellKind::Code {
            cell.set("outputs", Raw::new(&[(); 0]));
            cell.set("execution_count", Raw::new(&()));
        }
        cell.edit_metadata(|metadata| {
            metadata.remove("execution");
            metadata.set("papermill", Raw::new(&pending));
        });
    }
}

fn edit_papermill(notebook: &mut Notebook, edit: impl FnOnce(&mut Object)) {
    notebook.edit_metadata(|metadata| {
        let mut papermill = metadata.get("papermill").map(Raw::object).unwrap_or_default();
        edit(&mut papermill);
        metadata.set("papermill", Raw::from(&papermill));
    });
}

fn instant_text(at: jiff::Timestamp) -> String {
    format!("{}+00:00", at.strftime("%Y-%m-%dT%H:%M:%S%.6f"))
}

fn seconds_between(from: jiff::Timestamp, to: jiff::Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}
