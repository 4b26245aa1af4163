//! The kill harness: SIGKILL of the daemon, of hosts and of both, at every write that a trace
//! shows and at random times. The judge reads nothing but a witness file that the steps append to,
//! outside of the state and of the source, and the table of processes.
//!
//! `KILL_ROUNDS` (default 12) random rounds, `KILL_WRITES=all` for every write (default: a sample
//! of them), `KILL_SEED` to repeat a round.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    dead_code,
    reason = "a test says what it expects by failing, and shares its support with others"
)]

#[path = "../it/repository.rs"]
mod repository;
mod sources;
#[path = "../it/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::{Ended, Place, Random, number, processes_with, wait_for};

const STEPS: [&str; 4] = ["a", "b/0", "b/1", "c"];

const YAML: &str = "
steps:
  a: {run: sh step.sh}
  b: {run: 'sh step.sh /{{ sweep.index }}', needs: a, sweep: {k: [1, 2]}}
  c: {run: sh step.sh, needs: b}
";

/// A step: it looks for what an earlier attempt of it left behind, leaves a grandchild that quits
/// its process group, and says when it begins and ends.
const STEP: &str = r#"
me="$JUPYTERFLOW_RUN $JUPYTERFLOW_STEP$1"
for id in $(grep "^$me child " "$WITNESS" 2>/dev/null | sed 's/.* //'); do
  if grep -q JUPYTERFLOW_RUN "/proc/$id/environ" 2>/dev/null; then echo "$me overlap $id" >> "$WITNESS"; fi
done
setsid sleep 300 &
echo "$me child $!" >> "$WITNESS"
echo "$me start" >> "$WITNESS"
sleep 0.04
echo "$me end" >> "$WITNESS"
"#;

/// What was killed decides what may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Daemon,
    Host,
    Both,
}

fn round() -> Place {
    let mut place = Place::new();
    let witness = place.beside("witness");
    let mark = place.path("").display().to_string();
    place.env("WITNESS", witness).env("JF_MARK", mark);
    place.write("step.sh", STEP).write("jupyterflow.yaml", YAML);
    place
}

fn mark(place: &Place) -> String {
    format!("JF_MARK={}", place.path("").display())
}

/// Looks at the witness alone: nothing lost, nothing doubled, nothing repeated that was finished.
fn judge(place: &Place, runs: usize, victim: Victim, what: &str) {
    let text = std::fs::read_to_string(place.beside("witness")).unwrap_or_default();
    let fail = |words: &str| {
        panic!("{what}, {victim:?} killed: {words}\n{text}\n{}", place.beside("").display())
    };
    let mut counts: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [run, step, kind, ..] = words[..] else { continue };
        let entry = counts.entry((run.to_owned(), step.to_owned())).or_default();
        match kind {
            "start" => {
                entry.0 += 1;
                let before = match step {
                    "a" => &[][..],
                    "c" => &["b/0", "b/1"],
                    _ => &["a"],
                };
                let ended = |other: &&str| {
                    counts
                        .get(&(run.to_owned(), (**other).to_owned()))
                        .is_some_and(|(_, ends)| *ends > 0)
                };
                if !before.iter().all(ended) {
                    fail(&format!("{run} {step} began before what it needs had ended"));
                }
            }
            "end" => entry.1 += 1,
            "overlap" => fail("an attempt began while a process of an earlier one lived"),
            _ => {}
        }
    }
    let names: std::collections::BTreeSet<&String> = counts.keys().map(|(run, _)| run).collect();
    if names.len() != runs {
        fail(&format!("{} runs instead of {runs}", names.len()));
    }
    for name in names {
        for step in STEPS {
            let key = (name.clone(), step.to_owned());
            let (starts, ends) = counts.get(&key).copied().unwrap_or_default();
            let fine = match victim {
                Victim::Daemon => (starts, ends) == (1, 1),
                Victim::Host | Victim::Both => ends >= 1 && starts <= 4,
            };
            if !fine {
                fail(&format!("{name} {step} began {starts} times and ended {ends} times"));
            }
        }
    }
    wait_for("all descendants to be gone", || processes_with(&mark(place)).is_empty());
}

/// Brings all runs to their end, as a person would after a crash.
fn recover(place: &Place) {
    for _ in 0..3 {
        place.run(&["up", "--once"]).expect(0);
        if place.runs().iter().all(|run| run["phase"] == "Succeeded") {
            return;
        }
    }
    panic!("the runs do not end: {:?}", place.runs());
}

/// How often each of the syscalls that write was called by one process of a traced program.
fn writes(trace: &std::path::Path) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(trace).unwrap();
    let mut by_process: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for line in text.lines() {
        // Lines open with the process where several are followed.
        let numbered = line.starts_with(|c: char| c.is_ascii_digit());
        let (id, rest) =
            if numbered { line.split_once(' ').unwrap_or(("", line)) } else { ("", line) };
        let Some((name, _)) = rest.trim().split_once('(') else { continue };
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            *by_process.entry(id.to_owned()).or_default().entry(name.to_owned()).or_default() += 1;
        }
    }
    let total = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>();
    by_process.into_values().max_by_key(total).unwrap_or_default()
}

const WRITES: &str = "pwrite64,fdatasync,fsync,ftruncate,rename,unlink";

fn strace(place: &Place, inject: Option<(&str, usize)>, follow: bool, args: &[&str]) -> Command {
    let mut command = place.command("strace");
    command.arg("-o").arg(place.beside("trace"));
    if follow {
        command.arg("-f");
    }
    match inject {
        None => command.args(["-e", &format!("trace={WRITES}")]),
        Some((name, number)) => command
            .args(["-e", &format!("trace={name}")])
            .args(["-e", &format!("inject={name}:signal=SIGKILL:when={number}")]),
    };
    command.arg(env!("CARGO_BIN_EXE_jupyterflow")).args(args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn has_strace() -> bool {
    let there = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    support::has("strace", there.is_ok_and(|status| status.success()))
}

/// The numbered calls at which to kill: all of them, or a sample.
fn kill_points(counts: &BTreeMap<String, usize>) -> Vec<(String, usize)> {
    let all = counts.iter().flat_map(|(name, count)| (1..=*count).map(move |n| (name.clone(), n)));
    let all: Vec<_> = all.collect();
    match std::env::var("KILL_WRITES").as_deref() {
        Ok("all") => all,
        _ => all.iter().step_by(all.len().div_ceil(8).max(1)).cloned().collect(),
    }
}

#[test]
fn the_daemon_is_killed_at_each_write() {
    if !has_strace() {
        return;
    }
    let place = round();
    assert!(strace(&place, None, false, &["up", "--once"]).status().unwrap().success(), "strace");
    judge(&place, 1, Victim::Daemon, "undisturbed");
    let points = kill_points(&writes(&place.beside("trace")));
    assert!(points.len() >= 4, "{points:?}");
    for (name, number) in &points {
        let place = round();
        let _ = strace(&place, Some((name, *number)), false, &["up", "--once"]).status().unwrap();
        recover(&place);
        judge(&place, 1, Victim::Daemon, &format!("{name} {number}"));
    }
    eprintln!("the daemon was killed at {} writes", points.len());
}

#[test]
fn the_host_is_killed_at_each_write() {
    if !has_strace() {
        return;
    }
    // A run that is claimed, and whose host was lost before it did anything: the traced
    // supervisor takes it from there.
    let claimed = |place: &Place| -> String {
        let name = place.run(&["run", ".", "--detach"]).expect(0).stdout.trim().to_owned();
        wait_for("the first host to be gone, with all that it started", || {
            let left = processes_with(&mark(place));
            for id in &left {
                let _ = kill_process(Pid::from_raw(*id).unwrap(), Signal::KILL);
            }
            left.is_empty()
        });
        name
    };
    let supervise = |place: &Place, inject: Option<(&str, usize)>| {
        let name = claimed(place);
        let (root, state) = (place.path(""), place.path(".jupyterflow"));
        let (root, state) = (root.to_str().unwrap(), state.to_str().unwrap());
        let args = ["internal-supervise", "--state", state, "--root", root, "--jobs", "2", &name];
        let _ = strace(place, inject, true, &args).status().unwrap();
    };
    let by_hand = || {
        let place = round();
        place.write("jupyterflow.yaml", &format!("triggers: []\n{YAML}"));
        place
    };
    let place = by_hand();
    supervise(&place, None);
    recover(&place);
    judge(&place, 1, Victim::Host, "undisturbed");
    let points = kill_points(&writes(&place.beside("trace")));
    assert!(points.len() >= 4, "{points:?}");
    for (name, number) in &points {
        let place = by_hand();
        supervise(&place, Some((name, *number)));
        recover(&place);
        judge(&place, 1, Victim::Host, &format!("{name} {number}"));
    }
    eprintln!("the host was killed at {} writes", points.len());
}

/// Rounds side by side: most of a round is waiting.
fn side_by_side(rounds: u64, round: impl Fn(u64) + Sync) {
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if index >= rounds {
                        return;
                    }
                    round(index);
                }
            });
        }
    });
}

fn kill_hosts(place: &Place) {
    for id in processes_with(&mark(place)) {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains("internal-host") {
            let _ = kill_process(Pid::from_raw(id).unwrap(), Signal::KILL);
        }
    }
}

fn any_victim(random: &mut Random) -> Victim {
    [Victim::Daemon, Victim::Host, Victim::Both][usize::try_from(random.next(3)).unwrap()]
}

/// A daemon that works until it is stopped, a request by hand beside the change, and kills at
/// random times of random victims.
#[test]
fn kills_at_random_times() {
    let rounds = number("KILL_ROUNDS", 12);
    let seed = number("KILL_SEED", u64::from(std::process::id()));
    eprintln!("{rounds} rounds, KILL_SEED={seed}");
    let places: Vec<Place> = (0..rounds).map(|_| round()).collect();
    // A source must have stood still before its change counts; all rounds wait once.
    let settled = std::time::Instant::now() + std::time::Duration::from_secs(31);
    wait_for("the sources to have settled", || std::time::Instant::now() > settled);
    side_by_side(rounds, |index| {
        let place = &places[usize::try_from(index).unwrap()];
        let mut random = Random(seed.wrapping_add(index));
        let victim = any_victim(&mut random);
        let mut up = place.spawn(&["up", "--poll", "1s"]);
        let asked_at = random.next(3);
        for kill in 0..=random.next(3) {
            pause(random.next(350));
            if kill == asked_at {
                place.run(&["run", ".", "--detach"]);
            }
            if victim != Victim::Daemon {
                kill_hosts(place);
            }
            if victim != Victim::Host {
                up.signal(Signal::KILL);
                up.end();
                up = place.spawn(&["up", "--poll", "1s"]);
            }
        }
        let ended = |place: &Place| {
            let runs = place.runs();
            !runs.is_empty() && runs.iter().all(|run| run["phase"] == "Succeeded")
        };
        let has_change = || place.runs().iter().any(|run| run["trigger"]["kind"] == "change");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
        while !(has_change() && ended(place)) {
            assert!(
                std::time::Instant::now() < deadline,
                "round {index} of seed {seed} does not end, {victim:?} killed: {:#?}\n{}",
                place.runs(),
                up.log()
            );
            pause(50);
        }
        up.signal(Signal::TERM);
        up.end();
        let runs = place.runs().len();
        judge(place, runs, victim, &format!("round {index} of seed {seed}"));
        assert!(runs <= 2, "one change and one request at most");
        Ended::from(place.jupyterflow(&["plan", "--check"]).output().unwrap()).expect(0);
        let _ = std::fs::remove_dir_all(place.beside(""));
    });
}

fn pause(milliseconds: u64) {
    let nanoseconds = i64::try_from(milliseconds * 1_000_000).unwrap();
    let _ =
        rustix::thread::nanosleep(&rustix::thread::Timespec { tv_sec: 0, tv_nsec: nanoseconds });
}
