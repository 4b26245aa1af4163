//! What a look works out of files and the next one need not work out again.
//!
//! Owns digests of files that stand as they stood: a source shows the same file, not an equal one, as long as
//! nothing of it changed. Nothing here is needed for a correct look.

use std::collections::HashMap;
use std::sync::Arc;

use crate::source::PipelineFile;
use crate::spec::{Fingerprint, Pipeline};
use crate::types::{Digest, PipelineName};

/// What is known of the files of the last look, by path.
#[derive(Default)]
pub struct KnownFiles {
    now: HashMap<String, Known>,
    /// Of the look before, as far as it was not asked for yet.
    before: HashMap<String, Known>,
}

struct Known {
    /// Which file: it is kept, so that no other can be at its place.
    file: Arc<PipelineFile>,
    digest: Digest,
    pipelines: Vec<(PipelineName, Arc<Fingerprint>)>,
}

impl KnownFiles {
    /// Begins a look: what it does not ask for is forgotten with the next.
    pub fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    fn of(&mut self, file: &Arc<PipelineFile>) -> &mut Known {
        let before = &mut self.before;
        let known = self.now.entry(file.path.clone()).or_insert_with(|| {
            let same = before.remove(&file.path).filter(|known| Arc::ptr_eq(&known.file, file));
            same.unwrap_or_else(|| Known::new(file))
        });
        if !Arc::ptr_eq(&known.file, file) {
            *known = Known::new(file);
        }
        known
    }

    /// The digest of a file with all that it names.
    pub fn digest(&mut self, file: &Arc<PipelineFile>) -> Digest {
        self.of(file).digest.clone()
    }

    /// The fingerprint of one of its pipelines. One that was accepted is the same, and kept once.
    pub fn fingerprint(
        &mut self,
        file: &Arc<PipelineFile>,
        pipeline: &Pipeline,
        accepted: Option<&Arc<Fingerprint>>,
    ) -> Arc<Fingerprint> {
        let known = self.of(file);
        let at = known.pipelines.iter().position(|(name, _)| name == pipeline.name());
        let at = at.unwrap_or_else(|| {
            let own = Arc::new(Fingerprint::new(pipeline, &file.files));
            known.pipelines.push((pipeline.name().clone(), own));
            known.pipelines.len() - 1
        });
        let own = &mut known.pipelines[at].1;
        if let Some(accepted) = accepted.filter(|one| !Arc::ptr_eq(one, own) && **one == *own) {
            *own = Arc::clone(accepted);
        }
        Arc::clone(own)
    }
}

impl Known {
    fn new(file: &Arc<PipelineFile>) -> Self {
        let named = file.files.iter().map(|(path, state)| (path, &state.digest));
        let named: Vec<_> = named.collect();
        let all = serde_json::json!([file.path, file.text, named]);
        let digest = Digest::of_json("jupyterflow/file/v1", &all);
        Self { file: Arc::clone(file), digest, pipelines: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Arc<PipelineFile> {
        let mut file = PipelineFile::new("f/jupyterflow.yaml", "f");
        file.documents = crate::spec::parse(text, &file.path, &file.folder, 100);
        file.text = Some(text.to_owned());
        Arc::new(file)
    }

    #[test]
    fn only_the_same_file_is_known_and_what_is_accepted_is_kept_once() {
        let (one, other) = (file("steps: {a: {run: x}}"), file("steps: {a: {run: y}}"));
        let pipeline = |file: &Arc<PipelineFile>| file.documents.pipelines[0].clone();
        let mut known = KnownFiles::default();
        known.begin();
        let first = known.fingerprint(&one, &pipeline(&one), None);
        known.begin();
        assert!(Arc::ptr_eq(&first, &known.fingerprint(&one, &pipeline(&one), None)));
        let accepted = Arc::new((*first).clone());
        let shared = known.fingerprint(&one, &pipeline(&one), Some(&accepted));
        assert!(Arc::ptr_eq(&shared, &accepted));
        let digest = known.digest(&one);
        // Another file at the same path, also within one look.
        let changed = known.fingerprint(&other, &pipeline(&other), Some(&accepted));
        assert_ne!(changed.digest, first.digest);
        assert_ne!(known.digest(&other), digest);
        // What two looks did not ask for is forgotten.
        known.begin();
        known.begin();
        assert!(known.now.is_empty() && known.before.is_empty());
    }
}
