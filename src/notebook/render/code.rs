//! Highlighted source code.
//!
//! Owns the choice of a grammar and the bounds of the work; colours are the style sheet's.

use std::sync::OnceLock;

use syntect::html::{ClassStyle, ClassedHTMLGenerator};
use syntect::parsing::SyntaxSet;
use syntect::util::LinesWithEndings;

use super::escape;

/// A longer source is shown plain: colours are not worth its time.
const LONGEST: usize = 100_000;

/// Source code as markup with classes.
pub fn highlight(source: &str, language: &str) -> String {
    static SYNTAXES: OnceLock<SyntaxSet> = OnceLock::new();
    let syntaxes = SYNTAXES.get_or_init(SyntaxSet::load_defaults_newlines);
    let language = match language.to_lowercase().as_str() {
        "ipython" | "ipython3" => "python".to_owned(),
        other => other.to_owned(),
    };
    let Some(syntax) = syntaxes.find_syntax_by_token(&language).filter(|_| source.len() <= LONGEST)
    else {
        return escape(source);
    };
    let style = ClassStyle::SpacedPrefixed { prefix: "s-" };
    let mut generator = ClassedHTMLGenerator::new_with_class_style(syntax, syntaxes, style);
    for line in LinesWithEndings::from(source) {
        if generator.parse_html_for_line_which_includes_newline(line).is_err() {
            return escape(source);
        }
    }
    generator.finalize()
}
