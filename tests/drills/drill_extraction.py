"""Extractions killed at random, which go on: `python tests/drills/drill_extraction.py 200` prints what came of them.

New features, added layers, titles that have changed, and pairs of processes under torchrun take turns.
"""

import collections
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "encoder"))

from conftest import ROOT, write_bert, write_titles  # first: it lets the scripts be imported

# isort: split
import killing
from killing import die_at
from test_interrupted import ONE, SETTINGS, contents, edit_titles, state

import extract
from whichlayer.common import cli, disk, windows

ROWS = 1170
WINDOW = 32
MOST = 20  # kills in one extraction
STEPS = 250  # of one, about
# of a pair of processes, in seconds, of which most go by until both are loaded
PAIR = 30


def prepare(place, bert):
    """Begin each kind of extraction in a folder of its own: {kind: its folder}, with what it is to end with."""
    kinds = {}
    for kind, options in (("new", None), ("added", ONE), ("changed", []), ("pairs", [])):
        own = place / kind
        own.mkdir()
        titles = Path(write_titles(own / "titles.csv", ROWS))
        command = ["--data", titles, "--model", bert, *SETTINGS, "--out"]
        (own / "begun").mkdir()
        if options is not None:
            assert killing.forked(extract, [*command, own / "begun" / "features", *options]).code == 0
        if kind in ("changed", "pairs"):
            titles.write_text(edit_titles(titles.read_text()))
        shutil.copytree(own / "begun", own / "whole")
        assert killing.forked(extract, [*command, own / "whole" / "features"]).code == 0
        kinds[kind] = command
    return kinds


def kill_one(command, chance):
    """Kill a process just before a step; whether it lived so long."""
    step = chance.randrange(1, STEPS)
    return killing.forked(extract, command, lambda: die_at(step, "features")).code != 0


def kill_pair(command, chance):
    """Kill both of a pair of processes, and their launcher, after some seconds; whether they lived so long."""
    launch = f"import killing; killing.torchrun('extract', *{[str(word) for word in command]!r}, window={WINDOW})"
    process = subprocess.Popen([sys.executable, "-c", launch], cwd=ROOT / "tests")
    try:
        process.wait(chance.uniform(0.3, 1) * PAIR)
    except subprocess.TimeoutExpired:
        for number in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()
        return True
    return False


def family(number):
    """The numbers of a process and all that it has started."""
    found = [number]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{number}/task/{number}/children").read_text().split():
            found += family(int(child))
    return found


def drill(kills, seed=0):
    """A report of so many kills as markdown, and whether all went well."""
    started = time.time()
    chance = random.Random(seed)
    found = collections.Counter()
    finished = 0
    wrong = 0
    windows.WINDOW = WINDOW
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        kinds = prepare(scratch, write_bert(scratch / "bert"))
        while found.total() < kills:
            # a pair takes as long as ten others
            kind = chance.choice(["new", "added", "changed"] * 3 + ["pairs"])
            own = scratch / kind
            place = scratch / f"killed-{finished}"
            shutil.copytree(own / "begun", place)
            states = [state(folder / "features") for folder in (own / "begun", own / "whole")]
            command = [*kinds[kind], place / "features"]
            kill = kill_pair if kind == "pairs" else kill_one
            for _ in range(2 if kind == "pairs" else MOST):
                if found.total() == kills or not kill(command, chance):
                    break
                there = state(place / "features")
                wrong += there not in states
                done = len(windows.recorded(disk.beside(place / "features"))) // 10 * 10
                when = "the new features were there" if there == states[1] else f"{done} to {done + 9} windows were"
                found[f"{kind}: when {when}"] += 1
            assert killing.forked(extract, command).code == 0
            wrong += contents(place / "features") != contents(own / "whole" / "features")
            wrong += [path.name for path in place.iterdir()] != ["features"]
            shutil.rmtree(place)
            finished += 1
    rows = [
        ("processes killed (SIGKILL), or pairs of them", kills),
        ("extractions, each finished in the end", finished),
        ("windows in each", f"{-(-ROWS // WINDOW)} of {WINDOW} titles"),
        *((f"killed, {stage}", count) for stage, count in sorted(found.items())),
        ("found neither the old nor the new features, or other bytes in the end", wrong),
        ("seconds", round(time.time() - started)),
    ]
    return (
        f"""# Extractions killed and resumed

{cli.markdown([":", ""], rows)}

Killed just before they opened, linked, synced, renamed or deleted a file, at random; pairs of processes (torchrun) at
random moments. Compared are all files but the manifest's `made`, `software`, `machine` and `checksum` with those of an
extraction that nobody stopped. The encoder is a random BERT of 2 layers. Made by:

    python tests/drills/drill_extraction.py {kills}""",
        not wrong,
    )


if __name__ == "__main__":
    REPORT, IS_RIGHT = drill(int(sys.argv[1]) if sys.argv[1:] else 20)
    print(REPORT)
    sys.exit(0 if IS_RIGHT else 1)
