"""Kill trainings of 100,000 titles at random moments, then train again; prints what came of it as markdown.

    python tests/drill_training.py      # 10 kills of each head
    python tests/drill_training.py 3    # 3 of each

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
from conftest import ROOT  # first: it lets the scripts be imported

# isort: split
from test_train import write_features

import cli

HEADS = {"linear probe": ("--head", "linear"), "report's head, 2 epochs": ("--epochs", 2)}


def contents(folder):
    """{name: bytes} of a run, without what tells one training from another."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}
    config = json.loads(kept["config.json"])
    mine = ("made", "software", "machine", "checksum")
    return kept | {"config.json": {key: value for key, value in config.items() if key not in mine}}


def start(features, results, options):
    command = [ROOT / "train.py", "--features", features, "--results", results, "--layers", 1, "--quiet", *options]
    return subprocess.Popen([sys.executable, *map(str, command), "--repeats", "1"])


def drill(kills):
    """Markdown, and whether everything went as it should."""
    chance, rows, sound = random.Random(0), [], True
    with tempfile.TemporaryDirectory() as temporary:
        labels, normal = np.arange(100_000) % 4, np.random.default_rng(0)
        array = normal.standard_normal((100_000, 384)) + normal.normal(0, 0.1, (4, 384))[labels]
        names = [f"class {label}" for label in labels]
        features = write_features(Path(temporary) / "features", {("cls", 1): array}, names)
        for head, options in HEADS.items():
            began, whole = time.time(), Path(temporary) / f"whole-{options[0]}"
            sound &= start(features, whole, options).wait() == 0
            seconds, truth = time.time() - began, contents(next(whole.glob("[!.]*")))
            killed, leftovers, same = 0, 0, 0
            for kill in range(kills):
                results = Path(temporary) / f"killed-{options[0]}-{kill}"
                process = start(features, results, options)
                time.sleep(seconds * chance.uniform(0.1, 0.8))
                process.kill()
                killed += process.wait() != 0
                leftovers += any(results.glob("[!.]*")) and contents(next(results.glob("[!.]*"))) != truth
                sound &= start(features, results, options).wait() == 0
                same += [contents(path) for path in results.glob("[!.]*")] == [truth]
                sound &= not list(results.glob(".unfinished-*"))
            sound &= not leftovers and same == kills
            rows.append((head, f"{seconds:.0f}", killed, leftovers, f"{same} of {kills}"))
    columns = (
        ":Head",
        "Seconds undisturbed",
        "Killed before its end",
        "Half a run left",
        "Same bytes after the next call",
    )
    return cli.markdown(columns, rows), sound


if __name__ == "__main__":
    TABLE, SOUND = drill(int(sys.argv[1]) if sys.argv[1:] else 10)
    print(
        "# Killed trainings\n\n"
        "100,000 titles × 384 dimensions, 4 categories, 5 folds, 1 repeat; SIGKILL at random moments.\n"
    )
    print(TABLE)
    print("\nMade by:\n\n    python tests/drill_training.py")
    sys.exit(0 if SOUND else 1)
