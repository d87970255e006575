"""What all scripts share: markdown tables that line up, commands to paste, texts that are safe to print."""

import argparse
import errno
import io
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, call, refused, write_titles

from whichlayer.common import cli, disk


def test_columns_of_a_table_line_up_in_a_terminal():
    rows = [["你好", 0.5], ["cafe\u0301", "12.25"], ["गिटार 🎸", 7]]
    assert cli.markdown([":Title", "Macro-F1"], rows).splitlines() == [
        "| Title    | Macro-F1 |",
        "|:---------|---------:|",
        "| 你好     |      0.5 |",
        "| cafe\u0301     |    12.25 |",
        "| गिटार 🎸 |        7 |",
    ]


def test_a_table_may_have_short_names_and_no_rows():
    assert cli.markdown([":", "n"], [["a", 1]]).splitlines() == ["|   | n |", "|:--|--:|", "| a | 1 |"]
    assert cli.markdown([":Row", "n"], []).splitlines() == ["| Row | n |", "|:----|--:|"]


@pytest.mark.parametrize(
    "text, columns",
    [("", 0), ("title", 5), ("café", 4), ("cafe\u0301", 4), ("你好", 4), ("ｗ", 2), ("ｶ", 1), ("🎸", 2), ("มี", 1)],
)
def test_width_is_what_a_terminal_shows(text, columns):
    assert cli.width(text) == columns


def test_a_command_can_be_pasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/extract.py"])
    monkeypatch.setattr(sys, "orig_argv", ["python3", "tools/extract.py"])
    options = {"features": ("my features", "features"), "results": ("results", "results"), "run": ("-x", None)}
    expected = "python3 tools/train.py --features 'my features' --run=-x 'a title'"
    assert cli.command("train.py", "a title", **options) == expected


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    "name",
    [
        "caf\udce9 it's",
        "two\nlines",
        "\x1b[31m red\\",
        "\u202egnp.exe",
        "tab\t",
        "\udcff\udcfe0",
        "plain",
        "ایرانی\u200cها",
        "日本 x",
    ],
    ids=ascii,
)
def test_a_command_can_be_pasted_whatever_the_name_of_a_folder(name):
    line = cli.command("train.py", name, out=(f"{name}/f", "features"))
    assert not cli.UNSAFE.search(line) and "\n" not in line and cli.one_line(line) == line
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, env=os.environ | {"LC_ALL": "C.UTF-8"}
    )
    assert [os.fsdecode(word) for word in shown.stdout.split(b"\0")[2:-1]] == ["--out", f"{name}/f", name]


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_what_is_named_as_next_works_where_a_folder_has_no_name_in_utf8(kept, tmp_path):
    results = tmp_path / "caf\udce9 it's"
    shutil.copytree(kept.linear, results / "run")
    command = [sys.executable, str(ROOT / "evaluate.py"), "--results", str(results)]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    following = done.stderr.decode().partition("Next: ")[2]
    pasted = subprocess.run(["bash", "-c", following], capture_output=True, text=True, timeout=300)
    assert pasted.returncode == 0 and "a title of your own" in pasted.stdout, pasted.stderr


EMPTY = [
    ("extract", "--data"),
    ("extract", "--model"),
    ("extract", "--out"),
    ("train", "--features"),
    ("train", "--results"),
    ("evaluate", "--results"),
    ("evaluate", "--features"),
    ("evaluate", "--plot"),
    ("evaluate", "--suspects"),
    ("predict", "--csv"),
    ("predict", "--out"),
    ("predict", "--features"),
]


@pytest.mark.parametrize("script, option", EMPTY, ids=map(" ".join, EMPTY))
def test_an_empty_path_is_refused_at_once(capsys, script, option):
    with pytest.raises(SystemExit) as exit:
        __import__(script).parse_arguments([option, ""])
    last = capsys.readouterr().err.splitlines()[-1]
    assert exit.value.code == 2 and last.endswith(f"error: argument {option}: is empty; name a file or a folder")


def test_an_empty_run_is_refused_and_an_empty_title_is_none(kept, bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call("predict", "--run", "", "a"), "--run: is empty; name a folder")
    refused(call("predict", "--run", kept.linear, "--model", "", "a"), "--model: is empty; name a folder")
    for behind in (["--run", kept.words, ""], ["--run", kept.linear, "--model", bert, ""]):
        done = call("predict", *behind)
        assert done.code == 0 and "1 title predicted" in done.err and "1 without text" in done.err, done.err


@pytest.mark.parametrize(
    "names, text",
    [(["a"], "a"), (["a", "b"], "a and b"), (["settings", "features", "files"], "settings, features and files")],
)
def test_names_are_listed_as_a_sentence_lists_them(names, text):
    assert cli.listing(names) == text


def test_help_names_defaults_that_say_something():
    parser = cli.parser("What it does.")
    parser.add_argument("--folds", type=cli.number(int, 2), default=5, help="parts")
    parser.add_argument("--pooling", nargs="+", default=["cls", "mean"], help="which")
    parser.add_argument("--each", action="store_true", help="every layer")
    parser.add_argument("--labels", default=None, help="titles (default: all)")
    help = parser.format_help()
    assert "parts (default: 5)" in help
    assert "which (default: cls mean)" in help
    assert help.count("(default: ") == 3


def test_numbers_out_of_range_are_refused_with_both_limits(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--level", type=cli.number(float, 0, 1))
    parser.add_argument("--folds", type=cli.number(int, 2))
    for arguments, words in ((["--level", "nan"], "number (0 to 1)"), (["--folds", "1"], "whole number (at least 2)")):
        with pytest.raises(SystemExit):
            parser.parse_args(arguments)
        assert f"invalid {words} value" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, kept", [("=1+1", "'=1+1"), ("-x", "'-x"), ("-1.5e3", "-1.5e3"), ("a=b", "a=b"), ("", "")]
)
def test_cells_are_no_formulas(given, kept):
    assert cli.escape_cell(given) == kept


def test_a_log_loss_that_would_be_all_zeros_is_said_to_be_below():
    assert cli.at_least(0.12345) == "0.1235"
    assert cli.at_least(0.00004) == "< 0.0001" == cli.at_least(0.0)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("two\nlines\tand\x85more\u2028", "two lines and more"),
        ("red \x1b[31m \x9b1m \x07", "red \\x1b[31m \\x9b1m \\x07"),
        ("\u202egnp.exe \u2067x\u2069 \u200fy\u200e \u061c", "\\u202egnp.exe \\u2067x\\u2069 \\u200fy\\u200e \\u061c"),
        ("caf\udce9 \ud83d", "caf\\udce9 \\ud83d"),
    ],
)
def test_what_a_terminal_obeys_is_shown_as_escapes(text, shown):
    assert cli.one_line(text) == shown
    assert cli.quote(text) == f"'{shown}'"
    assert "\x1b" not in cli.escape_markdown(text) and "\u202e" not in cli.escape_markdown(text)


@pytest.mark.parametrize(
    "name",
    [
        "غذاهای ایرانی\u200cها",
        "👩\u200d👩\u200d👧",
        "क\u094d\u200dष",
        "\U0001fae9",
        "\U0001fac8!",
        "so\u00adft",
        "\ue000",
        "日本",
    ],
    ids=ascii,
)
def test_names_in_all_writing_systems_stay_what_they_are(name):
    assert cli.one_line(name) == name
    assert cli.escape_markdown(name) == name
    assert cli.escape_cell(name) == name
    # what joins two letters takes no column of a table
    assert cli.width(name) == cli.width(name.replace("\u200d", "").replace("\u200c", "").replace("\u00ad", ""))


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds that cli.py sees, as the only item of a list."""
    now = [1000.0]
    monkeypatch.setattr(cli, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_progress_in_a_log_is_a_line_a_minute(clock, capsys):
    with cli.progress(12000, " titles", desc="extract", initial=2000) as bar:
        for _ in range(10):
            clock[0] += 25
            bar.update(1000)
    with cli.progress(None, " titles", desc="predict") as bar:
        clock[0] += 60
        bar.update(64)
        bar.update(64)
    assert capsys.readouterr().err.splitlines() == [
        "extract: 5,000 of 12,000 titles after 1 minute",
        "extract: 8,000 of 12,000 titles after 2 minutes",
        "extract: 11,000 of 12,000 titles after 3 minutes",
        "predict: 64 titles after 1 minute",
    ]


def test_what_takes_less_than_a_minute_or_is_to_be_quiet_has_no_lines(clock, capsys, monkeypatch):
    with cli.progress(10, " heads", desc="layer 2") as bar:
        clock[0] += 59
        bar.update(10)
    for hidden in (False, True):
        monkeypatch.setitem(cli.STATE, "quiet", hidden)
        with cli.progress(10, " heads", desc="layer 2", shown=hidden) as bar:
            clock[0] += 600
            bar.update(10)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with cli.progress(10, " titles", desc="extract") as bar:
        bar.update(10)
        bar.refresh()
    assert "extract: 100%" in terminal.getvalue() and "minute" not in terminal.getvalue()


def log_of(script, *arguments):
    """The lines on standard error of a script for which every look at the clock is 7 seconds later."""
    code = f"""
import runpy, sys, time
now = [0.0]
def monotonic():
    now[0] += 7
    return now[0]
time.monotonic = monotonic
sys.argv = {[f"{script}.py", *map(str, arguments)]!r}
runpy.run_path({str(ROOT / f"{script}.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_each_slow_script_shows_life_in_a_log(tmp_path, bert):
    titles = write_titles(tmp_path / "titles.csv", 120)
    features = tmp_path / "f"
    results = tmp_path / "r"
    encoder = ("--model", bert, "--dtype", "float32", "--layers", "2")
    log = log_of("extract", "--data", titles, *encoder, "--window", "4", "--out", features)
    assert any(re.fullmatch(r"extract: \d+ of 120 titles after \d+ minutes?", line) for line in log), log
    log = log_of("train", "--features", features, "--results", results, "--layers", "2")
    assert any(re.fullmatch(r"layer 2 \(cls\): \d+ of \d+ epochs after \d+ minutes?", line) for line in log), log
    (run,) = results.glob("*/config.json")
    out = tmp_path / "out.csv"
    log = log_of("predict", "--run", run.parent, "--csv", titles, "--out", out, "--window", "4")
    assert any(re.match(r"predict: \d+ .*titles after \d+ minutes?", line) for line in log), log


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line_with_a_way_on(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    titles = write_titles(tmp_path / "titles.csv")
    monkeypatch.setattr("fcntl.flock", refuse)
    words = (os.strerror(number), "name a folder on a disk of this machine")
    line = refused(call("extract", "--data", titles, "--model", "none", "--out", tmp_path / "f"), *words)
    assert str(tmp_path / "f") in line
    with pytest.raises(cli.Problem, match=words[1]), disk.locked(tmp_path / "results", "a training"):
        raise AssertionError("nothing is done without a lock")


def test_a_fault_of_what_is_done_under_a_lock_is_not_the_locks(tmp_path):
    with pytest.raises(OSError) as error, disk.locked(tmp_path, "it"):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    assert error.value.filename == str(tmp_path)
    with disk.locked(tmp_path, "it"):
        pass


def test_git_shows_nothing_of_what_the_scripts_leave_in_their_own_folders(tmp_path):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    for place in ("results/.lock", "results/run/config.json", "features/.lock", "titles/youtube.csv"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    shown = subprocess.run(status, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert shown == "?? .gitignore\n"
