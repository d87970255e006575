"""The features on the disk: what features/ holds, which layers there are, and how to read them.

manifest.json   what follows, and how it was made; a folder without it holds no features
cls-01.npy …    (titles, hidden) float32 or float16: one file for each pooling and layer
titles.csv      the titles with their labels, and groups if there are any, in the order of the rows

What is being made lies in a hidden folder beside it, .NAME.unfinished; see folder.py.
"""

import contextlib
import csv
import itertools
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.encoder.poolings import POOLINGS

# raised when older features can no longer be read
FORMAT = 2
# rows that are read at a time
BLOCK = 1 << 14
# a title may be longer than the 128 kB that Python reads unasked
csv.field_size_limit(1 << 30)


@dataclass
class Checked:
    """Which shortcuts give an encoder's own hidden states; equal where it was found out in the same
    circumstances.
    """

    weights: str  # sha256, as of EncoderInfo
    software: dict[str, str]  # versions of torch and transformers
    processor: str  # kind of processor, or of device
    has_summary: bool = field(default=False, compare=False)  # whether a token that sums up a title stands first
    mixes: bool = field(default=False, compare=False)  # whether titles of different lengths may be padded to one
    leaves: bool = field(default=False, compare=False)  # whether it may be left after any of its layers
    packs: str = field(default="", compare=False)  # arithmetic in which linears were packed as oneDNN wants them


@dataclass
class EncoderInfo:
    """Which encoder made the features."""

    name: str  # on the model hub, or an absolute folder
    revision: str | None  # commit on the hub
    layers: int
    hidden: int  # dimensions of a hidden state
    weights: str  # sha256 over names and values
    tokenizer: str  # sha256
    checked: Checked | None = field(default=None, compare=False)  # by extract.py; decides no values

    @property
    def place(self):
        """Where it is found, also when the hub has a newer one by that name."""
        return f"{self.name.partition('@')[0]}@{self.revision}" if self.revision else self.name


@dataclass
class TitlesInfo:
    """Which titles the features are of."""

    name: str  # youtube, sample, or the name of the user's file
    sha256: str  # of the user's file
    titles: str  # sha256 of titles.csv
    rows: int


@dataclass
class Settings:
    """What else decides the features' values."""

    max_length: int  # tokens; longer titles are cut
    dtype: str  # that the encoder computed in
    store: str  # type of the numbers on the disk
    device: str = "cpu"
    prefix: str | None = None  # put before every title; None: nothing


@dataclass
class FileInfo:
    """What is known of a file: enough to tell whether it has changed."""

    bytes: int
    sha256: str


@dataclass
class Cost:
    """What the encoder computes for a title of mean length."""

    tokens: float  # mean number of tokens of a title
    flop: list[float]  # floating-point operations for layer 0, 1, …: of all that must run to have it


def identity(features):
    """What decides the features' values (not which layers there are), under names that users know."""
    return {
        "encoder weights": features.encoder.weights,
        "tokenizer": features.encoder.tokenizer,
        "titles": features.data.titles,
        **vars(features.settings),
    }


# --- titles, names of files, numbers of layers ----------------------------------------------------


def titles_in(path):
    """Yield [title, label], and the group if there is one, of each row that data.copy_titles wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        yield from itertools.islice(csv.reader(file), 1, None)


def feature_file(pooling, layer):
    """The name of the file that holds one layer with one pooling."""
    return f"{pooling}-{layer:02d}.npy"


def column_of(name):
    """The (pooling, layer) of a file that feature_file named."""
    pooling, _, layer = name.removesuffix(".npy").partition("-")
    return pooling, int(layer)


def resolve_layers(wanted, encoder, poolings, available=None):
    """Layers, top first, for the words of --layers: `all`, numbers from 1 (0: embeddings), -1, -2 …

    encoder: an EncoderInfo; available: the layers that the features hold,
    where only those will do. What is no such layer is a Problem.
    """
    known = available or range(1, encoder.layers + 1)
    if wanted == ["all"]:
        return sorted(known, reverse=True)
    # the embeddings' first token is the same for every title
    if not available and not any(POOLINGS[name].is_first_token for name in poolings):
        known = [0, *known]
    with contextlib.suppress(ValueError):
        numbers = map(int, wanted)
        layers = {number + encoder.layers + 1 if number < 0 else number for number in numbers}
        if layers <= set(known):
            return sorted(layers, reverse=True)
    raise cli.Problem(
        f"--layers {' '.join(wanted)}: of {encoder.name} there are layers {cli.listing(map(str, known))} "
        "(-1 is the last); name some of them, or all, or extract others first"
    )


# --- reading features -----------------------------------------------------------------------------


@dataclass
class Features:
    """One extraction: the content of manifest.json, and how to read what lies beside it."""

    format: int
    encoder: EncoderInfo
    data: TitlesInfo
    settings: Settings
    files: dict[str, FileInfo]  # by name
    truncated: int = 0  # titles cut at max_length
    cost: Cost | None = None  # None where it cannot be counted
    made: disk.Made | None = None
    software: dict | None = None
    machine: dict | None = None

    # what is not in the file: where it lies, and the names of files whose every byte has been compared
    folder = None
    compared = frozenset()

    @property
    def shape(self):
        """(titles, hidden) of every layer."""
        return self.data.rows, self.encoder.hidden

    def layers(self, pooling):
        """The layers that are there for a pooling, ascending."""
        columns = map(column_of, self.files)
        return sorted(layer for kind, layer in columns if kind == pooling)

    def read(self, pooling, layer):
        """The features of one layer, (titles, hidden), memory-mapped; damage is a cli.Problem."""
        path = place_of(self.folder) / feature_file(pooling, layer)
        # of any kind, since numpy parses the header as Python's literals
        with contextlib.suppress(Exception):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            is_known = path.name in self.compared or disk.sha256(path) == self.files[path.name].sha256
            if is_known and array.shape == self.shape and array.dtype == self.settings.store:
                self.compared |= {path.name}
                return array
        raise cli.Problem(f"{path}: gone or changed since it was written; {disk.AGAIN}")

    def stack(self, columns):
        """The features of some columns side by side, (titles, layers, hidden) float32.

        columns: list of (pooling, layer).
        """
        rows, hidden = self.shape
        out = np.empty((rows, len(columns), hidden), np.float32)
        for place, column in enumerate(columns):
            mapped = self.read(*column)
            for block in np.array_split(np.arange(rows), rows // BLOCK + 1):
                out[block, place] = take(mapped, block)
        # other features may have taken their place meanwhile
        if open_features(self.folder) != self:
            raise cli.Problem(f"{self.folder}: changed while it was read; run the same command again")
        return out

    def titles_file(self):
        """The path of the titles with their labels, which are checked to be the extraction's."""
        return disk.checked(place_of(self.folder) / "titles.csv", self.data.titles)

    def titles(self):
        """All titles and all labels, as two lists."""
        titles = []
        labels = []
        for title, label, *_ in titles_in(self.titles_file()):
            titles.append(title)
            # a million titles hold each name of a category once
            labels.append(sys.intern(label))
        return titles, labels

    def groups(self):
        """What --group-column holds for each title, a list; empty where none was named."""
        return [group for _, _, *rest in titles_in(self.titles_file()) for group in rest]


def take(mapped, rows):
    """Some rows of a memory-mapped array, (rows, hidden), in the order that is asked for.

    They are read, not mapped: pages that were only read would count as this process's memory.
    """
    out = np.empty((len(rows), mapped.shape[1]), mapped.dtype)
    # rows that follow one another are read at once
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    with open(mapped.filename, "rb") as file:
        for first, end in itertools.pairwise([*starts, len(rows)]):
            file.seek(mapped.offset + int(rows[first]) * out[0].nbytes)
            block = out[first:end]
            if file.readinto(block) < block.nbytes:
                raise cli.Problem(f"{mapped.filename}: cut while it was read; extract again")
    return out


# --- the folder, and what is beside it ------------------------------------------------------------


def place_of(folder):
    """Where the features of a folder lie: in it, or beside it between two renames of folder.settle."""
    # the second rename may come while we look
    places = (folder, disk.beside(folder) / "new", folder)
    return next((place for place in places if (place / "manifest.json").exists()), folder)


def open_features(folder):
    """Open the extraction in `folder`; a Problem says what to run where none is finished."""
    folder = Path(folder)
    path = place_of(folder) / "manifest.json"
    if not path.exists():
        raise cli.Problem(
            f"{folder}: there are no features; name others with --features, make them with "
            f"{cli.command('extract.py', out=(folder, 'features'))}, or go on with the command that began them"
        )
    features = disk.read_json(path, Features, "a manifest of features", FORMAT)
    # as feature_file gives them: any other name might lead out of the folder
    for name in features.files:
        if not re.fullmatch(rf"({'|'.join(POOLINGS)})-[0-9]{{2,3}}\.npy", name):
            raise cli.Problem(f"{path}: {name!r} is no file of features; extract again")
    features.folder = folder
    return features
