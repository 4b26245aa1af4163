//! Rounds of random faults: two controllers that are killed anywhere, act on what they saw long ago and
//! forget all; hosts that are lost and out of sight; files that are torn and unreadable; records that are
//! removed; clocks that jump.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use jupyterflow::controller::ClusterStore;
use jupyterflow::plan::Phase;
use jupyterflow::reconcile::{Look, Memory};
use jupyterflow::sim::Simulation;
use jupyterflow::store::{SqliteStore, Store};
use jupyterflow::types::{PipelineId, RunName, Timestamp};

use crate::handles::Pause;
use crate::judge::{self, Expected};
use crate::planted::{self, Bug, Way};
use crate::server::{Server, View};
use crate::support::{Random, number};

const BEGIN: i64 = 1_767_571_200;
const DAYS: i64 = 30;
const CHANGES: &str = "steps: {a: {run: python a.py}}";
const CLOCK: &str =
    "triggers: {schedule: {cron: '0 * * * *', missed: all}}\nsteps: {a: {run: python a.py}}";
const BOTH: &str = "triggers: {change: {}, schedule: {cron: '30 * * * *', missed: all}}\nsteps: {a: {run: python a.py}}";

/// The instants of croniter over the time of all rounds, of the lines above.
fn due(line: usize) -> &'static [i64] {
    static DUE: OnceLock<Vec<Vec<i64>>> = OnceLock::new();
    &DUE.get_or_init(|| {
        let until = BEGIN + DAYS * 86_400;
        crate::oracle(&serde_json::json!([
            {"line": "0 * * * *", "zone": "UTC", "from": BEGIN, "until": until},
            {"line": "30 * * * *", "zone": "UTC", "from": BEGIN, "until": until},
        ]))
    })[line]
}

fn seconds(random: &mut Random, below: u64) -> i64 {
    i64::try_from(random.next(below)).unwrap() + 1
}

/// Whose view hosts have, after those of three controllers.
const HOSTS: usize = 3;

/// A view, with the store over it of whoever does not act at the moment.
type Sight = (View, Option<Box<dyn Store>>);

struct Round {
    world: Simulation,
    /// The views of a cluster's memory that those who do not act at the moment have, and who acts.
    views: Option<(Vec<Sight>, usize)>,
    dice: Random,
    way: Way,
    memories: [Memory; 3],
    /// What the controllers saw and have not acted on yet.
    looks: [Option<Look>; 3],
    version: u32,
    expected: Expected,
    latest: Timestamp,
    repository: bool,
    /// What happened, for whoever reads a verdict.
    story: Vec<String>,
}

impl Round {
    fn new(seed: u64, way: Way, heedless: bool) -> Self {
        let store = Box::new(SqliteStore::in_memory().unwrap());
        let begin = Timestamp::from_second(BEGIN).unwrap();
        let mut dice = Random(seed);
        let repository = dice.next(2) == 0;
        let mut world = Simulation::new(store, begin);
        world.engine.heedless = heedless;
        let views = (way == Way::Cluster).then(|| {
            let server = Server::default();
            let one = || {
                let view = server.view(world.fuse.clone(), Pause::default());
                let places = |_: &PipelineId| Some("team".to_owned());
                let store: Box<dyn Store> =
                    Box::new(ClusterStore::new(view.clone(), Arc::new(places)));
                (view, Some(store))
            };
            let mut views: Vec<_> = (0..=HOSTS).map(|_| one()).collect();
            let first = views[0].1.take().unwrap();
            world.swap_store(first);
            (views, 0)
        });
        let mut round = Self {
            world,
            views,
            dice,
            way,
            memories: Default::default(),
            looks: Default::default(),
            version: 0,
            expected: Expected::default(),
            latest: begin,
            repository,
            story: Vec::new(),
        };
        round.save();
        // All that follows happens to pipelines that were seen.
        round.quiet();
        round
    }

    fn write_files(&mut self) {
        let (source, now) = (&mut self.world.source, self.world.now);
        source.save("changes/jupyterflow.yaml", CHANGES, now);
        source.save("clock/jupyterflow.yaml", CLOCK, now);
        source.save("both/jupyterflow.yaml", BOTH, now);
    }

    /// A person saves, or pushes: mostly something new, now and then what was there before.
    fn save(&mut self) {
        let revert = self.expected.versions.len() > 2 && self.dice.next(4) == 0;
        let version = if revert {
            self.expected.versions[self.expected.versions.len() - 2]
        } else {
            self.version += 1;
            self.version
        };
        self.write_files();
        let (source, now) = (&mut self.world.source, self.world.now);
        for folder in ["changes", "clock", "both"] {
            source.save(&format!("{folder}/a.py"), &format!("print({version})"), now);
        }
        if self.repository {
            source.push();
        }
        self.expected.versions.push(version);
        self.tell(&format!("version {version}"));
    }

    fn tell(&mut self, what: &str) {
        let open = self.world.hosted();
        self.story.push(format!("{}: {what}; hosts: {open:?}", self.world.now));
    }

    fn wait(&mut self, seconds: i64) {
        self.world.wait(seconds);
        self.latest = self.latest.max(self.world.now);
    }

    /// One of the three acts, with what it knows; mostly its watch has told it what there is.
    fn turn(&mut self, who: usize, told: bool) {
        let Some((views, acting)) = &mut self.views else { return };
        let next = views[who].1.take();
        if let Some(next) = next {
            views[*acting].1 = Some(self.world.swap_store(next));
            *acting = who;
        }
        if told {
            views[who].0.sync();
        }
    }

    fn look(&mut self, who: usize) {
        let told = self.dice.next(4) > 0;
        self.turn(who, told);
        if let Some((views, _)) = &self.views {
            // What nobody claimed, and nobody can claim any more, is removed before each look.
            let swept = ClusterStore::new(views[who].0.clone(), Arc::new(|_| None)).sweep();
            if !swept.is_empty() {
                self.tell(&format!("{who} removes records: {swept:?}"));
            }
        }
        let looked = planted::look(&mut self.world, &mut self.memories[who], self.way);
        self.looks[who] = looked.ok().flatten();
        let plan = self.looks[who].as_ref().map(|look| {
            let acts =
                look.plan.actions().map(|(_, act)| format!("{} {:?}", act.word(), act.run()));
            acts.collect::<Vec<_>>()
        });
        self.tell(&format!("{who} looks: {plan:?}"));
    }

    fn apply(&mut self, who: usize) {
        let Some(look) = self.looks[who].take() else { return };
        let told = self.dice.next(2) == 0;
        self.turn(who, told);
        let applied = planted::apply(&mut self.world, &look, self.way);
        self.tell(&format!("{who} acts: {applied:?}"));
        if applied.is_err() {
            // Whoever was killed remembers nothing.
            self.memories[who] = Memory::default();
            self.turn(who, true);
        }
    }

    fn any_host(&mut self) -> Option<RunName> {
        let hosted = self.world.hosted();
        let count = u64::try_from(hosted.len()).unwrap();
        (count > 0).then(|| hosted[usize::try_from(self.dice.next(count)).unwrap()].clone())
    }

    fn work(&mut self, run: &RunName, end: bool) {
        self.turn(HOSTS, true);
        let bad = self.dice.next(6) == 0;
        self.world.begin(run).unwrap();
        if end {
            let phase = if bad { Phase::Failed } else { Phase::Succeeded };
            self.world.end(run, phase).unwrap();
        }
        self.tell(&format!("{run:?} works on, to its end: {end}"));
    }

    fn forget(&mut self, all: bool) {
        self.turn(HOSTS, true);
        let ended = self.world.store().runs(usize::MAX).unwrap();
        let names = ended.into_iter().filter(|stored| stored.run.phase.is_ended());
        let names: Vec<RunName> = names.map(|stored| stored.run.name).collect();
        let keep = if all { 0 } else { 3 };
        // The newest come first.
        let names = &names[names.len().min(keep)..];
        self.world.store().forget(names).unwrap();
        self.tell(&format!("removed: {names:?}"));
    }

    /// Something happens.
    fn happen(&mut self) {
        let who = usize::try_from(self.dice.next(2)).unwrap();
        match self.dice.next(30) {
            0 | 1 => self.save(),
            2..6 => {
                let seconds = seconds(&mut self.dice, 900);
                self.wait(seconds);
            }
            6..11 => {
                self.look(who);
                self.apply(who);
            }
            11..14 => {
                self.look(who);
                self.world.fuse.arm(u32::try_from(self.dice.next(8)).unwrap() + 1);
                self.apply(who);
                self.world.fuse.disarm();
            }
            // A third one is stopped between its look and what it does.
            14 | 15 if self.looks[2].is_none() => self.look(2),
            14 | 15 => self.apply(2),
            26..29 => self.forget(true),
            16 => self.memories[who] = Memory::default(),
            17 | 18 => {
                if let Some(run) = self.any_host() {
                    let end = self.dice.next(2) == 0;
                    self.work(&run, end);
                }
            }
            19 => {
                if let Some(run) = self.any_host() {
                    self.world.engine.lose(&run);
                    self.tell(&format!("{run:?} is lost"));
                }
            }
            20 => {
                if let Some(run) = self.any_host() {
                    self.world.engine.hide(&run);
                } else {
                    self.world.engine.show_all();
                }
            }
            21 => {
                let gone = self.dice.next(2) == 0;
                self.world.source.unreadable = gone.then(|| "Stale file handle".to_owned());
            }
            22 => self.tear(),
            23 => {
                let all = self.dice.next(2) == 0;
                self.forget(all);
            }
            24 => {
                let seconds = seconds(&mut self.dice, 7_200);
                self.world.wait(-seconds);
            }
            _ => {
                // Of what was missed at most a hundred ticks run.
                let seconds = seconds(&mut self.dice, 21_600);
                self.wait(seconds);
            }
        }
    }

    /// A file is half written, empty or unreadable; whole again with the next save or quiet time.
    fn tear(&mut self) {
        let now = self.world.now;
        let folder = ["changes", "clock", "both"][usize::try_from(self.dice.next(3)).unwrap()];
        let path = format!("{folder}/jupyterflow.yaml");
        let source = &mut self.world.source;
        if self.repository {
            return;
        }
        match self.dice.next(3) {
            0 => source.save(&path, "", now),
            1 => source.save(&path, &CLOCK[..30], now),
            _ => {
                source.broken.insert(path, "Input/output error".into());
            }
        }
    }

    /// All is well until nothing more happens.
    fn quiet(&mut self) {
        self.world.source.unreadable = None;
        self.world.source.broken.clear();
        self.world.engine.show_all();
        self.write_files();
        // The third one stays stopped.
        (self.looks[0], self.looks[1]) = (None, None);
        self.memories[0] = Memory::default();
        self.wait((self.latest.as_second() - self.world.now.as_second()).max(0));
        let mut calm = 0;
        for _ in 0..2_000 {
            let hosted = self.world.hosted();
            self.turn(0, true);
            self.look(0);
            let acts = self.looks[0].as_ref().is_some_and(|look| !look.plan.is_empty());
            self.apply(0);
            for run in self.world.hosted() {
                self.work(&run, true);
            }
            calm = if acts || !hosted.is_empty() { 0 } else { calm + 1 };
            if calm > 3 {
                break;
            }
            self.wait(31);
        }
        let last = self.expected.versions.len() - 1;
        self.expected.stood.insert(last);
    }

    /// What the judge says.
    fn verdict(mut self) -> Vec<String> {
        self.quiet();
        let end = self.world.now.as_second();
        let executions = &self.world.engine.executions;
        let mut wrong = judge::doubled(executions);
        for (folder, line) in [("changes", None), ("clock", Some(0)), ("both", Some(1))] {
            let own = executions
                .iter()
                .filter(|one| one.run.as_str().starts_with(&format!("{folder}-")) && !one.lost);
            let own: Vec<_> = own.collect();
            let version = |one: &&jupyterflow::sim::Execution| -> u32 {
                let (text, _) = &one.tree[&format!("{folder}/a.py")];
                text.trim_start_matches("print(").trim_end_matches(')').parse().unwrap()
            };
            let tick = |run: &RunName| tick_of(run.as_str());
            if let Some(line) = line {
                let known = due(line).iter().map(|at| Timestamp::from_second(*at).unwrap());
                let began = Timestamp::from_second(BEGIN).unwrap();
                let known = known.filter(|at| *at > began && at.as_second() <= end);
                let ticks = known.map(compact).collect();
                let expected = Expected { ticks, ..Expected::default() };
                let ticks: Vec<String> = own.iter().filter_map(|one| tick(&one.run)).collect();
                wrong.extend(judge::of_ticks(&expected, &ticks));
            }
            if folder == "changes" {
                let seen: Vec<u32> = own.iter().map(version).collect();
                wrong.extend(judge::of_changes(&self.expected, &seen));
            }
            if folder == "both" {
                // A run of the schedule may answer a change; a change has one run of its own at most.
                let seen: Vec<u32> =
                    own.iter().filter(|one| tick(&one.run).is_none()).map(version).collect();
                let all: BTreeSet<u32> = own.iter().map(version).collect();
                let stood = self.expected.stood.iter().map(|at| self.expected.versions[*at]);
                let lost = stood.filter(|version| !all.contains(version));
                wrong.extend(lost.map(|version| format!("lost: version {version} of both")));
                let versions = self.expected.versions.clone();
                let expected = Expected { versions, ..Expected::default() };
                wrong.extend(judge::of_changes(&expected, &seen));
            }
        }
        if !wrong.is_empty() {
            // For whoever reads it: what the program says of itself.
            if let Ok(Some(look)) = planned_look(&mut self) {
                wrong.extend(look.plan.not_done().map(|one| format!("(says: {one})")));
            }
            let runs = self.world.store().runs(usize::MAX).unwrap();
            let open = runs.iter().filter(|stored| !stored.run.phase.is_ended());
            wrong.extend(open.map(|one| format!("({} is {})", one.run.name, one.run.phase)));
            wrong.append(&mut self.story);
        }
        wrong
    }
}

fn planned_look(round: &mut Round) -> Result<Option<Look>, jupyterflow::sim::Killed> {
    planted::look(&mut round.world, &mut Memory::default(), round.way)
}

fn compact(at: Timestamp) -> String {
    at.strftime("%Y%m%dt%H%Mz").to_string()
}

/// The instant in a run's name; only those of schedules have one.
fn tick_of(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('-').collect();
    let part = parts.get(parts.len().checked_sub(2)?)?;
    (part.len() == 14 && part.ends_with('z')).then(|| (*part).to_owned())
}

fn round(seed: u64, way: Way, heedless: bool) -> Vec<String> {
    let mut round = Round::new(seed, way, heedless);
    for _ in 0..=round.dice.next(4) {
        for _ in 0..round.dice.next(40) + 10 {
            round.happen();
        }
        round.quiet();
    }
    round.verdict()
}

#[test]
fn nothing_is_lost_and_nothing_doubled() {
    rounds(Way::Ours);
}

/// The same with the memory of a cluster: each write is one of its own, and what each process knows may be
/// older than what is.
#[test]
fn nothing_is_lost_and_nothing_doubled_in_a_cluster() {
    rounds(Way::Cluster);
}

#[expect(clippy::print_stderr, reason = "a long harness says how far it went")]
fn rounds(way: Way) {
    let (rounds, first) = (number("ROUNDS", 100), number("SEED", 1));
    let next = std::sync::atomic::AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= first + rounds {
                        return;
                    }
                    let wrong = round(seed, way, false);
                    assert!(wrong.is_empty(), "SEED={seed} ROUNDS=1: {wrong:#?}");
                }
            });
        }
    });
    eprintln!("{rounds} rounds from SEED={first}");
}

/// Each bug shows as what it is, and the same round without it shows nothing of the kind. Where the
/// engine has a fence of its own, it is taken away from both.
#[test]
fn planted_bugs_are_seen() {
    let bugs = [
        (Bug::RecordBeforeClaim, "doubled", Way::Ours, true),
        (Bug::CursorBeforeRecord, "lost", Way::Ours, false),
        (Bug::AbsentIsMissing, "doubled", Way::Ours, false),
        (Bug::UnknownIsEmpty, "doubled", Way::Ours, true),
        (Bug::ClockInName, "doubled", Way::InTwoSteps, false),
        (Bug::LastWriterWins, "doubled", Way::Ours, false),
    ];
    for (bug, word, without, heedless) in bugs {
        let shows = |seed, way| {
            round(seed, way, heedless).into_iter().find(|wrong| wrong.starts_with(word))
        };
        let seen = (1..=200).find_map(|seed| {
            let wrong = shows(seed, Way::Bug(bug))?;
            shows(seed, without).is_none().then_some((seed, wrong))
        });
        let (seed, wrong) = seen.unwrap_or_else(|| panic!("nothing was seen of {bug:?}"));
        eprintln!("{bug:?} was seen in round {seed}: {wrong}");
    }
}

/// That ticks are told by their names.
#[test]
fn names_tell_ticks() {
    assert_eq!(tick_of("both-20260105t0030z-0123456789abcdef").as_deref(), Some("20260105t0030z"));
    assert_eq!(tick_of("both-0123456789abcdef"), None);
}
