"""What is on the disk: atomic files, locks, checksummed JSON, the formats of features/ and results/<run>/."""

import contextlib
import csv
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import shlex
import sys
import time
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import cli

FORMAT = 1  # of features/; raised when older files can no longer be read
AGAIN = "delete the folder and make it again"
csv.field_size_limit(1 << 30)  # a title may be longer than the 128 kB that Python reads unasked


@contextlib.contextmanager
def atomic(path, mode="wb", **options):
    """Open a temporary neighbour of `path`; flush and rename it to `path` on success, delete it on failure."""
    path = Path(path).resolve()  # a link stays a link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder, what):
    """Hold `folder` for this process alone. The lock belongs to the process: a dead one does not hold it."""
    from filelock import FileLock, Timeout  # comes with torch and transformers

    if Path(folder).is_file():
        raise cli.Problem(f"{folder}: this is a file; name a folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(folder) / ".lock", timeout=0):
            yield
    except Timeout:
        raise cli.Problem(f"{folder}: {what} is running in this folder; wait for it or choose another") from None
    except OSError as error:  # a disk that is full does not say which
        error.filename = error.filename or str(folder)
        raise


def sha256(path):
    """The sha256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content):
    """The sha256 of anything that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(path, content):
    """Write a dictionary with its own checksum in it, atomically."""
    content = {**content, "checksum": digest(content)}
    with atomic(path, "w", encoding="utf-8", errors="surrogateescape") as file:  # a path may hold bytes of any kind
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


class Content(dict):
    """A dictionary in a JSON file that write_json wrote: a key that it lacks is a Problem, whoever asks for it."""

    def __init__(self, path, items):
        super().__init__(items)
        self.path = path

    def __missing__(self, key):
        raise cli.Problem(f"{self.path}: {key!r} is missing; {AGAIN}")


def read_json(path, what, version=FORMAT):
    """Read what write_json wrote: a Content. A file that was edited, cut or of another version is a cli.Problem."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        content = json.loads(text, object_hook=functools.partial(Content, str(path)))
        checksum = content.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise cli.Problem(f"{path}: this is not {what}, or it is damaged; {AGAIN}") from None
    if content["format"] != version:
        raise cli.Problem(f"{path}: written in format {content['format']!r}, this program reads {version}; {AGAIN}")
    if checksum != digest(content):
        raise cli.Problem(f"{path}: edited or damaged since it was written (checksum differs); {AGAIN}")
    return content


def provenance(started, **machine):
    """How something was made: when, in how many seconds, by which command, with which software, on what machine."""
    packages = ("numpy", "pandas", "sklearn", "torch", "transformers")
    software = {name: sys.modules[name].__version__ for name in packages if name in sys.modules}
    return {
        "software": {"layers": cli.VERSION, "python": platform.python_version(), **software},
        "machine": {"processor": platform.machine(), **machine},
        "made": {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.time() - started, 2),
            "command": cli.one_line(shlex.join(["python", *sys.argv])),
        },
    }


def slug(name, longest=60):
    """A name as part of a path: letters, digits, dots and hyphens only, never empty or hidden, of bounded bytes."""
    kept = "".join(c if c.isalnum() or c in ".-" else "-" for c in str(name)).strip(".-")
    return kept.encode()[:longest].decode(errors="ignore").rstrip(".-") or "unnamed"


def titles_in(path):
    """Yield (title, label) for each row of a file that copy_titles wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        yield from itertools.islice(csv.reader(file), 1, None)


def feature_file(pooling, layer):
    """The name of the file that holds one layer with one pooling."""
    return f"{pooling}-{layer:02d}.npy"


def column_of(name):
    """The (pooling, layer) of a file that feature_file named."""
    pooling, _, layer = name.removesuffix(".npy").partition("-")
    return pooling, int(layer)


def resolve_layers(wanted, depth, encoder, poolings, available=None):
    """Layer numbers, top first, for what --layers says: `all`, numbers from 1 (0 is the embedding output), or -1, -2 …

    depth: layers of the encoder; available: the layers that the features hold, where only those will do.
    Unknown, repeated or meaningless layers are a Problem that names what to type.
    """
    asked = f"--layers {' '.join(wanted)}"
    if wanted == ["all"]:
        return sorted(range(1, depth + 1) if available is None else available, reverse=True)
    try:
        layers = [int(word) + (depth + 1) * (int(word) < 0) for word in wanted]
    except ValueError:
        raise cli.Problem(f"{asked}: give `all`, or whole numbers such as 12 11 or -1 -2") from None
    if min(layers) < int("cls" in poolings) or max(layers) > depth:
        hint, top = "numbers below 0 count from the top", max(layers) + 1
        if 0 in layers:
            hint = "layer 0, the embeddings, needs --pooling mean"
        elif min(layers) > 0 and top - min(layers) <= depth:
            hint = f"counted from the top, that is --layers {' '.join(str(layer - top) for layer in layers)}"
        raise cli.Problem(f"{asked}: {encoder} has {depth} layers, 1 to {depth}; {hint}")
    if len(set(layers)) < len(layers):
        raise cli.Problem(f"{asked}: layer {max(layers, key=layers.count)} is named twice")
    if available is not None and (missing := sorted({*layers} - {*available}, reverse=True)):
        there = f"the features hold layers {' '.join(map(str, available)) or 'none'}"
        more = f"extract.py --layers {' '.join(map(str, missing))} and its other options as before"
        raise cli.Problem(f"{asked}: {there}; add the others with: {more}")
    return sorted(layers, reverse=True)


@dataclass
class Features:
    """One extraction, opened for reading."""

    folder: Path
    manifest: dict
    checked: set = field(default_factory=set)

    def layers(self, pooling):
        """The layers that are there for a pooling, ascending."""
        return sorted(layer for kind, layer in map(column_of, self.manifest["files"]) if kind == pooling)

    def read(self, pooling, layer, check=True):
        """The features of one layer, (titles, hidden), memory-mapped. Damage is a Problem; `check` reads every byte."""
        path, array = self.folder / feature_file(pooling, layer), np.empty(0)
        if path.name not in self.manifest["files"]:
            raise cli.Problem(f"{self.folder}: no layer {layer} ({pooling}) is there, only {self.layers(pooling)}")
        entry = self.manifest["files"][path.name]
        shape = (self.manifest["data"]["rows"], self.manifest["encoder"]["hidden"])
        whole = path.exists() and path.stat().st_size == entry["bytes"]
        if whole and check and path.name not in self.checked:
            whole = sha256(path) == entry["sha256"]
        # errors of all these kinds, since numpy parses the header as Python's literals
        with contextlib.suppress(OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not whole or array.shape != shape or array.dtype != self.manifest["settings"]["store"]:
            wrong = "gone or changed, not the numbers that manifest.json names"
            raise cli.Problem(f"{path}: {wrong}; delete the folder and extract again")
        self.checked |= {path.name} if check else set()  # read for this once, however many layer sets use it
        return array

    def stack(self, columns):
        """The features of (pooling, layer) columns side by side: (titles, layers, hidden) float32, in own memory.

        Read in blocks rather than mapped: pages that were only read would count as this process's memory.
        """
        out = np.empty((self.manifest["data"]["rows"], len(columns), self.manifest["encoder"]["hidden"]), np.float32)
        for i, column in enumerate(columns):
            mapped = self.read(*column)
            with open(mapped.filename, "rb") as file:
                file.seek(mapped.offset)
                for first in range(0, len(out), 1 << 14):
                    block = out[first : first + (1 << 14), i]
                    block[:] = np.fromfile(file, mapped.dtype, block.size).reshape(block.shape)
        return out

    def titles_file(self):
        """The path of the titles with their labels, once they are known to be those of the extraction."""
        path = self.folder / "titles.csv"
        if not path.exists() or sha256(path) != self.manifest["data"]["titles"]:
            raise cli.Problem(f"{path}: gone or changed since the extraction; delete the folder and extract again")
        return path

    def titles(self):
        """All titles and all labels, as two lists."""
        titles, labels = [], []
        for title, label in titles_in(self.titles_file()):
            titles.append(title)
            labels.append(sys.intern(label))  # a million titles hold each name of a category once
        return titles, labels


def identity(manifest):
    """What of a manifest decides the features' values (not which layers there are), under names that users know."""
    encoder = {"encoder weights": manifest["encoder"]["weights"], "tokenizer": manifest["encoder"]["tokenizer"]}
    return {**encoder, "titles": manifest["data"]["titles"], **manifest["settings"]}


def open_features(folder):
    """Open the extraction in `folder`; a missing or unfinished one is a Problem that says what to run."""
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        if (folder / "job.json").exists():
            raise cli.Problem(f"{folder}: the extraction there is not finished; the same extract.py command goes on")
        following = cli.command("extract.py", out=(folder, "features"))
        raise cli.Problem(f"{folder}: there are no features; make them with: {following}")
    manifest = read_json(folder / "manifest.json", "a manifest of features")
    for name in manifest["files"]:  # a name of any other form might lead out of the folder
        if not re.fullmatch(r"(cls|mean)-(\d\d|[1-9]\d\d+)\.npy", name, re.ASCII):
            raise cli.Problem(f"{folder / 'manifest.json'}: {name!r} is no file of features; extract again")
    return Features(folder, manifest)
