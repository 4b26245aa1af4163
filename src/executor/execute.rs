//! The run of a notebook: cells in order, the notebook on disk whole at every moment.
//!
//! Owns the loop, papermill's metadata and banners, and the endings. What a message does to a cell
//! is in `cell`, the process in `kernel`.

#![expect(clippy::disallowed_methods, reason = "messages and cells carry the time")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::cell::{CellError, Displays, Execution, Outputs, Reply};
use super::ignored::is_ignored;
use super::kernel::{Event, Kernel, KernelError};
use super::kernelspec::choose;
use super::save::write_whole;
use crate::notebook::json::{Object, Raw};
use crate::notebook::model::BANNER_TAG;
use crate::notebook::{Cell, CellKind, Notebook};

/// After an interrupt a cell may take this long to end before the kernel is killed.
const GRACE: Duration = Duration::from_secs(5);
/// After the reply the idle status may take this long; then outputs may be missing.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// What to execute and how.
pub struct Options {
    /// The notebook, with its parameters injected.
    pub notebook: Notebook,
    /// Where it is written while it runs and at its end; nowhere unless given.
    pub output: Option<PathBuf>,
    /// The kernel's name; the notebook's own unless given.
    pub kernel: Option<String>,
    /// The kernel's working directory.
    pub folder: PathBuf,
    /// How long the kernel may take to start.
    pub start_timeout: Duration,
    /// How long one cell may take.
    pub cell_timeout: Option<Duration>,
}

/// What happens while a notebook runs, for people to see.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The kernel answers; this many cells are to come.
    Started(usize),
    /// A code cell begins: its number among all cells, from 1.
    Cell(usize),
    /// Text that a cell wrote: whether to its error stream, and the text.
    Stream(bool, &'a str),
    /// Something that a person should know.
    Warning(&'a str),
}

/// How it ended.
#[derive(Debug)]
pub enum Ending {
    /// All cells that should run did, or the notebook ended itself well.
    Succeeded,
    /// A cell raised.
    CellFailed {
        /// The number that the kernel gave the cell, if any.
        count: Option<u64>,
        /// The cell's number among all cells of the input, from 1.
        cell: usize,
        /// What it raised.
        error: CellError,
    },
    /// A cell took too long.
    TimedOut {
        /// The cell's number.
        cell: usize,
        /// The limit, in seconds.
        seconds: u64,
    },
    /// No kernel, a dead kernel, or a broken one.
    Kernel(String),
    /// The notebook could not be written.
    Save(String),
    /// A signal to this process, by number.
    Signalled(i32),
}

/// Executes a notebook. The executed notebook comes back, whatever the ending.
pub async fn execute(
    options: Options,
    mut progress: impl FnMut(Progress<'_>),
) -> (Notebook, Ending) {
    let mut notebook = options.notebook;
    prepare(&mut notebook);
    let mut run = match Runner::new(notebook, options.output) {
        Ok(run) => run,
        Err((notebook, message)) => return (notebook, Ending::Kernel(message)),
    };
    let name = options.kernel.or_else(|| run.notebook.kernel_name());
    let spec = match choose(name.as_deref()) {
        Ok(spec) => spec,
        Err(error) => return (run.notebook, Ending::Kernel(error.to_string())),
    };
    if let Err(error) = run.save() {
        return (run.notebook, error);
    }
    let started = tokio::select! {
        started = Kernel::start(spec, &options.folder, options.start_timeout) => started,
        number = run.signals.next() => {
            run.finish(true);
            let _ = run.save();
            return (run.notebook, Ending::Signalled(number));
        }
    };
    let ending = match started {
        Err(error) => Ending::Kernel(error.to_string()),
        Ok(mut kernel) => {
            progress(Progress::Started(run.notebook.cells.len()));
            let ending = run.cells(&mut kernel, options.cell_timeout, &mut progress).await;
            match ending {
                Ending::Succeeded | Ending::CellFailed { .. } => kernel.shut_down().await,
                _ => kernel.kill().await,
            }
            ending
        }
    };
    run.banner(&ending);
    run.finish(!matches!(ending, Ending::Succeeded));
    match run.save() {
        Ok(()) => (run.notebook, ending),
        // A full disk must not hide that a cell failed before it.
        Err(error) if matches!(ending, Ending::Succeeded) => (run.notebook, error),
        Err(_) => (run.notebook, ending),
    }
}

/// Clears what an earlier run left, as papermill does.
fn prepare(notebook: &mut Notebook) {
    notebook.remove_banners();
    notebook.upgrade_to_4_5(|| uuid::Uuid::new_v4().simple().to_string()[..8].to_owned());
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
            if metadata.get("tags").is_none() {
                metadata.set("tags", Raw::new(&[(); 0]));
            }
        });
    }
}

struct Signals(Vec<(i32, Signal)>);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let heard = kinds.into_iter().filter(|kind| !is_ignored(kind.as_raw_value()));
        let streams = heard.map(|kind| Ok((kind.as_raw_value(), signal(kind)?)));
        streams.collect::<std::io::Result<_>>().map(Self)
    }

    /// The number of the next signal.
    async fn next(&mut self) -> i32 {
        let waits = self.0.iter_mut().map(|(number, stream)| {
            Box::pin(async move {
                stream.recv().await;
                *number
            })
        });
        futures::future::select_all(waits).await.0
    }
}

struct Runner {
    notebook: Notebook,
    outputs: Vec<Outputs>,
    /// The numbers of the cells in the input, from 1: banners shift positions.
    output: Option<PathBuf>,
    signals: Signals,
    started: jiff::Timestamp,
    last_save: Instant,
    save_cost: Duration,
}

fn instant_text(at: jiff::Timestamp) -> String {
    format!("{}+00:00", at.strftime("%Y-%m-%dT%H:%M:%S%.6f"))
}

fn seconds_between(from: jiff::Timestamp, to: jiff::Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

impl Runner {
    fn new(notebook: Notebook, output: Option<PathBuf>) -> Result<Self, (Notebook, String)> {
        let signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return Err((notebook, format!("failed to listen for signals: {error}"))),
        };
        let mut runner = Self {
            outputs: vec![Outputs::default(); notebook.cells.len()],
            notebook,
            output,
            signals,
            started: jiff::Timestamp::now(),
            last_save: Instant::now(),
            save_cost: Duration::ZERO,
        };
        let start = instant_text(runner.started);
        runner.edit_papermill(|papermill| {
            for key in ["default_parameters", "environment_variables", "parameters"] {
                if papermill.get(key).is_none() {
                    papermill.set(key, Raw::new(&json!({})));
                }
            }
            papermill.set("duration", Raw::new(&()));
            papermill.set("end_time", Raw::new(&()));
            papermill.set("exception", Raw::new(&()));
            papermill.set("start_time", Raw::new(&start));
            if papermill.get("version").is_none() {
                papermill.set("version", Raw::new(&env!("CARGO_PKG_VERSION")));
            }
        });
        Ok(runner)
    }

    fn edit_papermill(&mut self, edit: impl FnOnce(&mut Object)) {
        self.notebook.edit_metadata(|metadata| {
            let mut papermill = metadata.get("papermill").map(Raw::object).unwrap_or_default();
            edit(&mut papermill);
            metadata.set("papermill", Raw::from(&papermill));
        });
    }

    async fn cells(
        &mut self,
        kernel: &mut Kernel,
        limit: Option<Duration>,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Ending {
        let mut displays: Displays = HashMap::new();
        for at in 0..self.notebook.cells.len() {
            let cell = &self.notebook.cells[at];
            let (code, source) = (cell.kind() == CellKind::Code, cell.source());
            let begin = jiff::Timestamp::now();
            if !code || source.trim().is_empty() || cell.has_tag("skip-execution") {
                self.mark(at, begin, "completed", false);
                continue;
            }
            progress(Progress::Cell(at + 1));
            let tolerant = cell.has_tag("raises-exception");
            self.mark(at, begin, "running", false);
            let result =
                self.cell(kernel, at, &source, tolerant, limit, &mut displays, progress).await;
            let (execution, ending) = match result {
                Ok(pair) => pair,
                Err(error) => (Execution::default(), Some(Ending::Kernel(error.to_string()))),
            };
            let reply_error = match &execution.reply {
                Some(Reply::Error(error)) => Some(error.clone()),
                _ => None,
            };
            let error = execution.error.clone().or(reply_error);
            let clean = error.as_ref().is_some_and(CellError::is_clean_exit);
            let failed = ending.is_some() || (error.is_some() && !tolerant);
            self.store(at, &execution);
            self.mark(at, begin, if failed { "failed" } else { "completed" }, failed);
            if let Some(ending) = ending {
                return ending;
            }
            match error {
                Some(_) if clean => return Ending::Succeeded,
                Some(error) if !tolerant => {
                    return Ending::CellFailed { count: execution.count, cell: at + 1, error };
                }
                _ => {}
            }
            if let Err(error) = self.save_if_due() {
                return error;
            }
        }
        Ending::Succeeded
    }

    /// Runs one cell to its end. The ending is given where no further cell may run.
    #[expect(clippy::too_many_arguments, reason = "one cell needs all of the run's parts")]
    async fn cell(
        &mut self,
        kernel: &mut Kernel,
        at: usize,
        source: &str,
        tolerant: bool,
        limit: Option<Duration>,
        displays: &mut Displays,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<(Execution, Option<Ending>), KernelError> {
        let request = json!({
            "code": source, "silent": false, "store_history": true, "user_expressions": {},
            "allow_stdin": false, "stop_on_error": !tolerant,
        });
        let mut execution = Execution::new(kernel.send("execute_request", &request).await?);
        let far = Instant::now() + Duration::from_secs(86_400 * 365 * 30);
        let mut deadline = limit.map_or(far, |limit| Instant::now() + limit);
        let mut interrupted = false;
        let mut idle_deadline = far;
        while !execution.is_done() {
            let next_save = self.last_save + self.save_interval();
            let event = tokio::select! {
                event = kernel.event() => event?,
                number = self.signals.next() => {
                    self.store(at, &execution);
                    return Ok((execution, Some(Ending::Signalled(number))));
                }
                () = sleep_until(deadline) => {
                    if interrupted {
                        break;
                    }
                    interrupted = true;
                    kernel.interrupt().await;
                    deadline = Instant::now() + GRACE;
                    continue;
                }
                () = sleep_until(idle_deadline) => {
                    progress(Progress::Warning(
                        "the kernel never said that a cell was over: its outputs may be incomplete",
                    ));
                    break;
                }
                () = sleep_until(next_save) => {
                    self.store(at, &execution);
                    if let Err(ending) = self.save() {
                        return Ok((execution, Some(ending)));
                    }
                    continue;
                }
            };
            match event {
                Event::Shell(message) => {
                    execution.take_reply(&message);
                    if execution.reply.is_some() && !execution.idle {
                        idle_deadline = Instant::now() + IDLE_LIMIT;
                    }
                }
                Event::Broadcast(message) => {
                    if message.kind == "stream" {
                        let error = message.content.view::<&str>("name") == Some("stderr");
                        if let Some(text) = message.content.get("text").and_then(Raw::joined_text) {
                            progress(Progress::Stream(error, &text));
                        }
                    }
                    execution.take_broadcast(&message, &mut self.outputs, at, displays);
                }
                Event::Died(how) => {
                    let error = kernel.died(how).await;
                    return Ok((execution, Some(Ending::Kernel(error.to_string()))));
                }
            }
        }
        let timed_out = interrupted.then(|| Ending::TimedOut {
            cell: at + 1,
            seconds: limit.unwrap_or_default().as_secs(),
        });
        Ok((execution, timed_out))
    }

    /// Puts outputs and count into the notebook's cell, and into earlier ones that were updated.
    fn store(&mut self, at: usize, execution: &Execution) {
        for (cell, outputs) in self.notebook.cells.iter_mut().zip(&self.outputs).take(at + 1) {
            if cell.kind() == CellKind::Code {
                cell.set("outputs", outputs.to_raw());
            }
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

    fn mark(&mut self, at: usize, begin: jiff::Timestamp, status: &str, failed: bool) {
        let now = jiff::Timestamp::now();
        let running = status == "running";
        let value = json!({
            "duration": if running { json!(null) } else { json!(seconds_between(begin, now)) },
            "end_time": if running { json!(null) } else { json!(instant_text(now)) },
            "exception": if running { json!(null) } else { json!(failed) },
            "start_time": instant_text(begin),
            "status": status,
        });
        self.notebook.cells[at]
            .edit_metadata(|metadata| metadata.set("papermill", Raw::new(&value)));
    }

    /// Papermill's two banners for a cell that failed.
    fn banner(&mut self, ending: &Ending) {
        let Ending::CellFailed { count, cell, .. } = ending else { return };
        const STYLE: &str =
            "color:red; font-family:Helvetica Neue, Helvetica, Arial, sans-serif; font-size:2em;";
        let number = count.map_or_else(|| "None".to_owned(), |count| count.to_string());
        let link = format!(
            "<span style=\"{STYLE}\">An Exception was encountered at \
             '<a href=\"#papermill-error-cell\">In [{number}]</a>'.</span>"
        );
        let anchor = format!(
            "<span id=\"papermill-error-cell\" style=\"{STYLE}\">Execution using papermill \
             encountered an exception here and stopped:</span>"
        );
        let new_id = || uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let banner = |text: &str| Cell::markdown(&new_id(), text, &[BANNER_TAG]);
        self.notebook.cells.insert(cell - 1, banner(&anchor));
        self.notebook.cells.insert(0, banner(&link));
    }

    fn finish(&mut self, failed: bool) {
        let now = jiff::Timestamp::now();
        let duration = seconds_between(self.started, now);
        self.edit_papermill(|papermill| {
            papermill.set("duration", Raw::new(&duration));
            papermill.set("end_time", Raw::new(&instant_text(now)));
            papermill.set("exception", if failed { Raw::new(&true) } else { Raw::new(&()) });
        });
    }

    /// Saves are rare enough to cost nothing, and never more than some seconds apart.
    fn save_interval(&self) -> Duration {
        Duration::from_secs(1).max(self.save_cost * 20)
    }

    fn save_if_due(&mut self) -> Result<(), Ending> {
        if self.last_save.elapsed() >= self.save_interval() { self.save() } else { Ok(()) }
    }

    fn save(&mut self) -> Result<(), Ending> {
        let begin = Instant::now();
        if let Some(path) = &self.output {
            let text = self.notebook.write();
            write_whole(path, text.as_bytes()).map_err(|error| {
                Ending::Save(format!("failed to write {}: {error}", path.display()))
            })?;
        }
        self.last_save = Instant::now();
        self.save_cost = begin.elapsed();
        Ok(())
    }
}
