//! `run`: one manual run now, followed to its end.

use std::time::{Duration, Instant};

use super::cluster;
use super::error::{CliError, Code};
use super::follow::{Follower, summary};
use super::global::Global;
use super::place::Place;
use super::print::{self, Format};
use super::records::Records;
use super::session::{LocalEngineOptions, Session};
use super::signals::Signals;
use super::target::{Definition, Wanted};
use crate::controller::records::file_of;
use crate::controller::requests::Wanted as Asked;
use crate::engine::Engine;
use crate::engine::step::kept::kept;
use crate::notebook::parameters::Parameter;
use crate::plan::{Phase, Run};
use crate::reconcile::{self, Request, RequestError};
use crate::store::{EngineName, Given, Store, StoredRun};
use crate::types::Timestamp;

/// Run a pipeline, a notebook or a flow now, and follow it to its end
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    how: How,
    /// Of JupyterFlow 0.0.x
    #[arg(long, hide = true)]
    dry_run: bool,
}

/// Parameters that a person gives.
#[derive(clap::Args, Debug)]
pub struct Parameters {
    /// A parameter, its value typed as papermill does
    #[arg(short = 'p', long = "parameters", num_args = 2, value_names = ["NAME", "VALUE"],
          action = clap::ArgAction::Append, allow_hyphen_values = true)]
    parameters: Vec<String>,
}

/// How a run is asked for and waited for.
#[derive(clap::Args, Debug)]
pub struct How {
    #[command(flatten)]
    parameters: Parameters,
    /// Refuse parameters that the pipeline does not declare
    #[arg(long)]
    strict: bool,
    /// How many steps run at a time over all runs of this place
    #[arg(short = 'j', long, value_name = "N")]
    jobs: Option<usize>,
    /// Start it and return; its name is printed
    #[arg(short = 'd', long)]
    detach: bool,
}

impl Parameters {
    /// Their names and values.
    pub fn given(&self) -> Given {
        let pairs = self.parameters.chunks(2);
        pairs.map(|pair| (pair[0].clone(), Parameter::from_word(&pair[1]).to_json())).collect()
    }
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    if args.dry_run {
        return Err(CliError::usage("--dry-run is gone")
            .hint("`jupyterflow plan` and `jupyterflow graph` show what would run"));
    }
    let (engine, why) = cluster::chosen(global)?;
    let Wanted { target, file, flow, pipeline } = &args.wanted;
    let unnamed = target.is_none() && file.is_none() && flow.is_none();
    let definition = match Definition::of_state(global, pipeline.as_deref())? {
        Some(known) if unnamed => known,
        _ => Definition::find(global, &args.wanted)?,
    };
    print::talk(&why);
    ask(global, &definition, engine, &args.how, None, None)
}

/// Records a request and waits for its end.
pub fn ask(
    global: &Global,
    definition: &Definition,
    engine: EngineName,
    how: &How,
    again: Option<StoredRun>,
    from: Option<&str>,
) -> Result<Code, CliError> {
    let options = LocalEngineOptions { jobs: how.jobs, foreground: !how.detach };
    let mut session = Session::to_write(global, &definition.path, options)?;
    if engine == EngineName::Argo {
        if session.configuration.is_some() {
            return Err(CliError::usage(
                "sources of --config need the local engine in this version",
            )
            .hint("use --engine local, or run it in the source's own folder"));
        }
        session.engine.choose_argo()?;
    }
    if let Some(again) = &again {
        session.refresh(&again.run.name)?;
    }
    let mut params = again.as_ref().map(|stored| stored.run.params.clone()).unwrap_or_default();
    params.extend(how.parameters.given());
    let request = Request {
        pipeline: &definition.pipeline,
        definition: definition.text.clone(),
        params,
        strict: how.strict,
        again,
        from,
        key: uuid::Uuid::now_v7().to_string(),
    };
    let (mut world, scope) = session.world_of(&definition.source);
    let (stored, warnings) = reconcile::request(&mut world, &scope, request, Timestamp::now())?;
    for warning in warnings {
        print::talk(&format!("warning: {warning}"));
    }
    if how.detach {
        hand_over(&mut session, &stored)?;
        let names = || vec![stored.run.name.to_string()];
        print::document(global.output, "Run", &stored.run, || stored.run.name.to_string(), names)?;
        return Ok(Code::Done);
    }
    follow(global, &mut session, &stored)
}

/// How long an engine may take to take a run up that nobody follows.
const HANDED_OVER: Duration = Duration::from_secs(60);

/// Starts a run, and waits until it goes on by itself.
fn hand_over(session: &mut Session, stored: &StoredRun) -> Result<(), CliError> {
    let (id, name, began) = (&stored.pipeline, &stored.run.name, Instant::now());
    let mut applied = session.start_next(id)?;
    if let Some(error) = applied.failed.first() {
        return Err(CliError::unreachable(error.to_string()));
    }
    if applied.started.iter().all(|run| run.name != *name) {
        print::talk(&format!("{name} waits for another run; `jupyterflow up` starts it then"));
        return Ok(());
    }
    loop {
        let mut failed = applied.failed.iter();
        if let Some(error) = failed.find(|error| error.run == *name && !error.passing) {
            return Err(CliError::unreachable(error.to_string()));
        }
        let known = session.store.run(name.as_str())?;
        if known.is_none_or(|one| one.run.phase.is_ended() || session.engine.took_up(&one)) {
            return Ok(());
        }
        if began.elapsed() > HANDED_OVER {
            print::talk(&format!("{name} is started; its engine has not taken it up yet"));
            return Ok(());
        }
        pause(200);
        applied = session.start_next(id)?;
    }
}

/// A run that was asked for has begun by then, where nothing holds it up.
const BEGINS: Duration = Duration::from_secs(15);

/// Asks a controller for a run again, whole or from a step on, and follows it to its end.
pub fn ask_controller(
    global: &Global,
    records: &Records,
    again: &StoredRun,
    from: Option<&str>,
    how: &How,
) -> Result<Code, CliError> {
    let id = &again.pipeline;
    let mut params = again.run.params.clone();
    params.extend(how.parameters.given());
    let known = records.object(id);
    let pipeline =
        known.as_ref().and_then(|object| file_of(object)?.pipeline(&id.name, usize::MAX));
    let orphaned = records.condition(id).is_some_and(|one| one.reason == "Orphaned");
    let Some(pipeline) = pipeline.filter(|_| !orphaned) else {
        let message = format!("the pipeline of run {} is gone from its source", again.run.name);
        return Err(CliError::usage(message).hint("where it is there again, it can be repeated"));
    };
    for warning in reconcile::check_parameters(&pipeline, &params, how.strict)? {
        print::talk(&format!("warning: {warning}"));
    }
    if let Some(from) = from {
        // What the controller would refuse is said at once.
        if !records.store.is_whole(&again.run.name) {
            let message = format!("run {} left more than its record holds", again.run.name);
            return Err(CliError::usage(message).hint("retry without --from"));
        }
        kept(&pipeline, &records.store.steps(&again.run.name)?, from)
            .map_err(RequestError::from)?;
    }
    let (again, from) = (Some(again.run.name.clone()), from.map(str::to_owned));
    let key = uuid::Uuid::now_v7().to_string();
    let name = records.ask_for(id, Asked { params, again, from, key })?;
    let signals = Signals::listen()?;
    if !how.detach {
        print::talk(&format!("run {name} is asked for; the controller starts it"));
    }
    let (asked, mut told) = (Instant::now(), String::new());
    let mut follower = Follower::new(global.quiet);
    let mut stops = 0;
    let run = loop {
        let Some(run) = records.run(&name)? else {
            return Err(CliError::failed(format!("run {name} was deleted while it ran")));
        };
        if how.detach {
            let names = || vec![name.to_string()];
            print::document(global.output, "Run", &run, || name.to_string(), names)?;
            return Ok(Code::Done);
        }
        follower.show(&run);
        // Why it waits is its pipeline's to say.
        let waits = run.phase == Phase::Pending && asked.elapsed() > BEGINS;
        let why = waits.then(|| records.condition(id)).flatten().map(|one| one.message);
        if let Some(why) = why.filter(|why| *why != told) {
            follower.say(&format!("{name} waits: {}", print::printable(&why)));
            told = why;
        }
        if run.phase.is_ended() {
            break run;
        }
        if signals.count() > stops {
            if stops > 0 {
                follower.clear();
                print::talk("the stop is recorded: the controller carries it out");
                return Ok(signals.received().map_or(Code::Failed, Code::Signal));
            }
            follower.say("stopping the run; once more waits no longer");
            let asked = records.requests.stop(&records.key_of(&name));
            asked.map_err(|why| records.error("stop a run", &why))?;
            stops = 1;
        }
        pause(100);
    };
    follower.clear();
    report(global, &records.place(id), &run, &id.folder)?;
    match signals.received() {
        Some(number) if run.phase == Phase::Stopped => Ok(Code::Signal(number)),
        _ => Ok(phase_code(run.phase)),
    }
}

/// How long an engine may be out of reach.
const PATIENCE: Duration = Duration::from_secs(300);

/// Follows a run to its end, starting whatever of its pipeline is next.
fn follow(global: &Global, session: &mut Session, stored: &StoredRun) -> Result<Code, CliError> {
    let signals = Signals::listen()?;
    let mut follower = Follower::new(global.quiet);
    let (name, mut heard, mut tick) = (&stored.run.name, 0, 0_u32);
    let mut troubled: Option<Instant> = None;
    let run = loop {
        if tick.is_multiple_of(20) {
            let applied = session.start_next(&stored.pipeline)?;
            match applied.failed.first() {
                None => troubled = None,
                // The run is recorded: a cluster that is away for a while holds it up, no more.
                Some(error) if error.passing => {
                    let since = *troubled.get_or_insert_with(|| {
                        follower.say(&error.to_string());
                        Instant::now()
                    });
                    if since.elapsed() > PATIENCE {
                        return Err(CliError::unreachable(error.to_string()).hint(
                            "the run is recorded: the next `run` of its pipeline takes it up",
                        ));
                    }
                }
                Some(error) => return Err(CliError::unreachable(error.to_string())),
            }
        }
        tick += 1;
        if !session.store.is_in_place() {
            let state = session.place.state.display();
            let message = format!("the state in {state} was moved or removed while the run was on");
            return Err(CliError::unreachable(message)
                .hint("where it lies now, `jupyterflow up` takes the run up again"));
        }
        let Some(run) = session.run(name)? else {
            return Err(CliError::failed(format!("run {name} was deleted while it ran")));
        };
        follower.show(&run);
        if run.phase.is_ended() {
            session.refresh(name)?;
            break run;
        }
        let count = signals.count();
        if count > heard {
            if heard == 0 {
                follower.say("stopping the run; once more ends it at once");
                session.store.request_stop(name, None)?;
            } else if let Some(stored) = session.store.run(name.as_str())? {
                session.engine.kill(&stored);
            }
            heard = count;
            tick = 0;
        }
        pause(if tick < 50 { 20 } else { 100 });
    };
    follower.clear();
    report(global, &session.place_of(&run.source), &run, &stored.pipeline.folder)?;
    match signals.received() {
        Some(number) if run.phase == Phase::Stopped => Ok(Code::Signal(number)),
        _ => Ok(phase_code(run.phase)),
    }
}

/// Prints what came of a run.
pub fn report(global: &Global, place: &Place, run: &Run, folder: &str) -> Result<(), CliError> {
    let names = || vec![run.name.to_string()];
    if global.output == Format::Table && global.quiet {
        return Ok(());
    }
    print::document(global.output, "Run", run, || summary(place, run, folder), names)
}

/// The exit code of a run's end.
pub fn phase_code(phase: Phase) -> Code {
    if phase == Phase::Succeeded { Code::Done } else { Code::Failed }
}

/// Waits a little: what is waited for is in another process.
pub fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

impl From<RequestError> for CliError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Store(error) => error.into(),
            RequestError::Refused { message, hint: Some(hint) } => Self::usage(message).hint(hint),
            RequestError::Refused { message, hint: None } => Self::usage(message),
        }
    }
}
