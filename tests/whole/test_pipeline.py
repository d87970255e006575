"""The scripts together, as the README shows them: the mission's commands, streams, and equal bytes."""

import ast
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PRODUCT, ROOT, call, refused, shell, write_bert, write_titles

import data
from whichlayer.common import disk


@pytest.fixture(scope="module")
def report(tmp_path_factory, bert12):
    """A folder with a random 12-layer encoder named bert-base-uncased, titles in place of the report's, and
    `extract.py --layers all` of them.
    """
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(bert12, folder / "bert-base-uncased")
    (folder / "titles").mkdir()
    titles = write_titles(folder / "titles" / "youtube.csv", 60, ("travel", "art_music", "food", "history"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(data, "HERE", folder)
        patch.setattr(data, "YOUTUBE_SHA256", disk.sha256(titles))
        extracted = call("extract", "--layers", "all")
        assert extracted.code == 0 and re.search(r"(12|24) layer files", extracted.err), extracted.err
        yield folder


def cells(text, name=""):
    """The header and the rows, as lists of cells, of the first markdown table whose header holds a name."""
    for found in re.finditer(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        lines = found[0].splitlines()
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
        if name in lines[0]:
            return header, rows
    raise AssertionError(f"no table has {name!r} in its header: {text}")


def column(text, name):
    """The cells of a table's column, by its name, in alphabetical order, without emphasis."""
    header, rows = cells(text, name)
    return sorted(row[header.index(name)].strip("*") for row in rows)


def test_the_three_commands_letter_by_letter(report):
    one = call("train", "--layers", "12", "11")
    assert one.code == 0 and re.search(r"layers 12, 11 \(cls\): macro-F1 0\.\d{4}", one.err), one.err
    assert "weights: layer 12 (cls)" in one.err and "1 of 1 run trained" in one.err
    six = call("train")
    assert six.code == 0 and "5 of 6 runs trained" in six.err and "trained already" in six.err, six.err
    table = call("evaluate")
    assert table.code == 0 and "**Recommended: " in table.out, table.err
    assert column(table.out, "Layers") == sorted(["12", "11", "10", "9", "12, 11", "12, 11, 10, 9"])
    assert column(table.out, "Report") == sorted(["0.9565", "0.9032", "0.9034", "0.9023", "0.9546", "0.9114"])
    assert "F1-macro, last epoch" in cells(table.out)[0]


def test_the_linear_probe_on_some_layers_and_with_few_labels(report):
    probe = ("--results", "probes", "--head", "linear", "--pooling", "cls", "--repeats", "1")
    each = call("train", *probe, "--each", "--layers", "12", "9", "6")
    assert each.code == 0 and "3 of 3 runs trained" in each.err, each.err
    some = call("train", *probe, "--each", "--layers", "12", "6")
    assert some.code == 0 and some.err.count("trained already") == 2, some.err
    few = call("train", *probe, "--layers", "-1", "--labels", "4", "8")
    assert few.code == 0 and "2 of 2 runs trained" in few.err, few.err
    table = call("evaluate", "--results", "probes")
    assert column(table.out, "Layers") == ["12", "6", "9"] and "Report" not in cells(table.out)[0]
    assert cells(table.out, "Labels a category")[0] == ["Labels a category", "4", "8", "all"]


def test_two_encoders_in_one_survey_and_one_table(tmp_path, bert, titles, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = write_bert(tmp_path / "other", layers=3, seed=1)
    for model, poolings, out in ((bert, ("cls", "mean"), "f"), (other, ("mean",), "f-2")):
        assert call("extract", "--data", titles, "--model", model, "--pooling", *poolings, "--out", out).code == 0
    survey = ("train", "--survey", "--features", "f", "f-2", "--repeats", "1")
    first = call(*survey)
    # 2 layers with each pooling, both with mean pooling, and all with both; 3 layers, and all of them
    assert first.code == 0 and "10 of 10 runs trained" in first.err, first.err
    again = call(*survey)
    assert again.err.count("trained already (macro-F1 0.") == 10 and "0 of 10 runs" in again.err, again.err
    table = call("evaluate")
    assert table.code == 0 and table.out.count("**Recommended: ") == 1, table.err
    assert len(column(table.out, "Encoder")) == 10


def test_layers_that_an_encoder_does_not_have_are_refused_with_what_to_type(tmp_path, bert, titles):
    refused(call("extract", "--data", titles, "--model", bert, "--layers", "12", "--out", tmp_path / "f"), "-1")


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
        assert call("train", "--epochs", 2, "--repeats", 1).code == 0
        assert call("train", "--survey", "--labels", 8, "all", "--repeats", 1).code == 0
        assert call("evaluate", "--baselines", "--plot", "p.svg", "--suspects", "s.csv").code == 0
        files = [path for path in Path().rglob("*") if path.is_file()]
        contents.append({path: comparable(path) for path in files})
    first, second = contents
    assert first.keys() == second.keys() and len(first) > 20
    for path in first:
        assert first[path] == second[path], path


def test_the_table_alone_goes_to_standard_output_from_any_folder(kept, tmp_path):
    elsewhere = tmp_path / "ein Ordner 目录"
    elsewhere.mkdir()
    table = ("evaluate", "--results", kept.linear.parent)
    shown = shell(*table, cwd=elsewhere)
    assert shown.returncode == 0 and shown.stdout.startswith("## ") and "Next: " in shown.stderr
    # no colours, no bars in a file
    assert "\x1b" not in shown.stdout + shown.stderr and "%|" not in shown.stderr
    quiet = shell(*table, "--quiet", cwd=elsewhere)
    assert quiet.stdout == shown.stdout and quiet.stderr == ""


def test_a_reader_that_stops_early_is_no_error(kept):
    script = f"'{sys.executable}' '{ROOT / 'evaluate.py'}' --results '{kept.linear.parent}'"
    command = f"{script} | head -c 5; s=${{PIPESTATUS[0]}}; echo; echo $s"
    done = subprocess.run(["/bin/bash", "-c", command], text=True, capture_output=True)
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
            ["train", "--head", "linear", "--pooling", "cls", "--layers", "2", "--repeats", "1"],
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
    with open(ROOT / "titles" / "sample.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    titles = [row["title"] for row in rows]
    assert len(titles) >= 480 and {row["category"] for row in rows} == {"travel", "art_music", "food", "history"}
    assert sum(not title.isascii() for title in titles) > 0.15 * len(titles) and max(map(len, titles)) <= 100
    # copies, as in real data, that the folds must keep together
    assert len({re.sub(r"[\W\d_]", "", title.casefold()) for title in titles}) < len(titles)


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
