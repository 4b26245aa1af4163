//! Notebooks from outside: other tools run, read and parameterise them, and ours agree.

use serde_json::Value;

use crate::support::{Ended, Place, has, python};

fn digest(place: &Place, path: &str) -> String {
    place.run(&["notebook", "digest", path]).expect(0).stdout.trim().to_owned()
}

/// Notebooks that another package ships for its own tests.
fn shipped(place: &Place, package: &str, folder: &str) -> Vec<std::path::PathBuf> {
    let script = "import importlib, os, sys\nprint(os.path.dirname(importlib.import_module(sys.argv[1]).__file__))";
    let root = place.python(script, &[package]);
    let folder = std::path::Path::new(root.trim()).join(folder);
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "ipynb"))
        .collect();
    found.sort();
    assert!(found.len() > 10, "{package} ships notebooks in {}", folder.display());
    found
}

#[test]
fn running_again_through_any_tool_never_changes_the_digest() {
    let place = Place::new();
    let cells =
        ["#tag parameters\na = 1", "import random\nrandom.random()", "print(a)", "", "1 / 1"];
    place.notebook("n.ipynb", &cells);
    let before = digest(&place, "n.ipynb");
    assert!(before.starts_with("sha256:") && before.len() == 71, "{before}");
    let papermill = |from: &str, to: &str, extra: &[&str]| {
        let mut command = place.command(python());
        command.args(["-m", "papermill", from, to, "--no-progress-bar"]).args(extra);
        Ended::from(command.output().unwrap()).expect(0);
    };
    papermill("n.ipynb", "papermill.ipynb", &["-p", "a", "7"]);
    papermill("papermill.ipynb", "again.ipynb", &["-p", "a", "8"]);
    place.run(&["exec", "n.ipynb", "ours.ipynb", "-p", "a", "9"]).expect(0);
    for name in ["nbconvert", "nbclient"] {
        std::fs::copy(place.path("n.ipynb"), place.path(&format!("{name}.ipynb"))).unwrap();
    }
    for command in [
        &["-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", "nbconvert.ipynb"][..],
        &["-m", "jupyter", "execute", "--inplace", "nbclient.ipynb"],
    ] {
        let mut python = place.command(python());
        Ended::from(python.args(command).output().unwrap()).expect(0);
    }
    for name in ["papermill", "again", "ours", "nbconvert", "nbclient"] {
        assert_eq!(digest(&place, &format!("{name}.ipynb")), before, "{name}");
    }
    // A failed run with its banners is no change either.
    place.notebook("bad.ipynb", &["1", "1 / 0", "2"]);
    let before = digest(&place, "bad.ipynb");
    place.run(&["exec", "bad.ipynb", "failed.ipynb"]).expect(1);
    assert_eq!(digest(&place, "failed.ipynb"), before);
    // An edited code cell always is.
    place.notebook("edited.ipynb", &["1", "1 / 0 ", "2"]);
    assert_ne!(digest(&place, "edited.ipynb"), before);
    place.run(&["notebook", "diff", "bad.ipynb", "edited.ipynb"]).expect(1).says("cell 2");
    place.run(&["notebook", "diff", "bad.ipynb", "failed.ipynb"]).expect(0).says("no change");
}

#[test]
fn the_same_notebook_in_version_3_and_4_has_the_same_digest() {
    let place = Place::new();
    place.notebook("four.ipynb", &["a = 1", "print(a)"]);
    let script = "
import nbformat, sys
four = nbformat.read('four.ipynb', as_version=4)
three = nbformat.convert(four, 3)
three.metadata.kernelspec = four.metadata.kernelspec
open('three.ipynb', 'w').write(nbformat.writes(three, version=3))";
    place.python(script, &[]);
    assert_eq!(place.read_json("three.ipynb")["nbformat"], 3);
    assert_eq!(digest(&place, "three.ipynb"), digest(&place, "four.ipynb"));
}

/// papermill is the oracle: the same notebooks, the same parameters, the same injected cell.
#[test]
fn parameters_are_injected_as_papermill_does() {
    let place = Place::new();
    let yaml = r#"{"t": "it's \"x\" \\ é😍\n", "i": 7, "f": 1.0e-07, "g": 1.0e+16, "n": null, "b": true,
                   "l": [1, "a", null], "d": {"k": 1.5}, "e": "", "m": -3}"#;
    place.write("parameters.yaml", yaml);
    let notebooks = shipped(&place, "papermill", "tests/notebooks");
    for (index, notebook) in notebooks.iter().enumerate() {
        let ours = format!("ours-{index}.ipynb");
        let path = notebook.to_str().unwrap();
        place.run(&["notebook", "prepare", path, &ours, "-f", "parameters.yaml"]);
    }
    // One interpreter for all: most of the time is its start.
    let script = "
import json, logging, os, sys, nbformat, papermill, yaml
from papermill.iorw import read_yaml_file
values = read_yaml_file('parameters.yaml')
read = lambda path: [[c.cell_type, c.source] for c in nbformat.read(path, as_version=4).cells]
for index, path in enumerate(sys.argv[1:]):
    try:
        papermill.execute_notebook(path, 'theirs.ipynb', values, prepare_only=True, progress_bar=False)
        theirs = read('theirs.ipynb')
    except Exception as error:
        theirs = None
    ours = f'ours-{index}.ipynb'
    print(json.dumps([path, theirs, read(ours) if os.path.exists(ours) else None]))";
    let paths: Vec<&str> = notebooks.iter().map(|path| path.to_str().unwrap()).collect();
    let said = place.python(script, &paths);
    let mut compared = 0;
    for line in said.lines() {
        let (path, theirs, ours): (String, Value, Value) = serde_json::from_str(line).unwrap();
        // What papermill cannot prepare (a language it does not know) says nothing of ours.
        if !theirs.is_null() {
            assert_eq!(ours, theirs, "{path}");
            compared += 1;
        }
    }
    assert!(compared >= 15, "{compared} of {} notebooks were compared", notebooks.len());
}

/// All shipped notebooks, read and written: a JSON parser that keeps numbers as text sees the same.
#[test]
fn reading_and_writing_loses_nothing() {
    let place = Place::new();
    let strange = r#"{"cells": [{"cell_type": "code", "execution_count": 1, "metadata": {"z": 1, "a": 2},
        "outputs": [{"output_type": "wild", "x": 1e+16, "y": 123456789012345678901234567890,
        "n": NaN, "i": -Infinity, "s": "\ud83d"}], "source": "a", "own": {"b": 1, "a": 1.0}},
        {"cell_type": "drawing", "metadata": {}, "source": ["x\n", "y"]}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
        "nbformat": 4, "nbformat_minor": 4, "future": [1e-7, 0.1e1]}"#;
    place.write("strange.ipynb", strange);
    place.run(&["notebook", "prepare", "strange.ipynb", "out.ipynb"]).expect(0);
    let out = place.read("out.ipynb");
    for text in [
        "1e+16",
        "123456789012345678901234567890",
        "NaN",
        "-Infinity",
        r"\ud83d",
        "1e-7",
        "0.1e1",
        "drawing",
    ] {
        assert!(out.contains(text), "{text} is lost: {out}");
    }
    let script = "
import json, sys
read = lambda path: json.load(open(path), parse_int=lambda t: 'i' + t, parse_float=lambda t: 'f' + t, object_pairs_hook=list)
# What papermill's --prepare-only adds is no loss.
added = ('papermill', 'id', 'nbformat_minor')
is_added = lambda v: isinstance(v, tuple) and (v[0] in added or v == ('tags', []))
def strip(value):
    if isinstance(value, list):
        return [strip(v) for v in value if not is_added(v)]
    return (value[0], strip(value[1])) if isinstance(value, tuple) else value
print(strip(read('strange.ipynb')) == strip(read('out.ipynb')))";
    assert_eq!(place.python(script, &[]).trim(), "True", "{out}");
}

#[test]
fn declared_parameters_are_those_that_papermill_infers() {
    let place = Place::new();
    let script = "
import json, sys, papermill
for path in sys.argv[1:]:
    try:
        found = papermill.inspect_notebook(path)
    except Exception:
        continue
    print(json.dumps([path, [[p['name'], p['inferred_type_name'], p['default'], p['help']] for p in found.values()]]))";
    let notebooks = shipped(&place, "papermill", "tests/notebooks");
    let paths: Vec<&str> = notebooks.iter().map(|path| path.to_str().unwrap()).collect();
    let said = place.python(script, &paths);
    let mut declaring = 0;
    for line in said.lines() {
        let (path, theirs): (String, Vec<[String; 4]>) = serde_json::from_str(line).unwrap();
        if theirs.is_empty() {
            continue;
        }
        declaring += 1;
        let ours = place.document(&["notebook", "params", &path]);
        let ours = ours["parameters"].as_array().unwrap().iter();
        let keys = ["name", "type", "default", "help"];
        let ours: Vec<_> =
            ours.map(|one| keys.map(|key| one[key].as_str().unwrap().to_owned())).collect();
        assert_eq!(ours, theirs, "{path}");
    }
    assert!(declaring >= 3, "{declaring} notebooks declare parameters");
}

#[test]
fn the_page_of_a_notebook_shows_all_and_runs_nothing() {
    let place = Place::new();
    place.notebook(
        "n.ipynb",
        &[
            "from IPython.display import HTML, Javascript, display\ndisplay(HTML('<b onclick=\"x()\">bold</b><script>x()</script>'))",
            "import pandas as pd\npd.DataFrame({'a': [1, 2]})",
            "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
            "display(Javascript('alert(1)'))",
            "#tag raises-exception\n1 / 0",
            "def f(): return 'x'",
        ],
    );
    place.run(&["exec", "n.ipynb", "out.ipynb"]).expect(0);
    place.run(&["notebook", "html", "out.ipynb", "out.html"]).expect(0);
    let page = place.read("out.html");
    for there in
        ["<table", "data:image/png;base64,", "ZeroDivisionError", "class=\"a31\"", "class=\"s-"]
    {
        assert!(page.contains(there), "{there}");
    }
    for gone in ["<script", "onclick=\"", "javascript:"] {
        assert!(!page.contains(gone), "{gone}");
    }
    assert!(page.contains("script-src") || page.contains("default-src 'none'"));
}

#[test]
fn a_large_notebook_is_read_in_bounded_time() {
    let place = Place::new();
    let cell = |n: usize| {
        let output = "x".repeat(1 << 20);
        format!(
            r#"{{"cell_type": "code", "execution_count": {n}, "metadata": {{}}, "source": "{n}",
            "outputs": [{{"output_type": "stream", "name": "stdout", "text": ["{output}"]}}]}}"#
        )
    };
    let cells: Vec<String> = (0..200).map(cell).collect();
    let text = format!(
        r#"{{"cells": [{}], "metadata": {{"kernelspec": {{"name": "python3"}}}}, "nbformat": 4, "nbformat_minor": 4}}"#,
        cells.join(",")
    );
    place.write("large.ipynb", &text);
    let begin = std::time::Instant::now();
    assert!(digest(&place, "large.ipynb").starts_with("sha256:"));
    assert!(begin.elapsed().as_secs() < 120, "{:?}", begin.elapsed());
    let document: Value = place.document(&["notebook", "digest", "large.ipynb"]);
    assert_eq!(document["kernel"], "python3");
}

/// A real browser opens a page whose outputs try to run something.
#[test]
fn no_script_of_an_output_runs_in_a_browser() {
    let place = Place::new();
    let there = std::process::Command::new("chromium").arg("--version").output();
    if !has("chromium", there.is_ok_and(|output| output.status.success())) {
        return;
    }
    let attack = "document.title='RAN'";
    let markup = format!(
        "<script>{attack}</script><img src=x onerror=\"{attack}\"><svg onload=\"{attack}\"></svg>\
         <iframe srcdoc=\"<script>parent.{attack}</script>\"></iframe><body onload=\"{attack}\">\
         <details open ontoggle=\"{attack}\">x</details><a href=\"javascript:{attack}\" id=l>l</a>\
         <meta http-equiv=refresh content=\"0;url=javascript:{attack}\"><style>@import 'x'</style>"
    );
    let drawing = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' onload=\"{attack}\"><script>{attack}</script></svg>"
    );
    let data = |mime: &str, value: &str| serde_json::json!({"output_type": "display_data", "metadata": {}, "data": {mime: value}});
    let outputs = [
        data("text/html", &markup),
        data("image/svg+xml", &drawing),
        data("text/markdown", &markup),
        data("application/javascript", attack),
        data("text/latex", &markup),
        data("text/plain", &markup),
    ];
    let notebook = serde_json::json!({
        "cells": [
            {"cell_type": "code", "id": "a", "metadata": {}, "source": markup, "outputs": outputs, "execution_count": 1},
            {"cell_type": "markdown", "id": "b", "metadata": {}, "source": markup},
        ],
        "metadata": {}, "nbformat": 4, "nbformat_minor": 5,
    });
    place.write("hostile.ipynb", &notebook.to_string());
    place.run(&["notebook", "html", "hostile.ipynb", "hostile.html"]).expect(0);
    let browse = |page: &str| {
        let mut browser = place.command("chromium");
        browser.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--virtual-time-budget=3000",
            "--dump-dom",
        ]);
        browser.arg(format!("--user-data-dir={}", place.beside("browser").display()));
        browser.arg(format!("file://{}", place.path(page).display()));
        Ended::from(browser.output().unwrap()).expect(0).stdout
    };
    let shown = browse("hostile.html");
    assert!(shown.contains("<title>hostile.ipynb</title>"), "{}", &shown[..shown.len().min(500)]);
    // The same markup as it is does run: the browser would have shown it.
    place.write(
        "plain.html",
        &format!("<html><head><title>t</title></head><body>{markup}</body></html>"),
    );
    assert!(browse("plain.html").contains("<title>RAN</title>"));
}
