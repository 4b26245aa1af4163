//! The files of a run when it begins, and while it goes.
//!
//! Owns taking copies of notebooks that are whole and of one moment, and finding files that moved on.
//! What follows from that is for the engine to say.

#![expect(clippy::disallowed_methods, reason = "waits until files are whole")]

use std::time::{Duration, Instant};

use crate::plan::Reason;
use crate::source::Source;
use crate::spec::{Fingerprint, Pipeline, RelativePath, Work};
use crate::types::{Digest, Timestamp};

/// How long files that are being written may take to be whole before a run begins.
const WHOLE_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(200);

/// What copies a notebook: its digest, or why it cannot be read.
type Copy<'a, E> = dyn Fn(&str) -> Result<Result<Digest, String>, E> + 'a;

/// Copies the notebooks of a run and says what its files are. `copy` copies one and gives its digest,
/// or says why it cannot be read. The inner error says what is not whole.
///
/// # Errors
/// Whatever `copy` fails with.
pub fn take<E>(
    pipeline: &Pipeline,
    file: &str,
    source: &mut dyn Source,
    copy: &Copy<'_, E>,
) -> Result<Result<Fingerprint, String>, E> {
    let patience = Instant::now() + WHOLE_WITHIN;
    loop {
        let mut torn = None;
        let mut copies = Vec::new();
        for step in pipeline.steps() {
            let Work::Notebook(path) = step.work() else { continue };
            match copy(path.as_str())? {
                Ok(digest) => copies.push((path.as_str(), digest)),
                Err(message) => torn = torn.or(Some(message)),
            }
        }
        let named = source.named_files(pipeline, file, Timestamp::now());
        let same = |(path, digest): &(&str, Digest)| {
            named.files.get(*path).is_some_and(|state| state.digest == *digest)
        };
        if let Some((path, why)) = named.broken.first() {
            torn = torn.or_else(|| Some(format!("{path}: {why}")));
        } else if !copies.iter().all(same) {
            torn = torn.or_else(|| Some("the notebooks are being written".into()));
        }
        match torn {
            None => return Ok(Ok(Fingerprint::new(pipeline, &named.files))),
            Some(message) if Instant::now() > patience => return Ok(Err(message)),
            Some(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Files of a step that are no longer what its run recorded, in words; they are used as they stand.
pub fn moved_files(
    source: &mut dyn Source,
    pipeline: &Pipeline,
    recorded: &Fingerprint,
    step: &str,
) -> Option<String> {
    let files = recorded.files_of_step(step).into_iter();
    let moved = files.filter_map(|(path, digest)| {
        let full = RelativePath::resolve(pipeline.folder(), &path).ok()?;
        let present = source.digest(full.as_str());
        (present.as_ref() != Some(&digest)).then(|| {
            let present = present.map_or_else(|| "gone".into(), |digest| digest.to_string());
            format!("{path} is now {present}")
        })
    });
    let moved: Vec<String> = moved.collect();
    let reason = Reason::SourceChanged;
    (!moved.is_empty()).then(|| format!("{reason}: {}", moved.join(", ")))
}
