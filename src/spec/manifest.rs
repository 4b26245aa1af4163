//! The Kubernetes object of a resource step, as data.
//!
//! Owns what such an object must say for itself, and what of it only an administrator may allow: kinds,
//! images, secrets, claims, service accounts, what reaches the node. It knows no cluster.

use std::collections::BTreeSet;

use serde_json::Value;

use super::reference::Template;
use super::yaml;

/// Reads the one object of a file.
///
/// # Errors
/// In words: it is none.
pub fn read(text: &str) -> Result<Value, String> {
    let nodes = yaml::parse(text).map_err(|error| {
        format!("{}:{}: {}", error.place.line, error.place.column, error.message)
    })?;
    match &nodes[..] {
        [node] => Ok(node.json()),
        _ => Err(format!("it holds {} documents, and a step makes one object", nodes.len())),
    }
}

/// The most that one manifest may be, in bytes: it stands in the record of each run.
pub const MOST_BYTES: usize = 64 << 10;
/// The most that all manifests of a pipeline may be.
pub const MOST_BYTES_OF_ALL: usize = 256 << 10;

/// What is wrong with an object, in words.
pub fn problems(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if !object.is_object() {
        return vec!["it is no Kubernetes object: `apiVersion` and `kind` are missing".into()];
    }
    for (key, more) in [("apiVersion", ".-/"), ("kind", "")] {
        let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        match object.get(key).and_then(Value::as_str) {
            Some(text) if text.chars().all(fits) && !text.is_empty() => {}
            Some(_) => {
                found.push(format!("`{key}` must be plain text: what is made is decided before"));
            }
            None => found.push(format!("it is no Kubernetes object: `{key}` is missing")),
        }
    }
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind.ends_with("List") || object.get("items").is_some() {
        found.push("a list of objects is no object: a step makes one".into());
    }
    let metadata = object.get("metadata");
    if metadata.is_some_and(|metadata| !metadata.is_object()) {
        found.push("`metadata` is no map".into());
    }
    if metadata.is_some_and(|metadata| metadata.get("namespace").is_some()) {
        found.push(
            "`metadata.namespace`: objects are made in the namespace of the run; leave it out"
                .into(),
        );
    }
    let needs = Needs::of(object);
    for (place, text) in needs.dynamic {
        found.push(format!(
            "`{place}: {text}` must be plain text: who may use what is decided before the run"
        ));
    }
    for key in needs.foreign {
        found.push(format!("`{key}` belongs to what a hub or Argo makes"));
    }
    found
}

fn is_dynamic(text: &str) -> bool {
    Template::parse(text).map_or(true, |template| template.references().next().is_some())
}

/// Whether a text may be a condition: Argo reads it as a selector of labels whose keys are paths into the object.
pub fn is_condition(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || " ._-/=!<>(),".contains(c);
    !text.trim().is_empty() && text.chars().all(known)
}

/// A kind as `Job.batch`, or `Pod` of the core: as `kubectl` takes it, without a version.
pub fn kind(object: &Value) -> String {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    match text("apiVersion").rsplit_once('/') {
        Some((group, _)) => format!("{}.{group}", text("kind")),
        None => text("kind").to_owned(),
    }
}

/// What an object needs that somebody must allow, wherever in it that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Images of containers.
    pub images: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// Claims of volumes.
    pub claims: BTreeSet<String>,
    /// Where claims are mounted.
    pub mounts: Vec<Mount>,
    /// Service accounts.
    pub accounts: BTreeSet<String>,
    /// Users, by their numbers.
    pub users: BTreeSet<i64>,
    /// What reaches the node or beyond what a run has, as it is written.
    pub node: BTreeSet<String>,
    /// Any of these that is a reference: key and text.
    pub dynamic: Vec<(String, String)>,
    /// Marks of what is no step's to make.
    pub foreign: BTreeSet<String>,
}

/// A claim, and how it is mounted; none of it where that is for an operator to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The claim.
    pub claim: String,
    /// The part of it; none where nobody can say, empty for the whole.
    pub part: Option<String>,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// Volumes that reach nothing but the namespace's own objects.
const VOLUMES: [&str; 7] = [
    "name",
    "configMap",
    "emptyDir",
    "projected",
    "downwardAPI",
    "secret",
    "persistentVolumeClaim",
];
/// Keys below which nothing may be a reference.
const STATIC: [&str; 8] = [
    "volumes",
    "volumeMounts",
    "securityContext",
    "workspaces",
    "imagePullSecrets",
    "secrets",
    "storageUri",
    "sparkConf",
];

impl Needs {
    /// Those of an object.
    pub fn of(object: &Value) -> Self {
        let mut needs = Self::default();
        needs.visit(object);
        needs.mounts_of(object);
        let placed: Vec<&String> = needs.mounts.iter().map(|mount| &mount.claim).collect();
        let bare = needs.claims.iter().filter(|claim| !placed.contains(claim));
        let bare = bare.map(|claim| Mount { claim: claim.clone(), part: None, read_only: false });
        let bare: Vec<Mount> = bare.collect();
        needs.mounts.extend(bare);
        needs.images.remove("");
        needs
    }

    fn visit(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item)),
            Value::Object(entries) => {
                for (key, value) in entries {
                    self.entry(key, value);
                    self.visit(value);
                }
            }
            Value::String(text) => {
                if let Some(claim) = text.strip_prefix("pvc://") {
                    self.claims.insert(claim.split('/').next().unwrap_or_default().to_owned());
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn entry(&mut self, key: &str, value: &Value) {
        let named =
            |value: &Value| ["name", "secretName"].iter().find_map(|key| value.get(*key).cloned());
        let given = *value != Value::Bool(false) && !value.is_null();
        if STATIC.contains(&key) {
            self.still(key, value);
        }
        match key {
            "image" if !value.is_object() => self.text(key, value, |needs| &mut needs.images),
            "claimName" => self.text(key, value, |needs| &mut needs.claims),
            "serviceAccountName" | "serviceAccount" => {
                self.text(key, value, |needs| &mut needs.accounts);
            }
            "secretName" => self.text(key, value, |needs| &mut needs.secrets),
            "imagePullSecrets" | "secrets" => {
                let several = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                for one in several {
                    let name = named(one).unwrap_or_else(|| one.clone());
                    self.text(key, &name, |needs| &mut needs.secrets);
                }
            }
            "envSecretKeyRefs" => {
                for one in value.as_object().into_iter().flat_map(serde_json::Map::values) {
                    self.text(key, &named(one).unwrap_or_default(), |needs| &mut needs.secrets);
                }
            }
            "hostPath" => {
                let path = value.get("path").and_then(Value::as_str).unwrap_or("?");
                self.node.insert(format!("hostPath {path}"));
            }
            "volumes" => self.volumes(value),
            "capabilities" => {
                let added = value.get("add").and_then(Value::as_array).into_iter().flatten();
                self.node.extend(added.map(|one| format!("capability {one}")));
            }
            "runAsUser" => self.users.extend(value.as_i64()),
            "hostNetwork" | "hostPID" | "hostIPC" | "privileged" | "hostProcess" | "hostPort"
            | "procMount" | "nodeName" | "sysctls" | "csi" | "nfs"
                if given =>
            {
                self.node.insert(key.to_owned());
            }
            "component" if value == "singleuser-server" => {
                self.foreign.insert(format!("{key}: singleuser-server"));
            }
            "notebook-name" => {
                self.foreign.insert(key.to_owned());
            }
            _ if key == "secret" || key.ends_with("ecretKeyRef") || key.ends_with("ecretRef") => {
                let name = if value.is_string() {
                    value.clone()
                } else {
                    named(value).unwrap_or_default()
                };
                self.text(key, &name, |needs| &mut needs.secrets);
            }
            // Spark's own names for all of the above.
            _ if key.starts_with("spark.kubernetes.") || key.contains("${") => {
                self.node.insert(key.to_owned());
            }
            _ if key.starts_with("hub.jupyter.org/")
                || key.starts_with("workflows.argoproj.io/") =>
            {
                self.foreign.insert(key.to_owned());
            }
            _ => {}
        }
    }

    /// Volumes may be those of the namespace's own objects: what else there is reaches further.
    fn volumes(&mut self, value: &Value) {
        for volume in value.as_array().into_iter().flatten() {
            for (kind, _) in volume.as_object().into_iter().flatten() {
                if !VOLUMES.contains(&kind.as_str()) && kind != "hostPath" {
                    self.node.insert(format!("volume {kind}"));
                }
            }
        }
    }

    /// Nothing below a key may be a reference.
    fn still(&mut self, key: &str, value: &Value) {
        match value {
            Value::String(text) if is_dynamic(text) => {
                self.dynamic.push((key.to_owned(), text.clone()));
            }
            Value::Array(items) => items.iter().for_each(|item| self.still(key, item)),
            Value::Object(entries) => entries.values().for_each(|item| self.still(key, item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// The mounts of claims, in each part of the object that has volumes.
    fn mounts_of(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.mounts_of(item)),
            Value::Object(entries) => {
                for volume in entries.get("volumes").and_then(Value::as_array).into_iter().flatten()
                {
                    let claim = &volume["persistentVolumeClaim"]["claimName"];
                    if let (Some(name), Some(claim)) = (volume["name"].as_str(), claim.as_str()) {
                        self.mounts_of_volume(value, name, claim);
                    }
                }
                entries.values().for_each(|value| self.mounts_of(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn mounts_of_volume(&mut self, value: &Value, name: &str, claim: &str) {
        match value {
            Value::Array(items) => {
                items.iter().for_each(|item| self.mounts_of_volume(item, name, claim));
            }
            Value::Object(entries) => {
                for mount in
                    entries.get("volumeMounts").and_then(Value::as_array).into_iter().flatten()
                {
                    if mount["name"] != name {
                        continue;
                    }
                    let part = mount["subPath"].as_str().unwrap_or_default().to_owned();
                    let known = mount.get("subPathExpr").is_none() && !part.contains("..");
                    self.mounts.push(Mount {
                        claim: claim.to_owned(),
                        part: Some(part).filter(|_| known),
                        read_only: mount["readOnly"] == true,
                    });
                }
                entries.values().for_each(|value| self.mounts_of_volume(value, name, claim));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn text(&mut self, key: &str, value: &Value, of: impl Fn(&mut Self) -> &mut BTreeSet<String>) {
        let Some(text) = value.as_str() else { return };
        if is_dynamic(text) && !STATIC.contains(&key) {
            self.dynamic.push((key.to_owned(), text.to_owned()));
        }
        of(self).insert(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_allowed_is_found_wherever_it_stands() {
        let job = read(
            "apiVersion: batch/v1\nkind: Job\nspec:\n  template:\n    spec:\n      serviceAccountName: root\n      \
             hostNetwork: true\n      imagePullSecrets: [{name: pull}]\n      containers:\n      - image: a:1\n        \
             securityContext: {privileged: true}\n        env: [{name: K, valueFrom: {secretKeyRef: {name: s1, key: k}}}]\n        \
             envFrom: [{secretRef: {name: s2}}]\n      volumes:\n      - {name: h, hostPath: {path: /etc}}\n      \
             - {name: c, persistentVolumeClaim: {claimName: data}}\n      - {name: s, secret: {secretName: s3}}\n      \
             - {name: p, projected: {sources: [{secret: {name: s4}}]}}\n",
        )
        .unwrap();
        let texts =
            |texts: &[&str]| texts.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>();
        let needs = Needs::of(&job);
        assert_eq!(needs.images, texts(&["a:1"]));
        assert_eq!(needs.secrets, texts(&["pull", "s1", "s2", "s3", "s4"]));
        assert_eq!(needs.claims, texts(&["data"]));
        assert_eq!(needs.accounts, texts(&["root"]));
        assert_eq!(needs.node, texts(&["hostNetwork", "hostPath /etc", "privileged"]));
        let unmounted = Mount { claim: "data".into(), part: None, read_only: false };
        assert_eq!(needs.mounts, [unmounted]);
        assert_eq!(kind(&job), "Job.batch");
        assert_eq!(problems(&job), Vec::<String>::new());
    }

    #[test]
    fn what_reaches_further_than_it_seems_is_found() {
        let needs = |spec: &str| {
            Needs::of(&read(&format!("{{apiVersion: v1, kind: Pod, spec: {spec}}}")).unwrap())
        };
        for (spec, what) in [
            ("{volumes: [{name: a, nfs: {server: s, path: /bob}}]}", "nfs"),
            ("{volumes: [{name: a, csi: {driver: d}}]}", "csi"),
            ("{volumes: [{name: a, flexVolume: {}}]}", "volume flexVolume"),
            ("{volumes: [{name: a, image: {reference: 'evil:1'}}]}", "volume image"),
            ("{volumes: [{name: a, ephemeral: {}}]}", "volume ephemeral"),
            (
                "{containers: [{securityContext: {capabilities: {add: [SYS_ADMIN]}}}]}",
                "capability \"SYS_ADMIN\"",
            ),
            ("{containers: [{ports: [{hostPort: 80}]}]}", "hostPort"),
            ("{nodeName: node1}", "nodeName"),
            (
                "{sparkConf: {spark.kubernetes.driver.secrets.hub: /x}}",
                "spark.kubernetes.driver.secrets.hub",
            ),
            ("{'${trialParameters.kind}': {path: /}}", "${trialParameters.kind}"),
        ] {
            assert!(needs(spec).node.contains(what), "{spec}: {:?}", needs(spec).node);
        }
        for (spec, secret) in [
            ("{csi: {nodePublishSecretRef: {name: s}}}", "s"),
            ("{driver: {secrets: [{name: s, path: /x}]}}", "s"),
            ("{driver: {envSecretKeyRefs: {A: {name: s, key: k}}}}", "s"),
            ("{imagePullSecrets: [s]}", "s"),
            ("{imagePullSecrets: s}", "s"),
        ] {
            assert!(needs(spec).secrets.contains(secret), "{spec}");
        }
        assert!(needs("{storageUri: 'pvc://claim-bob/m'}").claims.contains("claim-bob"));
        for spec in [
            "{storageUri: '{{ params.x }}'}",
            "{volumes: '{{ params.x }}'}",
            "{imagePullSecrets: '{{ params.x }}'}",
            "{securityContext: {runAsUser: '{{ params.x }}'}}",
        ] {
            assert_eq!(needs(spec).dynamic.len(), 1, "{spec}: {:?}", needs(spec).dynamic);
        }
        for spec in [
            "{metadata: {labels: {component: singleuser-server}}}",
            "{metadata: {annotations: {hub.jupyter.org/username: bob}}}",
            "{metadata: {labels: {workflows.argoproj.io/workflow: bobs}}}",
        ] {
            assert_eq!(needs(spec).foreign.len(), 1, "{spec}");
        }
        let pod = "{containers: [{volumeMounts: [{name: h, mountPath: /h, subPath: ann, readOnly: true}, \
                   {name: h, mountPath: /i, subPathExpr: $(X)}]}], \
                   volumes: [{name: h, persistentVolumeClaim: {claimName: homes}}]}";
        let mount = |part: Option<&str>, read_only| Mount {
            claim: "homes".into(),
            part: part.map(str::to_owned),
            read_only,
        };
        assert_eq!(needs(pod).mounts, [mount(Some("ann"), true), mount(None, false)]);
    }

    #[test]
    fn what_is_no_object_says_what_is_missing() {
        for (text, words) in [
            ("a", "it is no Kubernetes object"),
            ("{apiVersion: batch/v1, kind: Job, items: []}", "a step makes one"),
            ("{apiVersion: v1, kind: PodList}", "a step makes one"),
            (
                "{apiVersion: \"batch/{{ 'a}} {{=1' }}\", kind: Job}",
                "`apiVersion` must be plain text",
            ),
            ("{kind: Pod}", "`apiVersion` is missing"),
            ("{apiVersion: v1, kind: '{{ params.kind }}'}", "`kind` must be plain text"),
            ("{apiVersion: v1, kind: Pod, metadata: {namespace: other}}", "leave it out"),
            (
                "{apiVersion: v1, kind: Pod, spec: {serviceAccountName: '{{ params.who }}'}}",
                "before the run",
            ),
        ] {
            let found = problems(&read(text).unwrap()).join("; ");
            assert!(found.contains(words), "{text}: {found}");
        }
        assert!(read("a: 1\n---\nb: 1\n").unwrap_err().contains("2 documents"));
        assert!(read("a: [").unwrap_err().starts_with("1:4: "));
    }
}
