"""Kill trainings of 100,000 titles at random moments, then train again; prints what came of it as markdown.

    python tests/drills/drill_training.py      # 10 kills of each head
    python tests/drills/drill_training.py 3    # 3 of each

After each kill the folder of results must hold no run, or the whole one; the next call trains what is missing.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from conftest import ROOT  # first: it lets the scripts be imported

# isort: split
from test_train import write_features

from whichlayer.common import cli

HEADS = {"linear probe": ("--head", "linear"), "report's head, 2 epochs": ("--epochs", 2)}


@dataclass
class Outcome:
    """What came of the kills of one head."""

    head: str
    seconds: float  # of a training that nobody disturbs
    kills: int
    killed: int = 0  # that came before the training's own end
    half: int = 0  # that left something else than no run, or the whole one
    same: int = 0  # after which the next call gave the same bytes
    sound: bool = True  # whether every other call ended well, and left nothing behind

    @property
    def row(self):
        seconds = f"{self.seconds:.0f}"
        return self.head, seconds, self.killed, self.half, f"{self.same} of {self.kills}"

    @property
    def good(self):
        return self.sound and self.half == 0 and self.same == self.kills


def contents(folder):
    """{name: bytes} of a run, without what tells one training from another."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}
    config = json.loads(kept["config.json"])
    for part in ("made", "software", "machine", "checksum"):
        del config[part]
    return kept | {"config.json": config}


def runs_in(results):
    """The contents of every run in a folder of results."""
    return [contents(folder) for folder in results.glob("[!.]*")]


def start(features, results, options):
    command = [ROOT / "train.py", "--features", features, "--results", results, "--layers", 1]
    command += ["--repeats", 1, "--quiet", *options]
    return subprocess.Popen([sys.executable, *map(str, command)])


def drill_head(head, options, features, folder, kills, chance):
    """Kill trainings of one head: an Outcome. folder: an empty one for results."""
    began = time.time()
    code = start(features, folder / "whole", options).wait()
    outcome = Outcome(head, time.time() - began, kills, sound=code == 0)
    whole = runs_in(folder / "whole")
    for kill in range(kills):
        results = folder / f"killed-{kill}"
        process = start(features, results, options)
        time.sleep(outcome.seconds * chance.uniform(0.1, 0.8))
        process.kill()
        outcome.killed += process.wait() != 0
        outcome.half += runs_in(results) not in ([], whole)

        code = start(features, results, options).wait()
        leftovers = list(results.glob(".unfinished-*"))
        outcome.same += runs_in(results) == whole
        outcome.sound &= code == 0 and not leftovers
    return outcome


def drill(kills):
    """The Outcome of each head."""
    normal = np.random.default_rng(0)
    labels = np.arange(100_000) % 4
    array = normal.standard_normal((100_000, 384)) + normal.normal(0, 0.1, (4, 384))[labels]
    names = [f"class {label}" for label in labels]
    chance = random.Random(0)
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        features = write_features(folder / "features", {("cls", 1): array}, names)
        for head, options in HEADS.items():
            outcome = drill_head(head, options, features, folder / options[0], kills, chance)
            outcomes.append(outcome)
    return outcomes


if __name__ == "__main__":
    OUTCOMES = drill(int(sys.argv[1]) if sys.argv[1:] else 10)
    COLUMNS = (
        ":Head",
        "Seconds undisturbed",
        "Killed before its end",
        "Half a run left",
        "Same bytes after the next call",
    )
    print(
        "# Killed trainings\n\n"
        "100,000 titles × 384 dimensions, 4 categories, 5 folds, 1 repeat; SIGKILL at random moments.\n"
    )
    print(cli.markdown(COLUMNS, [outcome.row for outcome in OUTCOMES]))
    print("\nMade by:\n\n    python tests/drills/drill_training.py")
    sys.exit(0 if all(outcome.good for outcome in OUTCOMES) else 1)
