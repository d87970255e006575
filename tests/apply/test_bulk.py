"""predict.py --csv --out: killed at any moment it goes on, shared by processes it has the same bytes, in the same form.

`python tests/apply/test_bulk.py 50` kills 50 predictions of 20,000 titles at random and says what came of it.
"""

import collections
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import call, refused, write_bert, write_titles
from killing import die_at, forked, torchrun

import predict
from whichlayer.apply import bulk, frozen


@pytest.fixture
def ask(kept, tmp_path):
    """Call predict.py on 90 titles in windows of 13: ask(*options)."""

    def ask(*options, run=kept.linear, source=kept.titles, out=tmp_path / "out.csv"):
        return call("predict", *arguments(run, source, out), *options)

    return ask


def arguments(run, source, out):
    return ["--run", run, "--csv", source, "--out", out, "--window", 13]


@pytest.fixture
def whole(ask, tmp_path):
    """The bytes that a prediction that nobody stops writes."""
    result = ask(out=tmp_path / "whole.csv")
    assert result.code == 0, result.err
    return (tmp_path / "whole.csv").read_bytes()


@pytest.fixture
def once(kept, bert, monkeypatch):
    """The encoder is loaded once for all forks."""
    loaded = frozen.load_encoder(bert, "cpu", "float32", 128, ("cls", "mean"))
    monkeypatch.setattr(frozen, "load_encoder", lambda *_: loaded)


def unfinished(out):
    """What stands in the folder of an unfinished prediction, by name; empty without one."""
    return sorted(path.name for path in bulk.workplace(out).glob("[!.]*"))


@pytest.fixture
def stopped(kept, tmp_path, whole, monkeypatch):
    """A prediction of out.csv that was stopped after its third window."""
    steps = iter(range(3))
    predicted = bulk.predict

    def three(*given):
        for window in predicted(*given):
            if next(steps, None) is None:
                raise KeyboardInterrupt
            yield window

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "predict", three)
        result = call("predict", *arguments(kept.linear, kept.titles, tmp_path / "out.csv"))
    assert result.code == 130 and "stopped after 39 titles; the same command goes on from there" in result.err
    assert not (tmp_path / "out.csv").exists() and len(unfinished(tmp_path / "out.csv")) == 5
    return tmp_path / "out.csv"


def test_a_prediction_killed_at_any_step_ends_with_the_same_bytes(kept, tmp_path, whole, once):
    out = tmp_path / "out.csv"
    # three windows, which change nothing for so small an encoder
    given = [*arguments(kept.linear, kept.titles, out)[:-1], 40]
    assert forked(predict, given).code == 0
    whole = out.read_bytes()
    for step in range(1, 200):
        out.write_text("an earlier file\n")
        done = forked(predict, given, lambda step=step: die_at(step, out.name))
        if done.code == 0:
            break
        assert done.code == -9, done.err
        # the old file, or the new one: nothing in between
        assert out.read_bytes() in (b"an earlier file\n", whole)
        assert forked(predict, given).code == 0
        assert out.read_bytes() == whole and not bulk.workplace(out).exists()
    assert step > 15 and out.read_bytes() == whole
    assert not bulk.workplace(out).exists()


def test_what_is_done_is_not_done_again(stopped, ask, whole, monkeypatch):
    asked = []
    predicted = bulk.predict

    def noted(classifier, batches):
        for number, window in predicted(classifier, batches):
            asked.append(number)
            yield number, window

    monkeypatch.setattr(bulk, "predict", noted)
    result = ask()
    assert result.code == 0 and "going on after 39 titles" in result.err and "90 titles predicted" in result.err
    assert asked == [3, 4, 5, 6]
    assert stopped.read_bytes() == whole and unfinished(stopped) == []


@pytest.mark.parametrize(
    "options, words",
    [
        (["--top", 2], "--top"),
        (["--at-least", "0.9"], "--at-least"),
        (["--window", 14], "--window"),
        (["--dtype", "bfloat16"], "--dtype"),
    ],
)
def test_another_option_waits_for_what_is_unfinished(stopped, ask, whole, options, words):
    refused(ask(*options), "out.csv: a prediction of it with another", words, "is unfinished", "delete")
    assert ask().code == 0 and stopped.read_bytes() == whole


def test_another_run_or_input_waits_for_what_is_unfinished(stopped, kept, ask, tmp_path, whole):
    other = write_titles(tmp_path / "other.csv", rows=91)
    refused(ask(source=other), "with another", "other.csv", "is unfinished")
    refused(ask(run=kept.words), "with another --run is unfinished")
    assert ask().code == 0 and stopped.read_bytes() == whole


def test_a_faulty_row_is_put_right_and_the_same_command_goes_on(kept, ask, tmp_path, whole):
    """What was predicted of the faulty file is replaced, but for another run or option it waits."""
    source = tmp_path / "mine.csv"
    right = Path(kept.titles).read_text()
    source.write_text(right + "one cell,too,many\n")
    refused(ask(source=source), "row 91")
    assert len(unfinished(tmp_path / "out.csv")) > 3
    source.write_text(right)
    refused(ask("--top", 2, source=source), "with another", "mine.csv", "--top", "is unfinished")
    refused(ask(run=kept.words, source=source), "with another", "--run", "is unfinished")
    # the same content elsewhere is another file
    refused(ask(), "with another", kept.titles, "is unfinished")

    result = ask(source=source)
    assert result.code == 0 and "90 titles predicted" in result.err, result.err
    assert re.search(r"mine.csv has changed since \d\d titles of it were predicted: all of it is", result.err)
    assert (tmp_path / "out.csv").read_bytes() == whole and not bulk.workplace(tmp_path / "out.csv").exists()


def test_a_file_that_has_moved_is_gone_on_with(kept, ask, stopped, tmp_path, whole):
    shutil.copy(kept.titles, tmp_path / "moved.csv")
    result = ask(source=tmp_path / "moved.csv")
    assert result.code == 0 and "going on after 39 titles" in result.err and stopped.read_bytes() == whole


def test_a_changed_file_that_is_begun_anew_and_killed_at_any_step_is_predicted_whole(kept, tmp_path, whole, once):
    out = tmp_path / "out.csv"
    source = tmp_path / "mine.csv"
    given = [*arguments(kept.linear, source, out)[:-1], 40]
    source.write_bytes(Path(kept.titles).read_bytes())
    assert forked(predict, given).code == 0
    whole = out.read_bytes()
    for step in range(1, 200):
        out.write_text("an earlier file\n")
        source.write_text(Path(kept.titles).read_text().replace("how to", "why") + "too,many,cells\n")
        assert forked(predict, given).code == 2
        assert bulk.total(bulk.workplace(out)).titles > 0
        source.write_bytes(Path(kept.titles).read_bytes())
        done = forked(predict, given, lambda step=step: die_at(step, out.name))
        if done.code == 0:
            break
        assert done.code == -9 and out.read_bytes() in (b"an earlier file\n", whole), done.err
        assert forked(predict, given).code == 0
        assert out.read_bytes() == whole and not bulk.workplace(out).exists()
    assert step > 15 and out.read_bytes() == whole


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_part_is_named(stopped, ask, damage):
    part = bulk.part_of(bulk.workplace(stopped), 1)
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes().replace(b"0.", b"1."))
    refused_line = [line for line in ask().err.splitlines() if "part-00000001" in line]
    assert len(refused_line) == 1 and "gone or changed" in refused_line[0] and "delete" in refused_line[0]
    assert not stopped.exists()


def test_a_finished_file_survives_a_later_call_that_fails(ask, tmp_path, whole):
    out = tmp_path / "out.csv"
    assert ask().code == 0
    broken = tmp_path / "broken.csv"
    broken.write_text("title,category\nfine,art\nalso fine,art,more\n")
    assert ask(source=broken).code == 2
    assert out.read_bytes() == whole


def test_two_processes_have_the_bytes_of_one(kept, tmp_path, whole):
    two = torchrun("predict", *arguments(kept.linear, kept.titles, tmp_path / "two.csv"))
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("90 titles predicted") == 1
    assert (tmp_path / "two.csv").read_bytes() == whole and unfinished(tmp_path / "two.csv") == []


def test_a_process_that_ends_ends_the_others(kept, tmp_path):
    source = tmp_path / "wrong.csv"
    rows = "".join(f"title {i},art\n" for i in range(40))
    source.write_text(f"title,category\n{rows}one cell too many,art,x\n")
    result = torchrun("predict", *arguments(kept.linear, source, tmp_path / "two.csv"))
    assert result.returncode != 0 and "row 41" in result.stderr
    assert "[rank" not in result.stderr and 'predict.py", line' not in result.stderr, "a traceback of ours"


def test_several_processes_are_for_files(kept):
    result = torchrun("predict", "--run", kept.linear, "a title")
    assert result.returncode != 0 and "--csv with --out only" in result.stderr


@pytest.mark.parametrize(
    "content, name, begins, lines",
    [
        ("\ufefftitle;topic\r\nart; and more;x\r\n", "in.csv", "\ufefftitle;topic;prediction;", "\r\n"),
        ("title,topic\nart,x\n", "in.csv", "title,topic,prediction,", "\n"),
        ('"title","topic"\n"art","x"\n', "in.csv", '"title","topic","prediction",', "\n"),
        ("sep=;\ntitle;topic\nart;x\n", "in.csv", "sep=;\ntitle;topic;prediction;", "\n"),
        ('{"title": "art", "topic": "x, y"}\n', "in.jsonl", "title,topic,prediction,", "\n"),
    ],
    ids=["excel", "lines", "quoted", "hint", "jsonl"],
)
def test_what_is_written_has_the_form_of_what_was_read(ask, tmp_path, content, name, begins, lines):
    source = tmp_path / name
    if ";" in content and "and more" in content:
        content = content.replace("art; and more", '"art; and more"')
    source.write_bytes(content.encode())
    result = ask(source=source)
    assert result.code == 0, result.err
    written = (tmp_path / "out.csv").read_bytes().decode()
    assert written.startswith(begins)
    if name == "in.csv":
        assert written.count(lines) == written.count("\n") == content.count("\n")
        body = content.splitlines()[-1]
        assert written.splitlines()[-1].startswith(body)


def test_tabs_are_for_tsv(ask, tmp_path):
    source = tmp_path / "in.tsv"
    source.write_text('title\ttopic\n"Quoted" words\tart\nsay "hi\tart\n')
    assert ask(source=source, out=tmp_path / "out.tsv").code == 0
    assert (tmp_path / "out.tsv").read_text().splitlines()[1].startswith('"Quoted" words\tart\t')
    assert ask(source=source).code == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith('"""Quoted"" words",art,')
    refused(ask(out=tmp_path / "out.txt"), "out.txt: the name must end in .csv or .tsv")


def drill(kills, rows=20_000, window=200):
    """Kill predictions at random steps until `kills` have died; each that finishes is compared with a whole one."""
    scratch = Path(tempfile.mkdtemp())
    source = write_titles(scratch / "titles.csv", rows=90)
    encoder = write_bert(scratch / "bert")
    features, results = scratch / "features", scratch / "results"
    assert call("extract", "--data", source, "--model", encoder, "--dtype", "float32", "--out", features).code == 0
    probe = ["--head", "linear", "--layers", 1, "--repeats", 1]
    assert call("train", "--features", features, "--results", results, *probe).code == 0
    (run,) = results.glob("[!.]*")
    many = write_titles(scratch / "many.csv", rows=rows)
    loaded = frozen.load_encoder(encoder, "cpu", "float32", 128, ("cls",))
    frozen.load_encoder = lambda *_: loaded
    given = ["--run", run, "--csv", many, "--window", window, "--out"]
    assert forked(predict, [*given, scratch / "whole.csv"]).code == 0
    whole = (scratch / "whole.csv").read_bytes()

    steps = random.Random(0)
    found = collections.Counter()
    out = scratch / "out.csv"
    while found["killed"] < kills:
        step = steps.randrange(1, 4 * rows // window)
        done = forked(predict, [*given, out], lambda step=step: die_at(step, out.name))
        assert done.code in (0, -9), done.err
        found["killed"] += done.code == -9
        if done.code == 0 or found["killed"] == kills:
            done = forked(predict, [*given, out])
            assert done.code == 0, done.err
            assert out.read_bytes() == whole and not bulk.workplace(out).exists()
            found["finished"] += 1
            out.unlink()
        assert not out.exists() or out.read_bytes() == whole
    shutil.rmtree(scratch)
    print(f"""# Killed predictions

{rows:,} titles in windows of {window}; SIGKILL just before a file was opened, synced, renamed or deleted, at random.

|  |  |
| :--- | ---: |
| processes killed | {found["killed"]} |
| files that were finished in the end | {found["finished"]} |
| of the same bytes as one that nobody stopped | {found["finished"]} |

Made by:

    python tests/apply/test_bulk.py {kills}""")


if __name__ == "__main__":
    drill(int(sys.argv[1]))
