//! What is fuzzed: of each target what it does with an input.

use bytes::Bytes;
use zeromq::ZmqMessage;

use crate::bounded;
use crate::executor::cell::{Book, Execution};
use crate::executor::wire::Codec;
use crate::notebook::Notebook;
use crate::notebook::parameters::{
    Builtin, Language, Parameter, Parameters, declared, fill, from_yaml, inject,
};

/// Any text as a notebook: read, looked at, made ready to run, written, and read again.
pub fn notebook(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    bounded(data, || {
        let Ok(mut notebook) = Notebook::read(text) else { return };
        let written = notebook.write();
        let again = Notebook::read(&written).expect("what we write, we read");
        assert_eq!(again.write(), written, "writing settles at once");
        let _ = (notebook.kernel_name(), notebook.language(), declared(&notebook));
        let mut id = 0;
        notebook.upgrade_to_4_5(|| {
            id += 1;
            format!("i{id}")
        });
        let parameters: Parameters = [("a".to_owned(), Parameter::Null)].into();
        let _ = inject(&mut notebook, &parameters, Some("python3"), Some("python"), "new");
        notebook.remove_banners();
        Notebook::read(&notebook.write()).expect("what we make, we read");
    });
}

/// Any bytes as messages of a kernel: decoded, and taken by a cell at work. Lines are frames; an
/// empty line ends a message. What is well formed is signed, so that the fuzzer gets behind the
/// signature.
pub fn message(data: &[u8]) {
    bounded(data, || {
        let codec = Codec::default();
        let mut book = Book::new(2, 1 << 16);
        let mut execution = Execution::new("r".into(), 1);
        for message in data.split(|byte| *byte == 0) {
            let mut frames: Vec<Bytes> =
                message.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect();
            if frames.len() >= 4 {
                let signature = codec.signature(frames[..4].iter().map(AsRef::as_ref));
                frames.insert(0, Bytes::from(signature));
                frames.insert(0, Bytes::from_static(b"<IDS|MSG>"));
            }
            let Ok(message) = ZmqMessage::try_from(frames) else { continue };
            let Ok(message) = codec.decode(&message) else { continue };
            execution.take_reply(&message);
            execution.take_broadcast(message, &mut book);
        }
        for outputs in &book.outputs {
            let _ = (outputs.to_raw(), outputs.error());
        }
        let _ = book.widgets.metadata();
    });
}

const LANGUAGES: [&str; 9] = [
    "python",
    "R",
    "scala",
    "julia",
    "matlab",
    ".net-csharp",
    ".net-fsharp",
    ".net-powershell",
    "bash",
];

/// Any text as parameters: YAML, words of the command line and paths with fields, into the code of
/// every language.
pub fn parameters(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    bounded(data, || {
        let _ = Parameter::from_word(text);
        let Ok(parameters) = from_yaml(text) else { return };
        for value in parameters.values() {
            let _ = value.to_json_text();
        }
        for name in LANGUAGES {
            let language = Language::find("", name).expect("all are known");
            let _ = language.source(&parameters, "Parameters");
        }
        let now = "2026-11-25T04:05:06+01:00[Europe/Berlin]".parse().expect("it is a time");
        let builtin = Builtin { run_uuid: String::new(), now };
        let _ = fill(text, &parameters, &builtin);
    });
}
