//! Resource steps: objects that Argo makes, watches and removes.

use serde_json::{Value, json};

use crate::support::wait_for;
use crate::user::{User, apply};

/// A Job that leaves what it was given in the home.
fn job(name: &str, text: &str, value: &str) -> String {
    format!(
        "apiVersion: batch/v1
kind: Job
metadata:
  name: mine
  labels: {{team: blue}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      securityContext: {{runAsUser: 1000, runAsGroup: 100}}
      containers:
      - name: work
        image: docker.io/local/notebook:1
        imagePullPolicy: Never
        command: [sh, -ec, 'echo \"$TEXT\" >>/home/jovyan/{name}/witness; exit $CODE']
        env:
        - {{name: TEXT, value: {text}}}
        - {{name: CODE, value: {value}}}
        volumeMounts: [{{name: home, mountPath: /home/jovyan}}]
      volumes: [{{name: home, persistentVolumeClaim: {{claimName: claim-ann}}}}]
"
    )
}

const ENDS: &str = "success: status.succeeded > 0, failure: status.failed > 0";

fn jobs_of(user: &User, run: &str) -> Vec<Value> {
    let selector = format!("jupyterflow.io/run={run}");
    let list = user.kubectl(&["get", "jobs", "-l", &selector, "-o", "json"]).json();
    list["items"].as_array().unwrap().clone()
}

#[test]
fn a_job_gets_values_of_earlier_steps_and_gives_outputs() {
    let user = User::new("objects");
    user.may_make("jobs.batch");
    user.source_of(&json!({"settle": "0s", "poll": "1s", "kinds": ["Job.batch"]}));
    let controller = user.controller(&user.namespace, None);
    let text = "'{{ steps.prepare.outputs.word }} of {{ run.trigger }}: {{ steps.prepare.outputs.nasty }}'";
    // Nothing in a value is taken for a template, by anybody.
    user.write(
        "made/prepare.sh",
        "cat >>$JUPYTERFLOW_OUTPUTS <<'END'\nword=\"a word\"\ncode=\"0\"\n\
         nasty={{workflow.uid}}, {{=1+1}}, \"quoted\" }}\nEND\n",
    );
    user.write("made/job.yaml", &job("made", text, "'{{ steps.prepare.outputs.code }}'"));
    user.write(
        "made/jupyterflow.yaml",
        &format!(
            "name: made
steps:
  prepare: {{run: sh prepare.sh}}
  train:
    needs: prepare
    resource: {{manifest: job.yaml, {ENDS}, outputs: {{pods: .status.succeeded, name: '{{.metadata.name}}'}}}}
  report:
    needs: train
    run: echo {{{{ steps.train.outputs.name }}}} {{{{ steps.train.metrics.pods }}}} >report
"
        ),
    );
    let run = user.wait_for_run("made", "change", "Succeeded");
    let name = run["metadata"]["name"].as_str().unwrap();
    let witness = std::fs::read_to_string(user.path("made/witness")).unwrap();
    assert_eq!(witness, "a word of change: {{workflow.uid}}, {{=1+1}}, \"quoted\" }}\n", "{run:#}");
    let report = std::fs::read_to_string(user.path("made/report")).unwrap();
    let short = &name[name.len() - 10..];
    assert_eq!(report, format!("train-{short} 1\n"));
    // The object goes with its run.
    wait_for("the job to go", || jobs_of(&user, name).is_empty());
    drop(controller);
}

/// A pipeline of one resource step.
fn alone(name: &str, more: &str) -> String {
    format!("name: {name}\nsteps:\n  work:\n    resource: {{manifest: job.yaml, {ENDS}{more}}}\n")
}

#[test]
fn objects_go_or_stay_as_is_said() {
    let user = User::new("keeps");
    user.may_make("jobs.batch");
    user.source_of(&json!({"settle": "0s", "poll": "1s", "kinds": ["Job.batch"]}));
    let controller = user.controller(&user.namespace, None);
    let write_both = |name: &str, job: &str, yaml: String| {
        user.write(&format!("{name}/job.yaml"), job);
        user.write(&format!("{name}/jupyterflow.yaml"), &yaml);
    };
    let write = |name: &str, text: &str, code: &str, yaml: String| {
        write_both(name, &job(name, text, code), yaml);
    };
    write("fails", "x", "'3'", alone("fails", ", keep: onFailure") + "    retries: 1\n");
    write("removed", "x", "'3'", alone("removed", ""));
    write("stays", "x", "'0'", alone("stays", ", keep: always"));
    write("well", "x", "'0'", alone("well", ", keep: onFailure"));
    for (name, more) in [("late", "    timeout: 10s\n"), ("stopped", "")] {
        let yaml = alone(name, ", keep: onFailure") + more;
        write_both(name, &job(name, "x", "'0'").replace("echo", "sleep 600; echo"), yaml);
    }
    write(
        "swept",
        "'{{ params.n }} {{ sweep.index }}'",
        "'0'",
        alone("swept", ", outputs: {done: status.succeeded}, keep: always")
            + "    sweep: {n: [3, 5]}\n",
    );
    let name = |run: &Value| run["metadata"]["name"].as_str().unwrap().to_owned();
    let slow = |pipeline: &str| {
        let runs = user.objects("notebookruns");
        let own = runs
            .values()
            .find(|run| run["metadata"]["labels"]["jupyterflow.io/pipeline"] == pipeline);
        own.map(name).unwrap_or_default()
    };
    wait_for("a job to stop", || jobs_of(&user, &slow("stopped")).len() == 1);
    let patch =
        ["patch", "nbr", &slow("stopped"), "--type=merge", "-p", r#"{"spec":{"stop":true}}"#];
    user.kubectl(&patch).expect(0);

    let run = user.wait_for_run("fails", "change", "Failed");
    assert_eq!(run["status"]["steps"][0]["attempt"], 2, "{run:#}");
    let message = run["status"]["steps"][0]["message"].as_str().unwrap();
    assert_eq!(message, "its condition of failure holds: status.failed > 0");
    let jobs = jobs_of(&user, &name(&run));
    assert_eq!(jobs.len(), 2, "each attempt has its own");
    assert_eq!(jobs[0]["metadata"]["ownerReferences"][0]["name"], name(&run).as_str());

    let run = user.wait_for_run("removed", "change", "Failed");
    wait_for("the job to go", || jobs_of(&user, &name(&run)).is_empty());

    let run = user.wait_for_run("stays", "change", "Succeeded");
    let job = &jobs_of(&user, &name(&run))[0];
    assert_eq!(job["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(job["metadata"]["labels"]["team"], "blue");
    assert_eq!(job["metadata"]["labels"]["jupyterflow.io/step"], "work");

    let run = user.wait_for_run("well", "change", "Succeeded");
    wait_for("the job to go", || jobs_of(&user, &name(&run)).is_empty());

    let run = user.wait_for_run("late", "change", "Failed");
    let message = run["status"]["steps"][0]["message"].as_str().unwrap();
    assert_eq!(message, "it took longer than its timeout of 10s", "{run:#}");

    let run = user.wait_for_run("stopped", "change", "Stopped");
    assert_eq!(run["status"]["steps"][0]["phase"], "Stopped", "{run:#}");
    wait_for("the job to go", || jobs_of(&user, &name(&run)).is_empty());

    let run = user.wait_for_run("swept", "change", "Succeeded");
    let jobs = jobs_of(&user, &name(&run));
    assert_eq!(jobs.len(), 2, "{run:#}");
    let mut witness = std::fs::read_to_string(user.path("swept/witness")).unwrap();
    witness = witness
        .lines()
        .map(str::to_owned)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
        .join(",");
    assert_eq!(witness, "3 0,5 1");
    drop(controller);
}

#[test]
fn what_an_object_may_not_have_is_refused_with_a_reason() {
    let user = User::new("refused-objects");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "hub", "namespace": user.namespace}, "stringData": {"key": "geheim"},
    });
    apply(&[secret]);
    user.source_of(&json!({"settle": "0s", "poll": "1s", "kinds": ["Job.batch", "Pod"]}));
    let controller = user.controller(&user.namespace, None);
    let pod = |more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, spec: {{{more}, containers: [{{name: a, image: 'docker.io/local/notebook:1'}}]}}}}"
        )
    };
    let cases = [
        (
            "role",
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, roleRef: {kind: ClusterRole, name: admin}}".to_owned(),
            "kind RoleBinding.rbac.authorization.k8s.io is none that resource steps here may make (Job.batch, Pod)",
        ),
        ("host", pod("volumes: [{name: h, hostPath: {path: /}}]"), "Pod reaches its node by hostPath /"),
        (
            "list",
            "{apiVersion: batch/v1, kind: Job, items: [{apiVersion: v1, kind: Secret}]}".to_owned(),
            "a list of objects is no object: a step makes one",
        ),
        ("nfs", pod("volumes: [{name: h, nfs: {server: s, path: /bob}}]"), "Pod reaches its node by nfs"),
        (
            "mask",
            "{apiVersion: v1, kind: Pod, metadata: {annotations: {hub.jupyter.org/username: bob}}, spec: {}}"
                .to_owned(),
            "`hub.jupyter.org/username` belongs to what a hub or Argo makes",
        ),
        ("net", pod("hostNetwork: true"), "Pod reaches its node by hostNetwork"),
        ("account", pod("serviceAccountName: root"), "Pod names service account root"),
        (
            "claim",
            pod("volumes: [{name: h, persistentVolumeClaim: {claimName: claim-bob}}]"),
            "Pod names claim claim-bob, which its runs do not mount",
        ),
        ("secret", pod("volumes: [{name: h, secret: {secretName: hub}}]"), "secret hub is not labelled"),
        ("absent", pod("imagePullSecrets: [{name: nobodys}]"), "there is no secret nobodys"),
        (
            "image",
            "{apiVersion: v1, kind: Pod, spec: {containers: [{name: a, image: 'evil:1'}]}}".to_owned(),
            "image evil:1 is none that runs here may use",
        ),
        (
            "elsewhere",
            "{apiVersion: v1, kind: Pod, metadata: {namespace: kube-system}, spec: {}}".to_owned(),
            "`metadata.namespace`: objects are made in the namespace of the run",
        ),
        (
            "late",
            pod("serviceAccountName: '{{ params.who }}'"),
            "must be plain text: who may use what is decided before the run",
        ),
    ];
    for (name, manifest, _) in &cases {
        let yaml = format!(
            "name: {name}\nparams: {{who: root}}\nsteps: {{work: {{resource: {{manifest: pod.yaml}}}}}}\n"
        );
        user.write(&format!("{name}/pod.yaml"), manifest);
        user.write(&format!("{name}/jupyterflow.yaml"), &yaml);
    }
    for (name, _, words) in &cases {
        let said = || {
            let known = user.objects("notebookpipelines");
            let own = known.values().find(|one| one["spec"]["name"] == *name);
            let reason = own.map(|one| one["status"]["conditions"][0]["message"].to_string());
            format!("{}{}", reason.unwrap_or_default(), controller.log())
        };
        wait_for(&format!("the reason of {name}: {words}"), || said().contains(words));
    }
    assert!(user.workflows().is_empty());
}

/// Typed in a server, without any controller: the user's own rights decide what may be made.
#[test]
fn an_object_is_made_from_a_server_and_goes_with_its_run() {
    let user = User::new("typed");
    user.write("p/job.yaml", &job("p", "'{{ params.word }}'", "'0'"));
    let yaml = "name: p\nparams: {word: calm}\n".to_owned() + &alone("p", "")["name: p\n".len()..];
    user.write("p/jupyterflow.yaml", &yaml);
    let refused = user.types("p", "jupyterflow run --output json").expect(1).json();
    let message = refused["steps"][0]["message"].as_str().unwrap();
    assert!(message.contains("cannot get resource \"jobs\""), "{message}");
    user.may_make("jobs.batch");
    let run = user.types("p", "jupyterflow run -p word storm --output json").expect(0).json();
    assert_eq!(std::fs::read_to_string(user.path("p/witness")).unwrap(), "storm\n");
    let name = run["name"].as_str().unwrap();
    wait_for("the job to go", || jobs_of(&user, name).is_empty());
    let shown =
        user.types("p", &format!("jupyterflow show {name} --argo-url https://argo.example/"));
    let page = format!("https://argo.example/workflows/{}/{name}?uid=", user.namespace);
    assert!(shown.stdout.contains(&page), "{}", shown.stdout);
}
