"""The scripts together, as the README shows them: the mission's commands, --help, streams, and equal bytes."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PRODUCT, ROOT, call, shell, write_titles

import data
from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.heads import splits

SCRIPTS = ("extract", "train", "evaluate", "predict", "bench/__main__")


@pytest.fixture
def stand_in(tmp_path, bert12, monkeypatch):
    """A folder with a random 12-layer encoder named bert-base-uncased, and titles in place of the report's."""
    shutil.copytree(bert12, tmp_path / "bert-base-uncased")
    (tmp_path / "titles").mkdir()
    write_titles(tmp_path / "titles" / "youtube.csv", rows=80, classes=("travel", "art_music", "food", "history"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "HERE", tmp_path)
    monkeypatch.setattr(data, "YOUTUBE_SHA256", disk.sha256(tmp_path / "titles" / "youtube.csv"))


def cells(text, name=""):
    """The header and the rows, as lists of cells, of the first markdown table whose header holds a name."""
    for found in re.finditer(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        lines = found[0].splitlines()
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
        if name in lines[0]:
            return header, rows
    raise AssertionError(f"no table has {name!r} in its header: {text}")


def test_the_three_commands_letter_by_letter(stand_in):
    extracted = call("extract", "--layers", "all")
    assert extracted.code == 0 and "12 layer files" in extracted.err, extracted.err
    one = call("train", "--layers", "12", "11")
    assert one.code == 0 and re.search(r"layers 12, 11 \(cls\): macro-F1 0\.\d{4}", one.err), one.err
    assert "weights: layer 12 (cls)" in one.err and "1 of 1 run trained" in one.err
    six = call("train")
    assert six.code == 0 and "5 of 6 runs trained" in six.err and "trained already" in six.err, six.err
    table = call("evaluate")
    assert table.code == 0, table.err
    header, rows = cells(table.out)
    assert header[0] == "Layers" and "F1-macro, last epoch" in header and header[-1] == "Report"
    assert [row[0] for row in rows] == ["12", "11", "10", "9", "12, 11", "12, 11, 10, 9"]
    assert [row[-1] for row in rows] == ["0.9565", "0.9032", "0.9034", "0.9023", "0.9546", "0.9114"]
    assert "**Recommended: " in table.out


def test_the_linear_probe_on_every_layer_and_with_few_labels(stand_in):
    assert call("extract", "--layers", "all").code == 0
    each = call("train", "--each", "--head", "linear")
    assert each.code == 0 and "12 of 12 runs trained" in each.err, each.err
    some = call("train", "--each", "--layers", "12", "9", "6", "--head", "linear")
    assert some.code == 0 and some.err.count("trained already") == 3, some.err
    few = call("train", "--head", "linear", "--layers", "-1", "--labels", "4", "8")
    assert few.code == 0 and "2 of 2 runs trained" in few.err, few.err
    table = call("evaluate")
    header, rows = cells(table.out)
    assert [row[:2] for row in rows] == [[str(layer), "probe, [CLS]"] for layer in range(12, 0, -1)]
    assert "Report" not in header
    labels, _ = cells(table.out, "Labels a category")
    assert labels == ["Labels a category", "4", "8", "all"]


def test_two_encoders_in_one_survey_and_one_table(stand_in, tmp_path, bert):
    assert call("extract", "--layers", "all", "--pooling", "cls", "mean").code == 0
    assert call("extract", "--model", bert, "--pooling", "mean", "--out", "features-2").code == 0
    survey = call("train", "--survey", "--features", "features", "features-2", "--repeats", "1")
    # 12 layers alone with each pooling; the last four and all with mean pooling; all with both; 2 layers, and both
    assert survey.code == 0 and "30 of 30 runs trained" in survey.err, survey.err
    again = call("train", "--survey", "--features", "features", "features-2", "--repeats", "1")
    assert again.err.count("trained already (macro-F1 0.") == 30 and "0 of 30 runs" in again.err, again.err
    table = call("evaluate")
    assert table.code == 0, table.err
    header, rows = cells(table.out)
    assert "Encoder" in header and len(rows) == 30
    assert table.out.count("**Recommended: ") == 1


def test_twelve_of_a_six_layer_encoder_says_what_to_type():
    with pytest.raises(cli.Problem, match=r"minilm has 6 layers, 1 to 6; counted from the top, that is --layers -1 -2"):
        store.resolve_layers(["12", "11"], 6, "minilm", ["cls"])


def comparable(path):
    """What a file holds, without what says when and how it was made."""
    if path.name not in ("manifest.json", "config.json"):
        return path.read_bytes()
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["made"], content["checksum"]
    return content


def test_the_same_commands_give_the_same_bytes(tmp_path, bert, titles, monkeypatch):
    import pandas  # noqa: F401  (the versions of what this process has loaded are recorded)
    import sklearn  # noqa: F401

    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert call("extract", "--data", titles, "--model", bert).code == 0
        assert call("train", "--epochs", 2, "--repeats", 2).code == 0
        assert call("train", "--survey", "--labels", 8, "all", "--repeats", 2).code == 0
        assert call("evaluate", "--baselines", "--plot", "p.svg", "--suspects", "s.csv").code == 0
        files = [path for path in Path().rglob("*") if path.is_file()]
        contents.append({path: comparable(path) for path in files})
    first, second = contents
    assert first.keys() == second.keys() and len(first) > 20
    for path in first:
        assert first[path] == second[path], path


ASK_FOR_HELP = """
import contextlib, runpy, sys
script = sys.argv[1]
sys.argv = [script, "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_path(script, run_name="__main__")
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_help_answers_at_once_without_the_slow_libraries():
    for script in SCRIPTS:
        command = [sys.executable, "-W", "error", "-c", ASK_FOR_HELP, f"{script}.py"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.endswith("[]\n") and "show this help" in done.stdout, (script, done.stderr)


def test_the_table_alone_goes_to_standard_output_from_any_folder(tmp_path, bert, titles, monkeypatch):
    elsewhere = tmp_path / "ein Ordner 目录"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert call("extract", "--data", titles, "--model", bert).out == ""
    trained = call("train", "--epochs", 1)
    assert trained.out == "" and re.search("Next: .*evaluate.py", trained.err)
    shown = shell("evaluate", cwd=elsewhere)
    assert shown.returncode == 0 and shown.stdout.startswith("## ") and "Traceback" not in shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr and "%|" not in trained.err  # no colours, no bars in a file
    quiet = shell("evaluate", "--quiet", cwd=elsewhere)
    assert quiet.stdout == shown.stdout and quiet.stderr == ""


def test_a_reader_that_stops_early_is_no_error(tmp_path, bert, titles, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("extract", "--data", titles, "--model", bert)
    call("train", "--epochs", 1)
    command = f"'{sys.executable}' '{ROOT / 'evaluate.py'}' | head -c 5; s=${{PIPESTATUS[0]}}; echo; echo $s"
    done = subprocess.run(["/bin/bash", "-c", command], text=True, capture_output=True, cwd=tmp_path)
    assert "Traceback" not in done.stderr and done.stdout.splitlines()[-1] in ("0", "141"), done


def test_the_whole_pipeline_without_a_warning(tmp_path, bert, titles):
    """The scripts one after the other in one fresh process, where a warning is an error."""
    code = f"""if True:
        import runpy, sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        for script, *arguments in (
            ["extract", "--data", {titles!r}, "--model", {bert!r}],
            ["train", "--epochs", "1", "--repeats", "1", "--layers", "2"],
            ["train", "--survey", "--repeats", "1", "--labels", "8", "all"],
            ["evaluate", "--plot", "p.png", "--baselines", "--suspects", "s.csv"],
            ["predict", "--run", "results/{Path(bert).name}-titles.csv-layers-2-linear-repeats-1", "a title"],
        ):
            sys.argv = [script + ".py", *arguments]
            runpy.run_path({str(ROOT)!r} + "/" + script + ".py", run_name="__main__")
        """
    options = {"text": True, "capture_output": True, "cwd": tmp_path}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], **options)
    assert done.returncode == 0 and "Warning" not in done.stderr and done.stdout.endswith("a title\n"), done.stderr


def test_the_sample_is_what_it_says():
    rows = list(data.read_table(ROOT / "titles" / "sample.csv", ["title", "category"]))[1:]
    titles, labels = zip(*(cells for _, cells in rows), strict=True)
    assert len(titles) >= 480 and set(labels) == {"travel", "art_music", "food", "history"}
    assert sum(not title.isascii() for title in titles) > 0.15 * len(titles) and max(map(len, titles)) <= 100
    groups = splits.numbered(map(splits.group_key, titles))
    assert len(set(groups)) < len(titles)  # copies, as in real data, that the folds must keep together
    folds = splits.make_folds(splits.numbered(labels), groups, 5, 0)
    counts = np.bincount(folds)
    assert counts.max() - counts.min() <= 4


def test_the_runtime_needs_four_packages_with_exact_versions():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in lines] == ["numpy", "pandas", "torch", "transformers"]
    assert all(re.fullmatch(r"[a-z]+==\d+(\.\d+)+", line) for line in lines)
    allowed = {"numpy", "pandas", "torch", "transformers"}
    allowed |= {"tqdm", "safetensors", "huggingface_hub", "filelock"}  # come along with these
    # optional; scipy comes with sklearn
    allowed |= {"sklearn", "scipy", "matplotlib", "sentence_transformers", "pyarrow"}
    allowed |= sys.stdlib_module_names | {path.stem for path in ROOT.glob("*.py")} | {"whichlayer"}
    for path in PRODUCT:
        assert packages_of(path) <= allowed, path


def packages_of(path):
    """The packages that a Python file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names}
