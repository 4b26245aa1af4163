//! What a pass looks at: the source, the ledger, the runs, as plain data.
//!
//! Owns the words for what is known, unknown and absent.

use super::check::CheckSeen;
use super::ledger::Ledger;
use super::run::{Phase, Trigger};
use super::upstream::Upstream;
use crate::spec::{Concurrency, Fingerprint, Pipeline, Schedule};
use crate::types::{Period, PipelineId, RunName, Timestamp};

/// What was observed of a thing outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    /// It is certainly not there.
    Absent,
    /// It may be there or not: nobody could look. Never a reason to start anything.
    Unknown,
    /// It is there.
    Known(T),
}

/// All facts of one pipeline at one moment.
pub struct PipelineFacts<'a> {
    /// Which pipeline.
    pub id: &'a PipelineId,
    /// What its source shows.
    pub seen: Seen,
    /// The newest good definition: what the source shows now, else what it showed last.
    pub definition: Option<Definition<'a>>,
    /// What is answered.
    pub ledger: &'a Ledger,
    /// Its runs that have not ended, oldest first, and any later facts about ended ones.
    pub runs: &'a [RunFact],
    /// How long a source must stand still before a change counts.
    pub settle: Period,
    /// What a person must provide before anything can start, such as a secret.
    pub lacks: Option<&'a str>,
    /// Whether a cluster executes it: only there are images and objects.
    pub on_cluster: bool,
    /// What its check says; none where it has none.
    pub check: Option<&'a CheckSeen>,
    /// The pipelines that it waits for.
    pub upstreams: &'a [Upstream],
    /// How many runs may start.
    pub room: usize,
    /// Whether first sight is recorded without a run.
    pub adopt: bool,
    /// What happens beside a run at work, where no definition says so.
    pub policy: Concurrency,
}

impl<'a> PipelineFacts<'a> {
    /// Facts of a pipeline that waits for nothing and nobody.
    pub fn new(
        id: &'a PipelineId,
        seen: Seen,
        definition: Option<Definition<'a>>,
        ledger: &'a Ledger,
        runs: &'a [RunFact],
    ) -> Self {
        let settle = Period::from_seconds(0);
        Self {
            id,
            seen,
            definition,
            ledger,
            runs,
            settle,
            lacks: None,
            on_cluster: false,
            check: None,
            upstreams: &[],
            room: usize::MAX,
            adopt: false,
            policy: Concurrency::Queue,
        }
    }
}

/// What a source shows of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A valid definition.
    Good,
    /// A file that is no valid definition: the last good one stays in force.
    Invalid(String),
    /// The source, or a file that the pipeline names, cannot be read or is not whole.
    Unreadable(String),
    /// A readable source without this pipeline.
    Gone,
}

/// A definition with its files.
#[derive(Clone, Copy)]
pub struct Definition<'a> {
    /// The validated pipeline.
    pub pipeline: &'a Pipeline,
    /// What it is, down to the content of its files.
    pub fingerprint: &'a Fingerprint,
    /// The schedules in force: those of the file once it stands still, until then the former ones.
    pub schedules: &'a [Schedule],
    /// What the source shows.
    pub revision: &'a str,
    /// Since when the definition and its files stood still.
    pub still_since: Timestamp,
    /// When each changed input was written: the newest time, if known, of all given paths.
    pub inputs_written: Option<(Timestamp, Timestamp)>,
}

/// When something that stands still since an instant has done so for long enough.
pub fn settled_at(still_since: Timestamp, settle: Period) -> Timestamp {
    let settle = i64::try_from(settle.seconds()).unwrap_or(i64::MAX);
    still_since.checked_add(jiff::SignedDuration::from_secs(settle)).unwrap_or(Timestamp::MAX)
}

/// A run as the store and the engine know it.
#[derive(Clone, Debug)]
pub struct RunFact {
    /// Its name.
    pub name: RunName,
    /// Why it exists.
    pub trigger: Trigger,
    /// Where it stands by the record.
    pub phase: Phase,
    /// When its first step began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its place in the order in which runs ended.
    pub ended: Option<u64>,
    /// Whether its end is wanted, by a person or for a newer run.
    pub stop_requested: bool,
    /// Whether a person asked for it, so that nothing else takes its place.
    pub requested: bool,
    /// Whether a host is at work on it.
    pub host: Observed<()>,
}
