//! Pipelines that are published rather than found: by `up` in a user's own server, whose home nobody else can
//! mount, or by hand.
//!
//! Owns what is said of their files, and the source that such objects are. Whoever publishes has waited until
//! the files stood still.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Runtime;

use super::kubernetes::ask;
use super::objects::{Key, Objects};
use super::records::{self, PUBLISHED};
use super::resources::NotebookPipeline;
use crate::source::{PipelineFile, Snapshot, Source, SourceError};
use crate::spec::fingerprint::Files;
use crate::spec::{Pipeline, RelativePath};
use crate::store::FileText;
use crate::types::{Digest, PipelineId, Timestamp};

/// What whoever published a pipeline saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Publication {
    /// The source's root, as the user's server sees it.
    pub root: String,
    /// The object that keeps the user's environment.
    pub environment: String,
    /// The files that the pipeline names.
    pub files: Files,
    /// When the newest of them was written.
    pub newest: Option<Timestamp>,
    /// Whether its file is gone.
    pub gone: bool,
}

/// What was published of a pipeline; nothing of one that people made by hand.
pub fn of(object: &NotebookPipeline) -> Option<Publication> {
    serde_json::from_str(object.annotations().get(PUBLISHED)?).ok()
}

/// The sources of which pipelines are published, or made by hand.
pub fn sources(objects: &impl Objects) -> Vec<String> {
    let all = objects.pipelines();
    let own = all.iter().filter(|object| !records::is_written_here(object));
    let named = own.filter_map(|object| Some(records::identity(object)?.source));
    // No name of a NotebookSource's begins so.
    let own = |name: &String| name.contains("/~") || name.ends_with("/-");
    let mut names: Vec<String> = named.filter(own).collect();
    names.sort();
    names.dedup();
    names
}

/// The pipelines of one of them.
pub struct PublishedSource<O> {
    objects: O,
    name: String,
    max_points: usize,
}

impl<O: Objects> PublishedSource<O> {
    /// The pipelines of a source by its name.
    pub fn new(objects: O, name: &str, max_points: usize) -> Self {
        Self { objects, name: name.to_owned(), max_points }
    }

    fn file(&self, object: &NotebookPipeline) -> Option<PipelineFile> {
        let published = of(object).unwrap_or_default();
        let text = records::file_of(object).filter(|_| !published.gone)?;
        let id = records::identity(object)?;
        let mut file = PipelineFile::new(&text.file, &text.folder);
        file.documents = crate::spec::parse(&text.text, &text.file, &text.folder, self.max_points);
        // Each of several pipelines of a file has an object of its own.
        file.documents.pipelines.retain(|pipeline| *pipeline.name() == id.name);
        let object =
            |_: &str, path: &RelativePath| published.files.get(path.as_str())?.manifest.as_ref();
        let whole = |pipeline: Pipeline| pipeline.with_manifests(object);
        let pipelines = std::mem::take(&mut file.documents.pipelines);
        file.documents.pipelines = pipelines.into_iter().map(whole).collect();
        file.text = Some(text.text);
        file.files = published.files;
        file.newest = published.newest;
        Some(file)
    }
}

impl<O: Objects> Source for PublishedSource<O> {
    fn look(&mut self, _: Timestamp) -> Result<Snapshot, SourceError> {
        let all = self.objects.pipelines();
        let own = all.iter().filter(|object| {
            !records::is_written_here(object)
                && records::identity(object).is_some_and(|id| id.source == self.name)
        });
        let mut files: Vec<_> = own.filter_map(|object| self.file(object)).map(Arc::new).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Snapshot { files, ..Snapshot::default() })
    }

    fn may_have_changed(&mut self) -> bool {
        // A watch tells.
        false
    }

    fn digest(&mut self, _: &str) -> Option<Digest> {
        None
    }

    fn named_files(&mut self, _: &Pipeline, file: &str, _: Timestamp) -> PipelineFile {
        PipelineFile::new(file, "")
    }
}

/// Publishes pipelines of one user in one namespace.
pub struct Publisher {
    runtime: Arc<Runtime>,
    client: Client,
    namespace: String,
    source: String,
    known: BTreeMap<String, (FileText, Publication)>,
}

/// The name of the source of a user's own server, from the object that keeps its environment.
pub fn source_of(namespace: &str, environment: &str) -> String {
    format!("{namespace}/~{environment}")
}

impl Publisher {
    /// A publisher that knows what was published before.
    ///
    /// # Errors
    /// In words: the server refuses.
    pub fn new(
        runtime: Arc<Runtime>,
        client: Client,
        namespace: &str,
        environment: &str,
    ) -> Result<Self, String> {
        let source = source_of(namespace, environment);
        let api: Api<NotebookPipeline> = Api::namespaced(client.clone(), namespace);
        let listed = ask(&runtime, api.list(&ListParams::default()));
        let listed = listed.map_err(|refused| format!("failed to list pipelines: {refused}"))?;
        let own = listed
            .items
            .iter()
            .filter(|object| records::identity(object).is_some_and(|id| id.source == source));
        let known = own.filter_map(|object| {
            Some((object.name_any(), (records::file_of(object)?, of(object)?)))
        });
        let known = known.collect();
        Ok(Self { runtime, client, namespace: namespace.to_owned(), source, known })
    }

    /// The source's name, part of every identity.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Publishes what stands still now: what is not as it was published, and that what is not among it is
    /// gone. Says which, and of each what stands in its way.
    pub fn publish(
        &mut self,
        shown: Vec<(PipelineId, FileText, Publication)>,
        unknown: impl Fn(&str) -> bool,
    ) -> Vec<Result<String, String>> {
        let mut done = Vec::new();
        let mut there = Vec::new();
        for (id, file, publication) in shown {
            let name = records::object_name(&id);
            there.push(name.clone());
            let wanted = (file, publication);
            if self.known.get(&name) != Some(&wanted) {
                let written = self.write(&name, &id, &wanted);
                if written.is_ok() {
                    self.known.insert(name, wanted);
                }
                done.push(written.map(|()| id.to_string()));
            }
        }
        let gone = self.known.iter().filter(|(name, (file, publication))| {
            !there.contains(name) && !publication.gone && !unknown(&file.folder)
        });
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            done.push(self.withdraw(&name).map(|()| format!("{name} (gone)")));
        }
        done
    }

    fn withdraw(&mut self, name: &str) -> Result<(), String> {
        let Some((_, publication)) = self.known.get(name) else { return Ok(()) };
        let gone = Publication { gone: true, ..publication.clone() };
        let text = serde_json::to_string(&gone).map_err(|error| error.to_string())?;
        let patch = json!({"metadata": {"annotations": {PUBLISHED: text}}});
        self.patch(name, &PatchParams::default(), &Patch::Merge(patch))?;
        if let Some((_, publication)) = self.known.get_mut(name) {
            *publication = gone;
        }
        Ok(())
    }

    fn write(
        &self,
        name: &str,
        id: &PipelineId,
        (file, publication): &(FileText, Publication),
    ) -> Result<(), String> {
        let key = Key { namespace: self.namespace.clone(), name: name.to_owned() };
        if !self.known.contains_key(name) {
            let api: Api<NotebookPipeline> = Api::namespaced(self.client.clone(), &self.namespace);
            let there = ask(&self.runtime, api.get_opt(name));
            let there = there.map_err(|refused| format!("failed to read {key}: {refused}"))?;
            if there.is_some_and(|there| records::identity(&there).as_ref() != Some(id)) {
                return Err(format!("NameTaken: {key} is another pipeline's"));
            }
        }
        let mut object = records::pipeline(&key, id, file)?;
        let text = serde_json::to_string(publication).map_err(|error| error.to_string())?;
        let annotations = object.annotations_mut();
        annotations.insert(PUBLISHED.into(), text);
        if annotations.values().map(String::len).sum::<usize>() > 250 << 10 {
            let message =
                "its file and its notebooks are longer than an object of a cluster can be";
            return Err(format!("pipeline {id}: {message}"));
        }
        self.patch(name, &PatchParams::apply("jupyterflow-up").force(), &Patch::Apply(&object))
    }

    fn patch<P: Serialize + std::fmt::Debug>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<(), String> {
        let api: Api<NotebookPipeline> = Api::namespaced(self.client.clone(), &self.namespace);
        let asked = ask(&self.runtime, api.patch(name, parameters, patch));
        asked.map(|_| ()).map_err(|refused| format!("failed to publish pipeline {name}: {refused}"))
    }
}
