"""A run's folder in results/: its configuration, what it is called, how it is written and found.

config.json             options, columns, classes, figures, checksums of the files below
heads.safetensors       the heads of all repeats and folds, stacked (runs that train.py made)
weights.safetensors     with terms.json: TF-IDF, fitted to all titles, see words.py
history.csv             loss and macro-F1 of every epoch of every head (the report's head)
probabilities.npy       (repeats, titles, classes) float32, out of fold
offsets.npy             (repeats, folds, classes) float32, where it decides for macro-F1
labels.npy, groups.npy  (titles,) int32; groups are copies of one another
folds.npy               (repeats, titles) int32
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.encoder.poolings import POOLINGS
from whichlayer.heads import words
from whichlayer.heads.options import HEADS, Options
from whichlayer.scores.figures import Figures

# the same for all runs of a table
ARRAYS = ("labels", "groups", "folds")
FORMAT = 4  # raised when older runs can no longer be read
REPORTS_HEAD = HEADS["mlp"].words
# options that a table does not show as their name and value
SHOWN = {"standardize": "standardised", "reduction": "no reduction", "decide": "{}"}


@dataclass(eq=False)
class Run:
    """One trained layer set, or one baseline: the content of config.json, and what lies beside it.

    What a baseline has no use for is None or empty.
    """

    format: int
    classes: list[str]  # names, in the order of their numbers
    options: Options
    data: store.TitlesInfo
    baseline: str | None = None  # a key of words.BASELINES; None for runs that train.py made
    columns: list[tuple[str, int]] | None = None  # (pooling, layer) of the features, as they stand side by side
    encoder: store.EncoderInfo | None = None
    settings: store.Settings | None = None
    features: str | None = None  # digest of what decides the features' values, see store.identity
    files: dict[str, str] | None = None  # name and sha256 of the feature files
    flop: float | None = None  # floating-point operations of the encoder for a title of mean length
    results: Figures | None = None
    made: disk.Made | None = None
    software: dict | None = None
    machine: dict | None = None
    contents: dict[str, str] | None = None  # name and sha256 of the other files in the run's folder

    # where it lies, which is not in the file
    folder = None

    @property
    def figures(self):
        return self.results

    @property
    def labels_per_category(self):
        """With how many labelled titles of each category it was trained; None: all of them."""
        return self.options.labels

    @property
    def layers(self):
        """The layers, top first; empty for a baseline."""
        return list(dict.fromkeys(layer for _, layer in self.columns))

    @property
    def poolings(self):
        return list(dict.fromkeys(pooling for pooling, _ in self.columns))

    @property
    def head(self):
        """The head, or the baseline, in words."""
        if self.baseline:
            return words.BASELINES[self.baseline].name
        return head_in_words(self)

    @property
    def probabilities(self):
        """Out-of-fold probabilities, (repeats, titles, classes) float32, memory-mapped."""
        return self.array("probabilities")

    @property
    def offsets(self):
        """What the decision takes from log-probabilities, (repeats, folds, classes); None: nothing."""
        return self.array("offsets") if "offsets.npy" in self.contents else None

    @property
    def task(self):
        """What runs share that can be compared and combined: titles, protocol, and the ARRAYS; a run that
        was kept has none of them, which is a Problem.
        """
        if "labels.npy" not in self.contents:
            raise cli.Problem(f"{self.folder}: kept for prediction only; name the results that it was kept from")
        checksums = tuple(self.contents.get(f"{name}.npy") for name in ARRAYS)
        return self.data.titles, self.options.protocol, checksums

    def array(self, name):
        """One of the run's arrays, memory-mapped; one that is not what the configuration says is a
        Problem.
        """
        return np.load(self.file(f"{name}.npy"), mmap_mode="r", allow_pickle=False)

    def file(self, name):
        """The path of one of the run's files, once it is known to be what was written."""
        return disk.checked(self.folder / name, self.contents.get(name))


# --- what a run is called ---------------------------------------------------------------------------


def head_in_words(run):
    """The head of a run: its kind, pooling and unusual options."""
    head = HEADS[run.options.head]
    parts = []
    if head.words != REPORTS_HEAD:
        parts.append(head.words)
    if parts or run.poolings != [head.pooling]:
        parts.append(poolings_in_words(run.poolings))
    for name, value in run.options.unusual.items():
        if name in head.options:
            shown = SHOWN.get(name, name.replace("_", " ") + " {}")
            parts.append(shown.format(value))
    return ", ".join(parts) or REPORTS_HEAD


def poolings_in_words(poolings):
    """Poolings as a table names them."""
    if len(poolings) == 1:
        return POOLINGS[poolings[0]].words
    return cli.listing([POOLINGS[pooling].short for pooling in poolings])


def spell(layers):
    """Layers, top first, as text; many that follow one another as 12 to 1."""
    if len(layers) > 4 and layers == list(range(layers[0], layers[-1] - 1, -1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def layers_in_words(run, more):
    """The layers of a run in words, with what else is to be said in brackets."""
    noun = "layers" if len(run.layers) > 1 else "layer"
    return f"{noun} {spell(run.layers)} ({more})"


def run_name(run):
    """The name of a run's folder: encoder, data, layers, and what is not the default."""
    encoder = disk.slug(Path(run.encoder.name).name)
    parts = [encoder, disk.slug(run.data.name), "layers", *run.layers]
    if run.poolings != ["cls"]:
        parts.append("and".join(run.poolings))
    if run.options.head != Options.head:
        parts.append(run.options.head)
    for option, value in run.options.unusual.items():
        name = option.replace("_", "-")
        parts.append(name if value is True else f"{name}-{value}")
    name = "-".join(map(str, parts))
    # longer ones are refused by disks
    return name if len(name.encode()) <= 200 else f"{disk.slug(name, 180)}-{disk.digest(name)[:12]}"


# --- writing and reading --------------------------------------------------------------------------


def write(folder, run, arrays, files):
    """Write the folder of a run whole or not at all; one that is there is replaced.

    arrays: {name: array} that become .npy files, None where there is none; files: {name: bytes} of
    others.
    """
    # where it is killed between two renames, neither run is there, and the next training makes it
    with disk.atomic_folder(folder) as new:
        for name, array in arrays.items():
            if array is not None:
                np.save(new / f"{name}.npy", array, allow_pickle=False)
        for name, content in files.items():
            (new / name).write_bytes(content)
        # the configuration, with a checksum of each of those
        contents = {path.name: disk.sha256(path) for path in sorted(new.iterdir())}
        disk.write_json(new / "config.json", replace(run, contents=contents))


def open_run(folder):
    """The Run in a folder; none there, or one that is damaged or of another version, is a Problem."""
    folder = Path(folder)
    path = folder / "config.json"
    if not path.exists():
        raise cli.Problem(
            f"{folder}: no run is there; name the folder of one, such as results/NAME (evaluate.py lists them)"
        )
    run = disk.read_json(path, Run, "a run of train.py (an encoder is named with --model)", FORMAT)
    run.folder = folder
    run.columns = run.columns or []
    return run


def find(place):
    """The Run in a folder that --run names; one that cannot predict, or none, is a Problem."""
    run = open_run(place)
    if run.baseline and "weights.safetensors" not in run.contents:
        raise cli.Problem(
            f"--run {run.folder}: {run.head}, measured for the table only, it cannot predict; name another run"
        )
    return run


# --- the features of a run --------------------------------------------------------------------------


def features_of(run, folders=None):
    """The first features that hold the titles of a run, in the order of its rows.

    folders: where to look; None for where the run's features were when it was trained.
    """
    for place in folders or [run.made.features]:
        features = store.open_features(place)
        if features.data.titles == run.data.titles:
            return features
    raise cli.Problem(f"{place}: not the titles of {run.folder.name}; name features of those with --features")


def is_earlier(run, features):
    """Whether a run was trained on what store.Features were before titles or settings changed."""
    if run.made.features != str(features.folder.resolve()):
        return False
    return run.features != disk.digest(store.identity(features))


def out_of_date(outdated):
    """How many runs are of earlier titles, in words."""
    return f"{cli.count(len(outdated), 'run')} of an earlier state of {outdated[0].data.name}: out of date"
