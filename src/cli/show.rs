//! `show` and `logs`: one run, whole, and what its steps wrote.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::error::{CliError, Code};
use super::global::Global;
use super::print;
use super::run::{pause, report};
use super::session::Session;
use super::signals::Signals;
use crate::plan::Run;
use crate::store::Store;

/// Show one run, its steps and where its results lie
#[derive(clap::Args, Debug)]
pub struct Show {
    /// The run's name, or the beginning of it
    run: String,
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
}

/// Print what the steps of a run wrote
#[derive(clap::Args, Debug)]
pub struct Logs {
    /// The run's name, or the beginning of it
    run: String,
    /// One step, or one point as `train[0]`
    step: Option<String>,
    /// Go on until the run ends
    #[arg(short = 'f', long)]
    follow: bool,
    /// The folder whose state is meant
    #[arg(long, default_value = ".", value_name = "PATH")]
    path: PathBuf,
}

/// Runs `show`.
pub fn show(args: &Show, global: &Global) -> Result<Code, CliError> {
    let session = Session::to_read(global, &args.path)?;
    let stored = session.find_run(&args.run)?;
    let run = session.as_it_stands(&stored);
    report(global, &session, &run, &stored.pipeline.folder)?;
    Ok(Code::Done)
}

/// Runs `logs`.
pub fn logs(args: &Logs, global: &Global) -> Result<Code, CliError> {
    let session = Session::to_read(global, &args.path)?;
    let stored = session.find_run(&args.run)?;
    let signals = Signals::listen()?;
    let name = stored.run.name.clone();
    let root = session.place_of(&stored.run.source).root;
    let mut run = stored.run;
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
        run = match session.store.run(name.as_str())? {
            Some(stored) => stored.run,
            None => return Ok(Code::Done),
        };
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
