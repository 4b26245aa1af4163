//! Properties of the model and the digest, over notebooks of every kind.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::digest::digest;
use super::model::Notebook;

/// Any JSON that a notebook may hold where nobody looks.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn cell() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![Just("code"), Just("markdown"), Just("raw"), Just("strange")];
    (kind, "\\PC{0,20}(\n\\PC{0,20}){0,3}", anything(), anything()).prop_map(
        |(kind, source, metadata, extra)| {
            let metadata = if metadata.is_object() { metadata } else { json!({}) };
            json!({"cell_type": kind, "source": source, "metadata": metadata, "outputs": [extra.clone()],
                   "execution_count": null, "own": extra})
        },
    )
}

fn notebook() -> impl Strategy<Value = Value> {
    (prop::collection::vec(cell(), 0..6), anything()).prop_map(|(cells, extra)| {
        json!({"cells": cells, "metadata": {"kernelspec": {"name": "python3"}, "extra": extra},
               "nbformat": 4, "nbformat_minor": 4})
    })
}

fn read(value: &Value) -> Notebook {
    Notebook::read(&value.to_string()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Reading and writing keeps every value, and writing again keeps every byte.
    #[test]
    fn nothing_is_lost(value in notebook()) {
        let text = read(&value).write();
        let written: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&written, &value);
        let keys = |value: &Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        prop_assert_eq!(keys(&written), keys(&value));
        prop_assert_eq!(Notebook::read(&text).unwrap().write(), text);
    }

    /// What a run, a save or a front end may write never changes the digest.
    #[test]
    fn what_a_run_writes_does_not_count(value in notebook(), noise in anything(), prose in "\\PC{0,20}") {
        let before = digest(&read(&value), None);
        let mut after = value;
        after["metadata"]["language_info"] = noise.clone();
        after["metadata"]["papermill"] = noise.clone();
        after["nbformat_minor"] = json!(5);
        let cells = after["cells"].as_array_mut().unwrap();
        for (index, cell) in cells.iter_mut().enumerate() {
            cell["id"] = json!(format!("c{index}"));
            cell["outputs"] = json!([noise.clone()]);
            cell["execution_count"] = json!(index);
            cell["metadata"]["papermill"] = noise.clone();
            cell["metadata"]["execution"] = noise.clone();
            if cell["cell_type"] == "markdown" {
                cell["source"] = json!(prose);
            }
        }
        cells.insert(0, json!({"cell_type": "code", "source": "x = 1", "outputs": [],
            "metadata": {"tags": ["injected-parameters"]}}));
        cells.push(json!({"cell_type": "code", "source": " \n\t", "outputs": [], "metadata": {}}));
        cells.push(json!({"cell_type": "markdown", "source": prose, "metadata": {}}));
        prop_assert_eq!(digest(&read(&after), None), before);
    }

    /// An edit of a code cell always changes it.
    #[test]
    fn an_edit_counts(value in notebook(), which in any::<prop::sample::Index>(), extra in "[a-z]{1,5}") {
        let mut after = value.clone();
        let cells = after["cells"].as_array_mut().unwrap();
        let code: Vec<usize> = (0..cells.len())
            .filter(|&at| cells[at]["cell_type"] == "code")
            .collect();
        prop_assume!(!code.is_empty());
        let cell = &mut cells[code[which.index(code.len())]];
        cell["source"] = json!(format!("{}{extra}", cell["source"].as_str().unwrap()));
        prop_assert_ne!(digest(&read(&after), None), digest(&read(&value), None));
    }
}
