//! What one step says of others: its needs and its references.
//!
//! Owns the checks that see all steps at once. A step by itself is `validate`'s.

use indexmap::IndexMap;
use serde_json::Value;

use super::graph::Graph;
use super::hints;
use super::reference::Reference;
use super::shape::Report;
use super::validate::Draft;
use super::yaml::Place;

/// The graph of the drafted steps; none where they form a cycle.
pub fn graph(drafts: &[Draft], written: &[&str], report: &mut Report<'_>) -> Option<Graph> {
    let index = |name: &str| drafts.iter().position(|draft| draft.step.name == name);
    let mut edges = Vec::new();
    for draft in drafts {
        let mut before = Vec::new();
        for (need, place) in draft.step.needs.iter().zip(&draft.needs_places) {
            match index(need) {
                Some(at) if before.contains(&at) => {
                    report.warning(*place, format!("`{need}` stands twice in `needs`"));
                }
                Some(at) => before.push(at),
                // That step has a problem of its own, which is said already.
                None if written.contains(&need.as_str()) => {}
                None => {
                    let names = drafts.iter().map(|draft| draft.step.name.as_str());
                    let nearest = hints::nearest(need, names);
                    let step = &draft.step.name;
                    report
                        .error(*place, format!("step `{step}` needs `{need}`, which is no step"))
                        .hint = nearest.map(|name| format!("did you mean `{name}`?"));
                }
            }
        }
        edges.push(before);
    }
    Graph::new(edges)
        .map_err(|cycle| {
            let mut names: Vec<_> = cycle.iter().map(|&at| drafts[at].step.name.as_str()).collect();
            names.push(names[0]);
            let place = cycle.first().map_or_else(Place::default, |&at| drafts[at].place);
            report.error(place, format!("the steps form a cycle: {}", names.join(" -> ")));
        })
        .ok()
}

/// Reports references to what is not there, or not upstream.
pub fn check_references(
    drafts: &[Draft],
    written: &[&str],
    graph: &Graph,
    params: &IndexMap<String, Value>,
    report: &mut Report<'_>,
) {
    for (at, draft) in drafts.iter().enumerate() {
        let step = &draft.step;
        let upstream: Vec<&str> =
            graph.ancestors(at).iter().map(|&other| drafts[other].step.name.as_str()).collect();
        for (reference, place) in &draft.references {
            if let Some(other) = reference.step() {
                if other == step.name {
                    report
                        .error(*place, format!("`{reference}`: a step cannot see its own results"));
                    continue;
                }
                if drafts.iter().all(|draft| draft.step.name != other) {
                    if written.contains(&other) {
                        continue;
                    }
                    let names = drafts.iter().map(|draft| draft.step.name.as_str());
                    let nearest = hints::nearest(other, names);
                    report
                        .error(*place, format!("`{reference}`: there is no step `{other}`"))
                        .hint = nearest.map(|name| format!("did you mean `{name}`?"));
                } else if !upstream.contains(&other) {
                    let message = format!(
                        "`{reference}`: step `{other}` does not come before `{}`",
                        step.name
                    );
                    report.error(*place, message).hint = Some(format!("add `needs: {other}`"));
                }
            }
            match reference {
                Reference::Parameter(name) => {
                    let known = params.contains_key(name)
                        || step.params.contains_key(name)
                        || step.sweep.contains_key(name);
                    if !known {
                        let names = params.keys().chain(step.params.keys()).map(String::as_str);
                        let nearest = hints::nearest(name, names);
                        let message = format!("`{reference}`: no such parameter is declared");
                        report.error(*place, message).hint = Some(nearest.map_or_else(
                            || format!("declare it: `params: {{{name}: ...}}`"),
                            |near| format!("did you mean `{near}`?"),
                        ));
                    }
                }
                Reference::SweepIndex if step.sweep.is_empty() => {
                    report.error(*place, format!("`{reference}`: `{}` has no sweep", step.name));
                }
                Reference::Model(_) => {
                    let message = format!("`{reference}` is known in a deployment's `set` only");
                    report.error(*place, message);
                }
                Reference::Output { .. }
                | Reference::Metric { .. }
                | Reference::Run(_)
                | Reference::PipelineName
                | Reference::SweepIndex => {}
            }
        }
    }
}
