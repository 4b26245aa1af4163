//! The short form: `prepare.ipynb >> [train.ipynb, python baseline.py] >> report.ipynb`.
//!
//! Owns the grammar of chains and lists and the names of the steps. Commands stay as written:
//! the shell reads them, so `>>` and, inside brackets, commas are protected by quotes.

use serde_json::{Map, Value, json};

use super::reference::is_name_character;
use crate::notebook::parameters::Parameter;

const SCRIPT_ENDINGS: [&str; 5] = [".ipynb", ".py", ".R", ".jl", ".sh"];

/// Parses a flow into steps as the long form writes them.
///
/// # Errors
/// Says what is wrong, and near which item.
pub fn parse(flow: &str) -> Result<Map<String, Value>, String> {
    let mut steps: Map<String, Value> = Map::new();
    let mut before: Vec<String> = Vec::new();
    for stage in stages(flow)? {
        let mut names = Vec::new();
        for item in stage {
            let (stem, mut step) = item_step(&item)?;
            let name = free_name(&stem, &steps);
            if !before.is_empty() {
                step.insert("needs".into(), json!(before));
            }
            steps.insert(name.clone(), Value::Object(step));
            names.push(name);
        }
        before = names;
    }
    Ok(steps)
}

/// The items of each stage, as text.
fn stages(flow: &str) -> Result<Vec<Vec<String>>, String> {
    let mut stages: Vec<Vec<String>> = Vec::new();
    let mut items: Vec<String> = Vec::new();
    let mut item = String::new();
    let (mut in_list, mut closed) = (false, false);
    let mut quote: Option<char> = None;
    let mut characters = flow.chars().peekable();
    let finish = |items: &mut Vec<String>, item: &mut String| -> Result<(), String> {
        let text = std::mem::take(item).trim().to_owned();
        if text.is_empty() {
            return Err(
                "an item of the flow is empty: something is missing beside `>>` or `,`".into()
            );
        }
        items.push(text);
        Ok(())
    };
    while let Some(character) = characters.next() {
        if let Some(open) = quote {
            item.push(character);
            if character == '\\' && open == '"' {
                item.extend(characters.next());
            } else if character == open {
                quote = None;
            }
            continue;
        }
        match character {
            '>' if characters.peek() == Some(&'>') => {
                characters.next();
                if in_list {
                    return Err("`>>` inside [ ]: a list holds steps, not chains".into());
                }
                if !std::mem::take(&mut closed) {
                    finish(&mut items, &mut item)?;
                }
                stages.push(std::mem::take(&mut items));
            }
            _ if closed && !character.is_whitespace() => {
                return Err(format!("{character:?} after `]`: wanted `>>` or the end"));
            }
            '[' if item.trim().is_empty() && !in_list => in_list = true,
            '[' if in_list => {
                return Err("`[` inside [ ]: lists do not nest; put it in quotes".into());
            }
            ',' if in_list => finish(&mut items, &mut item)?,
            ']' if in_list => {
                finish(&mut items, &mut item)?;
                (in_list, closed) = (false, true);
            }
            '\\' => {
                item.push(character);
                item.extend(characters.next());
            }
            '\'' | '"' => {
                quote = Some(character);
                item.push(character);
            }
            _ => item.push(character),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a {open} is not closed"));
    }
    if in_list {
        return Err("`[` is not closed".into());
    }
    if !closed {
        finish(&mut items, &mut item)?;
    }
    stages.push(items);
    Ok(stages)
}

/// Splits an item into words as a shell does, without expansions.
pub fn shell_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        None => return Err(format!("a {character} is not closed in {text:?}")),
                        Some(c) if c == character => break,
                        Some('\\') if character == '"' => match characters.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => {}
                        },
                        Some(c) => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// One item's step and the stem that names it.
fn item_step(item: &str) -> Result<(String, Map<String, Value>), String> {
    let words = shell_words(item)?;
    let first = words.first().ok_or("an item of the flow is empty")?;
    let mut step = Map::new();
    if first.ends_with(".ipynb") {
        step.insert("notebook".into(), json!(first));
        let params = notebook_parameters(first, &words[1..])?;
        if !params.is_empty() {
            step.insert("params".into(), Value::Object(params));
        }
    } else {
        step.insert("run".into(), json!(item));
    }
    let named = words
        .iter()
        .find_map(|word| SCRIPT_ENDINGS.iter().find_map(|ending| word.strip_suffix(ending)))
        .unwrap_or(first);
    Ok((named.rsplit('/').next().unwrap_or(named).to_owned(), step))
}

/// `lr=1` or `-p lr 1` after a notebook.
fn notebook_parameters(notebook: &str, words: &[String]) -> Result<Map<String, Value>, String> {
    let mut params = Map::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (name, value) = if word == "-p" || word == "--parameters" {
            let (Some(name), Some(value)) = (words.next(), words.next()) else {
                return Err(format!("{notebook}: -p wants a name and a value"));
            };
            (name.as_str(), value.as_str())
        } else {
            word.split_once('=').ok_or_else(|| {
                format!("{notebook}: {word:?} is no parameter: wanted name=value or -p name value")
            })?
        };
        params.insert(name.to_owned(), Parameter::from_word(value).to_json());
    }
    Ok(params)
}

fn free_name(stem: &str, taken: &Map<String, Value>) -> String {
    let mut base = String::new();
    for character in stem.chars().take(56) {
        let character = if is_name_character(character) { character } else { '-' };
        if !(character == '-' && (base.is_empty() || base.ends_with('-'))) {
            base.push(character);
        }
    }
    let base = base.trim_end_matches('-');
    let base = if base.is_empty() { "step" } else { base };
    let numbered = (2..).map(|number| format!("{base}-{number}"));
    std::iter::once(base.to_owned())
        .chain(numbered)
        .find(|name| !taken.contains_key(name))
        .expect("there are more numbers than steps")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(flow: &str) -> String {
        serde_json::to_string(&parse(flow).unwrap()).unwrap()
    }

    #[test]
    fn chains_lists_fan_out_and_fan_in() {
        assert_eq!(
            words("prepare.ipynb >> [train.ipynb lr=0.1, python baseline.py] >> report.ipynb"),
            r#"{"prepare":{"notebook":"prepare.ipynb"},"train":{"notebook":"train.ipynb","params":{"lr":0.1},"needs":["prepare"]},"baseline":{"run":"python baseline.py","needs":["prepare"]},"report":{"notebook":"report.ipynb","needs":["train","baseline"]}}"#
        );
        assert_eq!(
            words("python hello.py >> python world.py"),
            r#"{"hello":{"run":"python hello.py"},"world":{"run":"python world.py","needs":["hello"]}}"#
        );
        assert_eq!(
            words("[a.ipynb, a.ipynb -p x True]"),
            r#"{"a":{"notebook":"a.ipynb"},"a-2":{"notebook":"a.ipynb","params":{"x":true}}}"#
        );
    }

    #[test]
    fn quotes_protect() {
        assert_eq!(
            words("echo 'a >> b' >> [echo \"x, y]\", ls]"),
            r#"{"echo":{"run":"echo 'a >> b'"},"echo-2":{"run":"echo \"x, y]\"","needs":["echo"]},"ls":{"run":"ls","needs":["echo"]}}"#
        );
        assert_eq!(words("'my notes.ipynb'"), r#"{"my-notes":{"notebook":"my notes.ipynb"}}"#);
        assert_eq!(words("분석.ipynb"), r#"{"분석":{"notebook":"분석.ipynb"}}"#);
        assert_eq!(words("bash hello.sh a, b"), r#"{"hello":{"run":"bash hello.sh a, b"}}"#);
    }

    #[test]
    fn what_the_original_let_through_is_refused() {
        for flow in [
            ">> a",
            "a >>",
            "a >> >> b",
            "",
            "[a, ] >> b",
            "[a >> b]",
            "[a, b",
            "[a] b",
            "[[a], b]",
            "echo 'x",
            "a.ipynb x",
        ] {
            assert!(parse(flow).is_err(), "{flow}");
        }
    }
}
