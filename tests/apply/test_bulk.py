"""predict.py --csv --out: killed at any moment it goes on, and shared by processes it has the same bytes."""

import pytest
from conftest import call, refused, write_titles
from killing import die_at, forked, torchrun

import predict
from whichlayer.apply import bulk
from whichlayer.common import disk, windows


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Windows of 13 titles."""
    monkeypatch.setattr(windows, "WINDOW", 13)


@pytest.fixture
def ask(kept, tmp_path):
    """Call predict.py on 90 titles: ask(*options)."""

    def ask(*options, run=kept.linear, source=kept.titles, out=tmp_path / "out.csv"):
        return call("predict", "--run", run, "--csv", source, "--out", out, *options)

    return ask


@pytest.fixture
def whole(ask, tmp_path):
    """The bytes that a prediction that nobody stops writes."""
    result = ask(out=tmp_path / "whole.csv")
    assert result.code == 0, result.err
    return (tmp_path / "whole.csv").read_bytes()


@pytest.fixture
def stopped(ask, tmp_path, whole, monkeypatch):
    """A prediction of out.csv that was stopped after its third window."""
    predicted = bulk.predict

    def three(*given):
        for number, window in enumerate(predicted(*given)):
            if number == 3:
                raise KeyboardInterrupt
            yield window

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "predict", three)
        result = ask()
    assert result.code == 130 and "the same command goes on" in result.err
    assert not (tmp_path / "out.csv").exists()
    return tmp_path / "out.csv"


def test_a_prediction_killed_at_any_step_ends_with_the_same_bytes(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 40)
    out = tmp_path / "out.csv"
    given = ["--run", kept.words, "--csv", kept.titles, "--out", out]
    assert forked(predict, given).code == 0
    whole = out.read_bytes()
    # every second one: the drills kill at any
    for step in range(1, 200, 2):
        out.write_text("an earlier file\n")
        done = forked(predict, given, lambda step=step: die_at(step, out.name))
        if done.code == 0:
            break
        assert done.code == -9, done.err
        # the old file, or the new one: nothing in between
        assert out.read_bytes() in (b"an earlier file\n", whole)
        assert forked(predict, given).code == 0
        assert out.read_bytes() == whole and not disk.beside(out).exists()
    assert step > 15 and out.read_bytes() == whole


def test_what_is_done_is_not_done_again(stopped, ask, whole, monkeypatch):
    asked = []
    predicted = bulk.predict

    def noted(classifier, batches):
        for key, window in predicted(classifier, batches):
            asked.append(key[0])
            yield key, window

    monkeypatch.setattr(bulk, "predict", noted)
    result = ask()
    assert result.code == 0 and "going on after 39 titles" in result.err and "90 titles predicted" in result.err
    assert asked == [3, 4, 5, 6]
    assert stopped.read_bytes() == whole and not disk.beside(stopped).exists()


def test_another_job_waits_for_what_is_unfinished(stopped, kept, ask, tmp_path, whole):
    other = write_titles(tmp_path / "other.csv", rows=91)
    for options, changes in [
        (["--top", 2], {}),
        (["--at-least", "0.9"], {}),
        (["--dtype", "bfloat16"], {}),
        ([], {"source": other}),
        ([], {"run": kept.words}),
    ]:
        refused(ask(*options, **changes), "out.csv", "another input, run or option is unfinished", "delete")
    assert ask().code == 0 and stopped.read_bytes() == whole


def test_a_faulty_row_leaves_nothing_behind_and_a_finished_file_as_it_is(kept, ask, tmp_path, whole):
    broken = tmp_path / "broken.csv"
    broken.write_text("title,category\nfine,art\nalso fine,art,more\n")
    assert ask().code == 0
    refused(ask(source=broken), "broken.csv", "row 2")
    assert (tmp_path / "out.csv").read_bytes() == whole and not disk.beside(tmp_path / "out.csv").exists()


def test_a_damaged_part_is_named(stopped, ask):
    part = bulk.part_of(disk.beside(stopped), 1)
    part.write_bytes(part.read_bytes().replace(b"0.", b"1."))
    refused(ask("--quiet"), "part-00000001", "gone or changed", "delete")
    assert not stopped.exists()


def test_two_processes_have_the_bytes_of_one(kept, tmp_path, monkeypatch):
    monkeypatch.undo()
    source = write_titles(tmp_path / "many.csv", rows=9_000)
    given = ["--run", kept.words, "--csv", source, "--out"]
    assert call("predict", *given, tmp_path / "one.csv").code == 0
    two = torchrun("predict", *given, tmp_path / "two.csv")
    assert two.returncode == 0 and two.stderr.count("9,000 titles predicted") == 1, two.stderr
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert not disk.beside(tmp_path / "two.csv").exists()


@pytest.mark.parametrize(
    "content, name, begins, row",
    [
        ('\ufefftitle;topic\n"art; and more";x\n', "in.csv", "\ufefftitle;topic;prediction;", '"art; and more";x;'),
        ('{"title": "art", "topic": "x, y"}\n', "in.jsonl", "title,topic,prediction,", 'art,"x, y",'),
        ('title\ttopic\n"Quoted" words\tart\n', "in.tsv", "title,topic,prediction,", '"""Quoted"" words",art,'),
    ],
)
def test_what_is_written_has_the_delimiter_and_the_mark_of_what_was_read(ask, tmp_path, content, name, begins, row):
    (tmp_path / name).write_bytes(content.encode())
    result = ask(source=tmp_path / name)
    assert result.code == 0, result.err
    header, line, last = (tmp_path / "out.csv").read_bytes().decode().split("\r\n")
    assert header.startswith(begins) and line.startswith(row) and last == ""
    # tabs are for .tsv
    assert ask(source=tmp_path / name, out=tmp_path / "out.tsv").code == 0
    assert "title\ttopic\tprediction\t" in (tmp_path / "out.tsv").read_text()
