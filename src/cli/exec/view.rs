//! Progress of `exec` for people, and what cells print for whoever asked for it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use super::super::error::CliError;
use super::super::print;
use super::args::{Args, Talk};
use crate::executor::Progress;

/// A bar on a terminal, plain lines elsewhere, and files of what cells print.
pub struct View {
    bar: ProgressBar,
    total: usize,
    cell: usize,
    lines: bool,
    log: bool,
    talk: Talk,
    stdout: Option<Box<dyn Write>>,
    stderr: Option<Box<dyn Write>>,
}

impl View {
    /// For these arguments.
    ///
    /// # Errors
    /// A file cannot be made.
    pub fn new(args: &Args, talk: Talk, to_stdout: bool) -> Result<Self, CliError> {
        let wanted = args.progress_bar || (print::is_watched() && !to_stdout);
        let shown = wanted && !args.no_progress_bar && (args.progress_bar || !args.log_output);
        let bar = if shown { ProgressBar::new(0) } else { ProgressBar::hidden() };
        bar.set_style(
            ProgressStyle::with_template("{spinner} {bar:30} cell {pos}/{len} {elapsed} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let create = |path: &Option<_>| path.as_deref().map(create).transpose();
        Ok(Self {
            bar,
            total: 0,
            cell: 0,
            lines: !shown && !args.no_progress_bar && !args.log_output && talk == Talk::All,
            log: args.log_output,
            talk,
            stdout: create(&args.stdout_file)?,
            stderr: create(&args.stderr_file)?,
        })
    }

    /// Shows one event.
    pub fn show(&mut self, event: &Progress<'_>) {
        match event {
            Progress::Started(total) => {
                self.total = *total;
                self.bar.set_length(*total as u64);
            }
            Progress::Cell(number, source) => {
                self.end_cell();
                self.cell = *number;
                self.bar.set_position(*number as u64);
                if let Some(words) = description(source) {
                    self.bar.set_message(words.to_owned());
                }
                if self.lines {
                    print::talk(&format!("cell {number}/{}", self.total));
                }
                self.log(Talk::All, &format!("Executing Cell {number:-<40}"));
            }
            Progress::Ended => self.end_cell(),
            Progress::Stream(error, text) => {
                let (file, level) = match error {
                    true => (&mut self.stderr, Talk::Warnings),
                    false => (&mut self.stdout, Talk::All),
                };
                if let Some(file) = file {
                    // What cannot be written here is in the notebook all the same.
                    let _ = file.write_all(text.as_bytes()).and_then(|()| file.flush());
                }
                self.log(level, text);
            }
            Progress::Shown(text) => self.log(Talk::All, text),
            Progress::Warning(text) => {
                if self.talk >= Talk::Warnings {
                    self.bar.suspend(|| print::talk(&format!("warning: {text}")));
                }
            }
        }
    }

    /// Removes the bar.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }

    fn end_cell(&mut self) {
        match std::mem::take(&mut self.cell) {
            0 => {}
            number => self.log(Talk::All, &format!("Ending Cell {number:-<43}")),
        }
    }

    fn log(&self, level: Talk, text: &str) {
        if self.log && self.talk >= level {
            self.bar.suspend(|| print::talk(text.trim_end_matches('\n')));
        }
    }
}

/// The word behind `papermill_description=` in a cell.
fn description(source: &str) -> Option<&str> {
    source.split("papermill_description=").nth(1)?.split_whitespace().next()
}

/// A file, or `-` for our standard output.
fn create(path: &Path) -> Result<Box<dyn Write>, CliError> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdout()));
    }
    let file = File::create(path);
    let file = file
        .map_err(|error| CliError::usage(format!("failed to write {}: {error}", path.display())))?;
    Ok(Box::new(file))
}
