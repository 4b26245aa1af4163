//! The loop: look, plan, apply. One code path for `plan`, `run`, `up` and what comes later.
//!
//! Owns the order of the steps and nothing of what they do: it sees ports only. A pass may be
//! killed after any line and repeated; `look` alone is `plan`.

mod apply;
mod backfill;
mod look;
mod request;

use std::collections::HashMap;

use crate::check::Checks;
use crate::engine::Engine;
use crate::plan::Limits;
use crate::source::{Source, SourceError};
use crate::store::{Store, StoreError, Watch};
use crate::types::{Digest, Period, PipelineId, RunName, Timestamp};

pub use apply::{Applied, apply, apply_part, end_if_stopped, refresh, start_what_is_next};
pub use backfill::{Backfilling, backfill};
pub use look::{Look, Seeing, SourceSeen, identity, is_settled, look};
pub use request::{Request, RequestError, check_parameters, request, suspend};

/// Everything outside that a pass touches.
pub struct World<'a> {
    /// Where pipeline files come from.
    pub source: &'a mut dyn Source,
    /// The durable memory.
    pub store: &'a mut dyn Store,
    /// What executes runs.
    pub engine: &'a mut dyn Engine,
    /// Whoever asks what checks ask.
    pub checks: &'a mut dyn Checks,
}

/// What of it is written to.
pub struct Acting<'a> {
    /// The durable memory.
    pub store: &'a mut dyn Store,
    /// What executes runs.
    pub engine: &'a mut dyn Engine,
}

impl World<'_> {
    fn acting(&mut self) -> Acting<'_> {
        Acting { store: self.store, engine: self.engine }
    }
}

/// What is remembered between passes; nothing of it is needed for a correct next one.
#[derive(Default)]
pub struct Memory {
    /// Since when each pipeline's digest stands still.
    still: HashMap<PipelineId, Still>,
    /// Leases of runs that another machine may host.
    leases: HashMap<RunName, Watch>,
    /// What the files of the last look are.
    files: look::KnownFiles,
}

/// What a pipeline was at the last look.
#[derive(Clone)]
struct Still {
    digest: Digest,
    /// What its cursor had accepted.
    accepted: Option<Digest>,
    since: Timestamp,
}

/// How a pass looks.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The source's name, part of every identity.
    pub source: String,
    /// When a change counts.
    pub settle: Settle,
    /// The most points that a sweep may have.
    pub max_points: usize,
    /// Only pipelines at or below this folder.
    pub below: String,
    /// The most runs that may be at work.
    pub limits: Limits,
    /// Whether first sight of a pipeline is recorded without a run.
    pub adopt: bool,
    /// Whether others may look at the same source, with older or newer eyes.
    pub shared: bool,
}

impl Scope {
    /// The most points of a definition that was good when it was stored.
    fn former_points(&self) -> usize {
        self.max_points.max(100)
    }
}

/// When a change counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Once the source stood still for so long.
    After(Period),
    /// Once two looks saw the same. The file system's own times are the first look where they are
    /// old enough.
    TwoLooks,
}

/// Why a pass failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
