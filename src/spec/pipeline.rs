//! A validated pipeline. Only `validate` builds one, so whoever holds one need not check it again.
//!
//! Owns the types and the questions that they answer. It must not read YAML.

use std::sync::Arc;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;

use super::command::Script;
use super::deploy::Deployment;
use super::graph::Graph;
use super::path::RelativePath;
use super::triggers::Triggers;
use crate::types::{Period, PipelineName};

/// A validated pipeline. A copy shares what is large.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub(super) name: PipelineName,
    pub(super) default_name: bool,
    pub(super) folder: String,
    pub(super) description: Option<String>,
    pub(super) triggers: Arc<Triggers>,
    pub(super) concurrency: Concurrency,
    pub(super) params: IndexMap<String, Value>,
    pub(super) steps: Arc<Vec<Step>>,
    pub(super) graph: Arc<Graph>,
    pub(super) deployments: Vec<Deployment>,
    pub(super) timeout: Option<Period>,
    pub(super) history: History,
}

impl Pipeline {
    /// Its name.
    pub fn name(&self) -> &PipelineName {
        &self.name
    }

    /// Whether its name comes from its folder.
    pub fn has_default_name(&self) -> bool {
        self.default_name
    }

    /// The folder of its file, relative to the source's root; empty at the root.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Words for people.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Why runs are wanted.
    pub fn triggers(&self) -> &Triggers {
        &self.triggers
    }

    /// What happens while a run is active.
    pub fn concurrency(&self) -> Concurrency {
        self.concurrency
    }

    /// The pipeline's parameters.
    pub fn params(&self) -> &IndexMap<String, Value> {
        &self.params
    }

    /// The steps, in the order of the file.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// A step by name.
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// The graph of the steps, by their position.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Where accepted models are proposed.
    pub fn deployments(&self) -> &[Deployment] {
        &self.deployments
    }

    /// Duration of a whole run.
    pub fn timeout(&self) -> Option<Period> {
        self.timeout
    }

    /// How many ended runs are kept.
    pub fn history(&self) -> History {
        self.history
    }
}

/// What happens to a wanted run while another is active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Concurrency {
    /// It waits.
    #[default]
    Queue,
    /// It is skipped.
    Forbid,
    /// The active one is stopped.
    Replace,
    /// Both run.
    Allow,
}

/// How many ended runs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Successful ones.
    pub successful: u64,
    /// Others.
    pub failed: u64,
}

/// A validated step.
#[derive(Clone, Debug)]
pub struct Step {
    pub(super) name: String,
    pub(super) work: Work,
    pub(super) needs: Vec<String>,
    pub(super) params: IndexMap<String, Value>,
    pub(super) sweep: IndexMap<String, Vec<Value>>,
    pub(super) best: Option<Best>,
    pub(super) outputs: IndexMap<String, String>,
    pub(super) metrics: Option<String>,
    pub(super) inputs: Vec<RelativePath>,
    pub(super) kernel: Option<String>,
    pub(super) image: Option<String>,
    pub(super) requirements: Option<RelativePath>,
    pub(super) env: IndexMap<String, String>,
    pub(super) secrets: IndexMap<String, SecretKey>,
    pub(super) workdir: RelativePath,
    pub(super) explicit_workdir: bool,
    pub(super) resources: Resources,
    pub(super) timeout: Option<Period>,
    pub(super) retries: u64,
    pub(super) interruptions: u64,
    /// Line and column of what it executes, and of each of its parameters, for messages.
    pub(super) work_place: (u32, u32),
    pub(super) param_places: IndexMap<String, (u32, u32)>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Executes a notebook.
    Notebook(RelativePath),
    /// Runs shell text.
    Run {
        /// As written.
        text: String,
        /// Ready for the shell.
        script: Script,
    },
    /// Creates a Kubernetes object and waits for it.
    Resource(Resource),
}

/// A Kubernetes object that a step creates.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// The file that holds the object; none where the pipeline's own does.
    pub path: Option<RelativePath>,
    /// The object; null until its file is read.
    pub manifest: Value,
    /// Condition of success.
    pub success: Option<String>,
    /// Condition of failure.
    pub failure: Option<String>,
    /// Outputs and the JSON paths that give them.
    pub outputs: IndexMap<String, String>,
    /// Whether the object stays.
    pub keep: Keep,
}

/// Whether a resource step's object stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// It goes.
    #[default]
    Never,
    /// It stays after a failure.
    OnFailure,
    /// It stays.
    Always,
}

/// Which point of a sweep later steps see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// The metric that decides.
    pub metric: String,
    /// Which direction is better.
    pub goal: Goal,
    /// How many points may fail.
    pub allow_failed: u64,
}

/// Which direction is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// More.
    Max,
    /// Less.
    Min,
}

/// A key of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretKey {
    /// The secret.
    pub secret: String,
    /// The key within it.
    pub key: String,
}

/// What a step needs of a machine; not part of any digest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Processors, as written.
    pub cpu: Option<String>,
    /// Memory, as written.
    pub memory: Option<String>,
    /// Graphics processors.
    pub gpu: Option<u64>,
    /// Node labels.
    pub node_selector: IndexMap<String, String>,
    /// Tolerations.
    pub tolerations: Vec<Value>,
}

impl Pipeline {
    /// The same, with the objects of those steps whose manifests are files, by step and path.
    #[must_use]
    pub fn with_manifests<'a>(
        mut self,
        object: impl Fn(&str, &RelativePath) -> Option<&'a Value>,
    ) -> Self {
        let is_file = |step: &Step| matches!(&step.work, Work::Resource(one) if one.path.is_some());
        if !self.steps.iter().any(is_file) {
            return self;
        }
        for step in Arc::make_mut(&mut self.steps) {
            if let Work::Resource(resource) = &mut step.work
                && let Some(path) = &resource.path
                && let Some(manifest) = object(&step.name, path)
            {
                resource.manifest = manifest.clone();
            }
        }
        self
    }
}

impl Step {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// The steps that must succeed before, in the order of the file.
    pub fn needs(&self) -> &[String] {
        &self.needs
    }

    /// Its own parameters, with references unresolved.
    pub fn params(&self) -> &IndexMap<String, Value> {
        &self.params
    }

    /// The grid; empty without a sweep.
    pub fn sweep(&self) -> &IndexMap<String, Vec<Value>> {
        &self.sweep
    }

    /// Which point later steps see.
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// Declared files: names and paths relative to the pipeline file's folder.
    pub fn outputs(&self) -> &IndexMap<String, String> {
        &self.outputs
    }

    /// The file whose numbers are metrics.
    pub fn metrics(&self) -> Option<&str> {
        self.metrics.as_deref()
    }

    /// Patterns of further inputs, relative to the source's root.
    pub fn inputs(&self) -> &[RelativePath] {
        &self.inputs
    }

    /// The kernel that it demands.
    pub fn kernel(&self) -> Option<&str> {
        self.kernel.as_deref()
    }

    /// The image that it demands.
    pub fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Its requirements file.
    pub fn requirements(&self) -> Option<&RelativePath> {
        self.requirements.as_ref()
    }

    /// Environment variables, which may hold references.
    pub fn env(&self) -> &IndexMap<String, String> {
        &self.env
    }

    /// Environment variables from secrets.
    pub fn secrets(&self) -> &IndexMap<String, SecretKey> {
        &self.secrets
    }

    /// Its working directory, relative to the source's root.
    pub fn workdir(&self) -> &RelativePath {
        &self.workdir
    }

    /// What it needs of a machine.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Duration of one attempt.
    pub fn timeout(&self) -> Option<Period> {
        self.timeout
    }

    /// Further attempts after a failure.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// Further attempts after a lost process.
    pub fn interruptions(&self) -> u64 {
        self.interruptions
    }

    /// Script files that its shell text may name, relative to the source's root. Whether they
    /// exist is for the source to say.
    pub fn script_candidates(&self) -> Vec<RelativePath> {
        let Work::Run { text, .. } = &self.work else { return Vec::new() };
        super::command::script_words(text)
            .iter()
            .filter_map(|word| RelativePath::resolve(self.workdir.as_str(), word).ok())
            .collect()
    }

    /// The points of the sweep in file order, last key fastest; empty without a sweep.
    pub fn points(&self) -> Vec<IndexMap<String, Value>> {
        super::validate::points(&self.sweep)
    }
}
