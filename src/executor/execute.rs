//! The run of a notebook: cells in order, until all are done or one ending is reached.
//!
//! Owns the loop, its time limits and the endings. What a message does to a cell is in `cell`, the
//! notebook in `record`, the process in `kernel`.

#![expect(clippy::disallowed_methods, reason = "cells and limits need the time")]

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::cell::{Effect, Execution, Reply};
use super::kernel::{Event, Kernel, KernelError};
use super::kernelspec::choose;
use super::launch::Launch;
use super::location::Location;
use super::memory::return_large_blocks;
use super::outputs::CellError;
use super::record::{Record, Saving};
use super::signals::Signals;
use crate::notebook::{CellKind, Notebook};

/// After an interrupt a cell may take this long to end before the kernel is killed.
const GRACE: Duration = Duration::from_secs(5);
/// After the reply the idle status may take this long; then outputs may be missing.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// However many outputs still come after the reply, they take no longer.
const BACKLOG_LIMIT: Duration = Duration::from_secs(120);
/// After the idle status the reply may take this long; then the kernel is broken.
const REPLY_LIMIT: Duration = Duration::from_secs(30);

/// What to execute and how.
pub struct Options {
    /// The notebook, with its parameters injected.
    pub notebook: Notebook,
    /// Where it is written while it runs and at its end.
    pub output: Location,
    /// When it is written.
    pub saving: Saving,
    /// The kernel's name; the notebook's own unless given.
    pub kernel: Option<String>,
    /// How the kernel is launched.
    pub launch: Launch,
    /// The kernel's working directory.
    pub folder: PathBuf,
    /// How long the kernel may take to start.
    pub start_timeout: Duration,
    /// How long one cell may take.
    pub cell_timeout: Option<Duration>,
    /// How many bytes of outputs one cell may have; the rest is cut, and the notebook says so.
    pub output_limit: usize,
}

/// What happens while a notebook runs, for people to see.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The kernel answers; this many cells are to come.
    Started(usize),
    /// A code cell begins: its number among all cells, from 1, and its source.
    Cell(usize, &'a str),
    /// All cells are over.
    Ended,
    /// Text that a cell wrote: whether to its error stream, and the text.
    Stream(bool, &'a str),
    /// A value that a cell showed, as plain text.
    Shown(&'a str),
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
    return_large_blocks();
    let name = options.kernel.or_else(|| options.notebook.kernel_name());
    let language = options.notebook.language();
    let mut record =
        Record::new(options.notebook, options.output, options.saving, options.output_limit);
    let spec = match choose(name.as_deref(), language.as_deref()) {
        Err(error) if name.is_none() => {
            return (record.notebook, Ending::Kernel(error.to_string()));
        }
        chosen => chosen.map_err(|error| Ending::Kernel(error.to_string())),
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            let message = format!("failed to listen for signals: {error}");
            return (record.notebook, Ending::Kernel(message));
        }
    };
    if let Err(ending) = saved(&mut signals, record.save_first()).await {
        return (record.notebook, ending);
    }
    let start = async {
        let spec = spec?;
        let kernel = Kernel::start(&spec, options.launch, &options.folder, options.start_timeout);
        kernel.await.map_err(|error| Ending::Kernel(error.to_string()))
    };
    let started = signals.unless(start).await.unwrap_or_else(|n| Err(Ending::Signalled(n)));
    let mut run = Run { record, signals, limit: options.cell_timeout, progress: &mut progress };
    let (ending, stopped) = match started {
        Err(ending) => (ending, true),
        Ok(kernel) => run.all(kernel).await,
    };
    let Run { mut record, mut signals, .. } = run;
    record.finish(stopped);
    progress(Progress::Ended);
    match saved(&mut signals, record.save()).await {
        // A full disk must not hide that a cell failed before it.
        Err(unsaved) if matches!(ending, Ending::Succeeded) => (record.notebook, unsaved),
        _ => (record.notebook, ending),
    }
}

/// Waits for a save, which hangs where a server or the reader of a pipe does, until a signal.
async fn saved(
    signals: &mut Signals,
    save: impl Future<Output = Result<(), String>>,
) -> Result<(), Ending> {
    signals.unless(save).await.map_err(Ending::Signalled)?.map_err(Ending::Save)
}

struct Run<'a> {
    record: Record,
    signals: Signals,
    limit: Option<Duration>,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Run<'_> {
    /// Runs all cells and ends the kernel. Also returns whether something stopped it before its
    /// last cell, be it a clean exit.
    async fn all(&mut self, mut kernel: Kernel) -> (Ending, bool) {
        (self.progress)(Progress::Started(self.record.notebook.cells.len()));
        if let Some(warning) = kernel.warning.take() {
            (self.progress)(Progress::Warning(&warning));
        }
        let reply = match self.cells(&mut kernel).await {
            Ok(reply) => reply,
            Err(ending) => {
                kernel.kill().await;
                return (ending, true);
            }
        };
        self.record.describe(kernel.language_info.as_ref());
        kernel.shut_down().await;
        let stopped = reply.is_some();
        let failed = self.record.failed_cell(reply);
        // All are in the notebook now.
        self.record.book.outputs.clear();
        match failed {
            Some((at, error)) => {
                let count = self.record.add_banners(at);
                (Ending::CellFailed { count, cell: at + 1, error }, stopped)
            }
            None => (Ending::Succeeded, stopped),
        }
    }

    /// Runs cells until one raises, which is returned, or something else ends the run.
    async fn cells(&mut self, kernel: &mut Kernel) -> Result<Option<(usize, CellError)>, Ending> {
        for at in 0..self.record.notebook.cells.len() {
            let cell = &self.record.notebook.cells[at];
            let (code, source) = (cell.kind() == CellKind::Code, cell.source());
            let begin = jiff::Timestamp::now();
            if !code || source.trim().is_empty() || cell.has_tag("skip-execution") {
                self.record.mark(at, begin, "completed", false);
                continue;
            }
            let tolerant = cell.has_tag("raises-exception");
            (self.progress)(Progress::Cell(at + 1, &source));
            self.record.mark(at, begin, "running", false);
            let mut execution = Execution::default();
            let result = self.cell(kernel, at, &source, tolerant, &mut execution).await;
            self.record.store(at, &execution);
            let result = result.unwrap_or_else(|error| Some(Ending::Kernel(error.to_string())));
            let error = match execution.reply {
                Some(Reply::Error(error)) if !tolerant => Some(error),
                _ => None,
            };
            let failed = result.is_some() || error.is_some();
            self.record.mark(at, begin, if failed { "failed" } else { "completed" }, failed);
            match (result, error) {
                (Some(ending), _) => return Err(ending),
                (None, Some(error)) => return Ok(Some((at, error))),
                (None, None) => saved(&mut self.signals, self.record.save_if_due()).await?,
            }
        }
        Ok(None)
    }

    /// Runs one cell to its end. The ending is given where no further cell may run.
    async fn cell(
        &mut self,
        kernel: &mut Kernel,
        at: usize,
        source: &str,
        tolerant: bool,
        execution: &mut Execution,
    ) -> Result<Option<Ending>, KernelError> {
        let request = json!({
            "code": source, "silent": false, "store_history": true, "user_expressions": {},
            "allow_stdin": false, "stop_on_error": !tolerant,
        });
        *execution = Execution::new(kernel.send("execute_request", &request).await?, at);
        let far = Instant::now() + Duration::from_secs(86_400 * 365 * 30);
        let mut deadline = self.limit.map_or(far, |limit| Instant::now() + limit);
        let mut interrupted = false;
        // The reply and the idle status come together: where only one does, the other is lost.
        let mut other_half = far;
        let mut half_since = None;
        while !execution.is_done() {
            let next_save = self.record.next_save().unwrap_or(far);
            let event = tokio::select! {
                biased;
                number = self.signals.next() => return Ok(Some(Ending::Signalled(number))),
                () = sleep_until(deadline) => {
                    if interrupted {
                        break;
                    }
                    interrupted = true;
                    kernel.interrupt().await;
                    deadline = Instant::now() + GRACE;
                    continue;
                }
                () = sleep_until(other_half) => {
                    if execution.reply.is_none() {
                        let message = "it said that a cell was over, but never answered";
                        return Err(KernelError::Socket(message.into()));
                    }
                    self.warn_of_loss(at, "the kernel never said that the cell was over");
                    break;
                }
                () = sleep_until(next_save) => {
                    self.record.store(at, execution);
                    if let Err(ending) = saved(&mut self.signals, self.record.save()).await {
                        return Ok(Some(ending));
                    }
                    continue;
                }
                event = kernel.event() => event?,
            };
            match event {
                Event::Shell(message) => execution.take_reply(&message),
                Event::Broadcast(message) => {
                    match execution.take_broadcast(message, &mut self.record.book) {
                        Some(Effect::Stream(error, text)) => {
                            (self.progress)(Progress::Stream(error, &text));
                        }
                        Some(Effect::Shown(text)) => (self.progress)(Progress::Shown(&text)),
                        Some(Effect::Widget(update)) => {
                            kernel.send("comm_msg", &update).await?;
                        }
                        None => {}
                    }
                }
                Event::MayBeMissing => {
                    self.warn_of_loss(at, "we could not read as fast as the kernel wrote");
                }
                Event::Died => {
                    let error = kernel.obituary().await;
                    return Ok(Some(Ending::Kernel(error.to_string())));
                }
            }
            if execution.idle {
                other_half = *half_since.get_or_insert_with(Instant::now) + REPLY_LIMIT;
            } else if execution.reply.is_some() {
                // What still comes shows that the other half is only late.
                let last = *half_since.get_or_insert_with(Instant::now) + BACKLOG_LIMIT;
                other_half = last.min(Instant::now() + IDLE_LIMIT);
            }
        }
        Ok(interrupted.then(|| Ending::TimedOut {
            cell: at + 1,
            seconds: self.limit.unwrap_or_default().as_secs(),
        }))
    }

    fn warn_of_loss(&mut self, at: usize, why: &str) {
        self.record.book.mark_incomplete(at);
        let text = format!("outputs of cell {} may be incomplete: {why}", at + 1);
        (self.progress)(Progress::Warning(&text));
    }
}
