//! A year of one pipeline: what it leaves behind is no more than what a month does.

use std::path::Path;

use jupyterflow::plan::{Phase, Run, prunable};
use jupyterflow::reconcile::Memory;
use jupyterflow::sim::Simulation;
use jupyterflow::spec::History;
use jupyterflow::store::SqliteStore;
use jupyterflow::types::RunName;

const YAML: &str = "
triggers: {change: {}, schedule: {cron: '0 */4 * * *', missed: none}, stale: {maxAge: 2d}}
concurrency: forbid
steps: {a: {run: python a.py}}
";

/// What this process holds in memory, in MiB.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() / 256.0
}

/// The bytes of a state, and those of its cursors.
fn left(world: &mut Simulation, folder: &Path) -> (u64, usize) {
    let rows = world.store().pipelines().unwrap();
    let cursors = serde_json::to_string(&rows[0].ledger).unwrap().len();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    (files.map(|file| file.len()).sum(), cursors)
}

#[test]
fn a_year_leaves_no_more_behind_than_a_month() {
    // Durable writes take their time on a real disk.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.unwrap();
    let store = SqliteStore::open(folder.path(), folder.path()).unwrap();
    let mut world = Simulation::new(Box::new(store), "2026-01-01T00:00:00Z".parse().unwrap());
    world.source.save("p/jupyterflow.yaml", YAML, world.now);
    let mut memory = Memory::default();
    let (mut ended, mut month, mut held) = (0_u32, (0, 0), 0.0);
    for hour in 0..365 * 24 {
        if hour % (7 * 24) == 0 {
            world.source.save("p/a.py", &format!("print({hour})"), world.now);
        }
        // Away every tenth day, suspended by nobody, and a host that takes five hours now and then.
        if hour / 24 % 10 != 9 {
            world.pass(&mut memory).unwrap().unwrap();
        }
        let slow = hour % 50 < 5;
        for run in world.hosted().into_iter().filter(|_| !slow) {
            world.begin(&run).unwrap();
            let phase = if hour % 9 == 0 { Phase::Failed } else { Phase::Succeeded };
            ended += u32::from(world.end(&run, phase).unwrap().is_some());
        }
        if hour % 12 == 0 {
            let runs = world.store().runs(usize::MAX).unwrap();
            let runs: Vec<&Run> = runs.iter().map(|stored| &stored.run).collect();
            let going: Vec<RunName> = prunable(&runs, History { successful: 10, failed: 10 });
            world.store().forget(&going).unwrap();
        }
        world.wait(3_600);
        if hour == 40 * 24 {
            (month, held) = (left(&mut world, folder.path()), resident());
        }
    }
    let year = left(&mut world, folder.path());
    assert!(ended > 1_000, "{ended} runs");
    assert!(world.store().runs(usize::MAX).unwrap().len() < 40);
    assert!(year.0 * 4 < month.0 * 5, "{} bytes after a year, {} after a month", year.0, month.0);
    assert!(year.1 < 16_384, "{} bytes of cursors", year.1);
    // Other tests of this process run meanwhile, so that this is for whoever runs it alone.
    let now = resident();
    eprintln!(
        "{ended} runs; after a month {month:?} bytes of state and cursors and {held:.0} MiB of memory, after \
         a year {year:?} and {now:.0} MiB"
    );
}
