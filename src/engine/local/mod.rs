//! The embedded engine: each run is hosted by a process of its own on this machine.
//!
//! Owns starting and observing hosts. A host survives whoever started it; the kernel of the machine
//! releases its lock when it dies, so a look is always true.

#![expect(
    unsafe_code,
    reason = "a foreground host asks the kernel of the machine to end with its terminal"
)]
#![expect(clippy::disallowed_methods, reason = "starts hosts and looks at their locks")]

mod host;
mod secrets;
mod slots;
mod supervisor;

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::Signal;

use super::step::processes;
use super::{Engine, EngineError};
use crate::plan::Observed;
use crate::spec::Pipeline;
use crate::store::StoredRun;
use crate::types::{PipelineId, RunName};

pub use host::{Hosting, host};
pub use supervisor::supervise;

/// The engine over one state.
pub struct LocalEngine {
    state: PathBuf,
    root: PathBuf,
    jobs: usize,
    foreground: bool,
    supervisors: Vec<(RunName, Child)>,
    /// How often the host of a run could not work at all, and when it last was so.
    failures: HashMap<RunName, (u32, Instant)>,
}

/// A host that fails so often in a row is not started again for a while.
const FAILURES: u32 = 3;
/// That while.
const REST: Duration = Duration::from_secs(60);

impl LocalEngine {
    /// An engine whose hosts share `jobs` parallel steps. Hosts of the foreground end with this
    /// process, others do not.
    pub fn new(state: &Path, root: &Path, jobs: usize, foreground: bool) -> Self {
        let (state, root) = (state.to_owned(), root.to_owned());
        Self { state, root, jobs, foreground, supervisors: Vec::new(), failures: HashMap::new() }
    }

    /// Takes note of supervisors that ended. A host that was killed may start again; one that says
    /// itself that it cannot work, such as on a full disk, gets a rest.
    fn reap(&mut self) {
        let failures = &mut self.failures;
        self.supervisors.retain_mut(|(run, child)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) if matches!(status.code(), Some(2..=127)) => {
                let entry = failures.entry(run.clone()).or_insert((0, Instant::now()));
                *entry = (if entry.1.elapsed() < REST { entry.0 + 1 } else { 1 }, Instant::now());
                false
            }
            _ => {
                failures.remove(run);
                false
            }
        });
    }

    fn last_words(&self, run: &RunName) -> String {
        let log = self.state.join("hosts").join(format!("{run}.log"));
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let last = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
        last.map_or_else(|| "is the disk full?".into(), str::to_owned)
    }

    /// Ends the host of a run at once, with all that it started.
    pub fn kill(&mut self, run: &RunName) {
        let Ok(id) = processes::state_id(&self.state) else { return };
        for process in processes::carrying(&id, processes::SUPERVISOR_VARIABLE, run.as_str()) {
            let _ = rustix::process::kill_process(process, Signal::QUIT);
        }
    }

    fn spawn(&self, run: &RunName) -> std::io::Result<Child> {
        let folder = self.state.join("hosts");
        // Only the last part is made: a state that was moved away is not made anew.
        if !folder.is_dir() {
            std::fs::create_dir(&folder)?;
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join(format!("{run}.log")))?;
        let mut command = Command::new(processes::program()?);
        command
            .arg("internal-supervise")
            .arg("--state")
            .arg(&self.state)
            .arg("--root")
            .arg(&self.root)
            .arg("--jobs")
            .arg(self.jobs.to_string())
            .arg(run.as_str())
            .env(processes::SUPERVISOR_VARIABLE, run.as_str())
            .env(processes::STATE_ID, processes::state_id(&self.state)?)
            // A run that a step of another run asks for is one of its own.
            .env_remove(processes::RUN_VARIABLE)
            .env_remove(processes::OUTPUT_DIR)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let foreground = self.foreground;
        // SAFETY: between fork and exec only system calls are made, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                // A session of its own: the terminal's signals reach us, who then decide.
                rustix::process::setsid()?;
                if foreground {
                    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
                }
                Ok(())
            });
        }
        command.spawn()
    }

    fn look(&self, run: &RunName) -> Observed<()> {
        let path = supervisor::lock_path(&self.state, run);
        match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Observed::Absent,
            Err(_) => Observed::Unknown,
            Ok(file) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => Observed::Absent,
                Err(rustix::io::Errno::WOULDBLOCK) => Observed::Known(()),
                Err(_) => Observed::Unknown,
            },
        }
    }
}

impl Engine for LocalEngine {
    fn observe(&self, run: &StoredRun) -> Observed<()> {
        self.look(&run.run.name)
    }

    fn start(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        let run = &run.run.name;
        self.reap();
        let failed = |message: String| EngineError::new("start", run, message);
        if let Some((count, at)) = self.failures.get(run)
            && *count >= FAILURES
            && at.elapsed() < REST
        {
            let words = self.last_words(run);
            return Err(failed(format!("its host could not work, {count} times: {words}")));
        }
        let mut child = self.spawn(run).map_err(|error| failed(error.to_string()))?;
        // Once the lock is held, or the host is through already, a look sees the start.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.look(run) == Observed::Absent && Instant::now() < deadline {
            if let Ok(Some(_)) = child.try_wait() {
                break;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        self.supervisors.push((run.clone(), child));
        Ok(())
    }

    fn lacks(&self, _: &PipelineId, pipeline: &Pipeline) -> Option<String> {
        secrets::missing(pipeline)
    }

    fn stop(&mut self, run: &StoredRun) -> Result<(), EngineError> {
        // A host looks for the recorded stop several times a second. Without one, whatever it
        // left behind ends now.
        let run = &run.run.name;
        if self.look(run) != Observed::Absent {
            return Ok(());
        }
        let failed = |message| EngineError::new("stop", run, message);
        processes::end_all_of_run(&self.state, run.as_str()).map_err(failed)
    }
}
