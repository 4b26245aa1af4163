//! The engines of a session: each run goes to the one that its record names.
//!
//! Owns that choice, and connects to a cluster once the first run asks for one.

use std::cell::OnceCell;
use std::path::PathBuf;

use super::cluster::Cluster;
use super::error::CliError;
use super::print;
use crate::engine::argo::ArgoEngine;
use crate::engine::local::LocalEngine;
use crate::engine::{Engine, EngineError, Report};
use crate::plan::Observed;
use crate::spec::Pipeline;
use crate::store::{EngineName, StoredRun};
use crate::types::{PipelineId, Timestamp};

/// Both engines.
pub struct Engines {
    local: LocalEngine,
    argo: OnceCell<ArgoEngine>,
    chosen: EngineName,
    root: PathBuf,
    parallelism: Option<usize>,
}

impl Engines {
    /// Engines of a root; new runs are for the local one.
    pub fn new(local: LocalEngine, root: PathBuf, parallelism: Option<usize>) -> Self {
        let chosen = EngineName::Local;
        Self { local, argo: OnceCell::new(), chosen, root, parallelism }
    }

    /// Sends new runs to a cluster.
    ///
    /// # Errors
    /// It cannot be reached, or cannot run what lies here.
    pub fn choose_argo(&mut self) -> Result<(), CliError> {
        let cluster = Cluster::connect()?;
        let site = cluster.site(&self.root, self.parallelism)?;
        let left = site.environment.left_behind.join(", ");
        if !left.is_empty() {
            print::talk(&format!(
                "warning: {left} of your server's pod stays behind: it looks like a secret, and a Workflow \
                 is read by many; take it from a Secret, with `secrets:`"
            ));
        }
        let _ = self.argo.set(cluster.engine(Ok(site)));
        self.chosen = EngineName::Argo;
        Ok(())
    }

    /// Ends what executes a run at once.
    pub fn kill(&mut self, run: &StoredRun) {
        match run.spec.engine {
            EngineName::Local => self.local.kill(&run.run.name),
            EngineName::Argo => {
                let _ = self.stop(run);
            }
        }
    }

    fn argo(&self) -> Result<&ArgoEngine, String> {
        if let Some(engine) = self.argo.get() {
            return Ok(engine);
        }
        let cluster = Cluster::connect().map_err(|error| error.message())?;
        let site = cluster.site(&self.root, self.parallelism);
        Ok(self.argo.get_or_init(|| cluster.engine(site)))
    }

    fn of(&mut self, run: &StoredRun, what: &'static str) -> Result<&mut dyn Engine, EngineError> {
        if run.spec.engine == EngineName::Local {
            return Ok(&mut self.local);
        }
        let failed = |message: String| EngineError::new(what, &run.run.name, message);
        self.argo().map_err(failed)?;
        match self.argo.get_mut() {
            Some(engine) => Ok(engine),
            None => Err(failed("no cluster is known".into())),
        }
    }
}

impl Engine for Engines {
    fn name(&self) -> EngineName {
        self.chosen
    }

    fn observe(&self, run: &StoredRun) -> Observed<()> {
        match run.spec.engine {
            EngineName::Local => self.local.observe(run),
            EngineName::Argo => self.argo().map_or(Observed::Unknown, |engine| engine.observe(run)),
        }
    }

    fn took_up(&self, run: &StoredRun) -> bool {
        match run.spec.engine {
            EngineName::Local => self.local.took_up(run),
            EngineName::Argo => self.argo().is_ok_and(|engine| engine.took_up(run)),
        }
    }

    fn prepare(&mut self, run: &StoredRun) -> Result<Option<String>, EngineError> {
        self.of(run, "start")?.prepare(run)
    }

    fn start(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        self.of(run, "start")?.start(run)
    }

    fn lacks(&self, id: &PipelineId, pipeline: &Pipeline) -> Option<String> {
        match self.chosen {
            EngineName::Local => self.local.lacks(id, pipeline),
            // Secrets are the cluster's, and nobody but it may read them.
            EngineName::Argo => None,
        }
    }

    fn stop(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        self.of(run, "stop")?.stop(run)
    }

    fn report(&self, run: &StoredRun, now: Timestamp) -> Result<Report, EngineError> {
        if run.spec.engine == EngineName::Local {
            return self.local.report(run, now);
        }
        let name = run.run.name.clone();
        let failed = |message| EngineError::new("read", &name, message);
        self.argo().map_err(failed)?.report(run, now)
    }
}
