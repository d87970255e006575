"""Files to trust: written whole or not at all, locked, checksummed, read as dataclasses."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import shlex
import sys
import tempfile
import time
import types
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from whichlayer.common import cli

AGAIN = "delete the folder and make it again"
JSON_KINDS = {float: (float, int), tuple: list}  # what JSON has in place of these


def beside(path):
    """The hidden folder in which a file or a folder is made that takes several processes or attempts."""
    path = Path(path).resolve()
    return path.with_name(f".{path.name}.unfinished")


@contextlib.contextmanager
def atomic(path, mode="wb", **options):
    """Open a temporary neighbour of `path`: it becomes `path` on success, is deleted on failure."""
    path = Path(path).resolve()  # a link stays a link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            flush(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(file):
    """Make sure that what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(folder):
    """Give a new folder: it takes the place of `folder` on success, once all of it is on the disk."""
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as work:
        new = Path(work, "new")
        new.mkdir()
        yield new
        for path in filter(Path.is_file, new.rglob("*")):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        old = Path(work, "old")
        try:
            if folder.exists():
                os.rename(folder, old)
            os.rename(new, folder)
        finally:
            if old.exists() and not folder.exists():
                os.rename(old, folder)


def is_fixed(folder):
    """Whether no other folder can take the place of one: a file or a disk is there, or you are."""
    return folder.is_file() or os.path.ismount(folder) or Path.cwd().is_relative_to(folder.resolve())


@contextlib.contextmanager
def locked(folder, what):
    """Hold `folder` for this process alone, for as long as it lives."""
    from filelock import FileLock, Timeout  # comes with torch

    if folder.is_file():
        raise cli.Problem(f"{folder}: this is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise cli.Problem(f"{folder}: {what} is running in this folder; wait for it or choose another") from None


def sha256(path):
    """The sha256 of a file, as hexadecimal digits; of a folder, that of its Parquet files' digits."""
    if Path(path).is_dir():
        return digest(list(map(sha256, parts_of(path))))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked(path, checksum, remedy=AGAIN):
    """The path of a file, once it is known to have this sha256."""
    if not path.exists() or sha256(path) != checksum:
        raise cli.Problem(f"{path}: gone or changed since it was written; {remedy}")
    return path


def parts_of(path):
    """The files that a path names: itself, or the Parquet files of a folder."""
    path = Path(path)
    return sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path]


def each(work, *items):
    """[work(item), …], or of an item of each list, some at a time: for work on files."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(work, *items))


def digest(content):
    """The sha256 of anything that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def slug(name, longest=60):
    """A name as part of a path: letters, digits, dots and hyphens, never empty, hidden or long."""
    kept = re.sub(r"[^\w.-]|_", "-", name).strip(".-").encode()[:longest]
    return kept.decode(errors="ignore").rstrip(".-") or "unnamed"


# --- JSON with a checksum, and dataclasses for what is in it --------------------------------------


def write_json(path, content):
    """Write a dataclass or dictionary with its own checksum in it, atomically."""
    # as JSON holds dataclasses and tuples
    content = json.loads(json.dumps(content, default=dataclasses.asdict))
    content["checksum"] = digest(content)
    with atomic(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path, kind, what, version, remedy=f"name another folder, or {AGAIN}"):
    """What write_json wrote, as a dataclass; a Problem with this remedy if edited, cut, or of another version."""
    written = version
    with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        checksum = content.pop("checksum")
        written = content["format"]
        if written == version and checksum == digest(content):
            return from_json(kind, content)
    if written != version:
        raise cli.Problem(f"{path}: written in format {written!r}, this program reads {version}; {remedy}")
    # it may be somebody's encoder: nobody is told to delete what was not made here
    raise cli.Problem(f"{path}: this is not {what}, or it was edited or damaged since; {remedy}")


def from_json(kind, value):
    """A value from JSON as an annotation wants it; what is none is a TypeError or a ValueError."""
    inner = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return None if value is None else from_json(inner[0], value)
    outer = dict if dataclasses.is_dataclass(kind) else typing.get_origin(kind) or kind
    if not isinstance(value, JSON_KINDS.get(outer, outer)):
        raise TypeError
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: from_json(hints[name], item) for name, item in value.items() if name in hints})
    if inner and outer is dict:
        return {key: from_json(inner[1], item) for key, item in value.items()}
    if inner:
        kinds = inner * len(value) if outer is list else inner
        return outer(from_json(each, item) for each, item in zip(kinds, value, strict=True))
    return value


# --- how something was made -----------------------------------------------------------------------


@dataclasses.dataclass
class Made:
    """When, in how many seconds, by which command and from what something was made."""

    command: str
    at: str = ""
    seconds: float = 0.0
    features: str | None = None  # of a run: the folder of the features that it was trained on
    titles: str | None = None  # of features: the path of the user's file


def provenance(started, features=None, titles=None, **machine):
    """What features or a run say of how they were made. started: time.time() when work began."""
    command = cli.one_line(shlex.join(["python", *sys.argv]))
    software = {"whichlayer": cli.VERSION, "python": platform.python_version()}
    known = ("numpy", "pandas", "sklearn", "torch", "transformers")
    software |= {name: sys.modules[name].__version__ for name in known if name in sys.modules}
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    made = Made(command, at, round(time.time() - started, 2), features, titles)
    return {"made": made, "software": software, "machine": {"processor": platform.machine(), **machine}}
