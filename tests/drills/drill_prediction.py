"""Killed predictions: `python tests/drills/drill_prediction.py 50` kills 50 at random and says what came of it."""

import collections
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conftest import call, write_bert, write_titles
from killing import die_at, forked

import predict
from whichlayer.apply import frozen
from whichlayer.common import disk, windows


def drill(kills, rows=20_000, window=200):
    """Kill predictions at random steps until `kills` have died; each that finishes is compared with a whole one."""
    scratch = Path(tempfile.mkdtemp())
    source = write_titles(scratch / "titles.csv", rows=90)
    encoder = write_bert(scratch / "bert")
    features, results = scratch / "features", scratch / "results"
    assert call("extract", "--data", source, "--model", encoder, "--dtype", "float32", "--out", features).code == 0
    probe = ["--head", "linear", "--layers", 1, "--repeats", 1]
    assert call("train", "--features", features, "--results", results, *probe).code == 0
    (run,) = results.glob("[!.]*")
    many = write_titles(scratch / "many.csv", rows=rows)
    loaded = frozen.load_encoder(encoder, "cpu", "float32", 128, ("cls",))
    frozen.load_encoder = lambda *_: loaded
    windows.WINDOW = window
    given = ["--run", run, "--csv", many, "--out"]
    assert forked(predict, [*given, scratch / "whole.csv"]).code == 0
    whole = (scratch / "whole.csv").read_bytes()

    steps = random.Random(0)
    found = collections.Counter()
    out = scratch / "out.csv"
    while found["killed"] < kills:
        step = steps.randrange(1, 4 * rows // window)
        done = forked(predict, [*given, out], lambda step=step: die_at(step, out.name))
        assert done.code in (0, -9), done.err
        found["killed"] += done.code == -9
        if done.code == 0 or found["killed"] == kills:
            done = forked(predict, [*given, out])
            assert done.code == 0, done.err
            assert out.read_bytes() == whole and not disk.beside(out).exists()
            found["finished"] += 1
            out.unlink()
        assert not out.exists() or out.read_bytes() == whole
    shutil.rmtree(scratch)
    print(f"""# Killed predictions

{rows:,} titles in windows of {window}; SIGKILL just before a file was opened, synced, renamed or deleted, at random.

|  |  |
| :--- | ---: |
| processes killed | {found["killed"]} |
| files that were finished in the end | {found["finished"]} |
| of the same bytes as one that nobody stopped | {found["finished"]} |

Made by:

    python tests/drills/drill_prediction.py {kills}""")


if __name__ == "__main__":
    drill(int(sys.argv[1]))
