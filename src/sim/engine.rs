//! Hosts of a simulated world, and the witness of what they executed.
//!
//! Owns who is at work on what. A host begins and ends when it is told to, and may be lost or out of
//! sight.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fuse::Fuse;
use super::source::Tree;
use crate::engine::{Engine, EngineError};
use crate::plan::{Observed, Phase};
use crate::spec::Pipeline;
use crate::store::StoredRun;
use crate::types::{PipelineId, RunName, Timestamp};

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its run.
    pub run: RunName,
    /// The execution that it began, by its place among all.
    pub execution: Option<usize>,
}

/// What was executed, as the steps themselves would witness.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The run.
    pub run: RunName,
    /// The files that it saw.
    pub tree: Arc<Tree>,
    /// When it began.
    pub began: Timestamp,
    /// How it ended; none while it is at work or where its host was lost.
    pub ended: Option<Phase>,
    /// Whether its host was lost.
    pub lost: bool,
}

/// Hosts.
pub struct SimulatedEngine {
    hosts: Vec<Host>,
    hidden: BTreeSet<RunName>,
    /// All that was executed, in order.
    pub executions: Vec<Execution>,
    /// What a person must provide before anything can start.
    pub lacks: Option<String>,
    /// Whether hosts execute what no record asks for, also beside one that is out of sight.
    pub heedless: bool,
    /// Why nothing can be started at all.
    pub refuses: Option<String>,
    fuse: Fuse,
}

impl SimulatedEngine {
    pub(super) fn new(fuse: Fuse) -> Self {
        Self {
            hosts: Vec::new(),
            hidden: BTreeSet::new(),
            executions: Vec::new(),
            lacks: None,
            heedless: false,
            refuses: None,
            fuse,
        }
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    fn at(&self, run: &RunName, busy: bool) -> Option<usize> {
        self.hosts.iter().position(|host| host.run == *run && host.execution.is_some() == busy)
    }

    pub(super) fn has_idle_host(&self, run: &RunName) -> bool {
        self.at(run, false).is_some()
    }

    pub(super) fn has_busy_host(&self, run: &RunName) -> bool {
        self.at(run, true).is_some()
    }

    pub(super) fn begins(&mut self, run: &RunName, tree: Arc<Tree>, now: Timestamp) -> bool {
        let Some(at) = self.at(run, false) else { return false };
        self.hosts[at].execution = Some(self.executions.len());
        let (run, lost) = (run.clone(), false);
        self.executions.push(Execution { run, tree, began: now, ended: None, lost });
        true
    }

    pub(super) fn leaves(&mut self, run: &RunName) {
        self.hosts.retain(|host| host.run != *run || host.execution.is_some());
    }

    pub(super) fn ends(&mut self, run: &RunName, phase: Phase) {
        let at = self.at(run, true).or_else(|| self.at(run, false));
        let Some(host) = at.map(|at| self.hosts.remove(at)) else { return };
        if let Some(execution) = host.execution {
            self.executions[execution].ended = Some(phase);
        }
    }

    /// A host is killed. Says whether there was one.
    pub fn lose(&mut self, run: &RunName) -> bool {
        let Some(at) = self.hosts.iter().position(|host| host.run == *run) else { return false };
        if let Some(execution) = self.hosts.remove(at).execution {
            self.executions[execution].lost = true;
        }
        true
    }

    /// Nobody can see any more whether a run has a host.
    pub fn hide(&mut self, run: &RunName) {
        self.hidden.insert(run.clone());
    }

    /// All hosts can be seen again.
    pub fn show_all(&mut self) {
        self.hidden.clear();
    }

    /// Whether a run has a host, as far as can be seen.
    pub fn look(&self, run: &RunName) -> Observed<()> {
        if self.hidden.contains(run) {
            return Observed::Unknown;
        }
        let there = self.hosts.iter().any(|host| host.run == *run);
        if there { Observed::Known(()) } else { Observed::Absent }
    }
}

impl Engine for SimulatedEngine {
    fn observe(&self, run: &StoredRun) -> Observed<()> {
        self.look(&run.run.name)
    }

    fn start(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        let run = &run.run.name;
        if let Some(message) = self.refuses.clone() {
            return Err(EngineError::new("start", run, message));
        }
        let fuse = self.fuse.clone();
        fuse.call("start", || {
            let there = self.hosts.iter().any(|host| host.run == *run);
            let seen = there && !(self.heedless && self.hidden.contains(run));
            if !seen {
                self.hosts.push(Host { run: run.clone(), execution: None });
            }
        });
        Ok(())
    }

    fn lacks(&self, _: &PipelineId, _: &Pipeline) -> Option<String> {
        self.lacks.clone()
    }

    fn stop(&mut self, _: &StoredRun) -> Result<(), EngineError> {
        let fuse = self.fuse.clone();
        fuse.call("stop", || ());
        Ok(())
    }
}
