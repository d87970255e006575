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
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "heads"))

from conftest import ROOT  # first: it lets the scripts be imported

# isort: split
from test_train import write_features

from whichlayer.common import cli

TEXT = """# Killed trainings

100,000 titles × 384 dimensions, 4 categories, 5 folds, 1 repeat; SIGKILL at random moments.

{table}

Made by:

    python tests/drills/drill_training.py"""
COLUMNS = (":Head", "Seconds undisturbed", "Killed before its end", "Half a run left", "Same bytes after the next call")
HEADS = {"linear probe": ("--head", "linear"), "report's head, 2 epochs": ("--epochs", 2)}


def contents(folder):
    """{name: bytes} of a run, without what tells one training from another."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
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
    """Kill trainings of one head: (the row of the table, whether all went well). folder: an empty one for results."""
    began = time.time()
    sound = start(features, folder / "whole", options).wait() == 0
    seconds = time.time() - began
    whole = runs_in(folder / "whole")
    killed = half = same = 0
    for kill in range(kills):
        results = folder / f"killed-{kill}"
        process = start(features, results, options)
        time.sleep(seconds * chance.uniform(0.1, 0.8))
        process.kill()
        killed += process.wait() != 0
        half += runs_in(results) not in ([], whole)

        sound &= start(features, results, options).wait() == 0
        same += runs_in(results) == whole
        sound &= not list(results.glob(".unfinished-*"))
    row = (head, f"{seconds:.0f}", killed, half, f"{same} of {kills}")
    return row, sound and half == 0 and same == kills


def main(kills):
    normal = np.random.default_rng(0)
    labels = np.arange(100_000) % 4
    array = normal.standard_normal((100_000, 384)) + normal.normal(0, 0.1, (4, 384))[labels]
    names = [f"class {label}" for label in labels]
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        features = write_features(folder / "features", {("cls", 1): array}, names)
        outcomes = []
        for head, options in HEADS.items():
            outcomes.append(drill_head(head, options, features, folder / options[0], kills, chance))
    rows, good = zip(*outcomes, strict=True)
    print(TEXT.format(table=cli.markdown(COLUMNS, rows)))
    return all(good)


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if sys.argv[1:] else 10))
