"""The scripts together, as the README shows them: the mission's commands, streams, and equal bytes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from conftest import ROOT, call, shell, write_titles
from pages import tables

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


def column(text, name):
    """The cells of a column of a page's first table, in alphabetical order."""
    return sorted(row[name] for row in tables(text)[0])


def test_the_three_commands_letter_by_letter(report):
    one = call("train", "--layers", "12", "11")
    assert one.code == 0 and re.search(r"layers-12-11: macro-F1 0\.\d{4}", one.err)
    assert "1 of 1 run trained" in one.err
    six = call("train")
    assert six.code == 0 and "5 of 6 runs trained" in six.err and "trained already" in six.err, six.err
    table = call("evaluate")
    assert table.code == 0 and "**Recommended: " in table.out, table.err
    assert column(table.out, "Layers") == sorted(["12", "11", "10", "9", "12, 11", "12, 11, 10, 9"])
    assert "F1-macro, last epoch" in tables(table.out)[0][0]


def comparable(path):
    """What a file holds, without what says when and how it was made."""
    if path.name not in ("manifest.json", "config.json", "recommended.json"):
        return path.read_bytes()
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in ("made", "at", "configs", "checksum"):
        content.pop(key, None)
    return content


def test_the_same_commands_give_the_same_bytes(tmp_path, bert, titles, monkeypatch):
    import pandas  # noqa: F401  (the versions of what this process has loaded are recorded)
    import sklearn  # noqa: F401

    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert call("extract", "--data", titles, "--model", bert).code == 0
        assert call("train", "--epochs", 2, "--repeats", 1, "--layers", 2, 1).code == 0
        assert call("train", "--head", "linear", "--labels", 8, "all", "--repeats", 1).code == 0
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
    """The scripts one after the other in one fresh process, where a warning is an error; of an encoder with weights
    that are not used, and without some that are not needed, nothing is reported.
    """
    config = transformers.AutoConfig.from_pretrained(bert)
    bert = shutil.copytree(bert, tmp_path / "encoder")
    transformers.BertForMaskedLM(config).save_pretrained(bert)
    code = f"""if True:
        import runpy, sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        for script, *arguments in (
            ["extract", "--data", {titles!r}, "--model", "encoder"],
            ["train", "--epochs", "1", "--repeats", "1", "--layers", "2"],
            ["train", "--head", "linear", "--pooling", "cls", "--layers", "2", "--repeats", "1"],
            ["evaluate", "--plot", "p.png", "--baselines", "--suspects", "s.csv"],
            ["predict", "--run", "results/encoder-titles.csv-layers-2-linear-repeats-1", "a title"],
        ):
            sys.argv = [script + ".py", *arguments]
            runpy.run_path({str(ROOT)!r} + "/" + script + ".py", run_name="__main__")
        """
    options = {"text": True, "capture_output": True, "cwd": tmp_path}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], **options)
    assert done.returncode == 0 and done.stdout.endswith("a title\n"), done.stderr
    assert "Warning" not in done.stderr and "pooler" not in done.stderr
