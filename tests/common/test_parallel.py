"""Tasks in processes side by side: what they give, that none stays behind, and probes that are trained so."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, call
from filelock import FileLock, Timeout
from test_train import made_up, write_features

from whichlayer.common import cli, parallel

# a signal that comes just before a long sleep begins is only seen after it: many short ones instead
WAIT = "for _ in range(6000): time.sleep(0.1)"


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """Two tasks at a time, whatever the machine is; and no process is left."""
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 2)
    yield
    assert not multiprocessing.active_children()


def is_there(number):
    """Whether a process runs: one that has ended and was not asked for is none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{number}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(holds):
    until = time.time() + 300
    while not holds():
        assert time.time() < until
        time.sleep(0.01)


# --- tasks --------------------------------------------------------------------------------------------------------


def test_what_tasks_give_comes_from_processes_of_their_own():
    factor = 3  # known to the task without being sent

    def work(task):
        return task, os.getpid(), np.full(70_000, factor * task)

    found = list(parallel.each(work, range(7)))
    assert sorted(task for task, _, _ in found) == [*range(7)]
    for task, _, array in found:
        np.testing.assert_array_equal(array, np.full(70_000, factor * task))
    numbers = {number for _, number, _ in found}
    assert len(numbers) <= 2 and os.getpid() not in numbers
    assert list(parallel.each(work, [])) == []


@pytest.mark.parametrize(
    "error", [cli.Problem("layer 3: damaged"), OSError(28, "No space left", "x.npy"), ValueError()]
)
def test_what_a_task_raises_is_raised_and_ends_the_others(error):
    def work(task):
        if task == 1:
            raise error
        time.sleep(600 if task == 0 else 0)

    with pytest.raises(type(error)) as caught:
        list(parallel.each(work, range(4)))
    assert str(caught.value) == str(error)


def test_a_task_whose_process_is_killed_is_an_error_and_not_waited_for():
    def work(task):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MemoryError, match="ended from outside"):
        list(parallel.each(work, [0]))


def test_who_stops_listening_ends_the_tasks():
    each = parallel.each(lambda task: time.sleep(600 * task), range(3))
    assert next(each) is None  # the first one's
    assert multiprocessing.active_children()
    each.close()


# --- the processes of a script that is stopped or killed ----------------------------------------------------------

SCRIPT = f"""
import os, pathlib, sys, time
from filelock import FileLock
from whichlayer.common import cli
from whichlayer.common import parallel
parallel.torch.get_num_threads = lambda: 2
def work(task):
    here = pathlib.Path(f"child-{{task}}.tmp")
    here.write_text(str(os.getpid()))
    here.rename(f"child-{{task}}")
    {WAIT}
def main(args):
    with FileLock("lock"):
        list(parallel.each(work, range(4)))
args = cli.begin(lambda: type("", (), {{"quiet": False}}))
cli.launch(main, args)
"""


@pytest.fixture
def script(tmp_path):
    """A script with two tasks under way: its process, and the numbers of its children."""
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], **options) as process:
        begun = [tmp_path / "child-0", tmp_path / "child-1"]
        wait_until(lambda: all(path.exists() for path in begun))
        children = [int(path.read_text()) for path in begun]
        assert all(map(is_there, children))
        yield SimpleNamespace(process=process, children=children)
        process.kill()
        for child in filter(is_there, children):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("sign, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_script_that_is_stopped_takes_its_processes_along_and_says_one_line(script, sign, code):
    # a terminal sends Ctrl-C to all of them
    for number in [*script.children, script.process.pid] if sign == signal.SIGINT else [script.process.pid]:
        os.kill(number, sign)
    _, errors = script.process.communicate(timeout=300)
    assert script.process.returncode == code and len(errors.splitlines()) == 1 and "stopped" in errors, errors
    assert not any(map(is_there, script.children))


def test_a_killed_script_takes_its_processes_and_its_lock_along(script, tmp_path):
    with pytest.raises(Timeout), FileLock(tmp_path / "lock", timeout=0):
        pass
    script.process.kill()
    script.process.wait()
    wait_until(lambda: not any(map(is_there, script.children)))
    with FileLock(tmp_path / "lock", timeout=0):
        pass


# --- probes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def features(tmp_path):
    """Three layers of 1,200 titles, enough to be shared."""
    return write_features(tmp_path / "features", *made_up(rows=1200, layers=(1, 2, 3)), depth=3)


def test_probes_trained_side_by_side_are_those_of_one_thread_whichever_are_missing(features, tmp_path, monkeypatch):
    asked = []
    each = parallel.each
    monkeypatch.setattr(parallel, "each", lambda work, tasks: asked.append(len(tasks)) or each(work, tasks))

    def trained(results):
        options = ["--features", features, "--head", "linear", "--each", "--folds", 2, "--repeats", 1]
        done = call("train", *options, "--results", results)
        assert done.code == 0 and done.err.count("macro-F1") == 3, done.err
        return {path.parent.name: json.loads(path.read_text())["contents"] for path in results.glob("*/config.json")}

    found = trained(tmp_path / "shared")
    assert len(found) == 3
    # one that is missing comes out as before
    shutil.rmtree(tmp_path / "shared" / next(iter(found)))
    assert trained(tmp_path / "shared") == found
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 1)
    assert trained(tmp_path / "alone") == found
    assert asked == [3, 1, 0]
