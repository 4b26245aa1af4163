//! papermill 2.7.0 is the oracle: the same command line gives the same notebook, exit code and words.

use serde_json::Value;

use crate::support::{Ended, Place, venv};

/// All shipped notebooks of papermill and nbclient and about a hundred cases of ours, on seven
/// kernels, under both launch modes: see `tests/parity`.
#[test]
fn executed_notebooks_are_those_of_papermill() {
    let place = Place::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/run.py");
    // Whoever is first makes the cache of fonts, and says so in the notebook where that takes its time.
    place.python("import matplotlib.pyplot", &[]);
    let mut command = place.command(venv().join("bin/python"));
    command.args(["-W", "ignore", script, env!("CARGO_BIN_EXE_jupyterflow")]);
    let ended = Ended::from(command.arg(place.path("cases")).output().unwrap()).expect(0);
    let last: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["different"], 0, "{}", ended.stdout);
    assert!(last["compared"].as_u64().unwrap() >= 130, "{last}");
}

/// Every option of `papermill --help` is one of ours.
#[test]
fn every_option_of_papermill_is_there() {
    let place = Place::new();
    let help =
        Ended::from(place.command(venv().join("bin/papermill")).arg("--help").output().unwrap());
    let ours = place.run(&["exec", "--help"]).expect(0).stdout;
    let mut count = 0;
    for word in help.expect(0).stdout.split_whitespace() {
        let option = word.trim_matches(|c: char| ",/.`".contains(c));
        if option.len() > 1 && option.starts_with('-') && option != "-h" {
            count += 1;
            let hidden = ["--start_timeout"].contains(&option);
            assert!(hidden || ours.contains(option), "{option} is missing from:\n{ours}");
        }
    }
    assert!(count >= 35, "{count}");
    for (args, words) in [
        (&["--engine", "mine"][..], "Python plug-ins"),
        (&["--engine", "nbclient", "--start_timeout", "9"], "failed to read"),
    ] {
        let mut all = vec!["exec", "missing.ipynb", "out.ipynb"];
        all.extend(args);
        place.run(&all).expect(2).says(words);
    }
}

/// Ten thousand scalars as `PyYAML` reads them.
#[test]
fn yaml_is_read_as_pyyaml_reads_it() {
    let place = Place::new();
    place.notebook("in.ipynb", &["#tag parameters\nv = 0"]);
    let script = r#"
import json, random, sys, yaml
from papermill.iorw import NoDatesSafeLoader
random.seed(7)
words = ['yes', 'No', 'ON', 'oFF', 'true', 'null', '~', '.inf', '-.INF', '.nan', '0x1f', '0b11', '010', '1_0', '12:30:45',
         '1e3', '1.5e+3', '2020-01-01', '0o7', '=', '<<', '-', '1.', '.5', '+.5', '0_', '9:61', '1:2.5', 'é', '0777777777777777777777777']
alphabet = '0123456789_.:+-eExXbBonyYtTrRuUsSfFaAlLiIN~ '
def one():
    if random.random() < 0.3: return random.choice(words)
    return ''.join(random.choice(alphabet) for _ in range(random.randint(1, 7)))
lines = []
while len(lines) < 10_000:
    line = f'- {one()}'
    try:
        value = yaml.load(line, Loader=NoDatesSafeLoader)
        json.dumps(value)
        if isinstance(value, list) and isinstance(value[0], (str, int, float, type(None))): lines.append(line)
    except Exception: pass
text = 'v:\n' + '\n'.join(lines) + '\nbase: &b {x: 1, l: [a, 010]}\nm: {<<: *b, x: 0x10, ? y : 1.0e+2}\nq: ["\x41\n", \'it\'\'s\', "a\\x41\\u00e9"]\nt: |\n  one\n  two\nf: >-\n  three\n  four\n'
open('all.yaml', 'w').write(text)
json.dump(yaml.load(text, Loader=NoDatesSafeLoader), open('theirs.json', 'w'))
"#;
    place.python(script, &[]);
    place.run(&["exec", "in.ipynb", "out.ipynb", "--prepare-only", "-f", "all.yaml"]).expect(0);
    let compare = r"
import json
theirs, ours = json.load(open('theirs.json')), json.load(open('out.ipynb'))['metadata']['papermill']['parameters']
lines = open('all.yaml').read().splitlines()[1:]
wrong = [(line, a, b) for line, a, b in zip(lines, theirs['v'], ours['v']) if repr(a) != repr(b)]
print(wrong[:20], len(theirs['v']) == len(ours['v']) and all(repr(theirs[k]) == repr(ours[k]) for k in 'mqtf'))";
    assert_eq!(place.python(compare, &[]).trim(), "[] True");
}

/// Words of `-p`, and the code of every language.
#[test]
fn words_and_code_are_those_of_papermill() {
    let place = Place::new();
    let script = r#"
import json, random, sys, yaml
from papermill.cli import _resolve_type
from papermill.translators import papermill_translators, translate_parameters
random.seed(11)
alphabet = '0123456789_.+-eEinfaINF \u0663\uff11xtrue'
words = [''.join(random.choice(alphabet) for _ in range(random.randint(1, 6))) for _ in range(400)]
words += ['True', 'False', 'None', 'nan', '-inf', 'Infinity', '1e400', '007', '1_000', ' 5 ', '', '9' * 5000, '0x10', '1__0', '\u00a07']
values = {f'p{i}': _resolve_type(word) for i, word in enumerate(words)}
deep = {'t': 'it\'s "x" \\ $y é😍\n\t\x00\x7f', 'i': 3000000000, 'big': 10**30, 'f': 1e-7, 'g': 1e16, 'n': None, 'b': True, 'e': '',
        'inf': float('inf'), 'nan': float('nan'), 'neg': -2147483649, '_under': 1, 'l': [1, 'a', None, [True], []], 'u': '\u2028\ud7ff\uffff'}
maps = {**deep, 'm': {'k': 1.5, "it's": [1], 'é"': {'x': None}}}
keys = list(papermill_translators._translators)
def code(key, values):
    try: return translate_parameters(key, 'none', values)
    except NotImplementedError: return None
for name, value in (('deep', deep), ('maps', maps)): yaml.safe_dump(value, open(name + '.yaml', 'w'), sort_keys=False)
json.dump({'words': words, 'python': translate_parameters('python', 'python', values), 'code': {key: [code(key, deep), code(key, maps)] for key in keys}}, open('theirs.json', 'w'))
"#;
    place.python(script, &[]);
    let theirs = place.read_json("theirs.json");
    let injected = |args: &[&str]| {
        place.notebook_of("none", "none", "in.ipynb", &["#tag parameters\n1", "2"]);
        let mut all =
            vec!["exec", "in.ipynb", "out.ipynb", "--prepare-only", "--log-level", "ERROR"];
        all.extend(args);
        let ended = place.run(&all);
        let source = "import json; print(json.dumps(''.join(json.load(open('out.ipynb'))['cells'][1]['source'])))";
        (ended.code == 0)
            .then(|| serde_json::from_str::<String>(&place.python(source, &[])).unwrap())
    };
    let mut args: Vec<String> = vec!["-k".into(), "python".into()];
    for (index, word) in theirs["words"].as_array().unwrap().iter().enumerate() {
        args.extend(["-p".into(), format!("p{index}"), word.as_str().unwrap().into()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (ours, expected) = (injected(&args).unwrap(), theirs["python"].as_str().unwrap());
    ours.lines().zip(expected.lines()).for_each(|(ours, theirs)| assert_eq!(ours, theirs));
    assert_eq!(ours.lines().count(), expected.lines().count());
    let languages = theirs["code"].as_object().unwrap();
    assert_eq!(languages.len(), 12);
    for (language, expected) in languages {
        for (index, file) in ["deep.yaml", "maps.yaml"].into_iter().enumerate() {
            let ours = injected(&["-k", language, "-f", file]);
            assert_eq!(ours.as_deref(), expected[index].as_str(), "{language}, {file}");
        }
    }
}

#[test]
fn declared_parameters_are_shown_as_papermill_shows_them() {
    let place = Place::new();
    let cell = "#tag parameters\na: float = 2.258 # type: int Nice variable a\nb = 'x'\nlong_name_of_a_parameter: List[str] = ['a', 'b'] # help\n\
                c = [\n 1, # one\n 2\n] # all\nd = e = 3\n 4\nurl = 'http://x?y=1'\nf: \"NoneType\" = None\n# g = 1\nif True:\n    h = 5;\ni = '#notcomment'";
    place.notebook("in.ipynb", &[cell, "1"]).notebook("none.ipynb", &["1"]);
    place.notebook("empty.ipynb", &["#tag parameters\n# nothing"]);
    for (name, code) in [("in.ipynb", 0), ("none.ipynb", 1), ("empty.ipynb", 0)] {
        let mut papermill = place.command(venv().join("bin/papermill"));
        let theirs = Ended::from(papermill.args(["--help-notebook", name]).output().unwrap());
        let ours = place.run(&["exec", "--help-notebook", name]).expect(code);
        let body = |text: &str| text.split_once('\n').unwrap().1.to_owned();
        assert_eq!(body(&ours.stdout), body(&theirs.expect(code).stdout), "{name}");
    }
}

#[test]
fn pipes_imply_names_as_with_papermill() {
    let place = Place::new();
    place.notebook("in.ipynb", &["print('hello')"]);
    let program = env!("CARGO_BIN_EXE_jupyterflow");
    let shell = |line: &str| Ended::from(place.command("sh").args(["-c", line]).output().unwrap());
    for line in [
        format!("cat in.ipynb | {program} exec | cat"),
        format!("cat in.ipynb | {program} exec - -"),
        format!("{program} exec in.ipynb"),
    ] {
        assert_eq!(shell(&line).expect(0).json()["cells"][0]["execution_count"], 1, "{line}");
    }
    shell(&format!("cat in.ipynb | {program} exec out.ipynb")).expect(0);
    assert_eq!(place.read_json("out.ipynb")["cells"][0]["execution_count"], 1);
}

#[test]
fn what_cells_print_goes_where_it_was_asked_to() {
    let place = Place::new();
    let cell = "import sys\nprint('to out'); print('to err', file=sys.stderr)\n'shown'";
    place.notebook("in.ipynb", &[cell, "# papermill_description=Second\n2"]);
    let files = ["--stdout-file", "out.txt", "--stderr-file", "err.txt", "--log-output"];
    let mut args = vec!["exec", "in.ipynb", "out.ipynb"];
    args.extend(files);
    let ended = place.run(&args).expect(0);
    assert_eq!(
        (place.read("out.txt"), place.read("err.txt")),
        ("to out\n".into(), "to err\n".into())
    );
    for words in ["Executing Cell 1---", "to out", "to err", "'shown'", "Ending Cell 2---"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}
