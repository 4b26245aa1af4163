//! Where a process can be killed: before and after each call of a port that changes something.
//!
//! Owns the counting. What is killed leaves at once, with nothing more done.

use std::cell::RefCell;
use std::rc::Rc;

use crate::plan::Run;
use crate::store::{
    Commit, Lease, RunSpec, StepState, Store, StoreError, StoredPipeline, StoredRun,
};
use crate::types::{PipelineId, RunName};

/// A process that was killed, with the place at which it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Killed {
    /// `before commit`, `after start`.
    pub at: String,
}

/// Counts the places at which a process can be killed.
#[derive(Clone, Default)]
pub struct Fuse(Rc<RefCell<Option<u32>>>);

impl Fuse {
    /// Kills whoever comes to the place of this number, from 1.
    pub fn arm(&self, place: u32) {
        *self.0.borrow_mut() = Some(place);
    }

    /// Kills nobody.
    pub fn disarm(&self) {
        *self.0.borrow_mut() = None;
    }

    fn pass(&self, when: &str, what: &str) {
        let mut left = self.0.borrow_mut();
        let Some(count) = left.as_mut() else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            *left = None;
            drop(left);
            std::panic::resume_unwind(Box::new(Killed { at: format!("{when} {what}") }));
        }
    }

    /// A call with a place before and after it.
    pub fn call<T>(&self, what: &str, call: impl FnOnce() -> T) -> T {
        self.pass("before", what);
        let result = call();
        self.pass("after", what);
        result
    }
}

/// A store at whose writes a process can be killed.
pub struct Guarded<'a> {
    /// The store.
    pub store: &'a mut dyn Store,
    /// What kills.
    pub fuse: &'a Fuse,
}

impl Store for Guarded<'_> {
    fn pipelines(&self) -> Result<Vec<StoredPipeline>, StoreError> {
        self.store.pipelines()
    }

    fn runs_of(&self, pipeline: &PipelineId) -> Result<Vec<StoredRun>, StoreError> {
        self.store.runs_of(pipeline)
    }

    fn runs(&self, limit: usize) -> Result<Vec<StoredRun>, StoreError> {
        self.store.runs(limit)
    }

    fn busy_pipelines(&self) -> Result<Vec<PipelineId>, StoreError> {
        self.store.busy_pipelines()
    }

    fn is_in_place(&self) -> bool {
        self.store.is_in_place()
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn lease(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        self.store.lease(name)
    }

    fn hold(&mut self, name: &str, over: Option<i64>) -> Result<bool, StoreError> {
        self.fuse.call("hold", || self.store.hold(name, over))
    }

    fn release(&mut self, name: &str) -> Result<(), StoreError> {
        self.fuse.call("release", || self.store.release(name))
    }

    fn pulse(&self) -> Result<i64, StoreError> {
        self.store.pulse()
    }

    fn run(&self, name: &str) -> Result<Option<StoredRun>, StoreError> {
        self.store.run(name)
    }

    fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        self.fuse.call("commit", || self.store.commit(commit))
    }

    fn request(&mut self, run: &StoredRun, kept: &[StepState]) -> Result<(), StoreError> {
        self.fuse.call("request", || self.store.request(run, kept))
    }

    fn request_stop(&mut self, run: &RunName, by: Option<&RunName>) -> Result<(), StoreError> {
        self.fuse.call("request of a stop", || self.store.request_stop(run, by))
    }

    fn update_run(&mut self, run: &Run) -> Result<(), StoreError> {
        self.fuse.call("update of a run", || self.store.update_run(run))
    }

    fn update_spec(&mut self, run: &RunName, spec: &RunSpec) -> Result<(), StoreError> {
        self.fuse.call("update of a run", || self.store.update_spec(run, spec))
    }

    fn steps(&self, run: &RunName) -> Result<Vec<StepState>, StoreError> {
        self.store.steps(run)
    }

    fn update_steps(&mut self, run: &RunName, steps: &[&StepState]) -> Result<(), StoreError> {
        self.fuse.call("update of steps", || self.store.update_steps(run, steps))
    }

    fn forget(&mut self, runs: &[RunName]) -> Result<(), StoreError> {
        self.fuse.call("removal of records", || self.store.forget(runs))
    }
}
