//! What a daemon says while it works, on stderr: lines for people, or an object of JSON each for
//! collectors of logs.
//!
//! Owns the two forms. An event is told once, where it is handled; its message can be read alone, and
//! its fields be searched for. Secrets are in none.

use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::print;
use crate::plan::Phase;

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// An object of JSON a line.
    Json,
}

/// Sends what this program tells to stderr from here on.
pub fn set_up(format: LogFormat, quiet: bool) {
    let level = if quiet { LevelFilter::WARN } else { LevelFilter::INFO };
    // Libraries talk too; what of theirs matters is told by whoever called them.
    let own = filter_fn(|metadata| metadata.target().starts_with("jupyterflow"));
    let (text, json) = match format {
        LogFormat::Text => (Some(Text), None),
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
            let lines = lines.with_current_span(false).with_span_list(false).with_target(false);
            (None, Some(lines.with_writer(std::io::stderr)))
        }
    };
    let layers = text.map(Layer::boxed).or(json.map(Layer::boxed));
    // A second set-up in one process would be a bug; the first stays.
    let _ =
        tracing_subscriber::registry().with(layers.with_filter(own).with_filter(level)).try_init();
}

struct Text;

#[derive(Default)]
struct Line {
    message: String,
    phase: Option<String>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => {
                let _ = write!(self.message, "{value:?}");
            }
            "phase" => self.phase = Some(format!("{value:?}")),
            _ => {}
        }
    }
}

impl<S: Subscriber> Layer<S> for Text {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        line.message = print::printable(&line.message);
        if let Some(word) = &line.phase {
            let painted = print::phase(Phase::from_word(word));
            line.message = line.message.replacen(word, &painted, 1);
        }
        if *event.metadata().level() <= Level::WARN {
            print::alert(&line.message);
        } else {
            print::talk(&line.message);
        }
    }
}
