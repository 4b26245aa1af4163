//! The host: the process that executes one run's graph and records each step before it goes on.
//!
//! Owns the loop over the board: start what is ready while slots are free, record, wait. It can be
//! killed at any moment: the next host goes on from what is recorded.

#![expect(clippy::disallowed_methods, reason = "copies notebooks")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::attempt::{self, Invocation};
use super::board::{AttemptEnd, Board, Task};
use super::leftovers::{Places, set_aside, step_folder, write_run_document};
use super::slots::{Slot, Slots};
use super::values::Scope;
use crate::plan::{Phase, Reason, Run, StepRecord};
use crate::source::Source;
use crate::spec::{self, Fingerprint, Pipeline, Step, Work};
use crate::store::{Commit, RunSpec, StepState, Store, StoreError, lease};
use crate::types::{Digest, PipelineId, RunName, Timestamp, TriggerKind};

/// How often a host looks for a stop.
const LOOK: Duration = Duration::from_millis(200);
/// How long files that are being written may take to be whole before a run begins.
const WHOLE_WITHIN: Duration = Duration::from_secs(20);

/// What a run finds when it begins.
enum Present {
    /// Its files, copied.
    Taken,
    /// Other files than it was claimed for.
    MovedOn,
    /// Files that are not whole.
    Broken(String),
}

/// What a host works with.
pub struct Hosting<'a> {
    /// The state's folder.
    pub state: &'a Path,
    /// The source's root.
    pub root: &'a Path,
    /// The run.
    pub run: &'a RunName,
    /// The limit on parallel steps over all hosts.
    pub jobs: usize,
    /// The durable memory.
    pub store: Box<dyn Store>,
    /// Where the run's files come from.
    pub source: Box<dyn Source>,
}

/// Hosts a run to its end; returns the exit code of the process.
///
/// # Errors
/// The state cannot be used.
pub fn host(hosting: Hosting<'_>) -> Result<i32, StoreError> {
    let Hosting { state, root, run: name, jobs, mut store, source } = hosting;
    // What leaves an attempt's process group becomes a child of this process, and is ended by it.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let Some(stored) = store.run(name.as_str())? else { return Ok(0) };
    if stored.run.phase.is_ended() {
        return Ok(0);
    }
    let definition = &stored.spec.definition;
    let documents =
        spec::parse(&definition.text, &definition.file, &definition.folder, stored.spec.max_points);
    let pipeline =
        documents.pipelines.into_iter().find(|pipeline| *pipeline.name() == stored.pipeline.name);
    let slots = Slots::new(state, jobs);
    let (Some(pipeline), Ok(slots)) = (pipeline, slots) else {
        let mut run = stored.run;
        run.phase = Phase::Failed;
        run.message = Some("the recorded pipeline can no longer be read by this version".into());
        run.finished_at = Some(Timestamp::now());
        store.update_run(&run)?;
        return Ok(1);
    };
    let steps = store.steps(name)?;
    let folder = pipeline.folder().to_owned();
    let log = |step: &Step, index: Option<usize>| {
        format!("{}/log", step_folder(&folder, name.as_str(), step.name(), index))
    };
    let mut host = Host {
        state,
        root,
        pipeline: &pipeline,
        board: Board::new(&pipeline, steps, Timestamp::now(), log),
        run: stored.run.clone(),
        spec: stored.spec,
        id: stored.pipeline,
        store,
        source,
        slots,
        events: channel(),
        at_work: Vec::new(),
        stop: Arc::new(AtomicBool::new(false)),
        told: Arc::new(AtomicBool::new(false)),
        renewed: Arc::new(Mutex::new(Instant::now())),
        document_due: Instant::now(),
    };
    host.run_under_lease()
}

type TaskEnd = (Task, AttemptEnd);

struct Host<'a> {
    state: &'a Path,
    root: &'a Path,
    pipeline: &'a Pipeline,
    board: Board<'a>,
    run: Run,
    spec: RunSpec,
    id: PipelineId,
    store: Box<dyn Store>,
    source: Box<dyn Source>,
    slots: Slots,
    events: (Sender<TaskEnd>, Receiver<TaskEnd>),
    at_work: Vec<(Task, Slot)>,
    /// Ends the attempts.
    stop: Arc<AtomicBool>,
    /// A signal told the host to go.
    told: Arc<AtomicBool>,
    /// When the lease was last renewed.
    renewed: Arc<Mutex<Instant>>,
    document_due: Instant,
}

/// Ends this process, and so all its steps, once the lease could not be renewed for half of its
/// time: another machine may soon take the run over, and a file system that hangs lets nothing
/// else be done.
fn guard(renewed: Arc<Mutex<Instant>>) {
    std::thread::spawn(move || {
        while renewed.lock().is_ok_and(|at| at.elapsed() < lease::LEASE / 2) {
            std::thread::sleep(LOOK);
        }
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    });
}

impl Host<'_> {
    /// Hosts the run under a lease where other machines may share the state.
    fn run_under_lease(&mut self) -> Result<i32, StoreError> {
        if !self.store.is_shared() {
            return self.run_to_end();
        }
        let name = self.run.name.clone();
        if !lease::acquire(self.store.as_mut(), name.as_str())? {
            return Ok(0);
        }
        let code = self.run_to_end();
        self.store.release(name.as_str())?;
        code
    }

    /// Renews the lease; false where another machine took it over.
    fn renew(&mut self) -> Result<bool, StoreError> {
        let due = |at: Instant| at.elapsed() >= lease::RENEWAL;
        if !self.store.is_shared() || !self.renewed.lock().is_ok_and(|at| due(*at)) {
            return Ok(true);
        }
        let held = self.store.hold(self.run.name.as_str(), None)?;
        if let Ok(mut at) = self.renewed.lock() {
            *at = Instant::now();
        }
        Ok(held)
    }

    fn run_to_end(&mut self) -> Result<i32, StoreError> {
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            // Without a handler the signal ends the host, which the next one can bear.
            let _ = signal_hook::flag::register(signal, Arc::clone(&self.told));
        }
        let name = self.run.name.clone();
        let results = super::leftovers::results_folder(self.pipeline.folder(), name.as_str());
        if self.run.started_at.is_none()
            && let Err(message) = set_aside(&self.root.join(&results))
        {
            self.run.reason = Some(Reason::NameTaken.to_string());
            self.run.message = Some(message);
            self.board.stop(Timestamp::now());
            return self.end(Phase::Failed);
        }
        let made = std::fs::create_dir_all(self.root.join(&results));
        if let Err(error) = made {
            self.run.message = Some(format!("failed to make {results}: {error}"));
            self.board.stop(Timestamp::now());
            return self.end(Phase::Failed);
        }
        if self.run.started_at.is_none() {
            match self.meet_the_present()? {
                Present::Taken => {}
                Present::MovedOn => return self.withdraw(),
                Present::Broken(_) if self.run.trigger.kind == TriggerKind::Change => {
                    return self.withdraw();
                }
                Present::Broken(message) => {
                    self.run.message = Some(message);
                    self.board.stop(Timestamp::now());
                    return self.end(Phase::Failed);
                }
            }
        }
        if self.store.is_shared() {
            // Copying may have taken longer than the lease: nothing has begun, so nothing is lost.
            if !self.store.hold(name.as_str(), None)? {
                return Ok(0);
            }
            if let Ok(mut at) = self.renewed.lock() {
                *at = Instant::now();
            }
            guard(Arc::clone(&self.renewed));
        }
        self.run.phase = Phase::Running;
        self.run.started_at.get_or_insert(Timestamp::now());
        self.store.update_run(&self.run)?;
        let states: Vec<StepState> = self.board.states().into_iter().cloned().collect();
        self.store.update_steps(&name, &states.iter().collect::<Vec<_>>())?;
        let deadline = self.pipeline.timeout().and_then(|limit| {
            let limit = jiff::SignedDuration::try_from(limit.duration()).ok()?;
            self.run.started_at?.checked_add(limit).ok()
        });
        let mut next_look = Instant::now();
        loop {
            let now = Timestamp::now();
            if self.told.load(Ordering::Relaxed) {
                return self.leave();
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + LOOK;
                // Whoever took the lease over records what happens from now on.
                if !self.renew()? {
                    return Ok(0);
                }
                if !self.store.is_in_place() || !self.root.is_dir() {
                    return self.leave();
                }
                let stopped = self.store.run(name.as_str())?.is_some_and(|run| run.stop_requested);
                let over = deadline.is_some_and(|deadline| now >= deadline);
                if (stopped || over) && !self.stop.swap(true, Ordering::Relaxed) {
                    self.run.message = Some(if over {
                        "the run took longer than its timeout".into()
                    } else {
                        "a person stopped it".into()
                    });
                    self.board.stop(now);
                    self.record_all()?;
                }
            }
            self.start_ready(now)?;
            if self.at_work.is_empty()
                && let Some(phase) = self.board.outcome()
            {
                let timed_out = deadline.is_some_and(|deadline| now >= deadline);
                let phase =
                    if timed_out && phase == Phase::Stopped { Phase::Failed } else { phase };
                return self.end(phase);
            }
            self.write_document(false);
            let waiting = !self.board.ready(Timestamp::now()).is_empty();
            let pause = if waiting { Duration::from_millis(10) } else { LOOK };
            match self.events.1.recv_timeout(pause) {
                Ok((task, end)) => self.finish(task, end)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Copies the run's notebooks: an edit while it runs is the next run's. Says whether they,
    /// and all other files, are what the run was claimed for.
    fn meet_the_present(&mut self) -> Result<Present, StoreError> {
        let patience = Instant::now() + WHOLE_WITHIN;
        let (named, mut reason) = loop {
            let mut torn = None;
            let mut copies = Vec::new();
            for step in self.pipeline.steps() {
                let Work::Notebook(path) = step.work() else { continue };
                match self.copy_notebook(path.as_str())? {
                    Ok(digest) => copies.push((path.as_str(), digest)),
                    Err(message) => torn = torn.or(Some(message)),
                }
            }
            let file = &self.spec.definition.file;
            let named = self.source.named_files(self.pipeline, file, Timestamp::now());
            let same = |(path, digest): &(&str, Digest)| {
                named.files.get(*path).is_some_and(|state| state.digest == *digest)
            };
            if let Some((path, why)) = named.broken.first() {
                torn = torn.or_else(|| Some(format!("{path}: {why}")));
            } else if !copies.iter().all(same) {
                torn = torn.or_else(|| Some("the notebooks are being written".into()));
            }
            if torn.is_none() || Instant::now() > patience {
                break (named, torn);
            }
            std::thread::sleep(LOOK);
        };
        if let Some(message) = reason.take() {
            return Ok(Present::Broken(message));
        }
        let present = Fingerprint::new(self.pipeline, &named.files);
        let recorded = self.spec.fingerprint.as_ref();
        if recorded.is_none_or(|recorded| recorded.digest == present.digest) {
            return Ok(Present::Taken);
        }
        if self.run.trigger.kind == TriggerKind::Change {
            return Ok(Present::MovedOn);
        }
        self.run.revision = present.digest.to_string();
        self.spec.fingerprint = Some(present);
        self.store.update_spec(&self.run.name, &self.spec)?;
        Ok(Present::Taken)
    }

    /// Copies a notebook as it is now. Not to be able to read it says something of the source; not
    /// to be able to write it, of the state.
    fn copy_notebook(&self, path: &str) -> Result<Result<Digest, String>, StoreError> {
        let bytes = match std::fs::read(self.root.join(path)) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(format!("failed to read {path}: {error}"))),
        };
        let copy = self.copy_of(path);
        let folder = copy.parent().unwrap_or(self.state);
        std::fs::create_dir_all(folder)
            .and_then(|()| crate::executor::write_whole(&copy, &bytes))
            .map_err(|error| StoreError::Database {
                folder: self.state.display().to_string(),
                message: format!("failed to copy {path}: {error}"),
            })?;
        Ok(Ok(Digest::of_bytes(&bytes)))
    }

    /// Ends a change run whose files moved on before it began: whatever stands next, the same
    /// content included, is a new change.
    fn withdraw(&mut self) -> Result<i32, StoreError> {
        loop {
            let rows = self.store.pipelines()?;
            let Some(row) = rows.into_iter().find(|row| row.id == self.id) else { break };
            let Some(ledger) = row.ledger.without_change(&self.run.trigger.key) else { break };
            let written = self.store.commit(&Commit {
                id: &self.id,
                version: Some(row.version),
                ledger: &ledger,
                definition: row.definition.as_ref(),
                claims: Vec::new(),
            });
            match written {
                Err(StoreError::Conflict) => {}
                other => break other?,
            }
        }
        self.board.stop(Timestamp::now());
        self.run.reason = Some(Reason::Superseded.to_string());
        self.run.message = Some("files moved on before the run began".into());
        self.end(Phase::Skipped)
    }

    fn copy_of(&self, path: &str) -> PathBuf {
        self.state.join("notebooks").join(self.run.name.as_str()).join(path)
    }

    fn start_ready(&mut self, now: Timestamp) -> Result<(), StoreError> {
        for task in self.board.ready(now) {
            let Some(slot) = self.slots.take() else { return Ok(()) };
            let attempt = self.board.begin(task, now);
            if let Some(words) = self.moved_files(task) {
                self.board.note(task, words);
            }
            self.record(task)?;
            let sender = self.events.0.clone();
            let stop = Arc::clone(&self.stop);
            match self.invocation(task, attempt) {
                Err(message) => {
                    let left = super::board::Left::default();
                    let end = AttemptEnd::Failed { exit_code: None, message, left };
                    self.board.finish(task, end, Timestamp::now());
                    self.record(task)?;
                }
                Ok(invocation) => {
                    self.at_work.push((task, slot));
                    std::thread::spawn(move || {
                        let end = attempt::run(&invocation, &stop);
                        // The host may be gone; then nobody waits for this.
                        let _ = sender.send((task, end));
                    });
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, task: Task, end: AttemptEnd) -> Result<(), StoreError> {
        self.at_work.retain(|(other, _)| *other != task);
        let open = self.board.states().iter().filter(|s| !s.record.phase.is_ended()).count();
        self.board.finish(task, end, Timestamp::now());
        let still_open = self.board.states().iter().filter(|s| !s.record.phase.is_ended()).count();
        // Usually one record changed; a failure or the end of a sweep changes others too.
        if task.index.is_none() && open == still_open + 1 {
            self.record(task)
        } else {
            self.record_all()
        }
    }

    /// Files of a step that are no longer what the run recorded: they are used as they stand.
    fn moved_files(&mut self, task: Task) -> Option<String> {
        let step = self.pipeline.steps()[task.step].name();
        let recorded = self.spec.fingerprint.as_ref()?.files_of_step(step);
        let moved = recorded.into_iter().filter_map(|(path, digest)| {
            let full = spec::RelativePath::resolve(self.pipeline.folder(), &path).ok()?;
            let present = self.source.digest(full.as_str());
            (present.as_ref() != Some(&digest)).then(|| {
                let present = present.map_or_else(|| "gone".into(), |digest| digest.to_string());
                format!("{path} is now {present}")
            })
        });
        let moved: Vec<String> = moved.collect();
        let reason = Reason::SourceChanged;
        (!moved.is_empty()).then(|| format!("{reason}: {}", moved.join(", ")))
    }

    fn record(&mut self, task: Task) -> Result<(), StoreError> {
        let mut changed = vec![self.board.state(task)];
        if task.index.is_some() {
            changed.push(self.board.state(Task { index: None, ..task }));
        }
        self.store.update_steps(&self.run.name, &changed)
    }

    fn record_all(&mut self) -> Result<(), StoreError> {
        self.store.update_steps(&self.run.name, &self.board.states())
    }

    /// Everything that an attempt needs, with all references resolved.
    fn invocation(&self, task: Task, attempt: u64) -> Result<Invocation, String> {
        let step = &self.pipeline.steps()[task.step];
        let folder = self.pipeline.folder();
        let run = self.run.name.as_str();
        let relative = step_folder(folder, run, step.name(), task.index);
        let key =
            format!("{run}-{}-{}-{attempt}", task.step, task.index.map_or(0, |index| index + 1));
        let places = Places::make(self.root, self.state, relative, &key)
            .map_err(|error| format!("failed to make the step's folder: {error}"))?;
        let states = self.board.states();
        let records: Vec<&StepRecord> = states.iter().map(|state| &state.record).collect();
        let point = task.index.map(|index| (index, step.points().swap_remove(index)));
        let scope = Scope {
            root: self.root,
            pipeline: self.pipeline,
            run: &self.run,
            records: &records,
            step,
            point,
            attempt,
        };
        let params = scope.parameters()?;
        let mut env = Vec::new();
        for (name, value) in step.env() {
            env.push((name.clone(), scope.text(value, &params)?));
        }
        for (name, secret) in step.secrets() {
            env.push((name.clone(), super::secrets::read(secret)?));
        }
        // Ours come last: no file may take them away.
        env.extend([
            ("JUPYTERFLOW_STEP".to_owned(), step.name().to_owned()),
            ("JUPYTERFLOW_ATTEMPT".to_owned(), attempt.to_string()),
            (super::processes::RUN_VARIABLE.to_owned(), run.to_owned()),
            ("JUPYTERFLOW_OUTPUTS".to_owned(), places.lines.to_string_lossy().into_owned()),
            (super::processes::OUTPUT_DIR.to_owned(), places.files.to_string_lossy().into_owned()),
        ]);
        let mut is_notebook = false;
        let command = match step.work() {
            Work::Run { script, .. } => {
                for variable in &script.variables {
                    let value = scope.variable(&variable.reference, &params)?;
                    env.push((variable.name.clone(), value));
                }
                vec!["sh".into(), "-e".into(), "-c".into(), script.text.clone()]
            }
            Work::Notebook(path) => {
                is_notebook = true;
                self.exec_command(step, path.as_str(), &places, &params)?
            }
            Work::Resource(_) => {
                return Err("resource steps need a cluster: run it with --engine argo".into());
            }
        };
        Ok(Invocation {
            root: self.root.to_owned(),
            state: self.state.to_owned(),
            folder: folder.to_owned(),
            step: step.clone(),
            in_sweep: task.index.is_some(),
            places,
            command,
            env,
            workdir: self.root.join(step.workdir().as_str()),
            is_notebook,
            attempt,
        })
    }

    fn exec_command(
        &self,
        step: &Step,
        path: &str,
        places: &Places,
        params: &indexmap::IndexMap<String, serde_json::Value>,
    ) -> Result<Vec<String>, String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = vec![
            text(&program),
            "exec".into(),
            text(&self.copy_of(path)),
            text(&places.folder.join("notebook.ipynb")),
            "--outputs-json".into(),
            text(&places.report),
            "--log-output".into(),
            "--no-progress-bar".into(),
            "--cwd".into(),
            text(&self.root.join(step.workdir().as_str())),
        ];
        if !params.is_empty() {
            // JSON is YAML, so that one file takes values of every type and of any length.
            let values = serde_json::to_string(params).map_err(|error| error.to_string())?;
            std::fs::write(&places.params, values).map_err(|error| error.to_string())?;
            command.extend(["-f".into(), text(&places.params)]);
        }
        if let Some(kernel) = step.kernel() {
            command.extend(["-k".into(), kernel.to_owned()]);
        }
        Ok(command)
    }

    /// Goes without an end of the run: what was at work is lost, and the next host goes on.
    fn leave(&mut self) -> Result<i32, StoreError> {
        self.stop.store(true, Ordering::Relaxed);
        let patience = Instant::now() + Duration::from_secs(11);
        while !self.at_work.is_empty() && Instant::now() < patience {
            if let Ok((task, end)) = self.events.1.recv_timeout(LOOK) {
                self.at_work.retain(|(other, _)| *other != task);
                // What had ended by itself just then is not done again.
                if matches!(end, AttemptEnd::Succeeded(_)) && self.store.is_in_place() {
                    self.finish(task, end)?;
                }
            }
        }
        self.run.phase = Phase::Interrupted;
        self.store.update_run(&self.run)?;
        Ok(143)
    }

    fn end(&mut self, phase: Phase) -> Result<i32, StoreError> {
        self.run.phase = phase;
        self.run.finished_at = Some(Timestamp::now());
        if phase == Phase::Failed && self.run.message.is_none() {
            let states = self.board.states();
            // A point of a sweep fails its step or was allowed to: the step says which.
            let of_step = |state: &&&StepState| state.record.index.is_none();
            let failed = states.iter().filter(of_step).find(|s| s.record.phase == Phase::Failed);
            self.run.message = failed.map(|state| {
                let record = &state.record;
                format!("step {}: {}", record.name, record.message.as_deref().unwrap_or("failed"))
            });
        }
        self.record_all()?;
        // The document is whole before the run counts as ended, so that whoever waited finds it.
        self.write_document(true);
        self.store.update_run(&self.run)?;
        let _ = std::fs::remove_dir_all(self.state.join("notebooks").join(self.run.name.as_str()));
        Ok(i32::from(phase != Phase::Succeeded))
    }

    fn write_document(&mut self, now: bool) {
        if !now && Instant::now() < self.document_due {
            return;
        }
        self.run.steps =
            self.board.states().into_iter().map(|state| state.record.clone()).collect();
        let begin = Instant::now();
        // A full disk must not end the run: the store holds the same, and the next write may do.
        let _ = write_run_document(self.root, self.pipeline.folder(), &self.run);
        self.document_due = Instant::now() + Duration::from_secs(1).max(begin.elapsed() * 20);
    }
}
