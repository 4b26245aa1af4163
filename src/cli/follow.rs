//! Runs as they go: bars on a terminal, plain lines elsewhere, and what came of them.
//!
//! Owns what a person sees of a run. It only reads.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::place::Place;
use super::print;
use crate::plan::{Phase, Run, StepRecord};
use crate::types::{RunName, Timestamp};

/// Shows runs while they go.
pub struct Follower {
    bars: MultiProgress,
    lines: bool,
    seen: HashMap<(RunName, String), (Phase, u64)>,
    shown: HashMap<RunName, ProgressBar>,
    /// What each run was last said to wait for.
    waits: HashMap<RunName, String>,
}

impl Follower {
    /// Bars where a person watches, lines elsewhere.
    pub fn new(quiet: bool) -> Self {
        let watched = print::is_watched() && !quiet;
        let target =
            if watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            bars: MultiProgress::with_draw_target(target),
            lines: !watched,
            seen: HashMap::new(),
            shown: HashMap::new(),
            waits: HashMap::new(),
        }
    }

    /// Shows where a run stands now.
    pub fn show(&mut self, run: &Run) {
        // What a run waits for is said once; a bar shows it as long as it waits.
        if self.lines
            && !run.phase.is_ended()
            && let Some(message) = &run.message
            && self.waits.insert(run.name.clone(), message.clone()).as_ref() != Some(message)
        {
            print::talk(&format!("{} {}", run.name, print::printable(message)));
        }
        let tasks = tasks(run);
        if self.lines {
            for task in &tasks {
                let key = (run.name.clone(), task.name.clone());
                let state = (task.phase, task.attempt);
                let before = self.seen.insert(key, state);
                if before != Some(state) && !(before.is_none() && task.phase == Phase::Pending) {
                    print::talk(&line(run, task));
                }
            }
            return;
        }
        let bar = self.shown.entry(run.name.clone()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(0));
            bar.set_style(
                ProgressStyle::with_template(
                    "{prefix:.bold} [{bar:24.green}] {pos}/{len} {elapsed} {wide_msg:.dim}",
                )
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─"),
            );
            bar.set_prefix(run.name.to_string());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        bar.set_length(tasks.len().max(1) as u64);
        bar.set_position(tasks.iter().filter(|task| task.phase.is_ended()).count() as u64);
        let at_work = tasks.iter().filter(|task| task.phase == Phase::Running);
        let words: Vec<&str> = at_work.map(|task| task.name.as_str()).collect();
        bar.set_message(match &run.message {
            Some(message) => print::printable(message),
            None if words.is_empty() => run.phase.word().to_owned(),
            None => words.join(" "),
        });
        if run.phase.is_ended() {
            bar.finish_and_clear();
        }
    }

    /// Says something beside the bars.
    pub fn say(&self, text: &str) {
        self.bars.suspend(|| print::talk(text));
    }

    /// Takes all bars away.
    pub fn clear(&self) {
        let _ = self.bars.clear();
    }
}

/// What is executed: points in place of steps that are swept.
fn tasks(run: &Run) -> Vec<&StepRecord> {
    let swept = |record: &&StepRecord| {
        record.index.is_none()
            && run.steps.iter().any(|s| s.index.is_some() && s.base_name() == record.name)
    };
    run.steps.iter().filter(|record| !swept(record)).collect()
}

fn line(run: &Run, step: &StepRecord) -> String {
    let attempt =
        if step.attempt > 1 { format!(" (attempt {})", step.attempt) } else { String::new() };
    let time = match (step.phase.is_ended(), took(step.started_at, step.finished_at)) {
        (true, Some(time)) => format!(" in {time}"),
        _ => String::new(),
    };
    let message = step.message.as_deref().map(|words| format!(": {}", print::printable(words)));
    let message = message.unwrap_or_default();
    format!("{} {} {}{attempt}{time}{message}", run.name, step.name, step.phase)
}

/// The time between two instants, for people.
pub fn took(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<String> {
    let seconds = to?.duration_since(from?).as_secs_f64().max(0.0);
    Some(match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), s % 60.0),
        s => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    })
}

/// A run with its steps, and where its results lie.
pub fn summary(place: &Place, run: &Run, folder: &str) -> String {
    let mut text = format!("{} {}", run.name, print::phase(run.phase));
    if let Some(time) = took(run.started_at, run.finished_at) {
        text.push_str(&format!(" in {time}"));
    }
    if let Some(message) = &run.message {
        for line in message.lines() {
            text.push_str(&format!("\n  {}", print::printable(line)));
        }
    }
    let rows = run.steps.iter().map(|step| {
        let metrics = step.metrics.iter().map(|(name, value)| format!("{name}={}", number(*value)));
        let metrics = metrics.collect::<Vec<_>>().join(" ");
        let chosen =
            if step.selected == Some(serde_json::Value::Bool(true)) { " (best)" } else { "" };
        vec![
            format!("{}{chosen}", step.name),
            print::phase(step.phase),
            took(step.started_at, step.finished_at).unwrap_or_default(),
            metrics,
        ]
    });
    text.push_str("\n\n");
    text.push_str(&print::table(&["STEP", "PHASE", "TIME", "METRICS"], rows.collect()));
    let results = crate::engine::step::leftovers::results_folder(folder, run.name.as_str());
    let mut files =
        vec![vec!["run document".to_owned(), place.shown(&format!("{results}/run.json"))]];
    for step in &run.steps {
        // Of a sweep the point that was chosen is shown; the others lie beside it.
        let swept = step.index.is_none() && step.selected.is_some();
        let passed_over = step.selected == Some(serde_json::Value::Bool(false));
        if let Some(notebook) = step.notebook.as_ref().filter(|_| !swept && !passed_over) {
            files.push(vec![format!("{} notebook", step.name), place.shown(notebook)]);
            let page = notebook.replace("notebook.ipynb", "notebook.html");
            files.push(vec![format!("{} HTML", step.name), place.shown(&page)]);
        }
        for artifact in &step.artifacts {
            if step.index.is_none() {
                let name = format!("{} {}", step.name, artifact.name);
                files.push(vec![name, place.shown(&artifact.path)]);
            }
        }
        if step.phase == Phase::Failed && !swept && step.attempt > 0 && step.notebook.is_none() {
            files.push(vec![format!("{} log", step.name), place.shown(&step.log)]);
        }
    }
    text.push_str("\n\n");
    text.push_str(&print::table(&["RESULT", "PATH"], files));
    text
}

fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short.parse() == Ok(value) || value.abs() >= 0.001 {
        short.to_owned()
    } else {
        format!("{value:e}")
    }
}
