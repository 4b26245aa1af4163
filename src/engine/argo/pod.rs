//! What runs inside a pod of a run: one step, as a host on a machine would run it.
//!
//! Owns the run's beginning on a volume that several pods share, the attempt, and what the pod tells. It
//! knows no API server.

#![expect(clippy::disallowed_methods, reason = "reads and writes the volumes of the pod")]

mod parts;
mod shown;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use self::parts::Part;
use self::shown::Shown;
use super::compile::{PLACE, wants};
use super::told::{Assignment, Beginning, Told, pack, unpack, unpack_all};
use super::{artifacts, checkout};
use crate::engine::step::attempt;
use crate::engine::step::board::{AttemptEnd, Task};
use crate::engine::step::invocation::Site;
use crate::engine::step::kept::missing;
use crate::engine::step::leftovers::{Places, results_folder, step_folder, write_run_document};
use crate::engine::step::present;
use crate::engine::step::retelling::{Attempt, retell};
use crate::engine::step::workplace::{Before, Files};
use crate::executor::write_whole;
use crate::plan::{Phase, StepRecord};
use crate::source::{Source, git};
use crate::spec::{Fingerprint, Pipeline};
use crate::store::StepState;
use crate::types::{Digest, RunName, Timestamp, TriggerKind};

/// The folder, among a run's results, of what its pods share: copies of notebooks and what each told.
const SHARED: &str = ".run";
/// Between two looks at a log.
const LOOK: Duration = Duration::from_millis(100);

/// What a pod is asked to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// The packed assignment.
    pub assignment: String,
    /// The run's name: its Workflow's.
    pub run: String,
    /// The step.
    pub step: String,
    /// The point of its sweep.
    pub index: Option<usize>,
    /// How often it failed before.
    pub retry: u64,
    /// How often its pod was lost before.
    pub interruption: u64,
    /// What pods of earlier steps told, packed.
    pub told: Vec<String>,
    /// Which part of the step.
    pub part: Part,
}

/// Copies this program to where the step's own container finds it.
///
/// # Errors
/// The volume cannot be written.
pub fn install(place: &Path) -> std::io::Result<()> {
    let program = std::env::current_exe()?;
    std::fs::copy(program, place.join("jupyterflow"))?;
    Ok(())
}

/// Does a step, to its end. Returns the exit code; `source` shows the files of a run, whose results go
/// below a root.
///
/// # Errors
/// In words: there was nothing to do the step with.
pub fn work(
    order: &Order,
    source: impl FnOnce(&Path, &Files) -> Box<dyn Source>,
) -> Result<i32, String> {
    let mut assignment: Assignment = unpack(&order.assignment)?;
    assignment.run.name = RunName::from_stored(&order.run).map_err(|error| error.to_string())?;
    let pipeline = assignment.pipeline()?;
    let at = pipeline.steps().iter().position(|step| step.name() == order.step);
    let at = at.ok_or_else(|| format!("the pipeline has no step {:?}", order.step))?;
    if assignment.stored {
        // The way to it may be a link, as that to `/var/run` of Debian.
        let root = std::fs::create_dir_all(&assignment.root);
        let root = root.and_then(|()| std::fs::canonicalize(&assignment.root));
        let root = root.map_err(|error| format!("{}: {error}", assignment.root))?;
        assignment.root = root.to_string_lossy().into_owned();
    }
    let files = checkout::files(&assignment);
    let mut pod = Pod {
        results: Path::new(&assignment.root)
            .join(results_folder(pipeline.folder(), assignment.run.name.as_str())),
        assignment: &assignment,
        pipeline: &pipeline,
        task: Task { step: at, index: order.index },
        order,
        source: source(Path::new(&assignment.root), &files),
        files,
    };
    let (mut told, mut code) = pod.work().unwrap_or_else(|message| {
        eprintln_line(&message);
        let attempt = Attempt::failed(&order.step, order.index, Timestamp::now(), message);
        (Told { attempt: Some(attempt), beginning: None }, 1)
    });
    if assignment.stored && told.attempt.is_some() {
        let folder = Path::new(&assignment.root).join(pod.folder());
        if let Err(error) = artifacts::leave(&folder) {
            let message = format!("its results cannot be kept: {error}");
            eprintln_line(&message);
            if code == 0 {
                (told, code) = (spoilt(told, message), 1);
            }
        }
    }
    let text = pack(&told).or_else(|error| {
        // Too much was left: the step fails for it, and says how much.
        let message = format!("its outputs are {error}; write large ones to a file");
        eprintln_line(&message);
        (told, code) = (spoilt(told.clone(), message), 1);
        pack(&told)
    })?;
    std::fs::write(Path::new(PLACE).join("told"), text).map_err(|error| error.to_string())?;
    if let Some(attempt) = &told.attempt
        && let Err(message) = pod.record(attempt)
    {
        // A full disk must not fail the step: what it did is told.
        eprintln_line(&message);
    }
    Ok(code)
}

impl Assignment {
    fn pipeline(&self) -> Result<Pipeline, String> {
        let name = self.run.pipeline.parse().map_err(|_| "a pipeline's name is none")?;
        let pipeline = self.spec.pipeline(&name);
        pipeline.ok_or_else(|| "the recorded pipeline cannot be read by this version".to_owned())
    }
}

/// Unpacks what pods told. Argo puts an argument that is longer than the kernel takes into a file.
fn unpack_given(text: &str) -> Result<Vec<Told>, String> {
    match text.strip_prefix('@') {
        None => unpack_all(text),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            unpack_all(&text)
        }
    }
}

/// What a pod tells whose step failed after all.
fn spoilt(mut told: Told, message: String) -> Told {
    if let Some(attempt) = &mut told.attempt {
        attempt.end = Some(AttemptEnd::failed(message));
    }
    told
}

#[expect(clippy::print_stderr, reason = "the log of a pod")]
fn eprintln_line(text: &str) {
    eprintln!("jupyterflow: {text}");
}

struct Pod<'a> {
    /// The folder of the run's results.
    results: PathBuf,
    assignment: &'a Assignment,
    pipeline: &'a Pipeline,
    task: Task,
    order: &'a Order,
    source: Box<dyn Source>,
    files: Files,
}

impl Pod<'_> {
    fn work(&mut self) -> Result<(Told, i32), String> {
        let beginning = self.begin()?;
        let told = |attempt| Told { attempt, beginning: Some(beginning.clone()) };
        match &beginning {
            Beginning::MovedOn => {
                eprintln_line("files moved on before the run began: it does nothing");
                return Ok((told(None), 1));
            }
            Beginning::Broken(why) => {
                eprintln_line(why);
                return Ok((told(None), 1));
            }
            Beginning::Claimed | Beginning::Taken(_) => {}
        }
        let recorded = match &beginning {
            Beginning::Taken(present) => Some(present.as_ref().clone()),
            _ => self.assignment.spec.fingerprint.clone(),
        };
        let before: Vec<Told> = self
            .order
            .told
            .iter()
            .map(|text| unpack_given(text))
            .collect::<Result<Vec<_>, _>>()?
            .concat();
        let mut before: Vec<Attempt> = before.into_iter().filter_map(|told| told.attempt).collect();
        let now = Timestamp::now();
        self.add_those_before(&mut before)?;
        self.add_the_silent(&mut before, now);
        let board = retell(self.pipeline, self.run(), before, now);
        let failed = |need: &&usize| {
            board.state(Task { step: **need, index: None }).record.phase == Phase::Failed
        };
        if let Some(need) = self.pipeline.graph().needs(self.task.step).iter().find(failed) {
            let step = self.pipeline.steps()[*need].name();
            eprintln_line(&format!("step {step}, which it needs, did not succeed"));
            return Ok((told(None), 1));
        }
        if let Some(done) = self.done_before() {
            eprintln_line("an earlier pod did this already");
            return Ok((told(Some(done)), 0));
        }
        if let Some(message) = self.missing() {
            return Err(message);
        }
        let states = board.states();
        let records: Vec<&StepRecord> = states.iter().map(|state| &state.record).collect();
        let attempt = match &self.order.part {
            Part::Whole => self.attempt(&records, recorded.as_ref())?,
            Part::Values => {
                self.values(&records)?;
                return Ok((told(None), 0));
            }
            Part::Tell { began, made } => self.tell(*began, made)?,
        };
        let code = match &attempt.end {
            Some(AttemptEnd::Succeeded(_)) => 0,
            Some(AttemptEnd::Failed { exit_code, .. }) => exit_code.filter(|c| *c > 0).unwrap_or(1),
            Some(AttemptEnd::Stopped) => 143,
            _ => 137,
        };
        Ok((told(Some(attempt)), code))
    }

    /// The run's name, and what it keeps of an earlier one.
    fn run(&self) -> (&str, &[StepState]) {
        (self.assignment.run.name.as_str(), &self.assignment.spec.kept)
    }

    /// What is gone of the files of an earlier run that this step takes up. In a checkout they are looked at as they
    /// are placed.
    fn missing(&mut self) -> Option<String> {
        if !matches!((&self.files, &self.order.part), (Files::Folder, Part::Whole)) {
            return None;
        }
        let steps = self.pipeline.steps();
        let needs = self.pipeline.graph().needs(self.task.step);
        let needed = |state: &&StepState| {
            needs.iter().any(|&step| steps[step].name() == state.record.base_name())
        };
        let kept = self.assignment.spec.kept.iter().filter(needed).cloned();
        missing(self.source.as_mut(), &kept.collect::<Vec<_>>())
    }

    /// Points of a sweep that told nothing did not succeed: all have ended before this step begins, and
    /// Argo passes on the words of those that did.
    fn add_the_silent(&self, told: &mut Vec<Attempt>, now: Timestamp) {
        for need in wants(self.pipeline, &self.assignment.spec, self.task.step) {
            let step = &self.pipeline.steps()[need];
            for index in 0..step.points().len() {
                let known =
                    |attempt: &Attempt| attempt.step == step.name() && attempt.index == Some(index);
                if told.iter().any(known) {
                    continue;
                }
                // With as many attempts as it may have, so that it counts as over.
                told.extend((0..=step.retries()).map(|_| {
                    Attempt::failed(step.name(), Some(index), now, "it told nothing".into())
                }));
            }
        }
    }

    /// What is on record of the steps before those that Argo passes on the words of: their files travel too,
    /// where they do not lie in a folder that all steps share.
    fn add_those_before(&self, told: &mut Vec<Attempt>) -> Result<(), String> {
        if matches!(self.files, Files::Folder) {
            return Ok(());
        }
        let wants = wants(self.pipeline, &self.assignment.spec, self.task.step);
        let ancestors = self.pipeline.graph().ancestors(self.task.step);
        let further: Vec<&str> = ancestors
            .iter()
            .filter(|step| !wants.contains(step))
            .map(|&step| self.pipeline.steps()[step].name())
            .collect();
        let known = self.told_before().map_err(|error| error.to_string())?;
        // What a pod left that was made again after its success took the place of what was there.
        let replaced = |one: &Attempt| {
            let same = |other: &&Attempt| other.step == one.step && other.index == one.index;
            let mut later = known.iter().filter(same);
            let succeeded = matches!(one.end, Some(AttemptEnd::Succeeded(_)));
            self.assignment.stored
                && succeeded
                && later.any(|other| other.started_at > one.started_at)
        };
        let further =
            known.iter().filter(|one| further.contains(&one.step.as_str()) && !replaced(one));
        told.extend(further.cloned());
        Ok(())
    }

    /// The attempt, and further ones in this pod while its process is lost.
    fn attempt(
        &mut self,
        records: &[&StepRecord],
        recorded: Option<&Fingerprint>,
    ) -> Result<Attempt, String> {
        let step = &self.pipeline.steps()[self.task.step];
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&stop))
                .map_err(|error| error.to_string())?;
        }
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let note = recorded.and_then(|recorded| {
            present::moved_files(self.source.as_mut(), self.pipeline, recorded, step.name())
        });
        let (started_at, mut lost) = (Timestamp::now(), self.begun_before()?);
        let log = self.log();
        let shown = Shown::from(&log);
        let end = loop {
            let number = 1 + self.order.retry + self.order.interruption + lost;
            let end = match self.invocation(records, number) {
                Ok(invocation) => attempt::run(&invocation, &stop),
                Err(message) => AttemptEnd::failed(message),
            };
            let end = if is_killed(&end) && told_to_end(&stop) { AttemptEnd::Stopped } else { end };
            let more = self.order.interruption + lost < step.interruptions();
            if !matches!(end, AttemptEnd::Lost(_)) || !more || stop.load(Ordering::Relaxed) {
                break end;
            }
            lost += 1;
        };
        shown.end();
        if let AttemptEnd::Failed { message, .. } | AttemptEnd::Lost(message) = &end {
            eprintln_line(message);
        }
        Ok(Attempt {
            step: step.name().to_owned(),
            index: self.task.index,
            started_at,
            finished_at: Some(Timestamp::now()),
            lost,
            note,
            end: Some(end),
        })
    }

    /// What the pods of one claim share. A run that was executed in a former life, of which no record is left,
    /// may have left its own.
    fn shared(&self) -> PathBuf {
        let claimed = self.assignment.run.created_at.to_string();
        self.results.join(format!("{SHARED}-{}", Digest::of_bytes(claimed.as_bytes()).short()))
    }

    /// How many pods began this very attempt and told nothing: Argo makes a pod that went before it saw it
    /// begin anew, and does not count it.
    fn begun_before(&self) -> Result<u64, String> {
        // Without a volume that pods share, nobody can say.
        if self.assignment.stored {
            return Ok(0);
        }
        let shared = self.told();
        let name = format!("{}.began-", self.name());
        let failed = |error: std::io::Error| format!("failed to write {name}: {error}");
        let entries = std::fs::read_dir(&shared).map_err(failed)?.flatten();
        let before = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name));
        let before = before.count();
        let own = tempfile::Builder::new().prefix(&name).tempfile_in(&shared).map_err(failed)?;
        own.keep().map_err(|error| failed(error.error))?;
        Ok(u64::try_from(before).unwrap_or(0))
    }

    /// A name for this attempt among those of its run: names of steps hold no `.`.
    fn name(&self) -> String {
        let Order { retry, interruption, step, .. } = self.order;
        let index = self.task.index.map(|index| index.to_string()).unwrap_or_default();
        format!("{step}.{index}.{retry}.{interruption}")
    }

    /// The attempts that pods of this run told of so far.
    fn told_before(&self) -> std::io::Result<Vec<Attempt>> {
        let mut entries: Vec<_> = std::fs::read_dir(self.told())?.collect();
        if self.assignment.stored {
            match std::fs::read_dir(artifacts::told_before()) {
                Ok(before) => entries.extend(before),
                // The first pod of a run finds nothing.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let read = entries.into_iter().flatten().filter_map(|entry| {
            serde_json::from_str(&std::fs::read_to_string(entry.path()).ok()?).ok()
        });
        Ok(read.collect())
    }

    /// Where pods tell each other.
    fn told(&self) -> PathBuf {
        if self.assignment.stored { artifacts::told() } else { self.shared().join("told") }
    }

    /// Where the results of earlier steps lie.
    fn before(&self) -> PathBuf {
        if self.assignment.stored {
            artifacts::before()
        } else {
            PathBuf::from(&self.assignment.root)
        }
    }

    /// The success of an earlier pod at the same thing. Argo may make another pod after it: one that comes
    /// late, or takes the place of one that was deleted before Argo heard of its end.
    fn done_before(&self) -> Option<Attempt> {
        // What it left may not have reached the store.
        if self.assignment.stored {
            return None;
        }
        self.told_before().ok()?.into_iter().find(|told| {
            let same = told.step == self.order.step && told.index == self.task.index;
            same && matches!(told.end, Some(AttemptEnd::Succeeded(_)))
        })
    }

    fn folder(&self) -> String {
        let (run, step) = (&self.assignment.run.name, &self.order.step);
        step_folder(self.pipeline.folder(), run.as_str(), step, self.task.index)
    }

    fn log(&self) -> PathBuf {
        Path::new(&self.assignment.root).join(self.folder()).join("log")
    }

    fn invocation(
        &self,
        records: &[&StepRecord],
        number: u64,
    ) -> Result<attempt::Invocation, String> {
        let (root, state) = (Path::new(&self.assignment.root), Path::new(PLACE));
        let places = Places::make(root, state, self.folder(), &format!("{number}"))
            .map_err(|error| format!("failed to make the step's folder: {error}"))?;
        let results = self.before();
        let before =
            Before { pipeline: self.pipeline, step: self.task.step, records, results: &results };
        let work = self.files.workplace(&before, &state.join("work").join(number.to_string()))?;
        let site = Site {
            pipeline: self.pipeline,
            run: &self.assignment.run,
            records,
            results: root,
            before: &results,
            root: work.root,
            fresh: work.fresh,
            placed: work.placed,
            notebooks: self.shared().join("notebooks"),
            state,
            secrets: self.assignment.env.clone(),
        };
        site.invocation(self.task, number, places)
    }

    /// What the run's files were when its first pod began: found out once, by whichever pod is first.
    /// The others take what that one found, also later ones after a change.
    fn begin(&mut self) -> Result<Beginning, String> {
        let here = matches!(self.files, Files::Folder) || checkout::fetched()?;
        let shared = self.shared();
        let verdict = shared.join("beginning.json");
        let known = || {
            let text = std::fs::read_to_string(&verdict).ok()?;
            serde_json::from_str::<Beginning>(&text).ok()
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let failed = |error: std::io::Error| {
            format!("failed to make the run's folder {}: {error}", self.results.display())
        };
        std::fs::create_dir_all(&self.results).map_err(failed)?;
        let made = tempfile::Builder::new().prefix(".beginning-").tempdir_in(&self.results);
        let made = made.map_err(failed)?;
        let root = PathBuf::from(&self.assignment.root);
        let notebooks = made.path().join("notebooks");
        let copy = |path: &str| -> Result<Result<Digest, String>, String> {
            let read = match &self.files {
                Files::Folder => std::fs::read(root.join(path)).map_err(|error| error.to_string()),
                Files::Commit { objects, commit } => git::content(objects, commit, path),
            };
            let bytes = match read {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Err(format!("failed to read {path}: {error}"))),
            };
            let copy = notebooks.join(path);
            let folder = copy.parent().unwrap_or(&notebooks);
            std::fs::create_dir_all(folder)
                .and_then(|()| write_whole(&copy, &bytes))
                .map_err(|error| format!("failed to copy {path}: {error}"))?;
            Ok(Ok(Digest::of_bytes(&bytes)))
        };
        let spec = &self.assignment.spec;
        let file = &spec.definition.file;
        let present = if here {
            present::take(self.pipeline, file, self.source.as_mut(), &copy)?
        } else {
            Err(format!("commit {} is no longer in the repository", self.assignment.run.revision))
        };
        let beginning = match present {
            Err(why) if self.is_change() => {
                eprintln_line(&why);
                Beginning::MovedOn
            }
            Err(why) => Beginning::Broken(why),
            Ok(mut present) => {
                let same = spec.fingerprint.as_ref().is_none_or(|one| one.digest == present.digest);
                present.outlines.clear();
                match same {
                    true => Beginning::Claimed,
                    false if self.is_change() => Beginning::MovedOn,
                    false => Beginning::Taken(Box::new(present)),
                }
            }
        };
        let text = serde_json::to_string(&beginning).map_err(|error| error.to_string())?;
        std::fs::write(made.path().join("beginning.json"), text).map_err(failed)?;
        std::fs::create_dir_all(made.path().join("told")).map_err(failed)?;
        // A folder that is there already stays, whole: another pod was first.
        match std::fs::rename(made.path(), &shared) {
            Ok(()) => {
                let _ = made.keep();
                Ok(beginning)
            }
            Err(error) => known().ok_or_else(|| failed(error)),
        }
    }

    fn is_change(&self) -> bool {
        self.assignment.run.trigger.kind == TriggerKind::Change
    }

    /// Leaves what this pod tells beside what others told, and writes the run's document anew.
    fn record(&self, attempt: &Attempt) -> Result<(), String> {
        let told = self.told();
        let name = format!("{}.json", self.name());
        let text = serde_json::to_string(attempt).map_err(|error| error.to_string())?;
        let failed = |error: std::io::Error| format!("failed to write {name}: {error}");
        write_whole(&told.join(&name), text.as_bytes()).map_err(failed)?;
        let all = self.told_before().map_err(failed)?;
        let mut run = self.assignment.run.clone();
        run.started_at = all.iter().map(|attempt| attempt.started_at).min();
        let last = all.iter().filter_map(|attempt| attempt.finished_at).max();
        let board = retell(self.pipeline, self.run(), all, Timestamp::now());
        run.phase = board.outcome().unwrap_or(Phase::Running);
        run.finished_at = last.filter(|_| run.phase.is_ended());
        run.message = board.failure().filter(|_| run.phase == Phase::Failed);
        run.steps = board.states().into_iter().map(|state| state.record.clone()).collect();
        let root = Path::new(&self.assignment.root);
        write_run_document(root, self.pipeline.folder(), &run)
            .map_err(|error| format!("failed to write run.json: {error}"))
    }
}

/// Whether a process did not end by itself.
fn is_killed(end: &AttemptEnd) -> bool {
    matches!(end, AttemptEnd::Lost(_) | AttemptEnd::Failed { exit_code: None, .. })
}

/// Whether a signal says that the pod ends. Where the step's own processes got it first, ours may be a
/// moment away.
fn told_to_end(stop: &AtomicBool) -> bool {
    let patience = std::time::Instant::now() + 5 * LOOK;
    while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < patience {
        std::thread::sleep(LOOK);
    }
    stop.load(Ordering::Relaxed)
}
