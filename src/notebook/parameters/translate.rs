//! Parameters as code of the kernel's language, letter by letter as papermill 2.7 writes them
//! (`papermill/translators.py`), without the optional reformatting by black.
//!
//! Owns one table of languages. It must not decide where the code goes.

use super::Parameters;
use super::value::{Key, Parameter, python_float_text};

/// A language that parameters can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the names of the languages")]
pub enum Language {
    Python,
    R,
    Scala,
    Julia,
    Matlab,
    CSharp,
    FSharp,
    PowerShell,
    Bash,
}

/// A value or a language that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// Neither the kernel nor the language is known.
    #[error(
        "no parameter translator for kernel {kernel:?} or language {language:?}; \
         known: python, R, scala, julia, matlab, bash, .net-csharp, .net-fsharp, .net-powershell"
    )]
    UnknownLanguage {
        /// The kernelspec's name.
        kernel: String,
        /// The notebook's language.
        language: String,
    },
    /// The language has no way to write this kind of value.
    #[error("parameter {name:?}: {language:?} cannot hold {what}")]
    Unsupported {
        /// The parameter.
        name: String,
        /// The language.
        language: Language,
        /// The kind of value.
        what: &'static str,
    },
}

impl Language {
    /// The language by kernel name first, then by language name, both case-sensitive.
    ///
    /// # Errors
    /// Neither is known.
    pub fn find(kernel: &str, language: &str) -> Result<Self, TranslateError> {
        let known = |name: &str| {
            Some(match name {
                "python" | "pysparkkernel" => Self::Python,
                "R" | "sparkrkernel" => Self::R,
                "scala" | "sparkkernel" => Self::Scala,
                "julia" => Self::Julia,
                "matlab" => Self::Matlab,
                "bash" => Self::Bash,
                ".net-csharp" => Self::CSharp,
                ".net-fsharp" => Self::FSharp,
                ".net-powershell" => Self::PowerShell,
                _ => return None,
            })
        };
        known(kernel).or_else(|| known(language)).ok_or_else(|| TranslateError::UnknownLanguage {
            kernel: kernel.to_owned(),
            language: language.to_owned(),
        })
    }

    /// The source of the injected cell: a comment and one assignment a line.
    ///
    /// # Errors
    /// A value that the language cannot hold.
    pub fn source(self, parameters: &Parameters, comment: &str) -> Result<String, TranslateError> {
        let mut out = match self {
            Self::Python | Self::R | Self::Julia | Self::Bash | Self::PowerShell => {
                format!("# {comment}\n")
            }
            Self::Scala | Self::CSharp => format!("// {comment}\n"),
            Self::Matlab => format!("% {comment}\n"),
            Self::FSharp => format!("(* {comment} *)\n"),
        };
        for (name, value) in parameters {
            let code = self.value(value).map_err(|what| TranslateError::Unsupported {
                name: name.clone(),
                language: self,
                what,
            })?;
            let line = match self {
                Self::Python | Self::Julia => format!("{name} = {code}"),
                Self::R => format!("{} = {code}", name.trim_start_matches('_')),
                Self::Scala => format!("val {name} = {code}"),
                Self::Matlab => format!("{name} = {code};"),
                Self::CSharp => format!("var {name} = {code};"),
                Self::FSharp => format!("let {name} = {code}"),
                Self::PowerShell => format!("${name} = {code}"),
                Self::Bash => format!("{name}={code}"),
            };
            out.push_str(&line);
            out.push('\n');
        }
        Ok(out)
    }

    /// One word quoted for the shell, as Python's `shlex.quote` does.
    pub fn quote(self, word: &str) -> String {
        if self == Self::Bash { shell_quote(word) } else { self.text(word) }
    }

    fn value(self, value: &Parameter) -> Result<String, &'static str> {
        Ok(match value {
            Parameter::Null => match self {
                Self::Python | Self::Scala | Self::FSharp => "None".into(),
                Self::R => "NULL".into(),
                Self::Julia => "nothing".into(),
                Self::Matlab => "NaN".into(),
                Self::PowerShell => "$Null".into(),
                Self::Bash => String::new(),
                Self::CSharp => return Err("no value"),
            },
            Parameter::Boolean(value) => match (self, value) {
                (Self::Python, true) => "True".into(),
                (Self::Python, false) => "False".into(),
                (Self::R, true) => "TRUE".into(),
                (Self::R, false) => "FALSE".into(),
                (Self::PowerShell, true) => "$True".into(),
                (Self::PowerShell, false) => "$False".into(),
                (_, value) => value.to_string(),
            },
            Parameter::Integer(digits) => {
                let long = digits.parse::<i32>().is_err();
                match self {
                    Self::Scala | Self::CSharp | Self::FSharp if long => format!("{digits}L"),
                    _ => digits.clone(),
                }
            }
            Parameter::Float(value) => self.float(*value),
            Parameter::Text(text) => self.text(text),
            Parameter::List(items) => {
                let items = items.iter().map(|item| self.value(item));
                let items = items.collect::<Result<Vec<_>, _>>()?;
                match self {
                    Self::Python | Self::Julia => format!("[{}]", items.join(", ")),
                    Self::R => format!("list({})", items.join(", ")),
                    Self::Scala => format!("Seq({})", items.join(", ")),
                    Self::Matlab => format!("{{{}}}", items.join(", ")),
                    Self::CSharp => format!("new [] {{ {} }}", items.join(", ")),
                    Self::FSharp => format!("[ {} ]", items.join("; ")),
                    Self::PowerShell => format!("@({})", items.join(", ")),
                    Self::Bash => format!("({})", items.join(" ")),
                }
            }
            Parameter::Map(entries) => self.map(entries)?,
        })
    }

    fn float(self, value: f64) -> String {
        if value.is_finite() {
            return python_float_text(value);
        }
        let word = match value {
            value if value.is_nan() => "nan",
            f64::INFINITY => "inf",
            _ => "-inf",
        };
        match self {
            Self::Python => format!("float('{word}')"),
            Self::PowerShell => match word {
                "nan" => "[double]::NaN".into(),
                "inf" => "[double]::PositiveInfinity".into(),
                _ => "[double]::NegativeInfinity".into(),
            },
            _ => word.to_owned(),
        }
    }

    fn text(self, text: &str) -> String {
        match self {
            Self::Bash => shell_quote(text),
            Self::Matlab => format!("\"{}\"", unicode_escape(text).replace('"', "\"\"")),
            Self::PowerShell => format!("\"{}\"", unicode_escape(text).replace('"', "`\"")),
            _ => format!("\"{}\"", unicode_escape(text).replace('"', "\\\"")),
        }
    }

    fn map(self, entries: &[(Key, Parameter)]) -> Result<String, &'static str> {
        if self == Self::Bash {
            return Err("a map");
        }
        let mut parts = Vec::new();
        for (key, value) in entries {
            parts.push((self.text(key.code()), self.value(value)?));
        }
        let join = |between: &str, separator: &str| {
            let pairs: Vec<_> = parts.iter().map(|(k, v)| format!("{k}{between}{v}")).collect();
            pairs.join(separator)
        };
        Ok(match self {
            Self::Python => format!("{{{}}}", join(": ", ", ")),
            Self::R => format!("list({})", join(" = ", ", ")),
            Self::Scala => format!("Map({})", join(" -> ", ", ")),
            Self::Julia => format!("Dict({})", join(" => ", ", ")),
            Self::PowerShell => format!("@{{{}}}", join(" = ", "\n ")),
            Self::Matlab => {
                let keys: Vec<_> = entries
                    .iter()
                    .map(|(key, _)| format!("'{}'", unicode_escape(key.code()).replace('\'', "''")))
                    .collect();
                let values: Vec<_> = parts.iter().map(|(_, value)| value.as_str()).collect();
                format!("containers.Map({{{}}}, {{{}}})", keys.join(", "), values.join(", "))
            }
            Self::CSharp => {
                let pairs: Vec<_> = parts.iter().map(|(k, v)| format!("{{ {k} , {v} }}")).collect();
                format!("new Dictionary<string,Object>{{ {} }}", pairs.join(", "))
            }
            Self::FSharp => {
                let pairs: Vec<_> =
                    parts.iter().map(|(k, v)| format!("({k}, {v} :> IComparable)")).collect();
                format!("[ {} ] |> Map.ofList", pairs.join("; "))
            }
            Self::Bash => unreachable!("refused above"),
        })
    }
}

/// Python's `unicode_escape` codec.
fn unicode_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            _ => out.push_str(&match u32::from(character) {
                code @ 0..=0xFF => format!("\\x{code:02x}"),
                code @ 0x100..=0xFFFF => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out
}

/// Python's `shlex.quote`.
fn shell_quote(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"@%+=:,./-_".contains(&byte);
    if !text.is_empty() && text.bytes().all(safe) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code(language: Language, value: serde_json::Value) -> String {
        language.value(&Parameter::from(&value)).unwrap()
    }

    #[test]
    fn each_language_writes_its_own() {
        use Language::*;
        let map = json!({"k": 1, "l": [true, null]});
        for (language, expected) in [
            (Python, r#"{"k": 1, "l": [True, None]}"#),
            (R, r#"list("k" = 1, "l" = list(TRUE, NULL))"#),
            (Scala, r#"Map("k" -> 1, "l" -> Seq(true, None))"#),
            (Julia, r#"Dict("k" => 1, "l" => [true, nothing])"#),
            (Matlab, r"containers.Map({'k', 'l'}, {1, {true, NaN}})"),
            (
                FSharp,
                r#"[ ("k", 1 :> IComparable); ("l", [ true; None ] :> IComparable) ] |> Map.ofList"#,
            ),
            (PowerShell, "@{\"k\" = 1\n \"l\" = @($True, $Null)}"),
        ] {
            assert_eq!(code(language, map.clone()), expected);
        }
        assert_eq!(code(CSharp, json!([1, 3_000_000_000_i64])), "new [] { 1, 3000000000L }");
        assert_eq!(code(Bash, json!("it's")), r#"'it'"'"'s'"#);
        assert_eq!(code(Python, json!("é\"😍\n\\")), r#""\xe9\"\U0001f60d\n\\""#);
        assert_eq!(code(Matlab, json!("a\"b")), r#""a""b""#);
        assert!(Bash.value(&Parameter::from(&map)).is_err());
    }

    #[test]
    fn a_source_has_a_comment_and_one_line_each() {
        let parameters: Parameters = [("_a".to_owned(), Parameter::Float(f64::NAN))].into();
        let source = |language: Language| language.source(&parameters, "Parameters").unwrap();
        assert_eq!(source(Language::Python), "# Parameters\n_a = float('nan')\n");
        assert_eq!(source(Language::R), "# Parameters\na = nan\n");
        assert_eq!(source(Language::FSharp), "(* Parameters *)\nlet _a = nan\n");
    }

    #[test]
    fn kernels_come_before_languages_and_case_counts() {
        assert_eq!(Language::find("ir", "R"), Ok(Language::R));
        assert_eq!(Language::find("sparkkernel", "python"), Ok(Language::Scala));
        assert!(Language::find("ir", "r").is_err());
        assert!(Language::find("x", "C#").unwrap_err().to_string().contains("\"C#\""));
    }
}
