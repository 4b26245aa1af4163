//! What a service account needs so that its pods can run pipelines.
//!
//! A service account speaks for everybody whose pods have it: users who must not see each other's pods need
//! namespaces of their own. Owns the least that works: to find the own pod, to make and follow Workflows, and, for the pods of
//! these, to tell how they went.

use serde_json::{Value, json};

/// A service account with its role, for people who run pipelines from their Jupyter pods.
///
/// Resources, as `jobs.batch`, are those that its resource steps make.
pub fn of_users(namespace: &str, service_account: &str, resources: &[String]) -> [Value; 3] {
    let metadata = json!({"name": "jupyterflow", "namespace": namespace});
    let group = "rbac.authorization.k8s.io";
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let objects = resources.iter().map(|one| {
        let (resource, group) = one.split_once('.').unwrap_or((one, ""));
        rule(group, resource, &["get", "list", "create", "patch", "delete"])
    });
    let mut rules = vec![
        // The own pod, for its image and volumes.
        rule("", "pods", &["list"]),
        rule("argoproj.io", "workflows", &["create", "get", "patch", "watch"]),
        // `up --engine argo` publishes pipelines, which a controller runs; `status`, `stop`, `retry` and others see
        // and ask for their runs.
        rule("jupyterflow.io", "notebookpipelines", &["get", "list", "watch", "create", "patch"]),
        rule("jupyterflow.io", "notebookruns", &["get", "list", "watch", "create", "patch"]),
        // `logs` of runs whose volume is not at hand.
        rule("", "pods/log", &["get"]),
        // What Argo asks of the pods of every Workflow.
        rule("argoproj.io", "workflowtaskresults", &["create", "patch"]),
    ];
    rules.extend(objects);
    [
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": service_account, "namespace": namespace},
        }),
        json!({
            "apiVersion": format!("{group}/v1"),
            "kind": "Role",
            "metadata": metadata,
            "rules": rules,
        }),
        json!({
            "apiVersion": format!("{group}/v1"),
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "jupyterflow"},
            "subjects": [
                {"kind": "ServiceAccount", "name": service_account, "namespace": namespace},
            ],
        }),
    ]
}
