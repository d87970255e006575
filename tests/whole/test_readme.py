"""What the README shows of the four commands is what they print, and its other commands have options that exist."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, call

from whichlayer.encoder.loading import find_model

README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def blocks(heading):
    """The commands of a section, each with the lines that the README shows of what it prints."""
    section = README.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = []
    for line in section.splitlines():
        if line.startswith("    # "):
            found[-1][1].append(line.removeprefix("    # "))
        elif line.startswith("    "):
            found.append((line.strip(), []))
    return found


def agrees(shown, printed):
    """Whether a line is what the README shows: the same words, and numbers that another processor might give."""
    shown = " ".join(shown.split())
    printed = " ".join(printed.split())
    words = [re.escape(part) for part in re.split(r"…|" + NUMBER.pattern, shown)]
    gaps = re.findall(r"…|" + NUMBER.pattern, shown)
    pattern = words[0]
    for gap, word in zip(gaps, words[1:], strict=True):
        pattern += (".*" if gap == "…" else f"({NUMBER.pattern})") + word
    match = re.fullmatch(pattern, printed)
    if not match:
        return False
    wanted = [float(gap.replace(",", "")) for gap in gaps if gap != "…"]
    there = [float(number.replace(",", "")) for number in match.groups()]
    return all(abs(a - b) <= max(0.02, 0.05 * a) for a, b in zip(wanted, there, strict=True))


def test_lines_that_agree_and_lines_that_do_not():
    assert agrees("macro-F1 0.86, … done", "macro-F1  0.87, 5 s, done")
    assert not agrees("macro-F1 0.86, … done", "macro-F1 0.96, 5 s, done")
    assert not agrees("macro-F1 0.86", "log loss 0.86")


def test_the_four_commands_print_what_the_readme_shows(tmp_path, monkeypatch):
    try:
        find_model("minilm")
    except Exception as error:
        pytest.skip(f"minilm is not installed: {error}")
    # as in a clone that holds no results yet
    (tmp_path / "titles").symlink_to(ROOT / "titles")
    monkeypatch.chdir(tmp_path)
    commands = blocks("Your own titles")
    assert [command.split()[1] for command, _ in commands] == ["extract.py", "train.py", "evaluate.py", "predict.py"]
    for command, shown in commands:
        script, *arguments = shlex.split(command)[1:]
        done = call(script.removesuffix(".py"), *arguments)
        assert done.code == 0, done.err
        printed = (done.out + done.err).splitlines()
        assert shown, command
        for line in shown:
            assert any(agrees(line, other) for other in printed), (line, printed)


def test_every_option_of_a_command_in_the_readme_exists():
    for script, rest in re.findall(r"python (\w+\.py)([^\n#]*)", README):
        help_text = subprocess.run([sys.executable, ROOT / script, "--help"], text=True, capture_output=True).stdout
        for option in re.findall(r"--[a-z][a-z-]*", rest):
            assert option in help_text, (script, option)


def test_the_readme_stays_short_and_every_file_that_it_links_to_is_there():
    assert README.count("\n") <= 130 and len(README.split()) <= 1400
    for place in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / place).exists(), place
