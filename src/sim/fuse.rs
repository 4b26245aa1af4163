//! Where a process can be killed: before and after each call of a port that changes something.
//!
//! Owns the counting. What is killed leaves at once, with nothing more done.

use std::cell::RefCell;
use std::rc::Rc;

use crate::plan::{Ledger, Run};
use crate::store::{
    Commit, Lease, RunSpec, Shown, StepState, Store, StoreError, StoredPipeline, StoredRun,
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

/// Whatever stands between the loop and a store, as far as it is not the store itself.
pub trait Between {
    /// The store.
    fn store(&self) -> &dyn Store;

    /// A call that changes something, with the word for it.
    fn write<T>(&mut self, what: &str, call: impl FnOnce(&mut dyn Store) -> T) -> T;

    /// All pipelines.
    fn pipelines(&self) -> Result<Vec<StoredPipeline>, StoreError> {
        self.store().pipelines()
    }

    /// Writes a pipeline and its claims.
    fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        self.write("commit", |store| store.commit(commit))
    }
}

/// A store with something in between.
pub struct Layer<B>(pub B);

impl<B: Between> Store for Layer<B> {
    fn pipelines(&self) -> Result<Vec<StoredPipeline>, StoreError> {
        self.0.pipelines()
    }

    fn runs_of(&self, pipeline: &PipelineId) -> Result<Vec<StoredRun>, StoreError> {
        self.0.store().runs_of(pipeline)
    }

    fn runs(&self, limit: usize) -> Result<Vec<StoredRun>, StoreError> {
        self.0.store().runs(limit)
    }

    fn busy_pipelines(&self) -> Result<Vec<PipelineId>, StoreError> {
        self.0.store().busy_pipelines()
    }

    fn is_in_place(&self) -> bool {
        self.0.store().is_in_place()
    }

    fn is_shared(&self) -> bool {
        self.0.store().is_shared()
    }

    fn lease(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        self.0.store().lease(name)
    }

    fn hold(&mut self, name: &str, over: Option<i64>) -> Result<bool, StoreError> {
        self.0.write("hold", |store| store.hold(name, over))
    }

    fn release(&mut self, name: &str) -> Result<(), StoreError> {
        self.0.write("release", |store| store.release(name))
    }

    fn pulse(&self) -> Result<i64, StoreError> {
        self.0.store().pulse()
    }

    fn run(&self, name: &str) -> Result<Option<StoredRun>, StoreError> {
        self.0.store().run(name)
    }

    fn announces(&self) -> bool {
        self.0.store().announces()
    }

    fn announce(&mut self, commit: &mut Commit<'_>) -> Result<Option<Ledger>, StoreError> {
        self.0.write("announcement", |store| store.announce(commit))
    }

    fn shows(&self, pipeline: &PipelineId, shown: &Shown) -> bool {
        self.0.store().shows(pipeline, shown)
    }

    fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        self.0.commit(commit)
    }

    fn update_stand(&mut self, run: &Run, steps: &[&StepState]) -> Result<(), StoreError> {
        self.0.write("update of a run", |store| store.update_stand(run, steps))
    }

    fn request(&mut self, run: &StoredRun) -> Result<(), StoreError> {
        self.0.write("request", |store| store.request(run))
    }

    fn request_stop(&mut self, run: &RunName, by: Option<&RunName>) -> Result<(), StoreError> {
        self.0.write("request of a stop", |store| store.request_stop(run, by))
    }

    fn update_run(&mut self, run: &Run) -> Result<(), StoreError> {
        self.0.write("update of a run", |store| store.update_run(run))
    }

    fn update_spec(&mut self, run: &Run, spec: &RunSpec) -> Result<bool, StoreError> {
        self.0.write("update of a run", |store| store.update_spec(run, spec))
    }

    fn steps(&self, run: &RunName) -> Result<Vec<StepState>, StoreError> {
        self.0.store().steps(run)
    }

    fn update_steps(&mut self, run: &RunName, steps: &[&StepState]) -> Result<(), StoreError> {
        self.0.write("update of steps", |store| store.update_steps(run, steps))
    }

    fn forget(&mut self, runs: &[RunName]) -> Result<(), StoreError> {
        self.0.write("removal of records", |store| store.forget(runs))
    }
}

/// What kills a process at its writes.
pub struct Guard<'a> {
    /// The store.
    pub store: &'a mut dyn Store,
    /// What kills.
    pub fuse: &'a Fuse,
}

impl Between for Guard<'_> {
    fn store(&self) -> &dyn Store {
        self.store
    }

    fn write<T>(&mut self, what: &str, call: impl FnOnce(&mut dyn Store) -> T) -> T {
        self.fuse.call(what, || call(self.store))
    }
}
