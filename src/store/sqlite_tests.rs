//! The promises of the port, kept by the adapter on a real file.

use super::*;
use crate::plan::{Phase, StepRecord, Trigger};
use crate::store::EngineName;
use crate::types::{RunId, TriggerKind};

fn id() -> PipelineId {
    PipelineId { source: "local".into(), folder: "f".into(), name: "p".parse().unwrap() }
}

fn stored(key: &str) -> StoredRun {
    let trigger =
        Trigger { kind: TriggerKind::Manual, key: key.into(), scheduled_at: None, retry_of: None };
    let run_id = RunId::new(&id(), trigger.kind, key);
    StoredRun {
        pipeline: id(),
        run: Run {
            name: run_id.name(&id().name, None),
            id: run_id,
            pipeline: "p".into(),
            source: "local".into(),
            revision: "r".into(),
            trigger,
            phase: Phase::Pending,
            reason: None,
            message: None,
            params: indexmap::IndexMap::default(),
            created_at: "2026-11-22T00:00:00Z".parse().unwrap(),
            started_at: None,
            finished_at: None,
            steps: Vec::new(),
        },
        spec: RunSpec {
            definition: FileText { file: "f/j".into(), folder: "f".into(), text: "x".into() },
            max_points: 100,
            fingerprint: None,
            because: Vec::new(),
            from: None,
            kept: Vec::new(),
            backfill: false,
            engine: EngineName::Local,
            handle: None,
        },
        stop_requested: false,
        stopped_by: None,
        ended: None,
    }
}

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(&folder.join(".jupyterflow"), folder).unwrap()
}

#[test]
fn a_claim_and_its_cursor_are_one_write_against_a_version() {
    let folder = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (open(folder.path()), open(folder.path()));
    let ledger = Ledger::default();
    let pipeline = id();
    let write = |version, key: &str| Commit {
        id: &pipeline,
        version,
        ledger: &ledger,
        definition: None,
        claims: vec![stored(key)],
        shown: None,
    };
    one.commit(&write(None, "a")).unwrap();
    assert!(matches!(two.commit(&write(None, "b")), Err(StoreError::Conflict)));
    two.commit(&write(Some(1), "b")).unwrap();
    assert!(matches!(one.commit(&write(Some(1), "c")), Err(StoreError::Conflict)));
    assert_eq!(one.runs(10).unwrap().len(), 2, "nothing of a refused write stays");
    two.commit(&write(Some(2), "b")).unwrap();
    assert_eq!(one.runs(10).unwrap().len(), 2, "the same identity again is success");
}

#[test]
fn what_ended_stays_as_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    let mut request = stored("a");
    store.request(&request).unwrap();
    request.run.phase = Phase::Succeeded;
    store.update_run(&request.run).unwrap();
    request.run.phase = Phase::Running;
    store.update_run(&request.run).unwrap();
    let name = request.run.name.clone();
    assert_eq!(store.run(name.as_str()).unwrap().unwrap().run.phase, Phase::Succeeded);
    let step = StepState {
        record: StepRecord::pending("s", Some(2), String::new()),
        failures: 0,
        interruptions: 1,
    };
    store.update_steps(&name, &[&step]).unwrap();
    assert_eq!(open(folder.path()).steps(&name).unwrap(), [step]);
    store.forget(std::slice::from_ref(&name)).unwrap();
    assert!(store.run(name.as_str()).unwrap().is_none());
}

#[test]
fn newer_and_foreign_states_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let root = folder.path().join("root");
    drop(SqliteStore::open(&state, &root).unwrap());
    let other = SqliteStore::open(&state, &folder.path().join("other"));
    assert!(matches!(other, Err(StoreError::OtherRoot { .. })));
    let connection = Connection::open(state.join("state.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(SqliteStore::open(&state, &root), Err(StoreError::Newer { .. })));
}

#[test]
fn ends_have_an_order_that_no_clock_turns_round() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    for key in ["a", "b", "c"] {
        store.request(&stored(key)).unwrap();
    }
    for (key, at) in [("c", "2026-11-22T09:00:00Z"), ("a", "2026-11-22T08:00:00Z")] {
        let mut run = stored(key).run;
        (run.phase, run.finished_at) = (Phase::Succeeded, Some(at.parse().unwrap()));
        store.update_run(&run).unwrap();
        // A second report of an end changes nothing.
        store.update_run(&run).unwrap();
    }
    store.forget(&[stored("a").run.name]).unwrap();
    let mut run = stored("b").run;
    run.phase = Phase::Failed;
    store.update_run(&run).unwrap();
    let ended = |key: &str| store.run(stored(key).run.name.as_str()).unwrap().unwrap().ended;
    assert_eq!((ended("c"), ended("b")), (Some(1), Some(3)), "no place is given twice");
}

#[test]
fn a_state_of_version_1_is_migrated_and_one_of_a_later_version_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join(".jupyterflow");
    let mut store = open(folder.path());
    store.request(&stored("open")).unwrap();
    store.request(&stored("over")).unwrap();
    let mut run = stored("over").run;
    run.phase = Phase::Succeeded;
    store.update_run(&run).unwrap();
    // What version 1 did not have.
    let back = "DROP INDEX runs_of; ALTER TABLE runs DROP COLUMN ended;
        ALTER TABLE runs DROP COLUMN stopped_by; DELETE FROM meta WHERE key = 'ended';
        CREATE INDEX runs_of ON runs (source, folder, pipeline, open, seq);
        PRAGMA user_version = 1;";
    store.connection.execute_batch(back).unwrap();
    drop(store);
    let store = SqliteStore::open_to_read(&state).unwrap().unwrap();
    let ended = |key: &str| store.run(stored(key).run.name.as_str()).unwrap().unwrap().ended;
    assert!(ended("open").is_none() && ended("over").is_some());
    let mut store = open(folder.path());
    let before = ended("over");
    let mut run = stored("open").run;
    run.phase = Phase::Failed;
    store.update_run(&run).unwrap();
    assert!(store.run(run.name.as_str()).unwrap().unwrap().ended > before);
    store.connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
    let error = SqliteStore::open(&state, folder.path()).err().unwrap();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
}

#[test]
fn the_first_who_wants_an_end_gives_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.request(&stored("a")).unwrap();
    let (name, by) = (stored("a").run.name, stored("b").run.name);
    store.request_stop(&name, Some(&by)).unwrap();
    store.request_stop(&name, None).unwrap();
    let known = store.run(name.as_str()).unwrap().unwrap();
    assert!(known.stop_requested && known.why_stopped().contains(by.as_str()));
}
