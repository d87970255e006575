"""Interrupted extractions: whatever stops one, what is left is never taken for features, and the same command goes on.

`python tests/encoder/test_interrupted.py 200` kills 200 extractions at random and prints what came of it as markdown;
`python tests/encoder/test_interrupted.py 200 changed`, extractions of titles that have changed.
"""

import collections
import contextlib
import errno
import functools
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from conftest import ROOT, call, refused, write_bert, write_titles  # first: it lets the scripts be imported

# isort: split
import killing
import numpy as np
import pytest
from killing import die_at, torchrun

import extract
from whichlayer.common import cli, disk
from whichlayer.encoder import jobs, store

SETTINGS = ["--dtype", "float32", "--pooling", "cls", "mean", "--max-length", "6"]


def contents(folder):
    """{name: bytes} of a finished extraction, its manifest without what tells one run from another."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    manifest = json.loads(kept["manifest.json"])
    for key in ("made", "software", "checksum"):
        del manifest[key]
    return kept | {"manifest.json": manifest}


# --- killed at every moment ---------------------------------------------------------------------------------------


# extract.py in a fork of this process
forked = functools.partial(killing.forked, extract)


@pytest.fixture
def loaded(bert, monkeypatch):
    """The encoder is loaded once for all forks."""
    encoder = extract.load_encoder(bert, "cpu", "float32", 6, ("cls", "mean"))
    monkeypatch.setattr(extract, "load_encoder", lambda *_: encoder)


@pytest.mark.parametrize("added", [False, True], ids=["new", "added to a finished one"])
def test_an_extraction_killed_at_any_step_ends_with_the_same_bytes(tmp_path, bert, source, loaded, added):
    command = ["--data", source, "--model", bert, *SETTINGS, "--layers", 2, "--window", 30, "--out"]
    begun = tmp_path / "begun"
    out = tmp_path / "features"
    assert forked([*command, tmp_path / "whole"]).code == 0
    whole = contents(tmp_path / "whole")
    begun.mkdir()
    if added:
        assert forked([*command, begun, "--pooling", "mean"]).code == 0
    for step in itertools.count(1):
        shutil.copytree(begun, out)
        code = forked([*command, out], functools.partial(die_at, step, out)).code
        if code == 0:
            break
        assert code == -signal.SIGKILL
        there = {path.name for path in out.iterdir()}
        if "manifest.json" in there:
            features = store.open_features(out)
            for name in features.manifest.files:  # all that a manifest names is whole
                features.read(*store.column_of(name))
        else:
            state = "not finished" if "job.json" in there else "no features"
            with pytest.raises(cli.Problem, match=state):
                store.open_features(out)
        result = forked([*command, out])
        assert result.code == 0, (step, result.err)
        assert contents(out) == whole, step
        shutil.rmtree(out)
    assert step > 20


def change(path):
    """Change titles and labels of a file: a row edited, one label changed, rows removed, moved and appended."""
    header, *lines = Path(path).read_text().splitlines()
    lines[3] = "rome by night,travel"
    lines[5] = lines[5].rpartition(",")[0] + ",war"
    moved = lines[10:]
    Path(path).write_text("\n".join([header, *moved, *lines[:7], "a night market in rome,food"]) + "\n")


def state(folder):
    """The titles with their labels, and the features, as whoever opens a folder of features finds them."""
    features = store.open_features(folder)
    arrays = [features.read(*store.column_of(name)).tobytes() for name in features.manifest.files]
    return features.titles(), list(features.manifest.files), arrays


@pytest.mark.parametrize("kind", ["titles", "labels"])
def test_features_that_follow_titles_and_are_killed_at_any_step_are_old_or_new(tmp_path, bert, loaded, kind):
    source = write_titles(tmp_path / "titles.csv")
    command = ["--data", source, "--model", bert, *SETTINGS, "--window", 30, "--out"]
    before = tmp_path / "before"
    out = tmp_path / "features"
    assert forked([*command, before]).code == 0
    if kind == "labels":
        Path(source).write_text(Path(source).read_text().replace(",travel", ",trips"))
    else:
        change(source)
    shutil.copytree(before, tmp_path / "after")
    assert forked([*command, tmp_path / "after"]).code == 0
    after = contents(tmp_path / "after")
    states = [state(before), state(tmp_path / "after")]
    assert states[0] != states[1]
    found = collections.Counter()
    for step in itertools.count(1):
        shutil.copytree(before, out)
        code = forked([*command, out], functools.partial(die_at, step, out)).code
        if code == 0:
            break
        assert code == -signal.SIGKILL
        found[states.index(state(out))] += 1
        result = forked([*command, out])
        assert result.code == 0, (step, result.err)
        assert contents(out) == after, step
        shutil.rmtree(out)
    # the swap itself was met, too
    assert found[0] > 10 and found[1] > 4, found


def drill(kills, in_a_row=20, seed=0, rows=1170, window=32, changed=False):
    """Kill extractions at random steps until `kills` have died; those that finish are compared with a whole one.

    changed: whether they are of titles that have changed, in a folder of features of the earlier ones; then all that is
    opened on the way must be the old features or the new ones. Returns a report of it as markdown, and whether all
    files were the same.
    """
    started = time.time()
    chance = random.Random(seed)
    stages = collections.Counter()  # processes killed, by how far they had come
    most = 0  # kills in one extraction
    rounds = 0  # extractions
    same = True
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        titles = write_titles(scratch / "titles.csv", rows)
        bert = write_bert(scratch / "bert")
        command = ["--data", titles, "--model", bert, "--window", window, *SETTINGS, "--out"]
        assert forked([*command, scratch / "whole"]).code == 0
        states = []
        if changed:
            shutil.copytree(scratch / "whole", scratch / "before")
            change(titles)
            assert forked([*command, scratch / "whole"]).code == 0
            states = [state(scratch / "before"), state(scratch / "whole")]
        while stages.total() < kills:
            out = scratch / f"killed-{rounds}"
            if changed:
                shutil.copytree(scratch / "before", out)
            died = 0
            while died < in_a_row and stages.total() < kills:
                # one that copies opens more files
                step = chance.randrange(1, 400 if changed else 80)
                if forked([*command, out], functools.partial(die_at, step, out)).code == 0:
                    break
                stages[stage(out, states)] += 1
                died += 1
            assert forked([*command, out]).code == 0
            same = same and contents(out) == contents(scratch / "whole")
            shutil.rmtree(out)
            rounds += 1
            most = max(most, died)
    same = same and "neither the old features nor the new ones" not in stages
    what = "features that follow changed titles" if changed else "new features"
    rows = [
        ("processes killed (SIGKILL)", kills),
        ("most kills in one extraction", most),
        ("extractions, each finished in the end", rounds),
        ("windows in each", f"{-(-rows // window)} of {window} titles, {rows:,} in all"),
        *((f"killed {stage}", count) for stage, count in sorted(stages.items())),
        ("same bytes as an extraction that nobody stopped", "yes" if same else "NO"),
        ("seconds", round(time.time() - started)),
    ]
    text = f"""# Killed and resumed: {what}

{cli.markdown([":", ""], rows)}

Killed just before they opened, synced, renamed or deleted a file, at random. Compared are all files but the manifest's
`made`, `software` and `checksum`. The encoder is a random BERT of 2 layers. Each time the same command went on:

    python extract.py --data titles.csv --model bert --window {window} {" ".join(SETTINGS)} --out features

Made by:

    python tests/encoder/test_interrupted.py {kills}{" changed" if changed else ""}"""
    return text, same


def stage(out, states):
    """How far a killed extraction has come. states: see state, of the earlier titles and the changed ones."""
    if states:
        there = state(out)
        if there not in states:
            return "neither the old features nor the new ones"
        if there == states[1]:
            return "when the new features were there"
    windows = len(jobs.recorded(out / store.NEW if states else out).windows) // 10 * 10
    return f"with {windows} to {windows + 9} windows recorded"


# --- stopped, failed and crashed ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_titles(tmp_path_factory.mktemp("source") / "titles.csv")


@pytest.fixture
def go(tmp_path, bert, source):
    """Call extract.py on 60 titles in 9 windows, into the test's own `features` unless another --out is given."""
    command = ["--data", source, "--model", bert, *SETTINGS, "--window", 7, "--out", tmp_path / "features"]
    return lambda *options: call("extract", *command, *options)


@pytest.fixture
def whole(tmp_path, go):
    """What an extraction leaves that nobody stopped."""
    assert go("--out", tmp_path / "whole").code == 0
    made = contents(tmp_path / "whole")
    assert made["manifest.json"]["cost"]["tokens"] > 5  # what it is, test_cost.py says
    return made


@pytest.fixture
def stopped(tmp_path, go, monkeypatch):
    """An extraction that was stopped by Ctrl-C in its fifth window."""
    embed = extract.embed
    calls = []

    def interrupted(encoder, tokenised, *rest):
        calls.append(len(tokenised.place))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return embed(encoder, tokenised, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(extract, "embed", interrupted)
        result = go()
    assert result.code == 130 and len(result.err.splitlines()) == 2
    assert "stopped after 28 of 60 titles; the same command goes on" in result.err.splitlines()[-1]
    return tmp_path / "features"


def failed(result, *words):
    """Assert exit code 1 and one line, after what the features need: the machine's fault, not the user's."""
    *said, last = result.err.strip().splitlines()
    assert result.code == 1 and "Traceback" not in result.err, result.err
    assert not said or (len(said) == 1 and "GB free" in said[0]), result.err
    for word in words:
        assert word in last, (word, result.err)


def test_a_stopped_extraction_is_not_taken_for_features_and_goes_on(stopped, go, whole, monkeypatch):
    with pytest.raises(cli.Problem, match="not finished; the same extract.py command goes on"):
        store.open_features(stopped)
    embed = extract.embed
    computed = []

    def count(encoder, tokenised, *rest):
        computed.append(len(tokenised.place))
        return embed(encoder, tokenised, *rest)

    monkeypatch.setattr(extract, "embed", count)
    result = go()
    assert computed == [7, 7, 7, 7, 4], "windows that were safe were computed again"
    assert result.code == 0 and "going on after 28 of 60 titles" in result.err
    assert contents(stopped) == whole
    result = go()
    assert result.code == 0 and "holds all of that already" in result.err
    assert contents(stopped) == whole


def test_two_extractions_have_the_same_bytes(go, whole, tmp_path, bert):
    import transformers

    assert go().code == 0
    assert contents(tmp_path / "features") == whole
    features = store.open_features(tmp_path / "features")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    titles, _ = features.titles()
    long = sum(len(tokens) > 6 for tokens in tokenizer(titles).input_ids)
    assert features.manifest.truncated == long > 0
    assert features.manifest.made.command.startswith("python extract.py --data ")


@pytest.mark.parametrize("end", [b"\n4 7 1", b"\n4 7 12", b"\n4", b"\n", b"\0\0\xff\n"])
def test_a_torn_record_does_not_count(stopped, go, whole, end):
    """Window 4 with its 7 titles, 12 of them cut, was being recorded when the power failed."""
    with open(stopped / "done-00000.log", "ab") as log:
        log.write(end)
    assert "going on after 28 of 60 titles" in go().err
    assert contents(stopped) == whole


def test_how_long_all_of_it_will_take_is_said_after_the_first_window(request, go, monkeypatch):
    """By a clock that goes on 100 seconds whenever it is read: 9 windows, and the 5 that are left of another."""
    clock = itertools.count(0, 100)
    with monkeypatch.context() as patch:
        patch.setattr(extract, "time", SimpleNamespace(time=lambda: next(clock)))
        whole = go()
    assert whole.err.splitlines()[1] == "60 titles will take about 15 minutes", whole.err
    shutil.rmtree(request.getfixturevalue("tmp_path") / "features")
    request.getfixturevalue("stopped")
    monkeypatch.setattr(extract, "time", SimpleNamespace(time=lambda: next(clock)))
    result = go()
    assert result.err.splitlines()[:2] == [
        "going on after 28 of 60 titles",
        "32 titles will take about 8 minutes",
    ]
    assert "titles a second" in result.err.splitlines()[-1]


@pytest.mark.parametrize("finished", [False, True], ids=["some windows", "all windows"])
def test_windows_of_an_earlier_version_count_as_titles_but_not_for_the_mean_length(
    tmp_path, stopped, go, source, bert, monkeypatch, finished
):
    """Its records have no number of tokens. What it has written stays written."""
    import transformers

    def crash(*_, **__):
        raise OSError(28, "No space left on device")

    if finished:
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "finish", crash)
            assert go().code == 1
    log = stopped / "done-00000.log"
    lines = log.read_text().splitlines()
    # the number of the window, its titles, and those that were cut
    log.write_text("\n".join(" ".join(line.split()[:3]) + "." if line else line for line in lines))
    done = jobs.recorded(stopped)
    assert (done.titles, done.mean_tokens) == (60 if finished else 28, None)
    result = go()
    assert result.code == 0 and f"going on after {done.titles} of 60 titles" in result.err, result.err
    features = store.open_features(stopped)
    if finished:
        assert features.manifest.cost is None
    else:
        ids = transformers.AutoTokenizer.from_pretrained(bert)(features.titles()[0][28:]).input_ids
        assert features.manifest.cost.tokens == np.mean([min(len(each), 6) for each in ids])
    assert call("train", "--features", stopped, "--results", tmp_path / "r", "--head", "linear").code == 0


@pytest.mark.parametrize("name", ["done-00000.log", "titles.csv", "cls-02.npy"])
def test_an_unfinished_extraction_that_lost_a_file_goes_on_or_begins_again(stopped, go, whole, name):
    (stopped / name).unlink()
    assert go().code == 0 and contents(stopped) == whole


def test_a_disk_that_takes_no_manifest_costs_no_window(tmp_path, go, whole, monkeypatch):
    write = disk.write_json

    def crash(path, content):
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_json", crash)
        failed(go(), "No space left on device", "manifest.json")
    assert "going on after 60 of 60 titles" in go().err
    assert contents(tmp_path / "features") == whole


def test_records_that_a_crash_left_beside_the_manifest_do_not_stand_in_the_way(tmp_path, go, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "clear", lambda *_: None)
        assert go("--layers", "2").code == 0
    assert (tmp_path / "features" / "job.json").exists()
    assert go("--layers", "1").code == 0
    assert contents(tmp_path / "features") == whole


def test_layers_that_are_added_later_are_those_of_one_extraction(tmp_path, go, whole):
    out = tmp_path / "features"
    assert go("--layers", "2", "--pooling", "cls").code == 0
    old = (out / "cls-02.npy").stat()
    for options in (["--layers", "1", "--pooling", "cls"], ["--layers", "2", "--pooling", "mean"], []):
        assert go(*options).code == 0
    assert contents(out) == whole
    assert (out / "cls-02.npy").stat().st_mtime_ns == old.st_mtime_ns, "a file that was there was written again"


@pytest.fixture(scope="module")
def others(tmp_path_factory, source):
    """Another encoder and other titles."""
    folder = tmp_path_factory.mktemp("others")
    Path(folder / "other.csv").write_text(Path(source).read_text().replace("best", "worst").replace("how", "when"))
    return {"MODEL": write_bert(folder / "other-bert", seed=1), "TITLES": str(folder / "other.csv")}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize(
    "options, words",
    [
        (["--model", "MODEL"], ["encoder weights", "other-bert"]),
        (["--data", "TITLES"], ["titles", "other.csv"]),
        (["--max-length", "9"], ["max_length (6, now 9)"]),
        (["--dtype", "bfloat16"], ["dtype (float32, now bfloat16)"]),
        (["--store", "float16"], ["store (float32, now float16)"]),
        (["--window", "8"], ["window (7, now 8)"]),
    ],
)
def test_other_settings_do_not_mix_with_what_is_there(request, go, others, finished, options, words):
    if finished:
        assert go().code == 0
        folder = request.getfixturevalue("tmp_path") / "features"
    else:
        folder = request.getfixturevalue("stopped")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    line = refused(go(*(others.get(option, option) for option in options)), str(folder), *words, "--out")
    assert ("unfinished" in line) == (not finished)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_other_layers_wait_for_an_unfinished_extraction(stopped, go, whole):
    refused(go("--layers", "1"), "unfinished extraction of cls-02.npy", "the command that began it", "--out")
    assert go().code == 0 and contents(stopped) == whole


@pytest.mark.parametrize("name", ["cls-01.npy", "done-00000.log"])
def test_files_of_others_in_a_folder_of_features_are_not_replaced(tmp_path, go, name):
    assert go("--layers", "2").code == 0
    path = tmp_path / "features" / name
    path.write_text("mine")
    refused(go("--layers", "1"), str(path), "in the way", "move it")
    assert path.read_text() == "mine" and store.open_features(tmp_path / "features").layers("cls") == [2]


def test_titles_of_a_finished_extraction_are_not_replaced(tmp_path, go):
    assert go("--layers", "2").code == 0
    path = tmp_path / "features" / "titles.csv"
    before = path.stat()
    assert go("--layers", "1").code == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    flip(path, 30)
    refused(go("--layers", "1"), "titles.csv", "changed since the extraction")


# --- damaged features ---------------------------------------------------------------------------------------------


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: flip(p, -1),
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: p.unlink(),
        lambda p: np.save(p, np.zeros((60, 24), np.float16)),
        lambda p: np.save(p, np.zeros((24, 60), np.float32)),
        lambda p: np.save(p, np.zeros((60, 24), np.float32)),
        lambda p: np.save(p, np.array([{"a": 1}] * 60), allow_pickle=True),
    ],
    ids=["last bit", "cut", "gone", "type", "shape", "values", "pickle"],
)
def test_a_damaged_layer_is_refused_by_name(features, damage):
    damage(features / "cls-02.npy")
    with pytest.raises(cli.Problem, match=rf"{features / 'cls-02.npy'}: .* extract again"):
        store.open_features(features).read("cls", 2)
    assert store.open_features(features).read("mean", 2).shape == (60, 24)


def test_a_pickle_of_the_right_size_is_not_read(features, tmp_path):
    path = features / "cls-02.npy"
    ran = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    size = path.stat().st_size
    np.save(path, np.array([Harm()], dtype=object), allow_pickle=True)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    with pytest.raises(cli.Problem, match="cls-02.npy"):
        store.open_features(features).read("cls", 2, check=False)
    assert not ran.exists()


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda t: t.replace('"rows": 60', '"rows": 59'), ["edited or damaged"]),
        (lambda t: t[: len(t) // 2], ["not a manifest"]),
        (lambda t: "[]", ["not a manifest"]),
        (lambda t: "[" * 100_000, ["not a manifest"]),
        (lambda t: "{}", ["not a manifest", "name another folder"]),
        (lambda t: t.replace('"format": 1', '"format": 99'), ["format 99", "delete the folder"]),
    ],
    ids=["edited", "cut", "list", "deep", "of another program", "newer"],
)
def test_a_damaged_manifest_is_refused_by_name(features, go, damage, words):
    path = features / "manifest.json"
    path.write_text(damage(path.read_text()))
    refused(go(), str(path), *words)


def test_changed_titles_are_refused_by_name(features):
    flip(features / "titles.csv", 30)
    with pytest.raises(cli.Problem, match="titles.csv: gone or changed"):
        store.open_features(features).titles()


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
import sys, time, extract
from whichlayer.common import cli
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


@STOPS
def test_who_stops_an_extraction_reads_how_many_titles_are_safe_and_one_works_in_a_folder(
    tmp_path, bert, source, go, whole, sign, code
):
    out = tmp_path / "features"
    command = ["-c", HOLD, "--data", source, "--model", bert, *SETTINGS, "--window", 7, "--out", out]
    # it stays in the fifth window
    with running(command, lambda: jobs.recorded(out).titles == 28, cwd=ROOT) as first:
        refused(go(), str(out), "is running")
        assert first.poll() is None
        first.send_signal(sign)
        _, errors = first.communicate(timeout=300)
    assert first.returncode == code
    assert errors.splitlines()[1:] == ["-c: stopped after 28 of 60 titles; the same command goes on from there"]
    result = go()
    assert result.code == 0 and "going on after 28 of 60 titles" in result.err
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


TRAIN = f"""
import pathlib, sys, time, train
from whichlayer.common import cli
finish = train.finish
def hold(*outcome):
    finish(*outcome)
    pathlib.Path(sys.argv.pop()).touch()
    {WAIT}
train.finish = hold
words = sys.argv[1:-1]
cli.launch(train.main, cli.begin(lambda: train.parse_arguments(words)))
"""


@STOPS
def test_who_stops_a_training_reads_that_what_is_finished_is_kept(tmp_path, features, sign, code):
    given = ["--features", features, "--results", tmp_path / "r", "--each", "--head", "linear", "--folds", 2]
    with running(["-c", TRAIN, *given, tmp_path / "one"], (tmp_path / "one").exists, cwd=ROOT) as training:
        training.send_signal(sign)
        _, errors = training.communicate(timeout=300)
    said = "-c: stopped; what is finished is kept, nothing half-written is left behind, and the same command goes on"
    assert training.returncode == code and errors.splitlines()[-1] == said
    assert "1 of 2 runs trained" in call("train", *given).err


def test_the_lock_of_a_killed_process_does_not_last(tmp_path):
    code = "import pathlib, time\nfrom whichlayer.common import disk\n"
    code += "with disk.locked('.', 'it'):\n pathlib.Path('held').touch()\n time.sleep(600)"
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    with running(["-c", code], (tmp_path / "held").exists, **options) as holder:
        with pytest.raises(cli.Problem, match="is running"), disk.locked(tmp_path, "it"):
            pass
        holder.kill()
        holder.wait()
        with disk.locked(tmp_path, "it"):
            pass


@pytest.mark.parametrize("limit", [1000, 4096], ids=["titles", "features"])
def test_a_file_system_that_takes_no_more_is_reported_and_left_clean(tmp_path, bert, source, loaded, limit):
    """A limit on the size of files fails like a full disk: first where the titles are copied, then for a layer."""
    command = ["--data", source, "--model", bert, *SETTINGS, "--out", tmp_path / "features"]
    result = forked(command, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    failed(result, "File too large", str(tmp_path / "features"))
    assert [path.name for path in (tmp_path / "features").iterdir()] == [".lock"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_seen_before_anything_is_computed(small_disk, go, monkeypatch):
    refused(go("--out", small_disk / "f"), str(small_disk / "f"), "GB free", "--store float16")
    assert [path.name for path in (small_disk / "f").iterdir()] == [".lock"]
    # another one takes it meanwhile
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    failed(go("--out", small_disk / "f"), "No space left on device", str(small_disk / "f"))
    assert [path.name for path in (small_disk / "f").iterdir()] == [".lock"]


def test_a_folder_of_other_things_is_not_taken_over(tmp_path, go, source):
    (tmp_path / "mine").mkdir()
    files = {"titles.csv": "title,category,note\nmy own file,a,b\n", ".manifest.json.backup.tmp": "mine, too"}
    for name, text in files.items():
        (tmp_path / "mine" / name).write_text(text)
    refused(go("--out", tmp_path / "mine"), "mine", "other files", "titles.csv")
    assert {path.name: path.read_text() for path in (tmp_path / "mine").iterdir()} == files


def test_a_file_of_which_nothing_is_left_is_not_said_to_be_two(tmp_path, go, source):
    mine = tmp_path / "mine.csv"
    shutil.copy(source, mine)
    assert go("--data", mine, "--out", tmp_path / "f").code == 0
    mine.write_text("title,category\n" + "".join(f"quite another {i},{'ab'[i % 2]}\n" for i in range(60)))
    refused(go("--data", mine, "--out", tmp_path / "f"), "with other titles (mine.csv as it was before)")


def test_a_disk_that_cannot_reserve_room_is_used_all_the_same(tmp_path, go, source, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    assert go("--out", tmp_path / "f").code == 0


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, go, source):
    failed(go("--out", "/proc/none/features"), "/proc/none")
    failed(go("--out", f"{source}/features"), source)


def test_two_processes_follow_changed_titles_with_the_bytes_of_one(tmp_path, bert, go):
    source = write_titles(tmp_path / "titles.csv")
    assert go("--data", source).code == 0
    shutil.copytree(tmp_path / "features", tmp_path / "two")
    change(source)
    assert go("--data", source).code == 0
    two = torchrun("extract", "--data", source, "--model", bert, *SETTINGS, "--window", 7, "--out", tmp_path / "two")
    assert two.returncode == 0 and two.stderr.count("58 titles: 56 kept, 2 new, 4 gone, 1 label changed") == 1
    one, shared = contents(tmp_path / "features"), contents(tmp_path / "two")
    assert shared["manifest.json"]["machine"].pop("processes") == 2
    assert one["manifest.json"]["machine"].pop("processes") == 1
    assert shared == one


def test_two_processes_have_the_bytes_of_one(tmp_path, bert, source, go, whole):
    two = torchrun("extract", "--data", source, "--model", bert, *SETTINGS, "--window", 7, "--out", tmp_path / "two")
    assert two.returncode == 0 and two.stderr.count("on 2 processes") == 1, two.stderr
    shared = contents(tmp_path / "two")
    assert shared["manifest.json"]["machine"].pop("processes") == 2
    assert whole["manifest.json"]["machine"].pop("processes") == 1
    assert shared == whole


def test_a_refusal_ends_all_processes(tmp_path, bert, source):
    result = torchrun(
        "extract", "--data", source, "--model", bert, *SETTINGS, "--layers", 9, "--out", tmp_path / "features"
    )
    assert result.returncode != 0
    assert sum("extract.py: --layers 9: " in line for line in result.stderr.splitlines()) == 1, result.stderr
    assert "[rank" not in result.stderr and 'extract.py", line' not in result.stderr, "a traceback of ours"
    assert not (tmp_path / "features" / "manifest.json").exists()


if __name__ == "__main__":
    REPORT, SAME = drill(int(sys.argv[1]) if sys.argv[1:] else 20, changed="changed" in sys.argv)
    print(REPORT)
    sys.exit(0 if SAME else 1)
