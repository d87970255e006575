"""What all scripts share: tables that line up, commands to paste, texts that are safe to print, progress, locks."""

import io
import re
import sys

import pytest
from conftest import call, write_titles

from whichlayer.common import cli
from whichlayer.reading import tables


def test_columns_of_a_table_line_up_in_a_terminal():
    rows = [["café", 0.5], ["a title", "12.25"]]
    assert cli.markdown([":Title", "Macro-F1"], rows).splitlines() == [
        "| Title   | Macro-F1 |",
        "|:--------|---------:|",
        "| café    |      0.5 |",
        "| a title |    12.25 |",
    ]
    assert cli.markdown([":Row", "n"], []).splitlines() == ["| Row | n |", "|:----|--:|"]


def test_a_command_can_be_pasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/extract.py"])
    monkeypatch.setattr(sys, "orig_argv", ["python3", "tools/extract.py"])
    options = {"features": ("my features", "features"), "results": ("results", "results"), "run": (["a", "日本"], None)}
    expected = "python3 tools/train.py --features 'my features' --run a '日本' 'it'\"'\"'s'"
    assert cli.command("train.py", "it's", **options) == expected
    assert "\x1b" not in cli.command("train.py", "\x1b[31m red")


EMPTY = {
    "extract": ("--data", "--model", "--out"),
    "train": ("--features", "--results"),
    "evaluate": ("--results", "--features", "--plot", "--suspects"),
    "predict": ("--csv", "--out", "--features"),
}


@pytest.mark.parametrize("script", EMPTY)
def test_an_empty_path_is_refused_at_once(capsys, script):
    for option in EMPTY[script]:
        with pytest.raises(SystemExit) as exit:
            __import__(script).parse_arguments([option, ""])
        last = capsys.readouterr().err.splitlines()[-1]
        assert exit.value.code == 2 and last.endswith(f"argument {option}: is empty; name a file or a folder")


def test_help_names_defaults_that_say_something():
    parser = cli.parser("What it does.")
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="parts")
    parser.add_argument("--pooling", nargs="+", default=["cls", "mean"], help="which")
    parser.add_argument("--each", action="store_true", help="every layer")
    parser.add_argument("--labels", default=None, help="titles (default: all)")
    help = parser.format_help()
    assert "parts (default: 0)" in help and "which (default: cls mean)" in help and help.count("(default: ") == 3


@pytest.mark.parametrize(
    "text, shown",
    [
        ("two\nlines\tand\x85more\u2028", "two lines and more"),
        ("red \x1b[31m \x9b1m \x07", "red \\x1b[31m \\x9b1m \\x07"),
        ("\u202egnp.exe \u2067x\u2069 \u200fy\u200e", "\\u202egnp.exe \\u2067x\\u2069 \\u200fy\\u200e"),
        ("caf\udce9 \ud83d", "caf\\udce9 \\ud83d"),
    ],
)
def test_what_a_terminal_obeys_is_shown_as_escapes(text, shown):
    assert cli.one_line(text) == shown and cli.quote(text) == f"'{shown}'"
    assert not cli.UNSAFE.search(cli.escape_markdown(text))


@pytest.mark.parametrize(
    "name", ["ایرانی\u200cها", "👩\u200d👩\u200d👧", "\U0001fae9", "so\u00adft", "\ue000"], ids=ascii
)
def test_names_in_all_writing_systems_stay_what_they_are(name):
    assert cli.one_line(name) == cli.escape_markdown(name) == tables.escape_cell(name) == name


# --- progress -----------------------------------------------------------------------------------------------------


def test_progress_in_a_log_is_whole_lines_a_minute_apart(monkeypatch, capsys):
    with cli.progress(12000, " titles", desc="extract") as bar:
        bar.update(6000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli, "MINUTE", 1e-9)
    with cli.progress(12000, " titles", desc="extract", initial=2000) as bar:
        bar.update(1000)
        bar.update(1000)
    assert re.fullmatch(r"(extract: [34]000 of 12000 titles after 00:00\n){2}", capsys.readouterr().err)
    for quiet in (False, True):
        monkeypatch.setitem(cli.STATE, "quiet", quiet)
        with cli.progress(10, " heads", desc="layer 2", shown=quiet) as bar:
            bar.update(10)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with cli.progress(10, " titles", desc="extract") as bar:
        bar.update(10)
        bar.refresh()
    assert "extract: 100%" in terminal.getvalue() and "after" not in terminal.getvalue()


def test_each_slow_script_shows_life_in_a_log(tmp_path, bert, monkeypatch):
    monkeypatch.setattr(cli, "MINUTE", 1e-9)
    titles = write_titles(tmp_path / "titles.csv", 30)
    features = ("--features", tmp_path / "f")
    results = tmp_path / "r"
    log = call("extract", "--data", titles, "--model", bert, "--out", features[1]).err
    assert re.search(r"^extract: 30 of 30 titles after 00:\d\d$", log, re.MULTILINE), log
    log = call("train", *features, "--results", results, "--layers", "2", "--epochs", 2, "--repeats", 1).err
    assert re.search(r"layer 2 .*: 2 of 2 epochs after 00:\d\d$", log, re.MULTILINE), log
    (run,) = results.glob("[!.]*")
    log = call("predict", "--run", run, "--csv", titles, "--out", tmp_path / "out.csv").err
    assert re.search(r"^predict: 30 of \S+ titles after 00:\d\d$", log, re.MULTILINE), log
