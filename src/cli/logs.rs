//! `logs`: what the steps of a run wrote.
//!
//! Owns where that is read: in the files beside the results where this machine sees them, else from the pods of
//! the run.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use futures::AsyncReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::LogParams;

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::records::{Found, Records, Where, find};
use super::run::pause;
use super::signals::Signals;
use crate::plan::Run;
use crate::store::{Store, StoredRun};
use crate::types::causes;

/// Between two lists of a run's pods.
const BETWEEN: Duration = Duration::from_secs(1);
/// So many lists in a row may fail.
const PATIENCE: u32 = 30;

/// Print what the steps of a run wrote
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The run's name, or the beginning of it
    run: String,
    /// One step, or one point as `train[0]`
    step: Option<String>,
    /// Go on until the run ends
    #[arg(short = 'f', long)]
    follow: bool,
    #[command(flatten)]
    place: Where,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    match find(global, &args.place, &args.run)? {
        Found::Here(session, stored) => {
            let root = session.place_of(&stored.run.source).root;
            let name = stored.run.name.clone();
            let now = || Ok(session.store.run(name.as_str())?.map(|stored| stored.run));
            files(args, &root, stored.run, now)
        }
        Found::There(records, stored) => match records.root(&stored.pipeline) {
            Some(root) => {
                let name = stored.run.name.clone();
                files(args, &root, stored.run, || records.run(&name))
            }
            None => pods(args, &records, &stored),
        },
    }
}

/// Prints the files of a run's steps.
fn files(
    args: &Args,
    root: &Path,
    mut run: Run,
    now: impl Fn() -> Result<Option<Run>, CliError>,
) -> Result<Code, CliError> {
    let signals = Signals::listen()?;
    let mut tails: Vec<Tail> = Vec::new();
    let mut current = None;
    loop {
        // A run that ended before its logs are read has written all that it will.
        let ended = run.phase.is_ended();
        for log in wanted(&run, args.step.as_deref())? {
            if !tails.iter().any(|tail| tail.step == log.0) {
                tails.push(Tail { step: log.0, path: root.join(log.1), read: 0 });
            }
        }
        let several = tails.len() > 1;
        for (index, tail) in tails.iter_mut().enumerate() {
            let header = several && current != Some(index);
            if tail.print(header) {
                current = Some(index);
            }
        }
        if !args.follow || ended || signals.count() > 0 {
            return Ok(signals.received().map_or(Code::Done, Code::Signal));
        }
        pause(100);
        run = match now()? {
            Some(run) => run,
            None => return Ok(Code::Done),
        };
    }
}

/// Prints what the pods of a run wrote, as far as they are still there.
fn pods(args: &Args, records: &Records, stored: &StoredRun) -> Result<Code, CliError> {
    let signals = Signals::listen()?;
    let name = &stored.run.name;
    let mut known: Vec<OfPod> = Vec::new();
    let (mut current, mut failures, mut listed_at) = (None, 0, None);
    loop {
        let run = records.run(name)?;
        let ended = run.as_ref().is_none_or(|run| run.phase.is_ended());
        if let Some(run) = &run {
            wanted(run, args.step.as_deref())?;
        }
        // What has ended is listed after that, so that no pod is missed.
        if ended || listed_at.is_none_or(|at: Instant| at.elapsed() > BETWEEN) {
            listed_at = Some(Instant::now());
            match records.requests.pods(&records.key_of(name)) {
                Ok(listed) => {
                    failures = 0;
                    for pod in listed.iter().filter(|pod| has_begun(pod)) {
                        let Some(task) = Task::of(pod) else { continue };
                        let meant = args.step.as_deref().is_none_or(|step| task.is_of(step));
                        if meant && !known.iter().any(|other| other.pod == pod.name_any()) {
                            known.push(OfPod::begin(records, pod, task.to_string(), args.follow));
                        }
                    }
                }
                // Whoever follows a run for hours is not put off by one refusal.
                Err(_) if args.follow && failures < PATIENCE => {
                    failures += 1;
                    listed_at = None;
                    pause(1000);
                }
                Err(why) => return Err(records.error("list the pods of the run", &why)),
            }
        }
        let several = known.len() > 1;
        let mut open = 0;
        for (index, one) in known.iter_mut().enumerate() {
            // In their order, unless all are followed.
            let header = several && current != Some(index);
            let (wrote, ends) = one.print(header, !args.follow, &signals);
            if wrote {
                current = Some(index);
            }
            open += usize::from(!ends);
        }
        if signals.count() > 0 || open == 0 && (!args.follow || ended && listed_at.is_some()) {
            break;
        }
        pause(100);
    }
    if known.is_empty() && !args.follow {
        let folder = &stored.pipeline.folder;
        let results = crate::engine::step::leftovers::results_folder(folder, name.as_str());
        print::talk(&format!(
            "no pod of run {name} is there; what its steps wrote lies in {results} of their volume"
        ));
    }
    if let Some(number) = signals.received() {
        return Ok(Code::Signal(number));
    }
    match known.iter().find_map(|one| one.broken.as_ref().map(|why| (&one.pod, why))) {
        Some((pod, why)) => Err(CliError::unreachable(format!("failed to read pod {pod}: {why}"))
            .hint("`jupyterflow generate rbac` prints what a service account needs")),
        None => Ok(Code::Done),
    }
}

/// Which attempt of which step a pod is.
struct Task {
    step: String,
    index: Option<String>,
    attempt: u64,
}

impl Task {
    /// By what the pod is told.
    fn of(pod: &Pod) -> Option<Self> {
        let main = pod.spec.as_ref()?.containers.iter().find(|one| one.name == "main")?;
        let words = main.args.as_ref()?;
        let word = |name: &str| {
            let at = words.iter().position(|word| word == name)?;
            words.get(at + 1).cloned()
        };
        let count = |name| word(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let attempt = 1 + count("--retry") + count("--interruption");
        Some(Self { step: word("--step")?, index: word("--index"), attempt })
    }

    fn is_of(&self, step: &str) -> bool {
        self.step == step || self.name() == step
    }

    fn name(&self) -> String {
        match &self.index {
            Some(index) => format!("{}[{index}]", self.step),
            None => self.step.clone(),
        }
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name())?;
        if self.attempt > 1 { write!(formatter, " (attempt {})", self.attempt) } else { Ok(()) }
    }
}

/// Whether a pod's own container has begun: before, there is nothing to be read.
fn has_begun(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut main = statuses.filter(|one| one.name == "main").filter_map(|one| one.state.as_ref());
    main.any(|state| state.running.is_some() || state.terminated.is_some())
}

/// What one pod writes, as it comes.
struct OfPod {
    pod: String,
    title: String,
    pieces: Receiver<Result<Vec<u8>, String>>,
    /// Why not all of it came.
    broken: Option<String>,
}

impl OfPod {
    fn begin(records: &Records, pod: &Pod, title: String, follow: bool) -> Self {
        let (put, pieces) = sync_channel(16);
        let api = records.requests.pods_of(&pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let how = LogParams { container: Some("main".into()), follow, ..LogParams::default() };
        let pod = name.clone();
        // Whoever prints may be slower than what writes.
        let put = move |piece| tokio::task::block_in_place(|| put.send(piece)).is_ok();
        records.cluster().runtime().spawn(async move {
            let mut stream = match api.log_stream(&name, &how).await {
                Ok(stream) => stream,
                Err(error) => {
                    put(Err(causes(&error)));
                    return;
                }
            };
            let mut buffer = vec![0; 1 << 14];
            loop {
                let piece = match stream.read(&mut buffer).await {
                    Ok(0) => return,
                    Ok(count) => Ok(buffer[..count].to_vec()),
                    Err(error) => Err(error.to_string()),
                };
                let last = piece.is_err();
                if !put(piece) || last {
                    return;
                }
            }
        });
        Self { pod, title, pieces, broken: None }
    }

    /// Prints what came, and all that is to come where that is asked for. Says whether anything was, and whether
    /// it was the last.
    fn print(&mut self, header: bool, whole: bool, signals: &Signals) -> (bool, bool) {
        let mut any = false;
        // Others have their turn, however much this one writes.
        let turn = if whole { usize::MAX } else { 64 };
        for _ in 0..turn {
            let piece =
                match self.pieces.recv_timeout(Duration::from_millis(u64::from(whole) * 100)) {
                    Ok(Ok(piece)) => piece,
                    Ok(Err(why)) => {
                        self.broken = Some(why);
                        return (any, true);
                    }
                    Err(RecvTimeoutError::Disconnected) => return (any, true),
                    Err(RecvTimeoutError::Timeout) if whole && signals.count() == 0 => continue,
                    Err(RecvTimeoutError::Timeout) => return (any, false),
                };
            if header && !any {
                print::talk(&format!("==> {} <==", self.title));
            }
            any = true;
            print::bytes(&piece);
            if signals.count() > 0 {
                return (any, false);
            }
        }
        (any, false)
    }
}

/// The logs that are meant: names of steps and paths.
fn wanted(run: &Run, step: Option<&str>) -> Result<Vec<(String, String)>, CliError> {
    let all = run
        .steps
        .iter()
        .filter(|record| step.is_none_or(|step| record.name == step || record.base_name() == step));
    let found: Vec<_> = all.map(|record| (record.name.clone(), record.log.clone())).collect();
    if let Some(step) = step.filter(|_| found.is_empty() && !run.steps.is_empty()) {
        let names: Vec<&str> = run.steps.iter().map(|record| record.name.as_str()).collect();
        return Err(CliError::usage(format!("run {} has no step {step:?}", run.name))
            .hint(format!("it has {}", names.join(", "))));
    }
    Ok(found)
}

struct Tail {
    step: String,
    path: PathBuf,
    read: u64,
}

impl Tail {
    /// Prints what is new, in pieces: a log may be larger than memory. Says whether anything was.
    fn print(&mut self, header: bool) -> bool {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return false };
        if file.seek(SeekFrom::Start(self.read)).is_err() {
            return false;
        }
        let mut buffer = vec![0; 1 << 16];
        let mut any = false;
        while let Ok(count) = file.read(&mut buffer) {
            if count == 0 {
                break;
            }
            if header && !any {
                print::talk(&format!("==> {} <==", self.step));
            }
            any = true;
            self.read += count as u64;
            print::bytes(&buffer[..count]);
        }
        any
    }
}
