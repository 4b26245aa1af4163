//! A source in a thread of its own: a volume that hangs holds up nobody but itself.
//!
//! Owns waiting for an answer, and giving up. While a question hangs no other is asked; what it brings
//! in the end is the next answer.

#![expect(clippy::disallowed_methods, reason = "says since when a source hangs")]

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::{PipelineFile, Snapshot, Source, SourceError};
use crate::spec::Pipeline;
use crate::types::{Digest, Timestamp};

type Work = Box<dyn FnOnce(&mut dyn Source) + Send>;

/// A source that answers within a time, or says that it does not.
pub struct Patient {
    work: Sender<Work>,
    /// Since when a question hangs, and what tells that it does so no more.
    hanging: Option<(Timestamp, Receiver<()>)>,
    root: String,
    patience: Duration,
}

impl Patient {
    /// Gives a source a thread. `root` is its name in errors.
    pub fn new(mut source: Box<dyn Source + Send>, root: String, patience: Duration) -> Self {
        let (work, jobs) = channel::<Work>();
        std::thread::spawn(move || {
            while let Ok(job) = jobs.recv() {
                job(source.as_mut());
            }
        });
        Self { work, hanging: None, root, patience }
    }

    fn ask<T: Send + 'static>(
        &mut self,
        question: impl FnOnce(&mut dyn Source) -> T + Send + 'static,
    ) -> Result<T, SourceError> {
        let failed = |message: String| SourceError { root: self.root.clone(), message };
        if let Some((since, over)) = &self.hanging {
            match over.recv_timeout(Duration::ZERO) {
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failed(format!("it has not answered since {since:.0}")));
                }
                Ok(()) | Err(RecvTimeoutError::Disconnected) => self.hanging = None,
            }
        }
        let (answer, answers) = channel();
        let (over, ends) = channel();
        let sent = self.work.send(Box::new(move |source| {
            let _ = answer.send(question(source));
            let _ = over.send(());
        }));
        if sent.is_err() {
            return Err(failed("whoever read it is gone: this is a bug".into()));
        }
        match answers.recv_timeout(self.patience) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.patience.as_secs();
                self.hanging = Some((Timestamp::now(), ends));
                Err(failed(format!("it did not answer within {seconds} s")))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(failed("whoever read it is gone: this is a bug".into()))
            }
        }
    }
}

impl Source for Patient {
    fn look(&mut self, now: Timestamp) -> Result<Snapshot, SourceError> {
        self.ask(move |source| source.look(now))?
    }

    fn may_have_changed(&mut self) -> bool {
        self.ask(|source| source.may_have_changed()).unwrap_or(true)
    }

    fn digest(&mut self, path: &str) -> Option<Digest> {
        let path = path.to_owned();
        self.ask(move |source| source.digest(&path)).ok()?
    }

    fn named_files(&mut self, pipeline: &Pipeline, file: &str, now: Timestamp) -> PipelineFile {
        let (own, name) = (pipeline.clone(), file.to_owned());
        self.ask(move |source| source.named_files(&own, &name, now)).unwrap_or_else(|error| {
            let mut named = PipelineFile::new(file, pipeline.folder());
            named.broken.push((file.to_owned(), error.message));
            named
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A source that answers when it is let.
    struct Slow(Receiver<()>);

    impl Source for Slow {
        fn look(&mut self, _: Timestamp) -> Result<Snapshot, SourceError> {
            let _ = self.0.recv();
            Ok(Snapshot { commit: Some("c".into()), ..Snapshot::default() })
        }

        fn digest(&mut self, _: &str) -> Option<Digest> {
            None
        }

        fn named_files(&mut self, pipeline: &Pipeline, file: &str, _: Timestamp) -> PipelineFile {
            PipelineFile::new(file, pipeline.folder())
        }
    }

    #[test]
    fn what_hangs_is_told_and_asked_again_once_it_answers() {
        let (let_it, waits) = channel();
        let patience = Duration::from_millis(50);
        let mut source = Patient::new(Box::new(Slow(waits)), "/mnt".into(), patience);
        let look = |source: &mut Patient| source.look(Timestamp::MIN).map_err(|e| e.to_string());
        assert!(look(&mut source).unwrap_err().contains("did not answer"));
        assert!(look(&mut source).unwrap_err().contains("has not answered since"));
        assert!(source.may_have_changed(), "in doubt it may");
        let_it.send(()).unwrap();
        let_it.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while look(&mut source).is_err() {
            assert!(Instant::now() < deadline);
            let _ = let_it.send(());
        }
    }
}
