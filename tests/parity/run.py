"""papermill as the oracle: the same notebook and arguments, run by both, compared output by output.

    run.py PROGRAM FOLDER [NAME...]

Prints one line of JSON for each difference and, at the end, how many cases were compared. Only what
the table in docs/papermill.md names may differ; each such case says so by a keyword.
"""

import copy
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

from cases import CASES, OTHER_KERNELS, notebook

PROGRAM, ROOT = Path(sys.argv[1]), Path(sys.argv[2])
TIMES = ("start_time", "end_time", "duration")
LAUNCHES = ("exact", "slim")
LIMIT = 120
#: What papermill may do by chance is done anew: seldom so often.
TRIES = 4
#: Words of a kernel that another took a port from, and of outputs that were late by four seconds.
CHANCE = ("Kernel died before replying to kernel_info", "Timeout waiting for IOPub output")


def theirs(folder, arguments):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *arguments]
    given = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(TRIES):
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
            try:
                code = process.wait(timeout=LIMIT)
                said.seek(0)
                if not any(words in line for line in said for words in CHANCE):
                    return code
                print(f"papermill's kernel was unlucky in {folder}", file=sys.stderr)
            except subprocess.TimeoutExpired:
                # ipykernel's shutdown can deadlock, and papermill then waits for ever.
                print(f"papermill hung in {folder}", file=sys.stderr)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(folder)
        folder.mkdir()
        for name, content in given.items():
            (folder / name).write_bytes(content)
    raise TimeoutError(f"papermill failed by chance {TRIES} times in {folder}")


def ours(folder, arguments, launch):
    command = [PROGRAM, "exec", "--no-progress-bar", "--launch", launch, *arguments]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, done.stderr


def tidy_text(text):
    text = re.sub(r"0x[0-9a-f]{6,}", "0x", text)
    text = re.sub(r"ipykernel_\d+/\d+\.py", "ipykernel_/x.py", text)
    text = re.sub(r"(xpython_|jf-kernel-|kernel-)\w+", r"\1", text)
    text = re.sub(r"ark_\w+", "", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "NOW", text)
    text = re.sub(r"/(theirs|exact|slim)\b", "/HERE", text)
    return re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", "MODEL", text)


def tidy(value):
    if isinstance(value, str):
        return tidy_text(value)
    if isinstance(value, list):
        return [tidy(item) for item in value]
    if isinstance(value, dict):
        return {tidy_text(key): tidy(item) for key, item in value.items()}
    # A float that is no number equals nothing.
    return repr(value) if isinstance(value, float) else value


def outputs(cell):
    joined = []
    for is_stream, stretch in itertools.groupby(map(tidy, cell.get("outputs", [])), lambda one: one["output_type"] == "stream"):
        if not is_stream:
            joined.extend(stretch)
            continue
        # Which of two streams comes first is chance where they are beside each other: a kernel sends each by a timer.
        streams = {}
        for output in stretch:
            known = streams.setdefault(output["name"], {**output, "text": ""})
            known["text"] += output["text"]
        joined.extend(streams[name] for name in sorted(streams))
    return joined


def widgets(metadata):
    """Models without their ids, in an order of their own."""
    block = tidy(copy.deepcopy(metadata.get("widgets")))
    state = (metadata.get("widgets") or {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    if state:
        models = sorted((tidy(model) for model in state.values()), key=lambda model: json.dumps(model, sort_keys=True))
        block["application/vnd.jupyter.widget-state+json"]["state"] = models
    return block


def normal(path, options):
    states, jupyter = options.get("states", False), options.get("jupyter", False)
    book = nbformat.read(path, as_version=4)
    if not options.get("invalid"):
        nbformat.validate(book)
    metadata = copy.deepcopy(book.metadata)
    papermill = metadata.pop("papermill", {})
    for key in (*TIMES, "version"):
        papermill.pop(key, None)
    if states:
        papermill.pop("exception", None)
    cells = []
    for cell in book.cells:
        cell_metadata = copy.deepcopy(cell.metadata)
        marks = cell_metadata.pop("papermill", None)
        marks = {key: value for key, value in (marks or {}).items() if key not in TIMES}
        stages = sorted(cell_metadata.pop("execution", {}))
        if states:
            marks, stages = None, None
        if jupyter:
            cell_metadata.pop("jupyter", None)
        cells.append({
            "type": cell.cell_type, "source": cell.source, "metadata": tidy(cell_metadata), "marks": marks,
            "stages": stages, "count": None if states else cell.get("execution_count"), "outputs": outputs(cell),
            "attachments": cell.get("attachments"),
        })
    return {"cells": cells, "papermill": tidy(papermill), "widgets": widgets(metadata),
            "metadata": tidy({key: value for key, value in metadata.items() if key != "widgets"}),
            "version": (book.nbformat, book.nbformat_minor)}


def differences(left, right, place=""):
    if type(left) is type(right) is dict:
        for key in sorted({*left, *right}):
            yield from differences(left.get(key, "(none)"), right.get(key, "(none)"), f"{place}/{key}")
    elif type(left) is type(right) is list and len(left) == len(right):
        for index, pair in enumerate(zip(left, right)):
            yield from differences(*pair, f"{place}/{index}")
    elif left != right:
        yield f"{place}: papermill {str(left)[:300]!r}, ours {str(right)[:300]!r}"


def shipped():
    """The notebooks that papermill ships, and those of nbclient's source distribution."""
    import papermill

    folders = [Path(papermill.__file__).parent / "tests/notebooks", *Path(sys.prefix, "share").glob("nbclient-*/tests/files")]
    for folder in folders:
        for path in sorted(folder.rglob("*.ipynb")):
            yield f"{folder.parent.parent.name}:{path.relative_to(folder)}", path


def one(case):
    name, source, arguments, options = case
    arguments = [*map(str, arguments)]
    output = options.get("output", "out.ipynb")
    folders = {who: ROOT / re.sub(r"\W", "_", name) / who for who in ("theirs", *LAUNCHES)}
    for folder in folders.values():
        folder.mkdir(parents=True)
        if isinstance(source, Path):
            text = source.read_text()
            # A pause is no part of what is compared, but where it is to be interrupted.
            text = text if "--execution-timeout" in arguments else re.sub(r"sleep\(\d+\)", "sleep(0.1)", text)
            (folder / "in.ipynb").write_text(text)
            for beside in source.parent.glob("*.py"):
                (folder / beside.name).write_bytes(beside.read_bytes())
        else:
            book = copy.deepcopy(source) if not isinstance(source, list) else notebook(source)
            options.get("edit", lambda _: None)(book)
            (folder / "in.ipynb").write_text(json.dumps(book))
    code = theirs(folders["theirs"], ["in.ipynb", output, *arguments])
    expected = [normal(path, options) for path in sorted(folders["theirs"].glob("out*.ipynb"))]
    found, talk = [], ""
    launches = [launch for launch in LAUNCHES if launch == "exact" or name not in OTHER_KERNELS]
    for launch in launches:
        our_code, talk = ours(folders[launch], ["in.ipynb", output, *arguments], launch)
        got = [normal(path, options) for path in sorted(folders[launch].glob("out*.ipynb"))]
        theirs_cells = expected
        if options.get("allowed"):
            # An allowed exception is a success: no banner, no failure.
            theirs_cells = copy.deepcopy(expected)
            cells = theirs_cells[0]["cells"]
            theirs_cells[0]["cells"] = [cell for cell in cells if "papermill-error-cell-tag" not in cell["metadata"]["tags"]]
            wanted = 0
        else:
            wanted = 1 if code not in (0, 2) else code
        # A kernel that is not there is no usage error with us, one whose language nobody knows is.
        if wanted != our_code and not (wanted == 1 and our_code == 2 and not expected):
            found.append(f"{launch}: papermill ends with {code}, ours with {our_code}: {talk[-500:]}")
        if len(theirs_cells) != len(got) and not (not expected and wanted):
            found.append(f"{launch}: papermill leaves {len(expected)} notebooks, ours {len(got)}: {talk[-500:]}")
        for left, right in zip(theirs_cells, got):
            found.extend(f"{launch}{text}" for text in differences(left, right))
    return name, found


def main():
    wanted = sys.argv[3:]
    cases = [(name, source, arguments, rest[0] if rest else {}) for name, (source, arguments, *rest) in CASES.items()]
    for name, path in shipped():
        limit = ["--execution-timeout", "4"] if path.name in ENDLESS else []
        cases.append((name, path, limit, ALLOWED.get(path.name, {})))
    cases = [case for case in cases if not wanted or case[0] in wanted]
    if not Path("/usr/share/jupyter/kernels/ir").exists() and not os.environ.get("CI"):
        print("SKIPPED: the cases of R need its kernel", file=sys.stderr)
        cases = [case for case in cases if case[0] not in ("r", "r-error")]
    count = failed = 0
    with ThreadPoolExecutor(3) as pool:
        for name, found in pool.map(one, cases):
            count += 1
            failed += bool(found)
            for text in found:
                print(json.dumps({"case": name, "difference": text}), flush=True)
    print(json.dumps({"compared": count, "different": failed}))


#: Of the shipped notebooks: which of the allowed differences each shows, and those that never end.
ALLOWED = {"Skip Exceptions with Cell Tags.ipynb": {"allowed": True}, "Autokill.ipynb": {"states": True},
           "Interrupt.ipynb": {"states": True}, "keyboard_interrupt.ipynb": {"states": True},
           "notimplemented_translator.ipynb": {"states": True}}
ENDLESS = ("Interrupt.ipynb", "keyboard_interrupt.ipynb")


if __name__ == "__main__":
    main()
