"""Files to trust: written whole or not at all, locked, checksummed, read as dataclasses."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import platform
import shlex
import sys
import time
import types
import typing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from whichlayer.common import cli

AGAIN = "delete the folder and make it again"
ELSEWHERE = "name another folder, or make it anew elsewhere"
# files that are read or written at a time: more than one processor's share is waiting for the disk
AT_ONCE = 4
# what a network's file system may say to who asks for a lock
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def atomic(path, mode="wb", **options):
    """Open a temporary neighbour of `path`: it becomes `path` on success, is deleted on failure."""
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
    """Hold `folder` for this process alone, for as long as it lives."""
    # comes with torch and transformers
    from filelock import FileLock, Timeout

    folder = Path(folder)
    if folder.is_file():
        raise cli.Problem(f"{folder}: this is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        busy = f"{what} is running in this folder; wait for it or choose another"
        raise cli.Problem(f"{folder}: {busy}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        wrong = f"no file can be locked there ({error.strerror}), so two processes might write at once"
        remedy = "name a folder on a disk of this machine, and copy it afterwards"
        raise cli.Problem(f"{folder}: {wrong}; {remedy}") from None
    try:
        yield
    except OSError as error:
        # a disk that is full does not say which
        error.filename = error.filename or str(folder)
        raise
    finally:
        lock.release()


def sha256(path):
    """The sha256 of a file, as hexadecimal digits; of a folder, that of those of its files."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.is_file())
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def each(work, *items):
    """[work(item), …], or of an item of each list, some at a time in threads: for work on files,
    most of which is done outside Python.
    """
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(work, *items))


def digest(content):
    """The sha256 of anything that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def slug(name, longest=60):
    """A name as part of a path: letters, digits, dots and hyphens, never empty, hidden or long."""
    kept = "".join(c if c.isalnum() or c in ".-" else "-" for c in str(name))
    short = kept.strip(".-").encode()[:longest].decode(errors="ignore")
    return short.rstrip(".-") or "unnamed"


# --- JSON with a checksum, and dataclasses for what is in it --------------------------------------


def write_json(path, content):
    """Write a dataclass or dictionary with its own checksum in it, atomically."""
    content = as_json(content)
    content["checksum"] = digest(content)
    # surrogateescape: a path may hold bytes of any kind
    with atomic(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path, kind, what, version):
    """What write_json wrote, as a dataclass; a Problem if edited, cut, or of another version."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8", errors="surrogateescape"))
        checksum = content.pop("checksum")
        written = content["format"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        # it may be somebody's encoder: nobody is told to delete what was not made here
        raise cli.Problem(f"{path}: this is not {what}, or it is damaged; {ELSEWHERE}") from None
    if written != version:
        raise cli.Problem(f"{path}: written in format {written!r}, this program reads {version}; {AGAIN}")
    if checksum != digest(content):
        raise cli.Problem(f"{path}: edited or damaged since it was written (checksum differs); {AGAIN}")
    return from_json(kind, content, path)


def is_foreign(path):
    """Whether a file of JSON holds an object that write_json has not written, as other programs'
    config.json do.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(Path(path).read_text(encoding="utf-8", errors="surrogateescape"))
        return isinstance(content, dict) and not {"checksum", "format"} <= content.keys()
    return False


def as_json(item):
    """A dataclass as a dictionary for JSON; what is None, as it is by default, is left out."""
    if dataclasses.is_dataclass(item):
        content = {}
        for field in dataclasses.fields(item):
            value = getattr(item, field.name)
            if value is not None or field.default is not None:
                content[field.name] = as_json(value)
        return content
    if isinstance(item, dict):
        return {key: as_json(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [as_json(value) for value in item]
    return item


def from_json(kind, value, path, place=""):
    """A value from JSON as an annotation wants it: X | None, list[…], tuple[…], dict[str, …], a
    plain type or a dataclass; one that is missing or of another type is a cli.Problem that names
    its place.
    """
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    inner = typing.get_args(kind)
    outer = dict if dataclasses.is_dataclass(kind) else typing.get_origin(kind) or kind
    fits = isinstance(value, {float: (float, int), tuple: list}.get(outer, outer))
    # to Python, True is an int
    is_strange = isinstance(value, bool) and outer is not bool
    if not fits or is_strange or (outer is tuple and len(value) != len(inner)):
        raise cli.Problem(f"{path}: {place} is missing or of a wrong kind; {AGAIN}")

    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        before = f"{place}." if place else ""
        values = {}
        for field in dataclasses.fields(kind):
            if field.name in value or field.default is dataclasses.MISSING:
                given = value.get(field.name)
                values[field.name] = from_json(hints[field.name], given, path, f"{before}{field.name}")
        return kind(**values)
    if outer is list and inner:
        return [from_json(inner[0], item, path, place) for item in value]
    if outer is tuple:
        items = zip(inner, value, strict=True)
        return tuple(from_json(each, item, path, place) for each, item in items)
    if outer is dict and inner:
        return {key: from_json(inner[1], item, path, f"{place}.{key}") for key, item in value.items()}
    return value


# --- how something was made -----------------------------------------------------------------------


@dataclass
class Source:
    """A file of the user's that something was made from, and how to tell whether it has changed."""

    path: str  # absolute
    bytes: int
    modified: int  # nanoseconds since 1970
    sha256: str


@dataclass
class Made:
    """When, in how many seconds, by which command and from what something was made."""

    command: str
    at: str = ""
    seconds: float = 0.0
    features: str | None = None  # of a run: the folder of the features that it was trained on
    source: Source | None = None  # of features: the titles


def source(path, known=None):
    """The Source that a file, or a folder of Parquet files, is now.

    known: an earlier Source, whose sha256 is taken where size and time are those of before.
    """
    parts = [path]
    if path.is_dir():
        parts = sorted(part for part in path.glob("[!.]*.parquet") if part.is_file())
    states = [part.stat() for part in parts]
    size = sum(state.st_size for state in states)
    modified = max(state.st_mtime_ns for state in states)
    if known and (size, modified) == (known.bytes, known.modified):
        return known
    sums = [sha256(part) for part in parts]
    whole = digest(sums) if path.is_dir() else sums[0]
    return Source(str(path.resolve()), size, modified, whole)


def has_changed(known):
    """Whether the file of a Source is there and holds something else; it is read only where it was
    written to.
    """
    try:
        return source(Path(known.path), known).sha256 != known.sha256
    except (OSError, ValueError):  # it is elsewhere, or not for us to read
        return False


def provenance(started, features=None, **machine):
    """What a manifest or a run says of how it was made. started: time.time() when work began."""
    command = cli.one_line(shlex.join(["python", *sys.argv]))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    software = {"layers": cli.VERSION, "python": platform.python_version()}
    for name in ("numpy", "pandas", "sklearn", "torch", "transformers"):
        if name in sys.modules:
            software[name] = sys.modules[name].__version__
    return {
        "made": Made(command, now, round(time.time() - started, 2), features),
        "software": software,
        "machine": {"processor": platform.machine(), **machine},
    }
