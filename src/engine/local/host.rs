//! The host: the process that executes one run's graph and records each step before it goes on.
//!
//! Owns the loop over the board: start what is ready while slots are free, record, wait. It can be
//! killed at any moment: the next host goes on from what is recorded.

#![expect(clippy::disallowed_methods, reason = "makes folders, reads the clock and waits")]

mod present;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use self::present::Present;
use super::secrets;
use super::slots::{Slot, Slots};
use crate::engine::step::attempt::{self, Invocation};
use crate::engine::step::board::{AttemptEnd, Board, Task};
use crate::engine::step::invocation::Site;
use crate::engine::step::leftovers::{
    Places, results_folder, set_aside, step_folder, write_run_document,
};
use crate::engine::step::workplace::{Before, Files};
use crate::plan::{Phase, Reason, Run, StepRecord};
use crate::source::Source;
use crate::spec::{Pipeline, Step};
use crate::store::{RunSpec, StepState, Store, StoreError, lease};
use crate::types::{PipelineId, RunName, Timestamp, TriggerKind};

/// How often a host looks for a stop.
const LOOK: Duration = Duration::from_millis(200);

/// What a host works with.
pub struct Hosting<'a> {
    /// The state's folder.
    pub state: &'a Path,
    /// The source's root, where results lie.
    pub root: &'a Path,
    /// Where the files of its steps are.
    pub files: Files,
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
    let Hosting { state, root, files, run: name, jobs, mut store, source } = hosting;
    // What leaves an attempt's process group becomes a child of this process, and is ended by it.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let Some(stored) = store.run(name.as_str())? else { return Ok(0) };
    if stored.run.phase.is_ended() {
        return Ok(0);
    }
    let pipeline = stored.definition();
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
        files,
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
    files: Files,
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
        let results = results_folder(self.pipeline.folder(), name.as_str());
        if self.run.started_at.is_none()
            && let Err(message) = set_aside(&self.root.join(&results))
        {
            // The folder is another run's: its document stays as it is.
            self.run.reason = Some(Reason::NameTaken.to_string());
            self.run.message = Some(message);
            self.board.stop(Timestamp::now());
            return self.record_end(Phase::Failed);
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
                let stored = self.store.run(name.as_str())?;
                let stopped = stored.filter(|run| run.stop_requested);
                let over = deadline.is_some_and(|deadline| now >= deadline);
                if (stopped.is_some() || over) && !self.stop.swap(true, Ordering::Relaxed) {
                    let by = stopped.as_ref().filter(|run| run.stopped_by.is_some() && !over);
                    self.run.reason = by.map(|_| Reason::Superseded.to_string());
                    self.run.message = Some(match stopped {
                        Some(stored) if !over => stored.why_stopped(),
                        _ => "the run took longer than its timeout".into(),
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
                    let end = AttemptEnd::failed(message);
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

    /// Everything that an attempt needs, with all references resolved.
    fn invocation(&self, task: Task, attempt: u64) -> Result<Invocation, String> {
        let step = &self.pipeline.steps()[task.step];
        let run = self.run.name.as_str();
        let relative = step_folder(self.pipeline.folder(), run, step.name(), task.index);
        let key =
            format!("{run}-{}-{}-{attempt}", task.step, task.index.map_or(0, |index| index + 1));
        let places = Places::make(self.root, self.state, relative, &key)
            .map_err(|error| format!("failed to make the step's folder: {error}"))?;
        let states = self.board.states();
        let records: Vec<&StepRecord> = states.iter().map(|state| &state.record).collect();
        let before = Before {
            pipeline: self.pipeline,
            step: task.step,
            records: &records,
            results: self.root,
        };
        let work = self.files.workplace(&before, &self.state.join("work").join(&key))?;
        let secrets = step.secrets().iter();
        let secrets = secrets.map(|(name, secret)| Ok((name.clone(), secrets::read(secret)?)));
        let site = Site {
            pipeline: self.pipeline,
            run: &self.run,
            records: &records,
            results: self.root,
            before: self.root,
            root: work.root,
            fresh: work.fresh,
            placed: work.placed,
            notebooks: self.notebooks(),
            state: self.state,
            secrets: secrets.collect::<Result<_, String>>()?,
        };
        site.invocation(task, attempt, places)
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
        if phase == Phase::Failed && self.run.message.is_none() {
            self.run.message = self.board.failure();
        }
        self.run.phase = phase;
        self.run.finished_at = Some(Timestamp::now());
        // The document is whole before the run counts as ended, so that whoever waited finds it.
        self.write_document(true);
        self.record_end(phase)
    }

    /// Ends the run in the store alone.
    fn record_end(&mut self, phase: Phase) -> Result<i32, StoreError> {
        self.run.phase = phase;
        self.run.finished_at.get_or_insert(Timestamp::now());
        self.record_all()?;
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
