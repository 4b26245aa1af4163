//! Figures of a daemon in the format of `OpenMetrics`.
//!
//! Owns their names, which dashboards depend on.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;
type Float = Gauge<f64, AtomicU64>;

/// The figures of one moment.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How many passes were made.
    pub passes: u64,
    /// How long the last one took, in seconds.
    pub pass_seconds: f64,
    /// How many failed as a whole.
    pub failed_passes: u64,
    /// Runs that this process started.
    pub started: u64,
    /// Runs of which it saw the end, by phase.
    pub ended: Vec<(String, u64)>,
    /// Runs at work or waiting.
    pub open: u64,
    /// What is not done, by reason.
    pub not_done: Vec<(String, u64)>,
    /// The sources.
    pub sources: Vec<SourceFigures>,
}

/// The figures of a source.
#[derive(Clone, Debug, Default)]
pub struct SourceFigures {
    /// Its name.
    pub name: String,
    /// Whether it can be read.
    pub ready: bool,
    /// How many pipelines it shows.
    pub pipelines: u64,
    /// When it last answered, in seconds since 1970, of a repository.
    pub answered: Option<f64>,
    /// How often it was polled, of a repository.
    pub polls: Option<u64>,
}

/// Writes figures as text.
pub fn render(figures: &Figures) -> String {
    let mut registry = Registry::with_prefix("jupyterflow");
    let counter = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter(&mut registry, "passes", "Passes over all sources", figures.passes);
    counter(&mut registry, "failed_passes", "Passes that failed as a whole", figures.failed_passes);
    counter(&mut registry, "runs_started", "Runs that this process started", figures.started);
    let seconds = Float::default();
    seconds.set(figures.pass_seconds);
    registry.register("pass_seconds", "Duration of the last pass", seconds);
    let open: Gauge = Gauge::default();
    open.set(i64::try_from(figures.open).unwrap_or(i64::MAX));
    registry.register("runs_open", "Runs at work or waiting", open);
    let ended = Family::<Labels, Counter>::default();
    for (phase, count) in &figures.ended {
        ended.get_or_create(&vec![("phase", phase.clone())]).inc_by(*count);
    }
    registry.register("runs_ended", "Runs of which this process saw the end", ended);
    let not_done = Family::<Labels, Gauge>::default();
    for (reason, count) in &figures.not_done {
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        not_done.get_or_create(&vec![("reason", reason.clone())]).set(count);
    }
    registry.register("not_done", "Pipelines for which nothing is done, by reason", not_done);
    let ready = Family::<Labels, Gauge>::default();
    let pipelines = Family::<Labels, Gauge>::default();
    let answered = Family::<Labels, Float>::default();
    let polls = Family::<Labels, Counter>::default();
    for source in &figures.sources {
        let labels = vec![("source", source.name.clone())];
        ready.get_or_create(&labels).set(i64::from(source.ready));
        pipelines.get_or_create(&labels).set(i64::try_from(source.pipelines).unwrap_or(i64::MAX));
        if let Some(at) = source.answered {
            answered.get_or_create(&labels).set(at);
        }
        if let Some(count) = source.polls {
            polls.get_or_create(&labels).inc_by(count);
        }
    }
    registry.register("source_ready", "Whether a source can be read", ready);
    registry.register("source_pipelines", "Pipelines that a source shows", pipelines);
    let help = "When a repository last answered, in seconds since 1970";
    registry.register("source_answered_timestamp_seconds", help, answered);
    registry.register("source_polls", "How often a repository was polled", polls);
    let mut text = String::new();
    // Writing to a text never fails.
    let _ = encode(&mut text, &registry);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_open_metrics() {
        let source = SourceFigures { name: "a\"b".into(), ready: true, ..SourceFigures::default() };
        let figures = Figures {
            passes: 3,
            ended: vec![("Failed".into(), 2)],
            sources: vec![source],
            ..Figures::default()
        };
        let text = render(&figures);
        for line in [
            "jupyterflow_passes_total 3",
            "jupyterflow_runs_ended_total{phase=\"Failed\"} 2",
            "jupyterflow_source_ready{source=\"a\\\"b\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|one| one == line), "no {line} in\n{text}");
        }
    }
}
