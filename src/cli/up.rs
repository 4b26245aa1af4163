//! `up`: reconcile until stopped, or one pass with its runs to their end.
//!
//! Owns waiting. What a pass does is the loop's.

mod publish;
pub mod tell;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use tracing::{error, info, warn};

use super::cluster;
use super::error::{CliError, Code};
use super::follow::{Follower, summary};
use super::global::Global;
use super::lanes::Configuration;
use super::log::{self, LogFormat};
use super::plan::problems_code;
use super::print::{self, Format};
use super::prune;
use super::run::{pause, phase_code};
use super::session::{LocalEngineOptions, Session};
use super::signals::Signals;
use super::status;
use crate::plan::{Phase, Plan, Reason, Run};
use crate::reconcile::{Look, Seeing, SourceSeen};
use crate::source::git::Health;
use crate::spec::Pipeline;
use crate::store::{EngineName, Store, lease};
use crate::types::{Period, RunName, Timestamp};
use crate::web::{Figures, Served, SourceFigures};

/// Runs beyond a pipeline's history go when something was written, and as often as this.
const PRUNE: Duration = Duration::from_secs(3600);

/// A pass that took this long needed memory that the next minutes do not.
const LONG_PASS: Duration = Duration::from_millis(100);

/// Passes are no further apart, whatever sources say of themselves.
const ANYWAY: Duration = Duration::from_secs(300);

/// Passes have at least this between them, whatever happens.
const REST: Duration = Duration::from_millis(300);

/// Reconcile until stopped
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A folder with pipeline files at any depth, or the URL of a git repository
    #[arg(default_value = ".", value_name = "PATH or URL")]
    path: PathBuf,
    /// One pass, its runs to their end
    #[arg(long)]
    once: bool,
    /// How often the source is looked at: 10s for a folder, 60s for a repository
    #[arg(long, value_name = "DURATION")]
    poll: Option<Period>,
    /// How many steps run at a time over all runs of this place
    #[arg(short = 'j', long, value_name = "N")]
    jobs: Option<usize>,
    /// Sources from a file of `NotebookSource` documents
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve `/metrics`, `/healthz`, `/readyz` and the webhooks of sources
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// How the log on stderr is written
    #[arg(long, env = "JUPYTERFLOW_LOG", value_enum, value_name = "FORM", default_value_t)]
    log: LogFormat,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    log::set_up(args.log, global.quiet);
    if cluster::named(global)? == Some(EngineName::Argo) {
        return publish::run(args, global);
    }
    if args.poll.is_some_and(|poll| poll.seconds() == 0) {
        return Err(CliError::usage("--poll 0s would never rest").hint("the least is 1s"));
    }
    if args.once && args.listen.is_some() {
        return Err(CliError::usage("--once serves nobody: leave --listen out"));
    }
    let options = LocalEngineOptions { jobs: args.jobs, foreground: false };
    let mut session = session(args, global, options)?;
    let _lock = only_one(&session.place.state)?;
    let shared = session.store.is_shared();
    if shared && !lease::acquire(&mut session.store, "up")? {
        return Err(second_up(&session.place.state).hint("it works on another machine"));
    }
    session.keep_configuration()?;
    let signals = Signals::listen()?;
    info!("engine: local; state in {}", session.place.state.display());
    let code = if args.once {
        once(args, global, &mut session, &signals)
    } else {
        session.stay();
        forever(args, global, &mut session, &signals)
    };
    if shared {
        session.store.release("up")?;
    }
    code
}

/// The world of what was named: a folder, a configuration of sources, or a repository.
fn session(args: &Args, global: &Global, options: LocalEngineOptions) -> Result<Session, CliError> {
    // A bare repository is no folder to work in.
    let bare = ["HEAD", "objects", "refs"].iter().all(|name| args.path.join(name).exists());
    let foreign = !args.path.exists() && args.path.to_string_lossy().contains(':');
    let url = args.path.to_str().filter(|_| bare || foreign);
    let configuration = match (&args.config, url) {
        (Some(file), _) if args.path == Path::new(".") => Configuration::read(file)?,
        (Some(_), _) => {
            return Err(CliError::usage("PATH and --config are two ways to say what is looked at")
                .hint("give one of them"));
        }
        (None, Some(url)) => {
            let here = Path::new(".").canonicalize().map_err(|error| CliError::bug(&error))?;
            Configuration::of_repository(url, &here, args.poll)?
        }
        (None, None) => return Session::to_write(global, &args.path, options),
    };
    Session::configured(global, configuration, options)
}

fn second_up(state: &Path) -> CliError {
    let state = state.display();
    CliError::usage(format!("another `up` works on the state in {state}")).code(Code::SecondUp)
}

/// The lock of the one `up` of a state.
fn only_one(state: &Path) -> Result<std::fs::File, CliError> {
    let path = state.join("up.lock");
    let lock = std::fs::File::create(&path).map_err(|error| {
        CliError::unreachable(format!("failed to open {}: {error}", path.display()))
    })?;
    // A child of an `up` that was killed holds the lock until it became another program, so one
    // refusal says nothing.
    let patience = Instant::now() + Duration::from_millis(500);
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > patience {
            return Err(
                second_up(state).hint("one is enough: it sees every pipeline below its root")
            );
        }
        pause(10);
    }
    Ok(lock)
}

/// One pass; the runs that it claims or starts again are followed to their end.
fn once(
    args: &Args,
    global: &Global,
    session: &mut Session,
    signals: &Signals,
) -> Result<Code, CliError> {
    let failed = session.poll_all();
    for (name, error) in &failed {
        warn!(source = %name, "warning: source {name}: {error}");
    }
    session.refresh_all()?;
    let look = session.look_twice(Timestamp::now)?;
    let mut code = problems_code(&look.plan.problems);
    if !failed.is_empty() {
        code = code.worse(Code::Unreachable);
    }
    if look.plan.not_done().any(|not_done| not_done.reason == Reason::SourceUnreadable) {
        code = code.worse(Code::Unreachable);
    }
    tell::plan(&look, &mut BTreeSet::new(), args.log);
    let applied = session.apply(&look, Timestamp::now())?;
    code = code.worse(tell::applied(&applied));
    let pipelines = look.plan.actions().filter(|(_, action)| action.run().is_some());
    let pipelines: BTreeSet<_> = pipelines.map(|(id, _)| id.clone()).collect();
    let wanted = look.plan.actions().filter_map(|(_, action)| action.run().cloned());
    let mut open: Vec<RunName> = wanted.collect();
    let mut ended: Vec<Run> = Vec::new();
    let mut follower = Follower::new(global.quiet);
    let for_people = args.log == LogFormat::Text;
    while !open.is_empty() {
        in_place(session)?;
        let mut moving = false;
        for id in &pipelines {
            let next = session.start_next(id)?;
            moving |= !next.started.is_empty();
            code = code.worse(tell::applied(&next));
        }
        for name in &open {
            moving |= session.is_at_work(name)?
                || session.run(name)?.is_some_and(|run| run.phase != Phase::Pending);
        }
        if !moving {
            follower.say("what is left waits for a person, or for a run of another process");
            break;
        }
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until && !open.is_empty() {
            let mut still = Vec::new();
            for name in std::mem::take(&mut open) {
                let Some(run) = session.run(&name)? else { continue };
                if for_people {
                    follower.show(&run);
                } else if run.phase.is_ended() {
                    tell::end(&run);
                }
                if run.phase.is_ended() { ended.push(run) } else { still.push(name) }
            }
            open = still;
            if let Some(number) = signals.received() {
                follower.clear();
                info!("the runs go on; `jupyterflow status` shows them");
                return Ok(Code::Signal(number));
            }
            pause(30);
        }
    }
    follower.clear();
    for run in &ended {
        code = code.worse(match run.phase {
            // A run that other files superseded is no failure: the next pass runs those.
            Phase::Skipped => Code::Done,
            phase => phase_code(phase),
        });
    }
    finish(global, session, &look, &ended)?;
    Ok(code)
}

fn finish(
    global: &Global,
    session: &mut Session,
    look: &Look,
    ended: &[Run],
) -> Result<(), CliError> {
    if global.output != Format::Table {
        return status::print_status(global, session, ended.to_vec());
    }
    if global.quiet {
        return Ok(());
    }
    for run in ended {
        let folder = look.plan.actions().find(|(_, action)| action.run() == Some(&run.name));
        let folder = folder.map(|(id, _)| id.folder.clone()).unwrap_or_default();
        print::data(&format!("{}\n", summary(&session.place_of(&run.source), run, &folder)));
    }
    if ended.is_empty() {
        print::data(&super::plan::table(&Plan { problems: Vec::new(), ..look.plan.clone() }));
    }
    Ok(())
}

/// Passes until a signal: when the poll is due, when a schedule is, and when the store says that
/// something happened.
fn forever(
    args: &Args,
    global: &Global,
    session: &mut Session,
    signals: &Signals,
) -> Result<Code, CliError> {
    let mut told = BTreeSet::new();
    let mut open: BTreeSet<RunName> = BTreeSet::new();
    let mut trouble = None;
    let mut watched = Vec::new();
    let mut figures = Figures::default();
    let served = args.listen.as_deref().map(|address| listen(address, session)).transpose()?;
    let mut pruned = (None, Instant::now());
    loop {
        in_place(session)?;
        let answers = session.answers();
        let mut hints = session.hints();
        let begin = Instant::now();
        let passed = pass(session, args.log, &mut told, &mut open, &mut pruned, &mut figures);
        if begin.elapsed() > LONG_PASS {
            crate::executor::return_free_memory();
        }
        figures.passes += 1;
        figures.pass_seconds = begin.elapsed().as_secs_f64();
        figures.failed_passes += u64::from(passed.is_err());
        let Passed { pulse, next, quiet } = match passed {
            Ok(passed) => {
                trouble = None;
                passed
            }
            // A second `up` is for a person; a full disk or a source that is away may pass.
            Err(error) if error.code == Code::SecondUp => return Err(error),
            Err(error) => {
                let words = error.to_string();
                if trouble.as_ref() != Some(&words) {
                    error!("{words}");
                }
                trouble = Some(words);
                Passed::default()
            }
        };
        if global.verbose > 0 {
            info!("looked");
        }
        let watching = session.watch_troubles();
        watching.iter().filter(|words| !watched.contains(*words)).for_each(|words| {
            warn!("warning: {words}");
        });
        watched = watching;
        // Whoever saves all the time has looks at most a tenth of the time.
        let mut hinted = Instant::now() + REST.max(begin.elapsed() * 10);
        let rest = Instant::now() + REST;
        let own = args.poll.map(Period::duration).or_else(|| session.folder_poll());
        let own = own.unwrap_or(Duration::from_secs(60));
        let mut due = Instant::now() + own;
        let anyway = Instant::now() + ANYWAY;
        if let Some(served) = &served {
            let within = due.saturating_duration_since(begin) * 3 + Duration::from_secs(60);
            served.show(figures.clone(), within);
        }
        let shared = session.store.is_shared();
        let anyway = if shared { Instant::now() + lease::RENEWAL } else { anyway };
        due = due.min(anyway);
        loop {
            if let Some(number) = signals.received() {
                info!("stopped; runs go on, and the next `up` finds them");
                return Ok(Code::Signal(number));
            }
            let tick = next.is_some_and(|next| next <= Timestamp::now());
            let woken = || {
                let stored = || session.store.pulse().is_ok_and(|now| Some(now) != pulse);
                session.answers() != answers || (pulse.is_some() && stored())
            };
            let early = Instant::now() >= rest && (tick || woken());
            if early || next.is_none() && pulse.is_none() && Instant::now() >= due {
                break;
            }
            if session.hints() != hints && Instant::now() >= hinted {
                (hints, due) = (session.hints(), Instant::now());
            }
            if Instant::now() >= due {
                let asked = Instant::now();
                // Where nothing was written to and nothing is at work, a look would show the same.
                let same = quiet && session.store.open_runs().is_ok_and(|count| count == 0);
                if Instant::now() >= anyway || !same || session.may_have_changed() {
                    break;
                }
                due = Instant::now() + own;
                hinted = Instant::now() + REST.max(asked.elapsed() * 10);
                if let Some(served) = &served {
                    served.show(figures.clone(), own * 3 + Duration::from_secs(60));
                }
            }
            pause(100);
        }
    }
}

fn in_place(session: &Session) -> Result<(), CliError> {
    if session.store.is_in_place() {
        return Ok(());
    }
    let state = session.place.state.display();
    Err(CliError::unreachable(format!("the state in {state} was moved or removed")))
}

/// What a pass leaves behind.
#[derive(Default)]
struct Passed {
    /// The store's pulse.
    pulse: Option<i64>,
    /// The next instant at which another is due.
    next: Option<Timestamp>,
    /// Whether nothing waits for what no source and no clock tells.
    quiet: bool,
}

/// One pass.
fn pass(
    session: &mut Session,
    log: LogFormat,
    told: &mut BTreeSet<String>,
    open: &mut BTreeSet<RunName>,
    pruned: &mut (Option<i64>, Instant),
    figures: &mut Figures,
) -> Result<Passed, CliError> {
    if session.store.is_shared() && !session.store.hold("up", None)? {
        return Err(second_up(&session.place.state).hint("another machine took over"));
    }
    let pulse = session.store.pulse()?;
    let now = Timestamp::now();
    session.refresh_all()?;
    let look = session.look(now)?;
    tell::plan(&look, told, log);
    let applied = session.apply(&look, now)?;
    tell::applied(&applied);
    figures.started += applied.started.len() as u64;
    open.extend(applied.started.into_iter().map(|run| run.name));
    for run in tell::ends(open, |name| session.run(name))? {
        count(&mut figures.ended, run.phase.word());
    }
    take_figures(session, &look, figures)?;
    let surplus = |seeing: &Seeing| {
        let history = seeing.pipeline.as_ref().map(Pipeline::history);
        history.is_some_and(|one| seeing.ended.0 > one.successful || seeing.ended.1 > one.failed)
    };
    let (last, at) = *pruned;
    let changed = last != Some(pulse) && look.pipelines().any(|(_, seeing)| surplus(seeing));
    if changed || at.elapsed() > PRUNE {
        *pruned = (Some(pulse), Instant::now());
        if let Err(error) = prune::prune(session, &look) {
            error!("{error}");
        }
    }
    // Only what others wrote in the meantime wakes the next pass.
    let restless = look.plan.not_done().any(|one| match one.reason {
        Reason::Waiting
        | Reason::LimitReached
        | Reason::MissingSecret
        | Reason::SourceUnreadable
        | Reason::Unknown
        | Reason::Forbidden => true,
        Reason::UpToDate
        | Reason::Settling
        | Reason::Superseded
        | Reason::Suspended
        | Reason::Missed
        | Reason::TooLate
        | Reason::Adopted
        | Reason::Orphaned
        | Reason::ManagedElsewhere
        | Reason::NotExecutedYet
        | Reason::Backoff
        | Reason::StillNeeded
        | Reason::InvalidFile
        | Reason::MissingOutput
        | Reason::NameTaken
        | Reason::WrittenByRun
        | Reason::SourceChanged => false,
    });
    let pulse = Some(pulse + applied.writes);
    Ok(Passed { pulse, next: next_instant(&look, now), quiet: !restless })
}

/// The next instant at which a schedule fires or a source has settled.
pub fn next_instant(look: &Look, now: Timestamp) -> Option<Timestamp> {
    let ledgers = look.plan.pipelines.iter().map(|(_, plan)| &plan.ledger);
    let ticks = ledgers.flat_map(|ledger| ledger.schedules.iter().filter_map(|s| s.next));
    let until = look.plan.not_done().filter_map(|not_done| not_done.until);
    // What this pass did not answer now, it will not answer by being asked again at once.
    ticks.chain(until).filter(|at| *at > now).min()
}

/// Listens, and lets webhooks bring polls forward.
fn listen(address: &str, session: &Session) -> Result<Arc<Served>, CliError> {
    let configuration = session.configuration.as_ref();
    let (hooks, lacking) = configuration.map(Configuration::hooks).unwrap_or_default();
    for source in lacking {
        warn!(
            "warning: source {source}: the secret of its webhook is not there, or others may read it"
        );
    }
    let paths: Vec<String> = hooks
        .iter()
        .map(|hook| format!("webhook of source {}: /hooks/{}", hook.source, hook.id))
        .collect();
    let poller = session.poller.clone();
    let polled = poller.clone();
    let wake = move |source: &str| {
        if let Some(poller) = &poller {
            poller.nudge(source);
        }
    };
    // Polls go on while passes have nothing to do.
    let freshen = move |figures: &mut Figures| {
        let health = polled.as_ref().map(|poller| poller.health()).unwrap_or_default();
        let health: HashMap<&str, &Health> =
            health.iter().map(|(name, health)| (name.as_str(), health)).collect();
        for source in &mut figures.sources {
            let own = source.name.split_once('@').map_or(source.name.as_str(), |(name, _)| name);
            let Some(health) = health.get(own) else { continue };
            source.answered = health.answered.map(|at| at.as_duration().as_secs_f64());
            source.polls = Some(health.polls);
        }
    };
    let served = Served::new(hooks, wake, freshen);
    let bound = crate::web::serve(address, Arc::clone(&served))
        .map_err(|error| CliError::usage(format!("failed to listen on {address}: {error}")))?;
    info!("listening on http://{bound}");
    paths.iter().for_each(|path| info!("{path}"));
    Ok(served)
}

fn count(counts: &mut Vec<(String, u64)>, word: &str) {
    match counts.iter_mut().find(|(known, _)| known == word) {
        Some((_, count)) => *count += 1,
        None => counts.push((word.to_owned(), 1)),
    }
}

/// The figures of a pass.
fn take_figures(session: &Session, look: &Look, figures: &mut Figures) -> Result<(), CliError> {
    figures.not_done.clear();
    look.plan.not_done().for_each(|one| count(&mut figures.not_done, &one.reason.to_string()));
    figures.open = session.store.open_runs()?;
    let mut pipelines: HashMap<&str, u64> = HashMap::new();
    look.pipelines().for_each(|(id, _)| *pipelines.entry(&id.source).or_default() += 1);
    let source = |seen: &SourceSeen| SourceFigures {
        name: seen.name.clone(),
        ready: seen.message.is_none(),
        pipelines: pipelines.get(seen.name.as_str()).copied().unwrap_or(0),
        answered: None,
        polls: None,
    };
    figures.sources = look.sources.iter().map(source).collect();
    Ok(())
}
