//! An API server in memory, as far as the store of a cluster asks one: versions, conflicts, a status of its
//! own, and views of it that are older than it is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use jupyterflow::controller::objects::{Key, Objects, Refused};
use jupyterflow::controller::resources::{NotebookPipeline, NotebookRun};
use jupyterflow::sim::Fuse;

use crate::handles::Pause;
use kube::Resource;
use kube::api::ObjectMeta;

/// What the server holds.
#[derive(Default)]
struct Held {
    version: i64,
    pipelines: BTreeMap<Key, Arc<NotebookPipeline>>,
    runs: BTreeMap<Key, Arc<NotebookRun>>,
}

/// The server.
#[derive(Clone, Default)]
pub struct Server(Rc<RefCell<Held>>);

/// What one process knows of it.
#[derive(Clone)]
pub struct View(Rc<Known>);

/// The same, and where the process can be killed.
struct Known {
    server: Server,
    pipelines: RefCell<BTreeMap<Key, Arc<NotebookPipeline>>>,
    runs: RefCell<BTreeMap<Key, Arc<NotebookRun>>>,
    fuse: Fuse,
    /// Where it stands still.
    pause: Pause,
    pulse: Cell<i64>,
    /// Whether the watch tells what an answer says, and what came after it, before the answer is there.
    eager: Cell<bool>,
}

impl Server {
    /// A view that knows nothing yet.
    pub fn view(&self, fuse: Fuse, pause: Pause) -> View {
        let (pipelines, runs) = (RefCell::default(), RefCell::default());
        let (server, pulse) = (self.clone(), Cell::default());
        View(Rc::new(Known {
            server,
            pipelines,
            runs,
            fuse,
            pause,
            pulse,
            eager: Cell::new(false),
        }))
    }

    /// The names of all records.
    pub fn records(&self) -> Vec<String> {
        self.0.borrow().runs.keys().map(|key| key.name.clone()).collect()
    }
}

impl Server {
    /// A person annotates all pipelines.
    pub fn annotate(&self, name: &str, words: &str) {
        let mut held = self.0.borrow_mut();
        let held = &mut *held;
        for pipeline in held.pipelines.values_mut() {
            held.version += 1;
            let anew = Arc::make_mut(pipeline);
            let all = anew.metadata.annotations.get_or_insert_default();
            all.insert(name.to_owned(), words.to_owned());
            anew.metadata.resource_version = Some(held.version.to_string());
        }
    }

    /// All objects come back from a backup, which knows no status, with versions of another server; the
    /// pipelines only where their source makes them again itself.
    pub fn restore(&self, pipelines: bool) {
        let mut held = self.0.borrow_mut();
        let held = &mut *held;
        held.version += 1_000;
        if !pipelines {
            held.pipelines.clear();
        }
        for pipeline in held.pipelines.values_mut() {
            held.version += 1;
            let anew = Arc::make_mut(pipeline);
            anew.status = None;
            anew.metadata.resource_version = Some(held.version.to_string());
        }
        for run in held.runs.values_mut() {
            held.version += 1;
            let anew = Arc::make_mut(run);
            anew.status = None;
            anew.metadata.resource_version = Some(held.version.to_string());
        }
    }
}

fn key(metadata: &ObjectMeta) -> Key {
    Key { namespace: metadata.namespace.clone().unwrap(), name: metadata.name.clone().unwrap() }
}

/// Writes an object where it is as it was read.
fn written<K: Resource + Clone>(
    held: &mut BTreeMap<Key, Arc<K>>,
    next: &mut i64,
    wanted: &K,
    write: impl FnOnce(&mut K),
) -> Result<Arc<K>, Refused> {
    let there = held.get_mut(&key(wanted.meta())).ok_or(Refused::Gone)?;
    let expected = wanted.meta().resource_version.as_ref();
    if expected.is_some() && expected != there.meta().resource_version.as_ref() {
        return Err(Refused::Conflict);
    }
    *next += 1;
    let mut anew = K::clone(there);
    write(&mut anew);
    let (uid, version) = (there.meta().uid.clone(), Some(next.to_string()));
    let metadata = anew.meta_mut();
    (metadata.uid, metadata.resource_version) = (uid, version);
    *there = Arc::new(anew);
    Ok(Arc::clone(there))
}

fn created<K: Resource + Clone>(
    held: &mut BTreeMap<Key, Arc<K>>,
    next: &mut i64,
    made: &K,
) -> Result<Arc<K>, Refused> {
    let key = key(made.meta());
    if held.contains_key(&key) {
        return Err(Refused::Exists);
    }
    *next += 1;
    let mut made = made.clone();
    let metadata = made.meta_mut();
    metadata.uid = Some(format!("uid-{next}"));
    metadata.resource_version = Some(next.to_string());
    let made = Arc::new(made);
    held.insert(key, Arc::clone(&made));
    Ok(made)
}

/// Takes an answer, where nothing newer is known.
fn take<K: Resource>(known: &mut BTreeMap<Key, Arc<K>>, answer: &Arc<K>) {
    let version =
        |object: &K| -> Option<i64> { object.meta().resource_version.as_ref()?.parse().ok() };
    let key = key(answer.meta());
    if known.get(&key).is_none_or(|there| version(there) < version(answer)) {
        known.insert(key, Arc::clone(answer));
    }
}

impl View {
    /// The watch delivers all that happened.
    pub fn sync(&self) {
        let held = self.0.server.0.borrow();
        self.0.pipelines.borrow_mut().clone_from(&held.pipelines);
        self.0.runs.borrow_mut().clone_from(&held.runs);
        self.0.pulse.set(held.version);
    }

    /// The watch of pipelines delivers all that happened; that of runs is behind.
    pub fn sync_pipelines(&self) {
        let held = self.0.server.0.borrow();
        self.0.pipelines.borrow_mut().clone_from(&held.pipelines);
    }

    /// From now on its watch is faster than any answer.
    pub fn hurry(&self) {
        self.0.eager.set(true);
    }

    fn ask<T>(&self, what: &str, call: impl FnOnce(&mut Held) -> T) -> T {
        self.0.pause.call();
        let answer = self.0.fuse.call(what, || call(&mut self.0.server.0.borrow_mut()));
        // An answer takes its time too.
        self.0.pause.call();
        if self.0.eager.get() {
            self.sync();
        }
        answer
    }

    fn of_pipeline(
        &self,
        answer: Result<Arc<NotebookPipeline>, Refused>,
    ) -> Result<Arc<NotebookPipeline>, Refused> {
        let answer = answer?;
        take(&mut self.0.pipelines.borrow_mut(), &answer);
        Ok(answer)
    }

    fn of_run(
        &self,
        answer: Result<Arc<NotebookRun>, Refused>,
    ) -> Result<Arc<NotebookRun>, Refused> {
        let answer = answer?;
        take(&mut self.0.runs.borrow_mut(), &answer);
        Ok(answer)
    }
}

impl Objects for View {
    fn pipelines(&self) -> Vec<Arc<NotebookPipeline>> {
        self.0.pipelines.borrow().values().cloned().collect()
    }

    fn pipeline(&self, key: &Key) -> Option<Arc<NotebookPipeline>> {
        self.0.pipelines.borrow().get(key).cloned()
    }

    fn runs_of(&self, pipeline: &Key) -> Vec<Arc<NotebookRun>> {
        let runs = self.0.runs.borrow();
        let own = runs.iter().filter(|(key, run)| {
            key.namespace == pipeline.namespace && run.spec.pipeline == pipeline.name
        });
        own.map(|(_, run)| Arc::clone(run)).collect()
    }

    fn runs_named(&self, name: &str) -> Vec<Arc<NotebookRun>> {
        let runs = self.0.runs.borrow();
        runs.iter().filter(|(key, _)| key.name == name).map(|(_, run)| Arc::clone(run)).collect()
    }

    fn runs(&self) -> Vec<Arc<NotebookRun>> {
        self.0.runs.borrow().values().cloned().collect()
    }

    fn pulse(&self) -> i64 {
        self.0.pulse.get()
    }

    fn read_pipeline(&self, key: &Key) -> Result<Option<Arc<NotebookPipeline>>, Refused> {
        let there = self.ask("read of a pipeline", |held| held.pipelines.get(key).cloned());
        let Some(there) = there else {
            self.0.pipelines.borrow_mut().remove(key);
            return Ok(None);
        };
        self.of_pipeline(Ok(there)).map(Some)
    }

    fn create_pipeline(&self, made: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused> {
        self.of_pipeline(self.ask("creation of a pipeline", |held| {
            created(&mut held.pipelines, &mut held.version, made)
        }))
    }

    fn apply_pipeline(&self, wanted: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused> {
        self.of_pipeline(self.ask("write of a pipeline", |held| {
            written(&mut held.pipelines, &mut held.version, wanted, |there| {
                there.spec.clone_from(&wanted.spec);
                there.metadata.annotations.clone_from(&wanted.metadata.annotations);
            })
        }))
    }

    fn write_pipeline(&self, wanted: &NotebookPipeline) -> Result<Arc<NotebookPipeline>, Refused> {
        self.of_pipeline(self.ask("write of cursors", |held| {
            written(&mut held.pipelines, &mut held.version, wanted, |there| {
                there.status.clone_from(&wanted.status);
            })
        }))
    }

    fn clear_annotation(&self, of: &NotebookPipeline, name: &str) -> Result<(), Refused> {
        let answer = self.of_pipeline(self.ask("write of an annotation", |held| {
            written(&mut held.pipelines, &mut held.version, of, |there| {
                there.metadata.annotations.iter_mut().for_each(|all| {
                    all.remove(name);
                });
            })
        }));
        answer.map(|_| ())
    }

    fn read_run(&self, key: &Key) -> Result<Option<Arc<NotebookRun>>, Refused> {
        let there = self.ask("read of a run", |held| held.runs.get(key).cloned());
        let Some(there) = there else {
            self.0.runs.borrow_mut().remove(key);
            return Ok(None);
        };
        self.of_run(Ok(there)).map(Some)
    }

    fn create_run(&self, made: &NotebookRun) -> Result<Arc<NotebookRun>, Refused> {
        self.of_run(
            self.ask("creation of a run", |held| created(&mut held.runs, &mut held.version, made)),
        )
    }

    fn replace_run(&self, wanted: &NotebookRun) -> Result<Arc<NotebookRun>, Refused> {
        self.of_run(self.ask("write of a run", |held| {
            written(&mut held.runs, &mut held.version, wanted, |there| {
                there.spec.clone_from(&wanted.spec);
                there.metadata.annotations.clone_from(&wanted.metadata.annotations);
            })
        }))
    }

    fn write_run(&self, wanted: &NotebookRun) -> Result<Arc<NotebookRun>, Refused> {
        self.of_run(self.ask("write of an end", |held| {
            written(&mut held.runs, &mut held.version, wanted, |there| {
                there.status.clone_from(&wanted.status);
            })
        }))
    }

    fn delete_run(&self, run: &NotebookRun) -> Result<(), Refused> {
        let key = key(&run.metadata);
        let gone = self.ask("removal of a run", |held| {
            let there = held.runs.get(&key).ok_or(Refused::Gone)?;
            let same = there.metadata.resource_version == run.metadata.resource_version;
            if !same || there.metadata.uid != run.metadata.uid {
                return Err(Refused::Conflict);
            }
            held.runs.remove(&key);
            Ok(())
        });
        if gone.is_ok() {
            self.0.runs.borrow_mut().remove(&key);
        }
        gone
    }
}
