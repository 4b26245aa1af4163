//! Shell text with references: each becomes an environment variable, never text in the shell.
//!
//! Owns the quoting rule (`"${V}"` where a reference stands bare, `${V}` inside double quotes, an
//! error inside single quotes or a quoted here-document) and the words that name script files.

use super::reference::{Part, Reference, Template};

/// Shell text ready for `sh -e`, with the variables that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The text.
    pub text: String,
    /// Its variables, each reference once.
    pub variables: Vec<Variable>,
}

/// An environment variable that carries the value of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The variable's name.
    pub name: String,
    /// The reference.
    pub reference: Reference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Context {
    /// Outside quotes, at the top or inside `$( )`.
    Bare,
    /// Inside `" "`.
    Double,
    /// Inside `' '`.
    Single,
    /// A comment, to the end of the line.
    Comment,
    /// Inside `${ }`.
    Brace,
    /// Inside `$(( ))`, where quotes are no syntax.
    Arithmetic,
}

/// Follows shell quoting through a text.
struct Scanner {
    stack: Vec<Context>,
    escaped: bool,
    /// Here-documents announced on this line: delimiter, and whether it was quoted.
    announced: Vec<(String, bool)>,
    /// The here-document that is being read.
    document: Option<(String, bool)>,
    line: String,
    last: char,
}

impl Script {
    /// Compiles shell text.
    ///
    /// # Errors
    /// A malformed reference, or one where the shell would not expand it.
    pub fn compile(text: &str) -> Result<Self, String> {
        let template = Template::parse(text)?;
        let mut script = Self { text: String::with_capacity(text.len()), variables: Vec::new() };
        let mut scanner = Scanner {
            stack: vec![Context::Bare],
            escaped: false,
            announced: Vec::new(),
            document: None,
            line: String::new(),
            last: '\n',
        };
        for part in template.parts() {
            match part {
                Part::Text(text) => {
                    scanner.read(text);
                    script.text.push_str(text);
                }
                Part::Reference(reference) => {
                    let name = script.variable(reference);
                    let quoted = scanner.quoted(reference)?;
                    let expansion =
                        if quoted { format!("${{{name}}}") } else { format!("\"${{{name}}}\"") };
                    scanner.last = '}';
                    scanner.line.push('}');
                    script.text.push_str(&expansion);
                }
            }
        }
        Ok(script)
    }

    fn variable(&mut self, reference: &Reference) -> String {
        if let Some(known) = self.variables.iter().find(|known| known.reference == *reference) {
            return known.name.clone();
        }
        let name = format!("JUPYTERFLOW_VALUE_{}", self.variables.len() + 1);
        self.variables.push(Variable { name: name.clone(), reference: reference.clone() });
        name
    }
}

impl Scanner {
    /// Whether a value here needs no quotes of its own.
    fn quoted(&self, reference: &Reference) -> Result<bool, String> {
        if let Some((_, quoted)) = &self.document {
            return if *quoted {
                Err(format!(
                    "{{{{ {reference} }}}} stands in a quoted here-document, where the shell \
                     expands nothing; remove the quotes around its delimiter"
                ))
            } else {
                Ok(true)
            };
        }
        if self.escaped {
            return Err(format!(
                "{{{{ {reference} }}}} follows a backslash, which would reach into its value; \
                 leave it out"
            ));
        }
        if self.stack.contains(&Context::Single) {
            return Err(format!(
                "{{{{ {reference} }}}} stands in single quotes, where the shell expands nothing; \
                 use double quotes"
            ));
        }
        Ok(matches!(
            self.stack.last(),
            Some(Context::Double | Context::Brace | Context::Arithmetic)
        ))
    }

    fn read(&mut self, text: &str) {
        let characters: Vec<char> = text.chars().collect();
        let mut at = 0;
        while at < characters.len() {
            let character = characters[at];
            let next = characters.get(at + 1).copied();
            if character == '\n' {
                self.end_of_line();
                at += 1;
                continue;
            }
            self.line.push(character);
            if self.document.is_some() {
                at += 1;
                continue;
            }
            let context = self.stack.last().copied().unwrap_or(Context::Bare);
            if std::mem::take(&mut self.escaped) {
                self.last = character;
                at += 1;
                continue;
            }
            match (context, character) {
                (Context::Single, '\'') | (Context::Double, '"') | (Context::Brace, '}') => {
                    self.stack.pop();
                }
                (Context::Single | Context::Comment, _) => {}
                (_, '\\') => self.escaped = true,
                (Context::Arithmetic, ')') if next == Some(')') => {
                    self.stack.pop();
                    at += 1;
                }
                (Context::Arithmetic, '"' | '#' | '<') => {}
                (_, '$') if next == Some('(') && characters.get(at + 2) == Some(&'(') => {
                    self.stack.push(Context::Arithmetic);
                    at += 2;
                }
                (_, '$') if next == Some('(') => {
                    self.stack.push(Context::Bare);
                    self.line.push('(');
                    at += 1;
                }
                (_, '$') if next == Some('{') => {
                    self.stack.push(Context::Brace);
                    at += 1;
                }
                (Context::Double, _) => {}
                (Context::Brace, '\'') if !self.stack.contains(&Context::Double) => {
                    self.stack.push(Context::Single);
                }
                (_, '"') => self.stack.push(Context::Double),
                (Context::Bare, '\'') => self.stack.push(Context::Single),
                (Context::Bare, '(') => self.stack.push(Context::Bare),
                (Context::Bare, ')') if self.stack.len() > 1 => {
                    self.stack.pop();
                }
                (Context::Bare, '#') if self.last.is_whitespace() || ";&|(".contains(self.last) => {
                    self.stack.push(Context::Comment);
                }
                (Context::Bare, '<') if next == Some('<') && self.last != '<' => {
                    at += self.announce(&characters[at + 2..]) + 1;
                }
                _ => {}
            }
            self.last = character;
            at += 1;
        }
    }

    /// Reads the delimiter of a here-document; returns how many characters it took.
    fn announce(&mut self, rest: &[char]) -> usize {
        if rest.first() == Some(&'<') {
            return 1;
        }
        let skipped = rest.iter().take_while(|c| matches!(c, '-' | ' ' | '\t')).count();
        let word: String = rest[skipped..]
            .iter()
            .take_while(|c| !c.is_whitespace() && !";&|<>()".contains(**c))
            .collect();
        let quoted = word.contains(['\'', '"', '\\']);
        let delimiter: String = word.chars().filter(|c| !"'\"\\".contains(*c)).collect();
        let taken = skipped + word.chars().count();
        if !delimiter.is_empty() {
            self.announced.push((delimiter, quoted));
        }
        taken
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.escaped = false;
        self.last = '\n';
        if self.stack.last() == Some(&Context::Comment) {
            self.stack.pop();
        }
        match &self.document {
            Some((delimiter, _)) if line.trim_start_matches('\t') == delimiter => {
                self.document = (!self.announced.is_empty()).then(|| self.announced.remove(0));
            }
            Some(_) => {}
            None if !self.announced.is_empty() => self.document = Some(self.announced.remove(0)),
            None => {}
        }
    }
}

/// The words of a shell text that may name script files: those that end as scripts do.
pub fn script_words(text: &str) -> Vec<String> {
    const ENDINGS: [&str; 5] = [".py", ".R", ".jl", ".sh", ".ipynb"];
    let separator = |c: char| c.is_whitespace() || "'\"`;&|<>(){}$=,".contains(c);
    let mut words = Vec::new();
    for word in text.split(separator) {
        let word = word.trim_start_matches("./");
        let named =
            ENDINGS.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending));
        if named && !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> String {
        Script::compile(text).unwrap().text.replace("JUPYTERFLOW_VALUE_", "V")
    }

    #[test]
    fn references_become_variables_quoted_as_their_place_needs() {
        assert_eq!(compiled("a {{ params.x }} b"), "a \"${V1}\" b");
        assert_eq!(compiled("a \"x{{ params.x }}\" {{ params.x }}"), "a \"x${V1}\" \"${V1}\"");
        assert_eq!(compiled("a \"$(b {{ params.x }})\""), "a \"$(b \"${V1}\")\"");
        assert_eq!(compiled("echo it\\'s {{ params.x }}"), "echo it\\'s \"${V1}\"");
        assert_eq!(compiled("# it's\n{{ params.x }}"), "# it's\n\"${V1}\"");
        assert_eq!(compiled("echo a#'b' {{ params.x }}"), "echo a#'b' \"${V1}\"");
        assert_eq!(
            compiled("cat <<EOF\n{{ params.x }} it's\nEOF\necho {{ params.y }}"),
            "cat <<EOF\n${V1} it's\nEOF\necho \"${V2}\""
        );
        assert_eq!(compiled("echo ${x:-{{ params.x }}}"), "echo ${x:-${V1}}");
        assert_eq!(
            compiled("echo $((1 << {{ params.x }})) {{ params.x }}"),
            "echo $((1 << ${V1})) \"${V1}\""
        );
    }

    #[test]
    fn where_the_shell_expands_nothing_is_refused() {
        let error = |text: &str| Script::compile(text).unwrap_err();
        assert!(error("echo '{{ params.x }}'").contains("single quotes"));
        assert!(error("cat <<'EOF'\n{{ params.x }}\nEOF").contains("here-document"));
        assert!(error("cat <<-\\EOF\n{{ params.x }}\nEOF").contains("here-document"));
        assert!(error("printf ${x:-'{{ params.x }}'}").contains("single quotes"));
        assert!(error("echo \\{{ params.x }}").contains("backslash"));
        assert!(Script::compile("cat <<'A'\nx\nA\necho {{ params.x }}").is_ok());
    }

    #[test]
    fn script_words_are_found_in_any_quoting() {
        assert_eq!(
            script_words(
                "python ./src/a.py --to='b c/x.sh' && Rscript \"m.R\"; python src/a.py .py"
            ),
            ["src/a.py", "c/x.sh", "m.R"]
        );
    }
}
