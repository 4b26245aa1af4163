//! The same as `manifests`, as a Helm chart.
//!
//! Owns which of it an administrator sets by a value. All else is what `manifests` says.

use serde_json::{Value, json};

use super::manifests::controller;

/// What stands for a value in an object until it is text.
const MARK: &str = "@values.";

/// The values that go where a whole block is theirs, in the deployment's pod.
const BLOCKS: [(&str, &str); 4] = [
    ("/spec/template/spec/containers/0/resources", "resources"),
    ("/spec/template/spec/securityContext", "podSecurityContext"),
    ("/spec/template/spec/nodeSelector", "nodeSelector"),
    ("/spec/template/spec/tolerations", "tolerations"),
];
/// The values that go after what is there already.
const MORE: [(&str, &str); 4] = [
    ("/spec/template/spec/containers/0/args", "args"),
    ("/spec/template/spec/containers/0/env", "env"),
    ("/spec/template/spec/containers/0/volumeMounts", "volumeMounts"),
    ("/spec/template/spec/volumes", "volumes"),
];

/// The files of the chart, by their paths in it. `yaml` writes an object.
///
/// # Errors
/// That of `yaml`.
pub fn chart<E>(
    image: &str,
    crds: String,
    yaml: impl Fn(&Value) -> Result<String, E>,
) -> Result<Vec<(&'static str, String)>, E> {
    let version = env!("CARGO_PKG_VERSION");
    let about = json!({
        "apiVersion": "v2", "name": "jupyterflow", "type": "application",
        "description": "Reconciles notebook pipelines: runs them as Argo Workflows in users' own Jupyter environments",
        "version": version, "appVersion": version,
    });
    let objects = controller("{{ .Release.Namespace }}", "{{ .Values.image }}");
    let mut templates = String::new();
    let mut values = json!({"image": image, "replicas": 1});
    // Helm makes the namespace, where it is asked to.
    for mut object in objects.into_iter().filter(|object| object["kind"] != "Namespace") {
        if object["kind"] == "Deployment" {
            let mark = |name: &str| json!(format!("{MARK}{name}@"));
            object["spec"]["replicas"] = mark("replicas");
            for (path, name) in BLOCKS {
                let (parent, key) = path.rsplit_once('/').unwrap_or_default();
                if let Some(parent) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
                    let none = if name == "tolerations" { json!([]) } else { json!({}) };
                    values[name] = parent.insert(key.to_owned(), mark(name)).unwrap_or(none);
                }
            }
            for (path, name) in MORE {
                values[name] = json!([]);
                if let Some(all) = object.pointer_mut(path).and_then(Value::as_array_mut) {
                    all.push(mark(name));
                }
            }
        }
        templates.push_str("---\n");
        yaml(&object)?.lines().for_each(|line| templates.push_str(&template(line)));
    }
    Ok(vec![
        ("Chart.yaml", yaml(&about)?),
        ("values.yaml", yaml(&values)?),
        ("templates/controller.yaml", templates),
        ("crds/crds.yaml", crds),
    ])
}

/// A line of an object, with what Helm puts in place of a mark.
fn template(line: &str) -> String {
    let Some((before, name)) = line.split_once(MARK) else { return format!("{line}\n") };
    let name = name.split('@').next().unwrap_or_default();
    let before = before.trim_end_matches(['"', '\'']);
    let depth = before.len() - before.trim_start().len();
    match before.trim_start() {
        "- " => format!(
            "{:depth$}{{{{- with .Values.{name} }}}}\n\
             {:depth$}{{{{- toYaml . | nindent {depth} }}}}\n\
             {:depth$}{{{{- end }}}}\n",
            "", "", ""
        ),
        "replicas: " => format!("{before}{{{{ .Values.{name} }}}}\n"),
        _ => {
            let inner = depth + 2;
            format!(
                "{}\n{:inner$}{{{{- toYaml .Values.{name} | nindent {inner} }}}}\n",
                before.trim_end(),
                ""
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_what_helm_fills() {
        assert_eq!(template("a: 1"), "a: 1\n");
        assert_eq!(
            template("  resources: \"@values.resources@\""),
            "  resources:\n    {{- toYaml .Values.resources | nindent 4 }}\n"
        );
        assert_eq!(
            template("  - \"@values.args@\""),
            "  {{- with .Values.args }}\n  {{- toYaml . | nindent 2 }}\n  {{- end }}\n"
        );
        assert_eq!(
            template("  replicas: '@values.replicas@'"),
            "  replicas: {{ .Values.replicas }}\n"
        );
    }
}
