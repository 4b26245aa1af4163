//! The kill harness over configured sources: a folder, a repository by its path and one over HTTP, side
//! by side under one daemon, while somebody saves and pushes.
//!
//! The judge knows the versions that were saved and pushed, and what the steps wrote.

use std::collections::BTreeMap;

use rustix::process::Signal;

use super::repository::Git;
use super::support::{Random, number, wait_for};
use super::{Victim, any_victim, kill_hosts, mark, pause, processes_with, side_by_side};

const YAML: &str = "steps: {a: {run: sh step.sh, interruptions: 10}}";
const STEP: &str = r#"
me="$JUPYTERFLOW_RUN VERSION"
echo "$me start" >> "$WITNESS"
sleep 0.04
echo "$me end" >> "$WITNESS"
"#;
const SOURCES: [&str; 3] = ["folder", "path", "web"];

struct Round {
    git: Git,
    /// The versions of each source, in the order in which they were shown.
    versions: BTreeMap<&'static str, Vec<u32>>,
}

impl Round {
    fn new() -> Self {
        let mut git = Git::new();
        let witness = git.place.beside("witness");
        let mark = git.place.path("").display().to_string();
        git.place.env("WITNESS", witness).env("JF_MARK", mark);
        git.git(&["clone", "-q", "--bare", "../served/repos/team.git", "../path.git"]);
        let source = |name: &str, spec: &str| {
            format!(
                "apiVersion: jupyterflow.io/v1alpha1\nkind: NotebookSource\nmetadata: {{name: {name}}}\n\
                 spec: {{{spec}, poll: 1s, settle: 1s}}\n"
            )
        };
        let all = [
            source("folder", "directory: {path: ../home}"),
            source("path", "git: {url: ../path.git}"),
            source("web", &format!("git: {{url: '{}'}}", git.url())),
        ];
        git.place.write("sources.yaml", &all.join("---\n"));
        let round = Self { git, versions: BTreeMap::new() };
        let home = round.git.place.beside("home");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("jupyterflow.yaml"), named("folder")).unwrap();
        round
    }

    /// Somebody saves in one source, or pushes to it.
    fn change(&mut self, name: &'static str) {
        let versions = self.versions.entry(name).or_default();
        let version = u32::try_from(versions.len()).unwrap() + 1;
        versions.push(version);
        // A script: of `inputs` those that a run wrote itself would not count.
        let text = STEP.replace("VERSION", &version.to_string());
        if name == "folder" {
            std::fs::write(self.git.place.beside("home/step.sh"), text).unwrap();
            return;
        }
        self.git.write("step.sh", &text).write("jupyterflow.yaml", &named(name));
        self.git.inside(&["add", "-A"]);
        self.git.inside(&["commit", "-q", "-m", "x"]);
        let to = if name == "path" { "../path.git" } else { "origin" };
        self.git.inside(&["push", "-q", to, "HEAD:main"]);
    }

    /// What each run of a source executed, in the order in which they began: its version, how often it
    /// began, how often it came to its end.
    fn executed(&self, name: &str) -> Vec<(u32, usize, usize)> {
        let text = std::fs::read_to_string(self.git.place.beside("witness")).unwrap_or_default();
        let mut runs: Vec<(&str, u32, usize, usize)> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [run, version, kind] = words[..] else { continue };
            if !run.starts_with(&format!("{name}-")) {
                continue;
            }
            let at = runs.iter().position(|(known, ..)| *known == run).unwrap_or_else(|| {
                runs.push((run, version.parse().unwrap_or(0), 0, 0));
                runs.len() - 1
            });
            if kind == "start" {
                runs[at].2 += 1;
            } else {
                runs[at].3 += 1;
            }
        }
        runs.into_iter().map(|(_, version, starts, ends)| (version, starts, ends)).collect()
    }

    fn is_done(&self) -> bool {
        SOURCES.iter().all(|name| {
            let last = self.versions[name].last().copied();
            self.executed(name).iter().any(|(version, _, ends)| Some(*version) == last && *ends > 0)
        }) && self
            .git
            .place
            .runs()
            .iter()
            .all(|run| run["phase"] != "Running" && run["phase"] != "Pending")
    }

    fn judge(&self, victim: Victim, what: &str) {
        for name in SOURCES {
            let executed = self.executed(name);
            let fail =
                |words: &str| panic!("{what}, {victim:?} killed: {name}: {words}: {executed:?}");
            for (_, starts, ends) in &executed {
                let fine = match victim {
                    Victim::Daemon => (*starts, *ends) == (1, 1),
                    Victim::Host | Victim::Both => *ends >= 1 && *starts <= 5,
                };
                if !fine {
                    fail("a run was repeated or lost");
                }
            }
            // A run in a folder reads what lies there; one of a commit reads that commit.
            let later = |pair: &[(u32, usize, usize)]| {
                pair[0].0 < pair[1].0 || (name == "folder" && pair[0].0 == pair[1].0)
            };
            if !executed.windows(2).all(later) {
                fail("a version was executed again");
            }
        }
    }
}

fn named(name: &str) -> String {
    format!("name: {name}\n{YAML}\n")
}

#[test]
fn kills_while_people_save_and_push() {
    let rounds = number("KILL_ROUNDS", 8);
    let seed = number("KILL_SEED", u64::from(std::process::id()));
    eprintln!("{rounds} rounds over three sources, KILL_SEED={seed}");
    side_by_side(rounds, |index| {
        let mut random = Random(seed.wrapping_add(index).wrapping_mul(7919));
        let mut round = Round::new();
        SOURCES.iter().for_each(|name| round.change(name));
        let victim = any_victim(&mut random);
        let up = ["up", "--config", "sources.yaml"];
        let mut daemon = round.git.place.spawn(&up);
        for _ in 0..=random.next(4) {
            pause(random.next(1_500));
            if random.next(3) > 0 {
                round.change(SOURCES[usize::try_from(random.next(3)).unwrap()]);
                pause(random.next(900));
            }
            if victim != Victim::Daemon {
                kill_hosts(&round.git.place);
            }
            if victim != Victim::Host {
                daemon.signal(Signal::KILL);
                daemon.end();
                daemon = round.git.place.spawn(&up);
            }
        }
        let what = format!("round {index} of seed {seed}");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
        while !round.is_done() {
            let (runs, log) = (round.git.place.runs(), daemon.log());
            assert!(
                std::time::Instant::now() < deadline,
                "{what} does not end, {victim:?} killed, of {:?}: {runs:#?}\n{log}",
                round.versions
            );
            pause(100);
        }
        daemon.signal(Signal::TERM);
        daemon.end();
        round.judge(victim, &what);
        let mark = mark(&round.git.place);
        drop(daemon);
        wait_for("all descendants to be gone", || {
            processes_with(&mark).iter().all(|id| {
                let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains("git_server.py") || line.is_empty()
            })
        });
    });
}
