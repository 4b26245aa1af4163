//! The plan: which runs should exist, which do, and what follows.
//!
//! Owns the decisions. Everything is a synchronous function over plain data with `now` as an
//! argument: no clock, no files, no engine. Whoever acts on a plan decides nothing.

mod action;
mod backfill;
mod change;
mod check;
mod history;
mod ledger;
mod limits;
mod moves;
mod observed;
mod planner;
mod rebuild;
mod report;
mod run;
mod stale;
mod ticks;
mod upstream;
mod want;

pub use action::{Action, Claim, PipelinePlan, Plan};
pub use backfill::{Backfill, backfill, range};
pub use check::{CheckSeen, Reply};
pub use history::prunable;
pub use ledger::{ChangeCursor, Covered, Ledger, ScheduleCursor, SkipRecord, Success};
pub use limits::{Asks, Limits, rooms};
pub use moves::{Vanished, moved_from};
pub use observed::{Definition, Observed, PipelineFacts, RunFact, Seen, settled_at};
pub use planner::plan;
pub use rebuild::rebuilt;
pub use report::{NotDone, Reason};
pub use run::{Artifact, Phase, Run, StepRecord, Trigger};
pub use ticks::{advance as advance_schedules, record as record_ticks};
pub use upstream::Upstream;
