"""Interrupted extractions: whatever stops one, what is left is never taken for features, and the same command goes on.

KILLS=200 kills as many extractions in the test. `python tests/test_interrupted.py 200` does the same and prints what came
of it as markdown.
"""

import collections
import contextlib
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

import conftest  # first: it lets the scripts be imported
import numpy as np
import pytest
from conftest import ROOT, call, refused, write_bert, write_titles

import cli
import store

SETTINGS = ["--dtype", "float32", "--pooling", "cls", "mean", "--max-length", "6"]


# --- killed at random moments -------------------------------------------------------------------------------------


def contents(folder):
    """{name: bytes} of a finished extraction, its manifest without what tells one run from another."""
    kept = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    manifest = json.loads(kept["manifest.json"])
    return kept | {"manifest.json": json.dumps({k: v for k, v in manifest.items() if k not in ("made", "checksum")})}


def stage(out):
    """How far an extraction has come that was killed, as (what it was doing, windows that it had recorded)."""
    import extract

    if not (out / "partial" / "job.json").exists():
        return ("deleting what is no longer needed" if (out / "manifest.json").exists() else "checking the titles"), 0
    windows = len(extract.recorded(out / "partial"))
    if (out / "manifest.json").exists():
        return "deleting what is no longer needed", windows
    if any(out.glob("*.npy")):
        return "giving the files their final names", windows
    return "computing", windows


def begin(arguments):
    """Run extract.py in a child process that is a fork of this one; returns its id when its encoder is loaded."""
    import extract

    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            import torch

            torch.set_num_threads(1)  # a fork cannot use the threads of its parent
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            load = extract.load_encoder

            def load_and_tell(*args):
                encoder = load(*args)
                os.write(writable, b"!")
                return encoder

            extract.load_encoder = load_and_tell
            cli.launch(extract.main, extract.parse_arguments(arguments))
            code = 0
        except SystemExit as exit:
            code = exit.code
        finally:
            os._exit(code)
    os.close(writable)
    loaded = os.read(readable, 1)
    os.close(readable)
    assert loaded, f"extract.py could not begin: {os.waitpid(child, 0)}"
    return child


def kill_again_and_again(kills, in_a_row=20, seed=0, rows=1170, window=32):
    """Kill extractions until `kills` have died, going on after each, and compare each one that was finished at last.

    The moment of a kill is uniformly random over a share of the work that is left, chosen so that one extraction dies
    about `in_a_row` times; the last three times at its very end. Nothing is computed in this process: it only forks, kills, looks and compares.
    """
    import transformers  # so that no fork has to import it

    transformers.BertModel, transformers.BertTokenizer, transformers.AutoModel, transformers.AutoTokenizer

    chance, started, ended = random.Random(seed), time.time(), os.WEXITED | os.WNOHANG | os.WNOWAIT
    windows = -(-rows // window)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        titles = write_titles(scratch / "titles.csv", rows)
        if (child := os.fork()) == 0:
            write_bert(scratch / "bert", layers=4, hidden=96)
            os._exit(0)
        os.waitpid(child, 0)
        command = ["--data", titles, "--model", str(scratch / "bert"), "--window", str(window), *SETTINGS, "--out"]
        begun = begin([*command, str(scratch / "whole")])
        since = time.time()
        assert os.waitpid(begun, 0)[1] == 0
        each = (time.time() - since) / windows
        whole = contents(scratch / "whole")
        died, longest, rounds, same = collections.Counter(), 0, 0, True
        while died.total() < kills:
            out, row, before, alive = scratch / f"killed-{rounds}", 0, 0, True
            while alive:
                left = min(in_a_row - row, kills - died.total())
                child = begin([*command, str(out)])
                if left > 3:
                    time.sleep(chance.uniform(0, each * (2 * (windows - before) / left + 2)))
                elif left > 0:  # the last ones die while their files get final names, or just after
                    while not any(out.glob("*.npy")) and os.waitid(os.P_PID, child, ended) is None:
                        time.sleep(0.001)
                    time.sleep(chance.uniform(0, each / 2))
                if left > 0:
                    os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                alive = os.WIFSIGNALED(status)
                if alive:
                    doing, now = stage(out)
                    assert now >= before or doing.startswith("deleting"), f"{before - now} recorded windows were lost"
                    assert doing.startswith("deleting") == (out / "manifest.json").exists()
                    died[doing] += 1
                    row, before = row + 1, now
                assert alive or status == 0, f"extract.py ended with {os.waitstatus_to_exitcode(status)}"
            same = same and contents(out) == whole
            shutil.rmtree(out)
            rounds, longest = rounds + 1, max(longest, row)
    return {
        "killed": died.total(),
        "longest": longest,
        "extractions": rounds,
        "windows": windows,
        "same": same,
        "stages": dict(died),
        "seconds": time.time() - started,
        "window": window,
        "rows": rows,
    }


def report(outcome):
    """The outcome of kill_again_and_again as markdown."""
    rows = [
        ("processes killed (SIGKILL)", f"{outcome['killed']:,}"),
        ("most kills in one extraction", outcome["longest"]),
        ("extractions, each finished in the end", outcome["extractions"]),
        ("windows in each", f"{outcome['windows']} of {outcome['window']} titles, {outcome['rows']:,} in all"),
        *((f"killed while {stage}", count) for stage, count in sorted(outcome["stages"].items())),
        ("same bytes as an extraction that nobody stopped", "yes" if outcome["same"] else "NO"),
        ("seconds", f"{outcome['seconds']:.0f}"),
    ]
    options = " ".join(SETTINGS)
    return "\n".join(
        [
            "# Killed and resumed",
            "",
            "| | |",
            "|---|---|",
            *(f"| {what} | {value} |" for what, value in rows),
            "",
            "Compared are all files but the manifest's `made` and `checksum`. The encoder is a random BERT of 4 layers. "
            "Each time the same command went on:",
            "",
            f"    python extract.py --data titles.csv --model bert --window {outcome['window']} {options} --out features",
            "",
            "Made by:",
            "",
            f"    python tests/test_interrupted.py {outcome['killed']}",
        ]
    )


def test_killed_extractions_end_with_the_same_bytes():
    kills = int(os.environ.get("KILLS", 20))
    drill = subprocess.run(
        [sys.executable, __file__, str(kills)], text=True, capture_output=True, timeout=60 + 3 * kills
    )
    print(drill.stdout)
    assert drill.returncode == 0, drill.stderr
    assert f"| processes killed (SIGKILL) | {kills:,} |" in drill.stdout
    assert "| same bytes as an extraction that nobody stopped | yes |" in drill.stdout


# --- stopped, failed and crashed ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_titles(tmp_path_factory.mktemp("source") / "titles.csv")


@pytest.fixture
def go(tmp_path, bert, source):
    """Call extract.py on 60 titles in 9 windows, into the test's own `features` unless another --out is given."""

    def extraction(*options):
        return call(
            "extract",
            "--data",
            source,
            "--model",
            bert,
            *SETTINGS,
            "--window",
            7,
            "--out",
            tmp_path / "features",
            *options,
        )

    return extraction


@pytest.fixture
def whole(tmp_path, go):
    """What an extraction leaves that nobody stopped."""
    assert go("--out", tmp_path / "whole").code == 0
    return contents(tmp_path / "whole")


@pytest.fixture
def stopped(tmp_path, go, monkeypatch):
    """An extraction that was stopped by Ctrl-C in its fifth window."""
    import extract

    embed, calls = extract.embed, []

    def interrupted(encoder, tokenised, *rest):
        calls.append(len(tokenised[1]))
        if calls.count(7) == 5:
            raise KeyboardInterrupt
        return embed(encoder, tokenised, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(extract, "embed", interrupted)
        result = go()
    assert result.code == 130 and len(result.err.splitlines()) == 1
    assert "stopped after 28 of 60 titles; the same command goes on" in result.err
    return tmp_path / "features"


def failed(result, *words):
    """Assert exit code 1 and one line: the machine's fault, not the user's."""
    assert result.code == 1 and len(result.err.strip().splitlines()) == 1 and "Traceback" not in result.err, result.err
    for word in words:
        assert word in result.err, (word, result.err)


def test_a_stopped_extraction_is_not_taken_for_features_and_goes_on(stopped, go, whole, monkeypatch):
    import extract

    with pytest.raises(cli.Problem, match="not finished; run the same extract.py command again"):
        store.open_features(stopped)
    assert not any(stopped.glob("*.npy"))
    embed, computed = extract.embed, []

    def count(encoder, tokenised, *rest):
        computed.append(len(tokenised[1]))
        return embed(encoder, tokenised, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(extract, "embed", count)
        result = go()
    assert [n for n in computed if n > 2] == [7, 7, 7, 7, 4], "windows that were safe were computed again"  # 2: a check
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
    manifest, tokenizer = features.manifest, transformers.AutoTokenizer.from_pretrained(bert)
    long = sum(len(tokens) > 6 for tokens in tokenizer(features.titles()[0])["input_ids"])
    assert manifest["truncated"] == long > 0 and manifest["made"]["command"].startswith("python extract.py --data ")


def test_a_torn_last_line_of_the_record_does_not_count(stopped, go, whole):
    """Window 4 was being recorded with 12 cut titles when the power failed: `4 1` is on the disk."""
    with open(stopped / "partial" / "done-00000.log", "a") as log:
        log.write("4 1")
    assert "going on after 28 of 60 titles" in go().err
    assert contents(stopped) == whole


def test_a_damaged_record_is_refused(stopped, go):
    with open(stopped / "partial" / "done-00000.log", "ab") as log:
        log.write(b"\0\0\xff\n")
    refused(go(), "done-00000.log", "damaged", "delete")


@pytest.mark.parametrize("name", ["job.json", "titles.csv", "cls-02.npy"])
def test_an_unfinished_extraction_that_lost_a_file_is_refused_or_repeated(stopped, go, whole, name):
    (stopped / "partial" / name).unlink()
    result = go()
    if name == "job.json":  # nothing says what the rest is, so it is done again
        assert result.code == 0 and contents(stopped) == whole
    else:
        refused(result, name, "gone", "delete")


def test_a_crash_before_the_manifest_is_mended_by_the_same_command(tmp_path, go, whole, monkeypatch):
    write = store.write_json

    def crash(path, content):
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", crash)
        failed(go(), "No space left on device", "manifest.json")
    with pytest.raises(cli.Problem, match="not finished"):
        store.open_features(tmp_path / "features")
    assert go().code == 0
    assert contents(tmp_path / "features") == whole


def test_a_crash_after_the_manifest_does_not_stand_in_the_way(tmp_path, go, whole, monkeypatch):
    import extract

    remove = extract.shutil.rmtree

    def crash(path, ignore_errors=False):
        if (path.parent / "manifest.json").exists():
            raise KeyboardInterrupt
        remove(path, ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(extract.shutil, "rmtree", crash)
        assert go("--layers", "2").code == 130
    assert (tmp_path / "features" / "partial" / "job.json").exists()
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
    Path(folder / "other.csv").write_text(Path(source).read_text().replace("best", "worst"))
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
    refused(go("--layers", "1"), "unfinished extraction of cls-02.npy", "the command that began it")
    assert go().code == 0 and contents(stopped) == whole


# --- damaged features ---------------------------------------------------------------------------------------------


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda p: flip(p, -1), ["damaged"]),
        (lambda p: flip(p, 0), ["not a plain .npy"]),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), ["bytes instead of"]),
        (lambda p: p.write_bytes(b""), ["0 bytes instead of"]),
        (lambda p: p.write_bytes(bytes(p.stat().st_size)), ["not a plain .npy"]),
        (lambda p: p.unlink(), ["gone"]),
        (lambda p: np.save(p, np.zeros((60, 24), np.float16)), ["bytes instead of"]),
        (lambda p: np.save(p, np.zeros((24, 60), np.float32)), ["shape (24, 60)"]),
        (lambda p: np.save(p, np.zeros((60, 24), np.float32)), ["sha256"]),
        (lambda p: np.save(p, np.array([{"a": 1}] * 60), allow_pickle=True), ["bytes instead of"]),
    ],
    ids=["last bit", "first byte", "cut", "empty", "zeros", "gone", "type", "shape", "values", "pickle"],
)
def test_a_damaged_layer_is_refused_by_name(features, damage, words):
    damage(features / "cls-02.npy")
    with pytest.raises(cli.Problem) as problem:
        store.open_features(features).read("cls", 2)
    for word in [str(features / "cls-02.npy"), *words]:
        assert word in str(problem.value)
    assert store.open_features(features).read("mean", 2).shape == (60, 24)


def test_a_pickle_of_the_right_size_is_not_read(features, tmp_path):
    path, ran = features / "cls-02.npy", tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    size = path.stat().st_size
    np.save(path, np.array([Harm()], dtype=object), allow_pickle=True)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    with pytest.raises(cli.Problem, match="cls-02.npy: not a plain .npy file of numbers"):
        store.open_features(features).read("cls", 2, check=False)
    assert not ran.exists()


def test_every_flipped_bit_of_a_header_is_found(features):
    path = features / "cls-02.npy"
    for place in range(128):
        flip(path, place)
        with pytest.raises(cli.Problem, match="cls-02.npy"):
            store.open_features(features).read("cls", 2)
        flip(path, place)
    store.open_features(features).read("cls", 2)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda t: t.replace('"rows": 60', '"rows": 59'), ["edited or damaged"]),
        (lambda t: t[: len(t) // 2], ["not a manifest"]),
        (lambda t: "", ["not a manifest"]),
        (lambda t: "[]", ["not a manifest"]),
        (lambda t: "\0" * 99, ["not a manifest"]),
        (lambda t: "[" * 100_000, ["not a manifest"]),
        (lambda t: t.replace('"format": 1', '"format": 99'), ["format 99"]),
    ],
    ids=["edited", "cut", "empty", "list", "zeros", "deep", "newer"],
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
        until = time.time() + 60
        while not sign():
            assert process.poll() is None, process.communicate()
            assert time.time() < until, "the process does not begin"
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_says_how_many_titles_are_safe_and_one_extraction_works_in_a_folder(tmp_path, bert):
    titles, out = write_titles(tmp_path / "titles.csv", 600), tmp_path / "features"
    command = ["--data", titles, "--model", bert, *SETTINGS, "--window", 1]
    assert call("extract", *command, "--out", tmp_path / "whole").code == 0
    log = out / "partial" / "done-00000.log"
    with running([ROOT / "extract.py", *command, "--out", out], lambda: log.exists() and log.stat().st_size) as first:
        refused(call("extract", *command, "--out", out), str(out), "already running")
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=30)
    assert first.returncode == 130 and len(errors.splitlines()) == 1, errors
    safe = errors.partition("stopped after ")[2].partition(" of 600 titles; the same command goes on")[0]
    assert 0 < int(safe) < 600
    result = call("extract", *command, "--out", out)
    assert result.code == 0 and f"going on after {safe} of 600 titles" in result.err
    assert contents(out) == contents(tmp_path / "whole")


def test_ctrl_c_during_the_slow_imports_shows_no_traceback(tmp_path):
    (tmp_path / "torch.py").write_text(
        "import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\ntime.sleep(60)\n"
    )
    with running(
        [ROOT / "extract.py"], (tmp_path / "begun").exists, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    ) as script:
        script.send_signal(signal.SIGINT)
        _, errors = script.communicate(timeout=30)
    assert script.returncode in (130, -signal.SIGINT) and errors == "extract.py: stopped\n"


def test_the_lock_of_a_killed_process_does_not_last(tmp_path):
    code = f"import store, pathlib, time\nwith store.locked({str(tmp_path)!r}, 'it'):\n pathlib.Path({str(tmp_path)!r}, 'held').touch()\n time.sleep(60)"
    with running(["-c", code], (tmp_path / "held").exists, cwd=ROOT) as holder:
        with pytest.raises(cli.Problem, match="already running"), store.locked(tmp_path, "it"):
            pass
        holder.kill()
        holder.wait()
        with store.locked(tmp_path, "it"):
            pass


@pytest.mark.parametrize("limit", [1000, 4096], ids=["titles", "features"])
def test_a_file_system_that_takes_no_more_is_reported_and_left_clean(tmp_path, bert, source, limit):
    """A limit on the size of files fails like a full disk: first where the titles are copied, then for a layer."""
    result = conftest.shell(
        "extract",
        "--data",
        source,
        "--model",
        bert,
        *SETTINGS,
        "--out",
        tmp_path / "features",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 1 and len(lines) == 1 and "File too large" in lines[0], result.stderr
    assert str(tmp_path / "features") in lines[0]
    assert [path.name for path in (tmp_path / "features").iterdir()] == [".lock"]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_seen_before_anything_is_computed(small_disk, go, monkeypatch):
    refused(go("--out", small_disk / "f"), str(small_disk / "f"), "GB free", "--store float16")
    assert [path.name for path in (small_disk / "f").iterdir()] == [".lock"]
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 40})
    )  # another one takes it meanwhile
    failed(go("--out", small_disk / "f"), "No space left on device", str(small_disk / "f"))
    assert [path.name for path in (small_disk / "f").iterdir()] == [".lock"]


def test_a_folder_of_other_things_is_not_taken_over(tmp_path, go, source):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "titles.csv").write_text("title,category,note\nmy own file,a,b\n")
    refused(go("--out", tmp_path / "mine"), "mine", "other files", "titles.csv")
    assert (tmp_path / "mine" / "titles.csv").read_text().endswith("my own file,a,b\n")


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, go, source):
    failed(go("--out", "/proc/none/features"), "/proc/none")
    failed(go("--out", f"{source}/features"), source)


def torchrun(*arguments, processes=2):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(processes),
            str(ROOT / "extract.py"),
            *map(str, arguments),
        ],
        text=True,
        capture_output=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_two_processes_have_the_bytes_of_one(tmp_path, bert, source, one_thread):
    command = ["--data", source, "--model", bert, *SETTINGS, "--window", 7, "--out"]
    two = torchrun(*command, tmp_path / "two")
    assert two.returncode == 0 and two.stderr.count("on 2 processes") == 1, two.stderr
    assert call("extract", *command, tmp_path / "one").code == 0
    alone, shared = contents(tmp_path / "one"), contents(tmp_path / "two")
    for kept in (alone, shared):
        manifest = json.loads(kept["manifest.json"])
        assert manifest["machine"].pop("processes") == (1 if kept is alone else 2)
        kept["manifest.json"] = manifest
    assert shared == alone


def test_a_refusal_ends_all_processes(tmp_path, bert, source):
    started = time.time()
    result = torchrun("--data", source, "--model", bert, *SETTINGS, "--layers", 9, "--out", tmp_path / "features")
    assert result.returncode != 0 and time.time() - started < 60
    assert sum("extract.py: --layers 9: " in line for line in result.stderr.splitlines()) == 1, result.stderr
    assert "[rank" not in result.stderr and 'extract.py", line' not in result.stderr, "a traceback of ours"
    assert not (tmp_path / "features" / "manifest.json").exists()


if __name__ == "__main__":
    OUTCOME = kill_again_and_again(int(sys.argv[1]) if sys.argv[1:] else 20)
    print(report(OUTCOME))
    sys.exit(0 if OUTCOME["same"] else 1)
