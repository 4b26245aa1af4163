//! What a cluster's administrator applies: the controller with the rights that it needs, and no more.
//!
//! Owns these objects. `generate manifests` prints them, and `manifests/` holds what it prints.

use serde_json::{Value, json};

use super::records::PLANNED;

/// The name of all that is the controller's.
pub const NAME: &str = "jupyterflow-controller";
/// The verb of whoever may say that a trigger fired: the controller, and who restores a backup. All others ask.
const RECORD: &str = "record";
/// The name of the policy that keeps them to it.
pub const REQUESTS: &str = "jupyterflow-requests";
/// What only a controller says of a run.
const NOT_ASKED: [&str; 3] = ["spec.stoppedBy", "spec.digest", "spec.execution"];
/// Where it listens.
const PORT: u16 = 8080;

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// Keeps users from forging runs of triggers: a `NotebookRun` of theirs is a request, and of one that is there they
/// may ask for its end.
fn requests_only() -> [Value; 2] {
    let metadata = json!({"name": REQUESTS});
    let version = "admissionregistration.k8s.io/v1";
    let may = format!(
        "authorizer.group('jupyterflow.io').resource('notebookruns').namespace(request.namespace)\
         .check('{RECORD}').allowed()"
    );
    // Its trigger and identity never change, whoever writes.
    let both = |field: &str| (format!("object.{field}"), format!("oldObject.{field}"));
    let notes = ["spec.params", "metadata.annotations", "metadata.labels"];
    let same = notes.iter().chain(&NOT_ASKED).map(|field| {
        let (new, old) = both(field);
        format!("has({new}) == has({old}) && (!has({new}) || {new} == {old})")
    });
    // The cluster itself takes these away, and lacks our verb.
    let fewer = ["metadata.finalizers", "metadata.ownerReferences"].map(|field| {
        let (new, old) = both(field);
        format!("!has({new}) || has({old}) && {new}.all(one, one in {old})")
    });
    let same: Vec<String> = same.chain(fewer).map(|words| format!("({words})")).collect();
    let asks = NOT_ASKED.map(|field| format!("!has(object.{field})")).join(" && ");
    let planned = format!(
        "!has(object.metadata.annotations) || !('{PLANNED}' in object.metadata.annotations)"
    );
    [
        json!({
            "apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": metadata,
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["jupyterflow.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
                    "resources": ["notebookruns"],
                }]},
                "validations": [{
                    "expression": format!("request.operation != 'CREATE' || object.spec.trigger.kind == 'manual' || {may}"),
                    "message": "a NotebookRun that a person makes is a request: its trigger is `manual`",
                    "reason": "Forbidden",
                }, {
                    "expression": format!("request.operation != 'CREATE' || ({asks} && ({planned})) || {may}"),
                    "message": "a NotebookRun that a person makes is a request: what it executes is its pipeline's to say",
                    "reason": "Forbidden",
                }, {
                    "expression": format!("request.operation != 'UPDATE' || ({}) || {may}", same.join(" && ")),
                    "message": "of a NotebookRun that is there a person may ask for its end, by `stop`",
                    "reason": "Forbidden",
                }],
            },
        }),
        json!({
            "apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata,
            "spec": {"policyName": REQUESTS, "validationActions": ["Deny"]},
        }),
    ]
}

/// The controller in its own namespace, from an image.
pub fn controller(namespace: &str, image: &str) -> Vec<Value> {
    let (rbac, own) = ("rbac.authorization.k8s.io", "jupyterflow.io");
    let labels =
        json!({"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "jupyterflow"});
    let metadata = json!({"name": NAME, "namespace": namespace, "labels": labels});
    let whole = json!({"name": NAME, "labels": labels});
    let subjects = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}]);
    let watch = ["get", "list", "watch"];
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http"}});
    let restricted = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
    });
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": whole,
            "rules": [
                rule(own, &["notebooksources", "clusternotebooksources"], &watch),
                rule(
                    own,
                    &["notebooksources/status", "clusternotebooksources/status"],
                    &["update"],
                ),
                rule(own, &["notebookpipelines"], &["get", "list", "watch", "create", "patch"]),
                rule(own, &["notebookpipelines/status", "notebookruns/status"], &["update"]),
                rule(
                    own,
                    &["notebookruns"],
                    &["get", "list", "watch", "create", "update", "delete", RECORD],
                ),
                rule(own, &["notebookenvironments"], &["get", "list", "watch", "create", "patch"]),
                rule("events.k8s.io", &["events"], &["create", "patch"]),
                // Users' own servers, for their images and volumes; the pods of runs, where a node forgot them.
                rule("", &["pods"], &["list", "watch", "delete"]),
                // For whom a secret that a pipeline names is labelled.
                rule("", &["secrets"], &["get"]),
                rule(
                    "argoproj.io",
                    &["workflows"],
                    &["get", "list", "watch", "create", "patch", "delete"],
                ),
            ],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": whole,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": NAME},
            "subjects": subjects,
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": metadata,
            "rules": [rule("coordination.k8s.io", &["leases"], &["get", "create", "update"])],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": NAME},
            "subjects": subjects,
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app.kubernetes.io/name": NAME}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "serviceAccountName": NAME,
                        "securityContext": {
                            "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [{
                            "name": "controller",
                            "image": image,
                            "args": [
                                "controller", "--log", "json",
                                "--listen", format!("0.0.0.0:{PORT}"),
                            ],
                            "env": [{"name": "JUPYTERFLOW_IMAGE", "value": image}],
                            "ports": [{"name": "http", "containerPort": PORT}],
                            "livenessProbe": probe("/healthz"),
                            "readinessProbe": probe("/readyz"),
                            "resources": {
                                "requests": {"cpu": "50m", "memory": "128Mi"},
                                "limits": {"memory": "512Mi"},
                            },
                            "securityContext": restricted,
                            "volumeMounts": [
                                {"name": "cache", "mountPath": "/var/cache/jupyterflow"},
                                {"name": "tmp", "mountPath": "/tmp"},
                            ],
                        }],
                        "volumes": [
                            {"name": "cache", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}},
                        ],
                    },
                },
            },
        }),
    ];
    all.extend(requests_only());
    all
}
