"""Interrupted extractions: what is left is never taken for features, and the same command goes on."""

import contextlib
import functools
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT, call, refused, write_bert, write_titles  # first: it lets the scripts be imported

# isort: split
import killing
import numpy as np
import pytest
from killing import die_at, torchrun

import extract
from whichlayer.common import cli, disk, windows
from whichlayer.encoder import store

SETTINGS = ["--dtype", "float32", "--max-length", "6"]


def contents(folder):
    """{name: bytes} of a finished extraction, its manifest without what tells one run from another."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = json.loads(kept["manifest.json"])
    for key in ("made", "software", "machine", "checksum"):
        del manifest[key]
    return kept | {"manifest.json": manifest}


def state(folder):
    """The titles and features as whoever opens a folder finds them, every byte checked; None: there are none."""
    try:
        features = store.open_features(folder)
    except cli.Problem:
        return None
    arrays = [features.read(*store.column_of(name)).tobytes() for name in features.files]
    return features.titles(), list(features.files), arrays


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_titles(tmp_path_factory.mktemp("source") / "titles.csv")


@pytest.fixture(scope="module")
def encoder(bert):
    """The encoder, loaded once."""
    return extract.load_encoder(bert, "cpu", "float32", 6, ("cls", "mean"))


@pytest.fixture
def go(tmp_path, bert, source, monkeypatch):
    """Call extract.py on 60 titles in 9 windows, into the test's own `features` unless another --out is given."""
    monkeypatch.setattr(windows, "WINDOW", 7)
    command = ["--data", source, "--model", bert, *SETTINGS, "--out", tmp_path / "features"]
    return lambda *options: call("extract", *command, *options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bert, source):
    """What an extraction leaves that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "features"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "WINDOW", 7)
        assert call("extract", "--data", source, "--model", bert, *SETTINGS, "--out", out).code == 0
    return contents(out)


# --- killed at every moment ---------------------------------------------------------------------------------------


def edit_titles(text):
    """A row edited, one label changed, rows removed, moved and appended."""
    header, *lines = text.splitlines()
    lines[3] = "rome by night,travel"
    lines[5] = lines[5].rpartition(",")[0] + ",war"
    return "\n".join([header, *lines[10:], *lines[:7], "a night market in rome,food"]) + "\n"


def edit_labels(text):
    return text.replace(",travel", ",trips")


# options of the features that are there, if any, and what has changed in the titles since
ONE = ["--pooling", "mean"]
CASES = {
    "new": (None, ONE, None),
    "added": (ONE, ["--pooling", "cls"], None),
    "titles": (ONE, ONE, edit_titles),
    "labels": (ONE, ONE, edit_labels),
}


@pytest.mark.parametrize("case", CASES)
def test_an_extraction_killed_at_any_step_ends_with_the_same_bytes(tmp_path, bert, encoder, monkeypatch, case):
    """On the way, who opens the folder finds the earlier features, or the new ones, whole."""
    monkeypatch.setattr(extract, "load_encoder", lambda *_: encoder)
    monkeypatch.setattr(windows, "WINDOW", 30)
    before, options, edit = CASES[case]
    source = Path(write_titles(tmp_path / "titles.csv"))
    command = ["--data", source, "--model", bert, *SETTINGS, *options, "--layers", 2, "--out"]
    forked = functools.partial(killing.forked, extract)
    begun = tmp_path / "begun"
    begun.mkdir()
    if before:
        assert forked([*command, begun / "features", *before]).code == 0
    if edit:
        source.write_text(edit(source.read_text()))
    shutil.copytree(begun, tmp_path / "whole")
    assert forked([*command, tmp_path / "whole" / "features"]).code == 0
    expected = contents(tmp_path / "whole" / "features")
    states = [state(begun / "features"), state(tmp_path / "whole" / "features")]
    met = []
    # every second one: the drills kill at any
    for step in itertools.count(1, 2):
        place = tmp_path / f"{step}"
        shutil.copytree(begun, place)
        out = place / "features"
        code = forked([*command, out], functools.partial(die_at, step, "features")).code
        if code == 0:
            break
        assert code == -signal.SIGKILL
        met.append(states.index(state(out)))
        result = call("extract", *command, out)
        assert result.code == 0, (step, result.err)
        assert contents(out) == expected, step
        assert [path.name for path in place.iterdir()] == ["features"], step
        shutil.rmtree(place)
    # once new, they stay new; and the swap itself was met
    assert met == sorted(met) and met.count(0) > 5 and met.count(1) > 2, met


# --- stopped, failed and crashed ----------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path, go, monkeypatch):
    """An extraction that was stopped by Ctrl-C in its fifth window: its folder."""
    embed = extract.embed
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return embed(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(extract, "embed", interrupted)
        result = go()
    assert result.code == 130, result.err
    assert result.err.startswith("extract.py: stopped; ") and result.err.endswith("the same command goes on\n")
    return tmp_path / "features"


# window 4 with its 7 titles, 12 of them cut, was being recorded when the power failed
@pytest.mark.parametrize("end", [b"", b"\n4 7 1", b"\n4 7 12", b"\0\0\xff\n"])
def test_a_stopped_extraction_is_not_taken_for_features_and_goes_on(stopped, go, whole, encoded, end):
    with pytest.raises(cli.Problem, match="go on with the command that began them"):
        store.open_features(stopped)
    with open(disk.beside(stopped) / "done-00000.log", "ab") as log:
        log.write(end)
    result = go()
    assert encoded == [7, 7, 7, 7, 4], "windows that were safe were computed again"
    assert result.code == 0 and "going on after 28 of 60 titles" in result.err
    assert contents(stopped) == whole
    assert "holds all of that already" in go().err
    assert contents(stopped) == whole


def test_layers_that_are_added_later_are_those_of_one_extraction(tmp_path, go, whole):
    out = tmp_path / "features"
    assert go("--layers", "2", "--pooling", "cls").code == 0
    old = (out / "cls-02.npy").stat()
    for options in (["--layers", "1", "--pooling", "cls"], ["--layers", "2", "--pooling", "mean"], []):
        assert go(*options).code == 0
    assert contents(out) == whole
    assert (out / "cls-02.npy").stat().st_ino == old.st_ino, "a file that was there was written again"


@pytest.fixture(scope="module")
def others(tmp_path_factory, source):
    """Options that ask for something else, and how it is called."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "other.csv").write_text(Path(source).read_text().replace("best", "worst").replace("how", "when"))
    return {
        "encoder weights": ["--model", write_bert(folder / "other-bert", seed=1)],
        "titles": ["--data", folder / "other.csv"],
        "max_length": ["--max-length", "9"],
        "dtype": ["--dtype", "bfloat16"],
        "store": ["--store", "float16"],
    }


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
def test_other_settings_do_not_mix_with_what_is_there(request, go, tmp_path, others, whole, finished):
    if finished:
        assert go().code == 0
    else:
        request.getfixturevalue("stopped")
        others = others | {"layers": ["--layers", "1"]}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for word, options in others.items():
        line = refused(go(*options), str(tmp_path / "features"), word)
        assert ("unfinished" in line) == (not finished)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert go().code == 0 and contents(tmp_path / "features") == whole


def test_files_of_others_are_neither_replaced_nor_lost(tmp_path, go, whole):
    out = tmp_path / "features"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".titles.csv").write_text("title,category\nmy own file,a\n")
    refused(go("--out", mine), "mine", "other files")
    assert [path.name for path in mine.iterdir()] == [".titles.csv"]
    assert go("--layers", "2").code == 0
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("mine")
    assert go().code == 0
    assert [path.name for path in (out / "notes").iterdir()] == ["mine.txt"]
    shutil.rmtree(out / "notes")
    assert contents(out) == whole


def test_a_folder_whose_place_cannot_be_taken_is_refused(tmp_path, go, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (".", "/proc", source):
        refused(go("--out", place), f"--out {place}", "name ")
    for place in ("/proc/none/features", f"{source}/features"):
        result = go("--out", place)
        assert result.code == 1 and len(result.err.splitlines()) == 1, result.err


# --- damaged features ---------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path, kept):
    """A copy of features, to be damaged."""
    return Path(shutil.copytree(kept.features, tmp_path / "features"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: flip(p, -1),
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: p.unlink(),
        lambda p: np.save(p, np.zeros((90, 24), np.float16)),
        lambda p: np.save(p, np.zeros((24, 90), np.float32)),
    ],
    ids=["last bit", "cut", "gone", "type", "shape"],
)
def test_a_damaged_layer_is_refused_by_name(damaged, damage):
    damage(damaged / "cls-02.npy")
    with pytest.raises(cli.Problem, match=rf"{damaged / 'cls-02.npy'}: .* make it again"):
        store.open_features(damaged).read("cls", 2)
    assert store.open_features(damaged).read("mean", 2).shape == (90, 24)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda t: t.replace('"rows": 90', '"rows": 59'), ["edited or damaged"]),
        (lambda t: t[: len(t) // 2], ["not a manifest"]),
        (lambda t: "[" * 100_000, ["not a manifest"]),
        (lambda t: t.replace('"format": 2', '"format": 1'), ["format 1"]),
    ],
    ids=["edited", "cut", "deep", "of 0.7.0"],
)
def test_a_damaged_manifest_is_refused_by_name(damaged, go, damage, words):
    path = damaged / "manifest.json"
    path.write_text(damage(path.read_text()))
    refused(go(), str(path), *words)


def test_changed_titles_are_refused_by_name(damaged):
    flip(damaged / "titles.csv", 30)
    with pytest.raises(cli.Problem, match="titles.csv: gone or changed"):
        store.open_features(damaged).titles()


# --- processes of their own ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(command, sign, **options):
    """A process that has come so far that sign() holds; whatever happens, it is gone in the end."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    try:
        until = time.time() + 300
        while not sign():
            assert process.poll() is None, process.communicate()
            assert time.time() < until, "the process does not begin"
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.communicate()


# a signal that comes just before a long sleep begins is only seen after it: many short ones instead
WAIT = "for _ in range(6000): time.sleep(0.1)"
HOLD = f"""
import time, extract
from whichlayer.common import cli, windows
windows.WINDOW = 7
embed = extract.embed
calls = []
def hold(*arguments):
    calls.append(1)
    if len(calls) == 5:
        {WAIT}
    return embed(*arguments)
extract.embed = hold
cli.launch(extract.main, cli.begin(extract.parse_arguments))
"""
STOPS = pytest.mark.parametrize("sign, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])


def test_who_stops_an_extraction_reads_how_many_titles_are_safe_and_one_works_in_a_folder(
    tmp_path, bert, source, go, whole
):
    out = tmp_path / "features"
    command = ["-c", HOLD, "--data", source, "--model", bert, *SETTINGS, "--out", out]
    # it stays in the fifth window
    with running(command, lambda: len(windows.recorded(disk.beside(out))) == 4, cwd=ROOT) as first:
        refused(go(), "features", "is running")
        first.send_signal(signal.SIGTERM)
        _, errors = first.communicate(timeout=300)
    assert first.returncode == 143
    assert errors.startswith("-c: stopped; ") and errors.count("\n") == 1
    assert "going on after 28 of 60 titles" in go().err
    assert contents(out) == whole


@STOPS
def test_who_stops_a_script_during_the_slow_imports_sees_no_traceback(tmp_path, sign, code):
    slow = f"import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\n{WAIT}\n"
    (tmp_path / "torch.py").write_text(slow)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    with running([ROOT / "extract.py"], (tmp_path / "begun").exists, env=environment) as script:
        script.send_signal(sign)
        _, errors = script.communicate(timeout=300)
    assert script.returncode == code and errors == "extract.py: stopped\n"


@pytest.mark.parametrize("limit", [1000, 4096], ids=["titles", "features"])
def test_a_file_system_that_takes_no_more_is_reported_and_left_clean(
    tmp_path, bert, source, encoder, monkeypatch, limit
):
    """A limit on the size of files fails like a full disk: first where the titles are copied, then for a layer."""
    monkeypatch.setattr(extract, "load_encoder", lambda *_: encoder)
    command = ["--data", source, "--model", bert, *SETTINGS, "--out", tmp_path / "features"]
    limits = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    result = killing.forked(extract, command, limits)
    assert result.code == 1 and len(result.err.splitlines()) == 1, result.err
    assert "File too large" in result.err
    assert not list(tmp_path.iterdir())


def test_two_processes_have_the_bytes_of_one(tmp_path, bert, go):
    """Half of the titles are new, the others have changed."""
    source = Path(write_titles(tmp_path / "titles.csv", rows=30))
    assert go("--data", source).code == 0
    shutil.copytree(tmp_path / "features", tmp_path / "two")
    source.write_text(edit_titles(Path(write_titles(source)).read_text()))
    two = torchrun("extract", "--data", source, "--model", bert, *SETTINGS, "--out", tmp_path / "two", window=7)
    assert two.returncode == 0 and two.stderr.count("Next: ") == 1, two.stderr
    assert two.stderr.count("58 titles: 26 kept, 32 to encode") == 1, two.stderr
    assert go("--data", source).code == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "features")
    assert store.open_features(tmp_path / "two").machine["processes"] == 2


def test_a_refusal_ends_all_processes(tmp_path, bert, source):
    result = torchrun(
        "extract", "--data", source, "--model", bert, *SETTINGS, "--layers", 9, "--out", tmp_path / "features"
    )
    assert result.returncode != 0
    assert result.stderr.count(": --layers 9: ") == 1, result.stderr
    assert "[rank" not in result.stderr and 'extract.py", line' not in result.stderr, "a traceback of ours"
    assert not list(tmp_path.iterdir())
