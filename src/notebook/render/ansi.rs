//! Colours of terminals as markup.
//!
//! Owns the select-graphic-rendition sequences; all other control sequences are dropped.

use super::escape;

/// Text with escape sequences as safe markup.
pub fn to_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut open = false;
    let mut style = Style::default();
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        out.push_str(&escape(&rest[..at]));
        rest = &rest[at + 1..];
        let Some(sequence) = rest.strip_prefix('[') else { continue };
        let Some(end) = sequence.find(|c: char| ('@'..='~').contains(&c)) else { break };
        if sequence[end..].starts_with('m') {
            style.apply(&sequence[..end]);
            if std::mem::take(&mut open) {
                out.push_str("</span>");
            }
            let classes = style.classes();
            if !classes.is_empty() {
                out.push_str(&format!("<span class=\"{classes}\">"));
                open = true;
            }
        }
        rest = &sequence[end + 1..];
    }
    out.push_str(&escape(rest));
    if open {
        out.push_str("</span>");
    }
    out
}

#[derive(Default)]
struct Style {
    bold: bool,
    italic: bool,
    underline: bool,
    colour: Option<u8>,
    background: Option<u8>,
}

impl Style {
    fn apply(&mut self, codes: &str) {
        let mut codes = codes.split(';').map(|code| code.parse::<u8>().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Self::default(),
                1 => self.bold = true,
                3 => self.italic = true,
                4 => self.underline = true,
                22 => self.bold = false,
                23 => self.italic = false,
                24 => self.underline = false,
                30..=37 | 90..=97 => self.colour = Some(code),
                39 => self.colour = None,
                40..=47 | 100..=107 => self.background = Some(code),
                49 => self.background = None,
                38 | 48 => {
                    // Of the 256 colours the first sixteen have names; the others stay plain.
                    let basic = match codes.next() {
                        Some(5) => codes.next().filter(|number| *number < 16),
                        Some(2) => codes.by_ref().take(3).last().and(None),
                        _ => None,
                    };
                    let base = basic.map(|n| if n < 8 { 30 + n } else { 82 + n });
                    if code == 38 {
                        self.colour = base;
                    } else {
                        self.background = base.map(|number| number + 10);
                    }
                }
                _ => {}
            }
        }
    }

    fn classes(&self) -> String {
        let mut classes = Vec::new();
        for (on, class) in [(self.bold, "ab"), (self.italic, "ai"), (self.underline, "au")] {
            if on {
                classes.push(class.to_owned());
            }
        }
        classes
            .extend([self.colour, self.background].into_iter().flatten().map(|n| format!("a{n}")));
        classes.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::to_html;

    #[test]
    fn colours_become_spans() {
        assert_eq!(to_html("a\u{1b}[1;31mb\u{1b}[0mc<"), "a<span class=\"ab a31\">b</span>c&lt;");
        assert_eq!(to_html("\u{1b}[38;5;9mx"), "<span class=\"a91\">x</span>");
        assert_eq!(to_html("\u{1b}[2Kx\u{1b}[38;2;1;2;3my"), "xy");
        assert_eq!(to_html("plain"), "plain");
    }
}
