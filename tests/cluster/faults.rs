//! What goes wrong between a controller and the API server: watches that expire, a lease that is lost in the
//! middle of a claim. Nothing is lost and nothing is doubled.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use crate::proxy::{Asked, Proxy, Verdict};
use crate::support::{PATIENCE, wait_for};
use crate::user::{Released, User};

fn pipeline(name: &str, line: &str) -> String {
    format!(
        "name: {name}\ntriggers: [change]\nsteps:\n  work: {{run: 'echo began >>witness; {line}'}}\n"
    )
}

/// All watches are cut, and each is told at its next try that its version is too old (410): what happened
/// meanwhile is seen by listing again.
#[test]
fn watches_that_expire_list_again_and_miss_nothing() {
    let user = User::new("expired");
    let released = Released::of(&user);
    let proxy = Proxy::new();
    let (lists, expiring) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
    let (counted, told) = (Arc::clone(&lists), Arc::clone(&expiring));
    proxy.rule(move |asked: &Asked| {
        let watches = asked.path.contains("watch=true") || asked.path.contains("watch=1");
        let kind = asked.path.split('?').next().unwrap().to_owned();
        if asked.method == "GET" && asked.path.contains("limit=") && !watches {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        let mut told = told.lock().unwrap();
        let first =
            watches && told.as_mut().is_some_and(|all: &mut HashSet<String>| all.insert(kind));
        if first { Verdict::Expire } else { Verdict::Pass }
    });
    user.write("p/jupyterflow.yaml", &pipeline("churn", "true"));
    user.source();
    let controller = user.controller(&user.namespace, Some(proxy.config()));
    user.wait_for_run("churn", "change", "Succeeded");
    let before = lists.load(Ordering::Relaxed);
    for number in 1..=3 {
        *expiring.lock().unwrap() = Some(HashSet::new());
        proxy.cut();
        user.write("p/jupyterflow.yaml", &pipeline("churn", &format!("echo {number}")));
        wait_for("the edit's run", || user.began("p") == number + 1);
        wait_for("all watches to be told", || {
            expiring.lock().unwrap().as_ref().is_some_and(|all| all.len() >= 6)
        });
    }
    wait_for("all to be listed again", || lists.load(Ordering::Relaxed) >= before + 3 * 6);
    user.wait_for_pass("mark");
    assert_eq!(user.began("p"), 4, "{}", controller.log());
    assert_eq!(user.objects("notebookruns").len(), 4);
    wait_for("the watch to see all", || released.count_each_once() == 4);
}

/// A leader whose renewals get no answer while one of its writes is under way: another takes over and ends
/// what was begun; what arrives late changes nothing.
fn loses_its_lease(at: usize) {
    let user = User::new(&format!("leader{at}"));
    let released = Released::of(&user);
    user.source();
    let proxy = Proxy::new();
    let (here, stopped) = mpsc::channel();
    let (go, going) = mpsc::channel::<()>();
    let (count, going) = (Mutex::new(0), Mutex::new(Some(going)));
    let held = Arc::new(AtomicUsize::new(0));
    let cut_off = Arc::clone(&held);
    proxy.rule(move |asked: &Asked| {
        if asked.path.contains("/leases") && cut_off.load(Ordering::Relaxed) > 0 {
            return Verdict::Refuse(503);
        }
        let made = ["/notebookruns?", "/workflows?"].iter().any(|kind| asked.path.contains(kind));
        let own = asked.path.contains("churn") || (asked.method == "POST" && made);
        if !asked.writes() || !own {
            return Verdict::Pass;
        }
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count != at {
            return Verdict::Pass;
        }
        cut_off.store(1, Ordering::Relaxed);
        let (here, going) = (here.clone(), going.lock().unwrap().take().unwrap());
        Verdict::Before(Box::new(move || {
            here.send(()).unwrap();
            let _ = going.recv();
        }))
    });
    let leads = user.controller(&user.namespace, Some(proxy.config()));
    wait_for("the leader", || leads.log().contains("this controller works"));
    let other = user.controller(&user.namespace, None);
    user.write("p/jupyterflow.yaml", &pipeline("churn", "true"));
    stopped.recv_timeout(PATIENCE).unwrap();
    wait_for("the other to take over", || other.log().contains("this controller works"));
    user.wait_for_run("churn", "change", "Succeeded");
    held.store(0, Ordering::Relaxed);
    go.send(()).unwrap();
    wait_for("the first to know", || leads.log().contains("another works"));
    user.wait_for_pass("mark");
    assert_eq!(user.began("p"), 1, "write {at}: {}\n{}", leads.log(), other.log());
    assert_eq!((user.objects("notebookruns").len(), user.workflows().len()), (1, 1));
    wait_for("the watch to see all", || released.count_each_once() == 1);
}

#[test]
fn a_leader_that_is_lost_in_the_middle_of_a_claim_makes_one_run() {
    std::thread::scope(|threads| {
        let all: Vec<_> = [2, 3, 4, 5].map(|at| threads.spawn(move || loses_its_lease(at))).into();
        all.into_iter().for_each(|one| one.join().unwrap());
    });
}
