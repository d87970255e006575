"""Many titles: training takes no more memory than its features and a little, whichever head."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_train import write_features

from whichlayer.heads import logistic

BOTH = ("--layers", 2, 1)
# the child's peak is asked for by a process that is itself small: a child starts with the peak of the one that made it
PEAK = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Folders with features of 2,000 and of 50,000 titles, two layers of 512 dimensions: 205 MB the larger."""
    place = tmp_path_factory.mktemp("scale")
    random = np.random.default_rng(0)
    folders = {}
    for rows in (2_000, 50_000):
        labels = np.arange(rows) % 4
        centres = random.normal(0, 0.2, (2, 4, 512)).astype(np.float32)
        arrays = {}
        for layer, centre in enumerate(centres, 1):
            arrays["cls", layer] = centre[labels] + random.standard_normal((rows, 512), np.float32)
        names = [f"class {label}" for label in labels]
        folders[rows] = write_features(place / str(rows), arrays, names)
    return folders


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units elsewhere")
@pytest.mark.parametrize(
    "options, share",
    [
        ((*BOTH, "--head", "linear"), 1),
        ((*BOTH, "--epochs", 1, "--hidden", 32, "--standardize", "--each"), 0.5),  # one layer after the other
    ],
)
def test_training_takes_the_features_it_uses_and_little_more(corpora, tmp_path, options, share):
    # large pieces go back to the system at once: what holes the heap keeps differs from run to run, by 100 MB
    exact = dict(os.environ, MALLOC_MMAP_THRESHOLD_="1000000")
    peaks = {}
    for rows, features in corpora.items():
        folders = ["--features", features, "--results", tmp_path / str(rows)]
        folds = ["--folds", 3, "--repeats", 1]
        command = [ROOT / "train.py", *folders, *folds, "--quiet", *options]
        measured = [sys.executable, "-c", PEAK, sys.executable, *command]
        done = subprocess.run(list(map(str, measured)), env=exact, text=True, capture_output=True, check=True)
        peaks[rows] = int(done.stdout) * 1024
    used = (50_000 - 2_000) * 2 * 512 * 4 * share
    copied = 0
    if "--epochs" not in options and logistic.choose_rough(torch.empty(0)) == torch.bfloat16:
        copied = used / 2  # for fast products
    assert used * 0.8 < peaks[50_000] - peaks[2_000] < used + copied + 60e6
