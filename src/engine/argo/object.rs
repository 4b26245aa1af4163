//! A resource step as templates: Argo makes the object, watches it and removes it.
//!
//! Owns what Argo is given of the manifest. Its shape is decided here, before anything of the run works: a pod
//! gives values for the references in it, each a scalar or a list of such, and Argo puts them in their places.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, SecurityContext};
use serde_json::{Value, json};

use super::compile::{
    Site, TOLD, arguments, interruptions, left, own_resources, patch, place, restricted, retries,
};
use super::names::{MAIN, OBJECT, TELL, VALUES};
use super::workflow::{
    Arguments, Backoff, Dag, DagTask, Parameter, ResourceTemplate, RetryStrategy,
    Template as ArgoTemplate, ValueFrom,
};
use crate::spec::{Keep, Pipeline, Resource, Step, Template, Work, manifest};
use crate::types::{Digest, slug};

/// The parameter with the values of a manifest's references: JSON in base64, which holds no braces.
pub const RESOLVED: &str = "resolved";
/// What Argo's watcher of an object says when it is ended from outside.
pub const WATCH_ENDED: &str = "context canceled";
/// The template that removes what goes with its run.
const CLEAN_UP: &str = "main--clean-up";
/// Whether a run was stopped, on its Workflow: the clean-up cannot tell by its phase.
pub const STOPPED: &str = "jupyterflow.io/stopped";

/// The texts with references in a manifest, in an order that does not depend on its keys'.
pub fn holes(object: &Value) -> Vec<String> {
    fn visit(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => {
                let template = Template::parse(text).ok();
                if template.is_some_and(|template| template.references().next().is_some()) {
                    found.insert(text.clone());
                }
            }
            Value::Array(items) => items.iter().for_each(|item| visit(item, found)),
            Value::Object(entries) => entries.values().for_each(|item| visit(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut found = BTreeSet::new();
    visit(object, &mut found);
    found.into_iter().collect()
}

/// Whether a value may stand in a manifest: what could hold more than it seems to may not.
pub fn fits(value: &Value) -> bool {
    let scalar = |value: &Value| !value.is_object() && !value.is_array();
    value.as_array().map_or(scalar(value), |items| items.iter().all(scalar))
}

/// JSON in which Argo finds no template of its own.
fn escaped(value: &Value) -> String {
    value.to_string().replace("{{", "\\u007b\\u007b")
}

/// A value of a manifest as text for Argo.
fn text(value: &Value, holes: &[String]) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| text(item, holes)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| entry(key, &text(value, holes)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        Value::String(words) => {
            if let Some(at) = holes.iter().position(|hole| hole == words) {
                hole(at, words)
            } else {
                let template = Template::parse(words);
                let literal = template.and_then(|t| t.value(&mut |_| Err(String::new())));
                escaped(&literal.unwrap_or_else(|_| value.clone()))
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn entry(key: &str, value: &str) -> String {
    format!("{}:{value}", escaped(&json!(key)))
}

/// The place of a reference, as an expression of Argo's that gives JSON. A pod cannot make more of it than a
/// scalar or a list of such, whatever it says.
fn hole(at: usize, words: &str) -> String {
    let value = format!("fromJSON(fromBase64(inputs.parameters.{RESOLVED}))[{at}]");
    let whole = Template::parse(words).is_ok_and(|template| template.parts().len() == 1);
    let json = |value: &str| format!("replace(toJson({value}), '{{', '\\\\u007b')");
    let expression = if whole {
        format!(
            "type({value}) == 'map' || (type({value}) == 'array' && any({value}, type(#) in ['map', 'array'])) \
             ? 'null' : {}",
            json(&value)
        )
    } else {
        json(&format!("string({value})"))
    };
    format!("{{{{={expression}}}}}")
}

/// The manifest as Argo gets it.
fn manifest_text(
    (step, resource): (&Step, &Resource),
    (task, suffix): (&str, &str),
    holes: &[String],
) -> Result<String, String> {
    let failed = |problem: &str| format!("step `{}`: manifest: {problem}", step.name());
    if resource.manifest.is_null() {
        return Err(failed("it is not known"));
    }
    if let Some(problem) = manifest::problems(&resource.manifest).first() {
        return Err(failed(problem));
    }
    let none = serde_json::Map::new();
    let object = resource.manifest.as_object().unwrap_or(&none);
    let given = object.get("metadata").and_then(Value::as_object).unwrap_or(&none);
    // A name that says whose it is, and is short enough for what operators make of it. Tasks have a name each.
    let name = if task.len() > 20 {
        let hash = Digest::of_bytes(step.name().as_bytes());
        format!("{}-{}", task[..13].trim_end_matches('-'), &hash.hex()[..6])
    } else {
        task.to_owned()
    };
    let name = format!("\"{name}-{{{{=sprig.trunc(-10, workflow.name)}}}}{suffix}\"");
    let own = [
        ("app.kubernetes.io/managed-by", json!("jupyterflow").to_string()),
        ("jupyterflow.io/keep", json!(word(resource.keep)).to_string()),
        ("jupyterflow.io/step", json!(slug(step.name(), 63)).to_string()),
        ("jupyterflow.io/run", "\"{{workflow.name}}\"".to_owned()),
    ];
    let labels = given.get("labels").and_then(Value::as_object).unwrap_or(&none);
    let labels = labels.iter().filter(|(key, _)| own.iter().all(|(own, _)| own != key));
    let mut labels: Vec<String> =
        labels.map(|(key, value)| entry(key, &text(value, holes))).collect();
    labels.extend(own.iter().map(|(key, value)| entry(key, value)));
    let ours = ["name", "generateName", "labels", "ownerReferences", "namespace"];
    let mut metadata =
        vec![entry("name", &name), entry("labels", &format!("{{{}}}", labels.join(",")))];
    let others = given.iter().filter(|(key, _)| !ours.contains(&key.as_str()));
    metadata.extend(others.map(|(key, value)| entry(key, &text(value, holes))));
    if resource.keep != Keep::Always {
        // What no clean-up removed goes with its Workflow.
        metadata.push(
            "\"ownerReferences\":[{\"apiVersion\":\"argoproj.io/v1alpha1\",\"kind\":\"Workflow\",\
             \"name\":\"{{workflow.name}}\",\"uid\":\"{{workflow.uid}}\"}]"
                .to_owned(),
        );
    }
    let others = object.iter().filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"));
    let mut all: Vec<String> = others.map(|(key, value)| entry(key, &text(value, holes))).collect();
    all.push(format!("\"metadata\":{{{}}}", metadata.join(",")));
    Ok(format!("{{{}}}", all.join(",")))
}

fn word(keep: Keep) -> &'static str {
    match keep {
        Keep::Never => "never",
        Keep::OnFailure => "onFailure",
        Keep::Always => "always",
    }
}

/// A manifest's texts with references, without the name that the run gives.
pub fn holes_of(resource: &Resource) -> Vec<String> {
    let mut object = resource.manifest.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["name", "generateName", "ownerReferences"] {
            metadata.remove(key);
        }
    }
    holes(&object)
}

/// The templates of a resource step: a graph of the pod that gives values, the object, and the pod that tells of it.
pub fn templates(
    site: &Site,
    (step, resource): (&Step, &Resource),
    task: &str,
    given: &[String],
) -> Result<Vec<ArgoTemplate>, String> {
    let holes = holes_of(resource);
    let input = |name: &str| Parameter::given(name, format!("{{{{inputs.parameters.{name}}}}}"));
    let named = |names: &[String]| Arguments::of(names.iter().map(Parameter::named).collect());
    let tried = step.retries() > 0;
    let numbers: Vec<String> =
        [(given.iter().any(|one| one == "index"), "index"), (tried, "retry")]
            .into_iter()
            .filter(|(there, _)| *there)
            .map(|(_, name)| name.to_owned())
            .collect();
    let suffix: String =
        numbers.iter().map(|name| format!("-{{{{inputs.parameters.{name}}}}}")).collect();
    let mut passed: Vec<Parameter> = given.iter().map(|name| input(name)).collect();
    passed.extend(tried.then(|| Parameter::given("retry", "{{retries}}")));
    let mut inner: Vec<String> = given.to_vec();
    inner.extend(tried.then(|| "retry".to_owned()));
    let name = |part: &str| format!("{task}--{part}");
    let outputs: Vec<String> = (0..resource.outputs.len()).map(|at| format!("out{at}")).collect();
    let of = |task: &str, output: &str| format!("{{{{tasks.{task}.outputs.parameters.{output}}}}}");

    let mut object_given: Vec<Parameter> =
        passed.iter().filter(|one| numbers.contains(&one.name)).cloned().collect();
    if !holes.is_empty() {
        object_given.push(Parameter::given(RESOLVED, of(VALUES, RESOLVED)));
    }
    let encoded = |output: &String| {
        let value = format!("{{{{=toBase64(tasks.{OBJECT}.outputs.parameters.{output})}}}}");
        Parameter::given(output, value)
    };
    let mut told = passed.clone();
    told.push(Parameter::given("began", format!("{{{{tasks.{OBJECT}.startedAt}}}}")));
    // What an object says is no template of Argo's.
    told.extend(outputs.iter().map(encoded));
    // The first of them also finds out whether the run may begin.
    let mut tasks = vec![DagTask {
        name: VALUES.into(),
        template: name(VALUES),
        arguments: Arguments::of(passed.clone()),
        ..DagTask::default()
    }];
    let object = ArgoTemplate {
        name: name(OBJECT),
        inputs: Arguments::of(object_given.iter().map(|one| Parameter::named(&one.name)).collect()),
        resource: Some(ResourceTemplate {
            // Also where an earlier pod made it and was lost.
            action: "apply".into(),
            manifest: manifest_text((step, resource), (task, &suffix), &holes)?,
            success_condition: resource.success.clone(),
            failure_condition: resource.failure.clone(),
            flags: Vec::new(),
        }),
        active_deadline_seconds: step.timeout().map(crate::types::Period::seconds),
        outputs: Arguments::of(
            resource
                .outputs
                .values()
                .zip(&outputs)
                .map(|(path, name)| Parameter {
                    value_from: Some(ValueFrom {
                        json_path: Some(braced(path)),
                        ..ValueFrom::default()
                    }),
                    ..Parameter::named(name)
                })
                .collect(),
        ),
        retry_strategy: Some(RetryStrategy {
            // What watches is ended with its node too, and says so in its own way.
            expression: interruptions(step).expression.map(|expression| {
                format!("{expression} or lastRetry.message contains '{WATCH_ENDED}'")
            }),
            ..interruptions(step)
        }),
        ..ArgoTemplate::default()
    };
    tasks.push(DagTask {
        name: OBJECT.into(),
        template: name(OBJECT),
        depends: format!("{VALUES}.Succeeded"),
        arguments: Arguments::of(object_given),
        ..DagTask::default()
    });
    tasks.push(DagTask {
        name: TELL.into(),
        template: name(TELL),
        depends: format!("{OBJECT}.Succeeded"),
        arguments: Arguments::of(told.clone()),
        ..DagTask::default()
    });
    let told_value = ValueFrom { parameter: Some(of(TELL, TOLD)), ..ValueFrom::default() };
    let outer = ArgoTemplate {
        name: task.to_owned(),
        inputs: named(given),
        retry_strategy: retries(step),
        dag: Some(Dag { fail_fast: false, tasks }),
        outputs: Arguments::of(vec![Parameter {
            value_from: Some(told_value),
            ..Parameter::named(TOLD)
        }]),
        ..ArgoTemplate::default()
    };
    let mut all = vec![outer];
    let pod = |part: &str, inputs: Arguments, more: Vec<String>, outputs: Vec<Parameter>| {
        let mut args = arguments(step, given);
        if tried {
            args.extend(["--retry".into(), "{{inputs.parameters.retry}}".into()]);
        }
        args.extend(["--part".into(), part.into()]);
        args.extend(more);
        let mut mounts = site.environment.volume_mounts.clone();
        mounts.push(place());
        let own = site.environment.container_security_context.clone().unwrap_or_default();
        ArgoTemplate {
            name: name(part),
            inputs,
            init_containers: super::checkout::container(site, place(), restricted())
                .into_iter()
                .collect(),
            container: Some(Container {
                name: MAIN.into(),
                // Nothing of the user's is executed: no image of theirs is needed.
                image: Some(site.program_image.clone()),
                image_pull_policy: Some("IfNotPresent".into()),
                command: Some(vec!["/jupyterflow".into(), "internal-step".into()]),
                args: Some(args),
                volume_mounts: Some(mounts),
                resources: Some(own_resources()),
                security_context: Some(SecurityContext {
                    // The home is the user's.
                    run_as_user: own.run_as_user,
                    run_as_group: own.run_as_group,
                    run_as_non_root: own.run_as_non_root,
                    ..restricted()
                }),
                ..Container::default()
            }),
            pod_spec_patch: patch(),
            outputs: Arguments::of(outputs),
            retry_strategy: Some(interruptions(step)),
            ..ArgoTemplate::default()
        }
    };
    all.push(pod(VALUES, named(&inner), Vec::new(), vec![left(TOLD), left(RESOLVED)]));
    all.push(object);
    let mut more = vec!["--began".to_owned(), "{{inputs.parameters.began}}".to_owned()];
    for output in &outputs {
        more.extend(["--made".into(), format!("{{{{inputs.parameters.{output}}}}}")]);
    }
    let inputs = Arguments::of(told.iter().map(|one| Parameter::named(&one.name)).collect());
    all.push(pod(TELL, inputs, more, vec![left(TOLD)]));
    Ok(all)
}

/// A JSON path as `kubectl` takes it: also one without braces, or without its first dot.
fn braced(path: &str) -> String {
    let path = path.trim();
    match path.strip_prefix('$').unwrap_or(path) {
        path if path.contains('{') => path.to_owned(),
        path if path.starts_with(['.', '[']) => format!("{{{path}}}"),
        path => format!("{{.{path}}}"),
    }
}

/// The exit handler of a pipeline whose objects go, and its templates.
pub fn clean_up(pipeline: &Pipeline) -> (Option<String>, Vec<ArgoTemplate>) {
    let kinds: BTreeSet<(String, &str)> = pipeline
        .steps()
        .iter()
        .filter_map(|step| match step.work() {
            Work::Resource(resource) if resource.keep != Keep::Always => {
                Some((argument(&resource.manifest), word(resource.keep)))
            }
            _ => None,
        })
        .collect();
    if kinds.is_empty() {
        return (None, Vec::new());
    }
    let mut tasks = Vec::new();
    let mut templates = Vec::new();
    for (at, (kind, keep)) in kinds.into_iter().enumerate() {
        let name = format!("{CLEAN_UP}-{at}");
        let when = match keep {
            // A stopped run failed by Argo's words.
            "onFailure" => {
                format!(
                    "{{{{workflow.status}}}} == Succeeded || {{{{workflow.annotations.{STOPPED}}}}} == true"
                )
            }
            _ => String::new(),
        };
        tasks.push(DagTask {
            name: name.clone(),
            template: name.clone(),
            when,
            ..DagTask::default()
        });
        let selector =
            format!("jupyterflow.io/run={{{{workflow.name}}}},jupyterflow.io/keep={keep}");
        templates.push(ArgoTemplate {
            name,
            resource: Some(ResourceTemplate {
                action: "delete".into(),
                flags: vec![kind, "--selector".into(), selector, "--wait=false".into()],
                ..ResourceTemplate::default()
            }),
            retry_strategy: Some(RetryStrategy {
                limit: "3".into(),
                retry_policy: "Always".into(),
                // Whoever may not remove it may not a moment later either.
                expression: Some("not (lastRetry.message contains 'orbidden')".into()),
                backoff: Some(Backoff { duration: "5s".into(), factor: "2".into(), cap: None }),
            }),
            ..ArgoTemplate::default()
        });
    }
    templates.insert(
        0,
        ArgoTemplate {
            name: CLEAN_UP.into(),
            dag: Some(Dag { fail_fast: false, tasks }),
            ..ArgoTemplate::default()
        },
    );
    (Some(CLEAN_UP.into()), templates)
}

/// A kind as an argument of `kubectl`: `KIND.VERSION.GROUP`, or of the core `KIND`.
fn argument(object: &Value) -> String {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    match text("apiVersion").rsplit_once('/') {
        Some((group, version)) => format!("{}.{version}.{group}", text("kind")),
        None => text("kind").to_owned(),
    }
}

/// The annotation that a Workflow begins with, where its clean-up asks for it.
pub fn annotations(pipeline: &Pipeline) -> BTreeMap<String, String> {
    let (handler, _) = clean_up(pipeline);
    handler.map(|_| (STOPPED.to_owned(), "false".to_owned())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Severity, parse};

    fn text_of(yaml: &str) -> (String, Vec<String>) {
        let documents = parse(yaml, "j", "", 100);
        let error = documents.problems.iter().find(|one| one.severity == Severity::Error);
        assert!(error.is_none(), "{error:?}");
        let pipeline = &documents.pipelines[0];
        let step = pipeline.steps().last().unwrap();
        let Work::Resource(resource) = step.work() else { panic!("no resource") };
        let holes = holes_of(resource);
        (manifest_text((step, resource), ("a-b", ""), &holes).unwrap(), holes)
    }

    /// What a user writes is never a template of Argo's, and what a reference gives is never more than a value.
    #[test]
    fn a_manifest_holds_no_templates_but_ours() {
        let (text, holes) = text_of(
            "params: {n: 1}\nsteps:\n  \"a_b\":\n    resource:\n      manifest:\n        apiVersion: v1\n        \
             kind: Pod\n        metadata: {name: mine, labels: {own: \"x {{ '{{=1}}' }}\", \
             jupyterflow.io/run: forged}, ownerReferences: [{kind: Node}]}\n        \
             spec: {a: '{{ params.n }}', b: 'n={{ params.n }} {{ run.name }}', \"{{x\": 1, c: '{{ params.n }}'}\n",
        );
        assert_eq!(holes, ["n={{ params.n }} {{ run.name }}", "{{ params.n }}"]);
        let tags: Vec<&str> =
            text.split("{{").skip(1).filter_map(|one| one.split("}}").next()).collect();
        let ours = |tag: &str| {
            tag.starts_with("=sprig.trunc")
                || tag.starts_with("workflow.")
                || tag.starts_with("=type(")
                || tag.starts_with("=replace(toJson(string(")
        };
        assert!(tags.iter().all(|tag| ours(tag)), "{tags:?}");
        assert_eq!(tags.len(), 1 + 3 + 3, "{text}");
        assert!(
            !text.contains("mine") && !text.contains("forged") && !text.contains("Node"),
            "{text}"
        );
        assert!(text.contains("\"name\":\"a-b-{{=sprig"), "{text}");
    }

    #[test]
    fn what_is_kept_has_no_owner_and_no_clean_up() {
        let yaml = |keep: &str| {
            format!(
                "steps: {{a: {{resource: {{manifest: {{apiVersion: batch/v1, kind: Job}}, keep: {keep}}}}}}}\n"
            )
        };
        for (keep, owned) in [("never", true), ("onFailure", true), ("always", false)] {
            let (text, _) = text_of(&yaml(keep));
            assert_eq!(text.contains("ownerReferences"), owned, "{keep}");
            let pipeline = parse(&yaml(keep), "j", "", 100).pipelines.remove(0);
            assert_eq!(clean_up(&pipeline).0.is_some(), owned, "{keep}");
        }
    }

    #[test]
    fn json_paths_get_what_they_lack() {
        for (path, braces) in [
            ("status.url", "{.status.url}"),
            (".status.url", "{.status.url}"),
            ("$.status.url", "{.status.url}"),
            ("{.a[?(@.b==\"c\")].d}", "{.a[?(@.b==\"c\")].d}"),
        ] {
            assert_eq!(braced(path), braces);
        }
    }
}
