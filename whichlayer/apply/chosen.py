"""Which runs answer, and how they go together: those that --run names, or what evaluate.py recommends.

recommended.json   the recommended runs, by the names of their folders, which lie beside it: in
                   results/, or in a folder that evaluate.py --keep has made. That one holds of the
                   runs what prediction needs, and README.md, a model card.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.heads import runs
from whichlayer.scores import calibration

FILE = "recommended.json"
FORMAT = 1
# of a run's files
NEEDED = ("heads.safetensors", "weights.safetensors", "terms.json")


@dataclass
class Chosen:
    """One run, or several that are combined."""

    runs: list[runs.Run]
    exponents: list[float]  # of their probabilities, in the log-linear pool for new titles
    offsets: list[float]  # (classes,) of the decision by the probabilities that come out


@dataclass
class Recommended:
    """The content of recommended.json."""

    format: int
    runs: list[str]  # names of their folders
    configs: list[str]  # sha256 of each one's config.json
    exponents: list[float]
    offsets: list[float]


def choose(folders):
    """The Chosen runs of some folders: of runs, or one in which a recommendation lies. What does not
    fit together, or is not there, is a cli.Problem.
    """
    if not folders:
        raise cli.Problem("no run is named: give the folder of one, or a list of several")
    if len(folders) == 1 and not Path(folders[0], "config.json").exists():
        return read(Path(folders[0]))
    return combine([runs.find(folder) for folder in folders])


# --- runs that go together ------------------------------------------------------------------------


def combine(own):
    """The Chosen of some runs, combined by what they said out of fold."""
    check_together(own)
    exponents = exponents_of(own)
    return Chosen(own, exponents.tolist(), offsets_of(own, exponents).tolist())


def check_together(own):
    """Refuse to combine runs of other titles, labels or folds."""
    for run in own[1:]:
        if (run.classes, run.task) != (own[0].classes, own[0].task):
            wrong = "not of the same titles, labels and folds, so nothing tells what each is worth beside the other"
            raise cli.Problem(
                f"--run {own[0].folder} {run.folder}: {wrong}; train both on the same titles, with one seed"
            )


def exponents_of(own):
    """What the probabilities of runs for new titles are raised to in their pool, (runs,) float64."""
    # for new titles, more heads are pooled than out of fold
    temperatures = np.array([run.figures.temperature for run in own])
    if len(own) == 1:
        return 1 / temperatures
    pooled = [calibration.pool(run.probabilities) for run in own]
    exponents, _ = calibration.cross_fit(own[0].array("labels"), pooled, own[0].array("folds")[0])
    for exponent, run in zip(exponents, own, strict=True):
        if not exponent:
            cli.say(f"{run.folder}: adds nothing to what the others say")
    return exponents * [run.figures.pooled_temperature for run in own] / temperatures


def offsets_of(own, exponents):
    """The offsets of the decision by the pool of runs' probabilities, (classes,)."""
    total = np.zeros(len(own[0].classes))
    for exponent, run in zip(exponents, own, strict=True):
        if run.offsets is not None:
            # they belong to log-probabilities, and so do exponents
            total += exponent * run.offsets.mean((0, 1))
    return total


# --- recommendations ------------------------------------------------------------------------------


def write(folder, chosen):
    """Write recommended.json beside Chosen runs."""
    names = [run.folder.name for run in chosen.runs]
    configs = [disk.sha256(folder / name / "config.json") for name in names]
    disk.write_json(folder / FILE, Recommended(FORMAT, names, configs, chosen.exponents, chosen.offsets))


def read(folder):
    """The Chosen runs that are recommended in a folder; none, or runs that have gone or changed since,
    are a Problem.
    """
    again = f"recommend anew with: {cli.command('evaluate.py', results=(folder, 'results'))}"
    if not (folder / FILE).exists():
        raise cli.Problem(f"{folder}: no run is there, nor a recommendation; name the folder of one, or {again}")
    found = disk.read_json(folder / FILE, Recommended, "a recommendation of evaluate.py", FORMAT, again)
    own = []
    for name, checksum in zip(found.runs, found.configs, strict=True):
        config = disk.checked(folder / Path(name).name / "config.json", checksum, f"trained again? {again}")
        own.append(runs.find(config.parent))
    return Chosen(own, found.exponents, found.offsets)


def check_keep(folder):
    """Refuse to put a classifier where something else is, or is beside one that was kept."""
    own = (FILE, "README.md", "config.json", *NEEDED)
    is_kept = (folder / FILE).exists() and all(path.name in own for path in folder.rglob("*") if path.is_file())
    if disk.is_fixed(folder) or (any(folder.glob("*")) and not is_kept):
        raise cli.Problem(f"--keep {folder}: something else is there, or you are; name a new folder")


def keep(folder, chosen, card):
    """Write Chosen runs into a folder of their own, in place of one that was kept before. card: the
    text of its README.md.
    """
    with disk.atomic_folder(folder) as new:
        kept = []
        for run in chosen.runs:
            own = new / run.folder.name
            own.mkdir()
            contents = {name: run.contents[name] for name in NEEDED if name in run.contents}
            for name in contents:
                shutil.copyfile(run.file(name), own / name)
            # where things are on this machine is nobody else's matter
            made = replace(run.made, command="evaluate.py --keep", features=Path(run.made.features).name)
            disk.write_json(own / "config.json", replace(run, contents=contents, made=made))
            kept.append(runs.open_run(own))
        write(new, replace(chosen, runs=kept))
        (new / "README.md").write_text(card, encoding="utf-8")
