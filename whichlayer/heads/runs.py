"""A run's folder in results/: its configuration, what else it holds, how it is written and found.

config.json             options, columns, classes, figures, checksums of the files below
heads.safetensors       the heads of all repeats and folds, stacked (runs that train.py made)
weights.safetensors     with terms.json: TF-IDF, fitted to all titles, see words.py
history.csv             loss and macro-F1 of every epoch of every head (the report's head)
probabilities.npy       (repeats, titles, classes) float32, out of fold
offsets.npy             (repeats, folds, classes) float32, where it decides for macro-F1
labels.npy, groups.npy  (titles,) int32; groups are copies of one another
folds.npy               (repeats, titles) int32
README.md               a model card
"""

import contextlib
import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.heads import naming, words
from whichlayer.heads.options import MLP_OPTIONS, PROTOCOL, Options
from whichlayer.scores import decision, metrics
from whichlayer.scores.figures import Figures

FORMAT = 3  # raised when older runs can no longer be read
CHANGED = "titles or labels"
BASELINES = {kind: baseline.name for kind, baseline in words.BASELINES.items()}


@dataclass
class Config:
    """The content of config.json. What a baseline has no use for is None or empty there."""

    format: int
    classes: list[str]  # names, in the order of their numbers
    options: Options
    data: store.TitlesInfo
    baseline: str | None = None  # a key of BASELINES, or "average"; None for runs that train.py made
    columns: list[tuple[str, int]] | None = None  # (pooling, layer) of the features, as they stand side by side
    encoder: store.EncoderInfo | None = None
    settings: store.Settings | None = None
    features: str | None = None  # digest of what decides the features' values, see store.identity
    files: dict[str, str] | None = None  # name and sha256 of the feature files
    flop: float | None = None  # floating-point operations of the encoder for a title of mean length
    tokens: float | None = None  # that mean length
    results: Figures | None = None
    made: disk.Made | None = None
    software: dict | None = None
    machine: dict | None = None
    contents: dict[str, str] | None = None  # name and sha256 of the other files in the run's folder


# what only trained runs have to hold, and what all have to hold, to be of use
TRAINED = ("columns", "encoder", "settings", "features", "files")
ALWAYS = ("results", "made", "contents")


@dataclass
class Run:
    """One trained layer set, or one baseline, on the disk."""

    folder: Path | None  # None for a baseline that is computed from other runs
    config: Config
    computed: np.ndarray | None = None  # the probabilities of a run that has no folder
    computed_offsets: np.ndarray | None = None  # its offsets
    parts: list["Run"] | None = None  # of an average, see ensemble.py: the runs that are averaged

    @property
    def options(self):
        return self.config.options

    @property
    def figures(self):
        return self.config.results

    @property
    def classes(self):
        return self.config.classes

    @property
    def encoder(self):
        return self.config.encoder

    @property
    def baseline(self):
        """A key of BASELINES, "average", or None for a run that train.py made."""
        return self.config.baseline

    @property
    def identity(self):
        """What two runs share only where one is a copy of the other, or was made as it was."""
        config = self.config
        weights = self.encoder.weights if self.encoder else None
        made_of = [config.data.titles, weights, config.features, config.columns, config.options]
        holds = [config.classes, config.results, config.contents]
        return disk.digest(disk.as_json(made_of + holds))

    @property
    def labels_per_category(self):
        """With how many labelled titles of each category it was trained; None: all of them."""
        return self.config.options.labels

    @property
    def columns(self):
        """The (pooling, layer) of the features, as they stand side by side; empty for a baseline."""
        return self.config.columns or []

    @property
    def layers(self):
        """The layers, top first; empty for a baseline."""
        return list(dict.fromkeys(layer for _, layer in self.columns))

    @property
    def poolings(self):
        return list(dict.fromkeys(pooling for pooling, _ in self.columns))

    @property
    def depth(self):
        """The share of the encoder's layers that must run: 0 for a baseline, 1 for the last layer."""
        return max(self.layers) / self.encoder.layers if self.columns else 0.0

    @property
    def head(self):
        """The head, or the baseline, in words."""
        if self.parts:
            return " + ".join(part.head for part in self.parts)
        return BASELINES[self.baseline] if self.baseline else naming.head_in_words(self.columns, self.options)

    @property
    def name(self):
        """The row in words: its layers with the head in brackets, or the baseline."""
        return naming.layers_in_words(self.columns, self.head) if self.columns else self.head

    @property
    def probabilities(self):
        """Out-of-fold probabilities, (repeats, titles, classes) float32, memory-mapped."""
        return self.array("probabilities") if self.computed is None else self.computed

    @property
    def calibrated(self):
        """Out-of-fold probabilities, pooled over repeats and sharpened: (titles, classes) float64."""
        if self.parts:
            return sum(part.calibrated for part in self.parts) / len(self.parts)
        return metrics.sharpen(metrics.pool(self.probabilities), self.figures.pooled_temperature)

    @property
    def offsets(self):
        """What the decision takes from log-probabilities, (repeats, folds, classes); None: nothing."""
        if self.computed is not None:
            return self.computed_offsets
        return self.array("offsets") if "offsets.npy" in self.config.contents else None

    def predictions(self, folds):
        """The category that is named for each title out of fold, (repeats, titles) ints; folds: of
        the run.
        """
        return decision.predictions(self.probabilities, folds, self.offsets)

    def named(self, calibrated, folds):
        """The category that is named for each title by its calibrated probabilities: (titles,) ints."""
        offsets = self.mean_offsets(folds)
        return decision.decide(calibrated, 0.0 if offsets is None else offsets)

    def mean_offsets(self, folds):
        """What the decision takes from the logarithms of calibrated probabilities, (titles,
        classes); None: nothing.
        """
        if self.offsets is None:
            return None
        # they belong to log-probabilities, which the temperature divides
        own = decision.title_offsets(self.offsets, folds).mean(0)
        return own / self.figures.pooled_temperature

    def array(self, name):
        """One of the run's arrays, memory-mapped; one that is not what the configuration says is a
        Problem.
        """
        return np.load(self.file(f"{name}.npy"), mmap_mode="r", allow_pickle=False)

    def file(self, name):
        """The path of one of the run's files, once it is known to be what was written."""
        path = self.folder / name
        if not path.exists() or disk.sha256(path) != self.config.contents.get(name):
            raise cli.Problem(f"{path}: gone or changed since the run was written; {self.remedy}")
        return path

    @property
    def remedy(self):
        """What to do where the run is damaged, in words."""
        if not self.baseline:
            return "delete the run's folder and train again"
        again = cli.command("evaluate.py", "--baselines", results=(self.folder.parent, "results"))
        return f"delete the run's folder and make it again with: {again}"


# --- writing and reading --------------------------------------------------------------------------


def write(folder, config, arrays, heads=None, history=(), files=None):
    """Write a run's folder whole or not at all; a run that is there is replaced.

    arrays: {name: array} that become .npy files, None where there is none; heads: {name: array},
    the trained heads, with which a model card is written; history: a (repeat, fold, epoch, loss,
    macro-F1) for each head and epoch; files: {name: bytes} of others.
    """
    temporary = folder.with_name(f".unfinished-{folder.name}")
    # where it is killed between two renames, neither run is there, and the next training makes it
    replaced = folder.with_name(f".unfinished-{folder.name}-replaced")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        # arrays, heads, history, and what else is to be kept
        for name, array in arrays.items():
            if array is not None:
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        if heads:
            # written here, as the library takes no path that is not UTF-8
            (temporary / "heads.safetensors").write_bytes(save(heads))
        if history:
            with open(temporary / "history.csv", "w", newline="") as file:
                csv.writer(file).writerows([("repeat", "fold", "epoch", "loss", "macro_f1"), *history])
        for name, content in (files or {}).items():
            (temporary / name).write_bytes(content)
        # the configuration, with a checksum of each of those
        contents = {path.name: disk.sha256(path) for path in sorted(temporary.iterdir())}
        disk.write_json(temporary / "config.json", written(config) | {"contents": contents})
        # the card is for people, who may want to edit it: no checksum of it is kept
        if heads:
            (temporary / "README.md").write_text(model_card(config, folder.name), encoding="utf-8")
        # on the disk before it has its name
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def written(config):
    """A configuration as a dictionary for JSON, without the options that its head, or a baseline,
    does not have.
    """
    content = disk.as_json(config)
    options = content["options"]
    if config.baseline:
        content["options"] = {name: options[name] for name in (*PROTOCOL, "decide")}
        if config.options.labels:
            content["options"]["labels"] = config.options.labels
    elif config.options.head == "linear":
        content["options"] = {name: value for name, value in options.items() if name not in MLP_OPTIONS}
    return content


def open_run(folder):
    """The Run in a folder; none there, or one that lacks what its users rely on, is a Problem."""
    folder = Path(folder)
    path = folder / "config.json"
    if not path.exists():
        hint = "train.py makes runs, python evaluate.py lists them"
        raise cli.Problem(f"{folder}: no run is there; {hint}")
    what = "a run of train.py (an encoder is named with --model)"
    config = disk.read_json(path, Config, what, FORMAT)
    needed = ALWAYS if config.baseline else ALWAYS + TRAINED
    for field in needed:
        if getattr(config, field) is None:
            raise cli.Problem(f"{path}: {field} is missing or of a wrong kind; {disk.AGAIN}")
    return Run(folder, config)


def find(place):
    """The Run that --run names: a run's own folder, or the only trained one in a folder of results."""
    folder = Path(place or "results")
    if place and (folder / "config.json").exists():
        run = open_run(folder)
        if run.baseline == "majority":
            kept = "the majority class, which says the same of every title"
            raise cli.Problem(f"--run {folder}: {kept}; name another run")
        if run.baseline and run.labels_per_category:
            kept = "TF-IDF with few labels, measured for the table only"
            raise cli.Problem(f"--run {folder}: {kept}; name the run with all titles")
        return run

    found = []
    for path in folder.glob("[!.]*/config.json"):
        # what cannot be used is not offered
        with contextlib.suppress(cli.Problem):
            run = open_run(path.parent)
            if not run.baseline:
                found.append(run)
    if place and len(found) == 1:
        return found[0]
    if place and not found:
        # which says that no run is there
        return open_run(folder)
    known = "; train.py makes runs"
    if found:
        found.sort(key=lambda run: (-run.figures.macro_f1, run.folder))
        names = ", ".join(cli.shell(run.folder) for run in found[:8])
        more = ", …" if len(found) > 8 else ""
        known = f"; there are, the best first: {names}{more}"
    raise cli.Problem(f"--run: name the folder of one run{known}")


def features_of(run, folders=None):
    """The features that a run was trained on, opened and compared with what the run says of them.

    folders: where to look; None for where they were when the run was trained.
    """
    problems = []
    for place in folders or [run.config.made.features or "features"]:
        if not (Path(place) / "manifest.json").exists():
            problems.append(f"{place}: there are no features")
            continue
        features = store.open_features(place)
        differs = differing(run, features.manifest)
        if not differs:
            return features
        wrong = f"not the features that the run was trained on, their {differs} differ"
        if differs == CHANGED:
            again = cli.one_line(run.config.made.command)
            wrong += f" (if that is meant, train it again with: {again})"
        problems.append(f"{place}: {wrong}")
    needed = f"{run.folder.name} needs those of {run.encoder.name}" if run.encoder else "all runs need theirs"
    raise cli.Problem(f"{'; '.join(problems)}; {needed}, name them with --features")


def differing(run, manifest):
    """In what the features of a manifest are others than those a run was trained on, in words; or
    None.
    """
    config = run.config
    if config.data.titles != manifest.data.titles:
        return CHANGED
    if run.baseline:
        return None
    if config.features != disk.digest(store.identity(manifest)):
        return "encoder or settings"
    there = {name: entry.sha256 for name, entry in manifest.files.items()}
    return None if config.files.items() <= there.items() else "files"


def collapse(run):
    """(what to say of a run in which heads predict one class only, the remedy), or None for other
    runs.
    """
    options = run.options
    collapsed = len(run.figures.collapsed)
    if not collapsed:
        return None
    remedy = "a smaller --lr" if options.standardize else "--standardize"
    if options.head == "linear":
        remedy = "another layer or --pooling"
    return f"predicts one class only in {collapsed} of {options.heads} heads", remedy


def model_card(config, name):
    """A README for a run's folder: what it is, how good, and how to use it."""
    result = config.results
    titles = config.data
    # they stand between such quotes
    data = titles.name.replace("`", "")
    encoder = config.encoder.name.replace("`", "")
    command = config.made.command.replace("`", "")
    classes = "\n".join(f"- {cli.escape_markdown(each)}" for each in config.classes)
    return f"""---
pipeline_tag: text-classification
---
# {name}

Tells the categories below apart by {naming.layers_in_words(config.columns)} of the frozen encoder `{encoder}`.
Made with `{command}`. Use it with `python predict.py --run FOLDER "a title"`.

F1-macro {result.macro_f1:.4f} (folds {result.fold_mean:.4f} ± {result.fold_deviation:.4f}, log loss
{result.log_loss:.4f}), out of fold, on {titles.rows:,} titles of `{data}` (sha256 `{titles.sha256}`).

{classes}
"""
