//! A run as a Workflow.
//!
//! Owns what each field of a pipeline becomes. It asks nobody: the same run in the same environment gives
//! the same object.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ResourceRequirements,
    SecretKeySelector, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use serde_json::json;

use super::artifacts::{self, ObjectStore};
use super::checkout::{self, Checkout};
use super::environment::Environment;
use super::names::{self, MAIN};
use super::object;
use super::told::{Assignment, pack};
use super::workflow::{
    Arguments, Backoff, Dag, DagTask, Metadata, Parameter, RetryStrategy, Sequence, Template,
    TtlStrategy, ValueFrom, Workflow, WorkflowSpec,
};
use crate::spec::{Pipeline, Reference, Step, Work, visit_json};
use crate::store::{RunSpec, StoredRun};
use crate::types::slug;

/// Where a pod finds this program, what it was told, and where it tells.
pub const PLACE: &str = "/var/run/jupyterflow";
/// The annotation with the identity of a run.
pub const IDENTITY: &str = "jupyterflow.io/identity";
/// The parameter in which a pod tells how it went.
pub const TOLD: &str = "told";
/// How long an ended Workflow stays, in seconds.
const STAYS: u64 = 7 * 24 * 3600;
/// What the kubelet says of a container that its runtime no longer knows, beside a code of 137, which is also that of a
/// step that took too much memory.
pub(super) const FORGOTTEN: &str = "ContainerStatusUnknown";
/// Argo's variable with the number of the retry.
const RETRIES: &str = "{{retries}}";

/// What a run is compiled for.
#[derive(Clone, Debug)]
pub struct Site {
    /// The user's environment.
    pub environment: Environment,
    /// The image with this program alone, from which pods take it.
    pub program_image: String,
    /// The source's root in the pods; of a repository, where its results go.
    pub root: String,
    /// Where the run's commit comes from; none where its files lie in the root.
    pub checkout: Option<Checkout>,
    /// The object store where results go; none where they lie in the root.
    pub store: Option<ObjectStore>,
    /// How many pods of a run may work at a time.
    pub parallelism: Option<usize>,
}

impl Site {
    /// Whether a secret is for whoever carries the results of runs, and so none for a step.
    pub fn keeps(&self, secret: &str) -> bool {
        self.store.iter().any(|store| store.credentials.as_deref() == Some(secret))
    }
}

/// The Workflow of a pipeline for other tools: it carries nothing of ours but the program that its pods
/// take, and Argo names it.
///
/// # Errors
/// In words: what cannot be executed on a cluster.
pub fn export(site: &Site, pipeline: &Pipeline, stored: &StoredRun) -> Result<Workflow, String> {
    let mut workflow = bare(site, pipeline, &stored.spec)?;
    workflow.metadata.generate_name = Some(format!("{}-", stored.run.pipeline));
    let annotations = object::annotations(pipeline);
    workflow.metadata.annotations = Some(annotations).filter(|all| !all.is_empty());
    workflow.spec.arguments.parameters.push(assignment(site, stored)?);
    Ok(workflow)
}

/// What every pod of a run is told.
fn assignment(site: &Site, stored: &StoredRun) -> Result<Parameter, String> {
    let mut spec = stored.spec.clone();
    // The cells of notebooks are not needed there, and they are long.
    if let Some(fingerprint) = &mut spec.fingerprint {
        fingerprint.outlines.clear();
    }
    let env = site.environment.env.iter().filter(|variable| is_template(variable));
    let env = env.map(|one| (one.name.clone(), one.value.clone().unwrap_or_default()));
    let told = Assignment {
        run: stored.run.clone(),
        spec,
        root: site.root.clone(),
        checkout: site.checkout.clone(),
        stored: site.store.is_some(),
        env: env.collect(),
    };
    let told = pack(&told)
        .map_err(|error| format!("the run's pipeline file, with what it keeps, is {error}"))?;
    Ok(Parameter::given("assignment", told))
}

/// The Workflow of a run, suspended.
///
/// # Errors
/// In words: what cannot be executed on a cluster.
pub fn workflow(site: &Site, pipeline: &Pipeline, stored: &StoredRun) -> Result<Workflow, String> {
    let run = &stored.run;
    let owner = site.environment.owner.as_deref();
    let labels = [
        ("app.kubernetes.io/managed-by", "jupyterflow"),
        ("jupyterflow.io/pipeline", run.pipeline.as_str()),
        ("jupyterflow.io/source", &slug(&run.source, 63)),
        ("jupyterflow.io/trigger", run.trigger.kind.word()),
        ("jupyterflow.io/run", run.name.as_str()),
        ("jupyterflow.io/owner", &slug(owner.unwrap_or_default(), 63)),
    ];
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
    let labels: BTreeMap<String, String> =
        labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let annotations = [
        (IDENTITY, run.id.to_string()),
        ("jupyterflow.io/revision", run.revision.clone()),
        ("workflows.argoproj.io/title", run.pipeline.clone()),
    ];
    let annotations = annotations.into_iter().map(|(name, value)| (name.to_owned(), value));
    let annotations = annotations.chain(object::annotations(pipeline)).collect();
    let mut workflow = bare(site, pipeline, &stored.spec)?;
    workflow.metadata = ObjectMeta {
        name: Some(run.name.to_string()),
        labels: Some(labels.clone()),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    workflow.spec.suspend = true;
    // Its time begins with its release.
    workflow.spec.active_deadline_seconds = None;
    workflow.spec.ttl_strategy = Some(TtlStrategy { seconds_after_completion: STAYS });
    workflow.spec.arguments.parameters.push(assignment(site, stored)?);
    if let Some(pods) = &mut workflow.spec.pod_metadata {
        pods.labels = labels;
    }
    Ok(workflow)
}

/// A pipeline's Workflow without a run; of what is executed it lacks the steps that an earlier run did.
fn bare(site: &Site, pipeline: &Pipeline, spec: &RunSpec) -> Result<Workflow, String> {
    let environment = &site.environment;
    let tasks = names::tasks(pipeline);
    let steps = pipeline.steps();
    let own: Vec<usize> = (0..steps.len()).filter(|&at| !spec.keeps(steps[at].name())).collect();
    let (on_exit, clean_up) = object::clean_up(pipeline);
    let mut templates = vec![Template {
        name: MAIN.into(),
        dag: Some(Dag {
            // What does not depend on a failed step goes on.
            fail_fast: false,
            tasks: own.iter().map(|&at| task(pipeline, spec, &tasks, at)).collect(),
        }),
        ..Template::default()
    }];
    for &at in &own {
        let mut made = step(site, (pipeline, spec), &tasks, at)?;
        let carry = |one| artifacts::carry(site, pipeline, (&tasks, &spec.kept), at, one);
        made.iter_mut().for_each(carry);
        templates.extend(made);
    }
    templates.extend(clean_up);
    let mut volumes = environment.volumes.clone();
    volumes.push(Volume {
        name: "jupyterflow".into(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    volumes.extend(checkout::volume(site));
    volumes.extend(artifacts::volumes(site));
    // A mesh's sidecar would outlive the step.
    let annotations = [("sidecar.istio.io/inject".to_owned(), "false".to_owned())];
    Ok(Workflow {
        api_version: "argoproj.io/v1alpha1".into(),
        kind: "Workflow".into(),
        metadata: ObjectMeta::default(),
        spec: WorkflowSpec {
            entrypoint: MAIN.into(),
            on_exit,
            service_account_name: environment.service_account.clone(),
            active_deadline_seconds: pipeline.timeout().map(crate::types::Period::seconds),
            parallelism: site.parallelism,
            templates,
            volumes,
            image_pull_secrets: environment.image_pull_secrets.clone(),
            node_selector: environment.node_selector.clone(),
            tolerations: environment.tolerations.clone(),
            affinity: environment.affinity(),
            security_context: environment.security_context.clone(),
            pod_metadata: Some(Metadata {
                labels: BTreeMap::new(),
                annotations: BTreeMap::from(annotations),
            }),
            ..WorkflowSpec::default()
        },
    })
}

/// The parameter that carries what the pods of a step told.
fn of_step(task: &str) -> String {
    format!("step-{task}")
}

/// The task of a step among those that are executed.
fn task(pipeline: &Pipeline, spec: &RunSpec, tasks: &[String], at: usize) -> DagTask {
    let (steps, step) = (pipeline.steps(), &pipeline.steps()[at]);
    let needs = pipeline.graph().needs(at).iter();
    let needs = needs.filter(|need| !spec.keeps(steps[**need].name()));
    let needed = needs.map(|&need| {
        let allowed = steps[need].best().map_or(0, |best| best.allow_failed);
        let word = if allowed > 0 { "AnySucceeded" } else { "Succeeded" };
        format!("{}.{word}", tasks[need])
    });
    let mut arguments: Vec<Parameter> = wants(pipeline, spec, at)
        .into_iter()
        .map(|other| {
            let task = &tasks[other];
            let value = format!("{{{{tasks.{task}.outputs.parameters.{TOLD}}}}}");
            Parameter::given(of_step(task), value)
        })
        .collect();
    let points = step.points().len();
    if points > 0 {
        arguments.push(Parameter::given("index", "{{item}}"));
    }
    DagTask {
        name: tasks[at].clone(),
        template: tasks[at].clone(),
        depends: needed.collect::<Vec<_>>().join(" && "),
        when: String::new(),
        arguments: Arguments::of(arguments),
        with_sequence: (points > 0).then(|| Sequence { count: points.to_string() }),
    }
}

/// The steps whose results a step must see: those that it refers to, and those of its needs whose sweep
/// may have failed although its points did not; of those that this run executes.
pub(super) fn wants(pipeline: &Pipeline, spec: &RunSpec, at: usize) -> Vec<usize> {
    let step = &pipeline.steps()[at];
    let mut named: Vec<String> = Vec::new();
    let mut visit = |reference: &Reference| named.extend(reference.step().map(str::to_owned));
    for value in step.params().values() {
        let _ = visit_json(value, &mut visit);
    }
    for value in step.env().values() {
        let _ = visit_json(&serde_json::Value::from(value.as_str()), &mut visit);
    }
    match step.work() {
        Work::Run { script, .. } => {
            script.variables.iter().for_each(|variable| visit(&variable.reference));
        }
        Work::Resource(resource) => {
            let _ = visit_json(&resource.manifest, &mut visit);
        }
        Work::Notebook(_) => {}
    }
    let needs = pipeline.graph().needs(at);
    let wanted = |other: &usize| {
        let other_step = &pipeline.steps()[*other];
        let wanted = named.iter().any(|name| name == other_step.name())
            || (needs.contains(other) && other_step.best().is_some());
        wanted && !spec.keeps(other_step.name())
    };
    (0..pipeline.steps().len()).filter(wanted).collect()
}

/// The templates of a step: its pod, and around it, where failures are tried again, a graph of one task.
fn step(
    site: &Site,
    (pipeline, spec): (&Pipeline, &RunSpec),
    tasks: &[String],
    at: usize,
) -> Result<Vec<Template>, String> {
    let step = &pipeline.steps()[at];
    let swept = !step.sweep().is_empty();
    let wanted = wants(pipeline, spec, at);
    let mut given: Vec<String> = wanted.iter().map(|&other| of_step(&tasks[other])).collect();
    given.extend(swept.then(|| "index".to_owned()));
    let inputs = |names: &[String]| Arguments::of(names.iter().map(Parameter::named).collect());
    let name = &tasks[at];
    if let Work::Resource(resource) = step.work() {
        return object::templates(site, (step, resource), name, &given);
    }
    let inner = if step.retries() > 0 { format!("{name}--attempt") } else { name.clone() };
    let mut pod = pod(site, step, &given)?;
    pod.name.clone_from(&inner);
    pod.inputs = inputs(&given);
    if step.retries() == 0 {
        return Ok(vec![pod]);
    }
    pod.inputs.parameters.push(Parameter::named("retry"));
    if let Some(container) = &mut pod.container {
        let more = ["--retry".to_owned(), "{{inputs.parameters.retry}}".to_owned()];
        container.args.get_or_insert_default().extend(more);
    }
    let mut passed: Vec<Parameter> = given
        .iter()
        .map(|name| Parameter::given(name, format!("{{{{inputs.parameters.{name}}}}}")))
        .collect();
    passed.push(Parameter::given("retry", RETRIES));
    let told = ValueFrom {
        parameter: Some(format!("{{{{tasks.attempt.outputs.parameters.{TOLD}}}}}")),
        ..ValueFrom::default()
    };
    let outer = Template {
        name: name.clone(),
        inputs: inputs(&given),
        retry_strategy: retries(step),
        dag: Some(Dag {
            fail_fast: false,
            tasks: vec![DagTask {
                name: "attempt".into(),
                template: inner,
                arguments: Arguments::of(passed),
                ..DagTask::default()
            }],
        }),
        outputs: Arguments::of(vec![Parameter {
            value_from: Some(told),
            ..Parameter::named(TOLD)
        }]),
        ..Template::default()
    };
    Ok(vec![outer, pod])
}

/// Further attempts after a failure.
pub(super) fn retries(step: &Step) -> Option<RetryStrategy> {
    (step.retries() > 0).then(|| RetryStrategy {
        limit: step.retries().to_string(),
        retry_policy: "OnFailure".into(),
        expression: None,
        backoff: Some(Backoff {
            duration: "10s".into(),
            factor: "2".into(),
            // Six pauses stay below it by themselves, also where Argo does not know it yet.
            cap: (step.retries() > 6).then(|| "10m".to_owned()),
        }),
    })
}

/// Further attempts after the loss of a pod.
pub(super) fn interruptions(step: &Step) -> RetryStrategy {
    RetryStrategy {
        limit: step.interruptions().to_string(),
        retry_policy: "Always".into(),
        // A node that is drained ends a pod as a person would; an evicted pod has no code at all.
        expression: Some(format!(
            "lastRetry.status == 'Error' or asInt(lastRetry.exitCode) in [143, -1] or \
             lastRetry.message contains '{FORGOTTEN}'"
        )),
        backoff: None,
    }
}

/// Capabilities of a container that needs none.
pub(super) fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

/// What our own containers may take.
pub(super) fn own_resources() -> ResourceRequirements {
    let amounts = [("cpu", "100m"), ("memory", "64Mi")];
    let amounts: BTreeMap<String, Quantity> =
        amounts.map(|(name, value)| (name.to_owned(), Quantity(value.to_owned()))).into();
    ResourceRequirements {
        requests: Some(amounts.clone()),
        limits: Some(amounts),
        ..ResourceRequirements::default()
    }
}

/// The arguments of a pod of a step.
pub(super) fn arguments(step: &Step, given: &[String]) -> Vec<String> {
    let mut args = vec!["--step".to_owned(), step.name().to_owned()];
    args.extend(["--assignment".into(), "{{workflow.parameters.assignment}}".into()]);
    args.extend(["--run".into(), "{{workflow.name}}".into()]);
    args.extend(["--interruption".into(), RETRIES.into()]);
    for parameter in given {
        let option = if parameter == "index" { "--index" } else { "--told" };
        args.extend([option.into(), format!("{{{{inputs.parameters.{parameter}}}}}")]);
    }
    args
}

/// The volume in which the program of a pod is, and in which it tells.
pub(super) fn place() -> VolumeMount {
    VolumeMount { name: "jupyterflow".into(), mount_path: PLACE.into(), ..VolumeMount::default() }
}

/// What a pod leaves in a file as a parameter.
pub(super) fn left(name: &str) -> Parameter {
    let value = ValueFrom {
        path: Some(format!("{PLACE}/{name}")),
        // A pod that was ended may not have told.
        default: Some(String::new()),
        ..ValueFrom::default()
    };
    Parameter { value_from: Some(value), ..Parameter::named(name) }
}

/// Argo's own containers keep to the restricted standard too, which it leaves to its administrator.
pub(super) fn patch() -> Option<String> {
    let restricted = restricted();
    let patch = json!({
        "initContainers": [{"name": "init", "securityContext": restricted}],
        "containers": [{"name": "wait", "securityContext": restricted}],
    });
    Some(patch.to_string())
}

/// The pod of a step.
fn pod(site: &Site, step: &Step, given: &[String]) -> Result<Template, String> {
    let environment = &site.environment;
    let name = step.name();
    let image = step.image().map(str::to_owned).or_else(|| environment.image.clone());
    let image = image.ok_or_else(|| {
        format!("step `{name}` has no image: none is known of a Jupyter server; add `image:`")
    })?;
    let mount = place();
    let mut mounts = environment.volume_mounts.clone();
    mounts.push(mount.clone());
    let tolerations = step.resources().tolerations.iter();
    let tolerations = tolerations.map(|value| serde_json::from_value::<Toleration>(value.clone()));
    let tolerations = tolerations
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("step `{name}`: a toleration is none: {error}"))?;
    let install = Container {
        name: "jupyterflow".into(),
        image: Some(site.program_image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(vec!["/jupyterflow".into(), "internal-install".into(), PLACE.into()]),
        volume_mounts: Some(vec![mount.clone()]),
        resources: Some(own_resources()),
        security_context: Some(restricted()),
        ..Container::default()
    };
    let fetch = checkout::container(site, mount, restricted());
    Ok(Template {
        init_containers: [install].into_iter().chain(fetch).collect(),
        container: Some(Container {
            name: "main".into(),
            image: Some(image),
            image_pull_policy: environment.image_pull_policy.clone(),
            command: Some(vec![format!("{PLACE}/jupyterflow"), "internal-step".into()]),
            args: Some(arguments(step, given)),
            env: Some(variables(environment, step)),
            env_from: Some(environment.env_from.clone()).filter(|from| !from.is_empty()),
            volume_mounts: Some(mounts),
            resources: Some(resources(environment, step)),
            security_context: environment.container_security_context.clone(),
            ..Container::default()
        }),
        pod_spec_patch: patch(),
        outputs: Arguments::of(vec![left(TOLD)]),
        retry_strategy: Some(interruptions(step)),
        node_selector: step.resources().node_selector.clone().into_iter().collect(),
        tolerations,
        ..Template::default()
    })
}

/// The variables of a pod: those of the user's server, then secrets by reference. What the file sets is
/// set by the program in the pod, which knows the values of references.
fn variables(environment: &Environment, step: &Step) -> Vec<EnvVar> {
    let mut variables = environment.env.clone();
    let own = |variable: &EnvVar| step.secrets().contains_key(&variable.name);
    variables.retain(|variable| !own(variable) && !is_template(variable));
    variables.extend(step.secrets().iter().map(|(name, secret)| EnvVar {
        name: name.clone(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.secret.clone(),
                key: secret.key.clone(),
                optional: Some(false),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }));
    variables
}

/// Whether Argo would take a variable's value for a template.
fn is_template(variable: &EnvVar) -> bool {
    variable.value.as_ref().is_some_and(|value| value.contains("{{"))
}

/// What a step asks for: its own words come before those of the user's server.
fn resources(environment: &Environment, step: &Step) -> ResourceRequirements {
    let mut all = environment.resources.clone().unwrap_or_default();
    let own = step.resources();
    let gpu = own.gpu.map(|count| count.to_string());
    let wanted =
        [("cpu", own.cpu.clone()), ("memory", own.memory.clone()), ("nvidia.com/gpu", gpu)];
    for (name, value) in wanted {
        let Some(value) = value else { continue };
        all.requests.get_or_insert_default().insert(name.into(), Quantity(value.clone()));
        all.limits.get_or_insert_default().insert(name.into(), Quantity(value));
    }
    all
}
