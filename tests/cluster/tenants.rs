//! What a user's runs may be and may see: tokens stay where they are, and clusters have their rules.

use serde_json::json;

use crate::support::wait_for;
use crate::user::{Shape, TOKEN, User};

#[test]
fn the_hubs_token_is_in_no_object_log_or_notebook() {
    let user = User::new("tokens");
    user.write("p/jupyterflow.yaml", "steps: {look: {run: env}}\n");
    user.types("p", "jupyterflow run").expect(0);
    let objects =
        user.kubectl(&["get", "workflows,workflowtaskresults,events,configmaps", "-o", "yaml"]);
    assert!(!objects.stdout.contains(TOKEN));
    let pods = user.kubectl(&["get", "pods", "-l", "jupyterflow.io/run", "-o", "yaml"]).expect(0);
    assert!(pods.stdout.contains("jupyterflow") && !pods.stdout.contains(TOKEN));
    let logs = user.kubectl(&["logs", "-l", "jupyterflow.io/run", "--all-containers", "--tail=-1"]);
    let logs = logs.expect(0).stdout;
    assert!(logs.contains("JUPYTERHUB_USER=ann@example.org") && !logs.contains(TOKEN), "{logs}");
    let found = std::process::Command::new("grep").args(["-r", TOKEN]).arg(user.path("p")).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
}

#[test]
fn the_restricted_standard_of_pod_security_passes() {
    let restricted = Shape {
        name: "Ann.B@example.org",
        labels: json!({"pod-security.kubernetes.io/enforce": "restricted"}),
        security: json!({
            "runAsUser": 1000, "runAsGroup": 100, "fsGroup": 100, "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        }),
        container_security: json!({
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        }),
        kubeflow: false,
        within: None,
    };
    let user = User::of("restricted", &restricted);
    user.write("p/hello.py", "print('hello')\n");
    user.write("p/world.py", "print('world')\n");
    // What JupyterFlow 0.0.x promised, as it was typed then.
    user.types("p", "jupyterflow run -c 'python hello.py >> python world.py'").expect(0);
}

#[test]
fn a_notebook_of_kubeflow_works_alike() {
    let user = User::of("kubeflow", &Shape { kubeflow: true, ..Shape::default() });
    user.write("p/jupyterflow.yaml", "steps: {a: {run: 'echo \"$NB_PREFIX\" >prefix'}}\n");
    user.types("p", "jupyterflow run").expect(0).says("engine: argo");
    let said = std::fs::read_to_string(user.path("p/prefix")).unwrap();
    assert_eq!(said, format!("/notebook/{}/lab\n", user.namespace));
    user.types("p", "jupyterflow doctor").expect(0).says("may create Workflows");
    // A controller keeps its environment too, for when the server is gone.
    User::define();
    let controller = user.controller(&user.namespace, None);
    wait_for("the environment to be kept", || {
        user.objects("notebookenvironments").keys().any(|name| name.starts_with("lab-"))
    });
    user.kubectl(&["delete", "pod", "lab-0", "--now"]).expect(0);
    user.write("q/jupyterflow.yaml", "steps: {a: {run: 'echo \"$NB_PREFIX\" >prefix'}}\n");
    user.source();
    user.wait_for_run("q", "change", "Succeeded");
    let said = std::fs::read_to_string(user.path("q/prefix")).unwrap();
    assert_eq!(said, format!("/notebook/{}/lab\n", user.namespace));
    drop(controller);
}

#[test]
fn what_cannot_run_on_a_cluster_says_why() {
    let user = User::new("refused");
    user.write("p/jupyterflow.yaml", "steps: {a: {run: 'true'}}\n");
    let line = "mkdir -p /tmp/p && cp jupyterflow.yaml /tmp/p && cd /tmp/p && jupyterflow run --engine argo";
    user.types("p", line).expect(2).says("lies on no volume").says("/home/jovyan");
    user.types("p", "JUPYTERHUB_USER=bob jupyterflow run --engine argo").expect(4).says("\"bob\"");
    user.types("p", "jupyterflow up --engine argo -j 2").expect(2).says("are for the local engine");
}
