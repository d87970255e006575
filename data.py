"""Titles and features: what the scripts read and write, and the habits that they share.

Titles come from a CSV file, are checked once, and are kept beside the features that were computed from them.
Features are plain .npy files, one for each layer and pooling, under a manifest that says how they were made.
"""
import contextlib
import csv
import gzip
import hashlib
import http.client
import io
import itertools
import json
import os
import shlex
import shutil
import sys
import time
import tokenize
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FORMAT = 1  # of features/ and of results/<run>/; raised when older files can no longer be read
HERE = Path(__file__).resolve().parent
POOLINGS = ("cls", "mean")
csv.field_size_limit(1 << 30)  # a title may be longer than the 128 kB that Python reads unasked
HEAD = {"standardize": False, "fusion": "conv", "reduction": "conv", "hidden": 512, "folds": 5, "split": "grouped",
        "epochs": 30, "batch_size": 64, "lr": 1e-3, "seed": 0}  # the options of a run and their defaults
YOUTUBE_SHA256 = "97ae8e26fa727faabbb9713b0b6eaeacd71e119eddfa5803e9e9c8865403aada"
YOUTUBE_URL = (
    "https://raw.githubusercontent.com/rajatrc1705/DS_ML_Projects/"
    "41e03270cc2e049d514b6354b1dd20e365c89d30/Youtube%20Classification/youtube.csv"
)


class Problem(Exception):
    """Something that the user can mend. Its text is the one line that they see; the exit code is 2."""


# --- habits of every script ---------------------------------------------------------------------------------------


def begin(parse_arguments):
    """Parse the command line, and let Ctrl-C during the slow imports that follow end with a line, not a traceback."""
    def hook(kind, error, trace):
        if kind is KeyboardInterrupt:
            print(f"{Path(sys.argv[0]).name}: stopped", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a terminal that knows no ≈ shows its code
    return parse_arguments()


def run(main, *args):
    """Call main(*args) and leave the process: 0, 2 for a Problem, 1 for the machine's faults, 130 for Ctrl-C."""
    script, code = Path(sys.argv[0]).name, 1
    try:
        main(*args)
        sys.stdout.flush()
        return
    except Problem as error:
        code, line = 2, str(error)
    except KeyboardInterrupt as error:
        code, line = 130, str(error) or "stopped; nothing half-written is left behind"
    except BrokenPipeError:  # the reader of our output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        line = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except (MemoryError, RuntimeError) as error:  # torch says in words that memory is short
        short = ("out of memory", "not enough memory", "can't allocate memory")
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in short):
            raise
        line = f"out of memory ({one_line(error)[:200]})"
    print(f"{script}: {one_line(line)}", file=sys.stderr, flush=True)
    sys.exit(code)


def one_line(text):
    """The text on one line, with control characters shown as escapes: it may hold names that come from a file."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(str(text).split()))


def say(text, quiet=False):
    """Print a line for people on standard error, so that standard output stays what other programs may read."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def unless_default(option, value, default):
    """The option as it has to be typed in a next command, or nothing where it has its default."""
    return "" if str(value) == default else f" {option} {shlex.quote(str(value))}"


def progress(total, unit, quiet=False, **options):
    """A tqdm bar on standard error that shows after two seconds, and not at all where that is not a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, unit_scale=True, delay=2, disable=True if quiet else None,
                dynamic_ncols=True, **options)


def number(kind, low=None, high=None, above=None):
    """An argparse type: an int or a float within the range, with an error that names it."""
    limits = [f"at least {low}"] * (low is not None) + [f"above {above}"] * (above is not None)
    limits += [f"at most {high}"] * (high is not None)

    def convert(text):
        value = kind(text)
        within = (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)
        if not within or value != value:
            raise ValueError
        return value

    convert.__name__ = f"{'whole number' if kind is int else 'number'} ({' and '.join(limits)})"
    return convert


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
def atomic_folder(folder):
    """Make a temporary neighbour of `folder`; rename it to `folder` when all that was put in is on the disk."""
    folder = Path(folder)
    temporary = folder.with_name(f".unfinished-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(folder, what):
    """Hold `folder` for this process alone. The lock belongs to the process: a dead one does not hold it."""
    from filelock import FileLock, Timeout  # comes with torch and transformers

    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder) / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Problem(f"{folder}: {what} is already running in this folder; wait for it or choose another") from None
    try:
        yield
    except OSError as error:  # a disk that is full does not say which
        error.filename = error.filename or str(folder)
        raise
    finally:
        lock.release()


def check_output(option, path):
    """Refuse to write a file where that cannot work, or would replace something other than a file."""
    path = Path(path)
    if not path.resolve().parent.is_dir() or path.is_dir():
        raise Problem(f"{option} {path}: there is no such folder to write it in, or it is a folder itself")
    if path.exists() and not path.is_file():
        raise Problem(f"{option} {path}: this is not a plain file; name one")


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


def read_json(path, what):
    """Read what write_json wrote. A file that was edited, cut or made by another version is a Problem."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8", errors="surrogateescape"))
        checksum = content.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Problem(f"{path}: this is not {what}, or it is damaged; delete the folder and make it again") from None
    if content.get("format") != FORMAT:
        raise Problem(f"{path}: written in format {content.get('format')!r}, this program reads {FORMAT}; make it again")
    if checksum != digest(content):
        raise Problem(f"{path}: edited or damaged since it was written (checksum differs); delete the folder and "
                      "make it again")
    return content


def slug(name):
    """A name as part of a path: letters, digits, dots and hyphens only, never empty, hidden or long."""
    kept = "".join(c if c.isalnum() or c in ".-" else "-" for c in str(name))
    return kept.strip(".-")[:60].rstrip(".-") or "unnamed"


def escape_cell(text):
    """A cell that no spreadsheet takes for a formula: a leading =, +, -, @, tab or return gets an apostrophe."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def escape_markdown(text):
    """Text for a cell of a markdown table or a list: on one line, with nothing in it that markdown would interpret."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~" else c for c in one_line(text))


def numbered(values):
    """(n,) int64: equal values get equal numbers, in the order of their first appearance."""
    numbers = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


# --- titles -------------------------------------------------------------------------------------------------------


def find_titles(data, quiet=False):
    """The path of the titles that `--data` names: youtube (downloaded once), sample, or a file."""
    if data == "sample":
        return HERE / "titles" / "sample.csv"
    if data != "youtube":
        path = Path(data)
        if path.is_dir():
            raise Problem(f"--data {data}: this is a folder; name the CSV file in it")
        if not path.exists():
            raise Problem(f"--data {data}: there is no such file; name a CSV file, or use `youtube` or `sample`")
        if not path.is_file():  # a pipe can be read once only, and we read more often
            raise Problem(f"--data {data}: this is not a plain file; save the titles to one first")
        return path
    path = HERE / "titles" / "youtube.csv"
    if not path.exists():
        download(YOUTUBE_URL, path, YOUTUBE_SHA256, quiet)
    elif sha256(path) != YOUTUBE_SHA256:
        raise Problem(f"{path}: not the report's data set (sha256 differs); delete it to download it again, or give "
                      "your own file another name and pass that to --data")
    return path


def download(url, path, checksum, quiet=False, tries=3, patience=1.0):
    """Download url to path if what comes has this sha256; try again after faults that pass.

    Only HTTPS is accepted, and plain HTTP from this machine itself. A failure is a Problem that says how to fetch the
    file by hand; nothing is left at `path` then.
    """
    parts = urllib.parse.urlsplit(url)
    by_hand = f"fetch it by hand from {url} and save it as {path}"
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1")):
        raise Problem(f"{url}: only https addresses are downloaded")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, tries + 1):
        if attempt > 1:
            time.sleep(patience * 2 ** (attempt - 2))
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                if parts.scheme == "https" and not answer.geturl().startswith("https:"):
                    raise Problem(f"{url}: redirected away from https; {by_hand}")
                size = answer.length or 0  # as announced, 0 where it is not
                hasher, head, received = hashlib.sha256(), b"", 0
                with atomic(path) as file, progress(size or None, "B", quiet, desc=path.name) as bar:
                    while block := answer.read(1 << 16):
                        file.write(block)
                        hasher.update(block)
                        head, received = head or block[:512], received + len(block)
                        bar.update(len(block))
                    if size and received < size:
                        raise ConnectionError(f"cut after {received:,} of {size:,} bytes")
                    if hasher.hexdigest() != checksum:
                        page = b"<html" in head.lower() or b"<!doctype" in head.lower()
                        raise Problem(f"{url}: what came is {'a web page (a proxy or a login?)' if page else 'wrong'}"
                                      f", its sha256 is not {checksum}; {by_hand}")
            return
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code}"
            if error.code < 500 and error.code != 429:
                break
        except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error))
    raise Problem(f"{url}: download failed ({reason}); {by_hand}")


def read_table(path, columns):
    """Yield the header of a CSV or TSV file, then (row number, cells) for each row; row 1 is the one below the header.

    UTF-8 with or without a byte order mark, UTF-16 with one, gzip, and commas, semicolons, tabs or pipes between the
    cells are recognised. `columns` must be in the header. Whatever is wrong is a Problem that names the row.
    """
    row = 0
    try:
        with contextlib.ExitStack() as files:
            stream = files.enter_context(open(path, "rb"))
            if stream.peek(2)[:2] == b"\x1f\x8b":
                stream = files.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=stream)))
            wide = stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
            # bytes that are not UTF-8 pass the reader as surrogates, so that the row that holds them can be named
            text = io.TextIOWrapper(stream, "utf-16" if wide else "utf-8-sig",
                                    errors="strict" if wide else "surrogateescape", newline="")
            first = text.readline()
            if not first.strip():
                raise Problem(f"{path}: the file is empty, or its first line is; it must begin with the column names")
            if fault(first):
                raise Problem(f"{path}: the first line holds {fault(first)}; save the file as CSV in UTF-8")
            likely = "\t" if ".tsv" in Path(path).suffixes else ","
            headers = [(d, next(csv.reader([first], delimiter=d), [])) for d in dict.fromkeys([likely, ",", ";", "\t", "|"])]
            delimiter, header = next((h for h in headers if set(columns) <= set(h[1])),
                                     max(headers, key=lambda h: len(h[1])))
            for column in columns:
                if header.count(column) != 1:
                    state = "stands twice in" if column in header else "is not in"
                    options = "" if column in header else "; pass --text-column and --label-column"
                    more = f" and {len(header) - 20:,} more" if len(header) > 20 else ""
                    raise Problem(f"{path}: column {column!r} {state} the first line; the columns there are: "
                                  f"{', '.join(repr(name[:60]) for name in header[:20])}{more}{options}")
            where = [header.index(column) for column in columns]
            yield header
            for cells in csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True):
                if row == 0 or not cells:  # the header again, or a blank line
                    row += 1 if row == 0 else 0
                    continue
                if len(cells) != len(header):
                    raise Problem(f"{path}: row {row} has {len(cells)} cell{'s' * (len(cells) > 1)}, the header has {len(header)}; look for "
                                  "a missing quote or a stray separator there")
                for cell in (cells[i] for i in where):
                    if fault(cell):
                        raise Problem(f"{path}: row {row} holds {fault(cell)}; save the file as CSV in UTF-8")
                yield row, cells
                row += 1
    except csv.Error as error:
        place = f"row {row}" if row else "the first line"
        raise Problem(f"{path}: {place} cannot be read ({error}); look for a quote that is not closed") from None
    except (UnicodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Problem(f"{path}: damaged near row {row} ({error}); copy or save the file again") from None


def fault(text):
    """What keeps a text that read_table has decoded from being text, or None."""
    if "\0" in text:
        return "a NUL byte"
    if not text.isascii() and any("\udc80" <= c <= "\udcff" for c in text):
        return "bytes that are not UTF-8"


def is_blank(text):
    """True where nothing is left to read: spaces and control characters only."""
    return not any(c.isprintable() and not c.isspace() for c in text)


def copy_titles(path, text_column, label_column, out):
    """Check a file of titles and write its titles and labels to the binary file `out`, as CSV, in bounded memory.

    Returns {"rows", "titles" (sha256 of what was written), "classes" (name: count, by name)}. Labels lose the spaces
    around them, titles stay as they are. Empty titles or labels, or fewer than two classes, are a Problem.
    """
    if text_column == label_column:
        raise Problem(f"--text-column and --label-column are both {text_column!r}; name two columns")
    table = read_table(path, [text_column, label_column])
    header = next(table)
    text, label = header.index(text_column), header.index(label_column)
    empty, classes, rows, hasher = {text: [], label: []}, {}, 0, hashlib.sha256()
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # so that returns and newlines in titles both get quotes
    writer.writerow(["title", "label"])
    for row, cells in itertools.chain(table, [(None, None)]):
        if row is None or buffer.tell() > 1 << 20:
            block = buffer.getvalue().encode()
            out.write(block)
            hasher.update(block)
            buffer.seek(0)
            buffer.truncate()
        if row is None:
            break
        rows = row
        name = " ".join(cells[label].split())
        for column, value in ((text, cells[text]), (label, name)):
            if is_blank(value):
                empty[column].append(row)
        classes[name] = classes.get(name, 0) + 1
        writer.writerow([cells[text], name])
    if not rows:
        raise Problem(f"{path}: there is no row below the header")
    for column, found in empty.items():
        if found:
            raise Problem(f"{path}: {len(found):,} of {rows:,} rows have nothing in column {header[column]!r}, first in "
                          f"row {', '.join(map(str, found[:5]))}; fill them in or delete them")
    if len(classes) < 2:
        raise Problem(f"{path}: column {label_column!r} holds one category only ({next(iter(classes))!r}); a "
                      "classifier needs two or more")
    return {"rows": rows, "titles": hasher.hexdigest(), "classes": dict(sorted(classes.items()))}


def titles_in(path):
    """Yield (title, label) for each row of a file that copy_titles wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        yield from itertools.islice(csv.reader(file), 1, None)


def group_key(title):
    """What is left of a title after Unicode normalisation, case folding and removal of all but letters and digits.

    Titles with one key are taken for copies of one another. A title without letters and digits stands for itself.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", title).casefold())
    return "".join(c for c in folded if c.isalnum()) or title.strip()


def make_folds(labels, groups, k, seed, names=None):
    """Share titles among k folds, stratified by label, with each group in one fold.

    labels: (n,) int class of each title; groups: (n,) int group of each title. Returns (n,) int64 folds from 0 to k-1.
    Large groups are placed first, each into the fold that has fewest titles of the group's commonest class, then
    fewest titles at all; so every class is spread within one title of evenly wherever groups allow it.
    A class with fewer groups than folds is a Problem: some fold could not hold it.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    classes = int(labels.max()) + 1
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
    members = np.split(order, starts[1:])
    counts = np.zeros((k, classes), dtype=np.int64)
    in_class = np.bincount(np.concatenate([np.unique(labels[m]) for m in members]), minlength=classes)
    if in_class.min() < k:
        rarest = int(in_class.argmin())
        raise Problem(f"category {names[rarest] if names else rarest!r} has {in_class.min()} distinct titles, too few for "
                      f"--folds {k}; use fewer folds, or merge or drop the category")
    random = np.random.default_rng([seed, k])
    members = [members[i] for i in random.permutation(len(members))]
    folds = np.empty(len(labels), dtype=np.int64)
    for group in sorted(members, key=len, reverse=True):
        share = np.bincount(labels[group], minlength=classes)
        main = int(share.argmax())
        totals = counts.sum(1)
        fold = min(range(k), key=lambda f: (counts[f, main], totals[f]))
        counts[fold] += share
        folds[group] = fold
    return folds


# --- features -----------------------------------------------------------------------------------------------------


def feature_file(pooling, layer):
    """The name of the file that holds one layer with one pooling."""
    return f"{pooling}-{layer:02d}.npy"


def resolve_layers(wanted, depth, encoder, poolings, available=None):
    """Layer numbers, top first, for what --layers says: `all`, numbers from 1 (0 is the embedding output), or -1, -2 …

    depth: layers of the encoder; available: the layers that the features hold, where only those will do.
    Unknown, repeated or meaningless layers are a Problem that names what to type.
    """
    lowest = 1 if "cls" in poolings else 0
    if wanted == ["all"]:
        return sorted(available if available is not None else range(1, depth + 1), reverse=True)
    try:
        numbers = [int(w) for w in wanted]
    except ValueError:
        raise Problem(f"--layers {' '.join(wanted)}: give `all`, or whole numbers such as 12 11 or -1 -2") from None
    layers = [n + depth + 1 if n < 0 else n for n in numbers]
    if 0 in numbers and lowest:  # (-13 of 12 is 0 too, and falls to the next lines)
        raise Problem("--layers 0: layer 0 is the embedding output, where [CLS] is the same for every title; use "
                      "--pooling mean for it, or layers from 1")
    if min(layers) < lowest or max(layers) > depth:
        top = max(max(numbers), depth)
        count = " ".join(str(n - top - 1) if n > 0 else str(n) for n in numbers)
        hint = f"; counted from the top, that is --layers {count}" if min(int(c) for c in count.split()) >= -depth else ""
        raise Problem(f"--layers {' '.join(wanted)}: {encoder} has {depth} layers, 1 to {depth}{hint}")
    if len(set(layers)) < len(layers):
        raise Problem(f"--layers {' '.join(wanted)}: layer {max(layers, key=layers.count)} is named twice")
    missing = sorted(set(layers) - set(layers if available is None else available), reverse=True)
    if missing:
        raise Problem(f"--layers {' '.join(wanted)}: the features hold layers {' '.join(map(str, available)) or 'none'}; add "
                      f"the others with: extract.py --layers {' '.join(map(str, missing))} and its other options as before")
    return sorted(layers, reverse=True)


@dataclass
class Features:
    """One extraction, opened for reading."""

    folder: Path
    manifest: dict

    @property
    def identity(self):
        """A fingerprint of all that decides the features' values, but not of which layers there are."""
        return digest(identity(self.manifest))

    def layers(self, pooling):
        """The layers that are there for a pooling, ascending."""
        names = [name.removesuffix(".npy").split("-") for name in self.manifest["files"]]
        return sorted(int(layer) for kind, layer in names if kind == pooling)

    def read(self, pooling, layer, check=True):
        """The features of one layer, (titles, hidden), memory-mapped. Damage is a Problem; `check` reads every byte."""
        name = feature_file(pooling, layer)
        path, entry = self.folder / name, self.manifest["files"][name]
        again = "delete the folder and extract again"
        try:
            if path.stat().st_size != entry["bytes"]:
                raise Problem(f"{path}: {path.stat().st_size:,} bytes instead of {entry['bytes']:,}; {again}")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise Problem(f"{path}: the manifest names this file, but it is gone; {again}") from None
        except (ValueError, EOFError, SyntaxError, tokenize.TokenError):  # numpy parses the header as Python's literals
            raise Problem(f"{path}: not a plain .npy file of numbers; {again}") from None
        shape = (self.manifest["data"]["rows"], self.manifest["encoder"]["hidden"])
        if array.shape != shape or array.dtype != self.manifest["settings"]["store"]:
            raise Problem(f"{path}: {array.dtype} of shape {array.shape} instead of "
                          f"{self.manifest['settings']['store']} of shape {shape}; {again}")
        if check and sha256(path) != entry["sha256"]:
            raise Problem(f"{path}: damaged since it was written (sha256 differs); {again}")
        return array

    def titles(self):
        """All titles and all labels, as two lists."""
        path = self.folder / "titles.csv"
        if not path.exists() or sha256(path) != self.manifest["data"]["titles"]:
            raise Problem(f"{path}: gone or changed since the extraction; delete the folder and extract again")
        pairs = list(titles_in(path))
        return [title for title, _ in pairs], [label for _, label in pairs]


def identity(manifest):
    """The parts of a manifest that decide the features' values, flat, under the names that users know."""
    encoder, settings = manifest["encoder"], manifest["settings"]
    return {"encoder weights": encoder["weights"], "tokenizer": encoder["tokenizer"],
            "titles": manifest["data"]["titles"], **settings}


def open_features(folder):
    """Open the extraction in `folder`; a missing or unfinished one is a Problem that says what to run."""
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        if (folder / "partial").exists():
            raise Problem(f"{folder}: the extraction there is not finished; run the same extract.py command again, "
                          "it goes on where it stopped")
        raise Problem(f"{folder}: there are no features; make them with: python extract.py --layers all --out {folder}")
    manifest = read_json(folder / "manifest.json", "a manifest of features")
    for name in manifest["files"]:  # a name of any other form might lead out of the folder
        pooling, _, layer = name.removesuffix(".npy").partition("-")
        if pooling not in POOLINGS or not layer.isdecimal() or name != feature_file(pooling, int(layer)):
            raise Problem(f"{folder / 'manifest.json'}: {name!r} is not the name of a file of features; extract again")
    return Features(folder, manifest)


# --- runs ---------------------------------------------------------------------------------------------------------


def write_run(folder, config, arrays, files=()):
    """Write a run's folder whole or not at all: arrays as .npy, files as (name, function that writes to a path)."""
    with atomic_folder(folder) as temporary:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        for name, write in files:
            write(temporary / name)
        # the model card is for people, who may want to edit it
        contents = {path.name: sha256(path) for path in sorted(temporary.iterdir()) if path.name != "README.md"}
        write_json(temporary / "config.json", {**config, "contents": contents})


def open_run(folder, *names):
    """The configuration of a run, and those of its arrays that are named; damage is a Problem."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise Problem(f"{folder}: no run is there (config.json is missing); train.py makes runs, python evaluate.py lists them")
    config, arrays = read_json(folder / "config.json", "a run"), []
    for name in names:
        path = folder / f"{name}.npy"
        check_content(path, config)
        arrays.append(np.load(path, allow_pickle=False))
    return config, *arrays


def check_content(path, config):
    """Raise a Problem unless a run's file is what the run's configuration says it is."""
    if not path.exists() or sha256(path) != config["contents"].get(path.name):
        raise Problem(f"{path}: gone or changed since the run was written; delete the run's folder and train again")


def collapse(config):
    """(what to say of a run in which heads predict one class only, the remedy), or None for other runs."""
    folds, options = len(config["results"]["collapsed"]), config["options"]
    if not folds:
        return None
    remedy = "a smaller --lr" if options["standardize"] else "--standardize"
    return f"predicts one class only in {folds} of {options['folds']} folds", remedy


def features_of(config, folder=None):
    """The features that a run was trained on, opened and compared with what the run says of them."""
    features = open_features(folder or config["made"]["features"])
    for what, old, new in (("encoder weights", config.get("encoder", {}).get("weights"), features.manifest["encoder"]["weights"]),
                           ("titles", config["data"]["titles"], features.manifest["data"]["titles"]),
                           ("settings", config.get("features"), features.identity)):
        if old is not None and old != new:
            raise Problem(f"{features.folder}: these are not the features that the run was trained on (their {what} "
                          "differ); name the right ones with --features")
    for name, checksum in config.get("files", {}).items():
        if features.manifest["files"].get(name, {}).get("sha256") != checksum:
            raise Problem(f"{features.folder / name}: not the file that the run was trained on; train again")
    return features
