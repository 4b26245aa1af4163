//! Sources that did not change: how long a warm scan of many folders takes, and how many repositories
//! are asked in a second.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints what it measured, over files of its own"
)]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jupyterflow::source::git::{Address, Mirror, Reference, RemoteRepository};
use jupyterflow::source::{DirectorySource, Source};
use jupyterflow::types::{Period, Timestamp};

const YAML: &str =
    "triggers: {change: {}, schedule: '0 3 * * *'}\nsteps: {a: {run: python a.py}}\n";

fn folders(root: &Path, count: usize) {
    for number in 0..count {
        let folder = root.join(format!("team-{}/user-{number}", number % 100));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("jupyterflow.yaml"), YAML).unwrap();
        std::fs::write(folder.join("a.py"), format!("print({number})")).unwrap();
        for other in 0..5 {
            std::fs::write(folder.join(format!("notes-{other}.txt")), "x").unwrap();
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// What this process holds in memory, in MiB.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / f64::from(1 << 20)
}

fn scans(count: usize) {
    let before = resident();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    folders(&root, count);
    let mut source = DirectorySource::new(&root, Path::new(""), 100);
    let begin = Instant::now();
    assert_eq!(source.look(Timestamp::now()).unwrap().files.len(), count);
    let first = begin.elapsed().as_secs_f64() * 1000.0;
    // As the daemon does after a long pass.
    jupyterflow::executor::return_free_memory();
    let memory = resident() - before;
    // Until times tell every further change.
    std::thread::sleep(Duration::from_secs(4));
    source.look(Timestamp::now()).unwrap();
    let warm = |work: &mut dyn FnMut()| {
        let times = (0..15).map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed().as_secs_f64() * 1000.0
        });
        median(times.collect())
    };
    let scan = warm(&mut || assert!(!source.may_have_changed()));
    let look = warm(&mut || assert_eq!(source.look(Timestamp::now()).unwrap().files.len(), count));
    println!(
        "{count} folders: first look {first:.0} ms, warm scan {scan:.1} ms, warm look {look:.1} ms, \
         {memory:.0} MiB"
    );
}

fn polls(seconds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("a.git");
    let script = "git init -q --bare -b main $1 && git init -q -b main $1.w && cd $1.w && \
                  echo 'steps: {a: {run: x}}' > jupyterflow.yaml && git add . && \
                  git -c user.name=a -c user.email=a@b commit -qm x && git push -q $1 main";
    let made = Command::new("sh").args(["-c", script, "sh"]).arg(&bare).status().unwrap();
    assert!(made.success());
    let mirrors: Vec<Mirror> = (0..100)
        .map(|number| Mirror {
            repository: RemoteRepository {
                guarded: true,
                address: Address::Path(bare.clone()),
                reference: Reference::Default,
                credentials: None,
                require_signed: false,
            },
            folder: folder.path().join(format!("m{number}")),
        })
        .collect();
    let count = AtomicUsize::new(0);
    let until = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (mirrors, count) = (&mirrors, &count);
            scope.spawn(move || {
                for mirror in mirrors.iter().cycle().skip(thread * 50) {
                    if Instant::now() > until {
                        return;
                    }
                    mirror.poll(Period::from_seconds(60), Timestamp::now()).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    println!(
        "unchanged repositories on this machine: {} polls a second",
        count.into_inner() as u64 / seconds
    );
}

fn main() {
    let short = std::env::var("BENCH_SHORT").is_ok_and(|text| !text.is_empty());
    scans(if short { 200 } else { 10_000 });
    polls(if short { 1 } else { 5 });
}
