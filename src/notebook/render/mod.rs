//! An executed notebook as one HTML page that needs nothing else and runs no script.
//!
//! Owns the page. Whatever an output holds, nothing of it is executed: markup is cleaned, vector
//! images are shown as images, and a content policy forbids all scripts besides.

mod ansi;
mod code;

use base64::Engine as _;
use serde_json::Value;

use super::json::{Object, Raw};
use super::model::{Cell, CellKind, Notebook};

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn html(notebook: &Notebook, title: &str) -> String {
    let language = notebook.language().unwrap_or_else(|| "python".into());
    let mut body = String::new();
    for cell in &notebook.cells {
        match cell.kind() {
            CellKind::Markdown => {
                body.push_str("<section class=\"markdown\">");
                body.push_str(&markdown(&cell.source()));
                body.push_str("</section>\n");
            }
            CellKind::Code => code_cell(cell, &language, &mut body),
            CellKind::Raw | CellKind::Other => {
                body.push_str(&format!("<pre class=\"raw\">{}</pre>\n", escape(&cell.source())));
            }
        }
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         img-src data:; style-src 'unsafe-inline'; font-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title)
    )
}

fn code_cell(cell: &Cell, language: &str, body: &mut String) {
    let count = cell.get("execution_count").and_then(Raw::view::<u64>);
    let count = count.map_or_else(|| " ".to_owned(), |count| count.to_string());
    let class = if cell.has_tag("injected-parameters") { "code injected" } else { "code" };
    body.push_str(&format!("<section class=\"{class}\"><div class=\"count\">[{count}]</div>"));
    body.push_str(&format!(
        "<pre class=\"source\">{}</pre>",
        code::highlight(&cell.source(), language)
    ));
    for output in cell.outputs() {
        output_block(&output, body);
    }
    body.push_str("</section>\n");
}

fn output_block(output: &Object, body: &mut String) {
    let text = |key: &str| output.get(key).and_then(Raw::joined_text).unwrap_or_default();
    match output.view::<&str>("output_type") {
        Some("stream") => {
            let class = if text("name") == "stderr" { "stream stderr" } else { "stream" };
            body.push_str(&format!(
                "<pre class=\"{class}\">{}</pre>",
                ansi::to_html(&text("text"))
            ));
        }
        Some("error") => {
            let lines: Vec<Raw> = output.view("traceback").unwrap_or_default();
            let mut lines: Vec<String> = lines.iter().filter_map(Raw::joined_text).collect();
            if lines.is_empty() {
                lines.push(format!("{}: {}", text("ename"), text("evalue")));
            }
            let lines = ansi::to_html(&lines.join("\n"));
            body.push_str(&format!("<pre class=\"error\">{lines}</pre>"));
        }
        _ => {
            let data = output.get("data").map(Raw::object).unwrap_or_default();
            body.push_str(&format!("<div class=\"output\">{}</div>", richest(&data)));
        }
    }
}

/// The richest representation that is safe to show.
fn richest(data: &Object) -> String {
    let text = |mime: &str| data.get(mime).and_then(Raw::joined_text);
    if let Some(markup) = text("text/html") {
        return clean(&markup);
    }
    if let Some(image) = text("image/svg+xml") {
        // As an image, a drawing can neither run scripts nor fetch anything.
        let encoded = base64::engine::general_purpose::STANDARD.encode(image);
        return format!("<img alt=\"drawing\" src=\"data:image/svg+xml;base64,{encoded}\">");
    }
    for mime in ["image/png", "image/jpeg", "image/gif", "image/webp"] {
        if let Some(image) = text(mime) {
            let encoded: String = image.chars().filter(|c| !c.is_whitespace()).collect();
            let sound = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
            if encoded.chars().all(sound) {
                return format!("<img alt=\"output\" src=\"data:{mime};base64,{encoded}\">");
            }
        }
    }
    if let Some(source) = text("text/markdown") {
        return markdown(&source);
    }
    if let Some(source) = text("text/latex") {
        return format!("<pre>{}</pre>", escape(&source));
    }
    if let Some(value) = data.get("application/json").and_then(Raw::view::<Value>) {
        let pretty = serde_json::to_string_pretty(&value).unwrap_or_default();
        return format!("<pre>{}</pre>", escape(&pretty));
    }
    if let Some(plain) = text("text/plain") {
        format!("<pre>{}</pre>", ansi::to_html(&plain))
    } else {
        let kinds: Vec<String> = data.entries().map(|(mime, _)| mime).collect();
        format!("<p class=\"note\">output of type {}</p>", escape(&kinds.join(", ")))
    }
}

fn markdown(source: &str) -> String {
    use pulldown_cmark::{Options, Parser, html};
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_FOOTNOTES;
    let mut out = String::new();
    html::push_html(&mut out, Parser::new_ext(source, options));
    clean(&out)
}

/// Markup without anything that acts: scripts, handlers, frames, forms, styles that reach out.
fn clean(markup: &str) -> String {
    static CLEANER: std::sync::OnceLock<ammonia::Builder<'static>> = std::sync::OnceLock::new();
    let cleaner = CLEANER.get_or_init(|| {
        let mut cleaner = ammonia::Builder::default();
        cleaner
            .add_generic_attributes(["class", "style", "align", "valign", "id"])
            .add_tag_attributes("table", ["border"])
            .add_url_schemes(["data"])
            // Data is for pictures alone: behind a link it could be a page that acts.
            .attribute_filter(|element, attribute, value| {
                let data = value.trim_start().to_ascii_lowercase().starts_with("data:");
                (!data || (element, attribute) == ("img", "src")).then_some(value.into())
            })
            .filter_style_properties(
                [
                    "color",
                    "background-color",
                    "font-weight",
                    "font-style",
                    "font-size",
                    "text-align",
                    "font-family",
                    "width",
                    "height",
                    "padding",
                    "margin",
                    "border",
                    "white-space",
                    "vertical-align",
                    "text-decoration",
                    "max-width",
                ]
                .into(),
            )
            .link_rel(Some("noopener noreferrer"));
        cleaner
    });
    cleaner.clean(markup).to_string()
}

/// Text for the inside of an element or of a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(outputs: &str) -> String {
        let text = format!(
            r#"{{"cells": [{{"cell_type": "code", "source": "def f(): pass", "outputs": [{outputs}]}},
                {{"cell_type": "markdown", "source": "<script>alert(1)</script>\n\n**bold** <a href='data:text/html,x'>d</a> <a href='javascript:x'>l</a>"}}],
               "metadata": {{}}, "nbformat": 4}}"#
        );
        html(&Notebook::read(&text).unwrap(), "a <title>")
    }

    #[test]
    fn no_script_of_an_output_survives() {
        let outputs = [
            r#"{"output_type": "display_data", "data": {"text/html": "<table><tr onclick='x()'><td>1</td></tr></table><script>x()</script><iframe src='x'></iframe><img src=x onerror=y()>"}}"#,
            r#"{"output_type": "display_data", "data": {"image/svg+xml": "<svg><script>x()</script></svg>"}}"#,
            r#"{"output_type": "display_data", "data": {"image/png": "\" onload=\"x()"}}"#,
            r#"{"output_type": "display_data", "data": {"application/javascript": "x()"}}"#,
            r#"{"output_type": "stream", "name": "stdout", "text": "<script>x()</script>"}"#,
        ];
        let page = page(&outputs.join(","));
        for word in
            ["<script", "onclick", "onerror", "<iframe", "javascript:", "onload", "data:text"]
        {
            assert!(!page.contains(word), "{word}: {page}");
        }
        assert!(page.contains("<td>1</td>") && page.contains("<strong>bold</strong>"));
        assert!(page.contains("default-src 'none'") && page.contains("a &lt;title&gt;"));
        assert!(page.contains("output of type application/javascript"));
    }

    #[test]
    fn tracebacks_keep_their_colours_and_code_is_highlighted() {
        let error = r#"{"output_type": "error", "ename": "E", "evalue": "v",
            "traceback": ["\u001b[0;31mE\u001b[0m: <v>"]}"#;
        let page = page(error);
        assert!(page.contains("<span class=\"a31\">E</span>: &lt;v&gt;"), "{page}");
        assert!(page.contains("class=\"s-"), "{page}");
    }
}
