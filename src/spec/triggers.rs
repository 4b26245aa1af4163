//! Why runs are wanted: the validated `triggers`.
//!
//! Owns reading that key. When a trigger fires is for the plan to say.

use super::shape::Report;
use super::yaml::{Kind, Node};
use crate::schedule::{Cron, MissedPolicy, Zone};
use crate::types::{Period, PipelineName, Timestamp};

/// What to do with missed ticks.
pub type Missed = MissedPolicy;

/// The validated triggers of a pipeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Triggers {
    /// A run for each accepted change.
    pub change: bool,
    /// Schedules, in the order of the file.
    pub schedules: Vec<Schedule>,
    /// The newest success may be this old.
    pub stale: Option<Stale>,
    /// A URL to ask.
    pub check: Option<Check>,
    /// Pipelines whose newer successes want a run.
    pub pipelines: Vec<PipelineName>,
    /// A run for the head of each open pull request.
    pub pull_request: bool,
}

impl Triggers {
    /// For people: `change, 0 3 * * mon`.
    pub fn words(&self) -> String {
        let named = |is: bool, word: &str| is.then(|| word.to_owned());
        let mut words: Vec<String> = named(self.change, "change").into_iter().collect();
        words.extend(self.schedules.iter().map(|one| one.cron.line().to_owned()));
        words.extend(named(self.stale.is_some(), "stale"));
        words.extend(named(self.check.is_some(), "check"));
        words.extend(named(!self.pipelines.is_empty(), "pipelines"));
        words.extend(named(self.pull_request, "pullRequest"));
        if words.is_empty() { "manual".into() } else { words.join(", ") }
    }
}

/// One schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// When.
    pub cron: Cron,
    /// What to do with ticks that were missed.
    pub missed: Missed,
    /// Later ticks are skipped.
    pub max_lateness: Option<Period>,
}

/// The stale trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// A successful run at most this old must exist.
    pub max_age: Period,
}

impl Stale {
    /// When a success of that instant is too old; none where no calendar holds that.
    pub fn due(&self, success: Timestamp) -> Option<Timestamp> {
        let age = jiff::SignedDuration::try_from(self.max_age.duration()).ok()?;
        success.checked_add(age).ok()
    }
}

/// The check trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub url: String,
    /// How often.
    pub every: Period,
    /// Parameters, each with the name in the reply that gives it.
    pub params: Vec<(String, String)>,
}

impl Check {
    /// The URL without user, password, query and fragment, which carry secrets.
    pub fn shown(&self) -> String {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{host}{path}")
    }
}

impl Triggers {
    /// Reads the checked node; without one, changes start runs.
    pub(super) fn read(node: Option<&Node>, report: &mut Report<'_>) -> Self {
        let Some(node) = node else { return Self { change: true, ..Self::default() } };
        let mut triggers = Self::default();
        match &node.kind {
            Kind::Text(_) | Kind::List(_) => {
                for word in node.one_or_many().iter().filter_map(Node::text) {
                    triggers.change |= word == "change";
                    triggers.pull_request |= word == "pullRequest";
                }
            }
            Kind::Map(_) => {
                triggers.change = node.get("change").is_some();
                triggers.pull_request = node.get("pullRequest").is_some();
                for node in node.get("schedule").map(Node::one_or_many).unwrap_or_default() {
                    triggers.schedules.extend(read_schedule(node, report));
                }
                triggers.schedules.shrink_to_fit();
                triggers.stale = node
                    .get("stale")
                    .and_then(|stale| Some(Stale { max_age: period(stale.get("maxAge"))? }));
                triggers.check = node.get("check").and_then(|check| read_check(check, report));
                for name in node.get("pipelines").map(Node::one_or_many).unwrap_or_default() {
                    triggers.pipelines.extend(name.text().and_then(|text| text.parse().ok()));
                }
            }
            Kind::Null | Kind::Boolean(_) | Kind::Number(_) => {}
        }
        let by_hand_only = matches!(&node.kind, Kind::List(items) if items.is_empty());
        if !triggers.change && !by_hand_only {
            report.warning(
                node.place,
                "triggers replace the default: without `change`, edits start no run",
            );
        }
        triggers
    }
}

fn period(node: Option<&Node>) -> Option<Period> {
    node?.text()?.parse().ok()
}

fn read_schedule(node: &Node, report: &mut Report<'_>) -> Option<Schedule> {
    let line = node.get("cron").unwrap_or(node);
    let zone_node = node.get("timezone");
    let zone = match zone_node.and_then(Node::text).map(Zone::named) {
        None => Zone::utc(),
        Some(Ok(zone)) => zone,
        Some(Err(message)) => {
            report.error(zone_node?.place, message);
            return None;
        }
    };
    let missed = match node.get("missed").and_then(Node::text) {
        Some("none") => Missed::None,
        Some("all") => Missed::All,
        _ => Missed::Last,
    };
    match Cron::parse(line.text()?, zone) {
        Ok(cron) => Some(Schedule { cron, missed, max_lateness: period(node.get("maxLateness")) }),
        Err(message) => {
            report.error(line.place, message);
            None
        }
    }
}

fn read_check(node: &Node, report: &mut Report<'_>) -> Option<Check> {
    let url = node.get("url")?;
    let text = url.text()?.to_owned();
    if !(text.starts_with("http://") || text.starts_with("https://")) {
        report.error(url.place, format!("{text:?} is no http or https URL"));
    }
    let params = node.get("params").map(Node::entries).unwrap_or_default();
    Some(Check {
        url: text,
        every: period(node.get("every")).unwrap_or(Period::from_seconds(300)),
        params: params
            .iter()
            .filter_map(|(key, value)| Some((key.text.clone(), value.text()?.to_owned())))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        for (url, shown) in [
            ("http://user:pass@word@h:1/a@b?token=x#y", "http://h:1/a@b"),
            ("https://diff.ml", "https://diff.ml"),
            ("http://h?x=/@", "http://h"),
        ] {
            let every = Period::from_seconds(1);
            let check = Check { url: url.into(), every, params: Vec::new() };
            assert_eq!(check.shown(), shown);
        }
    }
}
