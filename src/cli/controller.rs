//! `controller`: reconciles the sources of a cluster until it is stopped.
//!
//! Owns waiting, and which of several controllers works. What a pass does is the loop's; where things are
//! kept is the room's of the same name.

mod backfills;
mod describe;
mod repositories;
mod troubles;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use self::describe::Describing;
use self::repositories::Repositories;
use self::troubles::Troubles;
use super::cluster::{Cluster, program_image};
use super::error::{CliError, Code};
use super::global::Global;
use super::lanes::{self, Configuration, Lane, Looking};
use super::log::{self, LogFormat};
use super::run::pause;
use super::signals::Signals;
use super::up::{next_instant, tell};
use crate::controller::ClusterStore;
use crate::controller::environments::Environments;
use crate::controller::events::Events;
use crate::controller::kubernetes::Kubernetes;
use crate::controller::leader::Leader;
use crate::controller::objects::Key;
use crate::controller::pods::Pods;
use crate::controller::published::{self, PublishedSource};
use crate::controller::records::bare;
use crate::controller::sources::{Said, Sources};
use crate::controller::tenants::{Served, Tenants};
use crate::controller::workflows::Workflows;
use crate::engine::argo::ArgoEngine;
use crate::plan::{Reason, Run, prunable};
use crate::reconcile::{self, Acting, Applied, Look, PassError, Scope, World};
use crate::source::Hints;
use crate::store::{Store, StoreError};
use crate::types::{RunName, Timestamp};
use crate::web::{self, Figures};

/// How long passes wait for first lists.
const FIRST: Duration = Duration::from_secs(60);

/// Passes have at least this between them, whatever happens.
const REST: Duration = Duration::from_millis(100);

/// Looks are no further apart, whatever sources say.
const LOOKS: Duration = Duration::from_secs(60);

/// So many pipelines are written at a time.
const WORKERS: usize = 8;

/// Nothing takes so long; a pass that does hangs.
const HANGS: Duration = Duration::from_secs(300);

/// Reconcile the sources of a cluster until stopped
#[derive(clap::Args, Debug)]
pub struct Args {
    /// One namespace only; all unless given
    #[arg(short = 'n', long, value_name = "NAME")]
    namespace: Option<String>,
    /// The namespace of the lease by which one of several controllers works; its own unless given
    #[arg(long, value_name = "NAME")]
    lease_namespace: Option<String>,
    /// Where repositories are mirrored
    #[arg(long, value_name = "DIR", default_value = "/var/cache/jupyterflow")]
    cache: PathBuf,
    /// The most Workflows that are made in a second
    #[arg(long, value_name = "N", default_value_t = 200)]
    creations: u32,
    /// Serve `/metrics`, `/healthz` and `/readyz`
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// A kind of object that resource steps of pipelines which users published may make, as `Job.batch`
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// How the log on stderr is written
    #[arg(long, env = "JUPYTERFLOW_LOG", value_enum, value_name = "FORM", default_value_t)]
    log: LogFormat,
}

/// A controller at work.
struct Controller {
    store: ClusterStore<Kubernetes>,
    engine: ArgoEngine,
    workflows: Workflows,
    pods: Pods,
    environments: Environments,
    sources: Sources,
    events: Events,
    /// What was told of the last pass's actions.
    described: BTreeSet<String>,
    tenants: Tenants,
    served: Vec<Served>,
    published: Vec<String>,
    lanes: Vec<Lane>,
    looking: Looking,
    repositories: Repositories,
    cache: PathBuf,
    log: LogFormat,
    figures: Figures,
    told: BTreeSet<String>,
    troubles: BTreeSet<String>,
    open: BTreeSet<RunName>,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global) -> Result<Code, CliError> {
    log::set_up(args.log, global.quiet);
    let signals = Signals::listen()?;
    let cluster = Cluster::connect()?;
    let (runtime, client) = (Arc::clone(cluster.runtime()), cluster.client().clone());
    let pulse = Arc::new(AtomicI64::new(0));
    let namespace = args.namespace.as_deref();
    let own = args.lease_namespace.as_deref().unwrap_or_else(|| cluster.namespace());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let identity = format!("{host}_{}", std::process::id());
    let events = Events::new(&runtime, client.clone(), &identity);
    let leader = Leader::contend(&runtime, client.clone(), own, identity);
    let objects =
        Kubernetes::new(Arc::clone(&runtime), client.clone(), namespace, Arc::clone(&pulse));
    let workflows =
        Workflows::new(Arc::clone(&runtime), client.clone(), namespace, Arc::clone(&pulse));
    let environments = Environments::new(Arc::clone(&runtime), client.clone(), namespace, &pulse);
    let sources = Sources::new(Arc::clone(&runtime), client.clone(), namespace, &pulse);
    let ready = || {
        objects.is_ready() && workflows.is_ready() && environments.is_ready() && sources.is_ready()
    };
    let served = args.listen.as_deref().map(listen).transpose()?;
    let until = Instant::now() + FIRST;
    while !ready() {
        if let Some(number) = signals.received() {
            leader.resign(&runtime);
            return Ok(Code::Signal(number));
        }
        if Instant::now() > until {
            return Err(CliError::unreachable(
                "the cluster did not list what there is within 60 s",
            )
            .hint("are the custom resources there, and may this service account watch them?"));
        }
        pause(20);
    }
    let (kinds, image) = (args.kinds.clone(), program_image());
    let tenants = Tenants::new(objects.clone(), environments.clone(), image, kinds);
    let places = tenants.clone();
    let store = ClusterStore::new(objects, Arc::new(move |id| places.namespace_of(id)));
    let engine = ArgoEngine::new(
        Arc::clone(&runtime),
        client,
        Arc::new(tenants.clone()),
        Arc::new(workflows.clone()),
    );
    let mut controller = Controller {
        pods: Pods::new(Arc::clone(&runtime), cluster.client().clone()),
        store,
        engine: engine.holding(args.creations).asking(cluster.server()),
        workflows,
        environments,
        sources,
        events,
        described: BTreeSet::new(),
        tenants,
        served: Vec::new(),
        published: Vec::new(),
        lanes: Vec::new(),
        looking: Looking { max_points: global.max_points, stays: true },
        repositories: Repositories::new(&args.cache, own),
        cache: args.cache.clone(),
        log: args.log,
        figures: Figures::default(),
        told: BTreeSet::new(),
        troubles: BTreeSet::new(),
        open: BTreeSet::new(),
    };
    let code = controller.work(&leader, &signals, served.as_deref());
    leader.resign(&runtime);
    Ok(code)
}

/// Acts on a plan: several at a time, since each claim waits for some answers of the server.
fn act(
    store: &ClusterStore<Kubernetes>,
    engine: &ArgoEngine,
    scope: &Scope,
    look: &Look,
    now: Timestamp,
) -> Result<Applied, StoreError> {
    std::thread::scope(|threads| {
        let part = |worker: usize| {
            let (mut store, mut engine) = (store.clone(), engine.clone());
            move || {
                let mut acting = Acting { store: &mut store, engine: &mut engine };
                let own = |at: usize| at % WORKERS == worker;
                reconcile::apply_part(&mut acting, scope, look, now, own)
            }
        };
        let parts: Vec<_> = (0..WORKERS).map(|worker| threads.spawn(part(worker))).collect();
        let mut all = Applied::default();
        for one in parts {
            match one.join() {
                Ok(applied) => all.merge(applied?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })
}

/// Listens; there are no hooks yet.
fn listen(address: &str) -> Result<Arc<web::Served>, CliError> {
    let served = web::Served::new(Vec::new(), |_| {}, |_| {});
    let bound = web::serve(address, Arc::clone(&served))
        .map_err(|error| CliError::usage(format!("failed to listen on {address}: {error}")))?;
    info!("listening on http://{bound}");
    Ok(served)
}

impl Controller {
    /// Passes until a signal.
    fn work(&mut self, leader: &Leader, signals: &Signals, served: Option<&web::Served>) -> Code {
        let mut trouble = String::new();
        let mut leads = false;
        loop {
            if let Some(number) = signals.received() {
                info!("stopped; runs go on, and the next controller finds them");
                return Code::Signal(number);
            }
            if leads != leader.is_leading() {
                leads = !leads;
                info!("{}", if leads { "this controller works" } else { "another works" });
            }
            if !leads {
                self.repositories.rest();
                // One that waits for its turn is as well as one that works.
                self.show(served);
                pause(100);
                continue;
            }
            let begin = Instant::now();
            let (pulse, hints, answers) = (self.pulse(), self.hints(), self.answers());
            let next = match self.pass() {
                Ok(next) => {
                    trouble.clear();
                    next
                }
                Err(problem) => {
                    let words = problem.to_string();
                    if trouble != words {
                        error!("{words}");
                    }
                    trouble = words;
                    Some(Timestamp::now() + Duration::from_secs(1))
                }
            };
            self.figures.passes += 1;
            self.figures.pass_seconds = begin.elapsed().as_secs_f64();
            self.figures.failed_passes += u64::from(!trouble.is_empty());
            self.show(served);
            self.wait(leader, signals, &Woken { begin, pulse, hints, answers, next }, served);
        }
    }

    fn show(&self, served: Option<&web::Served>) {
        if let Some(served) = served {
            served.show(self.figures.clone(), HANGS);
        }
    }

    /// Waits until something may be different.
    fn wait(
        &mut self,
        leader: &Leader,
        signals: &Signals,
        woken: &Woken,
        served: Option<&web::Served>,
    ) {
        let took = woken.begin.elapsed();
        let rest = Instant::now() + REST;
        // Whoever saves all the time has looks at most a tenth of the time.
        let hinted = Instant::now() + REST.max(took * 10);
        let poll = self.lanes.iter().map(|lane| lane.poll.duration()).min();
        // A sign of life is due anyway.
        let poll = poll.unwrap_or(LOOKS).min(LOOKS);
        let mut due = woken.begin + poll;
        loop {
            if signals.received().is_some() || !leader.is_leading() {
                return;
            }
            let now = Instant::now();
            let tick = woken.next.is_some_and(|next| next <= Timestamp::now());
            let told = || self.pulse() != woken.pulse || self.answers() != woken.answers;
            if now >= rest && (tick || told()) {
                return;
            }
            if now >= hinted && self.hints() != woken.hints {
                return;
            }
            if now >= due {
                // All are asked, so that each takes note of what it sees.
                let changed = self.lanes.iter_mut().map(|lane| lane.source.may_have_changed());
                if changed.filter(|changed| *changed).count() > 0 {
                    return;
                }
                self.show(served);
                due = now + poll;
            }
            pause(20);
        }
    }

    fn pulse(&self) -> i64 {
        self.store.pulse().unwrap_or_default()
    }

    /// How many answers of checks and repositories came so far that may change a plan.
    fn answers(&self) -> u64 {
        let checked = self.lanes.iter().map(|lane| lane.checks.answers()).sum::<u64>();
        self.repositories.changes() + checked
    }

    fn hints(&self) -> u64 {
        self.lanes.iter().filter_map(|lane| lane.hints.as_deref()).map(Hints::count).sum()
    }

    /// One pass. Says when the next is due, where that is known.
    fn pass(&mut self) -> Result<Option<Timestamp>, CliError> {
        let now = Timestamp::now();
        let mut troubles = Troubles::default();
        self.upkeep(now, &mut troubles);
        let mut all = Look::default();
        let mut asked = self.asked(&mut troubles);
        for at in 0..self.lanes.len() {
            let Self { lanes, store, engine, .. } = self;
            let Lane { name, scope, source, checks, memory, .. } = &mut lanes[at];
            let mut world = World { source: source.as_mut(), store, engine, checks };
            let mut look = match reconcile::look(&mut world, memory, scope, now) {
                Ok(look) => look,
                Err(PassError::Source(error)) => {
                    all.unreadable(name, &error.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.backfill(at, &mut look, &mut asked, now, &mut troubles);
            let Self { lanes, store, engine, .. } = self;
            let applied = act(store, engine, &lanes[at].scope, &look, now)?;
            troubles.soon |= !applied.conflicts.is_empty();
            applied.failed.iter().for_each(|error| troubles.note(error));
            applied.refused.iter().for_each(|error| troubles.note(error));
            self.figures.started += applied.started.len() as u64;
            self.open.extend(applied.started.into_iter().map(|run| run.name));
            // What another was first at is planned anew, and was not done.
            look.plan.pipelines.retain(|(id, _)| !applied.conflicts.contains(id));
            all.merge(look);
        }
        self.repositories.tell(&mut all);
        let mut described = std::mem::take(&mut self.described);
        self.describing().actions(&all, &mut described);
        self.described = described;
        // What stood when this process began is no news.
        if self.figures.passes > 0 {
            self.describing().reasons(&all, &self.told);
        }
        tell::plan(&all, &mut self.told, self.log);
        let store = &self.store;
        let ended = tell::ends(&mut self.open, |name| {
            Ok::<_, StoreError>(store.run(name.as_str())?.map(|stored| stored.run))
        })?;
        ended.iter().for_each(|run| self.describing().end(run));
        self.say(&all, now, &mut troubles);
        troubles.of(self.prune(&all));
        troubles.words.difference(&self.troubles).for_each(|words| error!("error: {words}"));
        // A secret that is labelled wakes nobody.
        troubles.lacks = self.repositories.lack()
            || all.plan.not_done().any(|one| one.reason == Reason::MissingSecret);
        let tries = troubles.tries(now);
        self.troubles = troubles.words;
        Ok(tries.chain(next_instant(&all, now)).min())
    }

    fn describing(&self) -> Describing<'_> {
        let Self { events, store, sources, .. } = self;
        Describing { events, store, sources }
    }

    /// All that comes before a look. What fails of it holds up nothing else.
    fn upkeep(&mut self, now: Timestamp, troubles: &mut Troubles) {
        for owner in troubles.of_each(self.environments.keep()) {
            info!(owner, "the environment of {owner} is kept");
        }
        self.serve(now, troubles);
        let stands = |key: &Key| self.workflows.handle(key);
        for name in troubles.of_each(self.store.rebuild(stands, now)) {
            warn!("warning: pipeline {name} has no cursors; its records tell them");
        }
        let served: Vec<String> = self.served.iter().map(|one| one.source.qualified()).collect();
        let sees = |name: &str| self.sources.sees(name);
        let is_served = |name: &str| !sees(name) || served.iter().any(|one| one == name);
        for id in troubles.of_each(self.store.orphan(is_served, now)) {
            info!(pipeline = %id, "{id}: Orphaned: its source is gone");
            self.describing().orphaned(&id);
        }
        for (id, wanted) in self.store.suspended() {
            let suspended = wanted.then_some(now);
            let done = reconcile::suspend(&mut self.store, &id, None, suspended, now);
            if troubles.of(done) {
                info!(pipeline = %id, "{id}: {}", if wanted { "suspended" } else { "resumed" });
            }
        }
        for name in troubles.of_each(self.store.sweep()) {
            info!(run = name, "removed record {name}, which nobody claimed");
        }
        for name in troubles.of_each(self.store.let_go()) {
            info!(run = name, "run {name} counts no more: its record was deleted while it ran");
        }
        let refreshed = self.refresh(now, &mut troubles.waits);
        troubles.of(refreshed);
        let mut done = self.workflows.tend(self.store.objects());
        let (freed, again) = self.pods.free(&self.workflows, Instant::now());
        done.extend(freed);
        troubles.pods = again;
        for words in troubles.of_each(done) {
            info!("{words}");
        }
    }

    /// Makes the lanes of what is served now. Those that are as they were keep their memory.
    fn serve(&mut self, now: Timestamp, troubles: &mut Troubles) {
        let served = self.sources.served();
        let published = published::sources(self.store.objects());
        let same = |one: &Served| self.served.iter().any(|before| before.source == one.source);
        let kept: Vec<String> =
            served.iter().filter(|one| same(one)).map(|one| one.source.qualified()).collect();
        self.repositories.take(&served, &kept, self.store.objects());
        let same = served == self.served && published == self.published;
        if same && !self.repositories.any() {
            return;
        }
        let before = std::mem::take(&mut self.lanes);
        let (mut own, before): (Vec<Lane>, Vec<Lane>) =
            before.into_iter().partition(|lane| self.published.contains(&lane.name));
        let stays = |lane: &Lane| kept.iter().any(|name| name == bare(&lane.name));
        let before = before.into_iter().filter(stays).collect();
        let looked = served.iter().filter(|one| self.repositories.may(&one.source.qualified()));
        let sources = looked.map(|one| one.source.clone()).collect();
        let credentials = Some(self.repositories.credentials());
        let configuration = Configuration { base: PathBuf::from("/"), sources, credentials };
        self.repositories.poll(&configuration);
        self.lanes = configuration.lanes(&self.cache, self.looking, before);
        let (next, words) = self.repositories.show(&mut self.lanes, &self.sources, now);
        troubles.next = next;
        troubles.words.extend(words);
        self.lanes.iter_mut().for_each(|lane| lane.scope.shared = true);
        own.retain(|lane| published.contains(&lane.name));
        for name in &published {
            if !own.iter().any(|lane| lane.name == *name) {
                let objects = self.store.objects().clone();
                let source = PublishedSource::new(objects, name, self.looking.max_points);
                own.push(lanes::published(name, Box::new(source), self.looking));
            }
        }
        self.lanes.extend(own);
        self.published = published;
        self.tenants.serve(served.clone());
        self.served = served;
    }

    /// Records where runs stand; the first of the server's refusals is the answer.
    fn refresh(&mut self, now: Timestamp, waits: &mut bool) -> Result<(), String> {
        let busy = self.store.busy_pipelines().map_err(|error| error.to_string())?;
        let mut first = Ok(());
        for id in busy {
            for stored in self.store.runs_of(&id).map_err(|error| error.to_string())? {
                let told = reconcile::refresh(&mut self.store, &self.engine, &stored, now);
                let trouble = match told {
                    Ok(trouble) => trouble.map(|error| error.to_string()),
                    Err(error) => Some(error.to_string()),
                };
                first = first.and(trouble.map_or(Ok(()), Err));
                let begun = stored.spec.handle.is_none() || stored.run.started_at.is_some();
                *waits |= !begun && !stored.run.phase.is_ended();
            }
        }
        first
    }

    /// Says of each source what it shows.
    fn say(&self, look: &Look, now: Timestamp, troubles: &mut Troubles) {
        let mut pipelines: HashMap<&str, usize> = HashMap::new();
        look.pipelines().for_each(|(id, _)| *pipelines.entry(&id.source).or_default() += 1);
        // The branches of a repository are looked at one by one, and are one source.
        let mut all: BTreeMap<&str, Said> = BTreeMap::new();
        for seen in &look.sources {
            let (name, branch) = seen.name.split_once('@').unwrap_or((&seen.name, ""));
            let said = all
                .entry(name)
                .or_insert_with(|| Said { generation: self.generation(name), ..Said::default() });
            if !said.revision.is_empty() && !seen.revision.is_empty() {
                said.revision.push(' ');
            }
            said.revision.push_str(&seen.revision);
            said.pipelines += pipelines.get(seen.name.as_str()).copied().unwrap_or(0);
            let trouble = seen.message.as_ref().map(|message| match branch {
                "" => message.clone(),
                branch => format!("{branch}: {message}"),
            });
            said.trouble = said.trouble.take().or(trouble);
        }
        for (name, said) in all {
            troubles.of(self.sources.say(name, &said, now));
        }
    }

    /// The generation of a source's object that passes are about now.
    fn generation(&self, name: &str) -> Option<i64> {
        self.served.iter().find(|one| one.source.qualified() == name)?.generation
    }

    /// Removes the records that no history has room for.
    fn prune(&mut self, look: &Look) -> Result<(), CliError> {
        let mut going = Vec::new();
        for (id, seeing) in look.pipelines() {
            let Some(history) = seeing.pipeline.as_ref().map(crate::spec::Pipeline::history) else {
                continue;
            };
            if seeing.ended.0 > history.successful || seeing.ended.1 > history.failed {
                let own = self.store.runs_of(id)?;
                let runs: Vec<&Run> = own.iter().map(|stored| &stored.run).collect();
                going.extend(prunable(&runs, history));
            }
        }
        Ok(self.store.forget(&going)?)
    }
}

/// What was known when a pass began, and when the next is due.
struct Woken {
    begin: Instant,
    pulse: i64,
    hints: u64,
    answers: u64,
    next: Option<Timestamp>,
}
