//! Files and the problems that they have, to the word.

use super::*;

fn problems(text: &str) -> Vec<String> {
    let documents = parse(text, "f/jupyterflow.yaml", "f", 100);
    documents
        .problems
        .iter()
        .map(|p| {
            let hint = p.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}:{} {}{hint}", p.line, p.column, p.message)
        })
        .collect()
}

fn check_problems(text: &str, expected: &[&str]) {
    assert_eq!(problems(text), expected, "{text}");
}

/// The example of DESIGN section 3, to the letter.
const DESIGN: &str = include_str!("../../tests/fixtures/design.yaml");

#[test]
fn the_designs_example_is_valid() {
    let documents = parse(DESIGN, "jupyterflow.yaml", "", 100);
    assert!(documents.problems.is_empty(), "{:?}", problems(DESIGN));
    let pipeline = &documents.pipelines[0];
    assert_eq!(pipeline.name().as_str(), "churn");
    assert_eq!(pipeline.steps()[1].points().len(), 4);
    assert_eq!(pipeline.steps()[1].points()[1]["epochs"], 10);
    assert_eq!(pipeline.deployments()[0].gates.len(), 2);
    assert_eq!(pipeline.triggers().schedules.len(), 1);
}

#[test]
fn all_problems_come_at_once_with_their_places() {
    check_problems(
        "name: Bad Name\non: push\nsteps:\n  a:\n    notbook: a.ipynb\n    run: x\n    retries: lots\n  \
         b: {run: y, needs: [c], dependsOn: a}\n",
        &[
            "1:7 `name` must be a name of at most 40 of a-z, 0-9 and -, with a letter or digit \
             at each end, not the text \"Bad Name\"",
            "2:1 unknown key `on` in a pipeline (write `triggers:`; YAML 1.1 tools read a bare \
             `on` as true)",
            "5:5 unknown key `notbook` in a step (did you mean `notebook`?)",
            "7:14 `steps.a.retries` must be an integer from 0 to 100, not the text \"lots\"",
            "8:23 step `b` needs `c`, which is no step",
            "8:27 unknown key `dependsOn` in a step (did you mean `needs`?)",
        ],
    );
}

#[test]
fn one_mistake_is_one_problem() {
    check_problems(
        "inputs: ../../x\nsteps:\n  a: {run: x}\n  b: {run: x, needs: a}\n",
        &[
            "1:9 `inputs`: \"../../x\" leaves the source (paths are relative to the pipeline file and stay \
           in its source)",
        ],
    );
    let found = problems("steps:\n  a: {run: 'echo {{ nope'}\n  b: {run: x, needs: a}\n");
    assert_eq!(found.len(), 1, "{found:?}");
    check_problems(
        "steps: {a: {run: 'echo {{ steps.a.outputs.x }}'}}",
        &["1:18 `steps.a.outputs.x`: a step cannot see its own results"],
    );
}

#[test]
fn cycles_and_references_are_checked() {
    check_problems(
        "steps:\n  a: {run: x, needs: b}\n  b: {run: x, needs: a}\n",
        &["3:3 the steps form a cycle: b -> a -> b"],
    );
    check_problems(
        "params: {epochs: 1}\nsteps:\n  a: {run: 'x {{ steps.b.outputs.o }} {{ params.epoch }}'}\n  \
         b: {run: 'x {{ steps.c.metrics.m }} {{ sweep.index }}'}\n",
        &[
            "3:12 `steps.b.outputs.o`: step `b` does not come before `a` (add `needs: b`)",
            "3:12 `params.epoch`: no such parameter is declared (did you mean `epochs`?)",
            "4:12 `steps.c.metrics.m`: there is no step `c`",
            "4:12 `sweep.index`: `b` has no sweep",
        ],
    );
}

#[test]
fn paths_sweeps_and_schedules_are_checked() {
    check_problems(
        "triggers: {schedule: {cron: 0 0 30 2 *, timezone: Mars}}\nsteps:\n  \
         a: {notebook: ../../x.ipynb, sweep: {}}\n",
        &[
            "1:11 triggers replace the default: without `change`, edits start no run",
            "1:51 \"Mars\" is no time zone: wanted an IANA name such as Asia/Seoul or UTC",
            "3:17 `notebook`: \"../../x.ipynb\" leaves the source (paths are relative to the \
             pipeline file and stay in its source)",
        ],
    );
    let axes = "a: [1,2,3,4,5,6,7,8,9,10], b: [1,2,3,4,5,6,7,8,9,10,11]";
    let found = problems(&format!("steps:\n  a: {{run: x, sweep: {{{axes}}}}}\n"));
    assert!(found[0].contains("110 points, more than 100"), "{found:?}");
}

#[test]
fn words_of_yaml_1_1_are_no_booleans() {
    let text = "steps: {a: {run: x}}\ndeploy: {p: {model: '{{ steps.a.outputs.m }}', autoMerge: yes, \
                pullRequest: {repo: r, file: f, set: {a: b}}}}\n";
    assert!(problems(text)[0].contains("write true or false"), "{:?}", problems(text));
}

#[test]
fn names_come_from_folders() {
    let name = |folder: &str| {
        let documents = parse("steps: {a: {run: x}}", "f", folder, 100);
        documents.pipelines.first().map(|pipeline| pipeline.name().to_string())
    };
    assert_eq!(name("").as_deref(), Some("main"));
    assert_eq!(name("x/My Notes").as_deref(), Some("my-notes"));
    assert_eq!(name("한국어"), None);
}

#[test]
fn a_flow_reports_at_its_place() {
    check_problems(
        "flow: a.ipynb >> [b >> c]\n",
        &["1:7 `flow`: `>>` inside [ ]: a list holds steps, not chains"],
    );
    let documents = parse("flow: a.ipynb >> [b.ipynb lr=1, ls]", "f", "d", 100);
    assert_eq!(documents.pipelines[0].steps().len(), 3);
    assert_eq!(documents.pipelines[0].steps()[1].needs(), ["a"]);
}

#[test]
fn a_resource_says_what_it_lacks() {
    check_problems(
        "steps:\n  a:\n    resource:\n      manifest: {apiVersion: v1, metadata: {namespace: x}}\n      \
         success: 'status.conditions.#(type==\"Done\") == True'\n      failure: \"{{ run.id }} > 0\"\n",
        &[
            "4:17 `manifest`: it is no Kubernetes object: `kind` is missing",
            "4:17 `manifest`: `metadata.namespace`: objects are made in the namespace of the run; leave it out",
            "5:16 `success`: \"status.conditions.#(type==\\\"Done\\\") == True\" is no condition that Argo could \
             read (fields of the object and values, without references or filters: `status.succeeded > 0`, \
             `status.state in (FAILED, LOST)`, `status.conditions.0.status == True`)",
            "6:16 `failure`: \"{{ run.id }} > 0\" is no condition that Argo could read (fields of the object and \
             values, without references or filters: `status.succeeded > 0`, `status.state in (FAILED, LOST)`, \
             `status.conditions.0.status == True`)",
        ],
    );
}
