//! The language of the scripts: `> COMMAND` with lines of text behind `| `, and below each what came
//! of it. Runs are called by their pipeline and the order in which they appear: `main#1`.

use std::collections::{BTreeMap, BTreeSet};

use jupyterflow::plan::{Observed, Phase};
use jupyterflow::reconcile::{self, Backfilling, Look, Memory, Request};
use jupyterflow::sim::{Killed, Simulation};
use jupyterflow::store::{FileText, Given, SqliteStore};
use jupyterflow::types::{Period, PipelineId, RunName, Timestamp};

/// A Monday.
const BEGIN: &str = "2026-01-05T00:00:00Z";

#[derive(Default)]
struct Controller {
    memory: Memory,
    look: Option<Look>,
}

struct Player {
    world: Simulation,
    controllers: BTreeMap<String, Controller>,
    /// The runs in the order in which they appeared.
    runs: Vec<(RunName, String)>,
    requests: u32,
    /// Problems of files that were told already.
    told: BTreeSet<String>,
}

/// What a script gives: itself, with what came of each command below it.
pub fn transcript(text: &str) -> String {
    let store = Box::new(SqliteStore::in_memory().unwrap());
    let world = Simulation::new(store, BEGIN.parse().unwrap());
    let mut player = Player {
        world,
        controllers: BTreeMap::new(),
        runs: Vec::new(),
        requests: 0,
        told: BTreeSet::new(),
    };
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            out += &format!("{line}\n");
        }
        let Some(command) = line.strip_prefix("> ") else { continue };
        out += &format!("{line}\n");
        let mut input = String::new();
        while let Some(more) = lines.next_if(|line| line.starts_with('|')) {
            out += &format!("{more}\n");
            let more = more.trim_start_matches('|');
            input += &format!("{}\n", more.strip_prefix(' ').unwrap_or(more));
        }
        let came = player.play(command, &input).unwrap_or_else(|why| format!("refused: {why}\n"));
        out += &player.named(&came);
    }
    let doubled = crate::judge::doubled(&player.world.engine.executions);
    assert!(doubled.is_empty(), "{doubled:?}\n{out}");
    out
}

fn killed<T>(result: Result<Result<T, String>, Killed>) -> Result<T, String> {
    result.unwrap_or_else(|killed| Err(format!("killed {}", killed.at)))
}

impl Player {
    fn named(&mut self, text: &str) -> String {
        let all = self.world.store().runs(usize::MAX).unwrap();
        for stored in all.iter().rev() {
            self.alias(&stored.run.name, stored.pipeline.name.as_str());
        }
        let named = self
            .runs
            .iter()
            .fold(text.to_owned(), |text, (run, alias)| text.replace(run.as_str(), alias));
        // Commits and digests are no reading matter.
        let hexadecimal =
            |word: &str| word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit());
        let lines = named.lines().map(|line| {
            let words = line.split(' ').map(|word| {
                let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
                if hexadecimal(bare) { word.replace(bare, "HEX") } else { word.to_owned() }
            });
            words.collect::<Vec<_>>().join(" ") + "\n"
        });
        lines.collect()
    }

    fn alias(&mut self, run: &RunName, pipeline: &str) {
        if self.runs.iter().all(|(known, _)| known != run) {
            let start = format!("{pipeline}#");
            let count = self.runs.iter().filter(|(_, own)| own.starts_with(&start)).count() + 1;
            self.runs.push((run.clone(), format!("{start}{count}")));
        }
    }

    fn run_of(&self, alias: &str) -> Result<RunName, String> {
        let found = self.runs.iter().find(|(_, own)| own == alias);
        found.map(|(run, _)| run.clone()).ok_or_else(|| format!("there is no run {alias}"))
    }

    fn pipeline(&mut self, name: &str) -> Result<PipelineId, String> {
        let look = self.world.look(&mut Memory::default()).unwrap().map_err(|e| e.to_string())?;
        let known = look.pipelines().map(|(id, _)| id.clone());
        let found = known.into_iter().find(|id| id.name.as_str() == name || id.to_string() == name);
        found.ok_or_else(|| format!("there is no pipeline {name}"))
    }

    fn play(&mut self, command: &str, input: &str) -> Result<String, String> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        let now = self.world.now;
        let source = &mut self.world.source;
        let nothing = Ok(String::new());
        match verb {
            "save" => {
                let text = if input.is_empty() { second } else { input };
                source.save(first, text, now);
                nothing
            }
            "remove" => {
                source.remove(rest);
                nothing
            }
            "rename" => {
                source.rename(first, second);
                nothing
            }
            "push" => {
                source.push();
                nothing
            }
            "unreadable" => {
                source.unreadable = (!rest.is_empty()).then(|| rest.to_owned());
                nothing
            }
            "readable" => {
                source.unreadable = None;
                nothing
            }
            "break" => {
                source.broken.insert(first.to_owned(), second.to_owned());
                nothing
            }
            "mend" => {
                source.broken.remove(rest);
                nothing
            }
            "wait" => {
                self.world.wait(seconds(rest)?);
                Ok(format!("it is {}\n", self.world.now))
            }
            "clock" => {
                let sign = if first == "back" { -1 } else { 1 };
                self.world.wait(sign * seconds(second)?);
                Ok(format!("it is {}\n", self.world.now))
            }
            "firstSight" => {
                self.world.scope.adopt = rest == "adopt";
                nothing
            }
            "limit" => {
                let most = rest.parse().map_err(|_| "no number".to_owned())?;
                self.world.scope.limits.active_runs = Some(most);
                nothing
            }
            "reply" => {
                let body = (!rest.starts_with("error ")).then(|| rest.to_owned());
                self.world.checks.reply = Some(body.ok_or_else(|| rest[6..].to_owned()));
                nothing
            }
            "lack" => {
                self.world.engine.lacks = (!rest.is_empty()).then(|| rest.to_owned());
                nothing
            }
            "refuse" => {
                self.world.engine.refuses = (!rest.is_empty()).then(|| rest.to_owned());
                nothing
            }
            "kill" => {
                self.world.fuse.arm(rest.parse().map_err(|_| "no number".to_owned())?);
                nothing
            }
            "restart" => {
                self.controllers.remove(if rest.is_empty() { "a" } else { rest });
                nothing
            }
            "look" => self.look(rest),
            "apply" => self.apply(rest),
            "pass" => {
                let shown = self.look(rest)?;
                match self.apply(rest) {
                    Ok(told) => Ok(shown + &told),
                    Err(why) => Ok(format!("{shown}{why}\n")),
                }
            }
            _ => self.act(verb, first, second, now),
        }
    }

    /// What hosts do, and what persons ask for.
    fn act(
        &mut self,
        verb: &str,
        first: &str,
        second: &str,
        now: Timestamp,
    ) -> Result<String, String> {
        let words = |phase: Option<Phase>, run: &str| match phase {
            Some(phase) => format!("{run} {phase}\n"),
            None => format!("{run} has no host that could\n"),
        };
        match verb {
            "begin" => {
                let begun = self.world.begin(&self.run_of(first)?).map_err(|e| e.to_string())?;
                Ok(words(begun, first))
            }
            "end" => {
                let phase = if second == "badly" { Phase::Failed } else { Phase::Succeeded };
                let ended = self.world.end(&self.run_of(first)?, phase);
                Ok(words(ended.map_err(|e| e.to_string())?, first))
            }
            "lose" => {
                let run = self.run_of(first)?;
                Ok(if self.world.engine.lose(&run) { String::new() } else { "no host\n".into() })
            }
            "hide" => {
                let run = self.run_of(first)?;
                self.world.engine.hide(&run);
                Ok(String::new())
            }
            "seek" => {
                self.world.engine.show_all();
                Ok(String::new())
            }
            "forget" => {
                let run = self.run_of(first)?;
                self.world.store().forget(&[run]).map_err(|e| e.to_string())?;
                Ok(String::new())
            }
            "run" | "retry" => self.request(verb, first, now),
            "stop" => {
                let run = self.run_of(first)?;
                self.world.store().request_stop(&run, None).map_err(|e| e.to_string())?;
                Ok(String::new())
            }
            "suspend" | "resume" => {
                let id = self.pipeline(first)?;
                let since = (verb == "suspend").then_some(now);
                let done = self.world.with(|world, _, now| {
                    reconcile::suspend(world.store, &id, None, since, now)
                        .map_err(|e| e.to_string())
                });
                killed(done).map(|_| String::new())
            }
            "backfill" => self.backfill(first, second),
            "runs" => self.list(),
            other => Err(format!("there is no command {other}")),
        }
    }

    fn look(&mut self, name: &str) -> Result<String, String> {
        let name = if name.is_empty() { "a" } else { name };
        let controller = self.controllers.entry(name.to_owned()).or_default();
        let looked = self.world.look(&mut controller.memory);
        let look = killed(looked.map(|look| look.map_err(|error| error.to_string())))?;
        let mut shown = String::new();
        let claims: Vec<(RunName, String)> = look
            .plan
            .actions()
            .filter_map(|(id, action)| Some((action.run()?.clone(), id.name.to_string())))
            .collect();
        for (id, action) in look.plan.actions() {
            let run = action.run().map_or_else(|| id.to_string(), ToString::to_string);
            shown += &format!("{} {run}: {}\n", action.word(), action.reason());
        }
        for not_done in look.plan.not_done() {
            shown += &format!("{not_done}\n");
        }
        for problem in &look.plan.problems {
            let told = format!("{}:{}: {}\n", problem.file, problem.line, problem.message);
            if self.told.insert(told.clone()) {
                shown += &told;
            }
        }
        controller.look = Some(look);
        for (run, pipeline) in claims {
            self.alias(&run, &pipeline);
        }
        Ok(shown)
    }

    fn apply(&mut self, name: &str) -> Result<String, String> {
        let name = if name.is_empty() { "a" } else { name };
        let look = self.controllers.get_mut(name).and_then(|one| one.look.take());
        let look = look.ok_or_else(|| format!("{name} has not looked"))?;
        let applied = killed(self.world.apply(&look).map(|one| one.map_err(|e| e.to_string())))?;
        let mut told = String::new();
        for id in &applied.conflicts {
            told += &format!("{id} was changed by another process\n");
        }
        for error in &applied.failed {
            told += &format!("{error}\n");
        }
        for error in &applied.refused {
            told += &format!("{error}\n");
        }
        Ok(told)
    }

    fn request(&mut self, verb: &str, target: &str, now: Timestamp) -> Result<String, String> {
        let again = if verb == "retry" {
            let name = self.run_of(target)?;
            self.world.store().run(name.as_str()).map_err(|e| e.to_string())?
        } else {
            None
        };
        let id = match &again {
            Some(stored) => stored.pipeline.clone(),
            None => self.pipeline(target)?,
        };
        let look = self.world.look(&mut Memory::default()).unwrap().map_err(|e| e.to_string())?;
        let known = look.pipelines().find(|(other, _)| **other == id).map(|(_, seeing)| seeing);
        let text: Option<FileText> = known.and_then(|seeing| seeing.text.clone());
        let definition = text.ok_or("nothing good is known of it")?;
        let pipeline = definition.pipeline(&id.name, 100).ok_or("it does not parse")?;
        self.requests += 1;
        let request = Request {
            pipeline: &pipeline,
            definition: definition.clone(),
            params: Given::new(),
            strict: false,
            again,
            from: None,
            key: format!("request-{}", self.requests),
        };
        let asked = self.world.with(|world, scope, _| {
            reconcile::request(world, scope, request, now).map_err(|error| error.to_string())
        });
        let (stored, _) = killed(asked)?;
        self.alias(&stored.run.name, id.name.as_str());
        Ok(format!("{} is asked for\n", stored.run.name))
    }

    fn backfill(&mut self, pipeline: &str, range: &str) -> Result<String, String> {
        let id = self.pipeline(pipeline)?;
        let instant = |text: &str| text.parse::<Timestamp>().map_err(|error| error.to_string());
        let (from, to) = range.split_once("..").ok_or("no range")?;
        let range = (instant(from)?, instant(to)?);
        let look = self.world.look(&mut Memory::default()).unwrap().map_err(|e| e.to_string())?;
        let done = self.world.with(|world, scope, now| {
            let asked = Backfilling { range, most: 100, dry_run: false };
            reconcile::backfill(world, scope, &look, &id, &asked, now).map_err(|e| e.to_string())
        });
        let done = killed(done)?;
        let claims = done.claims.iter().map(|claim| {
            let at = claim.trigger.scheduled_at.map(|at| at.to_string()).unwrap_or_default();
            (claim.name.clone(), format!("{} for {at}\n", claim.name))
        });
        let claims: Vec<(RunName, String)> = claims.collect();
        let mut told = String::new();
        for (run, line) in claims {
            self.alias(&run, id.name.as_str());
            told += &line;
        }
        Ok(told)
    }

    fn list(&mut self) -> Result<String, String> {
        let mut runs = self.world.store().runs(usize::MAX).map_err(|error| error.to_string())?;
        runs.reverse();
        let mut shown = String::new();
        for stored in runs {
            let run = stored.run;
            let host = match self.world.observe(&run.name) {
                Observed::Absent => "",
                Observed::Unknown => ", host unknown",
                Observed::Known(()) => ", has a host",
            };
            let why = run.message.map(|message| format!(": {message}")).unwrap_or_default();
            let trigger = format!("{} {}", run.trigger.kind.word(), run.trigger.key);
            shown += &format!("{} ({trigger}) {}{host}{why}\n", run.name, run.phase);
        }
        Ok(shown)
    }
}

fn seconds(text: &str) -> Result<i64, String> {
    let period: Period = text.parse().map_err(|_| format!("{text:?} is no duration"))?;
    Ok(i64::try_from(period.seconds()).unwrap_or(i64::MAX))
}
