"""The scripts together, as the README shows them: the mission's commands, --help, streams, and equal bytes."""

import ast
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, call, shell, write_titles

import cli
import data
import disk
import splits
import store

SCRIPTS = ("extract", "train", "evaluate", "predict", "bench")


@pytest.fixture
def stand_in(tmp_path, bert12, monkeypatch):
    """A folder with a random 12-layer encoder named bert-base-uncased, and titles in place of the report's."""
    shutil.copytree(bert12, tmp_path / "bert-base-uncased")
    (tmp_path / "titles").mkdir()
    write_titles(tmp_path / "titles" / "youtube.csv", rows=80, classes=("travel", "art_music", "food", "history"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "HERE", tmp_path)
    monkeypatch.setattr(data, "YOUTUBE_SHA256", disk.sha256(tmp_path / "titles" / "youtube.csv"))


def cells(text):
    """The cells of the first markdown table in a text, header and rows."""
    lines = re.search(r"(?:^\|.*\n?)+", text, re.MULTILINE)[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return rows[0], rows[2:]


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
    assert header[0] == "Layers" and "F1-macro, last epoch" in header and header[-1].startswith("The report")
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
    assert [row[:2] for row in rows] == [[str(layer), "linear probe"] for layer in range(12, 0, -1)]
    assert "| Labels a category | 4 | 8 | all |" in table.out and "The report" not in header


def test_twelve_of_a_six_layer_encoder_says_what_to_type():
    with pytest.raises(cli.Problem, match=r"minilm has 6 layers, 1 to 6; counted from the top, that is --layers -1 -2"):
        store.resolve_layers(["12", "11"], 6, "minilm", ["cls"])


def test_the_same_commands_give_the_same_bytes(tmp_path, bert, titles, monkeypatch):
    import pandas  # noqa: F401  (the versions of what this process has loaded are recorded)
    import sklearn  # noqa: F401

    folders = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert call("extract", "--data", titles, "--model", bert).code == 0
        assert call("train", "--epochs", 2, "--repeats", 2).code == 0
        assert call("train", "--each", "--head", "linear", "--labels", 8, "all", "--repeats", 2).code == 0
        assert call("evaluate", "--baselines", "--plot", "p.svg", "--suspects", "s.csv").code == 0
        folders.append(
            {str(path.relative_to(tmp_path / name)): path for path in (tmp_path / name).rglob("*") if path.is_file()}
        )
    assert folders[0].keys() == folders[1].keys()
    for name in folders[0]:
        first, second = (folder[name].read_bytes() for folder in folders)
        if name.endswith(("manifest.json", "config.json")):
            first, second = (
                {k: v for k, v in json.loads(b).items() if k not in ("made", "checksum")} for b in (first, second)
            )
        assert first == second, name


def test_help_answers_at_once_without_the_slow_libraries():
    for script in SCRIPTS:
        code = (
            f"import sys, runpy; sys.argv = ['{script}.py', '--help']\n"
            f"try: runpy.run_path({str(ROOT / script) + '.py'!r}, run_name='__main__')\n"
            "except SystemExit: pass\nprint(sorted({'torch', 'transformers'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.endswith("[]\n") and "show this help" in done.stdout, (script, done.stderr)


def options_of(script):
    """The long options that a script's --help names."""
    return set(re.findall(r"--[a-z][a-z-]+", shell(script, "--help", env={"PATH": "", "COLUMNS": "200"}).stdout)) - {
        "--help",
        "--version",
        "--nproc-per-node",
    }


def test_readme_and_help_name_the_same_options():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for script in SCRIPTS[:4]:
        row = re.search(rf"^\| `{script}\.py` \|(.*)\|$", readme, re.MULTILINE)
        assert row, f"the README has no row for the options of {script}.py"
        assert set(re.findall(r"--[a-z][a-z-]+", row[1])) == options_of(script), script


def test_readme_is_short_and_its_links_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n") < 250
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / target).exists(), target


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
    done = subprocess.run(
        f"'{sys.executable}' '{ROOT / 'evaluate.py'}' | head -c 5; s=${{PIPESTATUS[0]}}; echo; echo $s",
        shell=True,
        text=True,
        capture_output=True,
        executable="/bin/bash",
        cwd=tmp_path,
    )
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
            ["train", "--head", "linear", "--repeats", "1", "--layers", "2", "--labels", "8", "all"],
            ["evaluate", "--plot", "p.png", "--baselines", "--suspects", "s.csv", "--verify"],
            ["predict", "--run", "results/bert0-titles.csv-layers-2-linear-repeats-1", "a title"],
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
    counts = np.bincount(splits.make_folds(splits.numbered(labels), groups, 5, 0))
    assert counts.max() - counts.min() <= 4


def test_the_runtime_needs_four_packages_with_exact_versions():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in lines] == ["numpy", "pandas", "torch", "transformers"]
    assert all(re.fullmatch(r"[a-z]+==\d+(\.\d+)+", line) for line in lines)
    come_along = {"tqdm", "safetensors", "huggingface_hub", "filelock"}
    optional = {"sklearn", "matplotlib", "sentence_transformers"}
    own = {path.stem for path in ROOT.glob("*.py")}
    for path in ROOT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in {n.split(".")[0] for n in names}:
                assert name in sys.stdlib_module_names | own | come_along | optional | {
                    "numpy",
                    "pandas",
                    "torch",
                    "transformers",
                }, (path, name)
